"""Export: the SavedModel alone answers, every version appears whole, and queries by user id."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from csmf_tf._keras import keras, tf
from csmf_tf.serving import export, latest_version, load, query
from csmf_tf.serving.query import UnknownUserWarning

USERS = [f"u{i}" for i in range(6)]
ITEMS = [f"item {i}" for i in range(30)]
OBJECTIVES = ["view", "cart", "buy"]
OWNER = np.array([1, 1, 2, 0, 3, 1, 2, 3])
RNG = np.random.default_rng(7)
VECTORS = RNG.normal(size=(len(ITEMS), len(OWNER))).astype(np.float32)
WEIGHTINGS = np.array([[1, 1, 1], [1, 0, 0], [0, 0.5, 3]], np.float32)


class EmbedUser(tf.Module):
    """A user tower in small: an id looked up in a vocabulary, and tags and a number on request."""

    def __init__(self, tags=False):
        super().__init__()
        self.lookup = keras.layers.StringLookup(vocabulary=USERS)
        self.table = tf.Variable(RNG.normal(size=(len(USERS) + 1, len(OWNER))), dtype=tf.float32)
        self.item_tower = tf.Variable(np.zeros([300_000, 4], np.float32))
        self.tags = keras.layers.StringLookup(vocabulary=["red", "blue"], mask_token="") if tags else None

    def __call__(self, features):
        vectors = tf.gather(self.table, self.lookup(features["user_id"]))
        if self.tags is None:
            return vectors
        codes = tf.reduce_sum(self.tags(features["tags"]), axis=1)
        age = features["age"]
        age = tf.where(tf.math.is_nan(age), 100.0, age)
        return vectors + tf.cast(codes, tf.float32)[:, tf.newaxis] + age[:, tf.newaxis]


class EmbedItem(tf.Module):
    """An item tower in small: an id looked up in a vocabulary."""

    def __init__(self):
        super().__init__()
        self.lookup = keras.layers.StringLookup(vocabulary=ITEMS)
        self.table = tf.Variable(np.vstack([np.zeros_like(VECTORS[:1]), VECTORS]))

    def __call__(self, features):
        return tf.gather(self.table, self.lookup(features["item_id"]))


SIGNATURE = {"user_id": tf.TensorSpec([None], tf.string)}
ITEM_SIGNATURE = {"item_id": tf.TensorSpec([None], tf.string)}
RICH = {
    **SIGNATURE,
    "tags": tf.TensorSpec([None, None], tf.string),
    "age": tf.TensorSpec([None], tf.float32),
}


def write(directory, embed_user=None, signature=SIGNATURE, **options):
    arguments = {"index": "exact", "k": 5, **options}
    return export(
        embed_user or EmbedUser(), signature, ITEMS, VECTORS, OWNER, OBJECTIVES, directory, **arguments
    )


def best(user_vector, weights, k):
    """Ids and scores of the best items by the definition: `sum_k w_k s_k`."""
    scores = np.zeros(len(ITEMS))
    for objective, weight in enumerate(weights, start=1):
        read = np.isin(OWNER, range(1, objective + 1))
        scores += float(weight) * VECTORS[:, read].astype(np.float64) @ user_vector[read]
    order = np.argsort(-scores, kind="stable")[:k]
    return [ITEMS[i] for i in order], scores[order]


def decoded(ids):
    return [[item.decode() for item in row] for row in ids.numpy()]


def answer_of(path, user):
    return tf.saved_model.load(path).signatures["serving_default"](user_id=tf.constant([user]))


@pytest.fixture(scope="module")
def embed_user():
    return EmbedUser()


@pytest.fixture(scope="module", params=["exact", "portable", "scann"])
def exported(request, embed_user, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    options = {"index": request.param, "k": 40, "weights": [2, 1, 0.5]}
    write(directory, embed_user, **options, embed_item=EmbedItem(), item_signature=ITEM_SIGNATURE)
    return directory


def test_signatures_answer_as_defined(exported, embed_user):
    served = load(exported).signatures
    users = ["u4", "nobody", "u0"]
    vectors = embed_user({"user_id": tf.constant(users)}).numpy()
    default = served["serving_default"](user_id=tf.constant(users))
    weighed = served["retrieve"](user_id=tf.constant(users), weights=tf.constant(WEIGHTINGS))
    for answer, weightings in [(default, np.tile([2, 1, 0.5], (3, 1))), (weighed, WEIGHTINGS)]:
        assert set(answer) == {"ids", "scores"}
        assert answer["ids"].shape == answer["scores"].shape == (3, 40)
        for row, ids in enumerate(decoded(answer["ids"])):
            expected_ids, expected_scores = best(vectors[row], weightings[row], len(ITEMS))
            assert ids == expected_ids + [""] * 10
            scores = answer["scores"][row].numpy()
            np.testing.assert_allclose(scores[:30], expected_scores, rtol=1e-4, atol=1e-5)
            assert (scores[30:] == -np.inf).all()


def test_signature_shapes_are_told_to_clients(exported):
    served = load(exported).signatures
    found = {"ids": (tf.string, (None, 40)), "scores": (tf.float32, (None, 40))}
    embedding = {"embedding": (tf.float32, (None, 8))}
    scores = dict.fromkeys(["log_scores", "probabilities"], (tf.float32, (None, None, 3)))
    scores["log_partitions"] = (tf.float32, (None, 3))
    told = {
        "serving_default": ({"user_id"}, found),
        "retrieve": ({"user_id", "weights"}, found),
        "retrieve_excluding": ({"user_id", "weights", "exclude"}, found),
        "retrieve_among": ({"user_id", "weights", "among"}, found),
        "embed_user": ({"user_id"}, embedding),
        "embed_item": ({"item_id"}, embedding),
        "score": ({"user_id", "item_ids"}, scores),
    }
    assert set(served) == set(told)
    for name, (inputs, outputs) in told.items():
        assert set(served[name].structured_input_signature[1]) == inputs
        specs = served[name].structured_outputs
        assert {key: (spec.dtype, tuple(spec.shape)) for key, spec in specs.items()} == outputs


def test_without_an_item_embedder_there_is_no_signature_of_it(tmp_path):
    assert "embed_item" not in tf.saved_model.load(write(tmp_path)).signatures


def test_card_says_what_the_export_is(exported):
    card = json.loads((exported / "1" / "assets.extra" / "csmf.json").read_text())
    assert card.pop("index") in ("exact", "portable", "scann")
    assert isinstance(card.pop("settings"), dict)
    assert card.pop("recall") == {}
    assert card == {
        "format": 3,
        "objectives": OBJECTIVES,
        "weights": [2.0, 1.0, 0.5],
        "k": 40,
        "user_id": "user_id",
        "fusion": "log",
        "item_id": "item_id",
        "item_features": {"item_id": {"input": "item_id", "kind": "id"}},
        "min_recall": 0.9,
        "behaviors": None,
        "shard": None,
    }


def test_export_of_another_format_is_refused(exported, tmp_path):
    shutil.copytree(exported / "1", tmp_path / "1")
    file = tmp_path / "1" / "assets.extra" / "csmf.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 1}))
    with pytest.raises(ValueError, match=r"should be of format 3\. Received: format 1; export it again"):
        query(tmp_path, "u1")


@pytest.mark.parametrize("bad", [-0.5, np.nan, np.inf])
def test_unfit_weights_are_an_error(exported, bad):
    retrieve = load(exported).signatures["retrieve"]
    with pytest.raises(tf.errors.InvalidArgumentError, match="`weights` should be finite and not negative"):
        retrieve(user_id=tf.constant(["u1", "u2"]), weights=tf.constant([[1.0, 1.0, 1.0], [1.0, bad, 1.0]]))


def test_rows_of_zero_weights_take_the_default(exported):
    served = load(exported).signatures
    users = tf.constant(["u1", "u2"])
    default = served["serving_default"](user_id=users)
    mixed = served["retrieve"](user_id=users, weights=tf.constant([[0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    assert decoded(mixed["ids"])[0] == decoded(default["ids"])[0]
    assert decoded(mixed["ids"])[1] != decoded(default["ids"])[1]


def test_one_user_under_many_weightings(exported):
    retrieve = load(exported).signatures["retrieve"]
    together = retrieve(user_id=tf.constant(["u3"]), weights=tf.constant(WEIGHTINGS))
    alone = [retrieve(user_id=tf.constant(["u3"]), weights=tf.constant([w])) for w in WEIGHTINGS]
    assert decoded(together["ids"]) == [decoded(answer["ids"])[0] for answer in alone]


def test_user_vector_that_is_not_finite_finds_nothing(tmp_path):
    embed_user = EmbedUser()
    embed_user.table.assign(tf.fill(embed_user.table.shape, np.nan))
    answer = answer_of(write(tmp_path, embed_user), "u1")
    assert decoded(answer["ids"]) == [[""] * 5]
    assert (answer["scores"].numpy() == -np.inf).all()


FRESH = """
import json, os, sys, threading
for name in {blocked}: sys.modules[name] = None
import numpy as np
import tensorflow as tf
if "scann" not in sys.modules: import scann

paths, users = json.loads(sys.argv[1])
inputs = {{"user_id": tf.constant(users), "weights": tf.constant([[1., 0., 3.]] * len(users))}}
lists = [["item 3", "", "item 8", "item 3", "i3", "stranger"]] * len(users)
every = inputs | {{name: tf.constant(lists) for name in ("exclude", "among", "item_ids")}}
every["item_id"] = tf.constant(["item 1", "item 2"])
answers = {{}}
loaded = [tf.saved_model.load(path) for path in paths]  # at once: searchers must not be mixed up
for path, model in zip(paths, loaded):
    default, retrieve = model.signatures["serving_default"], model.signatures["retrieve"]
    # The first queries of a server come together.
    calls = [lambda: default(user_id=inputs["user_id"]), lambda: retrieve(**inputs)] * 2
    outputs = [None] * len(calls)
    def call(i): outputs[i] = calls[i]()["ids"].numpy().tolist()
    threads = [threading.Thread(target=call, args=[i]) for i in range(len(calls))]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert outputs[0] == outputs[2] and outputs[1] == outputs[3]

    eager = {{}}
    for name, function in model.signatures.items():
        given = {{key: every[key] for key in function.structured_input_signature[1]}}
        eager[name] = {{key: output.numpy().tolist() for key, output in function(**given).items()}}
    # The way of TF Serving and of the C API: a session, variables restored, then the init op.
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], path)
        for name, expected in eager.items():
            signature = graph.signature_def[name]
            feed = {{info.name: every[key].numpy() for key, info in signature.inputs.items()}}
            fetch = {{key: info.name for key, info in signature.outputs.items()}}
            for key, output in session.run(fetch, feed).items():
                assert output.tolist() == expected[key], (name, key)
    answers[path] = [[[item.decode() for item in row] for row in ids] for ids in outputs[:2]]
assert not [name for name in sys.modules if name.startswith("csmf_tf.")]
print(json.dumps(answers))
"""


def in_fresh_process(paths, blocked):
    """Answers of both signatures from a process that never saw csmf_tf, nor the modules `blocked`."""
    code = FRESH.format(blocked=["csmf_tf", "tensorflow_recommenders", "tf_keras", *blocked])
    drop = ("PYTHONPATH", "TF_USE_LEGACY_KERAS")
    environment = {name: value for name, value in os.environ.items() if name not in drop}
    command = [sys.executable, "-c", code, json.dumps([paths, USERS])]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def in_this_process(path):
    """The same answers from here."""
    served = tf.saved_model.load(path).signatures
    users = tf.constant(USERS)
    weights = tf.constant([[1.0, 0.0, 3.0]] * len(USERS))
    answers = served["serving_default"](user_id=users), served["retrieve"](user_id=users, weights=weights)
    return [decoded(answer["ids"]) for answer in answers]


def moved(path, to):
    """A version at another place; nothing is left at the old one."""
    shutil.move(path, to)
    return str(to)


def test_fresh_process_needs_tensorflow_alone_for_indices_of_stock_ops(embed_user, tmp_path):
    options = {"embed_item": EmbedItem(), "item_signature": ITEM_SIGNATURE}
    paths = [
        moved(write(tmp_path / index, embed_user, index=index, **options), tmp_path / f"moved {index}")
        for index in ("exact", "portable")
    ]
    answers = in_fresh_process(paths, blocked=["scann"])
    for path in paths:
        default, weighed = answers[path]
        for user, by_default, by_weights in zip(USERS, default, weighed, strict=True):
            vector = embed_user({"user_id": tf.constant([user])}).numpy()[0]
            assert by_default == best(vector, [1, 1, 1], 5)[0]
            assert by_weights == best(vector, [1, 0, 3], 5)[0]


def test_fresh_process_needs_scann_beside_for_its_index(embed_user, tmp_path):
    many = RNG.normal(size=(20_000, len(OWNER))).astype(np.float32)
    names = [f"i{i}" for i in range(len(many))]
    large = export(embed_user, SIGNATURE, names, many, OWNER, OBJECTIVES, tmp_path / "large", k=20)
    small = write(tmp_path / "small", embed_user, index="scann")
    answers = {path: in_this_process(path) for path in (large, small)}
    paths = {moved(path, tmp_path / f"moved {i}"): path for i, path in enumerate(answers)}
    for path, fresh in in_fresh_process(list(paths), blocked=[]).items():
        assert fresh == answers[paths[path]]


def test_only_what_serving_reads_is_saved(tmp_path):
    path = Path(write(tmp_path))
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 300_000


def test_lookup_from_a_vocabulary_file_moves_along(tmp_path):
    file = tmp_path / "vocabulary.txt"
    file.write_text("\n".join(USERS))
    embed_user = EmbedUser()
    embed_user.lookup = keras.layers.StringLookup(vocabulary=str(file))
    path = write(tmp_path / "here", embed_user)
    expected = decoded(answer_of(path, "u5")["ids"])
    file.unlink()
    assert decoded(answer_of(moved(path, tmp_path / "there"), "u5")["ids"]) == expected


def test_keras_model_as_user_tower(tmp_path):
    user_id = keras.Input([], dtype=tf.string, name="user_id")
    code = keras.layers.StringLookup(vocabulary=USERS)(user_id)
    model = keras.Model({"user_id": user_id}, keras.layers.Embedding(len(USERS) + 1, len(OWNER))(code))
    answer = answer_of(write(tmp_path, model), "u2")
    vector = model({"user_id": tf.constant(["u2"])}).numpy()[0]
    assert decoded(answer["ids"])[0] == best(vector, [1, 1, 1], 5)[0]


# Versions


def versions(directory):
    """What is in the folder, but for the files that TensorFlow Serving is started with."""
    files = {"models.config", "batching_parameters.txt", "monitoring.config", "docker-compose.yaml"}
    return sorted(set(os.listdir(directory)) - files)


def test_versions_count_up(embed_user, tmp_path):
    directory = tmp_path / "not" / "yet"
    for number in (1, 2):
        assert write(directory, embed_user, k=number) == str(directory / str(number))
        assert latest_version(directory) == number
    assert versions(directory) == ["1", "2"]
    assert len(query(directory, "u1", k=2)) == 2
    old = load(directory, version=1).signatures["serving_default"](user_id=tf.constant(["u1"]))
    assert old["ids"].shape == (1, 1)


@pytest.mark.parametrize("step", ["save", "users"])
def test_failure_in_the_middle_leaves_no_version(embed_user, tmp_path, monkeypatch, step):
    write(tmp_path, embed_user)
    users = {"user_id": USERS}
    if step == "users":
        users = {"user_id": [*USERS, "u0"]}
    else:
        save = tf.saved_model.save

        def broken(root, path, *arguments):
            save(root, path, *arguments)
            os.remove(os.path.join(path, "saved_model.pb"))
            raise OSError("No space left on device")

        monkeypatch.setattr(tf.saved_model, "save", broken)
    with pytest.raises((OSError, ValueError), match=r"No space left|should hold every id once"):
        write(tmp_path, embed_user, users=users)
    assert versions(tmp_path) == ["1"]
    monkeypatch.undo()
    assert write(tmp_path, embed_user).endswith("2")


# Queries by user id


def test_query_returns_pairs(exported, embed_user):
    vector = embed_user({"user_id": tf.constant(["u2"])}).numpy()[0]
    for weights, vector_of_weights in [
        (None, [2, 1, 0.5]),
        ({"view": 1, "buy": 3}, [1, 0, 3]),
        ([0, 1, 0], [0, 1, 0]),
    ]:
        ids, scores = zip(*query(exported, "u2", weights, k=7), strict=True)
        expected_ids, expected_scores = best(vector, vector_of_weights, 7)
        assert list(ids) == expected_ids
        np.testing.assert_allclose(scores, expected_scores, rtol=1e-4, atol=1e-5)


def test_query_leaves_out_the_padding(exported):
    answer = query(exported, "u2", k=35)
    assert len(answer) == len(ITEMS)
    assert all(np.isfinite(score) for _, score in answer)


def test_query_for_more_than_exported(exported):
    message = r"`k` should be at most 40, .* Received: k=41; export again with k=41 or more"
    with pytest.raises(ValueError, match=message):
        query(exported, "u2", k=41)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"like": 1}, "Unknown: \\['like'\\]"),
        ({"view": -1}, "not negative"),
        ({"view": float("nan")}, "not negative"),
        ({"view": 0}, "at least one that is not zero"),
    ],
)
def test_query_checks_weights(exported, weights, message):
    with pytest.raises(ValueError, match=message):
        query(exported, "u2", weights)


def test_query_without_an_export(tmp_path):
    with pytest.raises(FileNotFoundError, match="which holds none; export a model to it first"):
        query(tmp_path / "nowhere", "u1")


def test_query_fills_in_the_features_of_a_known_user(tmp_path):
    embed_user = EmbedUser(tags=True)
    users = {
        "user_id": np.array(USERS),
        "tags": np.array([["red"], ["red", "blue"], [], [], ["blue"], ["green"]], object),
        "age": np.array([20.0, np.nan, 30.0, 40.0, 50.0, 60.0]),
        "not a feature": np.zeros(len(USERS)),
    }
    write(tmp_path, embed_user, RICH, users=users)

    def vector(user, tags, age):
        features = {"user_id": [user], "tags": [tags], "age": [age]}
        return embed_user({name: tf.constant(value) for name, value in features.items()}).numpy()[0]

    for user, tags, age in [("u0", ["red"], 20.0), ("u1", ["red", "blue"], np.nan), ("u2", [""], 30.0)]:
        ids = [item for item, _ in query(tmp_path, user, k=5)]
        assert ids == best(vector(user, tags, age), [1, 1, 1], 5)[0]
    with pytest.warns(UnknownUserWarning, match="user 'u99' is not known to this export"):
        ids = [item for item, _ in query(tmp_path, "u99", k=5)]
    assert ids == best(vector("u99", [""], np.nan), [1, 1, 1], 5)[0]


def test_histories_of_fixed_width_are_padded(tmp_path):
    class Length(tf.Module):
        def __call__(self, features):
            given_items = tf.reduce_sum(tf.cast(features["history"] != "", tf.float32), axis=1)
            return tf.tile(given_items[:, tf.newaxis], [1, len(OWNER)])

    signature = {"history": tf.TensorSpec([None, 3], tf.string)}
    users = {"id": ["a", "b"], "history": [["i1", "i2"], ["i1", "i2", "i3"]]}
    write(tmp_path, Length(), signature, users=users)
    for user, length in [("a", 2), ("b", 3)]:
        ids, scores = best(np.full(len(OWNER), length), [1, 1, 1], 5)
        answer = query(tmp_path, user, k=5)
        assert [item for item, _ in answer] == ids
        np.testing.assert_allclose([score for _, score in answer], scores, rtol=1e-4)


def test_query_without_the_features_it_would_need(tmp_path):
    write(tmp_path, EmbedUser(tags=True), RICH)
    with pytest.raises(ValueError, match=r"the model reads \['age', 'tags'\].*export again with `users`"):
        query(tmp_path, "u1", k=1)


def test_query_without_users_answers_any_id(tmp_path, embed_user):
    write(tmp_path, embed_user)
    vector = embed_user({"user_id": tf.constant(["nobody"])}).numpy()[0]
    assert [item for item, _ in query(tmp_path, "nobody", k=3)] == best(vector, [1, 1, 1], 3)[0]


# Arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"index": "faiss"},
            r"`index` should be one of \['exact', 'portable', 'scann'\]. Received: index='faiss'",
        ),
        (
            {"index": "portable", "settings": {"probes": 3}},
            r"Settings of the portable index should be of \['cells', 'candidates'\]. Received: \['probes'\]",
        ),
        ({"settings": {"cells": 3}}, r"The exact index should have no settings. Received: \['cells'\]"),
        ({"fusion": "max"}, r"`fusion` should be one of \['linear', 'log'\]. Received: fusion='max'"),
        ({"settings": {"leaves": 0}, "index": "scann"}, "`leaves` should be a positive integer"),
        ({"k": 0}, "`k` should be a positive integer"),
        ({"objectives": []}, "`objectives` should be names, at least one and none twice"),
        ({"objectives": ["a", "b", "a"]}, "`objectives` should be names, at least one and none twice"),
        ({"item_ids": [*ITEMS[:-1], ""]}, "`item_ids` should be unique and not empty.*1 empty"),
        ({"item_ids": [*ITEMS[:-1], ITEMS[0]]}, "`item_ids` should be unique.*30 ids, 29 different"),
        ({"item_ids": [*ITEMS[:-1], b"\xff"]}, r"`item_ids` should be valid UTF-8.*Received: b'\\xff'"),
        ({"item_ids": [*ITEMS[:-1], "\ud800"]}, r"`item_ids` should be valid UTF-8.*Received: '\\ud800'"),
        ({"item_ids": [*ITEMS[:-1], None]}, "`item_ids` should be strings. Received: None of type NoneType"),
        ({"item_ids": [*ITEMS[:-1], np.nan]}, "`item_ids` should be strings. Received: nan of type float"),
        ({"item_ids": [*range(29), b"7"]}, "`item_ids` should be unique.*30 ids, 29 different"),
        ({"item_ids": ITEMS[:-1]}, r"`item_vectors` should have a row for each item id.*29 item ids"),
        ({"owner": OWNER[:-1]}, r"column for each entry of `owner`.*owner.shape=\(7,\)"),
        ({"owner": OWNER + 1}, r"`owner` should hold integers from 0 \(free\) to 3.*\[1 2 3 4\]"),
        ({"owner": OWNER * 0.5}, "`owner` should hold integers from 0.*dtype=float64"),
        ({"item_vectors": VECTORS * np.nan}, "`vectors` should be finite"),
        ({"weights": {"likes": 1}}, r"Unknown: \['likes'\]"),
        ({"user_signature": {}}, "`user_signature` should name at least one user feature"),
        ({"user_signature": {"user id": SIGNATURE["user_id"]}}, "should be identifiers.*'user id'"),
        *(
            ({"user_signature": {name: SIGNATURE["user_id"]}}, f"other than .*`{name}`.*Received: '{name}'")
            for name in ("weights", "exclude", "among", "item_ids")
        ),
        ({"embed_item": EmbedItem()}, "`embed_item` and `item_signature` should be given both or neither"),
        ({"item_signature": ITEM_SIGNATURE}, "`embed_item` and `item_signature` should be given both"),
        ({"embed_item": EmbedItem(), "item_signature": {}}, "should name at least one item feature"),
        (
            {"embed_item": EmbedItem(), "item_signature": {"item id": SIGNATURE["user_id"]}},
            "Names of item features should be identifiers.*Received: 'item id'",
        ),
        (
            {"embed_item": EmbedItem(), "item_signature": {"item_id": tf.TensorSpec([], tf.string)}},
            r"`item_signature\['item_id'\]` should have batch size None first",
        ),
        (
            {"embed_item": lambda features: tf.zeros([1, 5]), "item_signature": ITEM_SIGNATURE},
            r"`embed_item` should return vectors \[B, 8\].*shape=\(1, 5\)",
        ),
        ({"user_signature": {"user_id": tf.TensorSpec([], tf.string)}}, "batch size None first"),
        ({"user_signature": {"user_id": tf.TensorSpec([1], tf.string)}}, "batch size None first"),
        ({"embed_user": lambda features: tf.zeros([1, 5])}, r"return vectors \[B, 8\].*shape=\(1, 5\)"),
        ({"users": {"id": ["a"]}}, r"Missing: \['user_id'\]; received: \['id'\]"),
        ({"users": {"id": ["a"], "user_id": ["a", "b"]}}, "one entry for each of 1 users. Received: 2"),
        ({"users": {"user_id": ["a", "a"]}}, "`users\\['user_id'\\]` should hold every id once"),
    ],
)
def test_arguments_are_checked(embed_user, tmp_path, change, message):
    arguments = {
        "embed_user": embed_user,
        "user_signature": SIGNATURE,
        "item_ids": ITEMS,
        "item_vectors": VECTORS,
        "owner": OWNER,
        "objectives": OBJECTIVES,
        "directory": tmp_path,
        "index": "exact",
    }
    with pytest.raises(ValueError, match=message):
        export(**{**arguments, **change})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("spec", "history", "message"),
    [
        ([None, 1], [["i1", "i2"]], r"should hold at most 1 entries a user. Received: 2"),
        ([None, 1, 1], [[["i1"]]], "should be of rank 1 or 2"),
    ],
)
def test_lists_of_users_are_checked(tmp_path, spec, history, message):
    signature = {"history": tf.TensorSpec(spec, tf.string)}
    with pytest.raises(ValueError, match=message):
        write(
            tmp_path,
            lambda features: tf.zeros([tf.shape(features["history"])[0], len(OWNER)]),
            signature,
            users={"id": ["a"], "history": history},
        )
