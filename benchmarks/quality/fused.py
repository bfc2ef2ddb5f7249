"""Rankings for all objectives at once: curves over weightings, and who lies above whom."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from benchmarks.quality.task import Ranked
from csmf_tf.evaluation.funnel import FunnelEvaluator
from csmf_tf.evaluation.ranking import Scores, Shortlist

STEPS = 10


def weightings(objectives: int, steps: int = STEPS) -> np.ndarray:
    """All weights in steps of 1 / `steps` that sum to 1, float64 `[W, K]`: 66 for three objectives."""

    def shared(left: int, places: int) -> Iterator[tuple[int, ...]]:
        if places == 1:
            yield (left,)
            return
        for first in range(left, -1, -1):
            yield from ((first, *rest) for rest in shared(left - first, places - 1))

    return np.array(list(shared(steps, objectives))) / steps


def curve(ranked: Ranked, sample: FunnelEvaluator) -> np.ndarray | None:
    """Recall of each objective by the fused ranking of each of the `weightings`, float64 `[W, K]`.

    None where not all items are ranked, and `[1, K]` where one ranking serves all objectives. A method that
    answers a request by one search is ranked by that search. Of the others the results of the K searches are
    merged: by the weighted sum of their scores, each standardised over the catalogue for its user.
    """
    scores = list(ranked.scores.values())
    if any(isinstance(one, Shortlist) for one in scores):
        return None
    if all(one is scores[0] for one in scores):
        return _point(scores[0], sample)[None]
    fused = ranked.fused or merged(scores, _users_of(sample))
    return np.array([_point(fused(weights), sample) for weights in weightings(len(scores))])


def _point(scores, sample):
    return np.array([found.values[sample.metric].mean() for found in sample.together(scores).values()])


def merged(scores: Sequence[Scores], users: np.ndarray) -> Callable[[np.ndarray], Scores]:
    """Function of weights `[K]` that gives the weighted sum of standardised scores, for some users.

    A user's mean score shifts all items alike, so of vectors it is enough to divide those of the user by the
    standard deviation of the scores, sqrt(u' Cov(V) u), and to put the objectives' vectors side by side.
    """
    if all(isinstance(one, tuple) for one in scores):
        queries = [u / _deviations(u, v)[:, None] for u, v in scores]
        items = np.concatenate([v for _, v in scores], axis=1)
        return lambda weights: (
            np.concatenate([w * q for w, q in zip(weights, queries, strict=True)], axis=1),
            items,
        )
    dense = [_dense(one, users) for one in scores]
    dense = [(one - one.mean(axis=1, keepdims=True)) / _not_zero(one.std(axis=1))[:, None] for one in dense]
    row_of = np.zeros(users.max() + 1, np.int64)
    row_of[users] = np.arange(len(users))

    def weighed(weights: np.ndarray) -> Scores:
        total = sum(np.float32(w) * one for w, one in zip(weights, dense, strict=True))
        return lambda some: total[row_of[some]]

    return weighed


def above(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Which points lie above the Pareto front of the others: dominated by none, dominating some of it.

    One point dominates another if it is as high in all objectives and higher in at least one.

    Args:
        points: float `[P, K]`.
        others: float `[Q, K]`.

    Returns:
        bool `[P]`.
    """
    front = others[~_dominated(others, others).any(axis=1)]
    return ~_dominated(points, others).any(axis=1) & _dominated(front, points).any(axis=0)


def fronts(curves: Mapping[str, np.ndarray], candidate: str, others: Sequence[str]) -> dict[str, object]:
    """What of the candidate's curve lies above the front of the others' curves."""
    points, names = curves[candidate], [name for name in others if name in curves]
    lifted = above(points, np.concatenate([curves[name] for name in names])) if names else np.zeros(0, bool)
    weights = weightings(points.shape[1])
    return {
        "above": int(lifted.sum()),
        "of": len(points),
        "points": [
            {"weights": weights[at].tolist(), "recall": points[at].round(4).tolist()}
            for at in np.flatnonzero(lifted)
        ],
    }


def _dominated(points, others):
    """Bool `[P, Q]`: whether point p is dominated by other q."""
    higher = others[None] >= points[:, None]
    return higher.all(axis=2) & (others[None] > points[:, None]).any(axis=2)


def _users_of(sample):
    return np.flatnonzero(np.sum([targets.counts for targets in sample.targets.values()], axis=0))


def _dense(scores, users):
    return (
        scores[0][users] @ scores[1].T if isinstance(scores, tuple) else np.asarray(scores(users), np.float32)
    )


def _deviations(users, items):
    covariance = np.cov(items.astype(np.float64), rowvar=False, bias=True).reshape(items.shape[1], -1)
    variance = np.einsum("ud,de,ue->u", users, covariance, users, optimize=True)
    return _not_zero(np.sqrt(np.maximum(variance, 0))).astype(np.float32)


def _not_zero(values):
    return np.where(values > 0, values, 1)
