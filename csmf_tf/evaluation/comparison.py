"""What a comparison of runs found, and its text table."""

from collections.abc import Iterable, Iterator
from itertools import chain, count
from typing import Any, NamedTuple

from csmf_tf.evaluation.cells import printable
from csmf_tf.evaluation.statistics import Difference

ALPHA = 0.05
"""Adjusted p values below it are marked; intervals are of level 1 - ALPHA."""

# Characters of a run's name in the text table, so that it fits in 110 columns.
_NAME = 28


class Row(NamedTuple):
    """One run under one objective, kind of targets and metric.

    Attributes:
        objective: name of the objective.
        targets: kind of targets.
        metric: name of the metric.
        run: label of the run.
        users: number of users.
        mean: mean over the users.
        low: lower bound of its interval.
        high: upper bound of its interval.
        difference: to the first run; None for that one itself.
        adjusted: the p value of the difference, adjusted for all differences of the comparison.
    """

    objective: str
    targets: str
    metric: str
    run: str
    users: int
    mean: float
    low: float
    high: float
    difference: Difference | None = None
    adjusted: float | None = None


class Comparison(NamedTuple):
    """What `compare` found.

    Attributes:
        runs: labels of the runs, the baseline first.
        rows: by objective, kind of targets, metric and run.
        left_out: what could not be compared and why, a phrase each.
    """

    runs: tuple[str, ...]
    rows: tuple[Row, ...]
    left_out: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain dicts, lists and numbers."""
        return {
            "baseline": self.runs[0],
            "runs": list(self.runs),
            "level": 1 - ALPHA,
            "tests": sum(row.difference is not None for row in self.rows),
            "rows": [_plain(row) for row in self.rows],
            "left_out": list(self.left_out),
        }


def format_comparison(comparison: Comparison) -> str:
    """A comparison as a text table of at most 110 columns, without a newline at its end.

    Example:
        >>> ours = Row("buy", "discovery", "recall@5", "ours", 2, mean=0.5, low=0.5, high=0.5)
        >>> theirs = ours._replace(run="theirs", difference=Difference(0.0, 0.0, 0.0, 1.0), adjusted=1.0)
        >>> print(format_comparison(Comparison(("ours", "theirs"), (ours, theirs), ())))
                      mean  95 % interval     difference  95 % interval           p   Holm p
        buy, recall@5, 2 users
          ours      0.5000  0.5000 to 0.5000
          theirs    0.5000  0.5000 to 0.5000     +0.0000  +0.0000 to +0.0000  1.0000  1.0000
        No difference from ours can be told: every Holm p >= 0.05, 1 test.
    """
    names = dict(
        zip(comparison.runs, distinct([_shortened(printable(run)) for run in comparison.runs]), strict=True)
    )
    width = max(6, *map(len, names.values()))
    interval = f"{100 * (1 - ALPHA):.0f} % interval"
    lines = [f"  {'':{width}}    mean  {interval:16}  difference  {interval:18}       p  Holm p"]
    block = None
    for row in comparison.rows:
        if block != (row.objective, row.targets, row.metric):
            block = (row.objective, row.targets, row.metric)
            kind = "" if row.targets == "discovery" else f", {row.targets} targets"
            lines.append(f"{printable(row.objective)}{kind}, {row.metric}, {row.users:,} users")
        line = f"  {names[row.run]:{width}}  {row.mean:.4f}  {row.low:.4f} to {row.high:.4f}"
        if row.difference is not None and row.adjusted is not None:
            mean, low, high, p = row.difference
            bounds = f"{low:+.4f} to {high:+.4f}"
            line += f"  {mean:+10.4f}  {bounds}  {p:.4f}  {row.adjusted:.4f}"
            line += " *" if row.adjusted < ALPHA else ""
        lines.append(line)
    return "\n".join(lines + list(_below(comparison, names[comparison.runs[0]])))


def distinct(names: Iterable[str]) -> list[str]:
    """The names, numbered from the second of the same on.

    Example:
        >>> distinct(["run", "peer", "run"])
        ['run', 'peer', 'run #2']
    """
    unique: list[str] = []
    for name in names:
        numbered = (f"{name} #{number}" for number in count(2))
        unique.append(next(label for label in chain([name], numbered) if label not in unique))
    return unique


def _plain(row: Row) -> dict[str, Any]:
    plain: dict[str, Any] = {name: getattr(row, name) for name in Row._fields[:6]}
    plain["interval"] = [row.low, row.high]
    if row.difference is not None and row.adjusted is not None:
        mean, low, high, p = row.difference
        plain["difference"] = {"mean": mean, "interval": [low, high], "p": p, "holm_p": row.adjusted}
    return plain


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME else f"…{name[1 - _NAME :]}"


def _below(comparison: Comparison, first: str) -> Iterator[str]:
    adjusted = [row.adjusted for row in comparison.rows if row.adjusted is not None]
    tests = f"{len(adjusted)} test{'' if len(adjusted) == 1 else 's'}"
    if min(adjusted) < ALPHA:
        yield f"* differs from {first}: Holm p < {ALPHA}, {tests}."
    else:
        yield f"No difference from {first} can be told: every Holm p >= {ALPHA}, {tests}."
    for phrase in comparison.left_out:
        yield f"left out: {printable(phrase)}"
