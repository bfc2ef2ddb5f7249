"""Fusion: the objectives of a request, weighed anew.

Log fusion: `log p_k(i|u) = s_k(u, i) - log Z_k(u)` and `Z_k` does not depend on the item. So ranking items by
`sum_k w_k log p_k` equals ranking them by `sum_k w_k s_k = <a(w) * u, v>` with
`a_d = sum over k >= owner(d) of w_k`: only the query depends on the weights (own choice, where the papers
are silent).

Linear fusion: `sum_k w_k p_k` is no inner product. A shortlist by log fusion is ranked anew by it, with `Z_k`
summed over the whole catalogue: a request scores every item K times, whatever the index.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from csmf_tf._keras import tf

FUSIONS = ("log", "linear")
"""What `export` takes as `fusion`."""

# Kernels may take numbers below the least normal one for zero.
_TINY = float(np.finfo(np.float32).tiny)
# Scores held at a time where a request needs those of the whole catalogue: 16 MB.
_BLOCK = 1 << 22


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
        default: float32 [K], taken by rows that are all zero. What is below 1.2e-38, the least normal number,
            counts as zero.

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
        unset = tf.reduce_all(weights < _TINY, axis=-1, keepdims=True)
        return tf.where(unset, default, weights)


def split_weights(weights):
    """Splits weights into shares of the largest and the largest, so that no product with them overflows.

    Args:
        weights: float32 [B, K], not negative, none of the rows all zero.

    Returns:
        shares: float32 [B, K] in [0, 1].
        largest: float32 [B, 1].

    Example:

    >>> shares, largest = split_weights(tf.constant([[1.0, 4.0]]))
    >>> shares.numpy().tolist(), largest.numpy().tolist()
    ([[0.25, 1.0]], [[4.0]])
    """
    largest = tf.reduce_max(weights, axis=-1, keepdims=True)
    return weights / largest, largest


def objective_queries(users, owner, objectives):
    """Returns a query for each objective: `<query_k, v> = s_k(u, i)`.

    Args:
        users: float32 [B, D].
        owner: integer [D], the 1-based objective that owns each coordinate of the embedding, 0 = free.
        objectives: K.

    Returns:
        Float32 [B, K, D].

    Example:

    >>> objective_queries(tf.constant([[3.0, 5.0, 7.0]]), [2, 1, 0], 2).numpy().tolist()
    [[[0.0, 5.0, 0.0], [3.0, 5.0, 0.0]]]
    """
    owner = np.asarray(owner)
    stages = np.arange(1, objectives + 1)[:, np.newaxis]
    return tf.where((owner >= 1) & (owner <= stages), users[:, tf.newaxis, :], 0.0)


def log_partition(queries, vectors):
    """Returns `log Z = log sum_i exp <q, v_i>` over a catalogue, a block of items at a time.

    Args:
        queries: float32 [B, K, D], finite.
        vectors: float32 [N, D], a tensor or variable.

    Returns:
        Float32 [B, K]. Takes B * K * N * D multiplications, and some 50 MB at any N.

    Example:

    >>> log_z = log_partition(tf.zeros([1, 2, 3]), tf.ones([10, 3]))
    >>> np.exp(log_z.numpy()).round(3).tolist()
    [[10.0, 10.0]]
    """
    flat = tf.reshape(queries, [-1, queries.shape[-1]])
    items = tf.shape(vectors)[0]
    block = tf.maximum(_BLOCK // tf.maximum(tf.shape(flat)[0], 1), 1)

    def add(start, total):
        scores = tf.matmul(flat, vectors[start : start + block], transpose_b=True)
        parts = tf.stack([total, tf.reduce_logsumexp(scores, axis=1)])
        return start + block, tf.reduce_logsumexp(parts, axis=0)

    nothing = tf.fill([tf.shape(flat)[0]], -math.inf)
    # One block after the other, as several at a time take the memory of several.
    _, total = tf.while_loop(lambda start, _: start < items, add, (0, nothing), parallel_iterations=1)
    return tf.reshape(total, tf.shape(queries)[:2])


def log_mixture(log_probabilities, weights):
    """Returns `log sum_k w_k p_k`, by which linear fusion ranks; it tells apart what underflows as `p_k`.

    Args:
        log_probabilities: float32 [B, A, K], below +inf.
        weights: float32 [B, K], not negative.

    Returns:
        Float32 [B, A].

    Example:

    >>> log_mixture(tf.constant([[[-1000.0, -200.0]]]), tf.constant([[1.0, 0.0]])).numpy().tolist()
    [[-1000.0]]
    """
    return tf.reduce_logsumexp(log_probabilities + tf.math.log(weights)[:, tf.newaxis, :], axis=-1)


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
    if np.all(values < _TINY):
        raise ValueError(f"`weights` should hold at least one that is not zero. {received}")
    return values
