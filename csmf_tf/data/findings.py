"""What checks find: a level, numbers and a sentence each, as text or JSON."""

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from csmf_tf._text import aligned

Level = Literal["ok", "note", "problem"]
LEVELS: tuple[Level, ...] = ("ok", "note", "problem")
Value = int | float | str

_WIDTH = 100


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is called in the report and its JSON.
        level: `"ok"`, `"note"` (good to know) or `"problem"` (what is measured on the log would be wrong).
        sentence: what it means, with the numbers that matter, and what mends it.
        numbers: either name -> value, or row -> column -> value, a table. Integers are counts, floats are
            shares in [0, 1].
    """

    name: str
    level: Level
    sentence: str
    numbers: Mapping[str, Value] | Mapping[str, Mapping[str, Value]]

    def text(self) -> str:
        """The level, the name and the sentence, and the table if there is one."""
        head = f"{f'[{self.level}]':<10}"
        lines = textwrap.wrap(f"{head}{self.name}: {self.sentence}", _WIDTH, subsequent_indent=" " * 10)
        rows = {row: cells for row, cells in self.numbers.items() if isinstance(cells, Mapping)}
        return "\n".join(lines + [f"{' ' * 10}{line}" for line in _table(rows)])


@dataclass(frozen=True)
class Report:
    """The findings of a check, in the order in which they are read.

    Example:
    >>> report = Report((Finding("duplicates", "note", "2 of 9 events stand twice.", {"events": 2}),))
    >>> print(report.text())
    [note]    duplicates: 2 of 9 events stand twice.
    <BLANKLINE>
    0 problems, 1 note, 0 ok
    >>> report.level, report["duplicates"].numbers
    ('note', {'events': 2})
    """

    findings: tuple[Finding, ...]

    def __getitem__(self, name: str) -> Finding:
        return {finding.name: finding for finding in self.findings}[name]

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def level(self) -> Level:
        """The worst level of all findings."""
        return max((finding.level for finding in self.findings), key=LEVELS.index, default="ok")

    def text(self) -> str:
        """The findings one below the other, and how many there are of each level."""
        count = {level: sum(finding.level == level for finding in self.findings) for level in LEVELS}
        tail = f"{_plural(count['problem'], 'problem')}, {_plural(count['note'], 'note')}, {count['ok']} ok"
        return "\n\n".join([*(finding.text() for finding in self.findings), tail])

    def to_dict(self) -> dict[str, Any]:
        """`{"level": worst, "findings": {name: {"level", "sentence", "numbers"}}}`, ready for JSON."""
        findings = {}
        for finding in self.findings:
            fields = asdict(finding)
            findings[fields.pop("name")] = fields
        return {"level": self.level, "findings": findings}


def count(flags: np.ndarray) -> int:
    """How many are true.

    >>> count(np.array([True, False, True]))
    2
    """
    return int(np.count_nonzero(flags))


def share(part: int, whole: int) -> str:
    """`part` of `whole` in words.

    >>> share(12650, 15449), share(0, 20)
    ('12,650 of 15,449 (81.9%)', '0 of 20')
    """
    return f"{part:,} of {whole:,}" + (f" ({part / whole:.1%})" if part else "")


def _plural(count, noun):
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _table(rows: Mapping[str, Mapping[str, Value]]) -> list[str]:
    if not rows:
        return []
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    cells = [["", *columns]]
    cells += [[row, *(_shown(values.get(column, "")) for column in columns)] for row, values in rows.items()]
    return aligned(cells)


def _shown(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else value
