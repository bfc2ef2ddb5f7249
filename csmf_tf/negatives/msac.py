"""Negatives by clusters of items: modality-aware and semantic (MSAC of ESANS)."""

import numpy as np

from csmf_tf.negatives.clusters import Clusters
from csmf_tf.negatives.distinct import draw_distinct


class ClusterSampler:
    """Draws easy and hard negatives of positive items from their two-level clusters.

    Easy: `clusters` level-1 clusters other than the positive's, each with probability `easy` (with repeats),
    and `anchors` different items of each. Hard: up to `hard` different items of the positive's level-1
    cluster that are not in its level-2 cluster, so that near-duplicates are left out (ESANS, WWW 2025).
    A draw costs the same whatever the number of items.

    Args:
        clusters: the `Clusters` of all items; no level-1 cluster smaller than `anchors`.
        count: `clusters`, how many level-1 clusters a row draws from.
        anchors: easy negatives of each.
        hard: most hard negatives a row.

    Raises:
        ValueError: when a level-1 cluster is smaller than `anchors`.

    Example:

    >>> level1, level2 = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 2, 2])
    >>> clusters = Clusters(level1, level2, np.array([[0.0, 1.0], [1.0, 0.0]]), np.eye(2), np.eye(2)[level1])
    >>> sampler = ClusterSampler(clusters, count=1, anchors=2, hard=1)
    >>> items, probability = sampler.draw(np.array([0]), np.random.default_rng(0))
    >>> sorted(items[0, :2].tolist()), int(items[0, 2]) in (2, 3)
    ([4, 5], True)
    >>> (3 * probability).round(3).tolist()  # how often a row of three draws holds each
    [[1.0, 1.0, 0.5]]
    """

    def __init__(self, clusters: Clusters, count: int, anchors: int, hard: int):
        self._easy = np.asarray(clusters.easy, np.float64)
        # All rows in one ascending array, so that a draw is one search.
        thresholds = np.cumsum(self._easy, axis=1)
        thresholds /= thresholds[:, -1:]
        self._thresholds = (thresholds + np.arange(len(thresholds))[:, np.newaxis]).ravel()
        self._last = len(thresholds) - 1 - np.argmax(self._easy[:, ::-1] > 0, axis=1)
        self._count, self._anchors, self._hard = count, anchors, hard
        self._level1, self._level2 = (np.asarray(of, np.int64) for of in (clusters.level1, clusters.level2))
        # Sorted so, both levels are runs.
        self._order = np.lexsort((self._level2, self._level1)).astype(np.int32)
        self._sizes1, self._sizes2 = np.bincount(self._level1), np.bincount(self._level2)
        self._starts1 = np.cumsum(self._sizes1) - self._sizes1
        self._starts2 = np.zeros(len(self._sizes2), np.int64)
        found, first = np.unique(self._level2[self._order], return_index=True)
        self._starts2[found] = first
        if self._sizes1.min() < anchors:
            raise ValueError(
                f"Level-1 clusters should have at least `anchors` items. Received: anchors={anchors}, and a "
                f"cluster of {self._sizes1.min()}; lower `anchors` or `level1`"
            )

    @property
    def draws(self) -> int:
        """Most negatives that a row draws."""
        return self._count * self._anchors + self._hard

    def draw(self, positive: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draws the negatives of some positive items.

        Args:
            positive: int [R] item codes.
            rng: the random generator.

        Returns:
            int32 [R, count * anchors + hard] item codes, the easy ones first, cluster by cluster; -1 fills
            rows with fewer hard ones. And float64 of the same shape: the probability with which one draw of
            the row, of whatever kind, is that item; 0 where there is none.
        """
        own1, own2 = self._level1[positive], self._level2[positive]
        easy, easy_expected = self._draw_easy(own1, rng)
        hard, hard_expected = self._draw_hard(own1, own2, rng)
        expected = np.concatenate([easy_expected, hard_expected], axis=1)
        return np.concatenate([easy, hard], axis=1), expected / self.draws

    def _draw_easy(self, own, rng):
        """Items [R, count * anchors], and how many times a row is expected to hold each."""
        rows, count = len(own), self._count
        places = np.searchsorted(self._thresholds, own + rng.random((count, rows)), side="right")
        # Rounding may carry a draw beyond its row.
        drawn = np.minimum(places - own * len(self._last), self._last[own]).T
        places = draw_distinct(self._sizes1[drawn.ravel()], self._anchors, rng).reshape(rows, count, -1)
        items = self._order[self._starts1[drawn][..., np.newaxis] + places]
        share = self._anchors / self._sizes1[drawn]
        expected = count * self._easy[own[:, np.newaxis], drawn] * share
        return items.reshape(rows, -1), np.repeat(expected, self._anchors, axis=1)

    def _draw_hard(self, own1, own2, rng):
        """Items [R, hard], -1 pads, and how many times a row is expected to hold each."""
        others = self._sizes1[own1] - self._sizes2[own2]
        places = draw_distinct(others, self._hard, rng)
        found = places >= 0
        # The positive's own level-2 cluster is a gap in the run of its level-1 cluster.
        place = self._starts1[own1][:, np.newaxis] + places
        place += np.where(place >= self._starts2[own2][:, np.newaxis], self._sizes2[own2][:, np.newaxis], 0)
        items = np.where(found, self._order[np.where(found, place, 0)], -1).astype(np.int32)
        expected = np.minimum(self._hard / np.maximum(others, 1), 1.0)
        return items, np.where(found, expected[:, np.newaxis], 0.0)
