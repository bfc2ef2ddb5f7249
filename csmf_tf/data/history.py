"""What a user did before: the items per behaviour, as padded lists."""

import dataclasses
import functools

import numpy as np

from csmf_tf.data.log import EventLog


@dataclasses.dataclass(frozen=True)
class History:
    """Events by user, oldest first.

    Attributes:
        offsets: int64 [U + 1]; user `u` owns the entries `offsets[u]:offsets[u + 1]`.
        items: int32 [n] item codes.
        times: int64 [n], or None for a log without times (then the order is that of the log).

    Example:

    >>> ids = np.array(["a", "b"], dtype=object)
    >>> user, item, time = np.array([0, 0, 1]), np.array([1, 0, 1]), np.array([20, 10, 30])
    >>> log = EventLog(user, item, np.zeros(3, np.int8), time, ids, ids, ("view",))
    >>> history = History.of(log, behavior=0)
    >>> history.latest(np.array([0, 1]), length=2).tolist()
    [[0, 1], [-1, 1]]
    >>> history.before(np.array([0]), np.array([20]), length=2).tolist()
    [[-1, 0]]
    """

    offsets: np.ndarray
    items: np.ndarray
    times: np.ndarray | None

    @classmethod
    def of(cls, log: EventLog, behavior: int | None = None) -> "History":
        """The history of one behaviour in a log, or of all."""
        at = np.arange(len(log)) if behavior is None else np.flatnonzero(log.behavior == behavior)
        order = (log.user[at],) if log.time is None else (log.time[at], log.user[at])
        at = at[np.lexsort(order)]
        counts = np.bincount(log.user[at], minlength=len(log.users))
        times = None if log.time is None else log.time[at]
        return cls(np.concatenate([[0], np.cumsum(counts)]), log.item[at], times)

    @property
    def users(self) -> np.ndarray:
        """int64 [n]: whose entry each one is."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def keep(self, mask: np.ndarray) -> "History":
        """The history without the entries that the bool mask [n] leaves out."""
        kept = np.concatenate([[0], np.cumsum(mask)])
        times = None if self.times is None else self.times[mask]
        return History(kept[self.offsets], self.items[mask], times)

    def latest(self, users: np.ndarray, length: int) -> np.ndarray:
        """The users' last `length` items.

        Args:
            users: int [R] codes.
            length: L.

        Returns:
            int32 [R, L] item codes, latest last, -1 pads in front.
        """
        return self._window(self.offsets[users], self.offsets[users + 1], length)

    def before(self, users: np.ndarray, times: np.ndarray, length: int) -> np.ndarray:
        """The users' last `length` items strictly before `times` [R], as `latest` gives them."""
        moments, keys = self._search_keys
        asked = users.astype(np.int64) * (len(moments) + 1) + np.searchsorted(moments, times)
        ends = np.searchsorted(keys, asked)
        return self._window(self.offsets[users], ends, length)

    def first(self, users: np.ndarray, counts: np.ndarray, length: int) -> np.ndarray:
        """The last `length` of the users' first `counts` [R] items, as `latest` gives them."""
        return self._window(self.offsets[users], self.offsets[users] + counts, length)

    @functools.cached_property
    def _search_keys(self) -> tuple[np.ndarray, np.ndarray]:
        """The distinct times, and one sorted key of user and time that makes all searches a single one."""
        if self.times is None:
            raise ValueError("`before` needs a log with times. Received: one without; use `latest`")
        moments = np.unique(self.times)
        # The rank of a time, not the time itself: users x microseconds can overflow 64 bits.
        return moments, self.users * (len(moments) + 1) + np.searchsorted(moments, self.times)

    def _window(self, starts, ends, length):
        at = ends[:, None] - length + np.arange(length)
        inside = at >= starts[:, None]
        window = np.full(at.shape, -1, np.int32)
        window[inside] = self.items[at[inside]]
        return window
