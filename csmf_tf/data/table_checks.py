"""Checks of feature tables: whether they have a row for each id of the log, and what their columns hold."""

import os
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.findings import Finding, Level, Value, count, share
from csmf_tf.data.tables import align, read_table


def features(
    path: str | os.PathLike[str], id_column: str, kinds: Mapping[str, str], ids: np.ndarray, of: str
) -> Finding:
    """How many ids have a row, and of each feature how many have a value and how many values there are.

    Args:
        path: the table, see `read_table`.
        id_column: its column of ids.
        kinds: the kind of each feature.
        ids: `[n]`, the users or the items of the log.
        of: what they are, "users" or "items".

    Returns:
        The `Finding`, a problem where the table cannot be read or has no value of a feature for any id.
    """
    try:
        table = read_table(path, id_column, kinds)
        aligned = align(table, id_column, ids)
    except (ValueError, OSError) as error:
        return Finding(f"features of {of}", "problem", f"{str(error).rstrip('.')}.", {})
    described = pa.array(table[id_column], pa.string())
    rows = count(pc.is_in(pa.array(ids, pa.string()), described).to_numpy(zero_copy_only=False))
    numbers: dict[str, dict[str, Value]] = {}
    empty, constant = [], []
    for name, kind in kinds.items():
        known = aligned[name][_has_value(aligned[name])]
        values = len(_distinct(known, kind))
        numbers[name] = {"kind": kind, f"{of} with a value": len(known) / max(len(ids), 1), "values": values}
        empty += [f"`{name}`"] * (values == 0)
        # To have no string tells an item apart too; what has no number is taken to have the mean.
        constant += [f"`{name}`"] * (values == 1 and (kind == "numeric" or len(known) == len(ids)))
    sentence = f"{share(rows, len(ids))} {of} have a row in {os.fspath(path)}."
    if rows < len(ids):
        sentence += " The others are known by their ids alone."
    if empty:
        sentence += f" {', '.join(empty)} without any value: mend the column, or leave the feature out."
    if constant:
        sentence += f" {', '.join(constant)} with one value only, which tells none from another."
    level: Level = "problem" if empty else "note" if constant or rows < len(ids) else "ok"
    return Finding(f"features of {of}", level, sentence, numbers)


def _distinct(known, kind):
    if kind == "vector":
        return np.unique(known, axis=0)
    return {value for cell in known for value in cell} if kind == "multi" else set(known)


def _has_value(column: np.ndarray) -> np.ndarray:
    if column.dtype == object:
        return column.astype(bool)
    return ~np.isnan(column).reshape(len(column), -1).all(axis=1)
