"""Published splits: tables of the pairs that somebody held out."""

import os
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.findings import Finding, count
from csmf_tf.data.log import EventLog
from csmf_tf.data.stream import columns_of, stream

SPLIT = "split"
TEST = "test"


class Published(NamedTuple):
    """A published split of a log.

    Attributes:
        test: bool `[n]`, the events to be predicted.
        training: bool `[n]`, the events to learn from; validation events are in neither part.
        finding: what became of the listed pairs.
    """

    test: np.ndarray
    training: np.ndarray
    finding: Finding


def read_published(
    path: str | os.PathLike[str], log: EventLog, *, user: str, item: str, objective: str
) -> Published:
    r"""Reads which (user, item) pairs of one objective are held out.

    Args:
        path: a table (CSV or Parquet, as of logs) with a pair in each row. If it has a column `split`, the
            pairs with the value `test` there are to be predicted, and the others (validation) are left out of
            training; without it, all are to be predicted.
        log: the events, the held-out ones among them.
        user: column of user ids.
        item: column of item ids.
        objective: the behaviour whose events with these pairs are held out.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the objective is not in the funnel, the table lacks a column, holds null ids or no test
            pair, or no event of the log is held out for testing.

    Example:
    >>> import pathlib, tempfile
    >>> ids, user = np.array(["a", "b"], dtype=object), np.array([0, 1, 1])
    >>> log = EventLog(
    ...     user, np.array([0, 0, 1]), np.array([0, 1, 1], np.int8), None, ids, ids, ("view", "buy")
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "held.csv")
    ...     _ = path.write_text("who,what,split\nb,a,test\nb,b,valid\n")
    ...     published = read_published(path, log, user="who", item="what", objective="buy")
    >>> published.test.tolist(), published.training.tolist()
    ([False, True, False], [True, False, False])
    """
    if objective not in log.funnel:
        raise ValueError(
            f"`objective` should be a behaviour of the funnel ({', '.join(log.funnel)}). "
            f"Received: objective={objective!r}."
        )
    keys, is_test = _listed(path, log, user, item)
    tested, others = np.unique(keys[is_test]), np.unique(keys[~is_test])
    at = np.flatnonzero(log.behavior == log.funnel.index(objective))
    of_event = log.pairs[at]
    test, training = np.zeros(len(log), bool), np.ones(len(log), bool)
    test[at] = np.isin(of_event, tested)
    training[at] = ~(test[at] | np.isin(of_event, others))
    finding = _finding(objective, keys, is_test, np.unique(of_event))
    if not test.any():
        row = f"user, item{'' if log.time is None else ', a time after all others'} and '{objective}'"
        raise ValueError(
            f"The log should hold '{objective}' events of the test pairs in {path}. Received: a log without "
            f"any, which seems to be the training part alone. Append a row for each pair ({row}) and check "
            "that log; if the pairs are of another behaviour, name it with --objective. "
            f"In detail: {finding.sentence}"
        )
    return Published(test, training, finding)


def _listed(path, log, user, item):
    """The key of each listed pair, -1 where an id is unknown, and whether it is to be predicted."""
    has_split = SPLIT in columns_of(path)
    users, items = pa.array(log.users, pa.string()), pa.array(log.items, pa.string())
    keys, tests = [], []
    for chunk in stream(path, [user, item, *([SPLIT] if has_split else [])]):
        who, what = _codes(chunk.ids(user), users), _codes(chunk.ids(item), items)
        keys.append(np.where((who < 0) | (what < 0), -1, who * len(items) + what))
        parts = chunk.text(SPLIT).to_numpy(zero_copy_only=False) if has_split else np.array([TEST])
        tests.append(np.broadcast_to(parts == TEST, len(who)))
    is_test = np.concatenate(tests)
    if not is_test.any():
        raise ValueError(
            f"{path} should have rows with the value `{TEST}` in its column `{SPLIT}`. Received: none."
        )
    return np.concatenate(keys), is_test


def _codes(ids, vocabulary):
    codes = pc.fill_null(pc.index_in(ids, value_set=vocabulary), -1)
    return codes.to_numpy(zero_copy_only=False).astype(np.int64)


def _finding(objective, keys, is_test, present):
    rows = {}
    for part, listed in (("test", keys[is_test]), ("other", keys[~is_test])):
        unknown, known = count(listed < 0), np.unique(listed[listed >= 0])
        found = count(np.isin(known, present))
        rows[part] = {
            "rows": len(listed),
            "unknown ids": unknown,
            f"without {objective}": len(known) - found,
            "pairs held out": found,
        }
    test, other = rows["test"], rows["other"]
    sentence = f"{test['pairs held out']:,} test pairs are held out of '{objective}'"
    sentence += f", and {other['pairs held out']:,} others of training too." if other["rows"] else "."
    lost = sum(row["unknown ids"] + row[f"without {objective}"] for row in rows.values())
    if lost:
        unknown, absent = (
            sum(row[c] for row in rows.values()) for c in ("unknown ids", f"without {objective}")
        )
        sentence += (
            f" {unknown:,} rows name users or items that the log does not have, and {absent:,} pairs have no "
            f"'{objective}' event there: they are not checked."
        )
    return Finding("held out", "note" if lost else "ok", sentence, rows)
