"""One bar over all that a cascade has left to train."""

from collections.abc import Mapping, Sequence
from typing import Any

from csmf_tf._keras import keras
from csmf_tf.data.stages import StageData
from csmf_tf.progress import bar, say
from csmf_tf.schedule import Schedule


class TrainingBar:
    """A bar of train steps, as many as the schedule has at most, and a line for each epoch.

    A fit that ends early takes its remaining steps off the total, so that the time left is an upper bound.

    Args:
        funnel: the objectives in order.
        data: dict of objective to `StageData`, of those left to train.
        schedule: the `Schedule`.

    Attributes:
        visible: whether there is a bar, see `csmf_tf.progress`.
    """

    def __init__(self, funnel: Sequence[str], data: Mapping[str, StageData], schedule: Schedule):
        self._funnel, self._data, self._schedule = tuple(funnel), data, schedule
        # The mean over all steps: the pauses for validation belong to the time left.
        self._bar = bar(about="preparing", total=0, delay=0, smoothing=0, beside_lines=True)
        self.visible = not self._bar.disable

    def __enter__(self) -> "TrainingBar":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def begin(self, objective: str, phase: str, epoch: int) -> None:
        """Tells that a phase begins, or goes on after so many epochs; what is left is counted anew."""
        if not self.visible:
            return
        at = self._funnel.index(objective)
        self._about = f"{objective} ({at + 1} of {len(self._funnel)}), {phase}"
        self._epochs = self._schedule.fit(phase, first=at == 0).epochs
        phases = {"fit": ("fit", "recover"), "prune": ("recover",), "recover": ("recover",)}.get(phase, ())
        left = sum(self._steps(objective, of) for of in phases)
        if phase in ("fit", "recover"):
            left -= round(self._steps(objective, phase) * epoch / max(self._epochs, 1))
        left += sum(self._steps(name, of) for name in self._funnel[at + 1 :] for of in ("fit", "recover"))
        self._bar.total = self._bar.n + left
        self._bar.set_description_str(self._about)

    def callbacks(self) -> list[Any]:
        """The Keras callbacks of a fit; they come after those that validate."""
        return [_Steps(self)] if self.visible else []

    def _steps(self, objective: str, phase: str) -> int:
        how = self._schedule.fit(phase, first=objective == self._funnel[0])
        share = self._schedule.recover_share if phase == "recover" else 1.0
        return how.epochs * self._data[objective].steps(share)


class _Steps(keras.callbacks.Callback):
    """Moves the bar."""

    # Keras then hands over tensors, and does not wait for the metrics of each step.
    _supports_tf_logs = True

    def __init__(self, owner):
        super().__init__()
        self._owner = owner

    def on_epoch_begin(self, epoch, logs=None):
        owner = self._owner
        owner._bar.set_description_str(f"{owner._about}, epoch {epoch + 1} of {owner._epochs}")

    def on_train_batch_end(self, batch, logs=None):
        self._owner._bar.update()

    def on_epoch_end(self, epoch, logs=None):
        owner = self._owner
        metrics = ", ".join(f"{name} {float(value):.4f}" for name, value in (logs or {}).items())
        say(f"{owner._about}, epoch {epoch + 1} of {owner._epochs}: {metrics}")
