"""Losses: retrieval softmax, the cross-stage adaptive margin and listwise multi-step prediction."""

from csmf_tf.losses.adaptive_margin import adaptive_margin
from csmf_tf.losses.listwise import listwise_multi_step
from csmf_tf.losses.retrieval import accidental_hits, softmax_nll
from csmf_tf.losses.stage import Candidates, StageLoss

__all__ = [
    "Candidates",
    "StageLoss",
    "accidental_hits",
    "adaptive_margin",
    "listwise_multi_step",
    "softmax_nll",
]
