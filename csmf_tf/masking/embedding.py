"""`keras.layers.Embedding` with weights that stages own."""

from typing import Any

from csmf_tf._keras import keras, tf
from csmf_tf.masking.base import MaskedLayer
from csmf_tf.masking.effective import Presented, reads, select


@keras.saving.register_keras_serializable(package="csmf_tf")
class MaskedEmbedding(MaskedLayer, keras.layers.Embedding):
    """A drop-in for `keras.layers.Embedding` whose weights are owned by stages.

    Rows are looked up first, in the live and in the frozen table, and masked afterwards: a step never
    touches a whole table, and its gradient stays sparse (`tf.IndexedSlices`). See `OwnedLayer` for what
    is effective and `MaskedLayer` for the steps of a stage. While stage 1 owns everything,
    the outputs equal those of `Embedding` bit for bit.

    Ids have no owners, so a table has no `input_owner` and begins every stage untold. A kernel of granularity
    `"unit"` that reads its columns must be told who owns them: `propagate_owners([table, dense])`, or
    `dense.set_input_owner(table.unit_owner)`, after each `prune` and `begin`.

    Args:
        *args: As `keras.layers.Embedding`.
        granularity: `"unit"`: stages own whole columns, so that the mask costs a byte per column. `"weight"`:
            stages own single entries, so that it costs a byte per entry.
        **kwargs: As `keras.layers.Embedding`.

    Call arguments:
        inputs: As `keras.layers.Embedding`: integers, dense, ragged or sparse.
        stage: The objective whose forward pass to compute, an `int`. `None` reads every owned weight.

    >>> import numpy as np
    >>> from csmf_tf import MaskedEmbedding
    >>> layer = MaskedEmbedding(10, 3, embeddings_initializer="ones")
    >>> layer(np.array([7])).numpy()
    array([[1., 1., 1.]], dtype=float32)
    >>> layer.release(np.array([False, True, False]))
    >>> layer(np.array([7])).numpy()
    array([[1., 0., 1.]], dtype=float32)
    """

    _weight = "embeddings"

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "sparse": self.sparse}

    def call(self, inputs: Any, stage: int | None = None) -> Any:
        # The namesake drops zeros when it makes dense rows sparse, so that comes after the mask.
        sparse_rows = self.sparse and isinstance(inputs, tf.SparseTensor)
        lookup = keras.layers.Embedding.call
        live = lookup(Presented(self, sparse=sparse_rows), inputs)
        frozen = lookup(Presented(self, sparse=sparse_rows, embeddings=self.embeddings_frozen), inputs)
        owner = self.owner if self.granularity == "unit" else self._owner_rows(inputs)

        def merge(live: Any, frozen: Any, owner: Any) -> Any:
            return select(live, frozen, reads(owner, stage), tf.equal(owner, self.stage))

        if sparse_rows:
            shape = [-1, self.output_dim]
            rows = merge(tf.reshape(live.values, shape), tf.reshape(frozen.values, shape), owner)
            return live.with_values(tf.reshape(rows, [-1]))
        rows = tf.ragged.map_flat_values(merge, live, frozen, owner)
        return tf.sparse.from_dense(rows) if self.sparse else rows

    def _owner_rows(self, ids: Any) -> Any:
        """The owners of the rows that the namesake looks up, in its layout."""
        if ids.dtype not in (tf.int32, tf.int64):
            ids = tf.cast(ids, tf.int32)
        if isinstance(ids, tf.SparseTensor):
            ids = ids.values if self.sparse else tf.maximum(tf.sparse.to_dense(ids), 0)
        return tf.nn.embedding_lookup(self.owner, ids)
