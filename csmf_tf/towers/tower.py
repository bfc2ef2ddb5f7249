"""The masked tower: encoded features to an embedding whose coordinates are owned by stages."""

import dataclasses

import numpy as np

from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedDense, MaskedEmbedding, propagate_owners
from csmf_tf.towers.features import CHUNK, FLOATS, Feature, identifiers
from csmf_tf.towers.heterrec import latest
from csmf_tf.towers.lookup import SPREAD, KnownRows, mean_of_lists


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
        sequence: a `HistoryTransformer` that reads the history in place of a mean, or None.

    Call arguments:
        encoded: dict of tensors as `FeatureEncoder` gives them.
        stage: int, the objective whose forward pass this is; None reads every owned weight.
        training: whether the `sequence` drops.
        seed: of its dropout, see `HistoryTransformer`.
        every_position: whether to give a vector for each position of the history of `sequence`.

    Returns:
        float tensor [B, D], or [B, L, D] for `every_position`; in a `"weight"` tower only the coordinates of
        segment `stage` are meant.

    Raises:
        ValueError: when there is no feature, two have one name, or two are of kind `id`.

    Example:

    >>> tower = Tower([Feature("item", "id", vocabulary=("i1", "i2")), Feature("price", "numeric")], 4)
    >>> tower({"item": tf.constant([1, 2, 0]), "price": tf.zeros([3, 1])}).shape
    TensorShape([3, 4])
    """

    def __init__(
        self, features, embedding_dim, hidden=(), granularity="unit", bias=0.0, sequence=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.features = tuple(f if isinstance(f, Feature) else Feature(**f) for f in features)
        self.embedding_dim = embedding_dim
        self.hidden = tuple(hidden)
        self.granularity = granularity
        self.bias = bias
        self.sequence = sequence
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
        read = {f.name for f in (sequence.history, sequence.behaviors) if f} if sequence else {}
        self._beside = [f for f in self.features if f.name not in read]
        self.tables = {
            f.name: MaskedEmbedding(
                f.rows,
                embedding_dim if f.kind == "id" else f.dim,
                embeddings_initializer=KnownRows(f.rows - len(f.vocabulary), SPREAD),
                name=f"table_{plain[f.name]}",
                dtype=self.dtype_policy,
            )
            for f in self._beside
            if f.kind not in FLOATS
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
        small = keras.initializers.RandomNormal(stddev=SPREAD)
        self.output_layer = MaskedDense(
            embedding_dim,
            kernel_initializer=small if ids else "glorot_uniform",
            bias_initializer=keras.initializers.Constant(bias),
            name="output",
            dtype=self.dtype_policy,
        )

    def call(self, encoded, stage=None, training=False, seed=None, every_position=False):
        vectors = {f.name: self._vector(f, encoded[f.name], stage) for f in self._beside}
        if self.sequence:
            vectors = self._with_sequence(
                vectors, encoded, every_position, stage=stage, training=training, seed=seed
            )
        x = tf.concat(list(vectors.values()), axis=-1)
        for layer in self.hidden_layers:
            x = layer(x, stage=stage)
        y = self.output_layer(x, stage=stage)
        return y + vectors[self.id_name] if self.id_name else y

    def _with_sequence(self, vectors, encoded, every_position, **options):
        positions = self.sequence(encoded, **options)
        if not every_position:
            return {**vectors, "": latest(positions, self.sequence.present(encoded))}
        length = tf.shape(positions)[1]
        vectors = {name: tf.repeat(v[:, tf.newaxis], length, axis=1) for name, v in vectors.items()}
        return {**vectors, "": positions}

    def _vector(self, feature, value, stage):
        if feature.kind in FLOATS:
            return tf.cast(value, self.compute_dtype)
        vectors = self.tables[feature.name](value, stage=stage)
        return mean_of_lists(vectors, value) if feature.padded else vectors

    @property
    def chunk(self):
        """Rows embedded at a time outside training, to bound memory."""
        if not self.sequence:
            return CHUNK
        return min(self.sequence.most_rows(self.sequence.history.length), 256)

    @property
    def masked_layers(self):
        """Every masked layer, inputs first."""
        sequence = self.sequence.masked_layers if self.sequence else []
        return [*self.tables.values(), *sequence, *self.hidden_layers, self.output_layer]

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
        inputs = np.concatenate([self._input_owner(f) for f in self._beside] + self._sequence_owner())
        propagate_owners(stack, None if self.granularity == "weight" and self.hidden else inputs)

    def _sequence_owner(self):
        # Each segment has a pass of its own through the blocks, in which they never change.
        return [np.ones(self.sequence.settings.dim, np.uint8)] if self.sequence else []

    def _input_owner(self, feature):
        """The first stage that may read each input that a feature gives."""
        if feature.name not in self.tables:
            return np.ones(feature.length or 1, np.uint8)
        owner = self.tables[feature.name].owner.numpy()
        if self.granularity == "weight" and feature.name != self.id_name:
            return np.ones(feature.dim, np.uint8)
        if feature.name == self.id_name and not self.hidden:
            # The output has the id's own coordinates already: only later stages read them.
            return np.where(owner > 0, owner + 1, 0).astype(np.uint8)
        return owner

    def get_config(self):
        if self.sequence:
            raise NotImplementedError("A tower with a `sequence` comes back through its `TowerPair` only")
        return {
            **super().get_config(),
            "features": [dataclasses.asdict(f) for f in self.features],
            "embedding_dim": self.embedding_dim,
            "hidden": self.hidden,
            "granularity": self.granularity,
            "bias": self.bias,
        }
