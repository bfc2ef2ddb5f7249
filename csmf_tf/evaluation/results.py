"""All that is measured of a trained cascade, as one tree of numbers."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from csmf_tf.data.log import EventLog
from csmf_tf.evaluation.baselines import counting, popularity_scores, static
from csmf_tf.evaluation.funnel import FunnelEvaluator, Measured
from csmf_tf.evaluation.ranking import Scores
from csmf_tf.evaluation.statistics import intervals
from csmf_tf.model import CSMF
from csmf_tf.progress import bar

Tables = dict[tuple[str, str], Measured]
"""(objective, targets) -> what each user got; targets are "discovery", "all", "met" or "new"."""


class Evaluation(NamedTuple):
    """An evaluation.

    Attributes:
        results: nested dicts of plain numbers, see docs/evaluation.md.
        tables: the metrics of each user by each objective's own score.
        evaluator: what measured.
        state: which weights were measured, see `run_state`; "" when not those of a run on disk.
    """

    results: dict[str, Any]
    tables: Tables
    evaluator: FunnelEvaluator
    state: str = ""


def evaluate_model(model: CSMF, evaluator: FunnelEvaluator, log: Sequence[Mapping[str, Any]]) -> Evaluation:
    """Measures the finished objectives of a model, all of them under equal weights, and the baselines.

    Args:
        model: the `CSMF`, with at least one frozen stage.
        evaluator: the evaluator of the test events.
        log: the log of the `Cascade`, which holds what was measured after each stage.
    """
    done = model.funnel[: model.frozen_stages]
    names = [name for name in done if name in evaluator.targets]
    met_names = [name for name in names if evaluator.met_targets[name].counts.any()]
    known, vectors = evaluator.known, evaluator.vectors(model)
    own = dict(zip(model.funnel, np.eye(len(model.funnel)), strict=True))
    equal = vectors.weighed(np.isin(model.funnel, done))
    together = evaluator.together(equal)

    discovery: dict[str, dict[str, Any]] = {}
    met_shown: dict[str, dict[str, Any]] = {}
    tables: Tables = {}
    for name in bar(names, "measuring objectives"):
        behavior = known.funnel.index(name)
        rankers: dict[str, Scores] = {
            "own": vectors.weighed(own[name]),
            "popularity": _popularity(known, behavior),
            "popularity_any": _popularity(known, None),
        }
        rankings = {label: evaluator.discovery(scores, name) for label, scores in rankers.items()}
        tables[name, "discovery"] = rankings["own"]
        discovery[name] = _leaves(rankings | {"fused": together[name]})
        if name in met_names:
            rankers |= {"fused": equal, "counting": counting(known, behavior)}
            parts = {label: evaluator.with_met(scores, name) for label, scores in rankers.items()}
            tables |= {(name, part): measured for part, measured in parts["own"].items()}
            by_part = {part: _leaves({r: parts[r][part] for r in parts}) for part in parts["own"]}
            met_shown[name] = {
                label: {part: leaves[label] for part, leaves in by_part.items()} for label in parts
            }
    results = {
        **_tree(discovery, ["popularity", "popularity_any"]),
        "met_shown": _tree(met_shown, ["popularity", "popularity_any", "counting"]) if met_shown else {},
        "metric": evaluator.metric,
        "retention": _retention(log, names, evaluator.metric),
        "targets": {
            name: {"new": len(evaluator.targets[name].items), "met": len(evaluator.met_targets[name].items)}
            for name in names
        },
    }
    return Evaluation(results, tables, evaluator)


def _tree(by_objective: Mapping[str, Mapping[str, Any]], baselines: Sequence[str]) -> dict[str, Any]:
    """Objective -> ranking -> leaf, as ranking -> objective -> leaf."""

    def rows(ranking: str) -> dict[str, Any]:
        return {name: leaves[ranking] for name, leaves in by_objective.items()}

    return {
        "objectives": rows("own"),
        "fused": rows("fused"),
        "baselines": {name: rows(name) for name in baselines},
    }


def _leaves(measured: Mapping[str, Measured]) -> dict[str, dict[str, Any]]:
    """Summaries with 95 % intervals of rankings that were measured on the same users, by the same draws."""
    values = {(label, name): value for label, one in measured.items() for name, value in one.values.items()}
    bounds = intervals(values)
    leaves = {}
    for label, one in measured.items():
        leaves[label] = one.summary()
        if len(one.users):
            leaves[label]["intervals"] = {name: list(bounds[label, name]) for name in one.values}
    return leaves


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
    weighings = bar(np.pad(weights, ((0, 0), (0, later))), "measuring the trade-off")
    rows = [evaluator.together(vectors.weighed(row)) for row in weighings]
    return weights, np.array([[row[name].summary()[evaluator.metric] for name in done] for row in rows])


def _popularity(known: EventLog, behavior: int | None) -> Scores:
    scores = popularity_scores(known.items_of_users(behavior), len(known.items))
    return static(scores, len(known.users))


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
