"""Refresh: a new version answers as one made anew, the last one stays, and no interruption loses anything."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from refresh_cases import copied, saved, vectors_by_id
from serving_cases import ITEMS, OWNER, STARVED, USERS, VECTORS, WEIGHTS, WHOLE, D, N, asked, scores_of, write

import csmf_tf
from csmf_tf._keras import keras, tf
from csmf_tf.serving import ids as ids_module
from csmf_tf.serving import latest_version, replace_items
from csmf_tf.serving import refresh as refresh_items
from csmf_tf.serving.items import read_items
from csmf_tf.serving.partial import load_signature

RNG = np.random.default_rng(11)
OBJECTIVES = ["view", "cart", "buy"]
refresh_module = sys.modules["csmf_tf.serving.refresh"]
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# Named so that they sort before, among and after the others, and beyond ASCII.
NEW = ["Ärmel", "möbel 1b", "東京", "🛋️"]
DELTAS = {
    "add": (NEW, []),
    "change": ([ITEMS[3], ITEMS[399], ITEMS[0]], []),
    "remove": ([], [ITEMS[0], ITEMS[200], ITEMS[398], ITEMS[399]]),
    "all": ([ITEMS[7], *NEW, ITEMS[8]], [ITEMS[9], "unknown", ITEMS[399]]),
}


@pytest.fixture(scope="module", params=list(WHOLE))
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def first(kind, tmp_path_factory):
    """A folder with version 1 of a kind; to be copied."""
    folder = tmp_path_factory.mktemp(kind) / "shop"
    write(folder, kind, WHOLE[kind], item_id="item", probe={"user": USERS})
    return folder


@pytest.fixture
def shop(first, tmp_path):
    return copied(first, tmp_path)


@pytest.fixture(scope="module")
def first_exact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exact") / "shop"
    write(folder, item_id="item")
    return folder


@pytest.fixture
def exact(first_exact, tmp_path):
    return copied(first_exact, tmp_path)


def some_vectors(n):
    # Longer than the others, so that they are among the best.
    return (4 * RNG.normal(size=(n, D))).astype(np.float32)


def after(known, ids, vectors, removed):
    """The catalogue by id, as a dict would be changed."""
    return {
        item: v for item, v in (known | dict(zip(ids, vectors, strict=True))).items() if item not in removed
    }


def catalogue():
    return dict(zip(ITEMS, VECTORS, strict=True))


def card_of(version):
    return json.loads((version / "assets.extra" / "csmf.json").read_text())


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_answers(version, truth):
    """Every signature of a version answers as numpy does on the catalogue `truth`, by its definition."""
    model = tf.saved_model.load(str(version))
    ids, vectors = list(truth), np.stack(list(truth.values()))
    scores = scores_of(USERS, vectors)
    fused = np.einsum("bnk,bk->bn", scores, WEIGHTS)

    def check(answer, allowed):
        expected = -np.sort(-fused[:, allowed], axis=1)[:, :10]
        np.testing.assert_allclose(answer["scores"][:, : expected.shape[1]], expected, rtol=1e-4, atol=1e-4)
        for row, names in enumerate(answer["ids"]):
            found = [ids.index(name) for name in names if name]
            assert set(found) <= set(np.flatnonzero(allowed))
            np.testing.assert_allclose(fused[row, found], expected[row, : len(found)], rtol=1e-4, atol=1e-4)

    everything = np.ones(len(ids), bool)
    best = asked(model, "retrieve", user=USERS, weights=WEIGHTS)
    check(best, everything)
    hidden = best["ids"][:, :3]
    left = asked(model, "retrieve_excluding", user=USERS[:1], weights=WEIGHTS[:1], exclude=hidden[:1])
    assert not set(left["ids"][0]) & set(hidden[0])
    np.testing.assert_allclose(left["scores"][0, :7], best["scores"][0, 3:], rtol=1e-4, atol=1e-4)
    some = [*ids[-4:], ids[0], "no such item"]
    among = asked(model, "retrieve_among", user=USERS, weights=WEIGHTS, among=[some] * len(USERS))
    check(among, np.isin(ids, some))
    shown = asked(model, "score", user=USERS, item_ids=[ids])
    log_z = np.log(np.exp(scores).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(shown["log_scores"], scores - log_z, rtol=1e-3, atol=1e-3)
    return model


@pytest.mark.parametrize("delta", DELTAS)
def test_new_version_answers_as_one_of_the_changed_catalogue(shop, delta):
    ids, removed = DELTAS[delta]
    vectors, before = some_vectors(len(ids)), contents(shop / "1")
    done = replace_items(shop, ids, vectors, removed)
    truth = after(catalogue(), ids, vectors, removed)
    known = [item for item in ids if item in ITEMS]
    counts = len(ids) - len(known), len(known), len(set(removed) & set(ITEMS)), len(set(removed) - set(ITEMS))
    assert done == (str(shop / "2"), len(truth), *counts, done.recall)
    # With every partition searched nothing is missed; what is exact is not measured.
    labels = ["equal", *OBJECTIVES, *(f"3 {name}" for name in OBJECTIVES)]
    assert done.recall == ({} if "exact" in card_of(shop / "1")["index"] else dict.fromkeys(labels, 1.0))
    stored = vectors_by_id(shop / "2")
    assert stored.keys() == truth.keys()
    for item, vector in truth.items():
        np.testing.assert_array_equal(stored[item], vector)
    model = check_answers(shop / "2", truth)
    gone = asked(model, "score", user=USERS, item_ids=[removed or [""]])
    assert (gone["probabilities"] == 0).all()
    assert contents(shop / "1") == before


def test_last_version_still_answers_and_the_label_moves_on(shop):
    replace_items(shop, NEW, some_vectors(len(NEW)), ITEMS[:5])
    check_answers(shop / "1", catalogue())
    assert re.search(r'key: "stable" value: 2\b', (shop / "models.config").read_text())
    card, first = card_of(shop / "2"), card_of(shop / "1")
    told = {"from": 1, "added": len(NEW), "changed": 0, "removed": 5}
    assert card.pop("refreshed") == told | {"recall_at_export": first["recall"]}
    assert card == first


def test_refresh_of_a_refresh(shop):
    truth = catalogue()
    for ids, removed in [
        (NEW, ITEMS[:50]),
        ([NEW[0], ITEMS[0], "x"], [NEW[1], ITEMS[60]]),
        ([], ["x", NEW[2]]),
        ([], []),
    ]:
        vectors = some_vectors(len(ids))
        done = replace_items(shop, ids, vectors, removed)
        truth = after(truth, ids, vectors, removed)
    assert done.path == str(shop / "5")
    assert done.items == len(truth)
    check_answers(shop / "5", truth)


def test_session_as_of_the_server_answers_alike(shop):
    vectors = some_vectors(len(NEW))
    replace_items(shop, NEW, vectors, ITEMS[:5])
    inputs = {"user": USERS, "weights": WEIGHTS}
    expected = asked(tf.saved_model.load(str(shop / "2")), "retrieve", **inputs)
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(shop / "2"))
        signature = graph.signature_def["retrieve"]
        feed = {info.name: inputs[key] for key, info in signature.inputs.items()}
        ids, scores = session.run([signature.outputs[key].name for key in ("ids", "scores")], feed)
    ids = np.vectorize(bytes.decode, otypes=[object])(ids)
    np.testing.assert_array_equal(ids, expected["ids"])
    np.testing.assert_array_equal(scores, expected["scores"])
    assert set(NEW) & set(ids.ravel())


def test_cold_items_have_the_vectors_of_their_features(shop):
    rows = {
        "item": [*NEW[:3], ITEMS[4], "gone"],
        "user": [9.0, -8.0, 7.0, 6.5, np.nan],
        "tags": [["a", "b"], [], ["c"], ("a",) * 5, None],
        "remove": [0, False, "", None, "TRUE"],
    }
    done = refresh_items(shop, rows)
    assert done[1:6] == (len(ITEMS) + 3, 3, 1, 0, 1)
    vectors = [[user] * (D - 1) + [tags] for user, tags in [(9, 2), (-8, 0), (7, 1), (6.5, 5)]]
    # A coordinate that no objective owns is not served.
    vectors = np.where(OWNER > 0, np.array(vectors, np.float32), 0)
    check_answers(shop / "2", after(catalogue(), rows["item"][:4], vectors, []))


def test_rows_lie_in_the_cells_of_their_nearest_centroids(tmp_path):
    write(tmp_path, "portable", {"cells": 12, "candidates": 100}, min_recall=0)
    replace_items(tmp_path, [*NEW, ITEMS[0]], some_vectors(5), ITEMS[100:160])
    names = ("vectors", "centroids", "offsets", "spreads")
    vectors, centroids, offsets, spreads = (saved(tmp_path / "2", name) for name in names)
    distances = np.linalg.norm(vectors[:, None] - centroids, axis=2)
    cells = np.repeat(np.arange(12), np.diff(offsets))
    np.testing.assert_array_equal(cells, distances.argmin(axis=1))
    expected = [
        np.sqrt(np.mean(distances[cells == c, c] ** 2)) if (cells == c).any() else 0 for c in range(12)
    ]
    np.testing.assert_allclose(spreads, expected, rtol=1e-5)


def test_scann_codes_a_new_vector_as_it_coded_the_same_one_before(tmp_path):
    write(tmp_path, "scann", WHOLE["scann"])
    names = [f"copy of {item}" for item in ITEMS[:60]]
    replace_items(tmp_path, names, VECTORS[:60], ITEMS[300:])
    ids = [item.decode() for item in saved(tmp_path / "2", "item_ids")]
    codes = dict(zip(ids, saved(tmp_path / "2", "hashed_dataset"), strict=True))
    tokens = dict(zip(ids, saved(tmp_path / "2", "datapoint_to_token"), strict=True))
    for item, copy in zip(ITEMS, names, strict=False):
        np.testing.assert_array_equal(codes[item], codes[copy])
    # Its training assigns a few vectors elsewhere than to their nearest partition.
    assert np.mean([tokens[i] == tokens[c] for i, c in zip(ITEMS, names, strict=False)]) > 0.85


@pytest.mark.parametrize("kind", STARVED)
def test_recall_is_that_of_what_is_served(kind, tmp_path):
    users = RNG.normal(size=(12, D)).astype(np.float32)
    write(tmp_path, kind, STARVED[kind], probe={"user": users}, min_recall=0)
    ids, vectors = [f"n{i}" for i in range(80)], some_vectors(80)
    done = replace_items(tmp_path, ids, vectors, ITEMS[:80])
    truth = after(catalogue(), ids, vectors, ITEMS[:80])
    model = tf.saved_model.load(done.path)
    for label, weights in {"equal": [1, 1, 1], "3 buy": [1, 1, 3], "cart": [0, 1, 0]}.items():
        fused = scores_of(users, np.stack(list(truth.values()))) @ np.array(weights)
        answer = asked(model, "retrieve", user=users, weights=[weights])
        best = [{list(truth)[i] for i in np.argsort(-row)[:10]} for row in fused]
        share = np.mean(
            [len(true & set(found)) / 10 for true, found in zip(best, answer["ids"], strict=True)]
        )
        assert done.recall[label] == pytest.approx(share, abs=1e-6)
    card = json.loads(Path(done.path, "assets.extra", "csmf.json").read_text())
    assert card["recall"] == done.recall
    message = (
        r"Recall@10 of the \w+ index should be at least 0.99 .*lower `min_recall`.*to refresh all the same"
    )
    with pytest.raises(ValueError, match=message):
        replace_items(tmp_path, ["z"], some_vectors(1), min_recall=0.99)
    assert latest_version(tmp_path) == 2


def test_files_that_do_not_change_are_shared_or_copied(exact, monkeypatch):
    shared = ["saved_model.pb", "assets.extra/tf_serving_warmup_requests"]
    replace_items(exact, ["a"], some_vectors(1))
    assert all(os.path.samefile(exact / "1" / name, exact / "2" / name) for name in shared)

    def refuse(*paths):
        raise OSError("links are not to be had")

    monkeypatch.setattr(os, "link", refuse)
    replace_items(exact, ["b"], some_vectors(1))
    for name in shared:
        assert not os.path.samefile(exact / "2" / name, exact / "3" / name)
        assert (exact / "2" / name).read_bytes() == (exact / "3" / name).read_bytes()
    assert not (exact / "2" / "fingerprint.pb").exists()


# Interruptions


def test_failure_in_the_middle_leaves_all_as_it_was(exact, monkeypatch):
    before = contents(exact)

    def broken(folder, tensors):
        (Path(folder) / "variables").mkdir()
        (Path(folder) / "variables" / "variables.index").write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(refresh_module, "write_variables", broken)
    with pytest.raises(OSError, match="No space left"):
        replace_items(exact, ["a"], some_vectors(1))
    assert contents(exact) == before
    monkeypatch.undo()
    assert replace_items(exact, ["a"], some_vectors(1)).path == str(exact / "2")


KILLED = """
import os, signal, sys
import numpy as np
import csmf_tf.serving.versions, csmf_tf.serving.variables
from csmf_tf.serving import replace_items

module = sys.modules["csmf_tf.serving.refresh"]
folder, dim = sys.argv[1], int(sys.argv[2])

def die(*arguments, **options):
    os.kill(os.getpid(), signal.SIGKILL)

def half(draft, tensors):
    write(draft, tensors)
    os.remove(os.path.join(draft, "variables", "variables.index"))
    die()

write = module.write_variables
points = [(module, "link_files", die), (module, "write_variables", half), (module, "write_card", die),
          (os, "rename", die), (module, "write_server_files", die)]
for where, name, deadly in points:
    pid = os.fork()
    if not pid:
        setattr(where, name, deadly)
        replace_items(folder, ["after a kill", "möbel 1"], np.full([2, dim], 9.0), ["möbel 2"])
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print(name, code, *sorted(n for n in os.listdir(folder) if n.isdecimal()))
"""


def test_kill_at_any_point_loses_nothing(exact):
    before = contents(exact / "1")
    root = str(Path(csmf_tf.__file__).parents[1])
    result = subprocess.run(
        [sys.executable, "-c", KILLED, str(exact), str(D)],
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "link_files -9 1",
        "write_variables -9 1",
        "write_card -9 1",
        "rename -9 1",
        "write_server_files -9 1 2",
    ]
    assert contents(exact / "1") == before
    given = ["after a kill", ITEMS[1]], np.full([2, D], 9, np.float32), [ITEMS[2]]
    check_answers(exact / "2", after(catalogue(), *given))
    # Run again, as nobody knows where it was killed.
    done = replace_items(exact, *given)
    assert done[1:6] == (len(ITEMS), 0, 2, 0, 1)
    check_answers(done.path, after(catalogue(), *given))
    assert re.search(r'key: "stable" value: 3\b', (exact / "models.config").read_text())


def test_of_two_refreshes_at_a_time_none_loses_the_items_of_the_other(exact, monkeypatch):
    write_variables = refresh_module.write_variables

    def meanwhile(*arguments):
        monkeypatch.undo()
        replace_items(exact, ["theirs"], some_vectors(1))
        write_variables(*arguments)

    monkeypatch.setattr(refresh_module, "write_variables", meanwhile)
    with pytest.raises(FileExistsError, match=r"Received: version 2 appeared meanwhile; refresh again"):
        replace_items(exact, ["mine"], some_vectors(1))
    assert {path.name for path in exact.iterdir() if path.is_dir()} == {"1", "2"}
    replace_items(exact, ["mine"], some_vectors(1))
    assert {"mine", "theirs"} <= vectors_by_id(exact / "3").keys()


# Parts of it


def test_signature_alone_keeps_its_tables_and_variables(tmp_path):
    (tmp_path / "vocabulary.txt").write_text("red\nblue\n")
    module = tf.Module()
    module.codes = keras.layers.StringLookup(vocabulary=str(tmp_path / "vocabulary.txt"))
    module.table = tf.Variable([[0.0], [1.0], [2.0]])
    module.other = keras.layers.StringLookup(vocabulary=["x"])
    spec = tf.TensorSpec([None], tf.string, "colour")
    embed = tf.function(lambda colour: {"y": tf.gather(module.table, module.codes(colour))}, [spec])
    other = tf.function(lambda colour: {"y": module.other(colour)}, [spec])
    tf.saved_model.save(module, str(tmp_path / "1"), {"embed": embed, "other": other})
    model = load_signature(tmp_path / "1", "embed")
    shutil.rmtree(tmp_path / "1")
    assert set(model.signatures) == {"embed"}
    answer = model.signatures["embed"](colour=tf.constant(["blue", "green", "red"]))
    assert answer["y"].numpy().tolist() == [[2.0], [0.0], [1.0]]
    with pytest.raises(OSError, match="saved_model"):
        load_signature(tmp_path / "1", "embed")


@pytest.mark.parametrize("buckets", [1, 7, 2**40])
def test_ids_that_moved_are_found_as_if_looked_up_anew(monkeypatch, buckets):
    hashes = ids_module._hashes
    monkeypatch.setattr(ids_module, "_hashes", lambda strings: hashes(strings) % buckets)
    old, given = [f"i{i}" for i in range(60)], ["n1", "i3", "n2", "unused"]
    source = RNG.permutation([*np.delete(np.arange(60), [3, 5, 59]), 60, 61, 62])
    state = ids_module.moved_id_state(ids_module.id_state(old), source, given)
    names = np.array([*old, *given], object)[source].tolist()
    fresh = ids_module.id_state(names)
    for name in ("item_ids", "item_id_hashes", "item_id_run"):
        np.testing.assert_array_equal(state[name], fresh[name])
    wanted = tf.constant([*names, "i5", "unused", ""])
    assert ids_module.find_ids(state, wanted).numpy().tolist() == [*range(60), -1, -1, -1]


# Arguments


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (
            {"item": ["x"], "user": [1.0]},
            r"`items` should hold \['item', 'user', 'tags'\].*without \['tags'\]",
        ),
        ({"user": [1.0], "tags": [["a"]]}, r"without \['item'\]"),
        ({"item": ["x", "y"], "user": [1.0], "tags": [["a"]]}, "arrays of one length"),
        ({"item": [], "user": [], "tags": []}, "at least one item"),
        ({"item": ["x", "x"], "user": [1.0, 2.0], "tags": [[], []]}, "2 ids, 1 different"),
        ({"item": ["x"], "user": [np.inf], "tags": [[]]}, "row 0, item 'x'"),
        ({"item": ["x"], "user": ["a"], "tags": [[]]}, "Item feature `user` should be float32"),
        ({"item": ITEMS, "remove": [1] * len(ITEMS)}, "should keep an item. Received: all 400 of its items"),
        ({"item": ["x"], "remove": ["no"]}, "`remove` should be 1 or true .*Received: 'no'"),
    ],
)
def test_items_are_checked(exact, items, message):
    before = contents(exact)
    with pytest.raises(ValueError, match=message):
        csmf_tf.refresh(exact, items)
    assert contents(exact) == before


@pytest.mark.parametrize(
    ("ids", "vectors", "removed", "message"),
    [
        (["x"], np.ones((1, D - 1)), [], r"`vectors` should be of shape \(1, 8\). Received: .*\(1, 7\)"),
        (["x"], np.ones((2, D)), [], "2 rows, 1 ids"),
        (["x"], np.ones((1, D)), ["x"], "2 ids, 1 different"),
        (["x", "y"], [[0.0] * D, [np.nan] * D], [], "row 1, item 'y'"),
        (["x"], np.full((1, D), 1e9), [], "below 1e.09"),
        ([""], np.ones((1, D)), [], "unique and not empty"),
    ],
)
def test_vectors_are_checked(exact, ids, vectors, removed, message):
    with pytest.raises(ValueError, match=message):
        replace_items(exact, ids, vectors, removed)
    assert latest_version(exact) == 1


def test_scann_needs_as_many_items_as_partitions(tmp_path):
    write(tmp_path, "scann", STARVED["scann"])
    with pytest.raises(ValueError, match=r"should keep 40 items.*Received: 39; export again"):
        replace_items(tmp_path, [], np.zeros((0, D)), ITEMS[39:])


def far_apart(directory, index, settings):
    """An export of 20 clusters of 20 items, one cell or partition each; returns the vectors."""
    vectors = np.repeat(
        9.0 * np.eye(D)[np.arange(20) % D] * np.where(np.arange(20) < 10, 1, -1)[:, None], 20, 0
    )
    vectors = (vectors + RNG.normal(size=(N, D)) * 0.1 + np.arange(N)[:, None] // 20).astype(np.float32)
    write(directory, index, settings, vectors=vectors)
    return vectors


def test_cells_that_a_refresh_empties_are_not_looked_into(tmp_path):
    vectors = far_apart(tmp_path, "portable", {"cells": 20, "candidates": 10})
    user = vectors[-1:]
    # All but the items that lie farthest from the user.
    gone = [ITEMS[row] for row in np.argsort(-(vectors @ user[0]))[:380]]
    replace_items(tmp_path, [], np.zeros((0, D)), gone)
    found = asked(tf.saved_model.load(str(tmp_path / "2")), "retrieve", user=user, weights=WEIGHTS[:1])[
        "ids"
    ][0]
    assert "" not in found[:5]
    assert not set(found) & set(gone)


def test_scann_refuses_to_lose_its_partitions(tmp_path):
    vectors = far_apart(tmp_path, "scann", {"leaves": 20, "leaves_to_search": 2})
    gone = [ITEMS[row] for row in np.argsort(-(vectors @ vectors[-1]))[:300]]
    with pytest.raises(ValueError, match=r"80% of its partitions filled. Received: \d+ of 20.*export again"):
        replace_items(tmp_path, [], np.zeros((0, D)), gone)
    assert replace_items(tmp_path, [], np.zeros((0, D)), gone[::30]).removed == 10


def test_recall_does_not_drift_with_refreshes(tmp_path):
    write(tmp_path, "portable", STARVED["portable"], probe={"user": USERS}, min_recall=0)
    first = card_of(tmp_path / "1")["recall"]
    assert min(first.values()) < 1
    for _ in range(2):
        # Items far from everything are found by nobody, and missed by nobody.
        replace_items(tmp_path, ["far"], np.zeros((1, D)), min_recall=0)
        done = replace_items(tmp_path, [], np.zeros((0, D)), ["far"], min_recall=0)
        assert done.recall == pytest.approx(first, abs=1e-6)


def test_export_without_an_item_embedder(tmp_path):
    user = {"user": tf.TensorSpec([None, D], tf.float32)}
    csmf_tf.export(
        lambda features: features["user"], user, ITEMS, VECTORS, OWNER, OBJECTIVES, tmp_path, index="exact"
    )
    with pytest.raises(
        ValueError, match=r"signature `embed_item`.*give vectors to `csmf_tf.serving.replace_items`"
    ):
        csmf_tf.refresh(tmp_path, {"item": ["x"]})
    assert replace_items(tmp_path, ["x"], some_vectors(1)).added == 1


def test_folder_without_an_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="should hold exported versions"):
        csmf_tf.refresh(tmp_path, {"item": ["x"]})


def test_columns_of_a_data_frame_keep_their_rows():
    class Labelled(list):
        """Read by labels, as a pandas column, which numpy reads by its rows."""

        def __getitem__(self, label):
            return list.__getitem__(self, -1 - label)

    columns = {"id": {"input": "item", "kind": "id"}, "price": {"input": "price", "kind": "numeric"}}
    prices = Labelled([1.0, 2.0, 3.0])
    table = read_items({"id": ["a", "b", "c"], "price": prices, "remove": [0.0, 1.0, None]}, columns, "item")
    assert (table.ids, table.removed) == (["a", "c"], ["b"])
    assert np.asarray(table.features["price"]).tolist() == [1.0, 3.0]


def test_text_is_no_list_of_strings(exact):
    items = {"item": ["x"], "user": [1.0], "tags": ["red"]}
    with pytest.raises(
        ValueError, match=r"`tags` should be string.*Received: 'red', which is no list of strings"
    ):
        csmf_tf.refresh(exact, items)
