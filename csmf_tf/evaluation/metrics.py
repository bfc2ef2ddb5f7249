"""Ranking metrics over the full catalogue: of each user, and of what all users are shown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from csmf_tf.data.groups import Groups
from csmf_tf.evaluation.ranking import MEMORY_MB, Scores, pairs_of, rank

METRICS = ("recall", "ndcg", "hit_rate", "mrr", "map")
"""What `user_metrics` gives for each cut-off."""

# Users whose hits are looked up at a time, so that memory does not grow with them.
_CHUNK = 8192

HEAD = 0.1
"""The share of the catalogue that counts as popular (own choice)."""


def user_metrics(
    ranked: np.ndarray, targets: Groups, users: np.ndarray, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """Metrics of each user with at least one target.

    For a user with the targets T and the ranked items i_1, i_2, ..., and with the ranks of hits
    H = {r <= K: i_r in T}:

    - Recall@K = |H| / |T| (own choice: some divide by min(K, |T|))
    - NDCG@K = sum_{r in H} 1 / log2(r + 1) over its largest value, sum_{r <= min(K, |T|)} 1 / log2(r + 1)
    - HitRate@K = 1 if there is a hit, else 0
    - MRR@K = 1 / min H, or 0 without a hit
    - MAP@K = sum_{r in H} |{h in H: h <= r}| / r over |T|

    Args:
        ranked: int `[B, W]`, item codes without repeats, best first; -1 for none.
        targets: the items to be found for each user code.
        users: integer codes `[B]`, the rows of `targets`.
        ks: cut-offs, each in 1..W.

    Returns:
        dict of "recall@K", "ndcg@K", "hit_rate@K", "mrr@K" and "map@K" for each K to float64 `[n]`, of the n
        users with a target, in their order.

    Raises:
        ValueError: if a cut-off is not in 1..W.

    Example:
        >>> targets = Groups(np.array([0, 2, 2]), np.array([3, 7]))
        >>> values = user_metrics(np.array([[7, 1, 3], [3, 7, 1]]), targets, np.array([0, 1]), ks=[3])
        >>> {name: value.round(4).tolist() for name, value in values.items()}
        {'recall@3': [1.0], 'ndcg@3': [0.9197], 'hit_rate@3': [1.0], 'mrr@3': [1.0], 'map@3': [0.8333]}
    """
    ranked, users = np.asarray(ranked), np.asarray(users)
    check_cutoffs(ks, ranked.shape[1])
    starts = range(0, max(len(users), 1), _CHUNK)
    parts = [
        _of_some(ranked[start : start + _CHUNK], targets, users[start : start + _CHUNK], ks)
        for start in starts
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _of_some(
    ranked: np.ndarray, targets: Groups, users: np.ndarray, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    row, item = pairs_of(targets, users)
    counts = np.bincount(row, minlength=len(users))
    hits = _hits(ranked, row, item)[counts > 0]
    counts = counts[counts > 0]
    ranks = np.arange(1, ranked.shape[1] + 1)
    gains = 1 / np.log2(ranks + 1)
    ideal = np.cumsum(gains)
    precision = np.where(hits, np.cumsum(hits, axis=1) / ranks, 0)
    values: dict[str, np.ndarray] = {}
    for k in ks:
        found = np.asarray(hits[:, :k].any(axis=1))
        values[f"recall@{k}"] = hits[:, :k].sum(axis=1) / counts
        values[f"ndcg@{k}"] = np.divide(hits[:, :k] @ gains[:k], ideal[np.minimum(k, counts) - 1])
        values[f"hit_rate@{k}"] = found.astype(np.float64)
        values[f"mrr@{k}"] = np.divide(found, hits[:, :k].argmax(axis=1) + 1)
        values[f"map@{k}"] = precision[:, :k].sum(axis=1) / counts
    return values


def shown_metrics(
    ranked: np.ndarray, ks: Sequence[int], n_items: int, popularity: np.ndarray | None = None
) -> dict[str, float]:
    """Metrics of what all users are shown, whatever their targets.

    - coverage@K: the share of the catalogue that stands in somebody's first K places.
    - popular@K: the share of all filled first K places that hold one of the 10 % of items with the highest
      popularity (rounded up, ties by lower code; own choice).

    Args:
        ranked: int `[B, W]`, item codes, best first; -1 for none.
        ks: cut-offs, each in 1..W.
        n_items: number of items N in the catalogue.
        popularity: float `[N]`, e.g. of `popularity_scores`; without it there is no popular@K.

    Returns:
        dict of "coverage@K" and "popular@K" for each K; 0.0 when nothing is shown.

    Raises:
        ValueError: if a cut-off is not in 1..W.

    Example:
        >>> shown_metrics(
        ...     np.array([[0, 2], [0, -1]]), ks=[1, 2], n_items=4, popularity=np.array([9, 1, 1, 1])
        ... )
        {'coverage@1': 0.25, 'popular@1': 1.0, 'coverage@2': 0.5, 'popular@2': 0.6666666666666666}
    """
    check_cutoffs(ks, ranked.shape[1])
    metrics: dict[str, float] = {}
    for k in ks:
        places = ranked[:, :k]
        shown = np.bincount(places[places >= 0], minlength=n_items)
        metrics[f"coverage@{k}"] = float(np.count_nonzero(shown) / max(n_items, 1))
        if popularity is not None:
            head = np.argsort(-popularity, kind="stable")[: int(np.ceil(HEAD * n_items))]
            metrics[f"popular@{k}"] = float(shown[head].sum() / max(shown.sum(), 1))
    return metrics


def means(values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The means over users, and their number as "users"; all 0 when there are none.

    Example:
        >>> means({"recall@5": np.array([0.0, 1.0, 0.5])})
        {'recall@5': 0.5, 'users': 3}
    """
    users = max((len(value) for value in values.values()), default=0)
    return {name: float(value.mean()) if users else 0.0 for name, value in values.items()} | {"users": users}


def evaluate(
    scores: Scores,
    targets: Groups,
    seen: Groups | None,
    ks: Sequence[int] = (50,),
    *,
    memory_mb: float = MEMORY_MB,
) -> dict[str, Any]:
    """Ranks the whole catalogue for every user with a target, and measures the ranking.

    Args:
        scores: what ranks: vectors `(users [U, D], items [N, D])`, scored by inner product in float32; or a
            function of integer user codes `[B]` that gives `[B, N]`, in which -inf leaves an item out; or a
            `Shortlist`.
        targets: the items to be found for each of the U user codes.
        seen: items to leave out for each user code (those of the training events), or None.
        ks: cut-offs K, each at least 1.
        memory_mb: bound in megabytes of the working memory, see `top_k`.

    Returns:
        the means of `user_metrics`, the numbers of "users" with a target and of those "skipped" without. If
        nobody has one, nothing was measured and the other values are 0.0.

    Raises:
        ValueError: as `rank` and `user_metrics`.

    Example:
        >>> targets = Groups(np.array([0, 1]), np.array([2]))
        >>> results = evaluate(lambda users: np.array([[3.0, 2.0, 1.0]]), targets, seen=None, ks=[3])
        >>> results["ndcg@3"], results["users"], results["skipped"]
        (0.5, 1, 0)
    """
    check_cutoffs(ks)
    users = np.flatnonzero(targets.counts)
    ranked = rank(scores, seen, users, max(ks), memory_mb=memory_mb)
    results = means(user_metrics(ranked, targets, users, ks))
    return results | {"skipped": len(targets.counts) - len(users)}


def check_cutoffs(ks: Sequence[int], width: int | None = None) -> None:
    """Raises a ValueError unless there are cut-offs, each at least 1 and at most the ranked `width`."""
    if not ks or not all(1 <= k <= (k if width is None else width) for k in ks):
        bound = ">= 1" if width is None else f"in 1..{width}, the ranked width"
        raise ValueError(f"`ks` should be one or more cut-offs {bound}. Received: ks={list(ks)}.")


def _hits(ranked: np.ndarray, row: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Bool `[B, W]`: whether the ranked item is a target of the row's user, given the (row, item) targets."""
    width = max(item.max(initial=0), ranked.max(initial=0)) + np.int64(1)
    targets = row * width + item
    if not (targets[1:] > targets[:-1]).all():
        raise ValueError("The items of each user should ascend, each once. Received: `targets` that do not.")
    pairs = np.arange(len(ranked))[:, None] * width + ranked
    at = np.minimum(np.searchsorted(targets, pairs), max(len(targets) - 1, 0))
    return (targets[at] == pairs) & (ranked >= 0) if len(targets) else np.zeros(ranked.shape, bool)
