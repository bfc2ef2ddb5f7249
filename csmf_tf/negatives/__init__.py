"""Negatives: drawn with a known probability, of the funnel, virtual (EDIS) and by clusters (MSAC)."""

from csmf_tf.negatives.clusters import Clusters, cluster_items
from csmf_tf.negatives.edis import hard_virtual, mixing_weights, simple_virtual
from csmf_tf.negatives.funnel import draw_funnel_negatives, upstream_only
from csmf_tf.negatives.log_q import log_expected_count
from csmf_tf.negatives.msac import ClusterSampler
from csmf_tf.negatives.sampler import NegativeSampler

__all__ = [
    "ClusterSampler",
    "Clusters",
    "NegativeSampler",
    "cluster_items",
    "draw_funnel_negatives",
    "hard_virtual",
    "log_expected_count",
    "mixing_weights",
    "simple_virtual",
    "upstream_only",
]
