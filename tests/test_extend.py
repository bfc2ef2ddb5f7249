"""A finished run takes a further objective: earlier scores stay to the bit, all commands know the new one."""

import csv
import gzip
import json
import re
import shutil

import numpy as np
import pytest
from thorough import left_out

from csmf_tf import build
from csmf_tf._keras import keras, tf
from csmf_tf.cli import main
from csmf_tf.config import from_dict
from csmf_tf.data.further import add_behavior
from csmf_tf.data.log import read_log
from csmf_tf.data.simulator import simulate
from csmf_tf.data.splits import Split, split_log
from csmf_tf.data.store import load
from csmf_tf.run import Run

COLUMNS = {"user": "user_id", "item": "item_id", "behavior": "behavior"}
KINDS = {
    "item_holdout": {"split": {"kind": "item_holdout", "fraction": 0.3}},
    "leave_last, history": {
        "split": {"kind": "leave_last"},
        "model": {"embedding_dim": 8, "history": {"length": 3}},
        "capacity": {"tau": [0.5, 0.5]},
    },
    "time, weight, normalized": {
        "split": {"kind": "time", "at": 0.7},
        "model": {
            "embedding_dim": 8,
            "hidden": [6],
            "granularity": "weight",
            "normalize": True,
            "history": {"length": 3},
        },
        "capacity": {"tau": [0.5, 0.5]},
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    simulate(120, 60, seed=1, events_per_user=20).write(folder)
    return folder


def config_of(folder, **sections):
    defaults = {
        "log": {
            "path": str(folder / "events.csv.gz"),
            **COLUMNS,
            "timestamp": "timestamp",
            "ignore": ["buy"],
        },
        "funnel": ["view", "cart"],
        "split": {"kind": "item_holdout", "fraction": 0.3},
        "validation_users": 0.5,
        "model": {"embedding_dim": 8},
        "capacity": {"shares": [0.5, 0.2]},
        "training": {"epochs": 2, "recover_epochs": 1},
        "evaluate": {"ks": [5]},
    }
    return from_dict({**defaults, **sections})


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """Folder of a finished run of the default configuration."""
    directory = tmp_path_factory.mktemp("run")
    Run(directory, config_of(folder)).fit(verbose=0)
    return directory


@pytest.fixture
def directory(finished, tmp_path):
    """A copy of the finished run."""
    return shutil.copytree(finished, tmp_path / "run")


def vectors(run):
    """Bytes of each earlier objective's user and item vectors of everyone, as now served."""
    known = run.prepared.split.train.append(run.prepared.split.validation)
    users = build.user_features(run.config, run.prepared, run.model, known)
    u, v = run.model.user_vectors(users.latest(np.arange(len(known.users)))), run.model.item_vectors()
    own = [(run.model.owner >= 1) & (run.model.owner <= stage) for stage in (1, 2)]
    return [(u[:, mask].tobytes(), v[:, mask].tobytes()) for mask in own]


@pytest.mark.parametrize("kind", left_out(KINDS, ["item_holdout", "leave_last, history"]))
def test_earlier_scores_stay_and_every_command_knows_the_new_objective(folder, tmp_path, capsys, kind):
    directory, config = tmp_path / "run", config_of(folder, **KINDS[kind])
    run = Run(directory, config)
    run.fit(verbose=0)
    before, measured = vectors(run), run.evaluate()["objectives"]
    log = Run(directory).add_objective("buy", share=0.2, verbose=0)
    assert [entry["objective"] for entry in log if entry["phase"] == "freeze"] == ["view", "cart", "buy"]

    fresh = Run(directory, config).restore()
    assert fresh.model.funnel == ("view", "cart", "buy")
    assert vectors(fresh) == before
    assert 0 < np.sum(fresh.model.owner == 3) <= 2
    assert fresh.fit(verbose=0) == log

    assert main(["evaluate", str(directory), "--json", str(tmp_path / "metrics.json")]) == 0
    results = json.loads((tmp_path / "metrics.json").read_text())
    for table in (results["objectives"], results["fused"], results["baselines"]["popularity"]):
        assert list(table) == ["view", "cart", "buy"]
    assert results["objectives"]["buy"]["users"] > 0
    # Here everything bought has been viewed, so that nobody has met anything new.
    assert {name: results["objectives"][name] for name in measured} == measured

    assert main(["export", str(directory), "--out", str(tmp_path / "export"), "--index", "exact"]) == 0
    capsys.readouterr()
    query = ["query", str(tmp_path / "export"), "--user", "u1", "--weights", "view=1,buy=3", "-k", "5"]
    assert main([*query, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 5


class Stop(keras.callbacks.Callback):
    """Stands for a process that is killed in the stage of the new objective."""

    def on_epoch_end(self, epoch, logs=None):
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def killed(finished, tmp_path_factory):
    """Function of a moment that gives a run whose extension was killed then, and its vectors before."""
    made = {}

    def kill(*args, **kwargs):
        raise KeyboardInterrupt

    def at(moment):
        if moment not in made:
            directory = shutil.copytree(finished, tmp_path_factory.mktemp("killed") / "run")
            run = Run(directory).restore()
            made[moment] = directory, vectors(run)
            with pytest.MonkeyPatch.context() as patch:
                if moment == "before the events":
                    patch.setattr("csmf_tf.run.save_split", kill)
                if moment == "before the stage":
                    patch.setattr(Run, "fit", kill)
                with pytest.raises(KeyboardInterrupt):
                    run.add_objective("buy", share=0.2, callbacks=lambda name, phase: [Stop()], verbose=0)
        return made[moment]

    return at


@pytest.mark.parametrize("killed_at", ["before the events", "before the stage", "in an epoch"])
@pytest.mark.parametrize("again", ["add_objective", "fit"])
def test_killed_extension_goes_on(killed, tmp_path, killed_at, again):
    left, before = killed(killed_at)
    directory = shutil.copytree(left, tmp_path / "run")
    run = Run(directory).restore()
    assert list(run.evaluate()["objectives"]) == ["view", "cart"]
    assert vectors(run) == before
    if again == "fit" and killed_at == "before the events":
        with pytest.raises(ValueError, match="Objective 'buy' should have validation targets"):
            run.fit(verbose=0)
        return
    log = run.fit(verbose=0) if again == "fit" else run.add_objective("buy", share=0.2, verbose=0)
    assert [entry["objective"] for entry in log if entry["phase"] == "freeze"] == ["view", "cart", "buy"]
    run = Run(directory).restore()
    assert list(run.evaluate()["objectives"]) == ["view", "cart", "buy"]
    assert vectors(run) == before


def test_further_log_is_its_own_file_and_may_name_strangers(folder, directory, tmp_path):
    with gzip.open(folder / "events.csv.gz", "rt") as file:
        bought = [{**row, "behavior": "gift"} for row in csv.DictReader(file) if row["behavior"] == "buy"]
    bought += [{**bought[0], "user_id": "stranger"}, {**bought[0], "item_id": "novelty"}]
    with open(tmp_path / "gifts.csv", "w", newline="") as file:
        table = csv.DictWriter(file, bought[0])
        table.writeheader()
        table.writerows(bought)
    run = Run(directory)
    run.add_objective("gift", tmp_path / "gifts.csv", verbose=0)
    split = load(directory / "data").split
    assert split.test.funnel == ("view", "cart", "gift")
    assert sum((part.behavior == 2).sum() for part in split[:3]) == len(bought) - 2
    assert run.model.capacity()["embedding"][0] == 0

    state = (directory / "state.json").read_bytes()
    for name, problem in {
        "gift": "`name` should be a new objective. Received: name='gift'",
        "view": "`name` should be a new objective. Received: name='view'",
        "buy": "needs at least one free coordinate of the embedding. Received: none",
    }.items():
        with pytest.raises(ValueError, match=re.escape(problem)):
            run.add_objective(name, verbose=0)
    assert (directory / "state.json").read_bytes() == state
    assert load(directory / "data").split.test.funnel == ("view", "cart", "gift")


def test_command_line_extends_a_run(directory, capsys, monkeypatch):
    # It would hold for all later tests of the process.
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    extend = ["extend", str(directory), "--behavior", "buy", "--share", "0.2", "--quiet"]
    assert main(extend) == 0
    assert f"csmf-tf evaluate {directory}" in capsys.readouterr().out
    assert Run(directory).restore().model.frozen_stages == 3
    assert main(extend) == 2
    assert "`name` should be a new objective" in capsys.readouterr().err


def test_unfinished_run_takes_no_further_objective(folder, tmp_path):
    run = Run(tmp_path, config_of(folder))
    with pytest.raises(ValueError, match="should come when every stage is finished"):
        run.add_objective("buy", verbose=0)


def test_absent_behaviour_and_wrong_share_are_refused(directory):
    run = Run(directory)
    with pytest.raises(ValueError, match="no event of refund"):
        run.add_objective("refund", verbose=0)
    with pytest.raises(ValueError, match=re.escape("`share` should be in (0, 1]. Received: share=2")):
        run.add_objective("buy", share=2, verbose=0)
    assert Run(directory).restore().model.funnel == ("view", "cart")


def test_run_of_another_funnel_is_not_restored(directory):
    other = Run(directory)
    other.model.funnel = ("cart", "view")
    with pytest.raises(ValueError, match="should have the funnel of the run"):
        other.restore()


def test_log_with_given_vocabularies_is_coded_by_them(tmp_path):
    (tmp_path / "log.csv").write_text(
        "u,i,b\nann,cup,buy\nbob,hat,buy\nann,hat,buy\neve,cup,buy\nann,pin,buy\n"
    )
    names = {"user": "u", "item": "i", "behavior": "b", "funnel": ["buy"]}
    log = read_log(tmp_path / "log.csv", **names, users=["zoe", "ann", "bob"], items=["hat", "cup"])
    assert log.user.tolist() == [1, 2, 1]
    assert log.item.tolist() == [1, 0, 0]
    assert log.users.tolist() == ["zoe", "ann", "bob"]
    assert read_log(tmp_path / "log.csv", **names, items=["cup"]).users[[0, 1]].tolist() == ["ann", "bob"]
    with pytest.raises(ValueError, match="no event of buy"):
        read_log(tmp_path / "log.csv", **names, users=["zoe"])


@pytest.mark.parametrize("kind", ["item_holdout", "leave_last", "time"])
def test_added_behaviour_trains_on_no_target(kind):
    log = simulate(200, 80, seed=2, events_per_user=20).log
    first = log.take(log.behavior < 2)
    first = type(log)(
        first.user, first.item, first.behavior, first.time, log.users, log.items, ("view", "cart")
    )
    old = split_log(first, kind, at=0.7, fraction=0.3, validation_users=0.4)
    rng = np.random.default_rng(0)
    # Some pairs are known, others new; times are those of the log.
    times = rng.choice(log.time, 3000)
    user, item = rng.integers(0, len(old.train.users), 3000), rng.integers(0, len(old.train.items), 3000)
    bought = type(log)(user, item, np.zeros(3000, np.int8), times, old.train.users, old.train.items, ("buy",))
    new = add_behavior(old, bought, kind, seed=3)
    pairs = [{*zip(part.user.tolist(), part.item.tolist(), strict=True)} for part in new[:3]]
    assert not pairs[0] & pairs[1]
    assert not (pairs[0] | pairs[1]) & pairs[2]
    for before, after in zip(old[:3], new[:3], strict=True):
        assert after.funnel == ("view", "cart", "buy")
        np.testing.assert_array_equal(after.take(after.behavior < 2).item, before.item)
        assert (after.behavior == 2).any()
    if kind == "time":
        assert max(new.train.time.max(), new.validation.time.max()) < new.test.time.min()
        cut = new.train.append(new.validation).time.max()
        early = {*zip(user[times <= cut].tolist(), item[times <= cut].tolist(), strict=True)}
        late = {*zip(user[times > cut].tolist(), item[times > cut].tolist(), strict=True)}
        known = pairs[0] | pairs[1]
        added = new.met.take(new.met.behavior == 2)
        assert {*zip(added.user.tolist(), added.item.tolist(), strict=True)} == (late & known) - early
        assert new.repeated - old.repeated == len(late & early & known)
    else:
        assert not len(new.met)


def test_what_was_met_and_is_done_by_the_new_events_is_a_target_no_longer():
    ids = np.array(["a", "b", "c", "d"], object)

    def log(rows, funnel=("view", "cart")):
        user, item, behavior, time = np.array(rows, np.int64).reshape(-1, 4).T
        return type(simulate(5, 5).log)(user, item, behavior.astype(np.int8), time, ids, ids, funnel)

    # Users 0 and 1 view item 2 before the cut at time 5 and cart it after; user 0 has bought it at time 3.
    train = log([(0, 2, 0, 1), (1, 2, 0, 1), (0, 0, 0, 5), (1, 1, 1, 4)])
    old = Split(train, log([]), log([(0, 1, 1, 9)]), log([(0, 2, 1, 9), (1, 2, 1, 9)]), 0, 0, 0, 0)
    new = add_behavior(old, log([(0, 2, 0, 3), (1, 0, 0, 8)], ("buy",)), "time")
    assert [(u, i) for u, i in zip(new.met.user, new.met.item, strict=True)] == [(1, 2)]
    assert new.repeated == 1
