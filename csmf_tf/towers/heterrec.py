"""HeterRec: the history of a user as a transformer over the tokens of its items' features."""

import dataclasses

import numpy as np

from csmf_tf import _schema, config
from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedEmbedding
from csmf_tf.towers.features import FLOATS, Feature, identifiers
from csmf_tf.towers.lookup import KnownRows
from csmf_tf.towers.tokens import HeterogeneousTokenFlattening
from csmf_tf.towers.transformer import HierarchicalCausalTransformer

ATTENTION_WEIGHTS = 1 << 25
"""Most weights of an attention at a time, 128 MB; training holds two or three such tensors a block."""


def settings_of(given):
    """A `csmf_tf.config.HeterRec` whose values are checked, of one or of a dict of its fields."""
    plain = given if isinstance(given, dict) else dataclasses.asdict(given)
    plain = {name: _without_numpy(value) for name, value in plain.items()}
    return _schema.read(config.Model, {"heterrec": plain}, {}).heterrec


def _without_numpy(value):
    if isinstance(value, list | tuple | np.ndarray):
        return [_without_numpy(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


@keras.saving.register_keras_serializable(package="csmf_tf")
class HistoryTransformer(keras.layers.Layer):
    """Vectors of the positions of a history, from the tokens of its items.

    It holds what the catalogue says of each item, so that a request needs item ids only. What the user did
    with an item is added to all of its tokens (own choice).

    Args:
        history: the `Feature` of the user's items; `behaviors` that of what was done with them, or None.
        items: the `Feature` list of an item.
        settings: a `csmf_tf.config.HeterRec`. Each of the four may be given as a dict of its fields.

    Call arguments:
        encoded: dict with the codes of the history, int32 [B, L], 0 where there is no item, and of the
            behaviours, if there are any, alike.
        stage: as in `MaskedDense`.
        training: whether to drop.
        seed: int32 tensor [2] that all of dropout follows from; None draws anew each time.

    Returns:
        float [B, L, d], exactly 0 where there is no item. A position depends on nothing after it as long as
        a history has no more items than training has positions for (`history.positions`); of a longer one
        the last ones are read, and which these are does depend on the end.
    """

    def __init__(self, history, behaviors, items, settings, **kwargs):
        super().__init__(**kwargs)
        settings = self.settings = settings_of(settings)
        history, behaviors = (Feature(**f) if isinstance(f, dict) else f for f in (history, behaviors))
        items = [Feature(**f) if isinstance(f, dict) else f for f in items]
        self.history = history
        self.behaviors = behaviors
        self.positions = history.positions or history.length
        self.flatten = HeterogeneousTokenFlattening(
            items, settings.dim, self.positions, settings.flatten, name="tokens", dtype=self.dtype_policy
        )
        self.transform = HierarchicalCausalTransformer(
            settings.dim,
            settings.layers,
            settings.heads,
            settings.intermediate_dim,
            settings.dropout,
            settings.mask,
            settings.pooling,
            name="transformer",
            dtype=self.dtype_policy,
        )
        self.behavior_table = behaviors and MaskedEmbedding(
            behaviors.rows,
            settings.dim,
            embeddings_initializer=KnownRows(behaviors.unknown_rows),
            name="behaviors",
            dtype=self.dtype_policy,
        )
        plain = identifiers(f.name for f in items)
        self._catalogue = {f.name: self._blank(f, plain[f.name]) for f in items}

    def _blank(self, feature, name):
        """What is known of each item that a history may hold: as yet nothing."""
        widths = {"multi": [self.settings.list_length], "numeric": [1], "vector": [feature.length]}
        width = widths.get(feature.kind, [])
        dtype = tf.float32 if feature.kind in FLOATS else tf.int32
        return tf.Variable(tf.zeros([self.history.rows, *width], dtype), trainable=False, name=name)

    def set_items(self, encoded):
        """Takes over what the catalogue says of each item.

        Args:
            encoded: dict of encoded item features, [N, ...] each, in the order of the history's vocabulary.
                Of lists, the first `settings.list_length` strings count.
        """
        unknown = self.history.unknown_rows
        for name, variable in self._catalogue.items():
            values = np.asarray(encoded[name])
            if values.ndim > 1:
                values = values[:, : variable.shape[1]]
                values = np.pad(values, [(0, 0), (0, variable.shape[1] - values.shape[1])])
            variable.assign(np.concatenate([np.zeros([unknown, *values.shape[1:]], values.dtype), values]))

    @property
    def masked_layers(self):
        """Every masked layer, inputs first."""
        behaviors = [self.behavior_table] if self.behaviors else []
        return [*self.flatten.masked_layers, *behaviors, *self.transform.masked_layers]

    def most_rows(self, length):
        """How many histories of so many positions can be read at a time without much memory, at least 1.

        The widest attention has in each head a weight for each two tokens.
        """
        several = self.settings.flatten and self.transform.layers[0]
        tokens = length * (len(self.flatten.features) if several else 1)
        return max(ATTENTION_WEIGHTS // (self.settings.heads * tokens**2), 1)

    def present(self, encoded):
        """Which positions hold an item that is read, bool [B, L]: of those that are there the last ones."""
        there = encoded[self.history.name] > 0
        if self.positions == self.history.length:
            return there
        return there & (tf.cumsum(tf.cast(there, tf.int32), axis=1, reverse=True) <= self.positions)

    def call(self, encoded, stage=None, training=False, seed=None):
        codes, present = encoded[self.history.name], self.present(encoded)
        tokens, said = self.flatten(
            {name: tf.gather(values, codes) for name, values in self._catalogue.items()}, present, stage=stage
        )
        if self.behaviors:
            done = self.behavior_table(encoded[self.behaviors.name], stage=stage)
            tokens += done[:, :, tf.newaxis] * tf.cast(np.sqrt(self.settings.dim), tokens.dtype)
        return self.transform(tokens, said, present, stage=stage, training=training, seed=seed)

    def get_config(self):
        return {
            **super().get_config(),
            "history": dataclasses.asdict(self.history),
            "behaviors": self.behaviors and dataclasses.asdict(self.behaviors),
            "items": [dataclasses.asdict(f) for f in self.flatten.features],
            "settings": dataclasses.asdict(self.settings),
        }


def latest(vectors, present):
    """The vectors of the last position that holds an item, float [B, d]; 0 where none does.

    Args:
        vectors: float [B, L, d].
        present: bool [B, L].

    Example:

    >>> latest(tf.constant([[[1.0], [2.0], [3.0]]]), tf.constant([[True, True, False]])).numpy().tolist()
    [[2.0]]
    """
    place = tf.range(1, tf.shape(present)[1] + 1) * tf.cast(present, tf.int32)
    last = tf.reduce_max(place, axis=1)
    found = tf.gather(vectors, tf.maximum(last - 1, 0), batch_dims=1)
    return tf.where(last[:, tf.newaxis] > 0, found, 0.0)
