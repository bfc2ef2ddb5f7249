"""Files of public sets: which one a given file is, and its rows."""

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.stream import Chunk, CsvLayout, stream

# Or nothing: no header row has empty names.
_NUMBER = re.compile(r"(-?\d+(\.\d*)?([eE][-+]?\d+)?)?")


@dataclass(frozen=True)
class Layout:
    """One kind of file of a public set.

    Attributes:
        name: what the set calls the file.
        columns: all columns in order, for a file without a header row; else those that have to be there.
        header: whether the first row holds the names of the columns.
        numbers: columns of numbers, by which data are told from a header row that should not be there.
        delimiter: what stands between two values.
        role: what the file is for; layouts with the same role are forms of the same file.
        required: whether the set cannot do without a file of this role.
        many: whether several files of this role may be given.
    """

    name: str
    columns: tuple[str, ...]
    header: bool = True
    numbers: tuple[str, ...] = ()
    delimiter: str = ","
    role: str = "log"
    required: bool = True
    many: bool = False

    def __str__(self) -> str:
        separated = "" if self.delimiter == "," else f", separated by {self.delimiter}"
        header = "columns" if self.header else "no header row, columns"
        return f"{self.name} ({header} {_some(self.columns)}{separated})"

    def fault(self, line: str) -> str | None:
        """Says what keeps a first line from being that of such a file; None if nothing does."""
        if self.header:
            found = next(csv.reader([line]))
            missing = [name for name in self.columns if name not in found]
            return f"lacks {_some(missing)}" if missing else None
        values = line.split(self.delimiter)
        if len(values) != len(self.columns):
            fields = f"{len(values)} field{'s' * (len(values) > 1)}"
            return f"has {fields} separated by {self.delimiter!r} where {len(self.columns)} should be"
        for name, value in zip(self.columns, values, strict=True):
            if name in self.numbers and not _NUMBER.fullmatch(value):
                return f"has {value!r} as its first `{name}`, where a number should be (no header row)"
        return None


class Source(NamedTuple):
    """A file whose layout is known.

    Attributes:
        path: the file.
        layout: its layout.
        progress: called with numbers of bytes read.
    """

    path: Path
    layout: Layout
    progress: Callable[[int], object] | None = None

    def chunks(self, *columns: str) -> Iterator[Chunk]:
        """Reads some columns chunk by chunk, see `csmf_tf.data.stream.stream`."""
        names, delimiter = self.layout.columns, self.layout.delimiter
        if delimiter == "::":
            # Arrow takes one character; the empty field between two colons becomes a column of its own.
            names = tuple(name for pair in zip(names, _fillers(names), strict=True) for name in pair)[:-1]
        form = None if self.layout.header else CsvLayout(names, delimiter[0])
        return stream(self.path, columns, form, self.progress)


def recognise(
    files: Sequence[str | os.PathLike[str]],
    layouts: Sequence[Layout],
    where: str,
    progress: Callable[[int], object] | None = None,
) -> dict[str, list[Source]]:
    r"""Finds out by its first line which of the files of a set each given file is.

    Args:
        files: the files that the user has.
        layouts: the files of the set.
        where: where to get the set, for messages.
        progress: see `Source`.

    Returns:
        The files of each role, in the order given; roles without a file have an empty list.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a file is none of the set's, a file is missing, or there is one too many.

    Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "mine.csv")
    ...     _ = file.write_text("who,what\n1,2\n")
    ...     found = recognise([file], [Layout("log.csv", ("who", "what"))], "example.org")
    >>> {role: [source.layout.name for source in sources] for role, sources in found.items()}
    {'log': ['log.csv']}
    """
    found: dict[str, list[Source]] = {layout.role: [] for layout in layouts}
    for file in files:
        path = Path(file)
        layout = _layout_of(path, layouts, where)
        found[layout.role].append(Source(path, layout, progress))
    for role, sources in found.items():
        of_role = [layout for layout in layouts if layout.role == role]
        wanted = " or ".join(str(layout) for layout in of_role)
        if not sources and any(layout.required for layout in of_role):
            given = ", ".join(str(file) for file in files) or "no file"
            raise ValueError(f"The files should hold {wanted}. Received: {given}. Get it from {where}.")
        if len(sources) > 1 and not any(layout.many for layout in of_role):
            given = ", ".join(str(source.path) for source in sources)
            raise ValueError(f"There should be one {wanted}. Received: {given}; give one of them.")
    return found


def choices(chunk: Chunk, column: str, meanings: Mapping[str, str]) -> pa.Array:
    """Translates the codes of a column.

    Args:
        chunk: the rows.
        column: a column of codes.
        meanings: what each code that may occur means.

    Returns:
        The meanings, strings `[n]`.

    Raises:
        ValueError: with the number of the row, if a code is not in `meanings`.
    """
    index = pc.index_in(chunk.text(column), value_set=pa.array(list(meanings)))
    if index.null_count:
        raise chunk.error(_first(index.is_null()), column, f"be one of {', '.join(meanings)}")
    return pa.array(list(meanings.values())).take(index)


def flags(chunk: Chunk, column: str) -> np.ndarray:
    """Reads a column of 0 and 1 as booleans `[n]`; anything else is an error with the number of the row."""
    return pc.equal(choices(chunk, column, {"0": "", "1": "1"}), "1").to_numpy(zero_copy_only=False)


def numbers(chunk: Chunk, column: str, empty: bool = False) -> np.ndarray:
    """Reads a column of numbers as float64 `[n]`.

    Args:
        chunk: the rows.
        column: the column.
        empty: whether a value may be missing; it becomes NaN.

    Raises:
        ValueError: with the number of the row, if a value is not a finite number.
    """
    text = chunk.text(column)
    try:
        values = text.cast(pa.float64())
    except pa.ArrowException:
        bad = [value is not None and not _is_number(value) for value in text.to_pylist()]
        raise chunk.error(bad.index(True), column, "be a number") from None
    wrong = pc.invert(pc.is_finite(values)).fill_null(not empty)
    if pc.any(wrong).as_py():
        raise chunk.error(_first(wrong), column, "be a number")
    return values.to_numpy(zero_copy_only=False)


def _is_number(text: str) -> bool:
    try:
        pa.scalar(text).cast(pa.float64())
    except pa.ArrowException:
        return False
    return True


def _first(mask: pa.Array) -> int:
    return int(np.argmax(mask.to_numpy(zero_copy_only=False)))


def _layout_of(path: Path, layouts: Sequence[Layout], where: str) -> Layout:
    line = _first_line(path, where)
    faults = {layout: layout.fault(line) for layout in layouts}
    for layout, fault in faults.items():
        if fault is None:
            return layout
    known = "; ".join(f"{layout}, but it {fault}" for layout, fault in faults.items())
    raise ValueError(
        f"{path} should be {known}. Received: a file that starts with {line[:200]!r}. Get it from {where}."
    )


def _first_line(path: Path, where: str) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}. Get it from {where}.")
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            raise ValueError(
                f"{path} should be unpacked first. Received: a zip file; unzip it and name what it held."
            )
    try:
        with io.TextIOWrapper(pa.input_stream(str(path)), encoding="utf-8-sig", errors="replace") as lines:
            line = lines.readline().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"{path} could not be read: {error}") from error
    if "\0" in line:
        raise ValueError(f"{path} should be UTF-8 text. Received: text in UTF-16; save it as UTF-8.")
    if not line:
        raise ValueError(
            f"{path} should hold rows. Received: an empty file or first line. Get it from {where}."
        )
    return line


def _fillers(names: Sequence[str]) -> list[str]:
    return [f"{name}::" for name in names]


def _some(names: Sequence[str]) -> str:
    shown = names if len(names) <= 8 else [*names[:6], "...", names[-1]]
    return ", ".join(shown)
