"""The evaluation of a run as one HTML page that needs nothing else, and its plots as PNGs."""

import base64
import os
import pathlib
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from csmf_tf.evaluation.curves import learning_curves
from csmf_tf.evaluation.plots import COLORS, capacity_png, learning_png, retention_png, tradeoff_png
from csmf_tf.evaluation.tables import Shares, capacity_rows, format_metric

_PAGE = "index.html"
_PLOTS = ("tradeoff.png", "capacity.png", "learning.png", "retention.png")
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
        _draw(made, results, capacity, log, funnel, tradeoff)
        page = _render(
            title=title,
            results=results,
            funnel=funnel,
            capacity=capacity_rows(capacity, funnel),
            curves=learning_curves(log),
            pruned={entry["objective"]: entry["layers"] for entry in log if entry["phase"] == "prune"},
            setting=setting or {},
            images={path.stem: _data_url(path) for path in made.iterdir()},
            best_weights=_best_weights(funnel, tradeoff),
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
) -> None:
    metric, retention = results["metric"], results["retention"]
    capacity_png(folder / "capacity.png", capacity, funnel)
    if learning_curves(log):
        learning_png(folder / "learning.png", log)
    if len(retention) > 1:
        retention_png(folder / "retention.png", retention, metric)
    if tradeoff is not None and np.shape(tradeoff[0])[1] > 1:
        names = funnel[: np.shape(tradeoff[0])[1]]
        tradeoff_png(folder / "tradeoff.png", names, *tradeoff, metric)


def _render(**context: Any) -> str:
    environment = Environment(
        loader=PackageLoader("csmf_tf.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"metric": format_metric, "interval": _interval, "heading": _heading}
    template = environment.get_template("report.html.jinja")
    results, funnel = context["results"], context["funnel"]
    return template.render(
        sources=[
            ("own score", results["objectives"]),
            ("equal weights", results["fused"]),
            *results["baselines"].items(),
        ],
        met_sources=_met_sources(results.get("met_shown", {})),
        cutoffs=_cutoffs(results["objectives"]),
        moved=_moved(results["retention"]),
        stages=[name for name in funnel if any(name in row for row in results["retention"].values())],
        counts={name: value for name, value in results.items() if isinstance(value, int)},
        colors={name: COLORS[k % len(COLORS)] for k, name in enumerate(funnel)},
        **context,
    )


def _met_sources(met_shown: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(label, objective -> part -> leaf) of the ranking with met items shown, where there is any."""
    rankings = [("own score", met_shown.get("objectives", {})), *met_shown.get("baselines", {}).items()]
    return [(label, objectives) for label, objectives in rankings if objectives]


def _cutoffs(leaves: Mapping[str, Mapping[str, Any]]) -> dict[int, list[str]]:
    """K -> the names of the metrics at K."""
    cutoffs: dict[int, list[str]] = {}
    for name in dict.fromkeys(name for leaf in leaves.values() for name in leaf if "@" in name):
        cutoffs.setdefault(int(name.rpartition("@")[2]), []).append(name)
    return cutoffs


def _moved(retention: Mapping[str, Mapping[str, float]]) -> float:
    """The largest difference between two stages after which one objective was measured."""
    return max((max(row.values()) - min(row.values()) for row in retention.values() if row), default=0.0)


def _best_weights(
    funnel: Sequence[str], tradeoff: tuple[np.ndarray, np.ndarray] | None
) -> dict[str, tuple[float, dict[str, float]]]:
    """Objective -> its highest value under fusion weights, and those weights."""
    if tradeoff is None:
        return {}
    weights, values = (np.asarray(part, np.float64) for part in tradeoff)
    rows = weights[values.argmax(axis=0)]
    rows = rows / rows.sum(axis=1, keepdims=True)
    names = funnel[: weights.shape[1]]
    return {
        name: (float(values[:, k].max()), dict(zip(names, rows[k].tolist(), strict=True)))
        for k, name in enumerate(names)
    }


def _interval(leaf: Mapping[str, Any], name: str) -> str:
    if name not in leaf.get("intervals", {}) or not leaf.get("users", 1):
        return ""
    low, high = leaf["intervals"][name]
    return f"{low:.4f}–{high:.4f}"


def _heading(name: str) -> str:
    metric = name.partition("@")[0]
    return _HEADINGS.get(metric, metric)


def _data_url(path: pathlib.Path) -> str:
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")
