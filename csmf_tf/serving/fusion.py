"""Log fusion: the objectives of a request, weighed anew, as one inner product.

`log p_k(i|u) = s_k(u, i) - log Z_k(u)` and `Z_k` does not depend on the item. So ranking items by
`sum_k w_k log p_k` equals ranking them by `sum_k w_k s_k = <a(w) * u, v>` with
`a_d = sum over k >= owner(d) of w_k`: only the query depends on the weights (own choice, where the papers
are silent).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from csmf_tf._keras import tf


def query_scale(owner, weights):
    """Returns the factor of each coordinate of the user vector under fusion weights.

    `a_d = sum over k >= owner(d) of w_k`, and 0 where `owner` is 0, the free coordinates (own choice).

    Args:
        owner: integer [D], the 1-based objective that owns each coordinate of the embedding, 0 = free.
        weights: float [..., K], the fusion weights, upstream first. Integers are cast to float32.

    Returns:
        Float [..., D] of the dtype of `weights`.

    Example:

    >>> query_scale([1, 2, 0], [1.0, 3.0]).numpy().tolist()
    [4.0, 3.0, 0.0]
    """
    weights = tf.convert_to_tensor(weights)
    if not weights.dtype.is_floating:
        weights = tf.cast(weights, tf.float32)
    suffix_sums = tf.cumsum(weights, axis=-1, reverse=True)
    # Column 0 is for free coordinates.
    suffix_sums = tf.concat([tf.zeros_like(suffix_sums[..., :1]), suffix_sums], axis=-1)
    return tf.gather(suffix_sums, tf.cast(owner, tf.int32), axis=-1)


def request_weights(weights, default):
    """Returns the weights a request is answered with; runs inside the exported graph.

    Args:
        weights: float32 [B, K] as received.
        default: float32 [K], taken by rows that are all zero.

    Returns:
        Float32 [B, K].

    Raises:
        tf.errors.InvalidArgumentError: when a weight is negative, infinite or NaN.

    Example:

    >>> request_weights([[0.0, 0.0], [1.0, 3.0]], [1.0, 1.0]).numpy().tolist()
    [[1.0, 1.0], [1.0, 3.0]]
    """
    weights = tf.convert_to_tensor(weights, tf.float32)
    fit = tf.reduce_all(tf.math.is_finite(weights) & (weights >= 0.0))
    message = "`weights` should be finite and not negative. Received: weights="
    with tf.control_dependencies([tf.debugging.Assert(fit, [message, weights])]):
        unset = tf.reduce_all(tf.equal(weights, 0.0), axis=-1, keepdims=True)
        return tf.where(unset, default, weights)


def check_weights(
    weights: Mapping[str, float] | Sequence[float] | np.ndarray | None, objectives: Sequence[str]
) -> np.ndarray:
    """Returns fusion weights as a vector, in the order of the objectives.

    Args:
        weights: a mapping of objective to weight (those left out weigh 0), or one weight for each
            objective, or `None` for 1 everywhere.
        objectives: names of the objectives, upstream first.

    Returns:
        Float32 [K].

    Raises:
        ValueError: on an unknown objective, a wrong length, a weight that is negative or not a finite
            number, or weights that are all zero.

    Example:

    >>> check_weights({"buy": 3}, ["view", "cart", "buy"]).tolist()
    [0.0, 0.0, 3.0]
    """
    objectives = list(objectives)
    received = f"Received: weights={weights!r}"
    if weights is None:
        return np.ones(len(objectives), np.float32)
    if isinstance(weights, Mapping):
        unknown = [name for name in weights if name not in objectives]
        if unknown:
            raise ValueError(
                f"`weights` should name objectives of {objectives}. Unknown: {unknown}. {received}"
            )
        weights = [weights.get(name, 0.0) for name in objectives]
    try:
        values = np.asarray(weights, np.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`weights` should be numbers. {received}") from error
    if values.shape != (len(objectives),):
        raise ValueError(f"`weights` should hold one number for each objective of {objectives}. {received}")
    if not np.all(np.isfinite(values) & (values >= 0)):
        raise ValueError(f"`weights` should be finite and not negative. {received}")
    if not values.any():
        raise ValueError(f"`weights` should hold at least one that is not zero. {received}")
    return values
