"""Rankings without a model, which every model should beat."""

import numpy as np

from csmf_tf.data.groups import Groups, group
from csmf_tf.data.log import EventLog
from csmf_tf.evaluation.ranking import Shortlist


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


def static(scores: np.ndarray, n_users: int) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of one dimension that rank the items alike for all users.

    Args:
        scores: float `[N]`, e.g. of `popularity_scores`; rounded to float32, which holds counts below 2^24.
        n_users: number of users U.

    Returns:
        user vectors float32 `[U, 1]` and item vectors float32 `[N, 1]`.

    Example:
        >>> users, items = static(np.array([5.0, 8.0]), n_users=3)
        >>> (users @ items.T).tolist()
        [[5.0, 8.0], [5.0, 8.0], [5.0, 8.0]]
    """
    return np.ones((n_users, 1), np.float32), np.asarray(scores, np.float32)[:, None]


def counting(known: EventLog, objective: int) -> Shortlist:
    """Shows users again what they have met, the floor for re-engagement.

    score(u, i) = c(u, i) (1 + n_k(i)) / (1 + n_1(i)) with the number c of u's events with i upstream of the
    objective k, and the numbers of distinct users n_k with the objective's behaviour and n_1 with the first
    one (own choice, after a rule that beats published models where targets leak). Items that the user has
    not met are not ranked.

    Args:
        known: the known events.
        objective: code k of the objective's behaviour.

    Returns:
        the `Shortlist` of the items that each user has met.

    Example:
        >>> ids = np.array(["a", "b", "c"], object)
        >>> user, item = np.array([0, 0, 0, 1]), np.array([0, 0, 2, 2])
        >>> did = np.array([0, 0, 0, 1], np.int8)
        >>> known = EventLog(user, item, did, None, ids, ids, ("view", "buy"))
        >>> met = counting(known, objective=1)
        >>> met.groups.of(0).tolist(), met.scores.tolist()
        ([0, 2], [1.0, 1.0])
    """
    n_items = len(known.items)
    first, last = (popularity_scores(known.items_of_users(b), n_items) for b in (0, objective))
    upstream = known.take(known.behavior < objective)
    pairs, events = np.unique(upstream.pairs, return_counts=True)
    items = pairs % n_items
    groups = group(pairs // n_items, items, len(known.users))
    return Shortlist(groups, events * (1 + last[items]) / (1 + first[items]))
