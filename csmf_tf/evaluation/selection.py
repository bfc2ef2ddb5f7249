"""The best K of rows of scores that come block by block."""

from collections.abc import Iterator

import numpy as np

Passed = list[tuple[np.ndarray, np.ndarray, np.ndarray]]
"""(row, score, item) of cells that passed the filter, items ascending within a row."""


def best_items(
    blocks: Iterator[tuple[int, np.ndarray]], row: np.ndarray, item: np.ndarray, rows: int, k: int
) -> np.ndarray:
    """Selects the k best items of each row.

    Of a block, only scores above the row's k-th best so far are looked at again (own choice).

    Args:
        blocks: the first item and the scores `[rows, width]` of each block, in the order of the items; they
            are written into.
        row: `[n]`, with `item` the (row, item) pairs to leave out.
        item: `[n]`, ascending.
        rows: number of rows.
        k: number of items.

    Returns:
        int32 `[rows, k]`: item codes, best first, ties by lower code; -1 where fewer than k items are left.

    Example:
        >>> blocks = iter([(0, np.array([[1.0, 3.0]])), (2, np.array([[3.0, 9.0]]))])
        >>> best_items(blocks, np.array([0]), np.array([3]), rows=1, k=2)
        array([[1, 2]], dtype=int32)
    """
    # In each row by ascending item.
    scores, items = np.empty((rows, 0), np.float32), np.empty((rows, 0), np.int32)
    passed: Passed = []
    waiting = np.zeros(rows, np.int64)
    for start, block in blocks:
        here = slice(*np.searchsorted(item, [start, start + block.shape[1]]))
        block[row[here], item[here] - start] = -np.inf
        if scores.shape[1] < k:
            codes = np.broadcast_to(np.arange(start, start + block.shape[1], dtype=np.int32), block.shape)
            beside = np.concatenate([scores, block], axis=1), np.concatenate([items, codes], axis=1)
            scores, items = _keep(*beside, k)
            least = scores.min(axis=1, keepdims=True)
            continue
        # An equal score later on never takes a place: it is of a higher code.
        cells = np.flatnonzero(block > least)
        at, column = np.divmod(cells, block.shape[1])
        passed.append((at, block.ravel()[cells], (start + column).astype(np.int32)))
        waiting += np.bincount(at, minlength=rows)
        if waiting.max(initial=0) > k:
            _merge(scores, items, passed, k)
            least, passed = scores.min(axis=1, keepdims=True), []
            waiting[:] = 0
    if passed:
        _merge(scores, items, passed, k)
    order = np.argsort(-scores, axis=1, kind="stable")
    items = np.where(scores > -np.inf, items, -1)
    return np.pad(np.take_along_axis(items, order, 1), ((0, 0), (0, k - items.shape[1])), constant_values=-1)


def _merge(scores: np.ndarray, items: np.ndarray, passed: Passed, k: int) -> None:
    """Lets what passed take places; only rows in which something did are touched, in place."""
    at, score, item = (np.concatenate(arrays) for arrays in zip(*passed, strict=True))
    order = np.argsort(at, kind="stable")
    counts = np.bincount(at, minlength=len(scores))
    who = np.flatnonzero(counts)
    counts = counts[who]
    cells = np.arange(counts.max(initial=0)) < counts[:, None]
    more_scores, more_items = np.full(cells.shape, -np.inf, score.dtype), np.full(cells.shape, -1, np.int32)
    more_scores[cells], more_items[cells] = score[order], item[order]
    beside = (
        np.concatenate([scores[who], more_scores], axis=1),
        np.concatenate([items[who], more_items], axis=1),
    )
    scores[who], items[who] = _keep(*beside, k)


def _keep(scores: np.ndarray, items: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
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
