"""A split log and its feature tables on disk, so that a run needs no other file."""

import json
import os
import pathlib
import shutil
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from csmf_tf.data.log import EventLog
from csmf_tf.data.splits import Split
from csmf_tf.data.stream import objects

_PARTS = ("train", "validation", "test", "met")
_COUNTS = ("repeated", "unknown_targets", "unknown_users", "unknown_items")


class Prepared(NamedTuple):
    """What a run learns from.

    Attributes:
        split: the coded events. Without times, those that HeterRec reads are numbered by `time`.
        users: dict of raw user features in the order of the user codes, the id column among them.
        items: the same of the items.
    """

    split: Split
    users: dict[str, np.ndarray]
    items: dict[str, np.ndarray]


def save(prepared: Prepared, directory: str | os.PathLike[str]) -> None:
    """Writes everything beside `directory` and then renames, so that it is there whole or not at all."""
    directory = pathlib.Path(directory)
    beside = directory.with_name(directory.name + ".tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    for name, table in (("users", prepared.users), ("items", prepared.items)):
        columns = {k: _column(v) for k, v in table.items()}
        pq.write_table(pa.table(columns), beside / f"{name}.parquet")
    _write_split(prepared.split, beside)
    # What is there is a run that was killed before it had a configuration.
    shutil.rmtree(directory, ignore_errors=True)
    beside.rename(directory)


def save_split(split: Split, directory: str | os.PathLike[str]) -> None:
    """Puts a split with further behaviours in the place of the one that `save` wrote, whole or not at all."""
    directory = pathlib.Path(directory)
    _write_split(split, directory)
    for file in directory.glob("events-*.parquet"):
        if file.name != _events_file(split):
            file.unlink()


def _write_split(split, directory):
    parts = [getattr(split, name) for name in _PARTS]
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("user", "item", "behavior", "time")
        if getattr(parts[0], name) is not None
    }
    columns["part"] = np.repeat(np.arange(len(parts), dtype=np.int8), [len(part) for part in parts])
    pq.write_table(pa.table(columns), directory / _events_file(split))
    about = {name: int(getattr(split, name)) for name in _COUNTS}
    about |= {"funnel": split.train.funnel, "events": _events_file(split)}
    # It names the events that count, so that they change with it at once.
    beside = directory / "about.tmp"
    beside.write_text(json.dumps(about))
    beside.replace(directory / "about.json")


def _events_file(split):
    return f"events-{len(split.train.funnel)}.parquet"


def load(directory: str | os.PathLike[str]) -> Prepared:
    """Reads what `save` wrote.

    Example:

    >>> import tempfile
    >>> ids, none = objects(["a"]), np.zeros(0, np.int32)
    >>> log = EventLog(none, none, none.astype(np.int8), None, ids, ids, ("view",))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(
    ...         Prepared(Split(log, log, log, log, 0, 0, 0, 0), {"user": ids}, {"item": ids}),
    ...         f"{folder}/data",
    ...     )
    ...     load(f"{folder}/data").split.train.funnel
    ('view',)
    """
    directory = pathlib.Path(directory)
    about = json.loads((directory / "about.json").read_text())
    users, items = (_read_features(directory / f"{name}.parquet") for name in ("users", "items"))
    events = {k: v.to_numpy() for k, v in zip(*_columns(directory / about["events"]), strict=True)}
    part = events.pop("part")
    whole = EventLog(
        **{"time": None, **events},
        users=next(iter(users.values())),
        items=next(iter(items.values())),
        funnel=tuple(about["funnel"]),
    )
    train, validation, test, met = (whole.take(part == n) for n in range(len(_PARTS)))
    split = Split(train, validation, test, met, **{name: about[name] for name in _COUNTS})
    return Prepared(split, users, items)


def _columns(path):
    table = pq.read_table(path)
    return table.column_names, table.columns


def _read_features(path):
    return {name: _feature(column) for name, column in zip(*_columns(path), strict=True)}


def _column(values):
    if values.ndim == 1:
        return pa.array(values.tolist())
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


def _feature(column):
    if pa.types.is_fixed_size_list(column.type):
        return column.combine_chunks().flatten().to_numpy().reshape(-1, column.type.list_size)
    if pa.types.is_floating(column.type):
        return column.to_numpy().astype(np.float32)
    if pa.types.is_list(column.type):
        return objects([tuple(values) for values in column.to_pylist()])
    return objects(column.to_pylist())
