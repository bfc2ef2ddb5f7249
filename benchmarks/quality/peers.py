"""Peers that share nothing with CSMF but the split: rules, factorisations and item-item models.

A model has no epochs to choose, so it is fitted on all known events, the validation part included: to its
advantage. Where there are several settings, the best by validation is taken, fitted on the training part.
"""

import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import implicit.als
import implicit.bpr
import implicit.nearest_neighbours
import implicit.utils
import numpy as np
import scipy.linalg
import scipy.sparse
from threadpoolctl import threadpool_limits

from benchmarks.quality.task import Ranked, Task
from csmf_tf.data.log import EventLog
from csmf_tf.evaluation.baselines import counting, popularity_scores, static
from csmf_tf.evaluation.ranking import Scores

Fit = Callable[[scipy.sparse.csr_matrix, Any, Task], Scores]

ALS_SETTINGS = [
    {"alpha": 5.0, "regularization": 0.05},
    {"alpha": 20.0, "regularization": 0.05},
    {"alpha": 20.0, "regularization": 50.0},
]
BPR_SETTINGS = [{"learning_rate": 0.05, "regularization": 0.01, "iterations": 60}]
EASE_SETTINGS = [200.0]
KNN_SETTINGS = [20, 50, 200]


def interactions(log: EventLog, how: str, objective: int = 0) -> scipy.sparse.csr_matrix:
    """Users by items, float32 `[U, N]`.

    Args:
        log: the events.
        how: "own": 1 for an event of the objective or a later one; "union": 1 for any event; "weighted": the
            sum over a pair's behaviours of 1, 2, 4 and so on down the funnel.
        objective: its place in the funnel, for "own".
    """
    if how == "own":
        log = log.take(log.behavior >= objective)
    behaviors = len(log.funnel)
    distinct = np.unique(log.pairs * behaviors + (log.behavior if how == "weighted" else 0))
    pairs, values = distinct // behaviors, 2.0 ** (distinct % behaviors)
    at = np.divmod(pairs, len(log.items))
    shape = len(log.users), len(log.items)
    return scipy.sparse.csr_matrix((values, at), shape, np.float32)


def als(matrix: scipy.sparse.csr_matrix, setting: dict[str, float], task: Task) -> Scores:
    """Implicit ALS; confidence is 1 + alpha times the matrix."""
    settings = {"iterations": 12, "random_state": task.seed, "num_threads": _threads(), **setting}
    # With BLAS threads of its own, implicit is slow, and says so.
    with threadpool_limits(1, "blas"):
        model = implicit.als.AlternatingLeastSquares(task.dim, **settings)
        model.fit(matrix, show_progress=False)
    return model.user_factors, model.item_factors


def bpr(matrix: scipy.sparse.csr_matrix, setting: dict[str, float], task: Task) -> Scores:
    """Bayesian personalised ranking; one coordinate is the items' bias. Only one thread repeats itself."""
    model = implicit.bpr.BayesianPersonalizedRanking(
        task.dim - 1, random_state=task.seed, num_threads=1, **setting
    )
    model.fit(matrix, show_progress=False)
    return model.user_factors, model.item_factors


def ease(matrix: scipy.sparse.csr_matrix, strength: float, task: Task | None = None) -> Scores:
    """EASE (Steck, 2019): scores X - X P / diag P with P = (X' X + strength)^-1.

    With fewer users than items the inverse is taken on their side:
    P = (1 - X' (X X' + strength)^-1 X) / strength.
    """
    users, items = matrix.shape
    if items <= users:
        inverse = _inverse((matrix.T @ matrix).toarray(), strength)
        diagonal = inverse.diagonal().copy()
        return lambda rows: matrix[rows].toarray() - (matrix[rows] @ inverse) / diagonal
    kernel = (matrix @ matrix.T).tocsr()
    inverse = _inverse(kernel.toarray(), strength)
    by_item = matrix.T.tocsr()
    diagonal = 1 - np.asarray(by_item.multiply(by_item @ inverse).sum(axis=1)).ravel()

    def scores(rows: np.ndarray) -> np.ndarray:
        own = matrix[rows].toarray()
        return own - (own - (kernel[rows] @ inverse) @ matrix) / diagonal

    return scores


def knn(matrix: scipy.sparse.csr_matrix, neighbours: int, task: Task | None = None) -> Scores:
    """Item-kNN: a user's row times the cosines of each item's nearest neighbours."""
    model = implicit.nearest_neighbours.CosineRecommender(neighbours, num_threads=_threads())
    with warnings.catch_warnings():
        # It weighs the matrix in another format than it asks for.
        warnings.simplefilter("ignore", implicit.utils.ParameterWarning)
        model.fit(matrix, show_progress=False)
    return lambda rows: (matrix[rows] @ model.similarity).toarray()


def fitted(fit: Fit, settings: Sequence[Any], how: str, task: Task) -> tuple[dict[str, Scores], list[Any]]:
    """Scores of each objective, and the settings that were chosen for them."""
    split, names = task.run.prepared.split, list(task.funnel)
    known = split.train.append(split.validation)
    parts = [[name] for name in names] if how == "own" else [names]
    scores, taken = {}, []
    for place, part in enumerate(parts):
        train = interactions(split.train, how, place)

        def judged(setting, train=train, part=part):
            return task.judge(dict.fromkeys(part, fit(train, setting, task)))

        taken.append(max(settings, key=judged) if len(settings) > 1 else settings[0])
        scores |= dict.fromkeys(part, fit(interactions(known, how, place), taken[-1], task))
    return scores, taken


def model(fit: Fit, settings: Sequence[Any], indexed: bool, how: str, task: Task) -> Ranked:
    """One model for all objectives, or for "own" one for each."""
    scores, taken = fitted(fit, settings, how, task)
    indexes = (len(task.funnel) if how == "own" else 1) if indexed else 0
    return Ranked(scores, indexes, task.dim if indexed else 0, notes={"settings": taken})


def popularity(of_any: bool, task: Task) -> Ranked:
    """The items with most users: those with the objective's behaviour, or with any."""
    known = task.test.known
    behaviors = [None if of_any else place for place in range(len(task.funnel))]
    scores = [popularity_scores(known.items_of_users(place), len(known.items)) for place in behaviors]
    vectors = [static(one, len(known.users)) for one in scores]
    return Ranked(dict(zip(task.funnel, vectors, strict=True)), 0, 0)


def counting_rule(task: Task) -> Ranked:
    """Shows again what a user has met: it finds nothing new."""
    known = task.test.known
    return Ranked({name: counting(known, place) for place, name in enumerate(task.funnel)}, 0, 0)


def _inverse(gram: np.ndarray, strength: float) -> np.ndarray:
    """(gram + strength)^-1 in place, float32; Cholesky takes half the time and memory of a plain inverse."""
    gram[np.diag_indices_from(gram)] += strength
    factor, wrong = scipy.linalg.lapack.spotrf(gram.T, lower=1, overwrite_a=1)
    inverse, wrong_too = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    if wrong or wrong_too:
        raise ValueError(f"`strength` should make the matrix positive definite. Received: {strength}")
    lower = np.tril(inverse)
    return lower + np.tril(lower, -1).T


def _threads() -> int:
    return len(os.sched_getaffinity(0))


METHODS: dict[str, Callable[[Task], Ranked]] = {
    "popularity": partial(popularity, False),
    "popularity_any": partial(popularity, True),
    "counting": counting_rule,
    **{f"ials_{how}": partial(model, als, ALS_SETTINGS, True, how) for how in ("own", "union", "weighted")},
    **{f"bpr_{how}": partial(model, bpr, BPR_SETTINGS, True, how) for how in ("own", "union")},
    **{
        f"ease_{how}": partial(model, ease, EASE_SETTINGS, False, how) for how in ("own", "union", "weighted")
    },
    **{f"knn_{how}": partial(model, knn, KNN_SETTINGS, False, how) for how in ("own", "union", "weighted")},
}
"""Name -> method."""

SEEDLESS = {name for name in METHODS if not name.startswith(("ials", "bpr"))}
"""Methods that draw nothing."""
