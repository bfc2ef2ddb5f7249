"""k-means in which no cluster is smaller than asked."""

import warnings

import numpy as np
from threadpoolctl import threadpool_limits

# Where whole passes over the points begin to take minutes.
_MINI_BATCHES_FROM = 50_000
_STARTS = 4
_ROWS = 65_536


def kmeans(points: np.ndarray, count: int, min_size: int = 1, least: int = 1, seed: int = 0) -> np.ndarray:
    """Labels of k-means clusters, none of them smaller than `min_size`.

    As long as one is, the smallest is dissolved: its points go to the nearest of the remaining centres (own
    choice). Should fewer than `least` = 2 clusters be left, they are two halves along the first principal
    axis of the points, cut at the widest gap that leaves both large enough (own choice).

    Args:
        points: float32 [n, d].
        count: the number of clusters, at most; never more than `n // min_size`.
        min_size: the fewest points of a cluster.
        least: the fewest clusters, 1 or 2.
        seed: of the first centres.

    Returns:
        int32 [n], numbered from 0 in order of first appearance; the same at each call.

    Raises:
        ValueError: if there are fewer than `least * min_size` points.

    Example:

    >>> points = np.array([[0], [0.1], [5], [5.1], [5.2], [9]], np.float32)
    >>> kmeans(points, count=3, min_size=2).tolist()
    [0, 0, 1, 1, 1, 1]
    """
    if len(points) < least * min_size:
        raise ValueError(
            f"`points` should be at least {least * min_size}, {min_size} for each of {least} clusters. "
            f"Received: {len(points)} points"
        )
    labels = np.zeros(len(points), np.int32)
    count = min(count, len(points) // min_size)
    if count > 1:
        labels, centres = _fitted(points, count, seed)
        labels = _dissolved(points, labels, centres, min_size)
    if least > 1 and len(np.unique(labels)) == 1:
        labels = _halves(points, min_size)
    return _numbered(labels)


def _fitted(points, count, seed):
    """Labels [n] and centres [count, d]; some of these may have no points."""
    # Takes over a second, which only what makes clusters should wait for.
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning

    algorithm = KMeans if len(points) < _MINI_BATCHES_FROM else MiniBatchKMeans
    with warnings.catch_warnings(), threadpool_limits(1, user_api="openmp"):
        # Fewer distinct points than clusters: the empty clusters are dissolved.
        warnings.simplefilter("ignore", ConvergenceWarning)
        # Threads would add up in another order each time.
        found = algorithm(count, n_init=_STARTS, random_state=seed).fit(points)
    return found.labels_, found.cluster_centers_


def _dissolved(points, labels, centres, min_size):
    labels = labels.copy()
    sizes = np.bincount(labels, minlength=len(centres))
    remaining = sizes > 0
    while True:
        smallest = np.argmin(np.where(remaining, sizes, len(points) + 1))
        if sizes[smallest] >= min_size:
            return labels
        remaining[smallest] = False
        mine = np.flatnonzero(labels == smallest)
        kept = np.flatnonzero(remaining)
        labels[mine] = kept[_nearest(points[mine], centres[kept])]
        sizes = np.bincount(labels, minlength=len(centres))


def _nearest(points, centres):
    """The nearest centre of each point, a part of the points at a time."""
    squares = np.sum(np.square(centres, dtype=np.float64), axis=1)
    parts = (points[at : at + _ROWS].astype(np.float64) for at in range(0, len(points), _ROWS))
    return np.concatenate([np.argmin(squares - 2 * part @ centres.T, axis=1) for part in parts])


def _halves(points, min_size):
    centred = points - points.mean(axis=0, dtype=np.float64)
    axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
    order = np.argsort(centred @ axis, kind="stable")
    gaps = np.diff((centred @ axis)[order])[min_size - 1 : len(points) - min_size]
    # Of equal gaps the one nearest to the middle: the points may all be the same.
    widest = np.flatnonzero(gaps >= gaps.max())
    cut = min_size + widest[np.argmin(np.abs(widest - (len(gaps) - 1) / 2))]
    labels = np.zeros(len(points), np.int32)
    labels[order[cut:]] = 1
    return labels


def _numbered(labels):
    _, first, codes = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[codes].astype(np.int32)
