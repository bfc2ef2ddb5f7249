"""Search with items left out, and among given items only."""

import math

from csmf_tf._keras import tf
from csmf_tf.serving.vectors import padded, usable


def search_without(index, queries, excluded, k, least=None):
    """Searches an index for what is not excluded.

    The index is asked for as many results more as any query excludes. Where one of its own choosing then
    has fewer than `least`, though the catalogue holds more, that query is answered exactly.

    Args:
        index: one of `INDICES`.
        queries: float [B, D]. One with an entry that is NaN or of 1e9 and more finds nothing.
        excluded: int32 [B, E], indices of vectors; -1 pads.
        k: width of the answer, a Python integer.
        least: results that every query should have where the catalogue allows; default `k`.

    Returns:
        indices: int32 [B, k], none of the excluded; -1 where nothing was found.
        scores: float32 [B, k], descending; -inf where nothing was found.

    Example:

    >>> from csmf_tf.serving.index import ExactIndex
    >>> index = ExactIndex([[1.0], [2.0], [3.0]], k=2)
    >>> search_without(index, [[1.0], [1.0]], [[2, -1], [2, 0]], k=2)[0].numpy().tolist()
    [[1, 0], [1, -1]]
    """
    queries, fit = usable(queries)
    excluded, distinct = _sorted_once(excluded)
    left_out = tf.reduce_sum(tf.cast(distinct, tf.int32), axis=1)
    # Of an empty batch the maximum is the lowest integer.
    more = tf.maximum(tf.reduce_max(left_out), 0)
    indices, scores = index.search(queries, k + more)
    indices, scores = _drop(indices, scores, excluded, k)
    vectors = tf.convert_to_tensor(index.vectors)
    enough = tf.minimum(k if least is None else least, tf.shape(vectors)[0] - left_out)
    found = tf.reduce_sum(tf.cast(indices >= 0, tf.int32), axis=1)
    short = tf.where(fit[:, 0] & (found < enough))

    def exactly():
        rows = short[:, 0]
        answers = _exactly_without(vectors, tf.gather(queries, rows), tf.gather(excluded, rows), k)
        old = indices, scores
        return tuple(tf.tensor_scatter_nd_update(o, short, a) for o, a in zip(old, answers, strict=True))

    indices, scores = tf.cond(tf.size(short) > 0, exactly, lambda: (indices, scores))
    return padded(indices, scores, fit, k)


def search_among(vectors, queries, allowed, k):
    """Returns the `k` best of the allowed vectors, exactly; of equal scores the first in the catalogue.

    Args:
        vectors: float32 [N, D].
        queries: float [B, D]. One with an entry that is NaN or of 1e9 and more finds nothing.
        allowed: int32 [B, A], indices of vectors; -1 pads, repeats count once.
        k: width of the answer, an integer or a scalar int32 tensor.

    Returns:
        indices: int32 [B, k], -1 where there are no more.
        scores: float32 [B, k], descending; -inf where there are no more.

    Example:

    >>> indices, scores = search_among([[1.0], [2.0], [3.0]], [[1.0]], [[0, 1, 1, -1]], k=3)
    >>> indices.numpy().tolist(), scores.numpy().tolist()
    ([[1, 0, -1]], [[2.0, 1.0, -inf]])
    """
    queries, fit = usable(queries)
    allowed, distinct = _sorted_once(allowed)
    # Gathering from a variable itself would make every later read copy the whole of it.
    vectors = tf.gather(tf.convert_to_tensor(vectors), tf.maximum(allowed, 0))
    scores = tf.einsum("bd,bad->ba", queries, vectors)
    scores, best = tf.math.top_k(tf.where(distinct, scores, -math.inf), tf.minimum(k, tf.shape(allowed)[1]))
    return padded(tf.gather(allowed, best, batch_dims=1), scores, fit, k)


def _sorted_once(indices):
    """Returns each row sorted, and where it holds an index for the first time; -1 is none."""
    indices = tf.sort(indices, axis=1)
    before = tf.pad(indices, [[0, 0], [1, 0]], constant_values=-1)[:, :-1]
    return indices, tf.not_equal(indices, before)


def _drop(indices, scores, excluded, k):
    """Returns the first `k` of each row that are not in its row of `excluded`, which is sorted."""
    # A last column keeps the place found within the row.
    excluded = tf.pad(excluded, [[0, 0], [0, 1]], constant_values=tf.int32.max)
    places = tf.searchsorted(excluded, indices)
    hit = tf.equal(tf.gather(excluded, places, batch_dims=1), indices)
    scores, kept = tf.math.top_k(tf.where(hit, -math.inf, scores), k)
    return tf.where(tf.math.is_finite(scores), tf.gather(indices, kept, batch_dims=1), -1), scores


def _exactly_without(vectors, queries, excluded, k):
    """Returns the `k` best vectors that are not excluded; one query at a time, to bound memory."""
    columns = tf.minimum(k, tf.shape(vectors)[0])

    def one(row):
        query, hidden = row
        hidden = tf.boolean_mask(hidden, hidden >= 0)[:, tf.newaxis]
        scores = tf.linalg.matvec(vectors, query)
        scores = tf.tensor_scatter_nd_update(scores, hidden, tf.fill([tf.shape(hidden)[0]], -math.inf))
        scores, indices = tf.math.top_k(scores, columns)
        return indices, scores

    specs = tf.TensorSpec([None], tf.int32), tf.TensorSpec([None], tf.float32)
    indices, scores = tf.map_fn(one, (queries, excluded), fn_output_signature=specs)
    return padded(indices, scores, tf.constant([[True]]), k)
