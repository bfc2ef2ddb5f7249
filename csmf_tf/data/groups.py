"""The items of each user as a ragged array."""

from typing import NamedTuple

import numpy as np


class Groups(NamedTuple):
    """A ragged list of item codes per user, in compressed row form.

    Attributes:
        offsets: int64 `[users + 1]`, ascending from 0; user `u` owns `items[offsets[u]:offsets[u + 1]]`.
        items: int32 `[pairs]`, item codes; ascending and unique within a user.
    """

    offsets: np.ndarray
    items: np.ndarray

    def of(self, user: int) -> np.ndarray:
        """Returns the item codes of one user: int32, ascending, without repeats."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    @property
    def counts(self) -> np.ndarray:
        """Number of distinct items of each user, int64 `[users]`."""
        return np.diff(self.offsets)


def group(users: np.ndarray, items: np.ndarray, n_users: int) -> Groups:
    """Groups the distinct (user, item) pairs of some events by user.

    Args:
        users: integer codes `[n]` in `0..n_users - 1`, in any order.
        items: integer codes `[n]`, not negative.
        n_users: number of users; users without an event get an empty list.

    Returns:
        `Groups` of `n_users` users.

    Raises:
        ValueError: if the arrays differ in length or a code is out of range.

    Example:
    >>> groups = group(np.array([2, 0, 2, 2]), np.array([5, 1, 3, 5]), n_users=3)
    >>> groups.of(2).tolist(), groups.counts.tolist()
    ([3, 5], [1, 0, 2])
    """
    users, items = np.asarray(users, np.int64), np.asarray(items, np.int64)
    if users.ndim != 1 or users.shape != items.shape:
        raise ValueError(
            "`users` and `items` should be one-dimensional and of the same length. "
            f"Received: shapes {users.shape} and {items.shape}."
        )
    if not users.size:
        return Groups(np.zeros(n_users + 1, np.int64), np.empty(0, np.int32))
    if users.min() < 0 or users.max() >= n_users:
        raise ValueError(
            f"`users` should be codes in 0..{n_users - 1} (`n_users={n_users}`). "
            f"Received: codes in {users.min()}..{users.max()}."
        )
    if items.min() < 0:
        raise ValueError(f"`items` should be codes >= 0. Received: {items.min()}.")
    width = items.max() + 1
    pairs = np.sort(users * width + items)
    pairs = pairs[np.append(True, pairs[1:] != pairs[:-1])]
    counts = np.bincount(pairs // width, minlength=n_users)
    return Groups(np.concatenate([[0], np.cumsum(counts)]), (pairs % width).astype(np.int32))


def flags(codes: np.ndarray, size: int) -> np.ndarray:
    """Marks codes: bool `[size]`, true at each of `codes`.

    Example:
    >>> flags(np.array([2, 0, 2]), size=4).tolist()
    [True, False, True, False]
    """
    flagged = np.zeros(size, bool)
    flagged[codes] = True
    return flagged
