"""Changes of a catalogue as a table: one row an item, its features, and which are to be removed."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from csmf_tf._keras import tf
from csmf_tf.data.stream import columns_of, objects
from csmf_tf.data.tables import FEATURE_KINDS, read_table
from csmf_tf.progress import bar
from csmf_tf.serving.checks import checked_item_ids

REMOVE = "remove"
"""The column that marks items to remove."""

_KEEP, _REMOVE = ("", "0", "0.0", "false", "none", "nan", "<na>"), ("1", "1.0", "true")
# Columns that were surely meant for it.
_LIKE_REMOVE = ("remove", "removed", "delete", "deleted")
# Rows embedded at a time.
_BATCH = 4096


class ItemTable(NamedTuple):
    """What a table of changes says.

    Attributes:
        ids: the items that are new or changed.
        features: array or list for each input of `embed_item`, one entry for each of `ids`.
        removed: the items to remove.
    """

    ids: list[str]
    features: dict[str, Any]
    removed: list[str]


def item_columns(signature: Mapping[str, tf.TensorSpec], item_id: str | None) -> dict[str, dict[str, str]]:
    """Returns the columns of an export's item tables where they are named as its inputs.

    Args:
        signature: `tf.TensorSpec` of each input of `embed_item`.
        item_id: the input that takes the id.

    Returns:
        Name of a column to its `input` and `kind`: "id", "categorical", "multi", "numeric", "vector", or
        "array" for what no table holds.

    Example:

    >>> signature = {"item": tf.TensorSpec([None], tf.string), "price": tf.TensorSpec([None], tf.float32)}
    >>> {name: column["kind"] for name, column in item_columns(signature, "item").items()}
    {'item': 'id', 'price': 'numeric'}
    """
    kinds = {
        (True, 1): "categorical",
        (True, 2): "multi",
        (False, 1): "numeric",
        (False, 2): "vector",
    }
    return {
        name: {
            "input": name,
            "kind": "id"
            if name == item_id
            else kinds.get((spec.dtype == tf.string, spec.shape.rank), "array"),
        }
        for name, spec in signature.items()
    }


def read_items(
    items: str | os.PathLike | Mapping[str, Sequence], columns: Mapping[str, Mapping[str, str]], item_id: str
) -> ItemTable:
    """Reads a table of changes.

    Args:
        items: a CSV(.gz) or Parquet file, see `csmf_tf.data.tables.read_table`, or a dict of arrays. The
            column `remove` may be left out; empty, 0 and false keep an item, 1 and true remove it. Of removed
            items no features are read.
        columns: name of each column to its `input` and `kind`, as in `item_columns`.
        item_id: the input that takes the id; also the name of the column of ids where the model reads none.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when a column is missing, an id comes twice or is empty, a mark is none of those, a number
            does not parse, or there is no row.

    Example:

    >>> columns = {"id": {"input": "item", "kind": "id"}, "price": {"input": "price", "kind": "numeric"}}
    >>> table = read_items({"id": ["cup", "hat"], "price": [2.5, 0], "remove": [0, 1]}, columns, "item")
    >>> table.ids, table.features["price"], table.removed
    (['cup'], [2.5], ['hat'])
    """
    id_column = next((name for name, column in columns.items() if column["kind"] == "id"), item_id)
    kinds = {name: column["kind"] for name, column in columns.items() if name != id_column}
    read = _from_arrays if isinstance(items, Mapping) else _from_file
    table, removed = read(items, id_column, kinds)
    ids = checked_item_ids(table[id_column])
    kept = [item for item, gone in zip(ids, removed, strict=True) if not gone]
    features = {
        column["input"]: table[name] for name, column in columns.items() if name != id_column and kept
    }
    if id_column in columns:
        features[columns[id_column]["input"]] = objects(kept)
    return ItemTable(kept, features, [item for item, gone in zip(ids, removed, strict=True) if gone])


def embed_items(embed_item: Any, features: Mapping[str, Any], count: int) -> np.ndarray:
    """Returns the vectors of items, float32 [N, D].

    Args:
        embed_item: the signature of a loaded export.
        features: as in `ItemTable`.
        count: N, at least 1.

    Raises:
        ValueError: when a feature does not fit the signature.
    """
    specs = embed_item.structured_input_signature[1]
    parts = []
    for start in bar(range(0, count, _BATCH), "embedding items"):
        inputs = {name: _tensor(name, features[name][start : start + _BATCH], specs[name]) for name in specs}
        parts.append(embed_item(**inputs)["embedding"].numpy())
    return np.concatenate(parts)


def _from_file(path, id_column, kinds):
    removed, columns = None, columns_of(path)
    _check_mark_column(columns, kinds)
    if REMOVE in columns and REMOVE not in kinds:
        marks = read_table(path, id_column, {REMOVE: "categorical"})
        removed = _removed(marks[REMOVE], f"{os.fspath(path)}, ")
        if all(removed):
            return marks, removed
    unread = [name for name, kind in kinds.items() if kind not in FEATURE_KINDS]
    if unread:
        raise ValueError(
            "Item features should be strings, numbers or lists of these to stand in a table. "
            f"Received: {unread} of another kind; give `items` as a dict of arrays"
        )
    table = read_table(path, id_column, kinds, rows=None if removed is None else ~removed)
    if removed is None:
        return table, np.zeros(len(table[id_column]), bool)
    return table | {id_column: marks[id_column]}, removed


def _from_arrays(items, id_column, kinds):
    missing = [name for name in (id_column, *kinds) if name not in items]
    _check_mark_column(items, kinds)
    marks = items.get(REMOVE) if REMOVE not in kinds else None
    removed = _removed([False] * len(items.get(id_column, ())) if marks is None else marks, "")
    if id_column in missing or (missing and not all(removed)):
        raise ValueError(
            f"`items` should hold {[id_column, *kinds]}. Received: {list(items)}, without {missing}"
        )
    lengths = {name: len(items[name]) for name in items if name in (id_column, REMOVE, *kinds)}
    if len(set(lengths.values())) > 1 or not lengths[id_column]:
        raise ValueError(
            f"`items` should hold arrays of one length, at least one item. Received: lengths {lengths}"
        )
    kept = np.flatnonzero(~removed)
    features = {name: _rows(items[name], kept) for name in kinds if name in items}
    return {id_column: items[id_column], **features}, removed


def _rows(values, rows):
    if type(values) in (list, tuple):
        return [values[row] for row in rows]
    # A pandas column by itself is read by its labels.
    return np.asarray(values)[rows]


def _removed(marks, where):
    texts = [str(mark).strip().lower() for mark in marks]
    unknown = next((row for row, text in enumerate(texts) if text not in _KEEP + _REMOVE), None)
    if unknown is not None:
        raise ValueError(
            f"{where}data row {unknown + 1} (from 1, without the header): `{REMOVE}` should be 1 or true to "
            f"remove the item, and empty, 0 or false to keep it. Received: {marks[unknown]!r}"
        )
    return np.array([text in _REMOVE for text in texts], bool)


def _check_mark_column(columns, kinds):
    for name in columns:
        if name != REMOVE and name not in kinds and name.strip().lower() in _LIKE_REMOVE:
            raise ValueError(
                f"The column of items to remove should be named `{REMOVE}`. Received: `{name}`; rename it"
            )


def _tensor(name: str, values: Any, spec: tf.TensorSpec) -> tf.Tensor:
    """One input of a batch of items."""
    try:
        if spec.dtype == tf.string and spec.shape.rank == 2:
            values = _padded(values, spec.shape[1])
        elif spec.dtype.is_integer:
            # What is not known is 0, as in the features of users.
            values = np.nan_to_num(np.asarray(values, np.float64), nan=0.0)
            return tf.ensure_shape(tf.cast(tf.constant(values), spec.dtype), spec.shape)
        elif spec.dtype == tf.string:
            values = np.asarray(values, object)
        return tf.ensure_shape(tf.constant(values, spec.dtype), spec.shape)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"Item feature `{name}` should be {spec.dtype.name}, of shape {spec.shape}. Received: {error}"
        ) from error


def _padded(lists: Sequence[Sequence[str]], width: int | None) -> np.ndarray:
    if text := next((row for row in lists if isinstance(row, str | bytes)), None):
        raise ValueError(f"{text!r}, which is no list of strings")
    width = width or max(1, *(len(strings) for strings in lists))
    return np.array([[*strings, *[""] * (width - len(strings))] for strings in lists], object)
