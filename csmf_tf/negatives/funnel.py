"""Funnel negatives: what the user met upstream and took no further."""

import numpy as np

from csmf_tf.data.groups import Groups, group
from csmf_tf.negatives.distinct import draw_distinct


def upstream_only(reached: Groups, positives: Groups, n_items: int) -> Groups:
    """Items that a user reached upstream but that are no positives of the stage.

    Args:
        reached: each user's items with any upstream event (exposed, clicked ...).
        positives: each user's positives of the stage.
        n_items: number of items.

    Returns:
        `Groups`: per user, the hard negatives (exposed but not clicked, clicked but not bought).

    Example:

    >>> viewed = group(np.array([0, 0, 1]), np.array([3, 5, 3]), n_users=2)
    >>> bought = group(np.array([0]), np.array([5]), n_users=2)
    >>> pool = upstream_only(viewed, bought, n_items=6)
    >>> pool.of(0).tolist(), pool.of(1).tolist()
    ([3], [3])
    """
    n_users = len(reached.counts)

    def keys(groups: Groups) -> np.ndarray:
        return np.repeat(np.arange(n_users, dtype=np.int64), groups.counts) * n_items + groups.items

    left = np.setdiff1d(keys(reached), keys(positives), assume_unique=True)
    return group(left // n_items, left % n_items, n_users)


def draw_funnel_negatives(
    pool: Groups, users: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws up to `count` different funnel negatives for each user, every subset of that size alike.

    Args:
        pool: each user's upstream-only items, from `upstream_only`.
        users: int [R] user codes.
        count: negatives a user.
        rng: the random generator.

    Returns:
        int32 [R, count] item codes; -1 fills rows whose user has fewer than `count` items.

    Example:

    >>> pool = group(np.array([0]), np.array([3]), n_users=2)
    >>> draw_funnel_negatives(pool, np.array([0, 1]), 2, np.random.default_rng(0)).tolist()
    [[3, -1], [-1, -1]]
    """
    picks = draw_distinct(pool.counts[users], count, rng)
    found = picks >= 0
    drawn = np.full(picks.shape, -1, np.int32)
    drawn[found] = pool.items[(picks + pool.offsets[users][:, None])[found]]
    return drawn
