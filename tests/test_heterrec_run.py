"""Runs with the HeterRec user tower: fit, evaluate, save, go on after an interruption, export and query."""

import csv
import gzip
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from heterrec_cases import LENGTH, everyone, tiny
from thorough import left_out

from csmf_tf import build
from csmf_tf._keras import keras, tf
from csmf_tf.cli import main
from csmf_tf.config import from_dict
from csmf_tf.data.simulator import simulate
from csmf_tf.run import Run
from csmf_tf.serving import load, query, refresh
from csmf_tf.serving.query import UnknownUserWarning

SECTIONS = {
    "validation_users": 0.6,
    "features": {"item": {"category": "categorical", "price (€)": "numeric", "image": "vector"}},
    "training": {"epochs": 1, "recover_epochs": 0, "batch_size": 100},
    "evaluate": {"ks": [5]},
}
MODEL = {
    "user_tower": "heterrec",
    "embedding_dim": 8,
    "history": {"length": LENGTH},
    "heterrec": {"layers": [1, 0], "dim": 8, "dropout": 0.2},
}
ONE = {"funnel": ["view"], "ignore": ["cart", "buy"]}
# Name: sections of the configuration; those of `model` and `training` are added.
CASES = {
    "time, three objectives": {"split": {"kind": "time", "at": 0.8}},
    "last item, three objectives, mixed precision": {
        "split": {"kind": "leave_last"},
        "timestamp": None,
        "model": {"heterrec": {"layers": [0, 1], "dim": 8, "pooling": "attention"}},
        "training": {"mixed_precision": True},
    },
    "time, one objective": {
        **ONE,
        "split": {"kind": "time", "at": 0.8},
        "model": {"user_id": True, "heterrec": {"layers": [0, 1], "dim": 8, "buckets": 3, "flatten": False}},
        "loss": {"kind": "sampled", "step_weights": [1.0, 0.5]},
    },
    "last item, one objective": {
        **ONE,
        "split": {"kind": "leave_last"},
        "timestamp": None,
        "model": {"heterrec": {"layers": [0, 1], "dim": 8, "dropout": 0.2, "pooling": "attention"}},
        "loss": {"step_weights": [1.0, 0.5]},
        "training": {"epochs": 2},
    },
}


@pytest.fixture(autouse=True, scope="module")
def eager():
    """To trace the blocks of a transformer takes longer than to run them a few times."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    simulate(60, 20, seed=2, events_per_user=12).write(folder)
    items = folder / "items.csv.gz"
    header, *rows = gzip.decompress(items.read_bytes()).decode().splitlines()
    # A name that TensorFlow takes for no variable, and vectors, of which every fifth is missing.
    lines = [header.replace("price", "price (€)") + ",image"]
    lines += [f"{row}," + (f"{n / 10}|{1 - n / 20}" if n % 5 else "") for n, row in enumerate(rows)]
    items.write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))
    return folder


def config_of(folder, funnel=("view", "cart", "buy"), ignore=(), timestamp="timestamp", **sections):
    columns = {"user": "user_id", "item": "item_id", "behavior": "behavior", "timestamp": timestamp}
    log = {
        "path": f"{folder}/events.csv.gz",
        "items": f"{folder}/items.csv.gz",
        "ignore": [*ignore],
        **columns,
    }
    training = SECTIONS["training"] | sections.pop("training", {})
    model = MODEL | sections.pop("model", {})
    return from_dict(
        {**SECTIONS, **sections, "log": log, "funnel": [*funnel], "training": training, "model": model}
    )


@pytest.fixture(scope="module")
def fitted(folder, tmp_path_factory):
    """Function of a case's name that gives its fitted run, each fitted once."""
    runs = {}

    def of(case):
        if case not in runs:
            runs[case] = Run(tmp_path_factory.mktemp("run"), config_of(folder, **CASES[case]))
            runs[case].fit(verbose=0)
        return runs[case]

    return of


def latest(run):
    """Encoded features of all users, with all that is known of them."""
    split = run.prepared.split
    known = split.train.append(split.validation)
    users = build.user_features(run.config, run.prepared, run.model, known)
    return users.latest(np.arange(len(known.users)))


def test_added_objective_learns_from_what_the_first_funnel_did_not_see(folder, tmp_path):
    capacity = {"capacity": {"shares": [0.5]}, "split": {"kind": "time", "at": 0.8}}
    run = Run(tmp_path / "run", config_of(folder, **ONE, **capacity))
    run.fit(verbose=0)
    first = run.model.owner == 1
    before = run.model.user_vectors(latest(run)), run.model.item_vectors()
    run.add_objective("buy", verbose=0)
    after = run.model.user_vectors(latest(run)), run.model.item_vectors()
    for one, other in zip(before, after, strict=True):
        assert one[:, first].tobytes() == other[:, first].tobytes()
        assert np.any(other[:, run.model.owner == 2])


def test_history_of_a_behavior_of_that_name_holds_items(tmp_path):
    """An MLP tower calls it what a sequence calls the behaviours."""
    simulate(30, 20, behaviors=["behavior", "buy"]).write(tmp_path)
    sections = {"funnel": ["behavior", "buy"], "split": {"kind": "leave_last"}, "features": {}}
    config = config_of(tmp_path, **sections, model={"user_tower": "mlp", "heterrec": {}})
    run = Run(tmp_path / "run", config)
    found = {*run.raw_users()["history_behavior"].ravel()}
    assert found == {*run.prepared.split.train.items, ""}


def test_a_history_has_no_position_that_was_not_trained(folder, tmp_path):
    """Evaluation and serving would read it all the same: they know of later events than training."""
    funnel, sections = ("view", "buy"), {"split": {"kind": "leave_last"}}
    sections |= {"ignore": ["cart"], "model": {"history": {"length": 64}}}
    run = Run(tmp_path / "run", config_of(folder, funnel, **sections))
    positions, tables = run.model.towers.user.sequence.flatten.positions, []

    def keep(*_):
        tables.append(positions.merged_weights()[0])

    keep()
    # Whichever epoch is the best one.
    run.fit(lambda objective, phase: [keras.callbacks.LambdaCallback(on_epoch_end=keep)], verbose=0)
    assert (tables[1] != tables[0]).any(axis=1).all()
    assert len(tables[0]) == most_followed(run.prepared.split.train, len(funnel))
    known = run.evaluator().known
    assert max(np.bincount(known.user)) > len(tables[0])
    # Of a longer history the last items are read.
    users = build.user_features(run.config, run.prepared, run.model, known)
    busiest = users.latest(np.array([np.bincount(known.user).argmax()]))
    read = {name: values[:, -len(tables[0]) :] for name, values in busiest.items()}
    vectors = [run.model.embed_users(encoded).numpy() for encoded in (busiest, read)]
    assert busiest["history"].shape[1] == 64
    np.testing.assert_allclose(*vectors, rtol=1e-5, atol=1e-6)


def most_followed(log, behaviors):
    """The most events of a user that come before the last item which that user meets for the first time."""
    most = 0
    for user in set(log.user):
        events = [e for e in range(len(log)) if log.user[e] == user and log.behavior[e] < behaviors]
        events.sort(key=lambda event: log.time[event])
        items = [log.item[event] for event in events]
        most = max([most, *(at for at, item in enumerate(items) if item not in items[:at])])
    return most


def test_a_user_who_only_comes_back_to_items_trains_no_position(tmp_path):
    """The longest history of all ends with items that were met: nothing is predicted from there."""
    rows = [("u0", item, at) for at, item in enumerate("abeabeabecd")]
    rows += [(f"u{n}", item, at) for n in range(1, 9) for at, item in enumerate("abcd" if n % 2 else "cdab")]
    lines = ["user_id,item_id,behavior,timestamp", *(f"{u},{i},view,{at}" for u, i, at in rows)]
    (tmp_path / "events.csv").write_text("\n".join(lines))
    columns = {"user": "user_id", "item": "item_id", "behavior": "behavior", "timestamp": "timestamp"}
    log = {"path": str(tmp_path / "events.csv"), **columns}
    sections = {key: value for key, value in SECTIONS.items() if key != "features"}
    raw = {**sections, "log": log, "funnel": ["view"], "split": {"kind": "leave_last"}, "model": MODEL}
    run = Run(tmp_path / "run", from_dict(raw))
    assert np.bincount(run.prepared.split.train.user).max() == 9
    assert run.model.towers.user.sequence.positions == most_followed(run.prepared.split.train, 1) == 2


@pytest.mark.parametrize("case", left_out(CASES, ["last item, three objectives, mixed precision"]))
def test_run_evaluates_every_objective_and_none_moves(fitted, case):
    run = fitted(case)
    funnel = list(run.config.funnel)
    results = json.loads(json.dumps(run.evaluate(), allow_nan=False))
    for table in (results["objectives"], results["fused"]):
        assert list(table) == funnel
        assert all(0 <= metrics["recall@5"] <= 1 and metrics["users"] for metrics in table.values())
    measured = [entry["measured"] for entry in run.log if entry["phase"] == "freeze"]
    assert [list(table) for table in measured] == [funnel[: n + 1] for n in range(len(funnel))]
    for before, after in itertools.pairwise(measured):
        assert {name: after[name] for name in before} == before
    # Of the whole catalogue the items that a user did not know, by the scores of the model's own vectors.
    split, owner = run.prepared.split, run.model.owner
    known = split.train.append(split.validation)
    users, items = run.model.user_vectors(latest(run)), run.model.item_vectors()
    for stage, name in enumerate(funnel, start=1):
        own = (owner >= 1) & (owner <= stage)
        scores = users[:, own].astype(np.float64) @ items[:, own].T
        assert np.all(np.isfinite(scores))
        scores[known.user, known.item] = -np.inf
        top = np.argsort(-scores, axis=1)[:, :5]
        test = split.test.take(split.test.behavior == stage - 1)
        wanted = {user: {*test.item[test.user == user]} for user in np.unique(test.user)}
        recall = np.mean([len(goal & {*top[user]}) / len(goal) for user, goal in wanted.items()])
        assert results["objectives"][name]["users"] == len(wanted)
        assert results["objectives"][name]["recall@5"] == pytest.approx(recall, abs=0.03)


@pytest.mark.parametrize("case", left_out(CASES, ["last item, three objectives, mixed precision"]))
def test_restored_run_has_the_same_vectors(fitted, case):
    run = fitted(case)
    restored = Run(run.directory).restore()
    assert restored.config == run.config
    users = run.model.user_vectors(latest(run))
    assert np.all(np.any(users[:, run.model.owner > 0], axis=1))
    assert restored.model.user_vectors(latest(restored)).tobytes() == users.tobytes()
    assert restored.model.item_vectors().tobytes() == run.model.item_vectors().tobytes()


def test_interrupted_run_ends_with_the_vectors_of_an_unbroken_one(fitted, tmp_path):
    unbroken = fitted("last item, one objective")

    def stop(objective, phase):
        def end(epoch, logs):
            raise KeyboardInterrupt

        return [keras.callbacks.LambdaCallback(on_epoch_end=end)]

    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path, unbroken.config).fit(stop, verbose=0)
    run = Run(tmp_path, unbroken.config)
    assert [entry["epoch"] for entry in run.log] == [0, 1]
    assert run.fit(verbose=0) == unbroken.log
    assert run.model.user_vectors(latest(run)).tobytes() == unbroken.model.user_vectors(latest(run)).tobytes()


@pytest.mark.parametrize("share_embeddings", [True, False])
def test_saved_model_holds_what_histories_say_of_items(share_embeddings, tmp_path):
    model = tiny(heterrec={"share_embeddings": share_embeddings, "pooling": "attention"})
    model.begin("view")
    model.prune(share=0.4)
    model.freeze()
    model.begin("cart")
    users = everyone(model)
    before = model.user_vectors(users)
    model.save(tmp_path / "model.keras")
    # No catalogue is set: users alone need none.
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.objective == "cart"
    assert loaded.user_vectors(users).tobytes() == before.tobytes()
    raw = {"history": [["", "i1", "i5"]], "history_behavior": [["", "view", "cart"]], "category": ["c1"]}
    raw = {name: tf.constant(values) for name, values in raw.items()}
    answers = [one.user_embedder()(raw).numpy() for one in (model, loaded)]
    assert answers[0].tobytes() == answers[1].tobytes()
    assert model.get_config() == loaded.get_config()


# Export


@pytest.fixture(scope="module")
def exported(fitted, tmp_path_factory):
    """A fitted run of three objectives, the folder of its export, and the signatures of that.

    So few items are scanned whole by the portable index, so that it is exact too.
    """
    run, directory = fitted("time, three objectives"), tmp_path_factory.mktemp("export")
    tf.config.run_functions_eagerly(False)
    run.export(directory, index="portable", k=9)
    yield run, directory, load(directory).signatures
    tf.config.run_functions_eagerly(True)


# Histories that say the same: items and what was done with them, in any place of the list, and shorter.
SAME = [
    (["", "", "", "i1", "i5", "i2"], ["", "", "", "view", "cart", "view"]),
    (["i1", "i5", "i2", "", "", ""], ["view", "cart", "view", "", "", ""]),
    (["", "i1", "", "i5", "i2", ""], ["", "view", "", "cart", "view", ""]),
    (["i1", "i5", "i2"], ["view", "cart", "view"]),
]
EMPTY = ([""] * LENGTH, [""] * LENGTH)
UNKNOWN = (["", "never", "i1", "seen", "i5", "i2"], ["", "view", "view", "returned", "cart", "view"])


def raw_of(*users):
    """Raw features of users by their items and what was done with them, in one batch."""
    items, behaviors = zip(*users, strict=True)
    return {"history": np.array(items, object), "history_behavior": np.array(behaviors, object)}


def truth(run, raw):
    """float64 [B, N, K]: s_k of raw users by the model's own vectors."""
    model, owner = run.model, run.model.owner
    users = model.embed_users(model.towers.user_encoder.encode(raw)).numpy().astype(np.float64)
    passes = [(owner >= 1) & (owner <= k) for k in (1, 2, 3)]
    return np.stack(
        [users[:, own] @ model.item_vectors().astype(np.float64)[:, own].T for own in passes], axis=2
    )


def ask(signatures, name, raw, **further):
    """Answers as numpy arrays, ids as strings."""
    raw = {feature: tf.constant(values) for feature, values in raw.items()}
    answer = {key: value.numpy() for key, value in signatures[name](**raw, **further).items()}
    if "ids" in answer:
        answer["ids"] = np.vectorize(bytes.decode, otypes=[object])(answer["ids"])
    return answer


def check(run, answer, scores, count=9):
    """The answer is the best `count` items by `scores`, float64 [B, N]."""
    expected = -np.sort(-scores, axis=1)[:, :count]
    np.testing.assert_allclose(answer["scores"][:, :count], expected, rtol=1e-4, atol=1e-4)
    code = {item: n for n, item in enumerate(run.model.catalogue_ids)}
    found = [[scores[row, code[item]] for item in ids[:count]] for row, ids in enumerate(answer["ids"])]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    assert all(len({*ids[:count]}) == count for ids in answer["ids"])


def test_weights_of_steps_are_divided_by_their_sum(fitted):
    run = fitted("time, one objective")
    assert build.batching(run.config, run.prepared, run.model).step_weights == pytest.approx((2 / 3, 1 / 3))


def test_a_batch_has_no_more_windows_than_bound_the_attention(fitted, monkeypatch):
    run = fitted("time, three objectives")
    config = replace(run.config, training=replace(run.config.training, batch_size=None))
    sampled = replace(config, loss=replace(config.loss, kind="sampled"))
    most, plenty = 1 << 14, build.batching(config, run.prepared, run.model).batch_size
    monkeypatch.setattr("csmf_tf.towers.heterrec.ATTENTION_WEIGHTS", most)
    rows = build.batching(config, run.prepared, run.model).batch_size
    # Two heads, and four tokens an item: its id, category, price and image.
    assert rows * 2 * (LENGTH * 4) ** 2 <= most < (rows + 1) * 2 * (LENGTH * 4) ** 2
    assert rows < plenty
    monkeypatch.setattr("csmf_tf.towers.heterrec.ATTENTION_WEIGHTS", 1)
    fewest = [build.batching(c, run.prepared, run.model).batch_size for c in (config, sampled)]
    # In-batch negatives are those of other windows.
    assert fewest == [1, 8]
    monkeypatch.undo()
    monkeypatch.setattr(build, "POSITIONS", 3 * LENGTH)
    assert build.batching(sampled, run.prepared, run.model).batch_size == 8
    assert build.batching(run.config, run.prepared, run.model).batch_size == 100


def test_every_signature_answers_a_history_as_the_model_does(exported):
    run, _, signatures = exported
    raw = raw_of(SAME[0], UNKNOWN, EMPTY)
    scores, ids = truth(run, raw), run.model.catalogue_ids
    assert np.all(np.isfinite(scores))
    check(run, ask(signatures, "serving_default", raw), scores.sum(axis=2))
    for weights in ([1, 1, 1], [1, 0, 0], [0, 0, 1], [0.2, 3, 0.5]):
        fused = scores @ np.array(weights)
        given = tf.constant([weights] * 3, tf.float32)
        check(run, ask(signatures, "retrieve", raw, weights=given), fused)
        some = tf.constant([ids[:4]] * 3)
        left, among = fused.copy(), np.full_like(fused, -np.inf)
        left[:, :4], among[:, :4] = -np.inf, fused[:, :4]
        check(run, ask(signatures, "retrieve_excluding", raw, weights=given, exclude=some), left)
        check(run, ask(signatures, "retrieve_among", raw, weights=given, among=some), among, count=4)
    answer = ask(signatures, "score", raw, item_ids=tf.constant([ids] * 3))
    partitions = np.log(np.exp(scores).sum(axis=1))
    np.testing.assert_allclose(answer["log_scores"], scores - partitions[:, None], rtol=1e-4, atol=1e-4)
    embedded = ask(signatures, "embed_user", raw)["embedding"]
    own = run.model.owner > 0
    vectors = run.model.embed_users(run.model.towers.user_encoder.encode(raw)).numpy()
    np.testing.assert_allclose(embedded[:, own], vectors[:, own], rtol=1e-4, atol=1e-5)


def test_pads_of_a_history_say_nothing_wherever_they_stand(exported):
    signatures = exported[2]
    vectors = [ask(signatures, "embed_user", raw_of(one))["embedding"] for one in (*SAME, UNKNOWN, EMPTY)]
    for other in vectors[1 : len(SAME)]:
        np.testing.assert_allclose(other, vectors[0], rtol=1e-4, atol=1e-5)
    # Order, unknown items and having no history at all do say something.
    turned = ask(signatures, "embed_user", raw_of((SAME[0][0][::-1], SAME[0][1][::-1])))["embedding"]
    assert all(np.abs(other - vectors[0]).max() > 1e-3 for other in (turned, *vectors[-2:]))


def test_query_by_id_reads_the_history_that_the_export_holds(exported):
    run, directory, _ = exported
    split = run.prepared.split
    known = split.train.append(split.validation)
    for user in [7]:
        mine = known.take(known.user == user)
        order = np.argsort(mine.time, kind="stable")[-LENGTH:]
        pads = [""] * (LENGTH - len(order))
        items, done = known.items[mine.item[order]], [known.funnel[b] for b in mine.behavior[order]]
        scores = truth(run, raw_of((pads + list(items), pads + done)))[0] @ [1, 0.5, 2]
        found = query(directory, known.users[user], {"view": 1, "cart": 0.5, "buy": 2}, k=5)
        best = np.argsort(-scores)[:5]
        np.testing.assert_allclose([score for _, score in found], scores[best], rtol=1e-4, atol=1e-4)
        assert [item for item, _ in found] == run.model.catalogue_ids[best].tolist()
    with pytest.warns(UnknownUserWarning):
        stranger = query(directory, "nobody", k=5)
    scores = truth(run, raw_of(EMPTY))[0].sum(axis=1)
    np.testing.assert_allclose([score for _, score in stranger], -np.sort(-scores)[:5], rtol=1e-4, atol=1e-4)


def test_query_by_history_is_that_of_the_signature(exported, capsys):
    run, directory, signatures = exported
    history = [("i1", "view"), ("i5", "cart"), ("i2", "view")]
    scores = truth(run, raw_of(SAME[0]))[0] @ [1, 0.5, 2]
    for user in (None, "nobody", run.prepared.split.train.users[7]):
        found = query(directory, user, {"view": 1, "cart": 0.5, "buy": 2}, k=5, history=history)
        np.testing.assert_allclose([score for _, score in found], -np.sort(-scores)[:5], rtol=1e-4, atol=1e-4)
    arguments = ["query", str(directory), "--history", "i1=view, i5 = cart,i2=view", "-k", "5", "--json"]
    assert main([*arguments, "--weights", "view=1,cart=.5,buy=2"]) == 0
    assert [row["item"] for row in json.loads(capsys.readouterr().out)] == [item for item, _ in found]
    # Of more than the model reads the last ones count.
    long = [("i9", "buy")] * 2 + [("i4", "view")] * (LENGTH - 3) + history
    raw = raw_of(tuple(zip(*long[-LENGTH:], strict=True)))
    best = ask(signatures, "retrieve", raw, weights=tf.constant([[1.0, 1.0, 1.0]]))["ids"][0][:5]
    assert [item for item, _ in query(directory, k=5, history=long)] == best.tolist()


@pytest.mark.parametrize("history", [[], ["i1"], [("i1", "watch")], [("", "view")], "i1", [3], [(3, "view")]])
def test_query_by_a_history_that_says_nothing_is_an_error(exported, history):
    with pytest.raises(ValueError, match=r"`history` should hold pairs of item id and behaviour, one of"):
        query(exported[1], k=5, history=history)
    with pytest.raises(ValueError, match=r"a `user` or a `history`\. Received: neither"):
        query(exported[1], k=5)


@pytest.mark.parametrize("kind", ["item_holdout", "leave_last"])
def test_without_times_what_is_known_of_a_user_has_the_order_of_the_file(folder, tmp_path, kind):
    model = {"heterrec": {"layers": [0, 1], "dim": 8}, "history": {"length": 12}}
    config = config_of(folder, timestamp=None, split={"kind": kind}, model=model)
    run = Run(tmp_path, config)
    split, raw = run.prepared.split, run.raw_users()
    with gzip.open(folder / "events.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    held = {*zip(split.test.users[split.test.user], split.test.items[split.test.item], strict=True)}
    assert len(split.validation)
    for at, user in enumerate(split.train.users):
        mine = [row for row in rows if row["user_id"] == user and (user, row["item_id"]) not in held]
        shown = [(i, b) for i, b in zip(raw["history"][at], raw["history_behavior"][at], strict=True) if i]
        read = run.model.towers.user.sequence.positions
        assert shown[-read:] == [(row["item_id"], row["behavior"]) for row in mine][-read:]


def test_without_times_an_added_behaviour_comes_after_what_was_known(folder):
    config = config_of(folder, timestamp=None, split={"kind": "item_holdout"}, **ONE)
    split = build.prepare(config).split
    further = build.further_split(config, split, "cart")
    for part, before in ((further.train, split.train), (further.validation, split.validation)):
        added = part.behavior == 1
        assert np.any(added)
        assert part.time[~added].tolist() == before.time.tolist()
        assert part.time[added].min() > max(split.train.time.max(), split.test.time.max())


def test_one_list_takes_a_full_softmax_of_many_items_only_when_asked(fitted, monkeypatch):
    run = fitted("last item, one objective")
    monkeypatch.setattr(build, "FULL_SOFTMAX_ITEMS_OF_SEQUENCES", 1)
    config = replace(run.config, loss=replace(run.config.loss, kind="auto"))
    assert build.loss_kind(config, run.prepared) == "sampled"
    config = replace(config, loss=replace(config.loss, one_list=True))
    with pytest.raises(ValueError, match=r"`auto` takes up to 1 items. Received: \d+ items; set `loss.kind"):
        build.loss_kind(config, run.prepared)
    asked = replace(config, loss=replace(config.loss, kind="full"))
    assert build.loss_kind(asked, run.prepared) == "full"
    monkeypatch.undo()
    assert build.loss_kind(config, run.prepared) == "full"


def test_refresh_changes_what_is_found_and_nothing_that_histories_say(exported, tmp_path):
    _, directory, before = exported
    shop = shutil.copytree(directory, tmp_path / "shop")
    new = {"item_id": ["new"], "category": ["c1"], "price (€)": [9.0], "image": [[0.5, 2.0]]}
    table = tmp_path / "changes.csv"
    table.write_text("item_id,category,price (€),image,remove\nnew,c1,9,0.5|2,\ni1,,,,1\n")
    refresh(shop, table)
    after = load(shop).signatures
    # A removed item still tells what a user likes; an added one tells as much as any unknown.
    raw = raw_of(SAME[0], UNKNOWN, ([*UNKNOWN[0][:3], "new", *UNKNOWN[0][4:]], UNKNOWN[1]))
    users = ask(after, "embed_user", raw)["embedding"]
    np.testing.assert_array_equal(users, ask(before, "embed_user", raw)["embedding"])
    # Of the last objective, every dimension counts once.
    given = {"among": tf.constant([["new", "i1"]] * 3), "weights": tf.constant([[0.0, 0.0, 1.0]] * 3)}
    assert set(ask(before, "retrieve_among", raw, **given)["ids"][:, 0]) == {"i1"}
    found = ask(after, "retrieve_among", raw, **given)
    assert found["ids"][:, :2].tolist() == [["new", ""]] * 3
    (vector,) = ask(after, "embed_item", new)["embedding"]
    np.testing.assert_allclose(found["scores"][:, 0], users @ vector, rtol=1e-4, atol=1e-4)
