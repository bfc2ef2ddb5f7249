"""CSV and Parquet files, read chunk by chunk."""

import csv
import difflib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

# Large enough that the work per chunk is vectorised, small enough that a chunk is a few tens of megabytes.
_CHUNK_ROWS = 1 << 17
_CHUNK_BYTES = 1 << 22
_PARQUET = (".parquet", ".pq")
_SEPARATORS = {";": "semicolons", "\t": "tabs"}


class Chunk(NamedTuple):
    """Some rows of a file.

    Attributes:
        path: the file (or folder of files) as the user gave it, for messages.
        rows: int64 `[n]`, the 1-based number of each data row; the header is not counted.
        columns: one Arrow array `[n]` per column that was asked for.
    """

    path: str
    rows: np.ndarray
    columns: dict[str, pa.Array]

    def take(self, index: np.ndarray) -> "Chunk":
        """Returns the rows at the integer positions `index`."""
        columns = {name: column.take(pa.array(index)) for name, column in self.columns.items()}
        return Chunk(self.path, self.rows[index], columns)

    def text(self, column: str) -> pa.Array:
        """Returns a column as strings, see `as_text`.

        Raises:
            ValueError: if the column holds lists or structs.
        """
        if pa.types.is_nested(self.columns[column].type):
            raise ValueError(
                f"{self.path}: `{column}` should hold strings or numbers. "
                f"Received: values of type {self.columns[column].type}."
            )
        return as_text(self.columns[column])

    def ids(self, column: str) -> pa.Array:
        """Returns a column of ids as strings.

        Raises:
            ValueError: with the row number, if an id is null.
        """
        ids = self.text(column)
        if ids.null_count:
            nulls = ids.is_null().to_numpy(zero_copy_only=False)
            raise self.error(int(np.argmax(nulls)), column, "hold an id")
        return ids

    def error(self, position: int, column: str, should: str) -> ValueError:
        """Returns the error that names the row, column and value at `position`."""
        return ValueError(
            f"{self.path}, data row {self.rows[position]} (from 1, without the header): "
            f"`{column}` should {should}. Received: {self.columns[column][position].as_py()!r}."
        )


class CsvLayout(NamedTuple):
    """How a CSV file without a header row is laid out.

    Attributes:
        names: the names of all columns, in order.
        delimiter: the one character between two values.
    """

    names: Sequence[str]
    delimiter: str = ","


def stream(
    path: str | os.PathLike,
    columns: Sequence[str],
    layout: CsvLayout | None = None,
    progress: Callable[[int], object] | None = None,
) -> Iterator[Chunk]:
    """Reads some columns of a CSV or Parquet file in chunks, so that memory does not grow with the file.

    A CSV file (`.csv`, or `.csv.gz` and the other endings that Arrow decompresses) has a header row; its
    values come as strings, empty ones as null; empty lines are not rows. A Parquet file may also be a
    folder of `.parquet` files, read in the order of their names as one table; values keep their types.

    Args:
        path: the file.
        columns: names of the columns to read; the others are skipped.
        layout: for a CSV file without a header row, whose name may end in anything; None for one with it.
        progress: called before each chunk with the number of bytes read since the last call; for Parquet,
            whose columns lie apart, with the chunk's share of the rows in bytes.

    Yields:
        `Chunk`s in file order.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, the file has no data rows, or is damaged.
    """
    first_row = 1
    try:
        for file in [Path(path)] if layout else _files(Path(path)):
            as_csv = layout or file.suffix not in _PARQUET
            if as_csv:
                batches = _read_csv(file, columns, layout, progress)
            else:
                batches = _read_parquet(file, columns, progress)
            for batch in batches:
                rows = np.arange(first_row, first_row + batch.num_rows)
                first_row += batch.num_rows
                yield Chunk(str(path), rows, dict(zip(batch.schema.names, batch.columns, strict=True)))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} could not be read after data row {first_row - 1}: {error}") from error
    if first_row == 1:
        raise ValueError(f"{path} should hold at least one data row. Received: a header and no rows.")


def columns_of(path: str | os.PathLike) -> list[str]:
    r"""Reads the names of the columns of a CSV or Parquet file; of a folder, those of its first file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is empty or damaged.

    Example:
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder, "log.csv")
    ...     _ = file.write_text("user_id,item_id\nu1,i1\n")
    ...     columns_of(file)
    ['user_id', 'item_id']
    """
    file = _files(Path(path))[0]
    try:
        if file.suffix not in _PARQUET:
            return _header(file)
        with pq.ParquetFile(file) as opened:
            return list(opened.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} could not be read: {error}") from error


def as_text(column: pa.Array) -> pa.Array:
    """Turns a column into strings; empty strings and NaN become null.

    Whole floats lose their point, since integer columns with gaps are often stored as floats.

    >>> as_text(pa.array([7.0, None, float("nan"), 0.5])).to_pylist()
    ['7', None, None, '0.5']
    """
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    text = column.cast(pa.string())
    if pa.types.is_floating(column.type):
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), 2.0**53))
        integers = pc.if_else(whole, column, 0.0).cast(pa.int64()).cast(pa.string())
        text = pc.if_else(pc.is_nan(column), None, pc.if_else(whole, integers, text))
    return pc.if_else(pc.equal(text, ""), None, text)


def objects(values: Sequence) -> np.ndarray:
    """Returns a one-dimensional object array, also where the values are sequences themselves.

    >>> objects([("a", "b"), ("c", "d")]).shape
    (2,)
    """
    return np.fromiter(values, dtype=object, count=len(values))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _PARQUET)
        if not files:
            raise FileNotFoundError(
                f"A folder should hold .parquet files. Received: {path}, which holds none."
            )
        return files
    if not path.exists():
        raise FileNotFoundError(
            f"There is no file {path}. Give the path of a .csv, .csv.gz or .parquet file."
        )
    if path.suffix not in _PARQUET and ".csv" not in path.suffixes:
        raise ValueError(
            f"The name of a table should end in .csv, .csv.gz or .parquet. Received: {path.name}."
        )
    return [path]


def _check_columns(file: Path, wanted: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        near = difflib.get_close_matches(missing[0], found, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise ValueError(
            f"{file} should have the columns {_quoted(wanted)}. "
            f"Received: {_quoted(found)}, which lack {_quoted(missing)}.{hint}"
        )
    repeated = [name for name in wanted if found.count(name) > 1]
    if repeated:
        raise ValueError(
            f"{file} should have each column once. Received: {_quoted(repeated)} more than once."
        )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def bytes_of(path: str | os.PathLike) -> int:
    """The size of a CSV or Parquet file, or of all Parquet files of a folder."""
    return sum(file.stat().st_size for file in _files(Path(path)))


def _read_parquet(
    file: Path, columns: Sequence[str], progress: Callable[[int], object] | None
) -> Iterator[pa.RecordBatch]:
    # A buffered reader fetches page by page; else it holds whole row groups, which may be the whole file.
    with pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False) as opened:
        _check_columns(file, columns, opened.schema_arrow.names)
        row = file.stat().st_size / max(opened.metadata.num_rows, 1)
        read = 0
        for batch in opened.iter_batches(batch_size=_CHUNK_ROWS, columns=list(columns), use_threads=False):
            if progress:
                before, read = read, read + batch.num_rows
                progress(round(read * row) - round(before * row))
            yield batch


def _header(file: Path) -> list[str]:
    source = pa.input_stream(str(file))
    with io.TextIOWrapper(source, encoding="utf-8-sig", errors="replace", newline="") as lines:
        header = next(csv.reader(lines), [])
    if not header:
        raise ValueError(f"{file} should start with a header row. Received: an empty file.")
    if any("\0" in name for name in header):
        raise ValueError(f"{file} should be UTF-8 text. Received: text in UTF-16; save it as UTF-8.")
    if len(header) == 1 and (other := [name for mark, name in _SEPARATORS.items() if mark in header[0]]):
        raise ValueError(
            f"{file} should have commas between its columns. Received: {other[0]}, in the header "
            f"{header[0]!r}; write the file with commas."
        )
    return header


def _read_csv(
    file: Path,
    columns: Sequence[str],
    layout: CsvLayout | None,
    progress: Callable[[int], object] | None,
) -> Iterator[pa.RecordBatch]:
    _check_columns(file, columns, list(layout.names) if layout else _header(file))
    ragged: list[pa.csv.InvalidRow] = []
    told = 0

    def refuse(row: pa.csv.InvalidRow) -> str:
        ragged.append(row)
        return "error"

    try:
        with (
            open(file, "rb") as raw,
            _decompressed(raw, file) as source,
            pa.csv.open_csv(
                source,
                # Arrow numbers the rows it refuses only without threads; they gain nothing here.
                read_options=pa.csv.ReadOptions(
                    block_size=_CHUNK_BYTES, use_threads=False, column_names=layout and list(layout.names)
                ),
                parse_options=pa.csv.ParseOptions(
                    delimiter=layout.delimiter if layout else ",",
                    newlines_in_values=True,
                    invalid_row_handler=refuse,
                ),
                convert_options=pa.csv.ConvertOptions(
                    include_columns=list(columns),
                    column_types=dict.fromkeys(columns, pa.string()),
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            ) as reader,
        ):
            for batch in reader:
                if progress:
                    progress(raw.tell() - told)
                    told = raw.tell()
                yield batch
    except pa.ArrowInvalid:
        if not ragged:
            raise
        header, expected = (0, "the layout") if layout else (1, "the header")
        raise ValueError(
            f"{file}, data row {ragged[0].number - header} (from 1, without the header): a row should have "
            f"{ragged[0].expected_columns} fields, as {expected} has. "
            f"Received: {ragged[0].actual_columns} in {ragged[0].text!r}."
        ) from None


def _decompressed(raw: BinaryIO, file: Path) -> pa.NativeFile:
    compression = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}.get(file.suffix)
    return pa.input_stream(raw, compression=compression)
