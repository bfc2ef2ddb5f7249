"""Event logs: users do things to items, read into integer codes."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.groups import Groups, group
from csmf_tf.data.stream import Chunk, bytes_of, objects, stream
from csmf_tf.data.times import times_of
from csmf_tf.progress import bar


@dataclass(frozen=True, eq=False)
class EventLog:
    """Events as parallel arrays of codes.

    Attributes:
        user: int32 `[n]`, index into `users`.
        item: int32 `[n]`, index into `items`.
        behavior: int8 `[n]`, index into `funnel`.
        time: int64 `[n]`, microseconds since 1970-01-01 UTC; None for a log without timestamps.
        users: object `[U]` of `str`, the ids of the users in ascending order.
        items: object `[N]` of `str`, the ids of the items in ascending order.
        funnel: names of the behaviours, upstream first.

    Example:
    >>> users, items = np.array(["ann", "bob"], object), np.array(["cup", "hat"], object)
    >>> user, item, behavior = np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([0, 0, 1], np.int8)
    >>> log = EventLog(user, item, behavior, None, users, items, ("view", "buy"))
    >>> bought = log.take(log.behavior == log.funnel.index("buy"))
    >>> log.users[bought.user].tolist(), log.items[bought.item].tolist()
    (['bob'], ['hat'])
    """

    user: np.ndarray
    item: np.ndarray
    behavior: np.ndarray
    time: np.ndarray | None
    users: np.ndarray
    items: np.ndarray
    funnel: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.user)

    @property
    def pairs(self) -> np.ndarray:
        """A code of each event's (user, item) pair: user code times N plus item code, int64 `[n]`."""
        return self.user.astype(np.int64) * len(self.items) + self.item

    def take(self, index: np.ndarray) -> "EventLog":
        """Returns some of the events with the same codes.

        Args:
            index: a boolean mask `[n]` or integer positions.
        """
        return replace(
            self,
            user=self.user[index],
            item=self.item[index],
            behavior=self.behavior[index],
            time=None if self.time is None else self.time[index],
        )

    def append(self, other: "EventLog") -> "EventLog":
        """Returns the events of both logs, which have to share their vocabularies."""
        return replace(
            self,
            user=np.concatenate([self.user, other.user]),
            item=np.concatenate([self.item, other.item]),
            behavior=np.concatenate([self.behavior, other.behavior]),
            time=None if self.time is None else np.concatenate([self.time, other.time]),
        )

    def items_of_users(self, behavior: int | None = None) -> Groups:
        """Returns the distinct items of each user, of one behaviour or of all."""
        chosen = slice(None) if behavior is None else self.behavior == behavior
        return group(self.user[chosen], self.item[chosen], len(self.users))


def read_log(
    path: str | os.PathLike,
    *,
    user: str,
    item: str,
    behavior: str,
    timestamp: str | None = None,
    funnel: Sequence[str],
    ignore: Sequence[str] = (),
    users: Sequence[str] | np.ndarray | None = None,
    items: Sequence[str] | np.ndarray | None = None,
) -> EventLog:
    r"""Reads an event log, one row an event.

    The file is read in chunks, only in the columns named here. What stays in memory is 9 bytes per event
    (17 with times) and the ids, so that a log may be larger than memory. The codes do not depend on the
    order of the rows; the order of the events is that of the file.

    Args:
        path: a `.csv`, `.csv.gz` or `.parquet` file, or a folder of `.parquet` files.
        user: column of user ids: strings or integers, both taken as strings.
        item: column of item ids, likewise.
        behavior: column with the name of what the user did.
        timestamp: column of times, see `csmf_tf.data.times.parse_times`; None for a log without times.
        funnel: the behaviours that are objectives, upstream first.
        ignore: further behaviours in the log, whose rows are skipped.
        users: the ids of another log, to be coded like it; events of other users are left out. None for
            all users of the file.
        items: likewise of the items.

    Returns:
        The events in the order of the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the funnel repeats a name or names a behaviour without events, if the file is empty,
            damaged or lacks a column, or, with the number of the row, if an id is null, a behaviour is
            neither in `funnel` nor in `ignore`, or a time does not parse.

    Example:
    >>> import pathlib, tempfile
    >>> rows = ["who,what,did", "ann,cup,view", "bob,hat,view", "bob,hat,buy"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "events.csv")
    ...     _ = path.write_text("\n".join(rows))
    ...     log = read_log(path, user="who", item="what", behavior="did", funnel=["view", "buy"])
    >>> log.users.tolist(), log.user.tolist(), log.behavior.tolist()
    (['ann', 'bob'], [0, 1, 1], [0, 0, 1])
    """
    funnel, ignore = check_funnel(funnel), _names("ignore", ignore)
    both = sorted(set(funnel) & set(ignore))
    if both:
        raise ValueError(
            f"`ignore` should not name behaviours of the funnel. Received: {', '.join(both)} in both."
        )
    columns = [name for name in (user, item, behavior, timestamp) if name is not None]
    if len(set(columns)) < len(columns):
        raise ValueError(
            "`user`, `item`, `behavior` and `timestamp` should be distinct columns. "
            f"Received: {', '.join(columns)}."
        )
    codes = {name: code for code, name in enumerate(funnel)} | dict.fromkeys(ignore, -1)
    known_users = {name: code for code, name in enumerate(() if users is None else users)}
    known_items = {name: code for code, name in enumerate(() if items is None else items)}
    parts: list[tuple[np.ndarray, ...]] = []
    for chunk in _chunks(path, columns):
        done = _behavior_codes(chunk, behavior, codes)
        kept = np.flatnonzero(done >= 0)
        if len(kept) < len(done):
            chunk, done = chunk.take(kept), done[kept]
        who = _encode(chunk.ids(user), known_users, grow=users is None)
        what = _encode(chunk.ids(item), known_items, grow=items is None)
        part = (who, what, done) if timestamp is None else (who, what, done, times_of(chunk, timestamp))
        inside = (who >= 0) & (what >= 0)
        parts.append(tuple(array[inside] for array in part))
    arrays = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    _check_all_happen(path, arrays[2], funnel)
    user_ids, user_rank = in_order(list(known_users)) if users is None else _as_given(users)
    item_ids, item_rank = in_order(list(known_items)) if items is None else _as_given(items)
    return EventLog(
        user=user_rank[arrays[0]],
        item=item_rank[arrays[1]],
        behavior=arrays[2],
        time=None if timestamp is None else arrays[3],
        users=user_ids,
        items=item_ids,
        funnel=funnel,
    )


def check_funnel(funnel: Sequence[str]) -> tuple[str, ...]:
    """Returns the funnel as a tuple of 1 to 127 distinct, non-empty names, upstream first.

    Raises:
        ValueError: if it is not that.
    """
    names = _names("funnel", funnel)
    if not 1 <= len(names) <= 127:
        raise ValueError(f"`funnel` should have 1 to 127 behaviours. Received: {len(names)}.")
    if len(set(names)) < len(names):
        raise ValueError(f"`funnel` should name each behaviour once. Received: {', '.join(names)}.")
    return names


def in_order(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sorts a vocabulary, so that codes do not depend on the order of the events.

    Args:
        ids: distinct ids.

    Returns:
        The ids in ascending order (object), and the int32 rank there of each given id.
    """
    order = pc.sort_indices(pa.array(ids, pa.string())).to_numpy()
    rank = np.empty(len(ids), np.int32)
    rank[order] = np.arange(len(ids), dtype=np.int32)
    return objects(ids)[order], rank


def _chunks(path: str | os.PathLike, columns: Sequence[str]) -> Iterator[Chunk]:
    """The chunks of the log, under a bar of the bytes read."""
    about = f"reading {os.path.basename(path)}"
    with bar(about=about, total=bytes_of(path)) as read:
        yield from stream(path, columns, progress=read.update)


def _behavior_codes(chunk: Chunk, name: str, codes: dict[str, int]) -> np.ndarray:
    names = chunk.text(name).dictionary_encode(null_encoding="encode")
    code_of = np.array([codes.get(value, -2) for value in names.dictionary.to_pylist()], np.int8)
    done = code_of[names.indices.to_numpy()]
    if (code_of == -2).any():
        known = ", ".join(value for value, code in codes.items() if code >= 0)
        raise chunk.error(
            int(np.argmax(done == -2)),
            name,
            f"be a behaviour of the funnel ({known}); name others in `ignore` to skip them",
        )
    return done


def _as_given(ids: Sequence[str] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return objects(list(ids)), np.arange(len(ids), dtype=np.int32)


def _encode(ids: pa.Array, known: dict[str, int], grow: bool) -> np.ndarray:
    encoded = ids.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    codes = [known.setdefault(value, len(known)) if grow else known.get(value, -1) for value in values]
    return np.array(codes, np.int32)[encoded.indices.to_numpy()]


def _check_all_happen(path: str | os.PathLike, behavior: np.ndarray, funnel: tuple[str, ...]) -> None:
    counts = np.bincount(behavior, minlength=len(funnel))
    absent = [name for name, count in zip(funnel, counts, strict=True) if not count]
    if absent:
        raise ValueError(
            f"{path} should hold events of every behaviour of the funnel ({', '.join(funnel)}). "
            f"Received: no event of {', '.join(absent)}."
        )


def _names(argument: str, names: Sequence[str]) -> tuple[str, ...]:
    if isinstance(names, str) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"`{argument}` should be a list of names. Received: {argument}={names!r}.")
    return tuple(names)
