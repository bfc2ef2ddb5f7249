"""The evaluation of a run as one HTML page that needs nothing else, and its plots as PNGs."""

import base64
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from csmf_tf.evaluation.cells import (
    FEW_USERS,
    NOT_METRICS,
    beaten,
    format_metric,
    format_number,
    interval,
    left_out,
    rankings,
    users_of,
)
from csmf_tf.evaluation.curves import learning_curves
from csmf_tf.evaluation.plots import COLORS, capacity_png, learning_png, retention_png, tradeoff_png
from csmf_tf.evaluation.tables import Shares, capacity_rows

_PAGE = "index.html"
_PLOTS = ("tradeoff.png", "capacity.png", "learning.png", "retention.png")
_LABELS = {"popularity_any": "popularity of any behaviour"}
_HEADINGS = {
    "recall": "Recall",
    "ndcg": "NDCG",
    "hit_rate": "Hit rate",
    "mrr": "MRR",
    "map": "MAP",
    "coverage": "Coverage",
    "popular": "Popular",
}


def write_report(
    folder: str | os.PathLike[str],
    *,
    title: str,
    results: Mapping[str, Any],
    capacity: Mapping[str, Shares],
    log: Iterable[Mapping[str, Any]],
    funnel: Sequence[str],
    tradeoff: tuple[np.ndarray, np.ndarray] | None = None,
    tradeoff_users: int | None = None,
    data: Mapping[str, Mapping[str, int]] | None = None,
    setting: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes `index.html` and the plots of an evaluation.

    The page holds its style and its plots, so it can be sent or archived alone, and loads nothing. Files of
    an older report are replaced one by one once all of the new one is written; other files stay.

    Args:
        folder: where the files go; made if it is not there.
        title: heading of the page.
        results: what `Run.evaluate` gives.
        capacity: layer -> shares `[K + 1]`, of the free part first and then of each objective.
        log: what `Run.fit` returns, for the learning curves.
        funnel: the K objectives, upstream first.
        tradeoff: weights `[P, J]` and `results["metric"]` `[P, J]` under each of them, of the first J >= 2
            objectives, as `tradeoff_png` takes them; None leaves the plot out.
        tradeoff_users: how many test users were asked for `tradeoff` at most; None for all.
        data: part of the log, such as "training" -> "events", "users" and "items" -> their number.
        setting: what the run was: name -> text, number, or mapping of such; text of several lines, such as
            the configuration, is folded.

    Returns:
        The path of `index.html`.

    Raises:
        ValueError: if shapes do not match `funnel`.

    Example:
        >>> leaf = {"recall@50": 0.5, "users": 2, "skipped": 0, "intervals": {"recall@50": [0.0, 1.0]}}
        >>> results = {
        ...     "objectives": {"view": leaf},
        ...     "fused": {"view": leaf},
        ...     "baselines": {"popularity": {"view": leaf}},
        ...     "met_shown": {},
        ...     "retention": {"view": {"view": 0.5}},
        ...     "metric": "recall@50",
        ...     "targets": {"view": {"new": 3, "met": 0}},
        ...     "unknown_users": 1,
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = write_report(
        ...         folder,
        ...         title="A run",
        ...         results=results,
        ...         capacity={"embedding": [0.2, 0.8]},
        ...         log=[],
        ...         funnel=["view"],
        ...     )
        ...     sorted(file.name for file in path.parent.iterdir())
        ['capacity.png', 'index.html']
    """
    folder, log = pathlib.Path(folder).resolve(), list(log)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=folder.parent) as beside:
        made = pathlib.Path(beside)
        spreads = _spreads(funnel, results, tradeoff, tradeoff_users)
        note = _note(tradeoff_users)
        _draw(made, results, capacity, log, funnel, tradeoff, spreads, note)
        page = _render(
            title=title,
            results=results,
            funnel=funnel,
            capacity=capacity_rows(capacity, funnel),
            curves=learning_curves(log),
            pruned={entry["objective"]: entry["layers"] for entry in log if entry["phase"] == "prune"},
            data=data or {},
            setting=setting or {},
            images={path.stem: _data_url(path) for path in made.iterdir()},
            spreads=spreads,
            note=note,
        )
        (made / _PAGE).write_text(page, encoding="utf-8")
        # The page comes last: it holds its own plots, so it is whole whenever this ends.
        for name in (*_PLOTS, _PAGE):
            if (made / name).exists():
                (made / name).replace(folder / name)
            else:
                (folder / name).unlink(missing_ok=True)
    return folder / _PAGE


def _draw(
    folder: pathlib.Path,
    results: Mapping[str, Any],
    capacity: Mapping[str, Shares],
    log: Sequence[Mapping[str, Any]],
    funnel: Sequence[str],
    tradeoff: tuple[np.ndarray, np.ndarray] | None,
    spreads: Mapping[str, "_Spread"],
    note: str,
) -> None:
    metric, retention = results["metric"], results["retention"]
    capacity_png(folder / "capacity.png", capacity, funnel)
    if learning_curves(log):
        learning_png(folder / "learning.png", log)
    if _moved(retention):
        retention_png(folder / "retention.png", retention, metric)
    if tradeoff is not None and np.shape(tradeoff[0])[1] > 1:
        half_widths = [spread.half_width for spread in spreads.values()]
        tradeoff_png(folder / "tradeoff.png", list(spreads), *tradeoff, metric, half_widths, note)


def _render(**context: Any) -> str:
    environment = Environment(
        loader=PackageLoader("csmf_tf.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "metric": format_metric,
        "number": format_number,
        "interval": _interval,
        "users": users_of,
        "heading": _heading,
        "label": lambda name: _LABELS.get(name, name),
    }
    template = environment.get_template("report.html.jinja")
    results, funnel = context["results"], context["funnel"]
    return template.render(
        sources=rankings(results),
        met_sources=rankings(results.get("met_shown", {})),
        popular={name: _most_popular(results, name) for name in results["objectives"]},
        few=FEW_USERS,
        marked=_any_few(results),
        infinity=np.inf,
        beaten=beaten(results, _LABELS),
        left_out=left_out(results),
        cutoffs=_cutoffs(results["objectives"]),
        moved=_moved(results["retention"]),
        stages=[name for name in funnel if any(name in row for row in results["retention"].values())],
        colors={name: COLORS[k % len(COLORS)] for k, name in enumerate(funnel)},
        **context,
    )


def _any_few(results: Mapping[str, Any]) -> bool:
    """Whether some ranking was measured on few users."""
    leaves = list(results["objectives"].values())
    for _, objectives in rankings(results.get("met_shown", {})):
        leaves += [leaf for parts in objectives.values() for leaf in parts.values()]
    return any(users_of(leaf).startswith("†") for leaf in leaves)


def _most_popular(results: Mapping[str, Any], objective: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The better baseline of an objective and what it got, or nothing."""
    rows = {name: rows[objective] for name, rows in results["baselines"].items() if objective in rows}
    return sorted(rows.items(), key=lambda row: -row[1][results["metric"]])[:1]


def _cutoffs(leaves: Mapping[str, Mapping[str, Any]]) -> dict[int, list[str]]:
    """K -> the names of the metrics at K."""
    cutoffs: dict[int, list[str]] = {}
    for name in dict.fromkeys(name for leaf in leaves.values() for name in leaf if name not in NOT_METRICS):
        cutoffs.setdefault(int(name.rpartition("@")[2]), []).append(name)
    return cutoffs


def _moved(retention: Mapping[str, Mapping[str, float]]) -> float:
    """The largest difference between two stages after which one objective was measured."""
    return max((max(row.values()) - min(row.values()) for row in retention.values() if row), default=0.0)


class _Spread(NamedTuple):
    """What the fusion weights do to the metric of one objective, and the weights of the highest value."""

    low: float
    high: float
    weights: dict[str, float]
    half_width: float

    def stands_out(self) -> bool:
        return self.high - self.low > self.half_width


def _spreads(
    funnel: Sequence[str],
    results: Mapping[str, Any],
    tradeoff: tuple[np.ndarray, np.ndarray] | None,
    users: int | None,
) -> dict[str, _Spread]:
    """Of each objective; the intervals are those of the results, widened to fit the users that were asked."""
    if tradeoff is None:
        return {}
    weights, values = (np.asarray(part, np.float64) for part in tradeoff)
    rows = weights[values.argmax(axis=0)]
    rows = rows / rows.sum(axis=1, keepdims=True)
    names, leaves = funnel[: weights.shape[1]], results["objectives"]
    most = max((leaf.get("users", 0) for leaf in leaves.values()), default=0)
    wider = float(np.sqrt(max(1.0, most / (users or np.inf))))
    spreads = {}
    for k, name in enumerate(names):
        half = wider * _half_width(leaves.get(name, {}), results["metric"])
        best = dict(zip(names, rows[k].tolist(), strict=True))
        spreads[name] = _Spread(float(values[:, k].min()), float(values[:, k].max()), best, half)
    return spreads


def _half_width(leaf: Mapping[str, Any], metric: str) -> float:
    """Half of the interval; infinity where it tells nothing, 0 where none was computed."""
    if leaf.get("users", FEW_USERS) < FEW_USERS:
        return np.inf
    bounds = interval(leaf, metric)
    return (bounds[1] - bounds[0]) / 2 if bounds else 0.0


def _note(users: int | None) -> str:
    asked = "all test users" if users is None else f"at most {users:,} test users"
    return f"Measured on {asked}: weights that are picked here are picked on test data."


def _interval(leaf: Mapping[str, Any], name: str) -> str:
    bounds = interval(leaf, name)
    return f"{bounds[0]:.4f}–{bounds[1]:.4f}" if bounds else ""


def _heading(name: str) -> str:
    metric = name.partition("@")[0]
    return _HEADINGS.get(metric, metric)


def _data_url(path: pathlib.Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
