"""Negatives: in-batch and uniform with their log-Q correction, and funnel negatives."""

from csmf_tf.negatives.funnel import draw_funnel_negatives, upstream_only
from csmf_tf.negatives.log_q import log_expected_count

__all__ = ["draw_funnel_negatives", "log_expected_count", "upstream_only"]
