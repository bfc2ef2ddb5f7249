"""The negatives of each batch of the sampled softmax, with the correction of what is drawn."""

from typing import Any

import numpy as np

from csmf_tf.config import Negatives
from csmf_tf.data.groups import Groups
from csmf_tf.negatives.clusters import Clusters
from csmf_tf.negatives.edis import mixing_weights, virtual_count
from csmf_tf.negatives.funnel import draw_funnel_negatives
from csmf_tf.negatives.log_q import log_expected_count
from csmf_tf.negatives.msac import ClusterSampler


class NegativeSampler:
    """Draws what a batch holds beside its positives, see `csmf_tf.data.batches`.

    A row has n = in-batch + uniform + popularity + MSAC's negatives. A candidate is corrected by log(n p), p
    the probability with which one draw of its source gives it; in-batch, uniform and popularity negatives are
    one source, MSAC's easy and hard ones another. So each source is an estimate of the full softmax by
    itself, and they count by their numbers (own choice). Virtual negatives come on top, corrected by what
    they are mixed of; where there are no others, n is their number. Funnel negatives are chosen, not drawn.

    Args:
        settings: the `Negatives` of the configuration.
        item_rows: int [N], how often each item is a positive.
        funnel_pool: each user's `upstream_only` items; None in the first stage.
        clusters: the `Clusters` of the items; of kind msac only.

    Example:

    >>> sampler = NegativeSampler(Negatives(kind=("uniform",), uniform=4), np.array([2, 1]))
    >>> batch = sampler.draw(np.array([0]), np.array([1]), np.random.default_rng(0))
    >>> {name: values.shape for name, values in batch.items()}
    {'negatives': (4,), 'log_q': (5,), 'funnel_negatives': (1, 0)}
    """

    def __init__(
        self,
        settings: Negatives,
        item_rows: np.ndarray,
        funnel_pool: Groups | None = None,
        clusters: Clusters | None = None,
    ):
        self._settings, kinds = settings, settings.kind
        self._in_batch = "in_batch" in kinds
        self._uniform = settings.uniform if "uniform" in kinds else 0
        self._popularity = settings.popularity if "popularity" in kinds else 0
        self._frequency = item_rows / item_rows.sum()
        weights = item_rows**settings.popularity_power
        self._popular = weights / weights.sum()
        self._thresholds = np.cumsum(self._popular)[:-1]
        self._funnel_pool = funnel_pool if "funnel" in kinds else None
        self._clusters = None
        if "msac" in kinds:
            if clusters is None:
                raise ValueError("`clusters` should be given for negatives of kind msac. Received: None")
            self._clusters = ClusterSampler(clusters, settings.clusters, settings.anchors, settings.msac.hard)
        self._virtual = 0
        if "edis" in kinds:
            simple = settings.clusters * virtual_count(settings.anchors) if settings.edis.simple else 0
            self._virtual = simple + settings.edis.hard

    def draw(
        self,
        users: np.ndarray,
        items: np.ndarray,
        rng: np.random.Generator,
        *,
        others: float | None = None,
    ) -> dict[str, Any]:
        """The negatives of rows with these users and positive items, see `csmf_tf.data.batches`.

        Args:
            users: int [R].
            items: int [R].
            rng: draws them.
            others: how many rows are in-batch negatives of a row, on average; default all but itself. All
                rows are corrected by this one number, which is coarse where few users have very different
                numbers of rows.
        """
        settings, rows = self._settings, len(users)
        # A row's own positive is no sample: the others' are.
        others = rows - 1 if others is None else others
        in_batch = others if self._in_batch else 0
        counts = np.array([in_batch, self._uniform, self._popularity])
        total = counts.sum() + (self._clusters.draws if self._clusters else 0) or self._virtual
        uniform = rng.integers(0, len(self._frequency), self._uniform, np.int32)
        popular = np.searchsorted(self._thresholds, rng.random(self._popularity), side="right")
        negatives = np.concatenate([uniform, popular.astype(np.int32)])
        batch = {
            "negatives": negatives,
            "log_q": self._log_q(np.concatenate([items, negatives]), counts, total),
            "funnel_negatives": np.zeros((rows, 0), np.int32),
        }
        if self._funnel_pool is not None:
            batch["funnel_negatives"] = draw_funnel_negatives(self._funnel_pool, users, settings.funnel, rng)
        if self._clusters:
            drawn, probability = self._clusters.draw(items, rng)
            log_q = log_expected_count(probability.reshape(1, -1), np.array([total])).reshape(drawn.shape)
            batch |= {"cluster_negatives": drawn, "cluster_log_q": log_q}
        if self._virtual:
            batch |= self._edis(rows, total, rng)
        if not settings.log_q:
            for name in ("log_q", "cluster_log_q", "anchor_log_q"):
                if name in batch:
                    batch[name] = np.zeros_like(batch[name])
        return batch

    def _log_q(self, codes, counts, total):
        uniform = np.full(len(codes), 1 / len(self._frequency))
        probability = np.stack([self._frequency[codes], uniform, self._popular[codes]])
        return log_expected_count(probability, counts * (total / max(counts.sum(), 1)))

    def _edis(self, rows, total, rng):
        settings, edis = self._settings, self._settings.edis
        mixing = mixing_weights(settings.clusters, settings.anchors, edis.concentration, rng)
        batch = {
            "mixing": mixing if edis.simple else mixing[:0],
            "positive_share": rng.uniform(edis.low, edis.cap, (rows, edis.hard)).astype(np.float32),
        }
        if not self._clusters:
            # Without clusters a group of uniform draws stands for one.
            drawn = settings.clusters * settings.anchors
            batch["anchors"] = rng.integers(0, len(self._frequency), drawn, np.int32)
            batch["anchor_log_q"] = np.full(drawn, np.log(total / len(self._frequency)), np.float32)
        return batch
