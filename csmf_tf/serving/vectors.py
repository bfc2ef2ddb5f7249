"""What the indices share: checks of vectors and numbers, queries that are not usable, results of width k."""

import math

import numpy as np
from numpy.typing import ArrayLike

from csmf_tf._keras import tf

# Squared distances between much larger vectors overflow in ScaNN, which then ends the process.
_TOO_LARGE = 1e9


def positive(name: str, value: object) -> int:
    """Returns `value` as an integer.

    Raises:
        ValueError: when it is not an integer, or below 1.

    Example:

    >>> positive("k", 3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` should be a positive integer. Received: {name}={value!r}")
    return int(value)


def checked_vectors(vectors: ArrayLike) -> np.ndarray:
    """Returns the vectors of a catalogue as float32 [N, D].

    Raises:
        ValueError: when they are not a matrix with N, D >= 1, or an entry is NaN or of 1e9 and more.

    Example:

    >>> checked_vectors([[1, 2]])
    array([[1., 2.]], dtype=float32)
    """
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(
            f"`vectors` should be a matrix [N, D] with N, D >= 1. Received: vectors.shape={vectors.shape}"
        )
    unfit = np.flatnonzero(~np.all(np.abs(vectors) < _TOO_LARGE, axis=1))
    if len(unfit):
        raise ValueError(
            f"`vectors` should be finite and below {_TOO_LARGE:.0e} in magnitude. "
            f"Received: {len(unfit)} rows of {len(vectors)} that are not, the first is row {unfit[0]}"
        )
    return vectors


def usable(queries: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns queries as float32 with the unusable ones made zero, and which are usable.

    One query with an entry that is NaN or of 1e9 and more would fail ScaNN's whole batch.

    Args:
        queries: float [B, D].

    Returns:
        queries: float32 [B, D].
        fit: bool [B, 1].

    Example:

    >>> queries, fit = usable([[1.0, 2.0], [1.0, math.nan]])
    >>> queries.numpy().tolist(), fit.numpy().tolist()
    ([[1.0, 2.0], [0.0, 0.0]], [[True], [False]])
    """
    queries = tf.cast(queries, tf.float32)
    fit = tf.reduce_all(tf.abs(queries) < _TOO_LARGE, axis=-1, keepdims=True)
    return tf.where(fit, queries, 0.0), fit


def padded(
    indices: tf.Tensor, scores: tf.Tensor, fit: tf.Tensor, k: int | tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Marks as missing what is not finite or of an unusable query, and fills up to `k` columns.

    Args:
        indices: int32 [B, <= k].
        scores: float32 [B, <= k].
        fit: bool [B, 1], of `usable`.
        k: the width; a Python integer makes it static.

    Returns:
        indices: int32 [B, k], -1 where missing.
        scores: float32 [B, k], -inf where missing.

    Example:

    >>> indices, scores = padded([[4, 0]], [[2.5, math.nan]], [[True]], k=3)
    >>> indices.numpy().tolist(), scores.numpy().tolist()
    ([[4, -1, -1]], [[2.5, -inf, -inf]])
    """
    found = fit & tf.math.is_finite(scores)
    missing = [[0, 0], [0, k - tf.shape(indices)[1]]]
    indices = tf.pad(tf.where(found, indices, -1), missing, constant_values=-1)
    scores = tf.pad(tf.where(found, scores, -math.inf), missing, constant_values=-math.inf)
    width = None if tf.is_tensor(k) else k
    return tf.ensure_shape(indices, [None, width]), tf.ensure_shape(scores, [None, width])
