"""Exact top-K over the whole catalogue in bounded memory."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from csmf_tf.data.groups import Groups

UserScores = Callable[[np.ndarray], np.ndarray]

MEMORY_MB = 64
"""Default bound of what a ranking works in; more is not faster."""

# Items of the first block, which has nothing to be filtered by, and of the others: they fit a cache.
_FIRST, _BLOCK = 1024, 2048
# What a cell of a block costs at most: its score, its mask, and what passes the filter.
_BYTES_A_CELL = 32


def top_k(
    user_vectors: np.ndarray,
    item_vectors: np.ndarray,
    seen: Groups | None,
    users: np.ndarray,
    k: int,
    *,
    memory_mb: float = MEMORY_MB,
    progress: bool = False,
) -> np.ndarray:
    """The k items with the largest inner product for each user, computed in float32.

    The catalogue is scored block by block; of a block, only items above the user's k-th best score so far
    are looked at again (own choice). So the matrix users × items never exists, and most of the time goes into
    the products.

    Args:
        user_vectors: float `[U, D]`, one row per user code.
        item_vectors: float `[N, D]`.
        seen: items to leave out for each user code, or None.
        users: integer codes `[B]` of the users to rank for.
        k: number of items.
        memory_mb: bound in megabytes of the working memory, beside vectors and result.
        progress: whether to show a progress bar.

    Returns:
        int32 `[B, k]`: item codes, best first, ties by lower code; -1 where fewer than k items are left.

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
    users = np.asarray(users)
    if user_vectors.ndim != 2 or item_vectors.shape[1:] != user_vectors.shape[1:]:
        raise ValueError(
            "`user_vectors` and `item_vectors` should be [U, D] and [N, D]. "
            f"Received: shapes {user_vectors.shape} and {item_vectors.shape}."
        )
    if users.max(initial=-1) >= len(user_vectors):
        raise ValueError(
            f"`users` should be codes below {len(user_vectors)}, the number of `user_vectors`. "
            f"Received: {users.max()}."
        )
    # |<u, v>| <= |u| |v|: one look at the vectors saves one at each score.
    if not _longest(user_vectors) * _longest(item_vectors) < np.finfo(np.float32).max:
        raise ValueError(
            "Scores should be finite numbers. Received: vectors with NaN, infinity or values too large to "
            "multiply in float32; check what the towers give."
        )
    n_items = len(item_vectors)

    def best(rows: slice) -> np.ndarray:
        vectors = user_vectors[users[rows]]
        blocks = ((at.start, vectors @ item_vectors[at].T) for at in _blocks(n_items))
        return _best(blocks, *_left_out(seen, users[rows], n_items), len(vectors), k)

    # Threads of ours, each with products of its own, share the filtering too; BLAS's would not.
    threads = os.cpu_count() or 1
    with threadpool_limits(1, user_api="blas"):
        return _in_chunks(best, len(users), min(_BLOCK, n_items), k, memory_mb, progress, threads)


def rank(
    scores: UserScores,
    seen: Groups | None,
    users: np.ndarray,
    k: int,
    *,
    memory_mb: float = MEMORY_MB,
    progress: bool = False,
) -> np.ndarray:
    """The k items with the largest scores for each user, of any scorer.

    Args:
        scores: function of integer user codes `[B]` that gives `[B, N]`, in which -inf leaves an item out.
        seen: items to leave out for each user code, or None.
        users: integer codes `[B]`.
        k: number of items.
        memory_mb: bound in megabytes of the working memory, beside what `scores` itself needs; a user's
            N scores are always taken at once.
        progress: whether to show a progress bar.

    Returns:
        As `top_k`.

    Raises:
        ValueError: if k or `memory_mb` is not positive, a score is NaN, or a code is out of range.

    Example:
        >>> rank(lambda users: np.array([[0.5, 2.0, 0.5]]), None, np.array([0]), k=2)
        array([[1, 0]], dtype=int32)
    """
    users = np.asarray(users)
    n_items = scores(users[:1]).shape[1] if len(users) else 0

    def best(rows: slice) -> np.ndarray:
        # The ranking writes into the scores, so it takes a copy of what the caller may still hold.
        whole = np.array(scores(users[rows]), np.float64)
        if np.isnan(whole.min(initial=0)):
            raise ValueError("Scores should be numbers. Received: NaN; check what the scorer gives.")
        blocks = ((at.start, whole[:, at]) for at in _blocks(n_items))
        return _best(blocks, *_left_out(seen, users[rows], n_items), len(whole), k)

    return _in_chunks(best, len(users), n_items, k, memory_mb, progress)


def pairs_of(groups: Groups, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (row, item) pairs of some users, in order; row is the position in `users`."""
    if len(users) and users.max() >= len(groups.offsets) - 1:
        raise ValueError(f"`users` should be codes below {len(groups.offsets) - 1}. Received: {users.max()}.")
    counts = groups.offsets[users + 1] - groups.offsets[users]
    row = np.repeat(np.arange(len(users)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, groups.items[groups.offsets[users][row] + within]


def _longest(vectors: np.ndarray) -> float:
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.einsum("nd,nd->n", vectors, vectors).max(initial=0)))


def _in_chunks(
    best: Callable[[slice], np.ndarray],
    users: int,
    width: int,
    k: int,
    memory_mb: float,
    progress: bool,
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
        with tqdm(total=users, desc="ranking", unit="user", disable=not progress, leave=False) as bar:
            for rows, found in zip(chunks, pool.map(best, chunks), strict=True):
                ranked[rows] = found
                bar.update(len(found))
    finally:
        pool.shutdown(cancel_futures=True)
    return ranked


def _blocks(n_items: int) -> Iterator[slice]:
    """Slices of the items, each up to twice as wide as the one before: few pass a filter made of as many."""
    start, width = 0, _FIRST
    while start < n_items:
        yield slice(start, min(start + width, n_items))
        start, width = start + width, min(2 * width, _BLOCK)


def _left_out(seen: Groups | None, users: np.ndarray, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """The (row, item) pairs that may not be ranked, by item."""
    if seen is None:
        return np.empty(0, np.int64), np.empty(0, np.int32)
    if seen.items.max(initial=-1) >= n_items:
        raise ValueError(
            f"`seen` should hold codes of the {n_items} items that are scored. Received: {seen.items.max()}."
        )
    row, item = pairs_of(seen, users)
    order = np.argsort(item, kind="stable")
    return row[order], item[order]


def _best(
    blocks: Iterator[tuple[int, np.ndarray]], row: np.ndarray, item: np.ndarray, rows: int, k: int
) -> np.ndarray:
    """The k best items of each row but for the (row, item) pairs; blocks of scores are written into."""
    best = np.empty((rows, 0), np.float32), np.empty((rows, 0), np.int32)
    passed: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for start, block in blocks:
        here = slice(*np.searchsorted(item, [start, start + block.shape[1]]))
        block[row[here], item[here] - start] = -np.inf
        if best[0].shape[1] < k:
            items = np.arange(start, start + block.shape[1], dtype=np.int32)
            best = _keep(*_beside(best, (block, np.broadcast_to(items, block.shape))), k)
            least = best[0].min(axis=1, keepdims=True)
            continue
        # Items come in ascending order, so that an equal score later on never takes a place.
        cells = np.flatnonzero(block > least)
        at, column = np.divmod(cells, block.shape[1])
        passed.append((at, block.ravel()[cells], (start + column).astype(np.int32)))
        if sum(len(at) for at, *_ in passed) > rows * k:
            best = _keep(*_beside(best, _padded(passed, rows)), k)
            least, passed = best[0].min(axis=1, keepdims=True), []
    if passed:
        best = _keep(*_beside(best, _padded(passed, rows)), k)
    scores, items = best
    order = np.argsort(-scores, axis=1, kind="stable")
    items = np.where(scores > -np.inf, items, -1)
    return np.pad(np.take_along_axis(items, order, 1), ((0, 0), (0, k - items.shape[1])), constant_values=-1)


Ranked = tuple[np.ndarray, np.ndarray]
"""Scores and items `[rows, w]`, each row in ascending order of the items; -inf pads."""


def _beside(one: Ranked, other: Ranked) -> Ranked:
    """Later items beside earlier ones."""
    return np.concatenate([one[0], other[0]], axis=1), np.concatenate([one[1], other[1]], axis=1)


def _padded(passed: list[tuple[np.ndarray, np.ndarray, np.ndarray]], rows: int) -> Ranked:
    """Lists of (row, score, item), item by item within a row, as a rectangle."""
    at, score, item = (np.concatenate(arrays) for arrays in zip(*passed, strict=True))
    order = np.argsort(at, kind="stable")
    counts = np.bincount(at, minlength=rows)
    shape = rows, counts.max(initial=0)
    cells = np.arange(shape[1]) < counts[:, None]
    scores, items = np.full(shape, -np.inf, score.dtype), np.full(shape, -1, np.int32)
    scores[cells], items[cells] = score[order], item[order]
    return scores, items


def _keep(scores: np.ndarray, items: np.ndarray, k: int) -> Ranked:
    """The k best of each row, ties to the earlier column, in the given order."""
    if scores.shape[1] <= k:
        return scores, items
    least = np.partition(scores, -k, axis=1)[:, -k, None]
    chosen = scores >= least
    crowded = np.count_nonzero(chosen, axis=1) > k
    if crowded.any():
        above = scores[crowded] > least[crowded]
        ties = chosen[crowded] & ~above
        room = k - np.count_nonzero(above, axis=1)[:, None]
        chosen[crowded] = above | (ties & (np.cumsum(ties, axis=1, dtype=np.int32) <= room))
    return scores[chosen].reshape(-1, k), items[chosen].reshape(-1, k)
