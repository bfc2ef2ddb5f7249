"""The cascade: what it records, which weights it keeps, and that a killed one ends as if it had not been."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import yaml

from csmf_tf._keras import keras, tf
from csmf_tf.cascade import Cascade
from csmf_tf.config import from_dict
from csmf_tf.data.simulator import simulate
from csmf_tf.run import Run
from csmf_tf.schedule import Schedule, default_shares

FUNNEL = ("view", "cart", "buy")
ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """The configuration of a tiny log, as plain values."""
    folder = tmp_path_factory.mktemp("log")
    simulate(120, 60, seed=1, events_per_user=20).write(folder)
    return {
        "log": {
            "path": str(folder / "events.csv.gz"),
            "user": "user_id",
            "item": "item_id",
            "behavior": "behavior",
        },
        "funnel": list(FUNNEL),
        "split": {"kind": "item_holdout", "fraction": 0.3},
        "validation_users": 0.5,
        "model": {"embedding_dim": 8},
        "evaluate": {"ks": [5]},
    }


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A run that nobody fits: its data and evaluators serve the cascades here."""
    return Run(tmp_path_factory.mktemp("run"), from_dict(settings))


def cascade(run, directory, model=None, **arguments):
    defaults = {
        "optimizer": lambda: keras.optimizers.Adam(0.05),
        "schedule": Schedule(epochs=3, recover_epochs=2),
        "validate": run.validation().judge,
        "verbose": 0,
    }
    return Cascade(model or fresh(run), run.stages(), directory, **{**defaults, **arguments})


def fresh(run, funnel=FUNNEL):
    keras.utils.set_random_seed(0)
    config = run.model.get_config()
    model = type(run.model).from_config({**config, "temperature": 1.0, "funnel": list(funnel)})
    model.set_catalogue(run.model.catalogue_ids, run.prepared.items)
    return model


class Recorder(keras.callbacks.Callback):
    """Notes where the saved state stands at each end of an epoch."""

    def __init__(self, directory, seen, phase):
        super().__init__()
        self.directory, self.seen, self.phase = directory, seen, phase

    def on_epoch_end(self, epoch, logs=None):
        state = json.loads((self.directory / "state.json").read_text())
        saved = self.directory / "checkpoints" / state["checkpoint"]
        names = [name for name, _ in tf.train.list_variables(str(saved))]
        self.seen.append((*self.phase, epoch + 1, state["epoch"], any("optimizer" in n for n in names), logs))


@pytest.fixture(scope="module")
def done(run, tmp_path_factory):
    """A finished cascade: its directory, model, log and what the callbacks saw."""
    directory, seen = tmp_path_factory.mktemp("cascade"), []
    judge = run.validation().judge
    made = cascade(
        run,
        directory,
        callbacks=lambda *phase: [Recorder(directory, seen, phase)],
        measure=lambda model: judge(model, model.funnel[model.frozen_stages - 1]),
    )
    return directory, made.model, made.run(), seen


def entries(log, objective, phase):
    return [entry for entry in log if (entry["objective"], entry["phase"]) == (objective, phase)]


def test_log_tells_every_epoch_and_phase_in_order(done):
    _, model, log, _ = done
    assert model.frozen_stages == 3
    phases = [(entry["objective"], entry["phase"]) for entry in log]
    order = [(name, phase) for name in FUNNEL for phase in ("fit", "prune", "recover", "freeze")]
    assert list(dict.fromkeys(phases)) == [phase for phase in order if phase != ("buy", "recover")]
    for name in FUNNEL:
        fit = entries(log, name, "fit")
        assert [entry["epoch"] for entry in fit] == [0, 1, 2, 3]
        assert all(set(entry) >= {"val_recall@5", "val_ndcg@5"} for entry in fit)
        assert [("loss" in entry) for entry in fit] == [False, True, True, True]
        (pruned,) = entries(log, name, "prune")
        owned = int(np.sum(model.owner == model.funnel.index(name) + 1))
        assert pruned["layers"]["embedding"]["kept"] == owned
    assert [entry["epoch"] for entry in entries(log, "view", "recover")] == [0, 1, 2]


def printed_by_default(run, directory, capsys):
    """What two epochs print where no bar of the whole training is to be seen."""
    made = cascade(run, directory, fresh(run, ("view",)), verbose="auto", schedule=Schedule(2, 0))
    capsys.readouterr()
    made.run()
    return capsys.readouterr().out


def test_by_default_a_line_an_epoch_goes_where_no_terminal_is(run, tmp_path, capsys, monkeypatch):
    # To import a notebook's packages makes no notebook of a process.
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    printed = printed_by_default(run, tmp_path, capsys)
    assert not set("\r\b") & set(printed)
    assert [line for line in printed.splitlines() if line.startswith("Epoch")] == ["Epoch 1/2", "Epoch 2/2"]
    assert len([line for line in printed.splitlines() if "loss: " in line]) == 2


def test_by_default_bars_go_to_a_notebook(run, tmp_path, capsys, monkeypatch):
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert "\b" in printed_by_default(run, tmp_path, capsys)


def test_weights_of_the_best_epoch_are_kept(done):
    _, _, log, _ = done
    for name, last in (("view", "recover"), ("cart", "recover"), ("buy", "fit")):
        recorded = [entry["val_recall@5"] for entry in entries(log, name, last)]
        (frozen,) = entries(log, name, "freeze")
        assert frozen["measured"]["recall@5"] == max(recorded)


def test_recovery_is_left_out_when_nothing_was_freed(done):
    _, _, log, _ = done
    assert not any(layer["freed"] for layer in entries(log, "buy", "prune")[0]["layers"].values())
    assert entries(log, "buy", "recover") == []


def test_callbacks_get_objective_phase_and_the_metrics_of_each_epoch(done):
    _, _, log, seen = done
    assert [(name, phase, epoch) for name, phase, epoch, *_ in seen] == [
        (entry["objective"], entry["phase"], entry["epoch"]) for entry in log if entry.get("epoch")
    ]
    for name, phase, epoch, *_, logs in seen:
        recorded = entries(log, name, phase)[epoch]
        assert {key: float(value) for key, value in logs.items()}.items() <= recorded.items()


def test_every_epoch_ends_with_a_checkpoint_of_weights_and_optimizer(done):
    directory, _, _, seen = done
    for *_, epoch, saved, with_optimizer, _ in seen:
        assert saved == epoch
        assert with_optimizer
    state = json.loads((directory / "state.json").read_text())
    assert state["step"] == 12
    names = {file.name.split(".")[0] for file in (directory / "checkpoints").iterdir()}
    assert names == {state["checkpoint"], state["best_checkpoint"]}


def test_tensorboard_logs_hold_loss_and_validation_metrics(done):
    directory, *_ = done
    folders = {path.name for path in (directory / "tensorboard").iterdir()}
    assert folders == {"view-fit", "view-recover", "cart-fit", "cart-recover", "buy-fit"}
    tags = set()
    for file in (directory / "tensorboard" / "cart-fit").rglob("events.out.tfevents*"):
        for record in tf.data.TFRecordDataset(str(file)).as_numpy_iterator():
            event = tf.compat.v1.Event.FromString(record)
            tags |= {f"{file.parent.name} {value.tag}" for value in event.summary.value}
    assert {"train epoch_loss", "validation epoch_recall@5", "validation epoch_ndcg@5"} <= tags


def test_finished_cascade_trains_no_more(run, done):
    directory, model, log, _ = done
    before = sorted(file.name for file in (directory / "checkpoints").iterdir())
    again = cascade(run, directory)
    assert again.run() == log
    assert sorted(file.name for file in (directory / "checkpoints").iterdir()) == before
    for value, expected in zip(again.model.towers.variables, model.towers.variables, strict=True):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize(("decay", "values"), [(False, [0.5, 0.4, 0.5]), (True, [0.5] + [0.4] * 11)])
def test_phase_ends_after_patience_epochs_that_are_no_better_and_keeps_the_state_before_them(
    run, tmp_path, decay, values
):
    # With decay, patience counts from the first drop of the rate on, which is after 9 of 12 epochs.
    epochs, scores = (12 if decay else 9), iter(values)
    model = fresh(run, ["view"])
    before = model.towers.user.tables["user_id"].embeddings.numpy()
    made = cascade(
        run,
        tmp_path,
        model,
        schedule=Schedule(epochs=epochs, recover_epochs=0, patience=2, tau=0, decay=decay),
        validate=lambda model, objective: {"score": next(scores)},
    )
    log = made.run()
    assert [entry["val_score"] for entry in entries(log, "view", "fit")] == values
    assert entries(log, "view", "recover") == []
    np.testing.assert_array_equal(model.towers.user.tables["user_id"].merged_weights()[0], before)


def test_without_validation_all_epochs_run_and_the_last_weights_stay(run, tmp_path):
    model, tables = fresh(run, ["view"]), []
    table = model.towers.user.tables["user_id"]
    made = cascade(
        run,
        tmp_path,
        model,
        validate=None,
        schedule=Schedule(epochs=5, recover_epochs=2, patience=1, shares=[0.5]),
        callbacks=lambda objective, phase: [
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda epoch, logs: tables.append(table.merged_weights()[0])
            )
        ],
    )
    log = made.run()
    assert [entry["epoch"] for entry in entries(log, "view", "fit")] == [1, 2, 3, 4, 5]
    assert [entry["epoch"] for entry in entries(log, "view", "recover")] == [1, 2]
    assert entries(log, "view", "freeze")[0]["measured"] is None
    assert len(tables) == 7
    np.testing.assert_array_equal(table.merged_weights()[0], tables[-1])


def test_objective_is_added_to_a_finished_cascade(run, tmp_path):
    schedule = {"epochs": 1, "recover_epochs": 1}
    first = cascade(
        run,
        tmp_path / "first",
        fresh(run, ["view", "cart"]),
        schedule=Schedule(shares=[0.5, 0.25], **schedule),
    )
    first.run()
    model, users = first.model, run.validation()
    before = users.objectives(model)
    model.add_objective("buy")
    later = cascade(run, tmp_path / "later", model, schedule=Schedule(shares=[0.5, 0.25, 0.25], **schedule))
    log = later.run()
    assert {entry["objective"] for entry in log} == {"buy"}
    after = users.objectives(model)
    assert {name: after[name] for name in before} == before
    assert "buy" in after


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (
            {"shares": [0.5, 0.3, 0.2], "tau": 0.2},
            "Either `shares` or `tau` should be given. Received: shares=[0.5, 0.3, 0.2], tau=0.2",
        ),
        (
            {"shares": [0.5, 0.5]},
            "`shares` should hold one number for each of the 3 objectives. Received: [0.5, 0.5]",
        ),
        ({"tau": [0.1]}, "`tau` should hold one number for each of the 3 objectives. Received: [0.1]"),
        (
            {"shares": [0.5, 0.5, 0.5]},
            "`shares` should be positive and sum to at most 1. Received: [0.5, 0.5, 0.5], sum 1.5",
        ),
        (
            {"shares": [1, 0, 0]},
            "`shares` should be positive and sum to at most 1. Received: [1, 0, 0], sum 1",
        ),
        ({"tau": 1.0}, "`tau` should be in [0, 1). Received: tau=1.0"),
        ({"tau": [0.1, -0.1, 0.1]}, "`tau` should be in [0, 1). Received: tau=[0.1, -0.1, 0.1]"),
    ],
)
def test_schedule_refuses(run, tmp_path, schedule, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cascade(run, tmp_path, run.model, schedule=Schedule(**schedule))


@pytest.mark.parametrize("stages", [1, 2, 3, 6])
def test_default_shares_leave_nothing_and_fall(stages):
    shares = default_shares(stages)
    assert sum(shares) == pytest.approx(1)
    assert shares == sorted(shares, reverse=True)
    assert Schedule().pruning(stages) == [{"share": share} for share in shares]
    assert Schedule(tau=0).pruning(stages) == [{"tau": 0}] * stages


def test_data_of_an_objective_left_to_train_must_be_there(run, tmp_path):
    made = cascade(run, tmp_path, run.model)
    del made.data["buy"]
    with pytest.raises(ValueError, match=re.escape("Missing: ['buy']")):
        made.run()


class Stopped(Exception):
    pass


def rates(run, directory, stop_at=None, funnel=FUNNEL, **schedule):
    """The learning rates of each fit, by objective and phase; `stop_at` is an epoch at which all ends."""
    seen = {}

    def callbacks(*phase):
        def note(epoch, logs):
            rate = made.model.optimizer.learning_rate
            seen.setdefault(phase, []).append(round(float(rate), 6))
            if epoch == stop_at:
                raise Stopped

        return [keras.callbacks.LambdaCallback(on_epoch_end=note)]

    model = fresh(run, funnel)
    made = cascade(run, directory, model, validate=None, callbacks=callbacks, schedule=Schedule(**schedule))
    with contextlib.suppress(Stopped):
        made.run()
    return seen


def test_the_learning_rate_falls_and_what_follows_the_first_fit_starts_low(run, tmp_path):
    found = rates(run, tmp_path / "decay", epochs=10, recover_epochs=2)
    low = [0.01] * 9 + [0.002]
    assert found["view", "fit"] == [0.05] * 8 + [0.01, 0.002]
    assert found["view", "recover"] == [0.01, 0.01]
    assert found["cart", "fit"] == found["buy", "fit"] == low
    found = rates(run, tmp_path / "constant", funnel=FUNNEL[:2], epochs=2, recover_epochs=1, decay=False)
    assert [*found] == [("view", "fit"), ("view", "recover"), ("cart", "fit")]
    assert {rate for of_phase in found.values() for rate in of_phase} == {0.05}


def test_a_fit_that_goes_on_has_the_rates_of_an_unbroken_one(run, tmp_path):
    one = {"funnel": FUNNEL[:1], "epochs": 10, "recover_epochs": 0}
    assert rates(run, tmp_path, stop_at=8, **one) == {("view", "fit"): [0.05] * 8 + [0.01]}
    assert rates(run, tmp_path, **one) == {("view", "fit"): [0.002]}


def test_decay_goes_through_the_optimizer_that_scales_the_loss(run, tmp_path):
    def optimizer():
        return keras.mixed_precision.LossScaleOptimizer(keras.optimizers.Adam(0.05))

    schedule = Schedule(epochs=2, recover_epochs=0)
    made = cascade(run, tmp_path, fresh(run, FUNNEL[:2]), optimizer=optimizer, schedule=schedule)
    made.run()
    assert float(made.model.optimizer.inner_optimizer.learning_rate) == pytest.approx(0.01)


def test_a_learning_rate_that_is_a_schedule_cannot_decay_once_more(run, tmp_path):
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    made = cascade(run, tmp_path, optimizer=lambda: keras.optimizers.Adam(rate))
    with pytest.raises(
        ValueError, match=re.escape("Received: ExponentialDecay; write `Schedule(decay=False)`")
    ):
        made.run()


def test_diverged_stage_is_an_error_that_says_so(run, tmp_path):
    made = cascade(run, tmp_path, optimizer=lambda: keras.optimizers.SGD(1e30))
    message = "after epoch 1 of its fit. The stage has diverged: lower the learning rate"
    with pytest.raises(ValueError, match=message):
        made.run()
    assert [entry["epoch"] for entry in made.log] == [0]


def test_killed_run_ends_with_the_weights_of_an_unbroken_one(settings, tmp_path):
    config = tmp_path / "config.yaml"
    changed = {
        "model": {"embedding_dim": 8, "history": {"length": 4}},
        "training": {"epochs": 4, "recover_epochs": 2, "optimizer": "adamw"},
    }
    config.write_text(yaml.safe_dump({**settings, **changed}))
    rng = np.random.default_rng()
    random = [f"after:{seconds:.2f}" for seconds in rng.uniform(1, 5, 1)]
    # A machine may be fast enough to end within the random ones, so they come last.
    places = ["data:1", "temp:3", "state:4", "removal:2", "data:3"]
    moments = [*places, *random, "temp:1"]
    runs = [str(tmp_path / name) for name in ("unbroken", "broken")]
    result = subprocess.run(
        [sys.executable, ROOT / "tests" / "killed.py", config, *runs, *moments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    codes = dict(line.split(": ") for line in result.stdout.splitlines() if line.startswith(("unbr", "brok")))
    assert codes["unbroken"] == "0", result.stderr
    *killed, last = codes["broken"].split()
    assert last == "0", f"moments {moments}\n{result.stderr}"
    assert killed[: len(places)] == ["-9"] * len(places), codes
    unbroken, broken = (Run(directory).restore().model for directory in runs)
    assert broken.frozen_stages == 3
    for value, expected in zip(broken.variables, unbroken.variables, strict=True):
        assert np.array_equal(value.numpy(), expected.numpy()), f"{value.name}, moments {moments}"
    states = [json.loads((pathlib.Path(directory) / "state.json").read_text()) for directory in runs]
    assert states[0]["log"] == states[1]["log"]
