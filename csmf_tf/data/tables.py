"""Tables of user or item features, one row an id."""

import os
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.stream import Chunk, objects, stream

FEATURE_KINDS = ("categorical", "multi", "numeric", "vector")


def read_table(
    path: str | os.PathLike, id_column: str, columns: Mapping[str, str], rows: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Reads a table of user or item features, one row an id.

    Args:
        path: a CSV(.gz) or Parquet file, see `csmf_tf.data.stream.stream`.
        id_column: the column of ids.
        columns: the kind of each feature column: `"categorical"` (a string), `"numeric"` (a number),
            `"multi"` (any number of strings: a list in Parquet, `a|b|c` in CSV) or `"vector"` (numbers, in
            all rows as many: a list in Parquet, `0.1|0.2` in CSV).
        rows: bool, which rows of the file to read; default all.

    Returns:
        A dict of arrays of one length: `id_column` and the categorical columns as object arrays of `str`
        (`""` where the file has no value), numeric columns as float32 (NaN where there is none), multi
        columns as object arrays of tuples of `str`, vectors as float32 matrices (rows of NaN where there is
        none).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, a kind is unknown, an id is null or stands twice, a number does
            not parse, or vectors differ in length; with the number of the row.
    """
    for name, kind in columns.items():
        if kind not in FEATURE_KINDS:
            raise ValueError(
                f"The kind of feature `{name}` should be one of {', '.join(FEATURE_KINDS)}. "
                f"Received: {kind!r}."
            )
    if id_column in columns:
        raise ValueError(f"`columns` should not hold the id column. Received: `{id_column}` as both.")
    ids: list[str] = []
    parts: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for chunk in stream(path, [id_column, *columns]):
        if rows is not None:
            chunk = chunk.take(np.flatnonzero(rows[chunk.rows - 1]))
        ids += chunk.ids(id_column).to_pylist()
        for name, kind in columns.items():
            parts[name].append(_READERS[kind](chunk, name))
    _check_distinct(path, id_column, ids)
    joined = {
        name: _joined(path, name, part) if columns[name] == "vector" else np.concatenate(part)
        for name, part in parts.items()
    }
    return {id_column: objects(ids)} | joined


def align(table: Mapping[str, np.ndarray], id_column: str, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Brings the rows of a feature table into the order of `ids`.

    Args:
        table: the columns, as `read_table` returns them.
        id_column: the name of the id column.
        ids: `[n]` ids, such as `EventLog.items`.

    Returns:
        The columns with `n` rows. An id that the table lacks gets `""`, NaN or `()`.

    Raises:
        ValueError: if the table has none of the ids, as when one side writes `7` and the other `i7`.

    Example:
    >>> table = {"id": objects(["a", "b"]), "price": np.array([1.5, 2.5], np.float32)}
    >>> align(table, "id", objects(["b", "z"]))["price"].tolist()
    [2.5, nan]
    """
    found = pc.index_in(pa.array(ids, pa.string()), value_set=pa.array(table[id_column], pa.string()))
    missing = found.is_null().to_numpy(zero_copy_only=False)
    if len(ids) and missing.all():
        theirs = table[id_column][:1].tolist()
        raise ValueError(
            f"`{id_column}` of a feature table should hold ids of the log. Received: none of them; the table "
            f"has e.g. {theirs[0] if theirs else None!r} where the log has e.g. {ids[0]!r}. Write the ids "
            "alike in both files, or leave the table and its features out"
        )
    rows = found.fill_null(0).to_numpy()
    aligned = {id_column: np.asarray(ids, dtype=object)}
    for name, values in table.items():
        if name != id_column:
            aligned[name] = values[rows]
            aligned[name][missing] = _nothing(values)
    return aligned


def pad_lists(table: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Turns columns of tuples of strings into `[n, L]` arrays, filled up with `""`; others stay as they are.

    Example:
    >>> pad_lists({"tags": objects([("a", "b"), ()])})["tags"].tolist()
    [['a', 'b'], ['', '']]
    """
    return {
        name: _pad(values) if len(values) and isinstance(values[0], tuple) else values
        for name, values in table.items()
    }


def _pad(lists: np.ndarray) -> np.ndarray:
    width = max(1, *(len(strings) for strings in lists))
    return np.array([[*strings, *[""] * (width - len(strings))] for strings in lists], dtype=object)


def _nothing(values: np.ndarray) -> np.ndarray:
    return objects([type(values[0])()]) if values.dtype == object else np.array([np.nan], values.dtype)


def _check_distinct(path: str | os.PathLike, column: str, ids: list[str]) -> None:
    # Codes count up in order of first appearance, so the first repeat is the first code that lags its row.
    codes = pa.array(ids, pa.string()).dictionary_encode().indices.to_numpy()
    repeats = np.flatnonzero(codes != np.arange(len(ids)))
    if repeats.size:
        again = int(repeats[0])
        raise ValueError(
            f"{path}: `{column}` should hold each id once. Received: {ids[again]!r} in the data rows "
            f"{codes[again] + 1} and {again + 1} (from 1, without the header)."
        )


def _categorical(chunk: Chunk, name: str) -> np.ndarray:
    return objects(chunk.text(name).fill_null("").to_pylist())


def _numeric(chunk: Chunk, name: str) -> np.ndarray:
    column = chunk.columns[name]
    if pa.types.is_string(column.type):
        column = pc.utf8_trim_whitespace(column)
    try:
        numbers = column.cast(pa.float32(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
        infinite = np.isinf(numbers)
    except pa.ArrowException:
        infinite = np.array([_is_no_number(value) for value in column])
    if infinite.any():
        raise chunk.error(int(np.argmax(infinite)), name, "hold a finite number")
    return numbers


def _is_no_number(value: pa.Scalar) -> bool:
    try:
        value.cast(pa.float32())
    except pa.ArrowException:
        return True
    return False


def _multi(chunk: Chunk, name: str) -> np.ndarray:
    column = chunk.columns[name]
    if not pa.types.is_nested(column.type):
        column = pc.split_pattern(chunk.text(name), "|")
    rows = column.to_pylist()
    return objects([tuple(str(value) for value in row or () if value not in (None, "")) for row in rows])


def _vector(chunk: Chunk, name: str) -> np.ndarray:
    """float32 [rows, width]; of width 0 where no row of the chunk has a vector."""
    column = chunk.columns[name]
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_kind(column.type) for is_kind in lists):
        text = chunk.text(name)
        column = pc.split_pattern(pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text), "|")
    # As a list of any length: of a missing one of fixed length Arrow keeps the numbers.
    column = column.cast(pa.list_(column.type.value_type))
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    width = int(next(iter(lengths[lengths > 0]), 0))
    if (other := (lengths > 0) & (lengths != width)).any():
        raise chunk.error(int(np.argmax(other)), name, f"hold {width} numbers, as in the rows before")
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    flat = Chunk(chunk.path, chunk.rows[row_of], {name: pc.list_flatten(column)})
    vectors = np.full((len(lengths), width), np.nan, np.float32)
    vectors[np.repeat(lengths > 0, width).reshape(vectors.shape)] = _numeric(flat, name)
    return vectors


def _joined(path: str | os.PathLike, name: str, parts: list[np.ndarray]) -> np.ndarray:
    widths = sorted({part.shape[1] for part in parts} - {0})
    if len(widths) != 1:
        received = f"rows of {widths[0]} and of {widths[-1]}" if widths else "none"
        raise ValueError(f"{path}: `{name}` should hold vectors of one length. Received: {received}.")
    (width,) = widths
    return np.concatenate(
        [part if part.shape[1] else np.full((len(part), width), np.nan, np.float32) for part in parts]
    )


_READERS = {"categorical": _categorical, "multi": _multi, "numeric": _numeric, "vector": _vector}
