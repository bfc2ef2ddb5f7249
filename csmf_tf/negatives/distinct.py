"""Draws without repeats, in many rows at once."""

import numpy as np


def draw_distinct(sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws up to `count` different numbers below each of `sizes`, every subset of that size alike.

    Floyd's algorithm in all rows at once, so the cost does not grow with the sizes.

    Args:
        sizes: int [R].
        count: numbers a row.
        rng: the random generator.

    Returns:
        int64 [R, count]; -1 fills rows whose size is below `count`.

    Example:

    >>> np.sort(draw_distinct(np.array([2, 0]), 3, np.random.default_rng(0))).tolist()
    [[-1, 0, 1], [-1, -1, -1]]
    """
    chances = rng.random((count, len(sizes)))
    widths = np.minimum(sizes, count)
    # A column is a row here: numpy is far faster along rows.
    picks = np.full((count, len(sizes)), -1, np.int64)
    for column, chance in enumerate(chances):
        last = sizes - widths + column
        pick = (chance * (last + 1)).astype(np.int64)
        taken = (picks[:column] == pick).any(axis=0)
        picks[column] = np.where(column < widths, np.where(taken, last, pick), -1)
    return picks.T
