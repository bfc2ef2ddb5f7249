"""Losses: retrieval softmax and the cross-stage adaptive margin."""

from csmf_tf.losses.adaptive_margin import adaptive_margin
from csmf_tf.losses.retrieval import accidental_hits, softmax_nll
from csmf_tf.losses.stage import Candidates, StageLoss

__all__ = ["Candidates", "StageLoss", "accidental_hits", "adaptive_margin", "softmax_nll"]
