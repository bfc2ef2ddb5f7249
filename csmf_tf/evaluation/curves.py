"""Learning curves: what the log of a run says of each fit."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Curve(NamedTuple):
    """One fit of one objective.

    Attributes:
        objective: the objective that is fitted.
        phase: "fit", or "recover" after pruning.
        epochs: int `[E]`; epoch 0, if it is there, is the state before the first one.
        loss: float `[E]`, NaN where the log has none, as for epoch 0.
        metric: the validation metric that picks the best epoch; None without validation.
        values: float `[E]`, that metric; NaN where the log has none.
        best: the epoch whose weights were kept: the best one by `metric`, or the last one without it.
    """

    objective: str
    phase: str
    epochs: np.ndarray
    loss: np.ndarray
    metric: str | None
    values: np.ndarray
    best: int

    def at_best(self) -> tuple[float, float]:
        """Loss and metric of the best epoch."""
        row = int(np.flatnonzero(self.epochs == self.best)[0])
        return float(self.loss[row]), float(self.values[row])


def learning_curves(log: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """The fits in a log, in order.

    Args:
        log: what `Run.fit` returns: entries with "objective" and "phase"; those with "epoch" also hold
            "loss" and validation metrics, the first "val_..." of which picks the best epoch.

    Returns:
        One curve for each objective and phase with an epoch.

    Example:
        >>> log = [
        ...     {"objective": "view", "phase": "fit", "epoch": 0, "val_recall@50": 0.1},
        ...     {"objective": "view", "phase": "fit", "epoch": 1, "loss": 3.0, "val_recall@50": 0.2},
        ...     {"objective": "view", "phase": "fit", "epoch": 2, "loss": 2.0, "val_recall@50": 0.1},
        ...     {"objective": "view", "phase": "freeze", "measured": None},
        ... ]
        >>> [curve] = learning_curves(log)
        >>> curve.metric, curve.best, curve.at_best()
        ('recall@50', 1, (3.0, 0.2))
    """
    entries: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for entry in log:
        if "epoch" in entry:
            entries.setdefault((entry["objective"], entry["phase"]), []).append(entry)
    return [_curve(objective, phase, rows) for (objective, phase), rows in entries.items()]


def _curve(objective: str, phase: str, rows: list[Mapping[str, Any]]) -> Curve:
    judge = next((name for row in rows for name in row if name.startswith("val_")), None)
    epochs = np.array([row["epoch"] for row in rows])
    loss = np.array([row.get("loss", np.nan) for row in rows], np.float64)
    values = np.array([row.get(judge or "", np.nan) for row in rows], np.float64)
    # Of equal values the first one is kept, as in the cascade.
    best = epochs[-1] if np.isnan(values).all() else epochs[np.nanargmax(values)]
    metric = judge and judge.removeprefix("val_")
    return Curve(objective, phase, epochs, loss, metric, values, int(best))
