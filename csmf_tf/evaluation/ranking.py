"""Exact top-K over the whole catalogue in bounded memory."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from csmf_tf.data.groups import Groups
from csmf_tf.evaluation.selection import best_items
from csmf_tf.progress import bar


class Shortlist(NamedTuple):
    """Scores of a few items of each user; no others are ranked.

    Attributes:
        groups: the items of each user code.
        scores: float `[pairs]`, in the order of `groups.items`.
    """

    groups: Groups
    scores: np.ndarray


Scores = tuple[np.ndarray, np.ndarray] | Callable[[np.ndarray], np.ndarray] | Shortlist
"""What ranks: vectors (users `[U, D]`, items `[N, D]`), or a function of user codes `[B]` that gives `[B, N]`
with -inf for what is left out, or a `Shortlist`."""


MEMORY_MB = 64
"""Default bound of what a ranking works in; more is not faster."""

# Items of the first block, which has nothing to be filtered by, and of the others: they fit a cache.
_FIRST, _BLOCK = 1024, 2048
# What a cell of a block costs at most: its score, its mask, and what passes the filter.
_BYTES_A_CELL = 32
_TILE = 64


def top_k(
    user_vectors: np.ndarray,
    item_vectors: np.ndarray,
    seen: Groups | None,
    users: np.ndarray,
    k: int,
    *,
    memory_mb: float = MEMORY_MB,
) -> np.ndarray:
    """The k items with the largest inner product for each user, computed in float32.

    The catalogue is scored block by block (see `best_items`), so the matrix users × items never exists, and
    most of the time goes into the products.

    Args:
        user_vectors: float `[U, D]`, one row per user code.
        item_vectors: float `[N, D]`.
        seen: items to leave out for each user code, or None.
        users: integer codes `[B]` of the users to rank for.
        k: number of items.
        memory_mb: bound in megabytes of the working memory, beside vectors and result.

    Returns:
        int32 `[B, k]`: item codes, best first, ties by lower code; -1 where fewer than k items are left.
        Equal vectors are tied, whoever else is ranked.

    Raises:
        ValueError: if shapes do not match, k or `memory_mb` is not positive, a vector is not finite or so
            large that a product could be infinite, or a code is out of range.

    Example:
        >>> seen = Groups(np.array([0, 1]), np.array([1]))
        >>> top_k(
        ...     np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [9.0, 0.0], [2.0, 0.0]]), seen, np.array([0]), 3
        ... )
        array([[ 2,  0, -1]], dtype=int32)
    """
    user_vectors, item_vectors = np.asarray(user_vectors, np.float32), np.asarray(item_vectors, np.float32)
    users = _checked(users, seen, len(item_vectors))
    if user_vectors.ndim != 2 or item_vectors.shape[1:] != user_vectors.shape[1:]:
        raise ValueError(
            "`user_vectors` and `item_vectors` should be [U, D] and [N, D]. "
            f"Received: shapes {user_vectors.shape} and {item_vectors.shape}."
        )
    check_codes("users", users, len(user_vectors))
    # |<u, v>| <= |u| |v|: one look at the vectors saves one at each score.
    if not _longest(user_vectors) * _longest(item_vectors) < np.finfo(np.float32).max:
        raise ValueError(
            "Scores should be finite numbers. Received: vectors with NaN, infinity or values too large to "
            "multiply in float32; check what the towers give."
        )
    n_items = len(item_vectors)

    def best(rows: slice) -> np.ndarray:
        some = users[rows]
        vectors = _tiled(user_vectors[some])
        products = ((at, vectors @ _tiled(item_vectors[at]).T) for at in _blocks(n_items))
        blocks = ((at.start, product[: len(some), : at.stop - at.start]) for at, product in products)
        return best_items(blocks, *_left_out(seen, some), len(some), k)

    # Threads of ours, each with products of its own, share the filtering too; BLAS's would not.
    threads = len(os.sched_getaffinity(0))
    with threadpool_limits(1, user_api="blas"):
        return _in_chunks(best, len(users), min(_BLOCK, n_items), k, memory_mb, threads)


def rank(
    scores: Scores,
    seen: Groups | None,
    users: np.ndarray,
    k: int,
    *,
    memory_mb: float = MEMORY_MB,
) -> np.ndarray:
    """The k items with the largest scores for each user.

    Args:
        scores: what ranks, see `Scores`. Of a function, a user's N scores are always taken at once.
        seen: items to leave out for each user code, or None.
        users: integer codes `[B]`.
        k: number of items.
        memory_mb: as in `top_k`.

    Returns:
        As `top_k`.

    Raises:
        ValueError: as `top_k`, or if a score is NaN.

    Example:
        >>> rank(lambda users: np.array([[0.5, 2.0, 0.5]]), None, np.array([0]), k=2)
        array([[1, 0]], dtype=int32)
    """
    if isinstance(scores, Shortlist):
        return rank_shortlist(scores, seen, users, k)
    if isinstance(scores, tuple):
        return top_k(*scores, seen, users, k, memory_mb=memory_mb)
    users = np.asarray(users)
    n_items = scores(users[:1]).shape[1] if len(users) else 0
    users = _checked(users, seen, n_items)

    def best(rows: slice) -> np.ndarray:
        # The selection writes into the scores, so it takes a copy of what the caller may still hold.
        whole = np.array(scores(users[rows]), np.float64)
        if np.isnan(whole.min(initial=0)):
            raise ValueError("Scores should be numbers. Received: NaN; check what the scorer gives.")
        blocks = ((at.start, whole[:, at]) for at in _blocks(n_items))
        return best_items(blocks, *_left_out(seen, users[rows]), len(whole), k)

    return _in_chunks(best, len(users), n_items, k, memory_mb)


def rank_shortlist(shortlist: Shortlist, seen: Groups | None, users: np.ndarray, k: int) -> np.ndarray:
    """The k items with the largest scores of each user's own list.

    Args:
        shortlist: the items and their scores.
        seen: items to leave out for each user code, or None.
        users: integer codes `[B]`.
        k: number of items.

    Returns:
        As `top_k`.

    Raises:
        ValueError: if a code is out of range.

    Example:
        >>> few = Shortlist(Groups(np.array([0, 3]), np.array([2, 5, 9])), np.array([1.0, 7.0, 7.0]))
        >>> rank_shortlist(few, None, np.array([0]), k=2)
        array([[5, 9]], dtype=int32)
    """
    users = np.asarray(users)
    row, at = _entries(shortlist.groups, users)
    item = shortlist.groups.items[at]
    if seen is not None:
        width = np.int64(max(item.max(initial=0), seen.items.max(initial=0)) + 1)
        left_row, left_item = pairs_of(seen, users)
        left = ~np.isin(row * width + item, left_row * width + left_item)
        row, at, item = row[left], at[left], item[left]
    order = np.lexsort((item, -shortlist.scores[at], row))
    counts = np.bincount(row, minlength=len(users))
    place = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    first = order[place < k]
    ranked = np.full((len(users), k), -1, np.int32)
    ranked[row[first], place[place < k]] = item[first]
    return ranked


def pairs_of(groups: Groups, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (row, item) pairs of some users, in order; row is the position in `users`."""
    row, at = _entries(groups, users)
    return row, groups.items[at]


def _entries(groups: Groups, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row and the place in `groups.items` of all pairs of some users."""
    check_codes("users", users, len(groups.offsets) - 1)
    counts = groups.offsets[users + 1] - groups.offsets[users]
    row = np.repeat(np.arange(len(users)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, groups.offsets[users][row] + within


def _longest(vectors: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max(initial=0)))


def _in_chunks(
    best: Callable[[slice], np.ndarray],
    users: int,
    width: int,
    k: int,
    memory_mb: float,
    threads: int = 1,
) -> np.ndarray:
    """Int32 `[users, k]`, ranked for so few users at a time that `width` cells of each fit the memory."""
    if k < 1:
        raise ValueError(f"`k` should be an integer >= 1. Received: k={k}.")
    if not memory_mb > 0:
        raise ValueError(f"`memory_mb` should be > 0. Received: memory_mb={memory_mb}.")
    step = int(np.clip(memory_mb * 2**20 / threads / _BYTES_A_CELL / max(width + k, 1), 1, 1024))
    chunks = [slice(start, min(start + step, users)) for start in range(0, users, step)]
    ranked = np.full((users, k), -1, np.int32)
    pool = ThreadPoolExecutor(threads)
    try:
        with bar(total=users, about="ranking") as done:
            for rows, found in zip(chunks, pool.map(best, chunks), strict=True):
                ranked[rows] = found
                done.update(len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    return ranked


def _blocks(n_items: int) -> Iterator[slice]:
    """Slices of the items, each up to twice as wide as the one before: few pass a filter made of as many."""
    start, width = 0, _FIRST
    while start < n_items:
        yield slice(start, min(start + width, n_items))
        start, width = start + width, min(2 * width, _BLOCK)


def _tiled(vectors: np.ndarray) -> np.ndarray:
    """The vectors, and zeros up to a multiple of 64.

    Products of narrow matrices take other paths through BLAS, with other last bits: equal vectors would have
    scores that are not equal, and ties would depend on who is ranked together.
    """
    missing = -len(vectors) % _TILE
    return np.pad(vectors, ((0, missing), (0, 0))) if missing else vectors


def _left_out(seen: Groups | None, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The (row, item) pairs that may not be ranked, by item."""
    if seen is None:
        return np.empty(0, np.int64), np.empty(0, np.int32)
    row, item = pairs_of(seen, users)
    order = np.argsort(item, kind="stable")
    return row[order], item[order]


def _checked(users: np.ndarray, seen: Groups | None, n_items: int) -> np.ndarray:
    """The users, when they and the items to leave out are codes."""
    users = np.asarray(users)
    if seen is not None and len(users):
        check_codes("users", users, len(seen.counts))
        check_codes("seen", seen.items, n_items)
    return users


def check_codes(name: str, codes: np.ndarray, size: int) -> None:
    """Raises a ValueError unless all codes are in 0..size - 1."""
    if len(codes) and not 0 <= codes.min() <= codes.max() < size:
        raise ValueError(
            f"`{name}` should hold codes in 0..{size - 1}. Received: codes in {codes.min()}..{codes.max()}."
        )
