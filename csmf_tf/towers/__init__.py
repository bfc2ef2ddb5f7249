"""Towers: raw features to integer codes, and codes to vectors."""

from csmf_tf.towers.features import Feature, FeatureEncoder
from csmf_tf.towers.heterrec import HistoryTransformer
from csmf_tf.towers.tokens import HeterogeneousTokenFlattening
from csmf_tf.towers.tower import Tower
from csmf_tf.towers.transformer import HierarchicalCausalTransformer

__all__ = [
    "Feature",
    "FeatureEncoder",
    "HeterogeneousTokenFlattening",
    "HierarchicalCausalTransformer",
    "HistoryTransformer",
    "Tower",
]
