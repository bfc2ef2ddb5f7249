"""The results on disk, and the table that is made of them."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality.fused import fronts
from csmf_tf.evaluation.statistics import holm, intervals, paired_test

CANDIDATE = "csmf"
SEQUENTIAL = "heterrec"


class Result(NamedTuple):
    """One run of one method: what its JSON says, and the metrics of each user."""

    summary: dict[str, Any]
    users: dict[str, np.ndarray]


def metrics_of(ks: Sequence[int]) -> list[str]:
    """The metrics that are reported: recall and NDCG at each cut-off."""
    return [f"{name}@{k}" for k in ks for name in ("recall", "ndcg")]


def write(path: pathlib.Path, result: Result) -> None:
    """Writes a result beside its place and moves it there; the summary last, as with it the result exists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    beside = path.with_suffix(".tmp.npz")
    np.savez_compressed(beside, **result.users)
    beside.replace(path.with_suffix(".npz"))
    beside = path.with_suffix(".tmp")
    beside.write_text(json.dumps(result.summary, indent=1))
    beside.replace(path)


def read(path: pathlib.Path, setting: Mapping[str, Any]) -> Result | None:
    """The result at a path; None when there is none, or one of another setting."""
    if not path.exists():
        return None
    summary = json.loads(path.read_text())
    if summary["setting"] != json.loads(json.dumps(setting)):
        return None
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        return Result(summary, dict(arrays))


def summarise(results: Mapping[str, Sequence[Result]], metrics: Sequence[str]) -> dict[str, Any]:
    """Means over the seeds of each method with 95 % intervals, and how the candidate compares.

    The interval is the bootstrap over users of each user's mean over seeds; all methods see the same draws.

    Args:
        results: method -> its results, one a seed.
        metrics: those to report, such as "recall@50".
    """
    first = next(iter(results.values()))[0]
    objectives = list(first.summary["metrics"])
    methods: dict[str, Any] = {}
    for name, seeds in results.items():
        one = {key: seeds[0].summary[key] for key in ("indexes", "dims")}
        one["seconds"] = round(float(np.mean([seed.summary["seconds"] for seed in seeds])), 1)
        curves = [seed.summary["fused"] for seed in seeds if seed.summary["fused"]]
        fused = _round(np.mean(curves, axis=0)) if curves else None
        methods[name] = {**one, "seeds": len(seeds), "objectives": {}, "fused": fused} | _mean_notes(seeds)
    for objective in objectives:
        values = {
            (name, metric): np.mean([seed.users[f"{objective}/{metric}"] for seed in seeds], axis=0)
            for name, seeds in results.items()
            for metric in metrics
        }
        for (name, metric), bounds in intervals(values).items():
            row = methods[name]["objectives"].setdefault(objective, {})
            row[metric] = {"mean": _round(values[name, metric].mean()), "interval": _round(bounds)}
    if CANDIDATE in methods:
        for one in methods.values():
            one["candidate"] = {
                objective: _beside(methods[CANDIDATE], one, objective, metrics[0]) for objective in objectives
            }
    found = {"methods": methods} | _fronts(methods)
    return found | {"paired": paired(results, SEQUENTIAL, metrics)} if SEQUENTIAL in results else found


def paired(
    results: Mapping[str, Sequence[Result]], candidate: str, metrics: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """How far a candidate is above each other method, user by user, in the means over the seeds.

    Args:
        results: method -> its results, one a seed.
        candidate: one of the methods.
        metrics: those to test.

    Returns:
        method -> `objective/metric` -> `mean` and `interval` of the difference, and `p` of a paired
        randomisation test, adjusted (Holm) for all of them together.
    """
    columns = [f"{name}/{metric}" for name in results[candidate][0].summary["metrics"] for metric in metrics]

    def of_users(method, column):
        return np.mean([seed.users[column] for seed in results[method]], axis=0)

    found = {
        (method, column): paired_test(of_users(method, column), of_users(candidate, column))
        for method in results
        if method != candidate
        for column in columns
    }
    adjusted = dict(zip(found, holm([one.p for one in found.values()]).tolist(), strict=True))
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for (method, column), one in found.items():
        numbers = {"mean": _round(one.mean), "interval": _round([one.low, one.high])}
        tables.setdefault(method, {})[column] = numbers | {"p": _round(adjusted[method, column])}
    return tables


def _beside(candidate, other, objective, metric):
    """Where the candidate's interval lies: above the other's, below it, or neither."""
    low, high = candidate["objectives"][objective][metric]["interval"]
    other_low, other_high = other["objectives"][objective][metric]["interval"]
    return "above" if low > other_high else "below" if high < other_low else "overlaps"


def _fronts(methods):
    curves = {name: np.array(one["fused"]) for name, one in methods.items() if one["fused"]}
    if CANDIDATE not in curves:
        return {}
    others = [name for name in curves if not name.startswith(CANDIDATE)]
    served = [name for name in others if methods[name]["indexes"]]
    one_search = [name for name in served if methods[name]["indexes"] == 1]
    groups = {"one search": one_search, "any index of vectors": served, "all": others}
    return {"fronts": {label: fronts(curves, CANDIDATE, names) for label, names in groups.items()}}


def _mean_notes(seeds):
    """What the objectives were after each stage, and metrics with met items shown: means over the seeds."""
    notes = {}
    if "after" in seeds[0].summary["notes"]:
        notes["after"] = _mean([seed.summary["notes"]["after"] for seed in seeds])
    if seeds[0].summary["met"]:
        notes["met"] = _mean([seed.summary["met"] for seed in seeds])
    return notes


def _mean(trees):
    if isinstance(trees[0], Mapping):
        return {key: _mean([tree[key] for tree in trees]) for key in trees[0]}
    return _round(np.mean(trees))


def _round(values):
    """Plain numbers of five digits."""
    return np.round(values, 5).tolist()


def table(summary: Mapping[str, Any], metrics: Sequence[str]) -> str:
    """The main table, the forgetting of staged methods, the met targets and the fused rankings, as text."""
    methods = summary["methods"]
    objectives = list(next(iter(methods.values()))["objectives"])
    marks = {"above": "+", "below": "-", "overlaps": "="}
    width = 31 + 6 * len(metrics[2:])
    lines = [" ".join(["method".ljust(18), *(f"{name:^{width}}" for name in objectives), "    s  idx dims"])]
    for name, one in methods.items():
        cells = []
        for objective in objectives:
            recall, *further = (one["objectives"][objective][metric] for metric in metrics)
            low, high = (_short(bound) for bound in recall["interval"])
            means = " ".join(_short(row["mean"]) for row in further)
            mark = marks[one["candidate"][objective]] if "candidate" in one and name != CANDIDATE else " "
            cells.append(f"{_short(recall['mean'])} [{low} {high}] {means} {mark}".center(width))
        lines.append(f"{name:18} {' '.join(cells)} {one['seconds']:6.0f} {one['indexes']:3} {one['dims']:4}")
    lines.append(
        f"{metrics[0]} [95 % interval] {' '.join(metrics[1:])}; + the interval of {CANDIDATE} lies above, "
        "- below"
    )
    for name, one in methods.items():
        for stage, row in one.get("after", {}).items():
            lines.append(f"{name} after {stage}: " + ", ".join(f"{k} {_short(v)}" for k, v in row.items()))
    for name, one in methods.items():
        for objective, parts in one.get("met", {}).items():
            found = ", ".join(f"{part} {_short(row[metrics[0]])}" for part, row in parts.items())
            lines.append(f"{name} on {objective} with met items shown: {found}")
    for name, columns in summary.get("paired", {}).items():
        cells = []
        for column, row in columns.items():
            low, high = row["interval"]
            cells.append(f"{column} {row['mean']:+.4f} [{low:+.4f} {high:+.4f}] p {row['p']:.3f}")
        lines.append(f"{SEQUENTIAL} less {name}: {', '.join(cells)}")
    if "paired" in summary:
        lines.append("mean difference [95 % interval, not adjusted], p by Holm over all of these tests")
    for label, front in summary.get("fronts", {}).items():
        lines.append(
            f"{CANDIDATE} fused: {front['above']} of {front['of']} weightings above the front of: {label}"
        )
    return "\n".join(lines)


def _short(value):
    return f"{value:.4f}".removeprefix("0")
