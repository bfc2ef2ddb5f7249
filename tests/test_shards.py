"""Shards: four exports of a part of the catalogue each, merged, beside one export of the whole."""

import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving_cases import (
    DEFAULT,
    ITEMS,
    OWNER,
    RNG,
    SIGNATURE,
    USERS,
    VECTORS,
    WEIGHTS,
    D,
    asked,
    check_ranking,
    fused,
    log_probabilities,
    write,
)

from csmf_tf._keras import tf
from csmf_tf.serving import export, load, query, refresh, replace_items
from csmf_tf.serving import shards as shards_module
from csmf_tf.serving.server_files import served_name
from csmf_tf.serving.shards import (
    common_version,
    export_shards,
    merge_retrieved,
    merge_scored,
    shard_folders,
    shard_of,
)
from csmf_tf.serving.versions import publish, versions

K = 10
SHARDS = 4
# Sums of products of these are exact in float32, and many are equal.
WHOLE_NUMBERS = RNG.integers(-2, 3, VECTORS.shape).astype(np.float32)


def embed(features):
    return features["user"]


def write_shards(directory, *, items=ITEMS, vectors=VECTORS, shards=SHARDS, **options):
    options = {"k": K, "weights": DEFAULT, "index": "exact", "shards": shards, **options}
    objectives = ["view", "cart", "buy"]
    return export_shards(embed, SIGNATURE, items, vectors, OWNER, objectives, directory, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of four shards; to be copied before it is changed."""
    return Path(write_shards(tmp_path_factory.mktemp("four") / "shop")[0]).parents[1]


@pytest.fixture(scope="module")
def shards(folder):
    return [tf.saved_model.load(folder / f"shard-{number}" / "1") for number in range(SHARDS)]


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """The folder of two shards; to be copied."""
    return Path(write_shards(tmp_path_factory.mktemp("two") / "shop", shards=2)[0]).parents[1]


@pytest.fixture
def shop(halves, tmp_path):
    return shutil.copytree(halves, tmp_path / "shop")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return write(tmp_path_factory.mktemp("whole"))


def merged(shards, signature, k=K, **inputs):
    return merge_retrieved([asked(shard, signature, **inputs) for shard in shards], k)


def same(answer, expected):
    """Equal ids, and scores but for the last bits: a product of another shape is summed in another order."""
    np.testing.assert_array_equal(answer["ids"], expected["ids"])
    np.testing.assert_allclose(answer["scores"], expected["scores"], rtol=1e-6, atol=1e-6)


# Where an item is


def test_shard_of_an_id_is_its_crc_32():
    # The check value of CRC-32, and a reference bit by bit.
    assert shard_of("123456789", 2**32) == 0xCBF43926
    for item in ["", "i1", "möbel 7", "靴"]:
        remainder = 0xFFFFFFFF
        for byte in item.encode():
            remainder ^= byte
            for _ in range(8):
                remainder = (remainder >> 1) ^ (0xEDB88320 if remainder & 1 else 0)
        assert shard_of(item, 7) == (remainder ^ 0xFFFFFFFF) % 7


def test_each_item_is_in_its_shard_alone(shards):
    for number, shard in enumerate(shards):
        scored = asked(shard, "score", user=USERS[:1], item_ids=[ITEMS])["log_scores"]
        held = [zlib.crc32(item.encode()) % SHARDS == number for item in ITEMS]
        np.testing.assert_array_equal(np.isfinite(scored[0, :, 0]), held)


@pytest.mark.parametrize("item", ["i{}", "{:08d}", "möbel {}"])
@pytest.mark.parametrize("shards", [3, 4, 16])
def test_shards_of_running_numbers_are_of_like_size(item, shards):
    sizes = np.bincount([shard_of(item.format(i), shards) for i in range(10_000)], minlength=shards)
    np.testing.assert_allclose(sizes, 10_000 / shards, rtol=0.1)


# The merge against one export of the whole


def test_merged_answer_is_that_of_the_whole(shards, whole):
    for weights in [*WEIGHTS, *np.eye(3)]:
        inputs = {"user": USERS, "weights": [weights]}
        same(merged(shards, "retrieve", **inputs), asked(whole, "retrieve", **inputs))
    same(merged(shards, "serving_default", user=USERS), asked(whole, "serving_default", user=USERS))
    answer = merged(shards, "retrieve", user=USERS, weights=WEIGHTS)
    check_ranking(answer, fused(USERS, WEIGHTS), K)


def test_excluded_and_named_items(shards, whole):
    best = asked(whole, "retrieve", user=USERS, weights=WEIGHTS)["ids"]
    hidden = np.concatenate([best[:, ::2], np.full([3, 1], "stranger"), np.full([3, 1], "")], axis=1)
    among = np.array([ITEMS[7:57], ITEMS[100:150], ["möbel 1", "stranger", "", "möbel 1", *[""] * 46]])
    for signature, lists in [
        ("retrieve_excluding", {"exclude": hidden}),
        ("retrieve_among", {"among": among}),
    ]:
        inputs = {"user": USERS, "weights": WEIGHTS, **lists}
        same(merged(shards, signature, **inputs), asked(whole, signature, **inputs))
    answer = merged(shards, "retrieve_among", user=USERS, weights=WEIGHTS, among=among)
    assert answer["ids"][2].tolist() == ["möbel 1"] + [""] * 9


def test_score_is_that_of_the_whole(shards, whole):
    items = [[*ITEMS[:60], "stranger", "", ITEMS[3]]]
    users = np.concatenate([USERS, np.full([1, D], np.nan, np.float32)])
    answer = merge_scored([asked(shard, "score", user=users, item_ids=items) for shard in shards])
    expected = asked(whole, "score", user=users, item_ids=items)
    assert answer.keys() == expected.keys()
    for name, values in answer.items():
        assert values.dtype == np.float32
        # Their magnitude is up to 10, so that a last bit is 1e-6.
        np.testing.assert_allclose(values, expected[name], rtol=1e-6, atol=3e-6)
    truth = log_probabilities(USERS)
    np.testing.assert_allclose(answer["log_scores"][:3, :60], truth[:, :60], rtol=1e-5, atol=1e-5)
    assert (answer["probabilities"][3] == 0).all()


def test_what_is_exact_in_float32_is_equal_to_the_last_bit(tmp_path):
    users = RNG.integers(-3, 4, [5, D]).astype(np.float32)
    weights = [[4.0, 2.0, 1.0]]
    paths = write_shards(tmp_path / "shop", vectors=WHOLE_NUMBERS, shards=2)
    one = write(tmp_path / "whole", vectors=WHOLE_NUMBERS, k=len(ITEMS))
    everything = asked(one, "retrieve", user=users, weights=weights)
    answer = merged(map(tf.saved_model.load, paths), "retrieve", user=users, weights=weights)
    np.testing.assert_array_equal(answer["scores"], everything["scores"][:, :K])
    # Ties at the end may go to other items of the same score.
    columns = [found[name] for found in (answer, everything) for name in ("ids", "scores")]
    for ids, scores, all_ids, all_scores in zip(*columns, strict=True):
        score_of = dict(zip(all_ids, all_scores, strict=True))
        assert [score_of[item] for item in ids] == scores.tolist()
        assert set(ids[scores > scores[-1]]) == set(all_ids[all_scores > scores[-1]])
        assert len(set(ids)) == K


@pytest.mark.parametrize("index", ["portable", "scann"])
def test_shards_of_the_other_indexes(index, tmp_path):
    paths = write_shards(tmp_path, index=index, shards=2)
    answer = merged(map(load, shard_folders(tmp_path)), "retrieve", user=USERS, weights=WEIGHTS)
    check_ranking(answer, fused(USERS, WEIGHTS), K)
    assert paths == [str(tmp_path / f"shard-{number}" / "1") for number in range(2)]


def test_fewer_items_than_results_from_a_file_of_vectors(tmp_path):
    items = ["tasse", "hut", "škoda", "靴", "ñandú", "кот"]
    vectors = np.memmap(tmp_path / "vectors", np.float32, "w+", shape=(6, D))
    vectors[:] = VECTORS[:6]
    paths = write_shards(tmp_path / "shop", items=np.array(items), vectors=vectors, shards=2)
    answer = merged(map(tf.saved_model.load, paths), "retrieve", user=USERS, weights=WEIGHTS)
    order = np.argsort(-fused(USERS, WEIGHTS)[:, :6], axis=1)
    np.testing.assert_array_equal(
        answer["ids"], np.pad(np.array(items, object)[order], [[0, 0], [0, 4]], constant_values="")
    )
    assert (answer["scores"][:, 6:] == -np.inf).all()


# The merge alone


@given(
    st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=5), min_size=1, max_size=4),
    st.integers(1, 3),
    st.data(),
)
def test_merge_is_a_stable_sort(scores, k, data):
    answers, pairs = [], []
    for shard, row in enumerate(scores):
        row = sorted(row, reverse=True)
        found = data.draw(st.integers(0, len(row)))
        ids = [f"{shard}-{place}" if place < found else "" for place in range(len(row))]
        answers.append({"ids": [ids], "scores": [row[:found] + [-np.inf] * (len(row) - found)]})
        pairs += zip(ids[:found], row[:found], strict=True)
    merged = merge_retrieved(answers, k)
    expected = (sorted(pairs, key=lambda pair: -pair[1]) + [("", -np.inf)] * k)[:k]
    assert list(zip(merged["ids"][0], merged["scores"][0].tolist(), strict=True)) == expected


def test_ids_stay_bytes_or_strings():
    for ids in ([[b"cup", b""]], np.array([["cup", ""]]), np.array([[b"cup", b""]], object)):
        merged = merge_retrieved([{"ids": ids, "scores": [[1.0, -np.inf]]}] * 2, 2)["ids"]
        assert merged.tolist() == [[ids[0][0]] * 2]


def test_empty_batch():
    answer = merge_retrieved([{"ids": np.zeros([0, 5], object), "scores": np.zeros([0, 5])}] * 2, 5)
    assert answer["ids"].shape == answer["scores"].shape == (0, 5)
    scored = {"log_scores": np.zeros([0, 4, 3]), "log_partitions": np.zeros([0, 3])}
    assert merge_scored([scored] * 2)["log_scores"].shape == (0, 4, 3)


def test_partitions_beyond_the_range_of_exp():
    one = {"log_scores": [[[-1.0], [-np.inf]]], "log_partitions": [[800.0]]}
    other = {"log_scores": [[[-np.inf], [-2.0]]], "log_partitions": [[801.0]]}
    answer = merge_scored([one, other])
    log_z = 801 + np.log1p(np.exp(-1))
    np.testing.assert_allclose(answer["log_scores"][0, :, 0], [799 - log_z, 799 - log_z], rtol=1e-5)


@pytest.mark.parametrize("answers", [[], [{"ids": [["cup"]], "scores": [[1.0]]}]])
def test_answers_that_are_too_short(answers):
    with pytest.raises(ValueError, match="`answers` should hold one of each shard, of at least `k` results"):
        merge_retrieved(answers, 2)


def test_no_scored_answer():
    with pytest.raises(ValueError, match="`answers` should hold one of each shard"):
        merge_scored([])


# Versions


def write_the_first_only(directory, monkeypatch):
    """A run of another model that is interrupted after its first shard."""

    def only_the_first(*arguments, **options):
        if "shard-1" in map(os.path.basename, map(str, arguments)):
            raise KeyboardInterrupt
        return export(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(shards_module, "export", only_the_first)
        with pytest.raises(KeyboardInterrupt):
            write_shards(directory, shards=2, vectors=-VECTORS)


def test_interrupted_run_leaves_the_common_version_and_its_labels(shop, monkeypatch):
    folders, before = shard_folders(shop), answered(shop)
    files = [Path(folder) / "models.config" for folder in folders]
    labels = [file.read_text() for file in files]

    write_the_first_only(shop, monkeypatch)
    assert [versions(folder) for folder in folders] == [[1, 2], [1]]
    assert answered(shop) == before
    assert [file.read_text() for file in files] == labels

    write_shards(shop, shards=2, vectors=-VECTORS)
    assert [versions(folder) for folder in folders] == [[1, 2, 3], [1, 3]]
    assert answered(shop) != before
    assert all('key: "stable" value: 3' in file.read_text() for file in files)


def test_versions_of_different_models_do_not_merge(shop, monkeypatch):
    folders, before = shard_folders(shop), answered(shop)

    write_the_first_only(shop, monkeypatch)
    # Of the whole version 1, not of the half version 2.
    replace_items(shop, [], np.zeros((0, D)), ["no such item"])
    assert [versions(folder) for folder in folders] == [[1, 2, 3], [1, 3]]
    assert common_version(folders) == 3
    assert answered(shop) == before


def test_items_are_replaced_in_their_shards(folder, tmp_path):
    shop = shutil.copytree(folder, tmp_path / "shop")
    new = [f"neu {row}" for row in range(9)]
    vectors = RNG.normal(size=(10, D)).astype(np.float32)
    done = replace_items(shop, [*new, ITEMS[5]], vectors, [*ITEMS[10:20], "unknown"])
    assert done == (str(shop), len(ITEMS) - 1, 9, 1, 10, 1, {})
    truth = dict(zip(ITEMS, VECTORS, strict=True)) | dict(zip([*new, ITEMS[5]], vectors, strict=True))
    for item in ITEMS[10:20]:
        del truth[item]
    shards = [load(folder, common_version([folder])) for folder in shard_folders(shop)]
    whole = write(tmp_path / "whole", items=list(truth), vectors=np.stack(list(truth.values())))
    request = {"user": USERS, "weights": WEIGHTS}
    same(merged(shards, "retrieve", **request), asked(whole, "retrieve", **request))
    labels = [(Path(folder) / "models.config").read_text() for folder in shard_folders(shop)]
    assert all('key: "stable" value: 2' in text for text in labels)


def test_a_shard_alone_is_not_refreshed(shop):
    with pytest.raises(ValueError, match="shard-1, one of 2 shards; give the folder of all"):
        replace_items(shop / "shard-1", ["x"], VECTORS[:1])
    with pytest.raises(ValueError, match="of shards, which have none; give vectors to"):
        refresh(shop, {"item": ["x"]})


def test_whole_export_is_not_put_among_shards(shop):
    with pytest.raises(ValueError, match=r"should hold no shards.*export to another folder"):
        write(shop)
    assert versions(shop) == []


def answered(directory):
    """The items that all shards answer a user with, of the version that `query` takes."""
    folders = shard_folders(directory)
    version = common_version(folders)
    answer = merged([load(f, version) for f in folders], "retrieve", user=USERS[:1], weights=WEIGHTS[:1])
    return answer["ids"].tolist()


def test_interrupted_first_run_answers_nothing(tmp_path):
    bad = np.where([[shard_of(item, SHARDS) == 1] for item in ITEMS], np.nan, VECTORS)
    with pytest.raises(ValueError, match="shard 1 of 4: `vectors` should be finite"):
        write_shards(tmp_path, vectors=bad)
    assert versions(tmp_path / "shard-0") == [1]
    assert not (tmp_path / "shard-0" / "models.config").exists()
    with pytest.raises(
        FileNotFoundError, match=r"a version in common\. Received: versions \{.shard-0.: \[1\]"
    ):
        query(tmp_path, "u1")


def test_of_two_runs_at_a_time_one_fails(shop):
    def embed_slowly(features):
        # While the first shard is traced, another run takes the version.
        if versions(shop / "shard-0") == [1]:
            publish(shop / "shard-0", lambda draft: None)
        return features["user"]

    arguments = SIGNATURE, ITEMS, VECTORS, OWNER, ["view", "cart", "buy"], shop
    with pytest.raises(FileExistsError, match="Received: version=2, where 2 is there by now; run it again"):
        export_shards(embed_slowly, *arguments, shards=2, index="exact")
    assert versions(shop / "shard-1") == [1]


# Errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shards": 0}, "`shards` should be a positive integer. Received: shards=0"),
        ({"items": ["a", "b"], "vectors": VECTORS[:2]}, "of which shard 0 has none; take fewer shards"),
        ({"fusion": "linear"}, "rank them by `merge_scored`"),
        ({"embed_item": embed}, "Shards should come without an item tower"),
        ({"version": 4}, "under a version of their own. Received: `version`"),
        ({"items": [*ITEMS[:-1], ITEMS[0]]}, "`item_ids` should be unique"),
        ({"vectors": VECTORS[:-1]}, "should have a row for each item id"),
    ],
)
def test_unfit_arguments_leave_the_folder_alone(options, message, tmp_path):
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        write_shards(tmp_path / "shop", **options)
    assert not (tmp_path / "shop").exists()


def test_folder_of_another_number_of_shards(shop):
    with pytest.raises(
        ValueError, match=r"Received: shards=3, and in .* shard-0, shard-1; export to another"
    ):
        write_shards(shop, shards=3)
    (shop / "shard-5" / "1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"Received: shards=2, and in .* shard-0, shard-1, shard-5; export"):
        write_shards(shop, shards=2)
    assert [versions(folder) for folder in shard_folders(shop)] == [[1], [1]]


def test_folder_of_an_export_of_the_whole(tmp_path):
    write(tmp_path)
    with pytest.raises(ValueError, match="`directory` should hold no export but shards"):
        write_shards(tmp_path)


# The files of a server


def test_each_shard_has_a_name_and_files_of_its_own(shop):
    assert json.loads((shop / "shards.json").read_text()) == {"shards": 2}
    for number in range(2):
        folder, name = shop / f"shard-{number}", f"shop-shard-{number}"
        assert served_name(folder) == name
        assert f'base_path: "/models/{name}"' in (folder / "models.config").read_text()
        assert f"/models/{name}:ro" in (folder / "docker-compose.yaml").read_text()
        assert sorted(path.name for path in (folder / "1" / "assets.extra").iterdir()) == [
            "csmf.json",
            "tf_serving_warmup_requests",
        ]
