"""Columns of times, in the forms that logs have them."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.stream import Chunk


def parse_times(column: pa.Array) -> np.ndarray:
    """Turns a column of times into microseconds since 1970-01-01 UTC.

    Accepted are numbers (or strings of numbers), which are unix seconds, or milliseconds where larger than
    1e11; ISO 8601 strings with or without a zone (without: UTC), all of one form; Arrow dates and timestamps.

    Args:
        column: an Arrow array `[n]`.

    Returns:
        int64 `[n]`.

    Raises:
        ValueError: if a value is null, not finite or does not parse.

    Example:
    >>> parse_times(pa.array(["2015-05-03T03:25:10Z"])).tolist()
    [1430623510000000]
    >>> parse_times(pa.array([1430623510, 1430623510000])).tolist()
    [1430623510000000, 1430623510000000]
    """
    if column.null_count:
        raise ValueError("A time should not be null.")
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_numpy(zero_copy_only=False)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.utf8_trim_whitespace(column)
    if pa.types.is_temporal(column.type) or pa.types.is_boolean(column.type):
        raise ValueError(f"A time should be a number, a string or a timestamp, not {column.type}.")
    for parse in (_numbers, _iso, _iso_zoned):
        try:
            return parse(column)
        except pa.ArrowException:
            continue
    raise ValueError("A time should be unix seconds, unix milliseconds or an ISO 8601 string.")


def _numbers(column: pa.Array) -> np.ndarray:
    numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    if not np.isfinite(numbers).all() or np.abs(numbers).max(initial=0) > 1e14:
        raise ValueError("A time should be a finite number of seconds or milliseconds (at most 1e14).")
    return np.rint(np.where(np.abs(numbers) > 1e11, numbers * 1e3, numbers * 1e6)).astype(np.int64)


def _iso(column: pa.Array) -> np.ndarray:
    micros = pc.replace_substring_regex(column, r"(\.\d{6})\d+", r"\1")
    return micros.cast(pa.timestamp("us")).cast(pa.int64()).to_numpy(zero_copy_only=False)


def _iso_zoned(column: pa.Array) -> np.ndarray:
    micros = pc.replace_substring_regex(column, r"(\.\d{6})\d+", r"\1")
    return micros.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False)


def times_of(chunk: Chunk, name: str) -> np.ndarray:
    """Parses a column of times of a chunk, see `parse_times`.

    Raises:
        ValueError: with the number of the row, if a value is null, not finite or does not parse.
    """
    column = chunk.columns[name]
    try:
        return parse_times(column)
    except ValueError:
        pass
    good, bad = 0, len(column)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            parse_times(column[:middle])
            good = middle
        except ValueError:
            bad = middle
    raise chunk.error(
        good,
        name,
        "hold a time: unix seconds, unix milliseconds or ISO 8601, of one form in the whole column",
    )
