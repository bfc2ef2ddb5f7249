"""What towers do with tables: how rows start, and how several make one vector."""

from csmf_tf._keras import keras, tf

SPREAD = 0.05
"""Standard deviation of new embeddings (own choice)."""


@keras.saving.register_keras_serializable(package="csmf_tf")
class KnownRows(keras.initializers.RandomNormal):
    """Normal draws whose first rows, those of the pad and of what is unknown, are zero.

    An unknown category then adds nothing, where a row that no training event reads would add noise.

    Args:
        unknown: how many rows are zero.
        stddev: spread of the others.
        seed: as in `keras.initializers.RandomNormal`.
    """

    def __init__(self, unknown, stddev=SPREAD, seed=None):
        super().__init__(mean=0.0, stddev=stddev, seed=seed)
        self.unknown = unknown

    def __call__(self, shape, dtype=None, **kwargs):
        draws = super().__call__(shape, dtype=dtype, **kwargs)
        return tf.where(tf.range(shape[0])[:, tf.newaxis] < self.unknown, tf.zeros_like(draws), draws)

    def get_config(self):
        return {"unknown": self.unknown, "stddev": self.stddev, "seed": self.seed}


def some_unknown(ids, unknown, share, seed):
    """Ids, some of which are replaced by unknown ones.

    Trained so, a tower does well with the features alone of an item that it has not seen (Volkovs et al.,
    DropoutNet, 2017, who drop whole preference vectors).

    Args:
        ids: int [n], codes of an `id` feature, of which those below `unknown` stand for unknown ids.
        unknown: number of unknown ids.
        share: float scalar, the probability with which each is replaced.
        seed: int32 [2] that all draws follow from.

    Returns:
        What `ids` was, with some replaced.

    Example:

    >>> some_unknown(tf.constant([5, 6, 7]), 2, share=0.0, seed=[3, 4]).numpy().tolist()
    [5, 6, 7]
    """
    first, second = tf.unstack(tf.random.experimental.stateless_split(seed, 2))
    replaced = tf.random.stateless_uniform(tf.shape(ids), first) < share
    drawn = tf.random.stateless_uniform(tf.shape(ids), second, 0, unknown, ids.dtype)
    return tf.where(replaced, drawn, ids)


def mean_of_lists(vectors, codes):
    """Means of the vectors of padded lists; of an empty list 0.

    Args:
        vectors: float [..., W, d].
        codes: int [..., W], 0 pads.

    Returns:
        float [..., d].

    Example:

    >>> mean_of_lists(tf.constant([[[2.0], [4.0], [9.0]]]), tf.constant([[7, 5, 0]])).numpy().tolist()
    [[3.0]]
    """
    present = tf.cast(codes > 0, vectors.dtype)[..., tf.newaxis]
    count = tf.maximum(tf.reduce_sum(present, axis=-2), 1.0)
    return tf.reduce_sum(vectors * present, axis=-2) / count
