"""Text tables of metrics and of capacity."""

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np

from csmf_tf._text import aligned
from csmf_tf.evaluation.cells import (
    FEW_USERS,
    NOT_METRICS,
    beaten,
    format_metric,
    format_number,
    interval,
    left_out,
    printable,
    rankings,
    users_of,
)

WIDTH = 110

_WORDS = {
    "own score": "own score: by that objective alone",
    "equal weights": "equal weights: by all objectives fused",
    "popularity": "popularity: by users with that behaviour",
    "popularity, any": "popularity, any: with any behaviour",
    "counting": "counting: what the user met, most often first",
    "±": "±: half the 95 % interval over users",
    "≤": "≤: its upper end, where ± would reach below 0",
    "≥": "≥: its lower end, where ± would reach above 1",
}

_LABELS = {"popularity_any": "popularity, any"}

Shares = Sequence[float] | np.ndarray


def format_table(results: Mapping[str, Any]) -> str:
    """Metrics as aligned text tables.

    Args:
        results: what `Run.evaluate` gives, or some of its entries.

    Returns:
        The tables, an empty line between them, without a newline at the end. The rankings of each objective
        stand together, all metrics in one table, or where that is wider than 110 columns in one for each
        cut-off K. Then come, as far as `results` has them, one metric with the met items shown, split into
        all, met and new targets, the retention and the numbers of targets; then the words, and what was left
        out. Means over 0 users are shown as "-", and fewer than 30 users are marked.

    Example:
        >>> view = {"recall@50": 0.1637, "users": 1200, "intervals": {"recall@50": [0.1606, 0.1668]}}
        >>> print(format_table({"objectives": {"view": view}, "baselines": {"popularity": {"view": view}}}))
                         recall@50
        view: 1,200 users
         own score   0.1637 ±.0031
         popularity  0.1637 ±.0031
        <BLANKLINE>
        own score: by that objective alone; popularity: by users with that behaviour; ±: half the 95 %
        interval over users
    """
    blocks = [
        *_metric_blocks(results),
        *_met_block(results),
        *_matrix_block(f"{results.get('metric', 'metric')} after", results.get("retention", {})),
        *_matrix_block("targets", results.get("targets", {})),
    ]
    text = "\n\n".join("\n".join(block) for block in blocks)
    below = [*_words(results, text), *_wrapped([*beaten(results, _LABELS), *left_out(results)])]
    return "\n\n".join(filter(None, [text, "\n".join(below)]))


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
    cells = [["", *map(printable, objectives), "free"]]
    cells += [[printable(layer), *(f"{share:.1%}" for share in shares)] for layer, shares in table.items()]
    return "\n".join(aligned(cells))


def format_negatives(summary: Mapping[str, Any]) -> str:
    """Formats what the negatives of a run are.

    Args:
        summary: what `Diagnosis.summary` gives.

    Returns:
        a table of the kinds, and a line for each level of clusters.
    """
    rows = [["kind", "drawn", "false negatives", "above the positive", "difficulty: 10 %", "median", "90 %"]]
    for name, one in summary["kinds"].items():
        false = one["false_negatives"]
        shares = ["" if false is None else f"{false:.4%}", f"{one['above_positive']:.2%}"]
        rows.append([name, f"{one['drawn']:,}", *shares, *(f"{q:.3f}" for q in one["difficulty"].values())])
    levels = [
        f"{level}: {sizes['clusters']} clusters of {sizes['least']} to {sizes['most']} items, median "
        f"{sizes['median']:g}"
        for level, sizes in summary["clusters"].items()
    ]
    words = textwrap.wrap(
        "false negatives: later positives of the same user; difficulty: the score of a negative less that of "
        "the positive",
        WIDTH,
    )
    return "\n".join([f"negatives of {printable(summary['objective'])}", *aligned(rows), *words, "", *levels])


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


def _metric_blocks(results: Mapping[str, Any]) -> Iterator[list[str]]:
    """One table, or where that is too wide one for each K."""
    groups = _by_objective(results)
    leaves = [leaf for group in groups.values() for leaf in group.values()]
    columns = list(dict.fromkeys(name for leaf in leaves for name in leaf if name not in NOT_METRICS))
    if not columns:
        return
    whole = _grouped("", {name: name for name in columns}, groups)
    if max(map(len, whole)) <= WIDTH:
        yield whole
        return
    for at in dict.fromkeys(name.partition("@")[2] for name in columns):
        headings = {name: name.partition("@")[0] for name in columns if name.partition("@")[2] == at}
        yield _grouped(f"@{at}" if at else "", headings, groups)


def _by_objective(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Objective -> what ranked -> what it got."""
    groups: dict[str, dict[str, Any]] = {}
    for label, objectives in rankings(results):
        for objective, got in objectives.items():
            groups.setdefault(objective, {})[_LABELS.get(label, label)] = got
    return groups


def _grouped(corner: str, headings: Mapping[str, str], groups: Mapping[str, Mapping[str, Any]]) -> list[str]:
    titles = {}
    for objective, group in groups.items():
        leaf = next(iter(group.values()))
        counts = [f"{users_of(leaf)} users"] if "users" in leaf else []
        counts += [f"{leaf['skipped']:,} skipped"] if "skipped" in leaf else []
        titles[objective] = f"{printable(objective)}: {', '.join(counts)}" if counts else printable(objective)
    cells = {
        objective: {label: [_cell(leaf, name) for name in headings] for label, leaf in group.items()}
        for objective, group in groups.items()
    }
    return _under_titles([corner, *headings.values()], titles, cells)


def _under_titles(
    first: list[str], titles: Mapping[str, str], cells: Mapping[str, Mapping[str, list[str]]]
) -> list[str]:
    """Aligned rows below the first one, those of each objective under its title."""
    rows = [[f" {printable(label)}", *row] for group in cells.values() for label, row in group.items()]
    head, *lines = aligned([first, *rows])
    rest = iter(lines)
    return [head, *(li for name, group in cells.items() for li in (titles[name], *islice(rest, len(group))))]


def _met_block(results: Mapping[str, Any]) -> Iterator[list[str]]:
    """One metric with met items shown: a column each kind of target."""
    groups = _by_objective(results.get("met_shown", {}))
    parts = [part for group in groups.values() for part in group.values()]
    if not parts:
        return
    kinds = list(dict.fromkeys(kind for part in parts for kind in part))
    metric = results.get("metric") or next(iter(parts[0][kinds[0]]))
    cells = {
        objective: {
            label: [_cell(part.get(kind, {}), metric) for kind in kinds]
            + [users_of(part.get(kind, {})) for kind in kinds]
            for label, part in group.items()
        }
        for objective, group in groups.items()
    }
    first = [f"{metric}, met shown:", *kinds, *(f"users {kind}" for kind in kinds)]
    yield _under_titles(first, {name: printable(name) for name in groups}, cells)


def _matrix_block(corner: str, rows: Mapping[str, Mapping[str, Any]]) -> Iterator[list[str]]:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    if columns:
        cells = [[corner, *map(printable, columns)]]
        for label, row in rows.items():
            cells.append([printable(label), *(format_number(row[c]) if c in row else "" for c in columns)])
        yield aligned(cells)


def _words(results: Mapping[str, Any], text: str) -> Iterable[str]:
    """What the words and signs in the tables mean."""
    groups = [_by_objective(part) for part in (results, results.get("met_shown", {}))]
    labels = {label for part in groups for group in part.values() for label in group}
    words = [
        meaning for word, meaning in _WORDS.items() if word in labels or (word in "±≤≥" and word in text)
    ]
    yield from textwrap.wrap("; ".join(words), WIDTH - 10)
    if "†" in text:
        yield f"† fewer than {FEW_USERS} users: neither the figure nor its interval can be relied on"


def _wrapped(sentences: Iterable[str]) -> Iterator[str]:
    for sentence in sentences:
        yield from textwrap.wrap(sentence, WIDTH, subsequent_indent="  ")


def _cell(leaf: Mapping[str, Any], name: str) -> str:
    shown, bounds = format_metric(leaf, name), interval(leaf, name)
    if shown in ("", "-") or bounds is None:
        return shown
    low, high = bounds
    half = (high - low) / 2
    if half > leaf[name]:
        return f"{shown} ≤{_brief(high)}"
    return f"{shown} ≥{_brief(low)}" if leaf[name] + half > 1 else f"{shown} ±{_brief(half)}"


def _brief(value: float) -> str:
    """Five characters of a number from 0 to 1."""
    return f"{value:.4f}".removeprefix("0") if value < 0.99995 else "1.000"
