"""Towers: raw features to integer codes, and codes to vectors."""

from csmf_tf.towers.features import Feature, FeatureEncoder
from csmf_tf.towers.tower import Tower

__all__ = ["Feature", "FeatureEncoder", "Tower"]
