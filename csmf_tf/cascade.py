"""The cascade: every stage in order, with checkpoints, so that a run may be stopped and goes on."""

import dataclasses
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from csmf_tf._keras import keras, tf
from csmf_tf.data.stages import StageData
from csmf_tf.model import CSMF
from csmf_tf.schedule import Schedule
from csmf_tf.training_bar import TrainingBar

PHASES = ("fit", "prune", "recover", "freeze")

AXES_USERS = 20_000
"""So many users of a stage choose its principal axes (own choice)."""


@dataclasses.dataclass
class State:
    """Where a run stands: what `state.json` holds.

    Attributes:
        step: steps finished; step `4 k + p` is phase `PHASES[p]` of objective number `k`.
        epoch: epochs finished of the step in progress.
        best: the best validation metric of the step in progress, and its epoch.
        log: one entry an epoch or phase, in order.
        saves: checkpoints written, which number them: a new one never overwrites the one to go on from.
        checkpoint, best_checkpoint: names of the files that hold the weights.
        funnel, temperatures: those of the model, which may have been extended.
        pruning: for each objective of `Cascade.add_objective`, the arguments of `CSMF.prune`.
    """

    step: int = 0
    epoch: int = 0
    best: float | None = None
    best_epoch: int = 0
    log: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    saves: int = 0
    checkpoint: str | None = None
    best_checkpoint: str | None = None
    funnel: list[str] = dataclasses.field(default_factory=list)
    temperatures: list[float] = dataclasses.field(default_factory=list)
    pruning: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


class Cascade:
    """Runs fit -> prune -> recover -> freeze for every objective of a model.

    After every epoch and phase the weights, the optimizer and the position are saved in `directory`, beside
    the old ones, which are removed last. Constructed and run again with the same arguments, a killed run goes
    on from there and ends with the same weights as an unbroken one (call
    `tf.config.experimental.enable_op_determinism()` first for equality to the last bit).

    Each fit keeps the weights of its best validation epoch; the state before its first epoch competes too,
    so that a stage whose data only hurts ends no worse than it began.

    Args:
        model: a `CSMF` with its catalogue set.
        data: dict of objective to `StageData`, one for each objective still to be trained.
        directory: where checkpoints and TensorBoard logs go.
        optimizer: function without arguments that makes a fresh Keras optimizer for each fit, with a number
            as learning rate where the schedule lets it decay.
        schedule: a `Schedule`.
        validate: function of the model and an objective that gives a dict of metrics, the first of which
            picks the best epoch (higher is better); None trains all epochs and keeps the last.
        compile_options: further arguments of `model.compile`, say `jit_compile=True`.
        callbacks: function of objective and phase that gives further Keras callbacks.
        measure: function of the model whose result is recorded in the log whenever a stage has ended.
        verbose: as in `model.fit`, but "auto" draws bars in terminals and notebooks alone, and else prints a
            line for each epoch; 0 where `csmf_tf.progress` shows a bar.

    Example:

    >>> import tempfile
    >>> import numpy as np
    >>> from csmf_tf.data.log import EventLog
    >>> from csmf_tf.data.batches import Batching
    >>> from csmf_tf.data.users import UserFeatures
    >>> from csmf_tf.towers import Feature
    >>> users, items = np.array(["u1", "u2"], object), np.array(["i1", "i2", "i3"], object)
    >>> model = CSMF(
    ...     ["view"], [Feature("user", "id", tuple(users))], [Feature("item", "id", tuple(items))], 4
    ... )
    >>> model.set_catalogue(items, {"item": items})
    >>> user, item, view = np.array([0, 0, 1]), np.array([0, 1, 2]), np.zeros(3, np.int8)
    >>> log = EventLog(user, item, view, None, users, items, ("view",))
    >>> features = UserFeatures(model.towers.user_encoder.encode({"user": users}), log)
    >>> data = {"view": StageData(log, 1, features, Batching())}
    >>> schedule = Schedule(epochs=1, recover_epochs=1, shares=[0.5])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cascade = Cascade(model, data, folder, keras.optimizers.Adam, schedule, verbose=0)
    ...     [entry["phase"] for entry in cascade.run()]
    ['fit', 'prune', 'recover', 'freeze']
    >>> model.capacity()["embedding"].tolist()
    [0.5, 0.5]
    """

    def __init__(
        self,
        model: CSMF,
        data: Mapping[str, StageData],
        directory: str | os.PathLike[str],
        optimizer: Callable[[], Any],
        schedule: Schedule = Schedule(),
        validate: Callable[[CSMF, str], dict[str, float]] | None = None,
        compile_options: Mapping[str, Any] | None = None,
        callbacks: Callable[[str, str], list[Any]] | None = None,
        measure: Callable[[CSMF], dict[str, Any]] | None = None,
        verbose: int | str = "auto",
    ):
        self.model = model
        self.data = data
        self.directory = pathlib.Path(directory)
        self.schedule = schedule
        self._optimizer = optimizer
        self._validate = validate
        self._compile_options = dict(compile_options or {})
        self._callbacks = callbacks
        self._measure = measure
        self._verbose = verbose
        self._state = self._saved()
        known = {*model.funnel, *self._state.funnel}
        self._scheduled = schedule.pruning(len(known - self._state.pruning.keys()))

    @property
    def log(self) -> list[dict[str, Any]]:
        """What happened so far: a dict for each epoch and each phase."""
        return self._state.log

    def run(self) -> list[dict[str, Any]]:
        """Trains what is left to train; returns the `log`.

        Raises:
            ValueError: when `data` lacks an objective, or a stage diverges.
        """
        self.restore()
        total = len(PHASES) * len(self.model.funnel)
        left = self.model.funnel[self._state.step // len(PHASES) :]
        if missing := [name for name in left if name not in self.data]:
            raise ValueError(
                f"`data` should hold each objective left to train, {list(left)}. Missing: {missing}"
            )
        with TrainingBar(self.model.funnel, self.data, self.schedule) as self._bar:
            for step in range(self._state.step, total):
                objective = self.model.funnel[step // len(PHASES)]
                phase = PHASES[step % len(PHASES)]
                self._bar.begin(objective, phase, self._state.epoch)
                keras.utils.set_random_seed(self.schedule.seed + step)
                getattr(self, f"_{phase}")(objective)
                self._state.step, self._state.epoch, self._state.best = step + 1, 0, None
                self._save()
        return self.log

    def add_objective(self, name, share=None, temperature=None):
        """Appends an objective to a finished cascade and saves that; `run` then trains its stage.

        Args:
            name: the new objective.
            share: in (0, 1], the share of every layer that its stage may keep; None for the schedule's last
                `tau` or, without one, for all that is free.
            temperature: as in `CSMF.add_objective`.

        Raises:
            ValueError: when a stage is unfinished, no coordinate is free, `share` is out of range, or
                for what `CSMF.add_objective` refuses.
        """
        self.restore()
        if left := self.model.funnel[self._state.step // len(PHASES) :]:
            raise ValueError(
                f"`add_objective` should come when every stage is finished. Received: name={name!r} while "
                f"{list(left)} is left to train; finish that first"
            )
        if not np.any(self.model.owner == 0):
            raise ValueError(
                f"Objective {name!r} needs at least one free coordinate of the embedding. Received: none; "
                "train the earlier stages with `shares` that sum to less than 1"
            )
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"`share` should be in (0, 1]. Received: share={share}")
        self.model.add_objective(name, temperature)
        kept = {"share": 1.0} if share is None else {"share": share}
        by_tau = share is None and "tau" in self._scheduled[-1]
        self._state.pruning[name] = self._scheduled[-1] if by_tau else kept
        self._save()

    def _fit(self, objective):
        if self.model.objective != objective:
            self.model.begin(objective)
        self._fit_epochs(objective, "fit", 1.0)

    def _prune(self, objective):
        further = self._state.pruning
        own = [name for name in self.model.funnel if name not in further]
        how = dict(zip(own, self._scheduled, strict=True)) | further
        users = self.data[objective].users(AXES_USERS) if self.schedule.principal_axes else None
        report = self.model.prune(**how[objective], users=users)
        layers = {name: pruned._asdict() for name, pruned in report.items()}
        self.log.append({"objective": objective, "phase": "prune", "layers": layers})

    def _recover(self, objective):
        freed = any(pruned["freed"] for pruned in self._last("prune", objective)["layers"].values())
        if freed and self.schedule.recover_epochs:
            self._fit_epochs(objective, "recover", self.schedule.recover_share)

    def _freeze(self, objective):
        self.model.freeze()
        measured = self._measure(self.model) if self._measure else None
        self.log.append({"objective": objective, "phase": "freeze", "measured": measured})

    def _last(self, phase, objective):
        return next(e for e in reversed(self.log) if (e["phase"], e["objective"]) == (phase, objective))

    def _fit_epochs(self, objective, phase, share):
        state = self._state
        how = self.schedule.fit(phase, first=objective == self.model.funnel[0])
        self.model.compile(self._optimizer(), **self._compile_options)
        self.model.optimizer.build(self.model.trainable_variables)
        decay = [_Decay(self.model.optimizer, how)] if how.decay else []
        if state.epoch:
            self._read(state.checkpoint, self.model.optimizer)
        if self._validate and state.best is None:
            self._judge(objective, phase, {})
        if how.goes_on(state.epoch, state.best_epoch):
            verbose = 0 if self._bar.visible else self._verbose
            if verbose == "auto":
                # Keras draws its bars into files too.
                verbose = 1 if sys.stdout.isatty() or _in_notebook() else 2
            if verbose:
                print(f"\n{objective}: {phase}, up to {how.epochs} epochs")
            self.model.fit(
                self.data[objective].dataset(state.epoch, share),
                initial_epoch=state.epoch,
                epochs=how.epochs,
                verbose=verbose,
                callbacks=[
                    *decay,
                    _EndOfEpoch(self, objective, phase, how),
                    *self._bar.callbacks(),
                    *(self._callbacks(objective, phase) if self._callbacks else []),
                    keras.callbacks.TensorBoard(self.directory / "tensorboard" / f"{objective}-{phase}"),
                ],
            )
        if self._validate:
            self._read(state.best_checkpoint)

    def _judge(self, objective, phase, logs):
        """Validates, records and saves what an epoch gave."""
        state = self._state
        live = self.model.trainable_variables
        if bad := [v.name for v in live if not tf.reduce_all(tf.math.is_finite(v))]:
            raise ValueError(
                f"The weights of '{objective}' should be finite. Received: NaN or infinity in {bad[0]} after "
                f"epoch {state.epoch} of its {phase}. The stage has diverged: lower the learning rate"
            )
        if self._validate:
            metrics = self._validate(self.model, objective)
            logs |= {f"val_{name}": value for name, value in metrics.items()}
            value = next(iter(metrics.values()))
            if state.best is None or value > state.best:
                state.best, state.best_epoch = value, state.epoch
                state.best_checkpoint = self._write(f"best-{state.step}-{state.epoch}")
        else:
            state.best_epoch = state.epoch
        self.log.append({"objective": objective, "phase": phase, "epoch": state.epoch, **_plain(logs)})
        self._save()

    def restore(self):
        """Reads the newest checkpoint in the directory; without one, goes on from the model's own stages."""
        state = self._state = self._saved()
        if state.checkpoint is None:
            state.step = len(PHASES) * self.model.frozen_stages
            return
        known = len(self.model.funnel)
        if self.model.funnel[: len(state.funnel)] != (*state.funnel[:known],):
            raise ValueError(
                f"The model should have the funnel of the run in {self.directory}, {state.funnel}, or its "
                f"beginning. Received: {self.model.funnel}"
            )
        for name, temperature in zip(state.funnel[known:], state.temperatures[known:], strict=True):
            self.model.add_objective(name, temperature)
        self._read(state.checkpoint)

    def _saved(self):
        path = self.directory / "state.json"
        if not path.exists():
            return State()
        try:
            return State(**json.loads(path.read_text()))
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path} should be what this version of csmf_tf has written. Received: {error}"
            ) from error

    def _save(self):
        """Saves weights, optimizer and position; the old ones stay until the new ones are whole."""
        state = self._state
        state.saves += 1
        state.funnel, state.temperatures = [*self.model.funnel], [*self.model.temperatures]
        state.checkpoint = self._write(f"last-{state.saves}", self.model.optimizer)
        path = self.directory / "state.json"
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(dataclasses.asdict(state)))
        beside.replace(path)
        for file in (self.directory / "checkpoints").iterdir():
            if file.name.split(".")[0] not in (state.checkpoint, state.best_checkpoint):
                # TensorFlow writes in a folder first, which a killed process leaves behind.
                shutil.rmtree(file) if file.is_dir() else file.unlink()

    def _checkpoint(self, optimizer=None):
        parts = {"towers": self.model.towers, "progress": self.model.progress}
        return tf.train.Checkpoint(**parts, **({"optimizer": optimizer} if optimizer else {}))

    def _write(self, name, optimizer=None):
        self._checkpoint(optimizer).write(str(self.directory / "checkpoints" / name))
        return name

    def _read(self, name, optimizer=None):
        before = self.model.stage, self.model.frozen_stages
        path = str(self.directory / "checkpoints" / name)
        try:
            status = self._checkpoint(optimizer).read(path)
        # An IndexError where a file is too short, a ValueError where it is that of other shapes.
        except (tf.errors.OpError, IndexError, ValueError) as error:
            raise ValueError(
                f"{path} should be a checkpoint of this run. Received: {getattr(error, 'message', error)}"
            ) from error
        status.assert_existing_objects_matched().expect_partial()
        if before != (self.model.stage, self.model.frozen_stages):
            self.model.retrace()


class _EndOfEpoch(keras.callbacks.Callback):
    """Validates, saves and decides whether to go on."""

    def __init__(self, cascade, objective, phase, how):
        super().__init__()
        self._cascade, self._objective, self._phase, self._how = cascade, objective, phase, how

    def on_epoch_end(self, epoch, logs=None):
        state = self._cascade._state
        state.epoch = epoch + 1
        self._cascade._judge(self._objective, self._phase, logs if logs is not None else {})
        if not self._how.goes_on(state.epoch, state.best_epoch):
            self.model.stop_training = True


class _Decay(keras.callbacks.LearningRateScheduler):
    """Sets the learning rate of each epoch by its number, so that a fit that goes on has the same ones."""

    def __init__(self, optimizer, how):
        # In float16 Keras wraps it in one that scales the loss.
        rate = getattr(optimizer, "inner_optimizer", optimizer).get_config()["learning_rate"]
        if isinstance(rate, Mapping):
            raise ValueError(
                "`optimizer` should have a number as learning rate where the schedule has `decay=True`. "
                f"Received: {rate['class_name']}; write `Schedule(decay=False)`"
            )
        super().__init__(lambda epoch: rate * how.learning_rate_factor(epoch))


def _in_notebook():
    ipython = sys.modules.get("IPython")
    return hasattr(ipython and ipython.get_ipython(), "kernel")


def _plain(logs):
    return {name: float(value) for name, value in logs.items()}
