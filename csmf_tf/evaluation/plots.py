"""Plots: trade-off under fusion weights, capacity, learning curves and retention."""

import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from csmf_tf.evaluation.curves import Curve, learning_curves
from csmf_tf.evaluation.tables import Shares, capacity_rows

# Okabe and Ito: told apart by colour-blind readers too.
COLORS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442")
FREE = "#D9D9D9"
_TIE = 5e-5  # less than the four decimals that are shown
_PHASES = {"fit": ("#0072B2", "o-"), "recover": ("#D55E00", "s--")}
# Names come from users: a "$" in them is no mathematics.
_plain_text = rc_context({"text.parse_math": False})


def weight_grid(objectives: int, steps: int = 10) -> np.ndarray:
    """Fusion weights that `tradeoff_png` can draw.

    Args:
        objectives: the number K of objectives.
        steps: number of intervals along an edge of the simplex.

    Returns:
        float64 `[P, K]`, rows that sum to 1: for K <= 3 the regular lattice over the simplex; for K > 3 the
        edge from the first to the last objective.

    Example:
        >>> weight_grid(2, steps=2).tolist()
        [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]]
        >>> weight_grid(3, steps=10).shape
        (66, 3)
    """
    if objectives > 3:
        edge = weight_grid(2, steps)
        return np.concatenate([edge[:, :1], np.zeros((len(edge), objectives - 2)), edge[:, 1:]], axis=1)
    counts = product(range(steps + 1), repeat=objectives)
    return np.array([row for row in counts if sum(row) == steps]) / steps


@_plain_text
def tradeoff_png(
    path: str | os.PathLike[str],
    objectives: Sequence[str],
    weights: np.ndarray,
    values: np.ndarray,
    metric: str = "recall@50",
    half_widths: Sequence[float] | None = None,
    note: str = "",
) -> None:
    """Draws what each objective's recall becomes as the fusion weights move over the simplex.

    Two objectives are drawn as lines, three as one triangle each with the best weights marked, where they
    stand out. Of more than three, the points that weigh the first and the last one alone are drawn, as lines.

    Args:
        path: the PNG file to write.
        objectives: the K names, upstream first; K >= 2.
        weights: float `[P, K]`, not negative, e.g. `weight_grid(K)`; scaled to sum to 1.
        values: float `[P, K]`, the metric of each objective under each of the weights.
        metric: the name of what `values` holds, for the labels.
        half_widths: half the width of the interval of each objective's metric. Where the values spread by no
            more, no weights are marked, and the colours span the interval; `inf` marks none anyhow.
        note: a line below the plot.

    Raises:
        ValueError: if there are fewer than two objectives, shapes do not match, weights sum to 0, or there is
            no point to draw.
    """
    weights, values = np.asarray(weights, np.float64), np.asarray(values, np.float64)
    if len(objectives) < 2:
        raise ValueError(f"A trade-off should have at least two objectives. Received: {list(objectives)}.")
    if weights.shape != values.shape or weights.shape[1:] != (len(objectives),):
        raise ValueError(
            f"`weights` and `values` should be [P, {len(objectives)}]. "
            f"Received: shapes {weights.shape} and {values.shape}."
        )
    totals = weights.sum(axis=1, keepdims=True)
    if not (totals > 0).all():
        raise ValueError(f"Each row of `weights` should have a sum > 0. Received: a sum of {totals.min():g}.")
    weights, names = weights / totals, [_short(name) for name in objectives]
    edge = weights[:, 0] + weights[:, -1] > 1 - 1e-9
    if len(objectives) > 3 and not edge.any():
        raise ValueError(
            "`weights` should hold points that weigh the first and the last objective alone. Received: none; "
            f"write e.g. `weight_grid({len(objectives)})`."
        )
    if len(objectives) == 3:
        figure = Figure(figsize=(14, 4.5), layout="constrained")
        for k, axes in enumerate(figure.subplots(1, 3)):
            half = 0.0 if half_widths is None else half_widths[k]
            _draw_triangle(axes, weights, values[:, k], names, f"{metric} on {names[k]}", half)
    else:
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        _draw_lines(figure.subplots(), weights[edge, -1], values[edge], names, metric)
    if note:
        figure.supxlabel(note, fontsize=9, color="#555555")
    figure.savefig(path, format="png", dpi=130)


@_plain_text
def capacity_png(
    path: str | os.PathLike[str], capacity: Mapping[str, Shares], objectives: Sequence[str]
) -> None:
    """Draws the share of each layer that each objective owns as stacked bars.

    Args:
        path: the PNG file to write.
        capacity: as in `format_capacity`.
        objectives: the K names, upstream first.

    Raises:
        ValueError: if a layer does not have K + 1 shares.
    """
    table = capacity_rows(capacity, objectives)
    figure = Figure(figsize=(8, 1.6 + 0.42 * len(table)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(table))
    for k, owner in enumerate([*objectives, "free"]):
        shares = np.array([row[k] for row in table.values()])
        color = FREE if k == len(objectives) else COLORS[k % len(COLORS)]
        bars = axes.barh(
            range(len(table)), shares, left=left, color=color, edgecolor="white", label=_short(owner)
        )
        axes.bar_label(
            bars, [f"{s:.1%}" if s >= 0.05 else "" for s in shares], label_type="center", fontsize=9
        )
        left += shares
    axes.set_yticks(range(len(table)), list(table))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="Share of the layer", ylabel="Layer", title="Capacity")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="Owner", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, format="png", dpi=130)


@_plain_text
def learning_png(path: str | os.PathLike[str], log: Iterable[Mapping[str, Any]]) -> None:
    """Draws the validation metric and the loss of every stage by epoch, with the best epochs marked.

    Args:
        path: the PNG file to write.
        log: as in `learning_curves`.

    Raises:
        ValueError: if the log holds no epoch.
    """
    stages: dict[str, list[Curve]] = {}
    for curve in learning_curves(log):
        stages.setdefault(curve.objective, []).append(curve)
    if not stages:
        raise ValueError("`log` should hold at least one epoch. Received: none; train a stage first.")
    validated = any(curve.metric for curves in stages.values() for curve in curves)
    figure = Figure(figsize=(10, 0.4 + 2.5 * len(stages)), layout="constrained")
    rows = figure.subplots(len(stages), 1 + validated, squeeze=False)
    for row, (name, curves) in zip(rows, stages.items(), strict=True):
        _draw_curves(row[-1], curves, [curve.loss for curve in curves])
        row[-1].set(title=_short(name), ylabel="loss")
        if validated:
            _draw_curves(row[0], curves, [curve.values for curve in curves])
            row[0].set(title=_short(name), ylabel=f"validation {curves[0].metric}")
    marks = {
        label: mark for a in figure.axes for mark, label in zip(*a.get_legend_handles_labels(), strict=True)
    }
    figure.legend(marks.values(), marks.keys(), loc="outside lower center", ncols=len(marks), frameon=False)
    figure.savefig(path, format="png", dpi=130)


@_plain_text
def retention_png(
    path: str | os.PathLike[str], retention: Mapping[str, Mapping[str, float]], metric: str = "recall@50"
) -> None:
    """Draws a metric of each objective after its own stage and after every later one.

    Args:
        path: the PNG file to write.
        retention: objective -> stage after which it was measured -> metric, both upstream first.
        metric: the name of what `retention` holds, for the labels.

    Raises:
        ValueError: if nothing was measured.
    """
    stages = list(dict.fromkeys(stage for row in retention.values() for stage in row))
    if not stages:
        raise ValueError("`retention` should hold at least one value. Received: none.")
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for k, (name, row) in enumerate(retention.items()):
        at = [stages.index(stage) for stage in row]
        axes.plot(
            at, list(row.values()), "o-", color=COLORS[k % len(COLORS)], label=_short(name), clip_on=False
        )
    axes.set_xticks(range(len(stages)), [f"after {_short(stage)}" for stage in stages])
    axes.set(xlim=(-0.2, len(stages) - 0.8), ylabel=metric, title=f"{metric} after every stage")
    _finish(axes, max(value for row in retention.values() for value in row.values()))
    figure.savefig(path, format="png", dpi=130)


def _draw_lines(axes: Axes, share: np.ndarray, values: np.ndarray, names: Sequence[str], label: str) -> None:
    """A metric of each objective over the last objective's share of the weight."""
    order = np.argsort(share)
    for k, name in enumerate(names):
        color = COLORS[k % len(COLORS)]
        axes.plot(share[order], values[order, k], "o-", markersize=4, color=color, label=name, clip_on=False)
    axes.set(xlim=(0, 1), xlabel=f"Weight of {names[-1]} (the rest: {names[0]})", ylabel=label)
    axes.set_title(f"{label} under fusion weights")
    _finish(axes, values.max())


def _draw_triangle(
    axes: Axes, weights: np.ndarray, values: np.ndarray, names: Sequence[str], label: str, half: float
) -> None:
    """A metric over the weight simplex of three objectives; its corners: lower left, lower right, top."""
    corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
    outward = corners.mean(axis=0) - corners[[2, 0, 1]]
    x, y = (weights @ corners).T
    middle, flat = (values.min() + values.max()) / 2, np.ptp(values) <= max(half, _TIE)
    # So that what may be noise does not take all colours.
    reach = max(half if np.isfinite(half) else 0, np.ptp(values), 0.05 * middle)
    low, high = max(0.0, middle - reach), middle + reach or 0.1
    limits = (low, high) if flat else (values.min(), values.max())
    surface = axes.tripcolor(x, y, values, shading="gouraud", cmap="viridis", clim=limits)
    axes.plot(*corners[[0, 1, 2, 0]].T, color="black", linewidth=0.8)
    for k, name in enumerate(names):
        for share in (0.25, 0.5, 0.75):
            line = np.roll([[share, 1 - share, 0], [share, 0, 1 - share]], k, axis=1) @ corners
            axes.plot(*line.T, color="white", linewidth=0.6, alpha=0.7)
            _write(axes, line[0] + 0.07 * outward[k], f"{share:g}", fontsize=8)
        side = (corners[k] + corners[(k + 1) % 3]) / 2 + 0.2 * outward[k]
        _write(axes, side, f"weight of {name}", fontsize=9, rotation=(0, -60, 60)[k])
        _write(axes, 1.2 * corners[k] - 0.2 * corners.mean(axis=0), name, weight="bold")
    title = f"{label}\n{values.min():.4f} to {values.max():.4f}"
    if np.ptp(values) < _TIE:
        title = f"{label}\n{middle:.4f} throughout"
    if not flat:
        best = np.argmax(values)
        axes.plot(x[best], y[best], "*", markersize=15, color="white", markeredgecolor="black", clip_on=False)
        title = f"{label}\n★ {values[best]:.4f}"
    axes.set(xlim=(-0.2, 1.2), ylim=(-0.2, 1.05), aspect="equal", title=title)
    axes.set_axis_off()
    axes.figure.colorbar(surface, ax=axes, shrink=0.8)


def _draw_curves(axes: Axes, curves: Sequence[Curve], series: Sequence[np.ndarray]) -> None:
    """Fit and, after it, recovery, whose epochs are counted anew, with a star at each best epoch."""
    start, gap, ticks, labels = 0, 0, [], []
    locator = MaxNLocator(5, steps=[1, 2, 5, 10], integer=True)
    for curve, values in zip(curves, series, strict=True):
        color, style = _PHASES.get(curve.phase, ("#555555", "o:"))
        at, best = start + curve.epochs, curve.epochs == curve.best
        axes.plot(at, values, style, color=color, markersize=4, markerfacecolor="white", label=curve.phase)
        if curve.metric:
            label = f"best epoch of {curve.phase}"
            axes.plot(
                at[best], values[best], "*", color=color, markersize=13, markeredgecolor="white", label=label
            )
        if start:
            axes.axvline(start - gap / 2, color="#999999", linestyle=":", linewidth=1)
        marked = np.isin(curve.epochs, locator.tick_values(curve.epochs[0], curve.epochs[-1]))
        ticks += at[marked].tolist()
        labels += curve.epochs[marked].tolist()
        gap = 1 + len(at) // 12
        start = at[-1] + gap
    axes.set_xticks(ticks, labels)
    axes.set(xlabel="epoch")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _finish(axes: Axes, highest: float) -> None:
    """What the plots of one line an objective share."""
    axes.set_ylim(0, 1.08 * highest or 1)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="Measured on", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _write(axes: Axes, point: np.ndarray, text: str, **style: Any) -> None:
    axes.text(point[0], point[1], text, ha="center", va="center", **style)


def _short(name: str) -> str:
    """A name that leaves room for the plot."""
    return name if len(name) <= 24 else f"{name[:23]}…"
