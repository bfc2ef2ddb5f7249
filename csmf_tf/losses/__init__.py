"""Losses: retrieval softmax and the cross-stage adaptive margin."""

from csmf_tf.losses.adaptive_margin import adaptive_margin
from csmf_tf.losses.retrieval import accidental_hits, softmax_nll

__all__ = ["accidental_hits", "adaptive_margin", "softmax_nll"]
