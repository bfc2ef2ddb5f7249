"""How many of the true results an index finds, under the fusion weights that it will serve."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from csmf_tf.progress import bar
from csmf_tf.serving.exact import search_all
from csmf_tf.serving.fusion import query_scale

# Queries that are scored exactly at a time.
_BATCH = 32


def weightings(objectives: Sequence[str]) -> dict[str, np.ndarray]:
    """Fusion weights under which an index is measured (own choice).

    All equal, each objective alone, and each three times the others: an index that is good for equal weights
    alone is not enough.

    Args:
        objectives: names of the K objectives.

    Returns:
        Label to weights, float32 [K].

    Example:

    >>> {label: weights.tolist() for label, weights in weightings(["view", "buy"]).items()}
    {'equal': [1.0, 1.0], 'view': [1.0, 0.0], 'buy': [0.0, 1.0], '3 view': [3.0, 1.0], '3 buy': [1.0, 3.0]}
    """
    ones = np.ones(len(objectives), np.float32)
    alone = dict(zip(objectives, np.diag(ones), strict=True))
    found = {"equal": ones} | alone
    if len(objectives) > 1:
        found |= {f"3 {name}": ones + 2 * weights for name, weights in alone.items()}
    return found


def measure_recall(
    index: Any, users: np.ndarray, owner: np.ndarray, objectives: Sequence[str], k: int
) -> dict[str, float]:
    """Mean share of each user's true k best items that an index finds, under each of the `weightings`.

    Args:
        index: one of `INDICES`.
        users: float [B, D], user vectors.
        owner: integer [D], the objective that owns each coordinate, 0 = free.
        objectives: names of the K objectives.
        k: number of results, that of the index.

    Returns:
        Label of the weighting to recall@k; items as good as the k-th count as true. Users with a vector that
        is not finite are left out.

    Example:

    >>> from csmf_tf.serving.index import ExactIndex
    >>> index = ExactIndex([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]], k=2)
    >>> measure_recall(index, np.array([[1.0, 1.0]]), np.array([1, 1]), ["view"], k=2)
    {'equal': 1.0, 'view': 1.0}
    """
    users = np.asarray(users, np.float32)
    users = users[np.isfinite(users).all(axis=1)]
    recalls = user_recalls(index, users, owner, objectives, k)
    return {label: float(shares.mean()) if len(users) else 1.0 for label, shares in recalls.items()}


def user_recalls(
    index: Any, users: np.ndarray, owner: np.ndarray, objectives: Sequence[str], k: int
) -> dict[str, np.ndarray]:
    """Share of each user's true k best items that an index finds, under each of the `weightings`.

    Args:
        index: one of `INDICES`.
        users: float [B, D], finite.
        owner: integer [D], the objective that owns each coordinate, 0 = free.
        objectives: names of the K objectives.
        k: number of results, that of the index.

    Returns:
        Label of the weighting to recall@k, float [B]; items as good as the k-th count as true.

    Example:

    >>> from csmf_tf.serving.index import ExactIndex
    >>> index = ExactIndex([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]], k=2)
    >>> user_recalls(index, np.array([[1.0, 1.0]]), np.array([1, 1]), ["view"], k=2)["view"].tolist()
    [1.0]
    """
    users = np.asarray(users, np.float32)
    starts = range(0, len(users), _BATCH)
    recalls = {}
    for label, weights in bar(weightings(objectives).items(), "measuring the recall of the index"):
        queries = users * query_scale(owner, weights / weights.max()).numpy()
        shares = [_share(index, queries[start : start + _BATCH], k) for start in starts]
        recalls[label] = np.concatenate([np.zeros(0), *shares])
    return recalls


def check_recall(
    recalls: Mapping[str, float],
    floor: float,
    kind: str,
    k: int,
    mend: str = "let it search more (`settings`), lower `min_recall`, or set it to 0 to export all the same",
) -> None:
    """Raises a ValueError when the recall is below the floor under one of the weightings."""
    if recalls and min(recalls.values()) < floor:
        worst = min(recalls, key=recalls.__getitem__)
        raise ValueError(
            f"Recall@{k} of the {kind} index should be at least {floor:g} under all weightings. Received: "
            f"{recalls[worst]:.3f} under weights '{worst}'; {mend}"
        )


def _share(index: Any, queries: np.ndarray, k: int) -> np.ndarray:
    _, best = search_all(queries, index.vectors, k)
    # As it is served: asked for a `k`, an index may search more than its settings say.
    found, scores = (part.numpy() for part in index.search(queries))
    true = np.isfinite(best.numpy())
    least = np.where(true, best.numpy(), np.inf).min(axis=1, keepdims=True)
    # Scores of approximate indices are exact, but for their last bits.
    slack = 1e-5 * np.abs(least) + 1e-30
    hits = (found >= 0) & (scores >= least - slack)
    return hits.sum(axis=1) / np.maximum(true.sum(axis=1), 1)
