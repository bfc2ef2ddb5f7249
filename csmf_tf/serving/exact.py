"""Exact search: every vector is scored."""

from numpy.typing import ArrayLike

from csmf_tf._keras import tf
from csmf_tf.serving.vectors import checked_vectors, padded, positive, usable


def search_all(queries, vectors, k):
    """Returns the `k` vectors of the highest inner product with each query; of equal scores the first.

    Args:
        queries: float [B, D]. One with an entry that is NaN or of 1e9 and more finds nothing.
        vectors: float32 [N, D].
        k: number of results, an integer or a scalar int32 tensor; may exceed N.

    Returns:
        indices: int32 [B, k], -1 where nothing was found.
        scores: float32 [B, k], descending, -inf where nothing was found.

    Example:

    >>> indices, scores = search_all([[1.0, 1.0]], tf.constant([[1.0, 0.0], [0.0, 2.0]]), 1)
    >>> indices.numpy().tolist(), scores.numpy().tolist()
    ([[1]], [[2.0]])
    """
    queries, fit = usable(queries)
    scores = tf.matmul(queries, vectors, transpose_b=True)
    scores, indices = tf.math.top_k(scores, tf.minimum(k, tf.shape(scores)[1]))
    return padded(indices, scores, fit, k)


class ExactIndex(tf.Module):
    """Scores every vector; needs no more than stock TensorFlow.

    Args:
        vectors: float [N, D], N >= 1, every entry below 1e9 in magnitude.
        k: default number of results for each query; may exceed N.

    Attributes:
        vectors: `tf.Variable`, float32 [N, D] with N not fixed.
        settings: empty.

    Raises:
        ValueError: when `vectors` is not such a matrix or `k` not a positive integer.

    Example:

    >>> index = ExactIndex([[1.0, 0.0], [0.0, 2.0]], k=3)
    >>> indices, scores = index.search([[1.0, 1.0]])
    >>> indices.numpy().tolist(), scores.numpy().tolist()
    ([[1, 0, -1]], [[2.0, 1.0, -inf]])
    """

    def __init__(self, vectors: ArrayLike, k: int):
        super().__init__()
        vectors = checked_vectors(vectors)
        self.k = positive("k", k)
        self.settings: dict[str, int] = {}
        self.vectors = tf.Variable(vectors, trainable=False, name="vectors", shape=[None, vectors.shape[1]])

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The variables by name."""
        return {"vectors": self.vectors}

    def search(self, queries, k=None):
        """Returns the `k` vectors of the highest inner product with each query; of equal scores the first.

        Args:
            queries: float [B, D]. One with an entry that is NaN or of 1e9 and more finds nothing.
            k: number of results, an integer or a scalar int32 tensor; default that of the index.

        Returns:
            indices: int32 [B, k], -1 where nothing was found.
            scores: float32 [B, k], descending, -inf where nothing was found.
        """
        return search_all(queries, self.vectors, self.k if k is None else k)
