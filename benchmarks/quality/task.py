"""What a method gets and what it gives."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from csmf_tf.config import Config, load_config
from csmf_tf.evaluation.funnel import FunnelEvaluator
from csmf_tf.evaluation.ranking import Scores
from csmf_tf.run import Run

SPLITS = {
    "taobao": {"kind": "item_holdout", "fraction": 0.1, "seed": 0},
    "retailrocket": {"kind": "time", "at": 0.9},
}


class Task(NamedTuple):
    """One log, split once, and one seed.

    Attributes:
        run: an untrained `Run` of the default configuration; its split and its encoders serve all methods.
        validation: the evaluator that chooses epochs and settings.
        test: the evaluator of the figures.
        seed: seed of all that a method draws.
        folder: where a method may leave what it needs to go on after a kill.
    """

    run: Run
    validation: FunnelEvaluator
    test: FunnelEvaluator
    seed: int
    folder: pathlib.Path

    @property
    def dim(self) -> int:
        """Dimensions of the vector that serves an objective."""
        return self.run.config.model.embedding_dim

    @property
    def funnel(self) -> Sequence[str]:
        """Names of the objectives, upstream first."""
        return self.run.config.funnel

    def judge(self, scores: Mapping[str, Scores]) -> float:
        """Mean over some objectives of their validation recall."""
        found = [self.validation.discovery(of, name).values for name, of in scores.items()]
        return float(np.mean([values[self.validation.metric].mean() for values in found]))


class Ranked(NamedTuple):
    """What a method gives.

    Attributes:
        scores: objective -> what ranks for it.
        indexes: how many indices of vectors serve all objectives; 0 where none can.
        dims: dimensions of a vector in them.
        fused: function of weights, float `[K]`, that gives the scores of one search for all objectives; None
            where the results of several are to be merged, or one ranking serves all.
        notes: further plain numbers to report.
    """

    scores: dict[str, Scores]
    indexes: int
    dims: int
    fused: Callable[[np.ndarray], Scores] | None = None
    notes: Mapping[str, Any] = {}


def configuration(log: str, data: pathlib.Path, out: pathlib.Path, overrides: Sequence[str] = ()) -> Config:
    """The default configuration of a known log; overrides as in `csmf-tf fit --set`."""
    columns = {"user": "user_id", "item": "item_id", "behavior": "behavior"}
    if SPLITS[log]["kind"] == "time":
        columns["timestamp"] = "timestamp"
    path = str((data / log / "events.csv.gz").absolute())
    raw = {"log": {"path": path, **columns}, "funnel": ["view", "cart", "buy"], "split": SPLITS[log]}
    out.mkdir(parents=True, exist_ok=True)
    written = out / f"{log}.yaml"
    written.write_text(json.dumps(raw))
    return load_config(written, overrides)
