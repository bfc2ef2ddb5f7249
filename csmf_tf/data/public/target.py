"""What an import writes: events, feature tables, a configuration."""

import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

_ROWS = 1 << 17
_SPLITS: dict[str, dict[str, str | float]] = {
    "time": {"kind": "time", "at": 0.9},
    "item_holdout": {"kind": "item_holdout", "fraction": 0.1},
    "leave_last": {"kind": "leave_last"},
}
_TIME = pa.timestamp("us", "UTC")


class Imported(NamedTuple):
    """What an import has written.

    Attributes:
        directory: the folder.
        events: number of events of each behaviour, the funnel first.
        left_out: number of rows of the source that were left out, for each reason.
        tables: number of rows of each feature table, `"users"` or `"items"`.
        several: number of ids of each feature table that came with several sets of features, of which the
            first one was taken.
    """

    directory: Path
    events: dict[str, int]
    left_out: dict[str, int]
    tables: dict[str, int]
    several: dict[str, int]


class Target:
    """Writes into a folder beside the one that was asked for, which it becomes when all is well.

    Args:
        directory: the folder to be made; it may be there if it is empty.
        funnel: the objectives, upstream first.
        ignore: behaviours of the log that the configuration skips.
        split: the kind of split of the configuration; with `"item_holdout"` the events have no times.
        features: for `"users"` and `"items"`, the kind of each feature.

    Raises:
        ValueError: if something is in the folder.

    Example:
    >>> import tempfile
    >>> row = pa.array(["a"])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with Target(Path(folder, "out"), ("view",), (), "item_holdout", {}) as target:
    ...         target.events(row, row, pa.array(["view"]))
    ...     target.imported.events, sorted(os.listdir(folder))
    ({'view': 1}, ['out'])
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        funnel: Sequence[str],
        ignore: Sequence[str],
        split: str,
        features: Mapping[str, Mapping[str, str]],
    ):
        self.directory = Path(os.path.abspath(directory))
        if self.directory.exists() and not (self.directory.is_dir() and not any(self.directory.iterdir())):
            raise ValueError(
                f"The folder of an import should be new or empty. Received: {directory}, which holds some; "
                "name another one, or remove it."
            )
        self.funnel, self.ignore, self.split, self.features = funnel, ignore, split, features
        self.timed = split != "item_holdout"
        self._counts: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        columns = [(name, pa.string()) for name in ("user_id", "item_id", "behavior")]
        self._schema = pa.schema(columns + ([("timestamp", _TIME)] if self.timed else []))
        self._tables: dict[str, _FeatureTable] = {}

    def __enter__(self) -> "Target":
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        parent, name = self.directory.parent, self.directory.name
        self._own = tempfile.mkdtemp(prefix=f"{name}.", suffix=".tmp", dir=parent)
        # The folder that mkdtemp makes is closed to others, and would stay so when renamed.
        self._beside = Path(self._own, "log")
        self._beside.mkdir()
        self._events = _Parquet(self._beside / "events.parquet")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            for table in (self._events, *self._tables.values()):
                table.close()
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self._own, ignore_errors=True)

    def events(
        self, user: pa.Array, item: pa.Array, behavior: pa.Array, time: np.ndarray | None = None
    ) -> None:
        """Adds events.

        Args:
            user: ids, strings `[n]`.
            item: likewise.
            behavior: names of behaviours, strings `[n]`.
            time: int64 `[n]`, microseconds since 1970-01-01 UTC, if the events have times.
        """
        arrays = [user, item, behavior] + ([] if time is None else [pa.array(time).cast(_TIME)])
        self._events.write(pa.table(arrays, schema=self._schema))
        for count in pc.value_counts(behavior).to_pylist():
            self._counts[count["values"]] += count["counts"]

    def table(self, side: str, columns: Mapping[str, pa.Array], derived: bool = False) -> None:
        """Adds rows to a feature table; of each id the first row is kept.

        Args:
            side: `"users"` or `"items"`.
            columns: the ids first, then features, `[n]` each.
            derived: whether the ids are made of the features, so that an id has but one row.
        """
        if side not in self._tables:
            self._tables[side] = _FeatureTable(self._beside / f"{side}.parquet")
        self._tables[side].add(pa.table(dict(columns)), derived)

    def leave_out(self, reason: str, rows: int) -> None:
        """Counts rows of the source that are left out on purpose."""
        if rows:
            self._left_out[reason] += rows

    def _finish(self) -> None:
        absent = [name for name in self.funnel if not self._counts[name]]
        if absent:
            raise ValueError(
                f"The files should hold events of every behaviour of the funnel ({', '.join(self.funnel)}). "
                f"Received: no event of {', '.join(absent)}."
            )
        with open(self._beside / "config.yaml", "w", encoding="utf-8") as file:
            yaml.safe_dump(self._config(), file, sort_keys=False)
        self._beside.replace(self.directory)
        self.imported = Imported(
            directory=self.directory,
            events={name: self._counts[name] for name in (*self.funnel, *self.ignore)},
            left_out=dict(self._left_out),
            tables={side: len(table.seen) for side, table in self._tables.items()},
            several={side: len(table.several) for side, table in self._tables.items() if table.several},
        )

    def _config(self) -> dict:
        log: dict = {"path": "events.parquet", "user": "user_id", "item": "item_id", "behavior": "behavior"}
        log |= {"timestamp": "timestamp"} if self.timed else {}
        log |= {"ignore": list(self.ignore)} if self.ignore else {}
        log |= {side: f"{side}.parquet" for side in self._tables}
        features = {side[:-1]: dict(self.features[side]) for side in self._tables}
        config = {"log": log, "funnel": list(self.funnel), "split": dict(_SPLITS[self.split])}
        return config | ({"features": features} if features else {})


class _Parquet:
    """A Parquet file that is written in row groups of fair size."""

    def __init__(self, path: Path):
        self._path = path
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        if sum(map(len, self._waiting)) >= _ROWS:
            self._flush()

    def close(self) -> None:
        if self._waiting:
            self._flush()
        if self._writer:
            self._writer.close()

    def _flush(self) -> None:
        table = pa.concat_tables(self._waiting)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)
        self._waiting = []


class _FeatureTable(_Parquet):
    """A feature table that keeps the first row of each id: memory grows with the ids, not with the rows."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.seen: dict[str, int] = {}
        self.several: set[str] = set()

    def add(self, table: pa.Table, derived: bool) -> None:
        id_column, *features = table.column_names
        versions = {"id": table[id_column], "row": pa.array(np.arange(len(table)))}
        if features and not derived:
            text = [pc.cast(table[name], pa.string()) for name in features]
            versions["version"] = pc.binary_join_element_wise(
                *text, "\x1f", null_handling="replace", null_replacement="\x1e"
            )
        keys = [name for name in versions if name != "row"]
        distinct = pa.table(versions).group_by(keys, use_threads=False).aggregate([("row", "min")])
        found = distinct.sort_by("row_min").to_pydict()
        first = []
        for name, version, row in zip(
            found["id"], found.get("version", found["id"]), found["row_min"], strict=True
        ):
            if name not in self.seen:
                self.seen[name] = hash(version)
                first.append(row)
            elif self.seen[name] != hash(version):
                self.several.add(name)
        if first:
            self.write(table.take(pa.array(first)))
