"""Rankings without a model, which every model should beat."""

import numpy as np

from csmf_tf.data.groups import Groups
from csmf_tf.data.log import EventLog
from csmf_tf.evaluation.ranking import UserScores


def popularity_scores(users_items: Groups, n_items: int) -> np.ndarray:
    """The number of distinct users of each item.

    Args:
        users_items: the items of each user in the known events.
        n_items: number of items N in the catalogue.

    Returns:
        float64 `[N]`.

    Example:
        >>> popularity_scores(Groups(np.array([0, 2, 3]), np.array([0, 2, 2])), n_items=4)
        array([1., 0., 2., 0.])
    """
    return np.bincount(users_items.items, minlength=n_items).astype(np.float64)


def static(scores: np.ndarray) -> UserScores:
    """A scorer that ranks the items alike for all users.

    Args:
        scores: float `[N]`, e.g. of `popularity_scores`.

    Returns:
        a function of integer user codes `[B]` that gives `[B, N]`.

    Example:
        >>> static(np.array([5.0, 8.0]))(np.array([3, 4])).tolist()
        [[5.0, 8.0], [5.0, 8.0]]
    """
    scores = np.asarray(scores)
    return lambda users: np.broadcast_to(scores, (len(users), len(scores)))


def counting(known: EventLog, objective: int) -> UserScores:
    """A scorer that shows users again what they have met, the floor for re-engagement.

    score(u, i) = c(u, i) (1 + n_k(i)) / (1 + n_1(i)) with the number c of u's events with i upstream of the
    objective k, and the numbers of distinct users n_k with the objective's behaviour and n_1 with the first
    one (own choice, after a rule that beats published models where targets leak); -inf where c is 0.

    Args:
        known: the known events.
        objective: code k of the objective's behaviour.

    Returns:
        a function of integer user codes `[B]` that gives `[B, N]`.

    Example:
        >>> ids = np.array(["a", "b", "c"], object)
        >>> user, item, behavior = (
        ...     np.array([0, 0, 0, 1]),
        ...     np.array([0, 0, 2, 2]),
        ...     np.array([0, 0, 0, 1], np.int8),
        ... )
        >>> known = EventLog(user, item, behavior, None, ids, ids, ("view", "buy"))
        >>> counting(known, objective=1)(np.array([0, 1])).tolist()
        [[1.0, -inf, 1.0], [-inf, -inf, -inf]]
    """
    n_items = len(known.items)
    first, last = (popularity_scores(known.items_of_users(b), n_items) for b in (0, objective))
    upstream = known.behavior < objective
    pairs, counts = np.unique(
        known.user[upstream].astype(np.int64) * n_items + known.item[upstream], return_counts=True
    )

    def scores(users: np.ndarray) -> np.ndarray:
        matrix = np.full((len(users), n_items), -np.inf)
        for row, user in enumerate(users):
            own = slice(*np.searchsorted(pairs, [user * n_items, (user + 1) * n_items]))
            items = pairs[own] - user * n_items
            matrix[row, items] = counts[own] * (1 + last[items]) / (1 + first[items])
        return matrix

    return scores
