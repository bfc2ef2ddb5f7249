"""Recall@K and NDCG@K over the full catalogue, with the items that a user has already met left out."""

from collections.abc import Callable, Sequence

import numpy as np

from csmf_tf.data.groups import Groups

# Scores of one chunk of users, in cells: 64 MB of float32, whatever the size of the catalogue.
_CELLS = 1 << 24

UserScores = Callable[[np.ndarray], np.ndarray]


def top_k(
    user_vectors: np.ndarray, item_vectors: np.ndarray, seen: Groups | None, users: np.ndarray, k: int
) -> np.ndarray:
    """The k items with the largest inner product for each user, computed in float32 by chunks of users.

    Args:
        user_vectors: float `[B, D]`, one row per entry of `users`.
        item_vectors: float `[N, D]`.
        seen: items to leave out for each user code, or None.
        users: integer codes `[B]`, the rows of `seen`.
        k: number of items.

    Returns:
        int32 `[B, k]`: item codes, best first, ties by lower code; -1 where fewer than k items are left.

    Raises:
        ValueError: if shapes do not match, k < 1, a score is NaN, or a code is out of range.

    Example:
        >>> seen = Groups(np.array([0, 1]), np.array([1]))
        >>> top_k(
        ...     np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [9.0, 0.0], [2.0, 0.0]]), seen, np.array([0]), 3
        ... )
        array([[ 2,  0, -1]], dtype=int32)
    """
    user_vectors, item_vectors = np.asarray(user_vectors, np.float32), np.asarray(item_vectors, np.float32)
    users = np.asarray(users)
    if user_vectors.shape != (len(users), *item_vectors.shape[1:]) or item_vectors.ndim != 2:
        raise ValueError(
            f"`user_vectors` and `item_vectors` should be [{len(users)} users, D] and [N, D]. "
            f"Received: shapes {user_vectors.shape} and {item_vectors.shape}."
        )
    return _rank(lambda rows: user_vectors[rows] @ item_vectors.T, len(item_vectors), seen, users, k)


def recall_ndcg(
    ranked: np.ndarray, targets: Groups, users: np.ndarray, ks: Sequence[int]
) -> dict[str, float]:
    """Means of Recall@K and NDCG@K over the users with at least one target.

    For a user with the targets T and the ranked items i_1, i_2, ..., and with the ranks of hits
    H = {r <= K: i_r in T}: Recall@K = |H| / |T| (own choice: some divide by min(K, |T|)), and
    NDCG@K = sum_{r in H} 1 / log2(r + 1) over its largest value, sum_{r <= min(K, |T|)} 1 / log2(r + 1).

    Args:
        ranked: int `[B, W]`, item codes without repeats, best first; -1 for none.
        targets: the items to be found for each user code.
        users: integer codes `[B]`, the rows of `targets`.
        ks: cut-offs, each in 1..W.

    Returns:
        `{"recall@K": float, "ndcg@K": float, ..., "users": int}` in the order of `ks`; "users" counts those
        with a target. If it is 0, nothing was measured and the other values are 0.0.

    Raises:
        ValueError: if a cut-off is not in 1..W.

    Example:
        >>> targets = Groups(np.array([0, 2, 2]), np.array([3, 7]))
        >>> recall_ndcg(np.array([[7, 1], [3, 7]]), targets, np.array([0, 1]), ks=[1, 2])
        {'recall@1': 0.5, 'ndcg@1': 1.0, 'recall@2': 0.5, 'ndcg@2': 0.6131471927654584, 'users': 1}
    """
    ranked, users = np.asarray(ranked), np.asarray(users)
    if not all(1 <= k <= ranked.shape[1] for k in ks):
        raise ValueError(
            f"`ks` should be in 1..{ranked.shape[1]}, the ranked width. Received: ks={list(ks)}."
        )
    counts = _counts(targets, users)
    ranked, users, counts = ranked[counts > 0], users[counts > 0], counts[counts > 0]
    hits = _hits(ranked, targets, users)
    discounts = 1 / np.log2(np.arange(2, ranked.shape[1] + 2))
    ideal = np.cumsum(discounts)
    results: dict[str, float] = {}
    for k in ks:
        recall = hits[:, :k].sum(axis=1) / counts
        ndcg = hits[:, :k] @ discounts[:k] / ideal[np.minimum(k, counts) - 1]
        results[f"recall@{k}"] = float(recall.mean()) if len(users) else 0.0
        results[f"ndcg@{k}"] = float(ndcg.mean()) if len(users) else 0.0
    return results | {"users": len(users)}


def evaluate(
    scores: UserScores | tuple[np.ndarray, np.ndarray],
    targets: Groups,
    seen: Groups | None,
    ks: Sequence[int] = (50,),
) -> dict[str, float]:
    """Ranks the whole catalogue for every user with a target, and measures the ranking.

    Args:
        scores: `(user_vectors [U, D], item_vectors [N, D])`, scored by inner product in float32; or a
            function of integer user codes `[B]` that gives `[B, N]`, in which -inf leaves an item out.
        targets: the items to be found for each of the U user codes.
        seen: items to leave out for each user code (those of the training events), or None.
        ks: cut-offs K, each at least 1.

    Returns:
        As `recall_ndcg`.

    Raises:
        ValueError: as `top_k` and `recall_ndcg`.

    Example:
        >>> targets = Groups(np.array([0, 1]), np.array([2]))
        >>> evaluate(lambda users: np.array([[3.0, 2.0, 1.0]]), targets, seen=None, ks=[1, 3])
        {'recall@1': 0.0, 'ndcg@1': 0.0, 'recall@3': 1.0, 'ndcg@3': 0.5, 'users': 1}
    """
    users = np.flatnonzero(targets.counts)
    k = max(ks)
    if isinstance(scores, tuple):
        user_vectors, item_vectors = scores
        ranked = top_k(np.asarray(user_vectors)[users], item_vectors, seen, users, k)
    elif len(users):
        # The ranking writes into the scores, so it takes a copy of what the caller may still hold.
        ranked = _rank(
            lambda rows: np.array(scores(users[rows]), np.float64), scores(users[:1]).shape[1], seen, users, k
        )
    else:
        ranked = np.empty((0, k), np.int32)
    return recall_ndcg(ranked, targets, users, ks)


def evaluate_static(
    scores: np.ndarray, targets: Groups, seen: Groups | None, ks: Sequence[int] = (50,)
) -> dict[str, float]:
    """Measures a ranking that is the same for all users, but for the items that each has seen.

    Args:
        scores: float `[N]`, e.g. of `popularity_scores`.
        targets: as in `evaluate`.
        seen: as in `evaluate`.
        ks: as in `evaluate`.

    Returns:
        As `recall_ndcg`.

    Raises:
        ValueError: as `evaluate`.

    Example:
        >>> targets = Groups(np.array([0, 1, 2]), np.array([0, 1]))
        >>> evaluate_static(np.array([5.0, 8.0]), targets, seen=None, ks=[1])
        {'recall@1': 0.5, 'ndcg@1': 0.5, 'users': 2}
    """
    scores = np.asarray(scores)
    return evaluate(lambda users: np.broadcast_to(scores, (len(users), len(scores))), targets, seen, ks)


def popularity_scores(users_items: Groups, n_items: int) -> np.ndarray:
    """The number of distinct users of each item, the baseline that every model should beat.

    Args:
        users_items: the items of each user in the training events.
        n_items: number of items N in the catalogue.

    Returns:
        float64 `[N]`.

    Example:
        >>> popularity_scores(Groups(np.array([0, 2, 3]), np.array([0, 2, 2])), n_items=4)
        array([1., 0., 2., 0.])
    """
    return np.bincount(users_items.items, minlength=n_items).astype(np.float64)


def _rank(
    score: Callable[[slice], np.ndarray], n_items: int, seen: Groups | None, users: np.ndarray, k: int
) -> np.ndarray:
    """Ranks chunk by chunk; `score` gives a fresh array `[rows, n_items]` for a slice of `users`."""
    if k < 1:
        raise ValueError(f"`k` should be an integer >= 1. Received: k={k}.")
    if seen is not None and seen.items.max(initial=-1) >= n_items:
        raise ValueError(
            f"`seen` should hold codes of the {n_items} items that are scored. Received: {seen.items.max()}."
        )
    ranked = np.full((len(users), k), -1, np.int32)
    step = max(1, _CELLS // max(n_items, 1))
    for start in range(0, len(users), step):
        rows = slice(start, start + step)
        scores = score(rows)
        if np.isnan(scores.min(initial=0)):
            raise ValueError(
                "Scores should be numbers. Received: NaN; check the vectors for NaN and infinity."
            )
        if seen is not None:
            scores[_pairs(seen, users[rows])] = -np.inf
        ranked[rows, :n_items] = _best(scores, k)
    return ranked


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """The min(k, N) best items of each row, ties by lower item; -1 in place of those with score -inf."""
    width = min(k, scores.shape[1])
    kth = np.partition(scores, -width, axis=1)[:, -width, None]
    chosen = scores >= kth
    crowded = np.count_nonzero(chosen, axis=1) > width
    if crowded.any():
        above = scores[crowded] > kth[crowded]
        ties = chosen[crowded] & ~above
        room = width - np.count_nonzero(above, axis=1)[:, None]
        chosen[crowded] = above | (ties & (np.cumsum(ties, axis=1, dtype=np.int32) <= room))
    items = np.nonzero(chosen)[1].reshape(-1, width)
    order = np.argsort(-np.take_along_axis(scores, items, axis=1), axis=1, kind="stable")
    items = np.take_along_axis(items, order, axis=1)
    return np.where(np.take_along_axis(scores, items, axis=1) > -np.inf, items, -1)


def _hits(ranked: np.ndarray, targets: Groups, users: np.ndarray) -> np.ndarray:
    """Bool `[B, W]`: whether the ranked item is a target of the row's user."""
    row, item = _pairs(targets, users)
    width = max(targets.items.max(initial=0), ranked.max(initial=0)) + np.int64(1)
    pairs = np.arange(len(users))[:, None] * width + ranked
    return np.isin(pairs, row * width + item) & (ranked >= 0)


def _counts(groups: Groups, users: np.ndarray) -> np.ndarray:
    if len(users) and users.max() >= len(groups.offsets) - 1:
        raise ValueError(f"`users` should be codes below {len(groups.offsets) - 1}. Received: {users.max()}.")
    return groups.offsets[users + 1] - groups.offsets[users]


def _pairs(groups: Groups, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All (row, item) pairs of the users, in order; row is the position in `users`."""
    counts = _counts(groups, users)
    row = np.repeat(np.arange(len(users)), counts)
    within = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, groups.items[groups.offsets[users][row] + within]
