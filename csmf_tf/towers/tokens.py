"""Items as sets of tokens, one for each feature (HTFL of HeterRec)."""

import dataclasses

import numpy as np

from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedDense, MaskedEmbedding
from csmf_tf.towers.features import Feature, identifiers
from csmf_tf.towers.lookup import KnownRows, mean_of_lists

_UNLIKE = "Ragged features should have as many items as one another in each history. Received others:"


@keras.saving.register_keras_serializable(package="csmf_tf")
class HeterogeneousTokenFlattening(keras.layers.Layer):
    """Turns the items of a history into tokens, one for each feature (HTFL of HeterRec).

    Token f of the item at position l is

    `x_lf = sqrt(dim) * (E_f[feature] + P[l] + T[f])`

    with `E_f` the embedding (lists are mean-pooled) or projection of feature f, `P` that of the item's
    position and `T` that of the feature's type. Positions count the items that are there, from 0, so that
    pads change nothing. The idea is the HeterRec paper's, the formula the project's own choice. Whatever has
    weights is masked by owners, tables by column, projections by weight.

    Args:
        features: the `Feature` list of an item. A numeric one with `boundaries` is bucketised, others are
            projected, as vectors are.
        dim: width d of a token.
        length: L, most items of a history.
        flatten: whether each feature is a token; else an item is one token, the projection of its
            concatenated features, as is usual in sequential recommenders.

    Call arguments:
        encoded: dict of what `FeatureEncoder` gives for each feature, with the axis of the history second:
            int32 [B, L] (`id`, `categorical`), int32 [B, L, W] (`multi`), float32 [B, L, 1] (`numeric`) or
            float32 [B, L, W] (`vector`). All of them may be ragged in that axis.
        present: bool [B, L], which positions hold an item; None when the histories are ragged.
        stage: as in `MaskedDense`.

    Returns:
        Tokens, float [B, L, F, d], and bool [B, L, F], which of them say something: lists that are empty
        and vectors that are 0 do not. F is 1 without `flatten`.

    Raises:
        ValueError: when a feature is missing from `encoded`, or `present` is.
        tf.errors.InvalidArgumentError: when a history is longer than `length`, or ragged features have other
            numbers of items.

    Example:

    >>> tags = Feature("tags", "multi", vocabulary=("a", "b"))
    >>> flatten = HeterogeneousTokenFlattening([tags, Feature("price", "numeric")], dim=4, length=2)
    >>> encoded = {"tags": tf.constant([[[2, 3], [0, 0]]]), "price": tf.zeros([1, 2, 1])}
    >>> tokens, said = flatten(encoded, present=tf.constant([[True, True]]))
    >>> tokens.shape, said.numpy().tolist()
    (TensorShape([1, 2, 2, 4]), [[[True, True], [False, True]]])
    """

    def __init__(self, features, dim, length, flatten=True, **kwargs):
        # Mixed precision must not round numbers before they are put into buckets.
        super().__init__(autocast=False, **kwargs)
        self.features = tuple(f if isinstance(f, Feature) else Feature(**f) for f in features)
        names = [f.name for f in self.features]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"`features` should hold at least one feature, all of different names. Received: {names}"
            )
        self.dim = dim
        self.length = length
        self.flatten = flatten
        self._plain = identifiers(names)
        self.tables = {
            f.name: self._embedding(
                f.table_rows, f"token_table_{self._plain[f.name]}", KnownRows(f.unknown_rows)
            )
            for f in self.features
            if f.table_rows
        }
        self.positions = self._embedding(length, "positions", KnownRows(0))
        if flatten:
            self.projections = {f.name: self._projection(f.name) for f in self.features if not f.table_rows}
            self.types = self._embedding(len(names), "types", KnownRows(0))
        else:
            self.joined = MaskedDense(dim, granularity="weight", name="joined", dtype=self.dtype_policy)
        self._shared = {}

    def _embedding(self, rows, name, initializer):
        return MaskedEmbedding(
            rows, self.dim, embeddings_initializer=initializer, name=name, dtype=self.dtype_policy
        )

    def _projection(self, name):
        plain = f"project_{self._plain[name]}"
        return MaskedDense(self.dim, granularity="weight", name=plain, dtype=self.dtype_policy)

    def share(self, tables):
        """Reads tables of another tower, projected, in place of own ones; to be called before the layer is.

        A configuration does not hold what is shared: who makes the layer from one calls this again.

        Args:
            tables: dict of feature name to `MaskedEmbedding`, which stays the other tower's.
        """
        if self.built:
            raise ValueError("`share` should come before the first call. Received: a layer with weights")
        for feature in self.features:
            if feature.name in tables:
                del self.tables[feature.name]
                self._shared[feature.name] = tables[feature.name]
                if self.flatten:
                    self.projections[feature.name] = self._projection(feature.name)

    @property
    def masked_layers(self):
        """The masked layers of its own."""
        if self.flatten:
            return [*self.tables.values(), *self.projections.values(), self.positions, self.types]
        return [*self.tables.values(), self.positions, self.joined]

    def call(self, encoded, present=None, stage=None):
        if missing := [f.name for f in self.features if f.name not in encoded]:
            raise ValueError(
                f"`encoded` should hold {[f.name for f in self.features]}. Received: {sorted(encoded)}, "
                f"without {missing}"
            )
        values = [encoded[f.name] for f in self.features]
        ragged = [
            f.name for f, v in zip(self.features, values, strict=True) if isinstance(v, tf.RaggedTensor)
        ]
        if ragged and (len(ragged) < len(values) or present is not None):
            raise ValueError(
                "`encoded` should be ragged in all features, and then without `present`, or in none. "
                f"Received: {ragged} of {[f.name for f in self.features]} ragged, "
                f"{'no ' if present is None else ''}`present`"
            )
        if ragged:
            lengths = values[0].row_lengths()
            alike = [tf.debugging.assert_equal(v.row_lengths(), lengths, _UNLIKE) for v in values[1:]]
            with tf.control_dependencies([check for check in alike if check is not None]):
                present = tf.sequence_mask(lengths)
            values = [value.to_tensor() for value in values]
        if present is None:
            raise ValueError("`present` should be given with dense histories. Received: None")
        with tf.control_dependencies([self._check_length(present)]):
            rank = tf.cumsum(tf.cast(present, tf.int32), axis=1) - 1
        place = self.positions(tf.maximum(rank, 0), stage=stage)
        vectors = [self._vector(*one, stage) for one in zip(self.features, values, strict=True)]
        if self.flatten:
            tokens = tf.stack(vectors, axis=2) + self.types(tf.range(len(vectors)), stage=stage)
            said = tf.stack(
                [present & _says(*one) for one in zip(self.features, values, strict=True)], axis=2
            )
        else:
            tokens = self.joined(tf.concat(vectors, axis=-1), stage=stage)[:, :, tf.newaxis]
            said = present[:, :, tf.newaxis]
        return (tokens + place[:, :, tf.newaxis]) * tf.cast(np.sqrt(self.dim), tokens.dtype), said

    def _check_length(self, present):
        return tf.debugging.assert_less_equal(
            tf.reduce_max(tf.reduce_sum(tf.cast(present, tf.int32), axis=1)),
            self.length,
            f"A history should hold at most `length={self.length}` items. Received more:",
        )

    def _vector(self, feature, value, stage):
        if feature.boundaries:
            # As the encoder does it, so that what is equal stays equal.
            edges = (tf.constant(feature.boundaries, tf.float32) - feature.mean) / feature.std
            flat = tf.searchsorted(edges, tf.reshape(value, [-1]), side="right")
            value = tf.reshape(flat, tf.shape(value)[:2])
        table = self._shared.get(feature.name, self.tables.get(feature.name))
        vectors = tf.cast(value, self.compute_dtype) if table is None else table(value, stage=stage)
        if feature.padded:
            vectors = mean_of_lists(vectors, value)
        projected = self.flatten and feature.name in self.projections
        return self.projections[feature.name](vectors, stage=stage) if projected else vectors

    def get_config(self):
        return {
            **super().get_config(),
            "features": [dataclasses.asdict(f) for f in self.features],
            "dim": self.dim,
            "length": self.length,
            "flatten": self.flatten,
        }


def _says(feature, value):
    """Whether an item has something to say of a feature, bool [B, L] or what broadcasts to it."""
    if feature.padded:
        return tf.reduce_any(value > 0, axis=-1)
    return tf.reduce_any(value != 0, axis=-1) if feature.kind == "vector" else tf.constant(True)
