"""Users' histories as sequences, of which every position is trained in one pass."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from csmf_tf.data.history import History


class Windows(NamedTuple):
    """Parts of the users' sequences.

    Attributes:
        user: int64 [R].
        end: int64 [R], how many events the user had at its end.
        new: int64 [R], how many of the last ones are new. Those before them are context, new in another one.
    """

    user: np.ndarray
    end: np.ndarray
    new: np.ndarray

    def positions(self, length: int) -> "Positions":
        """The new events of windows that are laid out in rows of `length`, latest last."""
        row = np.repeat(np.arange(len(self.user)), self.new)
        last = np.cumsum(self.new)
        behind = np.repeat(last, self.new) - np.arange(len(row))
        return Positions(
            self.user[row], self.end[row] - behind, ((row + 1) * length - behind).astype(np.int32)
        )


class Positions(NamedTuple):
    """Events that something is predicted from.

    Attributes:
        user: int64 [Q].
        event: int64 [Q], which of the user's events it is, from 0.
        flat: int32 [Q], where it stands in the flattened rows of a batch.
    """

    user: np.ndarray
    event: np.ndarray
    flat: np.ndarray


@dataclasses.dataclass(frozen=True)
class Targets:
    """What each event of a history is followed by: items that the user had not met, up to it.

    An item counts from the moment the user first meets it, if the user ever goes as far with it as the
    objective, then or later. So no target stands in the history that it is predicted from (own choice).

    Attributes:
        offsets: int64 [U + 1]; user `u` owns the entries `offsets[u]:offsets[u + 1]`.
        items: int32 [n] item codes, by user in the order in which they were met.
        met: int64 [n], after how many of the user's events each was met: its number (from 0), if it is one.

    Example:

    >>> from csmf_tf.data.log import EventLog
    >>> ids = np.array(["a", "b", "c"], dtype=object)
    >>> user, item, behavior = np.array([0, 0, 0, 0]), np.array([2, 1, 0, 2]), np.array([0, 1, 0, 1])
    >>> log = EventLog(user, item, behavior, None, ids[:1], ids, ("view", "buy"))
    >>> positive = np.array([1, 2])  # pairs of the one user: b and c were bought
    >>> targets = Targets.of(History.of(log), np.ones(4, bool), positive, len(ids))
    >>> targets.items.tolist(), targets.met.tolist()
    ([2, 1], [0, 1])
    >>> targets.after(np.array([0, 0]), np.array([-1, 0]), horizon=2).tolist()
    [[2, 1], [1, -1]]
    """

    offsets: np.ndarray
    items: np.ndarray
    met: np.ndarray

    @classmethod
    def of(cls, history: History, read: np.ndarray, positive: np.ndarray, n_items: int) -> "Targets":
        """The targets in a history of all behaviours.

        Args:
            history: the events.
            read: bool [n], which of them the towers read. Only these count as the user's events; an item may
                have been met in another one, of an objective that was added later.
            positive: int64 [P], ascending keys `user * n_items + item` of the positives of the objective.
            n_items: number of items.
        """
        users = history.users
        pairs, first = np.unique(users * n_items + history.items, return_index=True)
        first = np.sort(first[np.isin(pairs, positive, assume_unique=True)])
        users = users[first]
        offsets = np.searchsorted(users, np.arange(len(history.offsets)))
        before = np.concatenate([[0], np.cumsum(read)])
        return cls(offsets, history.items[first], before[first] - before[history.offsets[users]])

    @functools.cached_property
    def last(self) -> np.ndarray:
        """int64 [U]: how many of a user's first events are followed by a target."""
        ends = np.maximum(self.offsets[1:] - 1, 0)
        found = self.met[ends] if len(self.met) else np.zeros(len(ends), np.int64)
        return np.where(np.diff(self.offsets) > 0, found, 0)

    def after(self, users: np.ndarray, events: np.ndarray, horizon: int) -> np.ndarray:
        """The next items of some users after some of their events, int32 [Q, horizon], -1 pads."""
        keys, width = self._keys
        start = np.searchsorted(keys, users * width + events + 1, side="right")
        at = start[:, None] + np.arange(horizon)
        inside = at < self.offsets[users + 1][:, None]
        targets = np.full(at.shape, -1, np.int32)
        targets[inside] = self.items[at[inside]]
        return targets

    @functools.cached_property
    def _keys(self) -> tuple[np.ndarray, int]:
        # One sorted key of user and event makes all searches a single one; event -1 is the start.
        width = int(self.met.max(initial=0)) + 2
        users = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return users * width + self.met + 1, width


def windows(lengths: np.ndarray, length: int, rng: np.random.Generator) -> Windows:
    """Cuts sequences into windows, as few as can hold all events, at random places.

    Args:
        lengths: int [U], number of events of each user.
        length: L, most events of a window.
        rng: draws how many events a user's first window has.

    Returns:
        `Windows`, as many for every draw; each event is new in one.

    Example:

    >>> cut = windows(np.array([5, 0, 2]), 3, np.random.default_rng(0))
    >>> cut.user.tolist(), cut.end.tolist(), cut.new.tolist()
    ([0, 0, 2], [2, 5, 2], [2, 3, 2])
    """
    parts = -(-lengths // length)
    # A sequence that fits one window is not cut.
    short = np.where(parts > 1, rng.integers(0, parts * length - lengths + 1), 0)
    user = np.repeat(np.arange(len(lengths)), parts)
    number = np.arange(len(user)) - np.repeat(np.cumsum(parts) - parts, parts)
    end = np.minimum((number + 1) * length - short[user], lengths[user])
    return Windows(user, end, end - np.maximum(number * length - short[user], 0))
