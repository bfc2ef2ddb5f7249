"""The quality benchmark: peers, ways to share, fused curves, and a run that goes on where it stopped."""

import gzip
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from csmf_tf import build
from csmf_tf._keras import keras, tf
from csmf_tf.config import from_dict
from csmf_tf.data.log import EventLog
from csmf_tf.data.simulator import simulate
from csmf_tf.run import Run
from csmf_tf.schedule import Fit

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.quality import (
    alternatives,
    compute,
    csmf,
    fused,
    graph,
    peers,
    run,
    scaling,
    sharing,
    workers,
)
from benchmarks.quality.heterrec import DEPTHS, DIMS
from benchmarks.quality.task import Ranked, Task, configuration

NAMES = ["view", "cart", "buy"]


@pytest.fixture(scope="module")
def events(tmp_path_factory):
    """A folder with a simulated log under a known name."""
    folder = tmp_path_factory.mktemp("logs")
    simulate(users=120, items=40, events_per_user=20).write(folder / "taobao")
    return folder


@pytest.fixture(scope="module")
def task(events, tmp_path_factory):
    columns = {"user": "user_id", "item": "item_id", "behavior": "behavior"}
    raw = {
        "log": {"path": str(events / "taobao" / "events.csv.gz"), **columns},
        "funnel": NAMES,
        "split": {"kind": "item_holdout"},
        "validation_users": 0.5,
        "model": {"embedding_dim": 6},
        "training": {"epochs": 2, "recover_epochs": 1},
        "evaluate": {"ks": [5]},
    }
    base = Run(tmp_path_factory.mktemp("run"), from_dict(raw))
    return Task(base, base.validation(), base.evaluator(), 0, tmp_path_factory.mktemp("scratch") / "run")


@pytest.fixture
def report(events, tmp_path, monkeypatch):
    """Function of methods and further arguments that runs the benchmark, and gives what it reports."""
    # It would hold for all tests that follow in this process.
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    quick = ["training.epochs=1", "training.recover_epochs=1", "model.embedding_dim=6"]
    settings = [part for value in quick for part in ("--set", value)]

    def reported(methods, *further, out=tmp_path):
        where = ["--logs", "taobao", "--folder", str(events), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["run.py", *where, "--methods", *methods, *settings, *further])
        run.main()
        return json.loads((out / "summary.json").read_text())["taobao"]

    return reported


def test_interactions_hold_what_was_done_and_weigh_the_later_behaviours_more():
    user, item = np.array([0, 0, 0, 0, 1]), np.array([2, 2, 2, 0, 1])
    behavior = np.array([0, 0, 2, 1, 0], np.int8)
    log = EventLog(user, item, behavior, None, np.array(["a", "b"]), np.array(["c", "d", "e"]), tuple(NAMES))
    assert peers.interactions(log, "union").toarray().tolist() == [[1, 0, 1], [0, 1, 0]]
    assert peers.interactions(log, "weighted").toarray().tolist() == [[2, 0, 5], [0, 1, 0]]
    assert peers.interactions(log, "own", 1).toarray().tolist() == [[1, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("shape", [(30, 12), (12, 30)])
def test_ease_is_its_closed_form_from_either_side(shape):
    matrix = (np.random.default_rng(0).random(shape) < 0.3).astype(np.float32)
    inverse = np.linalg.inv(matrix.T.astype(np.float64) @ matrix + 5 * np.eye(shape[1]))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    rows = np.array([3, 0])
    found = peers.ease(peers.scipy.sparse.csr_matrix(matrix), 5.0)(rows)
    np.testing.assert_allclose(found, matrix[rows] @ weights, atol=1e-4)


@pytest.mark.parametrize("method", ["ials_own", "knn_weighted"])
def test_peers_rank_better_than_popularity(task, method):
    found, floor = peers.METHODS[method](task), peers.METHODS["popularity"](task)
    recall = {
        k: np.mean([task.test.discovery(one.scores[name], name).values["recall@5"].mean() for name in NAMES])
        for k, one in (("peer", found), ("floor", floor))
    }
    assert recall["peer"] > recall["floor"]
    assert found.indexes == {"ials_own": 3, "knn_weighted": 0}[method]


def test_bpr_tells_what_a_user_did_from_the_rest(task):
    users, items = peers.METHODS["bpr_union"](task).scores["view"]
    known = task.test.known
    done = np.zeros((len(users), len(items)), bool)
    done[known.user, known.item] = True
    scores = users @ items.T
    assert users.shape[1] == 6
    assert scores[done].mean() > scores[~done].mean() + scores.std() / 2


def test_a_result_is_of_the_configuration_that_its_method_trains(task):
    settings = {
        name: compute.setting_of(name, task.run.config, 0) for name in ("csmf", "csmf_128", "heterrec")
    }
    widths = {name: setting["model"]["embedding_dim"] for name, setting in settings.items()}
    assert widths["csmf_128"] == 128 != widths["csmf"] == task.run.config.model.embedding_dim
    read = settings["heterrec"]["model"]
    assert (read["user_tower"], read["history"]["length"], read["heterrec"]["buckets"]) == (
        "heterrec",
        50,
        20,
    )
    assert settings["csmf"]["model"]["user_tower"] == "mlp"


def test_without_git_a_result_is_not_lost(monkeypatch):
    assert re.fullmatch(r"([0-9a-f]{7,}(-dirty)?)?", compute.code_of())
    monkeypatch.setenv("PATH", "")
    assert compute.code_of() == ""


def test_the_setting_is_chosen_on_the_validation_part(task):
    def fit(matrix, setting, task):
        items = np.asarray(matrix.sum(axis=0)).T.astype(np.float32)
        return np.ones((matrix.shape[0], 1), np.float32), setting * items

    _, taken = peers.fitted(fit, [-1.0, 1.0], "own", task)
    assert taken == [1.0, 1.0, 1.0]


STAND_IN = """
import sys
import numpy as np
pairs = np.load(sys.argv[1])
users = np.zeros(pairs["shape"])
users[tuple(pairs["train"].T)] = 1
curve = [len(pairs["validation"]), pairs["dim"], pairs["seed"]]
np.savez(sys.argv[2], users=users, items=np.eye(users.shape[1]), curve=curve, seconds=2)
"""


def test_the_graph_model_is_given_pairs_and_gives_vectors(task, tmp_path, monkeypatch):
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(graph, "INTERPRETER", sys.executable)
    monkeypatch.setattr(graph, "SCRIPT", script)
    ranked = graph.METHODS["lightgcn_union"](task)
    split = task.run.prepared.split
    users, items = ranked.scores["buy"]
    np.testing.assert_array_equal(users @ items.T, peers.interactions(split.train, "union").toarray())
    # Of a hold-out of items, no pair is in both parts.
    validation = peers.interactions(split.validation, "union").nnz
    assert ranked.notes == {"curve": [validation, 6, 0], "seconds_an_epoch": 2}


def test_the_graph_model_is_left_out_without_its_environment(report, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(graph, "INTERPRETER", tmp_path / "python")
    found = report(["popularity", "lightgcn_union"], "--seeds", "0")
    assert list(found["methods"]) == ["popularity"]
    assert "left out ['lightgcn_union']: " in capsys.readouterr().out


def test_projected_gradients_are_those_of_pcgrad():
    rng = np.random.default_rng(0)
    gradients = rng.standard_normal((4, 5)).astype(np.float32)
    orders = [rng.permutation(4) for _ in range(4)]
    expected = np.zeros(5)
    for i, order in enumerate(orders):
        own = gradients[i].astype(np.float64)
        for j in order:
            if j != i and (along := own @ gradients[j]) < 0:
                own = own - along / (gradients[j] @ gradients[j]) * gradients[j]
        expected += own
    found = sharing.project([tf.constant(g) for g in gradients], [tf.constant(order) for order in orders])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert not np.allclose(expected, gradients.sum(axis=0))


def test_the_gates_of_a_mixture_sum_to_one_and_follow_their_input():
    double = keras.layers.Lambda(lambda x: 2 * x)
    mixture = sharing.Mixture([keras.layers.Lambda(lambda x: x), double])
    x = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    np.testing.assert_allclose(mixture(x), 1.5 * x, rtol=1e-6)
    kernel = np.zeros((3, 2), np.float32)
    kernel[0, 1] = 100
    mixture.gate.set_weights([kernel, np.zeros(2, np.float32)])
    np.testing.assert_allclose(mixture(x), x * np.where(x[:, :1] > 0, 2, 1), rtol=1e-3, atol=1e-3)


def test_segments_add_up_down_the_funnel(task):
    model, data = alternatives._new(task, NAMES, "segments")
    vectors = [sharing.vectors(model, data, k) for k in range(3)]
    (whole, items), owner = vectors[-1], model.owner
    assert np.bincount(owner).tolist() == [0, 4, 1, 1]
    for k, (users, same) in enumerate(vectors, start=1):
        expected = sum(whole[:, owner == j] @ items[:, owner == j].T for j in range(1, k + 1))
        np.testing.assert_allclose(users @ same.T, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("combine", "balance"),
    [("one", "sum"), ("heads", "pcgrad"), ("ple", "uncertainty")],
)
def test_training_lowers_the_loss_of_every_objective_and_repeats_itself(task, combine, balance):
    judged = itertools.count()
    batch, results = None, []
    for _ in range(2 if combine == "one" else 1):
        model, data = alternatives._new(task, NAMES, combine, balance)
        batch = batch or next(data.batches(99))
        before = [float(loss) for loss in model.losses_of(batch)]
        # Each epoch is judged better than the one before, so the last one's weights stay.
        sharing.train(model, data, lambda: next(judged), keras.optimizers.Adam(0.05), Fit(3, 1, decay=False))
        results.append([float(loss) for loss in model.losses_of(batch)])
    assert np.all(np.array(results[0]) < before)
    assert results[-1] == results[0]


def test_training_keeps_the_best_epoch_and_stops_out_of_patience(task):
    model, data = alternatives._new(task, ["buy"])
    judged, seen = iter([0.1, 0.3, 0.2, 0.3, 0.9]), []

    def judge():
        seen.append(sharing.vectors(model, data, 0)[1])
        return next(judged)

    values = sharing.train(model, data, judge, keras.optimizers.Adam(0.01), Fit(9, 2, decay=False))
    assert values == [0.1, 0.3, 0.2, 0.3]
    np.testing.assert_array_equal(sharing.vectors(model, data, 0)[1], seen[1])


def test_a_model_of_the_first_objective_learns_as_the_first_stage_of_csmf_does(task):
    model, data = alternatives._new(task, ["view"])
    curve = alternatives.fit(task, model, data, ["view"])
    csmf = Run(task.folder, task.run.config)
    csmf.model.begin("view")
    csmf.model.compile(build.optimizer(csmf.config, csmf.prepared))
    csmf.model.fit(csmf.stages()["view"].dataset(), epochs=2, verbose=0)
    assert len(curve) == 3
    assert curve[2] == pytest.approx(csmf.validation().judge(csmf.model, "view")["recall@5"], abs=1e-9)


def test_batches_hold_each_users_positives_of_each_objective(task):
    train, data = task.run.prepared.split.train, sharing.Data(task, NAMES)
    found = [set(), set(), set()]
    for batch in data.batches(0):
        users = batch["user"]["user_id"] - 1
        for k, pairs in enumerate(found):
            row = users[batch["present"][k][batch["row"][k]]]
            pairs |= set(zip(row.tolist(), batch["item"][k].tolist(), strict=True))
    for k, pairs in enumerate(found):
        later = train.behavior >= k
        expected = set(zip(train.user[later].tolist(), train.item[later].tolist(), strict=True))
        # Some rows train the unknown user instead.
        assert {pair for pair in pairs if pair[0] >= 0} <= expected
        assert len(pairs) > 0.9 * len(expected)


def test_sequential_reports_what_each_stage_did_to_the_earlier_objectives(task):
    ranked = alternatives.METHODS["sequential"](task)
    assert {stage: list(row) for stage, row in ranked.notes["after"].items()} == {
        "view": ["view"],
        "cart": ["view", "cart"],
        "buy": NAMES,
    }
    final = task.test.discovery(ranked.scores["view"], "view").values["recall@5"].mean()
    assert ranked.notes["after"]["buy"]["view"] == pytest.approx(final)


def test_a_stage_that_keeps_what_was_freed_starts_from_it(task, tmp_path):
    model = Run(tmp_path / "run", task.run.config).model
    csmf._keep_freed(model)
    model.begin("view")
    tables = [model.towers.user.tables["user_id"].embeddings, model.towers.item.tables["item_id"].embeddings]
    learned = [table.numpy() for table in tables]
    model.prune(share=0.5)
    model.freeze()
    kept = model.owner == 1
    model.begin("cart")
    assert 0 < kept.sum() < len(kept)
    for table, values in zip(tables, learned, strict=True):
        np.testing.assert_array_equal(table.numpy()[:, ~kept], values[:, ~kept])


def test_the_published_test_file_is_the_test_part_and_whole_pairs_validate(tmp_path):
    folder = tmp_path / "retailrocket"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = {(u, i, b) for u in range(30) for i in rng.integers(0, 20, 9) for b in NAMES[: rng.integers(1, 4)]}
    header = "user_id,item_id,behavior,timestamp\n"
    (folder / "events.csv.gz").write_bytes(
        gzip.compress((header + "".join(f"u{u},i{i},{b},5\n" for u, i, b in sorted(rows))).encode())
    )
    held = {(u, i) for u in range(30) for i in range(20)} - {(u, i) for u, i, _ in rows}
    held = dict(sorted(held))
    test = "user_id,item_id,behavior\n" + "".join(f"u{u},i{i},buy\n" for u, i in held.items())
    (folder / "published_test.csv.gz").write_bytes(gzip.compress(test.encode()))
    config = configuration("retailrocket-published", tmp_path, tmp_path / "out", ["validation_users=0.9"])
    split = build.prepare(config).split

    def pairs(log):
        return set(zip(log.users[log.user], log.items[log.item], strict=True))

    assert pairs(split.test) == {(f"u{u}", f"i{i}") for u, i in held.items()}
    assert set(split.test.behavior) == {2}
    assert len(split.train) + len(split.validation) == len(rows)
    assert 0.03 < len(split.validation) / len(rows) < 0.2
    assert not pairs(split.train) & pairs(split.validation)


def test_weightings_cover_the_simplex():
    weights = fused.weightings(3)
    assert len(np.unique(weights, axis=0)) == 66
    np.testing.assert_allclose(weights.sum(axis=1), 1)


def test_merged_vectors_rank_as_standardised_scores_do(task):
    rng = np.random.default_rng(0)
    users, items = len(task.test.known.users), len(task.test.known.items)
    pairs = [
        (scale * rng.standard_normal((users, 4)), rng.standard_normal((items, 4)) + 1) for scale in (1, 9)
    ]
    dense = [lambda rows, u=u, v=v: u[rows] @ v.T for u, v in pairs]
    some, weights = np.array([5, 2]), np.array([0.3, 0.7])
    queries, wide = fused.merged(pairs, some)(weights)
    scores = (queries @ wide.T)[some]
    expected = fused.merged(dense, some)(weights)(some)
    np.testing.assert_allclose(scores - scores.mean(axis=1, keepdims=True), expected, atol=1e-4)
    found = fused.curve(Ranked(dict(enumerate(pairs)), 2, 4), task.test)
    assert found.shape == (11, 3)


def test_a_point_above_the_front_dominates_some_of_it_and_is_dominated_by_none():
    others = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.2]])
    points = np.array([[0.6, 0.6], [0.5, 0.5], [0.1, 0.9], [0.4, 0.4], [0.9, 0.2]])
    assert fused.above(points, others).tolist() == [True, False, False, False, True]


def test_a_run_computes_what_is_missing_and_nothing_twice(report, tmp_path, monkeypatch):
    computed = []

    def counted(name, method):
        return lambda task: computed.append((name, task.seed)) or method(task)

    methods, one_process = ["popularity", "counting", "bpr_union", "esmm", "csmf"], ("--workers", "1")
    for name in methods:
        monkeypatch.setitem(compute.METHODS, name, counted(name, compute.METHODS[name]))

    first = report(methods, *one_process, "--seeds", "0")
    assert computed == [("popularity", 0), ("counting", 0), ("bpr_union", 0), ("esmm", 0), ("csmf", 0)]
    assert report(methods, *one_process, "--seeds", "0") == first
    assert len(computed) == 5
    (tmp_path / "taobao" / "bpr_union-0.json").unlink()
    both = report(["popularity", "bpr_union"], *one_process, "--seeds", "0", "1")
    assert computed[5:] == [("bpr_union", 0), ("bpr_union", 1)]
    assert {name: one["seeds"] for name, one in both["methods"].items()} == {"popularity": 1, "bpr_union": 2}
    report(["popularity", "esmm"], *one_process, "--seeds", "0", "--set", "loss.l2=0.3")
    assert computed[7:] == [("esmm", 0)]
    assert not list(tmp_path.glob("taobao/unfinished*"))

    csmf = first["methods"]["csmf"]
    assert csmf["after"]["view"]["view"] == csmf["after"]["buy"]["view"]
    assert csmf["candidate"] == dict.fromkeys(NAMES, "overlaps")
    for one in first["methods"].values():
        for objective in NAMES:
            recall = one["objectives"][objective]["recall@50"]
            assert recall["interval"][0] <= recall["mean"] <= recall["interval"][1]
    assert first["fronts"]["one search"]["of"] == len(csmf["fused"]) == 66


def test_workers_compute_what_one_process_does_and_nothing_twice(report, tmp_path, monkeypatch, capfd):
    methods = ["ials_union", "esmm"]
    expected = report(methods, "--seeds", "0", "--workers", "1", out=tmp_path / "one")
    capfd.readouterr()
    found = report(methods, "--seeds", "0", "--workers", "2")
    printed = capfd.readouterr().out
    for name in methods:
        assert printed.count(f"taobao {name} 0: ") == 1
        assert found["methods"][name]["objectives"] == expected["methods"][name]["objectives"]
    monkeypatch.setattr(workers, "run_all", None)
    assert report(methods, "--seeds", "0", "--workers", "2") == found
    assert not list(tmp_path.glob("taobao/unfinished*"))


def test_a_worker_that_fails_ends_the_others_and_says_why(tmp_path):
    written = [tmp_path / name for name in ("first", "ended", "never")]
    write = "import pathlib, sys, time; time.sleep({}); pathlib.Path(sys.argv[1]).write_text('')"
    fail = "import time; time.sleep(2); raise ValueError('no events')"
    codes = {"first": write.format(0), "ended": write.format(60), "failing": fail, "never": write.format(0)}
    commands = {name: [sys.executable, "-c", code, str(tmp_path / name)] for name, code in codes.items()}
    started = time.monotonic()
    with pytest.raises(SystemExit, match=r"(?s)failing should end with exit code 0\. Received: 1.*no events"):
        workers.run_all(commands, 2)
    assert time.monotonic() - started < 30
    assert [path.exists() for path in written] == [True, False, False]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_workers_share_the_cores(at_once, tmp_path, capfd):
    # In one write: the workers share what they write to.
    line = "f\"{sorted(os.sched_getaffinity(0))} {os.environ['OPENBLAS_NUM_THREADS']}\\n\""
    code = f"import os; os.write(1, {line}.encode())"
    workers.run_all({str(place): [sys.executable, "-c", code] for place in range(at_once)}, at_once)
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[place % len(cores) :: at_once] for place in range(at_once)]
    assert sorted(capfd.readouterr().out.splitlines()) == sorted(f"{one} {len(one)}" for one in shares)


@pytest.mark.parametrize("signalled", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_leaves_no_worker_behind(signalled):
    work = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]
    # What a shell starts in the background ignores Ctrl-C, and so would all that it starts.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"from benchmarks.quality.workers import run_all; run_all({{'work': {work}}}, 1)"
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, **pipes) as main:
        worker = int(main.stdout.readline())
        main.send_signal(signalled)
        assert main.wait(30)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_the_figure_of_depths_and_widths_shows_what_is_there(tmp_path):
    def cell(mean, low, high):
        return {"objectives": {"view": {"recall@10": {"mean": mean, "interval": [low, high]}}}}

    whole = {f"{kind}_{n}x{d}": cell(0.3, 0.2, 0.5) for kind in scaling.KINDS for n in DEPTHS for d in DIMS}
    # Rounded, a mean may lie outside an interval without width.
    part = {"heterrec_2x64": cell(0.30001, 0.3, 0.3), "joined_1x32": cell(0.3, 0.30001, 0.30001)}
    logs = {"one": {"methods": whole}, "other": {"methods": part}}
    scaling.draw(tmp_path / "scaling.png", logs, "recall@10")
    assert Image.open(tmp_path / "scaling.png").size[0] > 800
