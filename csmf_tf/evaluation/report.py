"""Text tables and plots: metrics, capacity, and how the objectives trade off under fusion weights."""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito: told apart by colour-blind readers too.
_COLORS = ("#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442")
_FREE = "#D9D9D9"
_GROUPS = ("objectives", "baselines")

Shares = Sequence[float] | np.ndarray


def format_table(results: Mapping[str, Any]) -> str:
    """Metrics as an aligned text table.

    Args:
        results: nested mappings with metrics (name -> number) at the leaves, such as the JSON of
            `csmf-tf evaluate`. The names on the way to a leaf, but for "objectives" and "baselines", name its
            row; numbers on the outermost level are printed below the table.

    Returns:
        The table, without a newline at its end. Metrics over 0 users are shown as "-".

    Example:
        >>> view = {"recall@50": 0.1637, "users": 1200}
        >>> print(format_table({"objectives": {"view": view}, "fused": {"view": view}, "unknown_items": 3}))
                    recall@50  users
        view           0.1637  1,200
        fused view     0.1637  1,200
        unknown_items: 3
    """
    rows, below = dict(_leaves(results)), []
    if () in rows:
        below = [f"{name}: {_number(value)}" for name, value in rows.pop(()).items()]
    columns = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    cells = [["", *columns]]
    for label, metrics in rows.items():
        measured = metrics.get("users", 1) != 0
        values = [_number(metrics[name]) if name in metrics else "" for name in columns]
        shown = [
            value if measured or name == "users" else "-" for name, value in zip(columns, values, strict=True)
        ]
        cells.append([" ".join(label), *shown])
    return "\n".join(_aligned(cells) + below)


def format_capacity(capacity: Mapping[str, Shares], objectives: Sequence[str]) -> str:
    """Capacity as an aligned text table: the share of each layer that each objective owns.

    Args:
        capacity: layer -> shares `[K + 1]`, of the free part first and then of each objective.
        objectives: the K names, upstream first.

    Returns:
        The table, without a newline at its end.

    Raises:
        ValueError: if a layer does not have K + 1 shares.

    Example:
        >>> print(format_capacity({"embedding": [0.2, 0.5, 0.3]}, ["view", "buy"]))
                    view    buy   free
        embedding  50.0%  30.0%  20.0%
    """
    table = _shares(capacity, objectives)
    cells = [["", *objectives, "free"]]
    cells += [[layer, *(f"{share:.1%}" for share in shares)] for layer, shares in table.items()]
    return "\n".join(_aligned(cells))


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


def tradeoff_png(
    path: str | os.PathLike[str],
    objectives: Sequence[str],
    weights: np.ndarray,
    recalls: np.ndarray,
    metric: str = "recall@50",
) -> None:
    """Draws what each objective's recall becomes as the fusion weights move over the simplex.

    Two objectives are drawn as lines, three as one triangle each with the best weights marked. Of more than
    three, the points that weigh the first and the last one alone are drawn, as lines.

    Args:
        path: the PNG file to write.
        objectives: the K names, upstream first; K >= 2.
        weights: float `[P, K]`, not negative, e.g. `weight_grid(K)`; scaled to sum to 1.
        recalls: float `[P, K]`, the metric of each objective under each of the weights.
        metric: the name of what `recalls` holds, for the labels.

    Raises:
        ValueError: if there are fewer than two objectives, shapes do not match, weights sum to 0, or there is
            no point to draw.
    """
    weights, recalls = np.asarray(weights, np.float64), np.asarray(recalls, np.float64)
    if len(objectives) < 2:
        raise ValueError(f"A trade-off should have at least two objectives. Received: {list(objectives)}.")
    if weights.shape != recalls.shape or weights.shape[1:] != (len(objectives),):
        raise ValueError(
            f"`weights` and `recalls` should be [P, {len(objectives)}]. "
            f"Received: shapes {weights.shape} and {recalls.shape}."
        )
    totals = weights.sum(axis=1, keepdims=True)
    if not (totals > 0).all():
        raise ValueError(f"Each row of `weights` should have a sum > 0. Received: a sum of {totals.min():g}.")
    weights = weights / totals
    edge = weights[:, 0] + weights[:, -1] > 1 - 1e-9
    if len(objectives) > 3 and not edge.any():
        raise ValueError(
            "`weights` should hold points that weigh the first and the last objective alone. Received: none; "
            f"write e.g. `weight_grid({len(objectives)})`."
        )
    if len(objectives) == 3:
        figure = Figure(figsize=(14, 4.2), layout="constrained")
        for k, axes in enumerate(figure.subplots(1, 3)):
            _draw_triangle(axes, weights, recalls[:, k], objectives, f"{metric} on {objectives[k]}")
    else:
        figure = Figure(figsize=(7.5, 4.5), layout="constrained")
        _draw_lines(figure.subplots(), weights[edge, -1], recalls[edge], objectives, metric)
    figure.savefig(path, format="png", dpi=130)


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
    table = _shares(capacity, objectives)
    figure = Figure(figsize=(8, 1.6 + 0.42 * len(table)), layout="constrained")
    axes = figure.subplots()
    left = np.zeros(len(table))
    for k, owner in enumerate([*objectives, "free"]):
        shares = np.array([row[k] for row in table.values()])
        color = _FREE if k == len(objectives) else _COLORS[k % len(_COLORS)]
        bars = axes.barh(list(table), shares, left=left, color=color, edgecolor="white", label=owner)
        axes.bar_label(
            bars, [f"{s:.1%}" if s >= 0.05 else "" for s in shares], label_type="center", fontsize=9
        )
        left += shares
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="Share of the layer", ylabel="Layer", title="Capacity")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="Owner", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path, format="png", dpi=130)


def _draw_lines(axes: Axes, share: np.ndarray, values: np.ndarray, names: Sequence[str], label: str) -> None:
    """A metric of each objective over the last objective's share of the weight."""
    order = np.argsort(share)
    for k, name in enumerate(names):
        color = _COLORS[k % len(_COLORS)]
        axes.plot(share[order], values[order, k], "o-", markersize=4, color=color, label=name, clip_on=False)
    axes.set(xlim=(0, 1), xlabel=f"Weight of {names[-1]} (the rest: {names[0]})", ylabel=label)
    axes.set_title(f"{label} under fusion weights")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(title="Measured on", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _draw_triangle(
    axes: Axes, weights: np.ndarray, values: np.ndarray, names: Sequence[str], label: str
) -> None:
    """A metric over the weight simplex of three objectives; its corners: lower left, lower right, top."""
    corners = np.array([[0, 0], [1, 0], [0.5, np.sqrt(0.75)]])
    outward = corners.mean(axis=0) - corners[[2, 0, 1]]
    x, y = (weights @ corners).T
    surface = axes.tripcolor(x, y, values, shading="gouraud", cmap="viridis")
    axes.plot(*corners[[0, 1, 2, 0]].T, color="black", linewidth=0.8)
    for k, name in enumerate(names):
        for share in (0.25, 0.5, 0.75):
            line = np.roll([[share, 1 - share, 0], [share, 0, 1 - share]], k, axis=1) @ corners
            axes.plot(*line.T, color="white", linewidth=0.6, alpha=0.7)
            _write(axes, line[0] + 0.07 * outward[k], f"{share:g}", fontsize=8)
        middle = (corners[k] + corners[(k + 1) % 3]) / 2 + 0.2 * outward[k]
        _write(axes, middle, f"weight of {name}", fontsize=9, rotation=(0, -60, 60)[k])
        _write(axes, 1.13 * corners[k] - 0.13 * corners.mean(axis=0), name, weight="bold")
    best = np.argmax(values)
    axes.plot(x[best], y[best], "*", markersize=15, color="white", markeredgecolor="black", clip_on=False)
    axes.set(xlim=(-0.15, 1.15), ylim=(-0.17, 1), aspect="equal", title=f"{label} (★ {values[best]:.4f})")
    axes.set_axis_off()
    axes.figure.colorbar(surface, ax=axes, shrink=0.8, label=label)


def _write(axes: Axes, point: np.ndarray, text: str, **style: Any) -> None:
    axes.text(point[0], point[1], text, ha="center", va="center", **style)


def _leaves(
    results: Mapping[str, Any], label: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict]]:
    """(names on the way, numbers) of every mapping that holds numbers."""
    numbers = {name: value for name, value in results.items() if not isinstance(value, Mapping)}
    if numbers:
        yield label, numbers
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, label if name in _GROUPS else (*label, name))


def _shares(capacity: Mapping[str, Shares], objectives: Sequence[str]) -> dict[str, list[float]]:
    """Shares of each layer with the free one last."""
    for layer, shares in capacity.items():
        if len(shares) != len(objectives) + 1:
            raise ValueError(
                f"`capacity['{layer}']` should have a share for each of free, {', '.join(objectives)}. "
                f"Received: {len(shares)} shares."
            )
    return {layer: [*map(float, shares[1:]), float(shares[0])] for layer, shares in capacity.items()}


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.4f}"


def _aligned(cells: list[list[str]]) -> list[str]:
    """Lines with the first column flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        columns = [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
        lines.append("  ".join(columns).rstrip())
    return lines
