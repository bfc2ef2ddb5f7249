"""Text tables of metrics and of capacity."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from csmf_tf._text import aligned

WIDTH = 110
_GROUPS = ("objectives", "baselines")
_APART = ("met_shown", "retention", "targets", "metric")

Shares = Sequence[float] | np.ndarray


def format_table(results: Mapping[str, Any]) -> str:
    """Metrics as aligned text tables.

    Args:
        results: what `Run.evaluate` gives, or nested mappings with metrics (name -> number) at the leaves.
            The names on the way to a leaf, but for "objectives" and "baselines", name its row; "intervals"
            in a leaf (name -> [low, high]) are shown as half their width; numbers on the outermost level
            are printed below the tables.

    Returns:
        The tables, an empty line between them, without a newline at the end: all metrics in one, or where
        that is wider than 110 columns one for each cut-off K and one for the rest; then, as far as `results`
        has them, one metric with the met items shown, split into all, met and new targets, the retention
        and the numbers of targets. Metrics over 0 users are shown as "-".

    Example:
        >>> view = {"recall@50": 0.1637, "users": 1200, "intervals": {"recall@50": [0.1606, 0.1668]}}
        >>> print(format_table({"objectives": {"view": view}, "fused": {"view": view}, "unknown_items": 3}))
                        recall@50  users
        view        0.1637 ±.0031  1,200
        fused view  0.1637 ±.0031  1,200
        unknown_items: 3
    """
    rows = dict(_leaves({name: value for name, value in results.items() if name not in _APART}))
    below = [f"{name}: {_number(value)}" for name, value in rows.pop((), {}).items()]
    blocks = [
        *_metric_blocks(rows),
        *_met_block(results),
        *_matrix_block(f"{results.get('metric', 'metric')} after", results.get("retention", {})),
        *_matrix_block("targets", results.get("targets", {})),
    ]
    return "\n".join(["\n\n".join("\n".join(aligned(block)) for block in blocks), *below])


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
    table = capacity_rows(capacity, objectives)
    cells = [["", *objectives, "free"]]
    cells += [[layer, *(f"{share:.1%}" for share in shares)] for layer, shares in table.items()]
    return "\n".join(aligned(cells))


def capacity_rows(capacity: Mapping[str, Shares], objectives: Sequence[str]) -> dict[str, list[float]]:
    """Shares of each layer in the order of the objectives, the free one last.

    Args:
        capacity: layer -> shares `[K + 1]`, of the free part first and then of each objective.
        objectives: the K names, upstream first.

    Raises:
        ValueError: if a layer does not have K + 1 shares.

    Example:
        >>> capacity_rows({"embedding": [0.2, 0.5, 0.3]}, ["view", "buy"])
        {'embedding': [0.5, 0.3, 0.2]}
    """
    for layer, shares in capacity.items():
        if len(shares) != len(objectives) + 1:
            raise ValueError(
                f"`capacity['{layer}']` should have a share for each of free, {', '.join(objectives)}. "
                f"Received: {len(shares)} shares."
            )
    return {layer: [*map(float, shares[1:]), float(shares[0])] for layer, shares in capacity.items()}


def format_metric(leaf: Mapping[str, Any], name: str) -> str:
    """One metric of a leaf of the results, without its interval.

    Args:
        leaf: name -> number.
        name: the metric.

    Returns:
        Four decimals, a whole number with thousands set apart, "-" for a metric over 0 users, or "" where
        `leaf` has no such metric.

    Example:
        >>> format_metric({"recall@50": 0.16374, "users": 1200}, "recall@50")
        '0.1637'
        >>> format_metric({"recall@50": 0.0, "users": 0}, "recall@50")
        '-'
    """
    if name not in leaf:
        return ""
    if leaf.get("users", 1) == 0 and name not in ("users", "skipped"):
        return "-"
    return _number(leaf[name])


def _metric_blocks(rows: Mapping[tuple[str, ...], Mapping[str, Any]]) -> Iterator[list[list[str]]]:
    """One table, or where that is too wide one for each K and one for the rest."""
    columns = list(dict.fromkeys(name for leaf in rows.values() for name in leaf if name != "intervals"))
    whole = _block("", {name: name for name in columns}, rows)
    if not columns or len(aligned(whole)[0]) <= WIDTH:
        yield from [whole] if columns else []
        return
    for at in dict.fromkeys(name.partition("@")[2] for name in columns):
        headings = {name: name.partition("@")[0] for name in columns if name.partition("@")[2] == at}
        yield _block(f"@{at}" if at else "", headings, rows if at else _distinct(rows, headings))


def _distinct(
    rows: Mapping[tuple[str, ...], Mapping[str, Any]], names: Iterable[str]
) -> dict[tuple[str, ...], Mapping[str, Any]]:
    """The rows without those that only repeat what the row of the same objective says."""
    own = {label[-1]: leaf for label, leaf in rows.items() if len(label) == 1}
    return {
        label: leaf
        for label, leaf in rows.items()
        if len(label) == 1 or any(leaf.get(name) != own.get(label[-1], {}).get(name) for name in names)
    }


def _block(
    corner: str, headings: Mapping[str, str], rows: Mapping[tuple[str, ...], Mapping[str, Any]]
) -> list[list[str]]:
    cells = [[" ".join(label), *(_cell(leaf, name) for name in headings)] for label, leaf in rows.items()]
    return [[corner, *headings.values()], *cells]


def _met_block(results: Mapping[str, Any]) -> Iterator[list[list[str]]]:
    """The first metric with met items shown: a row each objective, a column each kind of target."""
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for (*names, kind), leaf in _leaves(results.get("met_shown", {})):
        rows.setdefault(" ".join(names), {})[kind] = leaf
    if not rows:
        return
    kinds = list(dict.fromkeys(kind for row in rows.values() for kind in row))
    first = next(iter(next(iter(rows.values())).values()))
    metric = results.get("metric", next(iter(first)))
    yield [[f"{metric}, met shown:", *kinds, *(f"users {kind}" for kind in kinds)]] + [
        [label, *(_cell(row.get(kind, {}), name) for name in (metric, "users") for kind in kinds)]
        for label, row in rows.items()
    ]


def _matrix_block(corner: str, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[list[list[str]]]:
    columns = dict.fromkeys(name for row in rows.values() for name in row)
    if columns:
        yield _block(corner, {name: name for name in columns}, {(label,): row for label, row in rows.items()})


def _leaves(
    results: Mapping[str, Any], label: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict]]:
    """(names on the way, numbers and intervals) of every mapping that holds numbers."""
    leaf = {n: value for n, value in results.items() if n == "intervals" or not isinstance(value, Mapping)}
    if leaf:
        yield label, leaf
    for name, value in results.items():
        if name not in leaf:
            yield from _leaves(value, label if name in _GROUPS else (*label, name))


def _cell(leaf: Mapping[str, Any], name: str) -> str:
    shown = format_metric(leaf, name)
    if shown in ("", "-") or name not in leaf.get("intervals", {}):
        return shown
    low, high = leaf["intervals"][name]
    return f"{shown} ±{(high - low) / 2:.4f}".replace("±0.", "±.")


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.4f}"
