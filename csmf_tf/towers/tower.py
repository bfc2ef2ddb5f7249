"""The masked tower: encoded features to an embedding whose coordinates are owned by stages."""

import dataclasses

import numpy as np

from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedDense, MaskedEmbedding, propagate_owners
from csmf_tf.towers.features import Feature, identifiers

# Spread of new embeddings, and of the output layer where they already reach the output (own choice).
_SPREAD = 0.05


@keras.saving.register_keras_serializable(package="csmf_tf")
class KnownRows(keras.initializers.RandomNormal):
    """Normal draws whose first rows, those of the pad and of what is unknown, are zero.

    An unknown category then adds nothing, where a row that no training event reads would add noise.

    Args:
        unknown: how many rows are zero.
        stddev: spread of the others.
        seed: as in `keras.initializers.RandomNormal`.
    """

    def __init__(self, unknown, stddev=0.05, seed=None):
        super().__init__(mean=0.0, stddev=stddev, seed=seed)
        self.unknown = unknown

    def __call__(self, shape, dtype=None, **kwargs):
        draws = super().__call__(shape, dtype=dtype, **kwargs)
        return tf.where(tf.range(shape[0])[:, tf.newaxis] < self.unknown, tf.zeros_like(draws), draws)

    def get_config(self):
        return {"unknown": self.unknown, "stddev": self.stddev, "seed": self.seed}


class Tower(keras.layers.Layer):
    """Maps encoded features to the coordinates of the embedding.

    `y = E_id[id] + W h(x) + b`, with `x` the concatenation of all feature vectors (`E_id[id]` included) and
    `h` the hidden layers, none by default. So a tower of an id alone is a factorisation whose later segments
    also read the upstream columns linearly (own choice). Lists of strings are mean-pooled.

    Args:
        features: the `Feature` list that the tower reads; at most one of kind `id`.
        embedding_dim: D, width of the output.
        hidden: units of the hidden ReLU layers.
        granularity: `"unit"` (whole neurons are owned, one pass gives every segment) or `"weight"` (single
            weights of the hidden layers are owned, one pass for each segment).
        bias: start value of the output's bias.

    Call arguments:
        encoded: dict of tensors as `FeatureEncoder` gives them.
        stage: int, the objective whose forward pass this is; None reads every owned weight.

    Returns:
        float tensor [B, D]; in a `"weight"` tower only the coordinates of segment `stage` are meant.

    Raises:
        ValueError: when there is no feature, two have one name, or two are of kind `id`.

    Example:

    >>> tower = Tower([Feature("item", "id", vocabulary=("i1", "i2")), Feature("price", "numeric")], 4)
    >>> tower({"item": tf.constant([1, 2, 0]), "price": tf.zeros([3, 1])}).shape
    TensorShape([3, 4])
    """

    def __init__(self, features, embedding_dim, hidden=(), granularity="unit", bias=0.0, **kwargs):
        super().__init__(**kwargs)
        self.features = tuple(f if isinstance(f, Feature) else Feature(**f) for f in features)
        self.embedding_dim = embedding_dim
        self.hidden = tuple(hidden)
        self.granularity = granularity
        self.bias = bias
        names = [f.name for f in self.features]
        if not names or len(set(names)) < len(names):
            raise ValueError(
                f"A tower should have at least one feature, all of different names. Received: {names}"
            )
        ids = [f.name for f in self.features if f.kind == "id"]
        if len(ids) > 1:
            raise ValueError(f"A tower should have at most one feature of kind 'id'. Received: {ids}")
        self.id_name = ids[0] if ids else None
        plain = identifiers(names)
        self.tables = {
            f.name: MaskedEmbedding(
                f.rows,
                embedding_dim if f.kind == "id" else f.dim,
                embeddings_initializer=KnownRows(f.rows - len(f.vocabulary), _SPREAD),
                name=f"table_{plain[f.name]}",
                dtype=self.dtype_policy,
            )
            for f in self.features
            if f.kind != "numeric"
        }
        self.hidden_layers = [
            MaskedDense(
                units,
                activation="relu",
                granularity=granularity,
                name=f"hidden_{n}",
                dtype=self.dtype_policy,
            )
            for n, units in enumerate(self.hidden)
        ]
        # With an id table the output starts close to that table alone.
        small = keras.initializers.RandomNormal(stddev=_SPREAD)
        self.output_layer = MaskedDense(
            embedding_dim,
            kernel_initializer=small if ids else "glorot_uniform",
            bias_initializer=keras.initializers.Constant(bias),
            name="output",
            dtype=self.dtype_policy,
        )

    def call(self, encoded, stage=None):
        vectors = {f.name: self._vector(f, encoded[f.name], stage) for f in self.features}
        x = tf.concat(list(vectors.values()), axis=-1)
        for layer in self.hidden_layers:
            x = layer(x, stage=stage)
        y = self.output_layer(x, stage=stage)
        return y + vectors[self.id_name] if self.id_name else y

    def _vector(self, feature, value, stage):
        if feature.kind == "numeric":
            return tf.cast(value, self.compute_dtype)
        vectors = self.tables[feature.name](value, stage=stage)
        if not feature.padded:
            return vectors
        present = tf.cast(value > 0, vectors.dtype)[..., tf.newaxis]
        return tf.reduce_sum(vectors * present, axis=1) / tf.maximum(tf.reduce_sum(present, axis=1), 1.0)

    @property
    def masked_layers(self):
        """Every masked layer, inputs first."""
        return [*self.tables.values(), *self.hidden_layers, self.output_layer]

    @property
    def segment_layers(self):
        """The layers whose units are the coordinates of the embedding."""
        id_table = [self.tables[self.id_name]] if self.id_name else []
        return [*id_table, self.output_layer]

    def coordinate_importance(self):
        """float64 [D]: the L1 norm of each coordinate's incoming weights, its bias counted for every id."""
        kernel, bias = self.output_layer.importance(), self.output_layer.merged_weights()[1]
        if self.id_name is None:
            return kernel + np.abs(bias)
        table = self.tables[self.id_name].merged_weights()[0]
        return kernel + np.sum(np.abs(table + bias), axis=0, dtype=np.float64)

    @property
    def inner_layers(self):
        """The masked layers whose units are the tower's own."""
        return [layer for layer in self.masked_layers if layer not in self.segment_layers]

    def propagate_owners(self):
        """Tells each layer who owns its inputs, so that no stage reads what a later one may change."""
        stack = [*self.hidden_layers, self.output_layer]
        if self.granularity == "weight":
            # Each segment is computed in a pass of its own, in which its inputs never change.
            stack = [self.output_layer]
        inputs = np.concatenate([self._input_owner(f) for f in self.features])
        propagate_owners(stack, None if self.granularity == "weight" and self.hidden else inputs)

    def _input_owner(self, feature):
        """The first stage that may read each input that a feature gives."""
        if feature.name not in self.tables:
            return np.ones(1, np.uint8)
        owner = self.tables[feature.name].owner.numpy()
        if self.granularity == "weight" and feature.name != self.id_name:
            return np.ones(feature.dim, np.uint8)
        if feature.name == self.id_name and not self.hidden:
            # The output has the id's own coordinates already: only later stages read them.
            return np.where(owner > 0, owner + 1, 0).astype(np.uint8)
        return owner

    def get_config(self):
        return {
            **super().get_config(),
            "features": [dataclasses.asdict(f) for f in self.features],
            "embedding_dim": self.embedding_dim,
            "hidden": self.hidden,
            "granularity": self.granularity,
            "bias": self.bias,
        }
