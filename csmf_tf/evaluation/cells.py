"""What the tables and the page of an evaluation share: its rows, and how numbers and names are written."""

from collections.abc import Mapping
from typing import Any

import numpy as np

FEW_USERS = 30
"""Means over fewer users are marked, as neither they nor their intervals can be relied on (own choice)."""

NOT_METRICS = ("users", "skipped", "intervals")
"""The other entries of a leaf of the results."""


def format_number(value: Any) -> str:
    """Four decimals, or a whole number with thousands set apart.

    Example:
        >>> format_number(0.16374), format_number(12345)
        ('0.1637', '12,345')
    """
    return f"{value:,}" if isinstance(value, int | np.integer) else f"{value:.4f}"


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
    if leaf.get("users", 1) == 0 and name not in NOT_METRICS:
        return "-"
    return format_number(leaf[name])


def interval(leaf: Mapping[str, Any], name: str) -> tuple[float, float] | None:
    """The interval of a metric; None where there is none, or where the bootstrap gave it no width.

    Example:
        >>> interval({"users": 3, "intervals": {"recall@5": [0.0, 0.5], "mrr@5": [0.5, 0.5]}}, "mrr@5")
    """
    low, high = leaf.get("intervals", {}).get(name, (0.0, 0.0))
    return (low, high) if high > low and leaf.get("users", 1) else None


def users_of(leaf: Mapping[str, Any]) -> str:
    """The number of users, marked where they are few.

    Example:
        >>> users_of({"users": 1200}), users_of({"users": 29})
        ('1,200', '† 29')
    """
    count = leaf.get("users")
    if count is None:
        return ""
    return f"† {count}" if 0 < count < FEW_USERS else f"{count:,}"


def printable(name: str) -> str:
    r"""A name in one line: what cannot be printed is escaped.

    Example:
        >>> print(printable("add\nto cart"))
        add\nto cart
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def rankings(results: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """What ranked, and what each objective got by it.

    Args:
        results: what `Run.evaluate` gives, or its "met_shown".

    Returns:
        "own score", "equal weights" and the names of the baselines, as far as `results` has them, each with
        its objectives.

    Example:
        >>> rankings({"objectives": {"view": {}}, "fused": {}, "baselines": {"popularity": {"view": {}}}})
        [('own score', {'view': {}}), ('popularity', {'view': {}})]
    """
    own = {"own score": results.get("objectives", {}), "equal weights": results.get("fused", {})}
    return [(label, rows) for label, rows in (own | results.get("baselines", {})).items() if rows]


def beaten(results: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Sentences about the objectives for which a ranking without a model is as good as their own score.

    Args:
        results: what `Run.evaluate` gives, or some of its entries.
        labels: what baselines are called where they are shown, if not by their names.

    Example:
        >>> own, popular = {"recall@50": 0.02, "users": 90}, {"recall@50": 0.03, "users": 90}
        >>> ranked = {"objectives": {"buy": own}, "baselines": {"popularity": {"buy": popular}}}
        >>> beaten(ranked | {"metric": "recall@50"}, {})
        ['buy: popularity ranks as well as its own score, or better (recall@50 0.0300 against 0.0200)']
    """
    metric, sentences = results.get("metric", ""), []
    for name, own in results.get("objectives", {}).items():
        rows = {label: row[name] for label, row in results.get("baselines", {}).items() if name in row}
        best = max(rows, key=lambda label: rows[label].get(metric, 0.0), default=None)
        if best and own.get("users") and own.get(metric, 1.0) <= rows[best].get(metric, 0.0) > 0:
            values = f"{format_metric(rows[best], metric)} against {format_metric(own, metric)}"
            sentences.append(
                f"{printable(name)}: {labels.get(best, best)} ranks as well as its own score, or better "
                f"({metric} {values})"
            )
    return sentences


def left_out(results: Mapping[str, Any]) -> list[str]:
    """Sentences about the test targets that nothing was measured on.

    Args:
        results: what `Run.evaluate` gives.

    Example:
        >>> counts = {"repeated": 1, "unknown_users": 3, "unknown_items": 2, "unknown_targets": 4}
        >>> for sentence in left_out({"targets": {"view": {"new": 5, "met": 0}}} | counts):
        ...     print(sentence)
        left out: 4 of 10 test targets (40.0 %) are of users or items unknown in training (3 users, 2 items)
        left out: 1 of 10 test targets (10.0 %) was done before by its user
    """
    unknown, repeated = results.get("unknown_targets", 0), results.get("repeated", 0)
    measured = sum(count for row in results.get("targets", {}).values() for count in row.values())
    sentences = []
    if unknown:
        ids = ", ".join(f"{results.get(f'unknown_{kind}', 0):,} {kind}" for kind in ("users", "items"))
        sentences.append((unknown, f"of users or items unknown in training ({ids})", "is", "are"))
    if repeated:
        who = "its user" if repeated == 1 else "their users"
        sentences.append((repeated, f"done before by {who}", "was", "were"))
    total = measured + unknown + repeated
    return [
        f"left out: {count:,} of {total:,} test targets ({count / total:.1%}) "
        f"{one if count == 1 else more} {phrase}".replace("%)", " %)")
        for count, phrase, one, more in sentences
    ]
