"""Runs: from a configuration, a log and feature tables to metrics and an export, for unlike settings."""

import csv
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from csmf_tf import build
from csmf_tf._keras import keras, tf
from csmf_tf.config import from_dict
from csmf_tf.data.simulator import simulate
from csmf_tf.data.tables import pad_lists
from csmf_tf.run import Run

USER_FEATURES = {"country": "categorical", "age (years)": "numeric", "hobbies": "multi"}
ITEM_FEATURES = {"category": "categorical", "price": "numeric", "tags": "multi"}
TABLES = {"users": "users.csv", "items": "items.parquet"}
LEFT_OUT = ["repeated", "unknown_targets", "unknown_users", "unknown_items"]
OTHER_NAMES = ["seen it", "clicked", "add to cart", "paid"]
# Name: sections of the configuration in place of the defaults below; those of `log` are added.
CASES = {
    "tables and history with times": {
        "log": {"timestamp": "timestamp", **TABLES},
        "split": {"kind": "time", "at": 0.8},
        "features": {"user": USER_FEATURES, "item": ITEM_FEATURES},
        "model": {"embedding_dim": 8, "history": {"length": 3}},
    },
    "sampled, history without times": {
        "split": {"kind": "leave_last"},
        "model": {"embedding_dim": 8, "history": {"length": 4, "drop": 0.4}},
        "loss": {"kind": "sampled", "margin": 0.5},
        "negatives": {"uniform": 8},
        "training": {"epochs": 2, "recover_epochs": 0, "batch_size": 16},
    },
    "no user id, by weight, normalized, by tau": {
        "log": TABLES,
        "features": {"user": {"country": "categorical", "weights": "categorical"}, "item": ITEM_FEATURES},
        "model": {
            "embedding_dim": 9,
            "user_id": False,
            "hidden": [6],
            "granularity": "weight",
            "oov_buckets": 2,
            "normalize": True,
            "temperature": [0.1, 0.2, 0.3],
        },
        "capacity": {"tau": [0.5, 0.5, 0.0]},
        "closure": False,
        "training": {"epochs": 1, "recover_epochs": 1},
        "loss": {"kind": "full", "margin": 1.0},
    },
    "one objective, no validation": {
        "log": {"ignore": ["view", "cart"]},
        "funnel": ["buy"],
        "validation_users": 0,
    },
    "four objectives of other names, mixed precision": {
        "log": {"path": "other.parquet", "user": "user-id", "item": "item id", "behavior": "what:token"},
        "funnel": OTHER_NAMES,
        "model": {"embedding_dim": 10, "history": {"length": 2}},
        "capacity": {"shares": [0.4, 0.2, 0.2, 0.1]},
        "training": {"epochs": 1, "recover_epochs": 0, "mixed_precision": True},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log of three behaviours, one of four under other names, and tables of user and item features."""
    folder, rng = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    simulation = simulate(80, 50, seed=3, events_per_user=20)
    simulation.write(folder)
    log = simulation.log
    behavior = log.behavior + 1 - (log.behavior == 0) * rng.integers(0, 2, len(log))
    columns = {"user-id": log.users[log.user], "item id": log.items[log.item]}
    columns["what:token"] = np.array(OTHER_NAMES, dtype=object)[behavior]
    pq.write_table(pa.table({k: pa.array(v) for k, v in columns.items()}), folder / "other.parquet")
    with open(folder / "users.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["user_id", "country", "age (years)", "hobbies", "weights"])
        for n, user in enumerate(log.users[:-5]):
            hobbies = "|".join(["chess", "golf", "tennis"][: n % 4])
            table.writerow([user, ["de", "fr", ""][n % 3], "" if n % 7 == 0 else n, hobbies, "ab"[n % 2]])
    items = {
        "item_id": [f"i{n}" for n in range(50)],
        "category": [f"c{n % 4}" for n in range(50)],
        "price": rng.lognormal(size=50),
        "tags": [[["x"], ["x", "y"], [], None][n % 4] for n in range(50)],
    }
    pq.write_table(pa.table({k: pa.array(v) for k, v in items.items()}), folder / "items.parquet")
    return folder


def config_of(folder, log=None, **sections):
    log = {
        "path": "events.csv.gz",
        "user": "user_id",
        "item": "item_id",
        "behavior": "behavior",
        **(log or {}),
    }
    defaults = {
        "funnel": ["view", "cart", "buy"],
        "split": {"kind": "item_holdout", "fraction": 0.3},
        "validation_users": 0.5,
        "model": {"embedding_dim": 8},
        "training": {"epochs": 1, "recover_epochs": 0},
        "evaluate": {"ks": [5, 50]},
    }
    paths = {name: str(folder / log[name]) for name in ("path", "users", "items") if name in log}
    return from_dict({**defaults, **sections, "log": {**log, **paths}})


@pytest.fixture(scope="module", params=CASES)
def run(request, folder, tmp_path_factory):
    """A fitted run, read anew from its directory."""
    directory = tmp_path_factory.mktemp("run")
    Run(directory, config_of(folder, **CASES[request.param])).fit(verbose=0)
    return Run(directory).restore()


@pytest.fixture(scope="module")
def results(run):
    return run.evaluate()


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The path of an exact export of the twelve best."""
    return run.export(tmp_path_factory.mktemp("export"), index="exact", k=12)


# A process that has never heard of csmf_tf: asked by lines of JSON, it answers with ids and scores.
SERVER = """
import json, sys
sys.modules["csmf_tf"] = None
import tensorflow as tf
print("ready", flush=True)
models = {}
for line in sys.stdin:
    asked = json.loads(line)
    if asked["path"] not in models:
        models[asked["path"]] = tf.saved_model.load(asked["path"])
    retrieve = models[asked["path"]].signatures["retrieve"]
    specs = retrieve.structured_input_signature[1]
    inputs = asked["inputs"]
    answer = retrieve(**{name: tf.constant(inputs[name], spec.dtype) for name, spec in specs.items()})
    ids = [[item.decode() for item in row] for row in answer["ids"].numpy()]
    print(json.dumps({"ids": ids, "scores": answer["scores"].numpy().tolist()}), flush=True)
"""


@pytest.fixture(scope="module")
def served():
    """Function of an export's path and its inputs that gives ids and scores from the other process."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | {"PYTHONPATH": "", "TF_CPP_MIN_LOG_LEVEL": "2"},
        cwd="/",
    ) as process:
        assert process.stdout.readline() == "ready\n"

        def ask(path, inputs):
            process.stdin.write(json.dumps({"path": path, "inputs": inputs}) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            return np.array(answer["ids"]), np.array(answer["scores"])

        yield ask
        process.stdin.close()


def fused_scores(run, weights):
    """float64 [U, N]: sum_k w_k s_k of all known users and items, by the model's own vectors."""
    split = run.prepared.split
    known = split.train.append(split.validation)
    features = build.user_features(run.config, run.prepared, run.model, known)
    users = run.model.user_vectors(features.latest(np.arange(len(known.users)))).astype(np.float64)
    items, owner = run.model.item_vectors().astype(np.float64), run.model.owner
    return sum(
        weight * (users[:, own] @ items[:, own].T)
        for stage, weight in enumerate(weights, start=1)
        for own in [(owner >= 1) & (owner <= stage)]
    )


def held_inputs(path, users):
    """The features of some users that lie beside an export, lists filled up."""
    table = pq.read_table(pathlib.Path(path) / "assets.extra" / "users.parquet").take(users).to_pydict()
    for name, values in table.items():
        if isinstance(values[0], list):
            width = max(len(value) for value in values)
            table[name] = [value + [""] * (width - len(value)) for value in values]
        if isinstance(values[0], float) or None in values:
            table[name] = [float("nan") if value is None else value for value in values]
    return table


def test_evaluate_gives_what_the_contract_says(run, results):
    results = json.loads(json.dumps(results, allow_nan=False))
    funnel = list(run.config.funnel)
    assert set(results) >= {"objectives", "fused", "baselines", "unknown_users", "unknown_items"}
    assert set(results["baselines"]) == {"popularity", "popularity_any"}
    for table in (results["objectives"], results["fused"], *results["baselines"].values()):
        assert list(table) == funnel
        for metrics in table.values():
            assert set(metrics) >= {"recall@50", "ndcg@50", "coverage@50", "users", "skipped", "intervals"}
            for metric, (low, high) in metrics["intervals"].items():
                assert 0 <= low <= metrics[metric] <= high <= 1
    for name in funnel:
        assert results["objectives"][name]["users"] == results["fused"][name]["users"] > 0
    assert all(isinstance(results[name], int) for name in LEFT_OUT)


def test_evaluate_ranks_the_full_catalogue_without_the_items_met_in_training(run, results):
    split, results = run.prepared.split, results["objectives"]
    known = split.train.append(split.validation)
    weights = np.eye(len(run.config.funnel))
    for behavior, name in enumerate(run.config.funnel):
        scores = fused_scores(run, weights[behavior])
        scores[known.user, known.item] = -np.inf
        wanted: dict[int, set[int]] = {}
        for user, item, what in zip(split.test.user, split.test.item, split.test.behavior, strict=True):
            if what == behavior:
                wanted.setdefault(user, set()).add(item)
        top = np.argsort(-scores, axis=1)[:, :5]
        recall = np.mean([len(items & {*top[user]}) / len(items) for user, items in wanted.items()])
        assert results[name]["users"] == len(wanted)
        # Ties and the last bits of float32 may swap a few items.
        assert results[name]["recall@5"] == pytest.approx(recall, abs=0.02)


def test_log_of_the_fit_measures_every_finished_objective_and_none_moves(run, results):
    log = json.loads((run.directory / "state.json").read_text())["log"]
    measured = [entry["measured"] for entry in log if entry["phase"] == "freeze"]
    funnel = list(run.config.funnel)
    assert [list(table) for table in measured] == [funnel[:n] for n in range(1, len(funnel) + 1)]
    for before, after in itertools.pairwise(measured):
        assert {name: after[name] for name in before} == before
    for name, metrics in measured[-1].items():
        final = dict(results["objectives"][name])
        assert final.pop("intervals")
        assert final == metrics
        assert results["retention"][name][funnel[-1]] == metrics[results["metric"]]


def test_query_from_a_process_without_csmf_tf_ranks_as_the_model_does(run, exported, served):
    rng, users = np.random.default_rng(4), [0, 3, 7, -1]
    users = np.array(users) % len(run.prepared.split.train.users)
    tolerance = 0.05 if run.config.training.mixed_precision else 1e-4
    for weights in (np.ones(len(run.config.funnel)), rng.uniform(0, 2, len(run.config.funnel))):
        inputs = held_inputs(exported, users) | {"weights": [weights.tolist()] * len(users)}
        ids, scores = served(exported, inputs)
        expected = fused_scores(run, weights)[users]
        assert ids.shape == (len(users), 12)
        np.testing.assert_allclose(
            scores, -np.sort(-expected, axis=1)[:, :12], rtol=tolerance, atol=tolerance
        )
        code = {item: n for n, item in enumerate(run.model.catalogue_ids)}
        mine = np.array([[expected[row, code[item]] for item in ids[row]] for row in range(len(users))])
        np.testing.assert_allclose(scores, mine, rtol=tolerance, atol=tolerance)


def test_stranger_gets_the_answer_of_the_unknown_user(run, exported, served):
    inputs = held_inputs(exported, [0, 0])
    blank = {float: float("nan"), str: "", list: [""]}
    inputs = {name: [blank[type(values[0])]] * 2 for name, values in inputs.items()}
    inputs[next(iter(inputs))] = ["stranger", "another"]
    funnel = len(run.config.funnel)
    ids, scores = served(exported, inputs | {"weights": [[1.0] * funnel] * 2})
    assert np.all(np.isfinite(scores))
    assert np.all(ids != "")
    if run.config.model.oov_buckets == 1:
        assert ids[0].tolist() == ids[1].tolist()


def test_item_embedder_of_an_export_gives_known_and_new_items_their_vectors(run, exported):
    served = tf.saved_model.load(exported).signatures["embed_item"]
    specs = served.structured_input_signature[1]
    # The export's names are the table's, but for what may not stand in an identifier.
    table = pad_lists(run.prepared.items)
    raw = {name: next(v[:3] for n, v in table.items() if re.sub(r"\W", "_", n) == name) for name in specs}

    def embed(raw):
        given = {name: tf.constant(raw[name], spec.dtype) for name, spec in specs.items()}
        return served(**given)["embedding"].numpy()

    tolerance = 0.05 if run.config.training.mixed_precision else 1e-5
    owned = np.where(run.model.owner > 0, run.model.item_vectors()[:3], 0.0)
    np.testing.assert_allclose(embed(raw), owned, rtol=tolerance, atol=tolerance)

    card = json.loads((pathlib.Path(exported) / "assets.extra" / "csmf.json").read_text())
    cold = {**raw, card["item_id"]: np.array(["never seen"] * 3, object)}
    vectors = embed(cold)
    assert np.isfinite(vectors).all()
    # A new item is told from another by its features alone.
    features = [raw[name] for name in raw if name != card["item_id"]]
    same = [all(np.array_equal(values[i], values[0]) for values in features) for i in range(3)]
    assert [np.allclose(vectors[i], vectors[0], atol=1e-6) for i in range(3)] == same


# Errors, and what is unfinished


def test_run_that_never_trained_takes_another_configuration(folder, tmp_path):
    Run(tmp_path, config_of(folder))
    assert Run(tmp_path, config_of(folder, model={"embedding_dim": 16})).model.owner.shape == (16,)
    assert Run(tmp_path).config.model.embedding_dim == 16


def test_run_whose_log_changed_is_refused(folder, tmp_path):
    log = tmp_path / "events.csv.gz"
    log.write_bytes((folder / "events.csv.gz").read_bytes())
    (tmp_path / "items.csv.gz").write_bytes((folder / "items.csv.gz").read_bytes())
    Run(tmp_path / "run", config_of(tmp_path))
    (tmp_path / "run" / "state.json").touch()
    Run(tmp_path / "run", config_of(tmp_path))
    simulate(60, 50, seed=4, events_per_user=20).write(tmp_path)
    with pytest.raises(ValueError, match=re.escape(f"Received: other contents in ['{log}']")):
        Run(tmp_path / "run", config_of(tmp_path))
    log.unlink()
    Run(tmp_path / "run", config_of(tmp_path))


def test_xla_with_batches_of_changing_shape_is_refused(folder, tmp_path):
    run = Run(tmp_path, config_of(folder, training={"jit_compile": True}))
    with pytest.raises(ValueError, match=r"`training.jit_compile` should go with batches of fixed shape"):
        run.stages()


def test_run_with_another_configuration_is_refused_with_what_changed(folder, tmp_path):
    Run(tmp_path, config_of(folder))
    (tmp_path / "state.json").touch()
    assert Run(tmp_path, config_of(folder)).config == config_of(folder)
    message = (
        f"The configuration should be that of the run in {tmp_path}, which is resumed. Received changes: "
        "model.embedding_dim: 8 -> 16; change them back, or give another --out"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        Run(tmp_path, config_of(folder, model={"embedding_dim": 16}))


def test_directory_without_a_run_is_refused(tmp_path):
    message = f"make it with `csmf-tf fit CONFIG.yaml --out {tmp_path}`"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        Run(tmp_path)


@pytest.mark.parametrize("call", ["evaluate", "export"])
def test_what_needs_a_finished_stage_says_so(folder, tmp_path, call):
    run = Run(tmp_path / "run", config_of(folder)).restore()
    arguments = [tmp_path / "export"] if call == "export" else []
    message = f"{tmp_path / 'run'} should have a finished stage. Received: none; go on with `csmf-tf fit`"
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(run, call)(*arguments)
    assert not (tmp_path / "export").exists()


def test_objective_without_validation_events_is_refused_before_anything_is_trained(folder, tmp_path):
    run = Run(tmp_path, config_of(folder, validation_users=0.02))
    message = "should have validation targets. Received: none; raise `validation_users`, or hold out more"
    with pytest.raises(ValueError, match=re.escape(message)):
        run.fit(verbose=0)
    assert not (tmp_path / "state.json").exists()


class Stop(keras.callbacks.Callback):
    """Stands for a user who interrupts the second stage."""

    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


def test_unfinished_run_answers_for_its_finished_objectives_and_goes_on(folder, served, tmp_path):
    config = config_of(folder, training={"epochs": 2, "recover_epochs": 1})
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "run", config).fit(lambda name, phase: [Stop()] if name == "cart" else [], verbose=0)
    run = Run(tmp_path / "run").restore()
    assert run.model.objective == "cart"
    results = run.evaluate()
    assert list(results["objectives"]) == ["view"]
    assert results["fused"]["view"] == results["objectives"]["view"]
    path = run.export(tmp_path / "export", index="exact", k=5)
    users = np.array([1, 2])
    _, scores = served(path, held_inputs(path, users) | {"weights": [[2.0]] * 2})
    expected = fused_scores(run, [2.0, 0.0, 0.0])[users]
    np.testing.assert_allclose(scores, -np.sort(-expected, axis=1)[:, :5], rtol=1e-4, atol=1e-4)
    log = Run(tmp_path / "run", config).fit(verbose=0)
    assert [entry["objective"] for entry in log if entry["phase"] == "freeze"] == ["view", "cart", "buy"]
    finished = Run(tmp_path / "run").restore()
    assert finished.evaluate()["objectives"]["view"] == results["objectives"]["view"]
