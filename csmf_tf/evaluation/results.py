"""All that is measured of a trained cascade, as one tree of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from csmf_tf.evaluation.baselines import counting, popularity_scores, static
from csmf_tf.evaluation.funnel import FunnelEvaluator, Measured
from csmf_tf.evaluation.ranking import UserScores
from csmf_tf.model import CSMF

Tables = dict[tuple[str, str], Measured]
"""(objective, targets) -> what each user got; targets are "discovery", "all", "met" or "new"."""


class Evaluation(NamedTuple):
    """An evaluation.

    Attributes:
        results: nested dicts of plain numbers, see docs/evaluation.md.
        tables: the metrics of each user by each objective's own score.
    """

    results: dict[str, Any]
    tables: Tables


def evaluate_model(model: CSMF, evaluator: FunnelEvaluator, log: Sequence[Mapping[str, Any]]) -> Evaluation:
    """Measures the finished objectives of a model, all of them under equal weights, and the baselines.

    Args:
        model: the `CSMF`, with at least one frozen stage.
        evaluator: the evaluator of the test events.
        log: the log of the `Cascade`, which holds what was measured after each stage.
    """
    done = model.funnel[: model.frozen_stages]
    names = [name for name in done if name in evaluator.targets]
    vectors = evaluator.vectors(model)
    own = dict(zip(model.funnel, np.eye(len(model.funnel)), strict=True))
    scores = {name: vectors.weighed(own[name]) for name in names}
    equal = evaluator.together(vectors.weighed(np.isin(model.funnel, done)))
    popular = {name: _popularity(evaluator, name) for name in names}
    discovery = {name: evaluator.discovery(scores[name], name) for name in names}

    met_names = [name for name in names if evaluator.met_targets[name].counts.any()]
    with_met = {name: evaluator.with_met(scores[name], name) for name in met_names}
    rules = {
        "popularity": popular,
        "counting": {n: counting(evaluator.known, model.funnel.index(n)) for n in met_names},
    }
    results = {
        "objectives": _summaries(discovery),
        "fused": _summaries({name: equal[name] for name in names}),
        "baselines": {"popularity": _summaries({n: evaluator.discovery(popular[n], n) for n in names})},
        "met_shown": {
            "objectives": _parts(with_met),
            "baselines": {
                label: _parts({name: evaluator.with_met(rule[name], name) for name in met_names})
                for label, rule in rules.items()
            },
        }
        if met_names
        else {},
        "metric": evaluator.metric,
        "retention": _retention(log, names, evaluator.metric),
        "targets": {
            name: {
                "new": len(evaluator.targets[name].items),
                "met": len(evaluator.met_targets[name].items),
            }
            for name in names
        },
    }
    tables: Tables = {(name, "discovery"): measured for name, measured in discovery.items()}
    tables |= {(name, part): measured for name, parts in with_met.items() for part, measured in parts.items()}
    return Evaluation(results, tables)


def tradeoff(model: CSMF, evaluator: FunnelEvaluator, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each finished objective's first metric becomes under some fusion weights.

    Args:
        model: the `CSMF`.
        evaluator: the evaluator, perhaps of a `sample` of users.
        weights: float `[P, K]`, of the K finished objectives.

    Returns:
        `weights`, and float64 `[P, K]` with the metric of each objective under each of them.
    """
    done, later = model.funnel[: model.frozen_stages], len(model.funnel) - model.frozen_stages
    vectors = evaluator.vectors(model)
    rows = [evaluator.together(vectors.weighed(row)) for row in np.pad(weights, ((0, 0), (0, later)))]
    return weights, np.array([[row[name].summary()[evaluator.metric] for name in done] for row in rows])


def _popularity(evaluator: FunnelEvaluator, objective: str) -> UserScores:
    known = evaluator.known
    users_items = known.items_of_users(known.funnel.index(objective))
    return static(popularity_scores(users_items, len(known.items)))


def _summaries(measured: Mapping[str, Measured]) -> dict[str, Any]:
    return {name: one.summary(with_intervals=True) for name, one in measured.items()}


def _parts(measured: Mapping[str, Mapping[str, Measured]]) -> dict[str, Any]:
    return {name: _summaries(parts) for name, parts in measured.items()}


def _retention(
    log: Sequence[Mapping[str, Any]], names: Sequence[str], metric: str
) -> dict[str, dict[str, float]]:
    """Objective -> the stage after which it was measured -> metric, in the order of the stages."""
    ends = [entry for entry in log if entry["phase"] == "freeze"]
    return {
        name: {
            end["objective"]: end["measured"][name][metric] for end in ends if name in end.get("measured", {})
        }
        for name in names
    }
