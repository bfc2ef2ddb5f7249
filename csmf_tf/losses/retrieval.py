"""Retrieval softmax over a catalogue or over sampled candidates."""

import functools

from csmf_tf._keras import tf


def softmax_nll(logits, positive, row=None, excluded=None):
    """Negative log-likelihood of positives under the softmax of their row.

    `-log p(positive) = logsumexp_j(logits[row, j]) - logits[row, positive]`

    computed in float32 whatever the dtype of the logits. Several positives may share a row, each is then
    scored against the same normaliser (the multinomial likelihood of the row's positives).

    Args:
        logits: float tensor [R, C].
        positive: int tensor [P], the column of each positive.
        row: int tensor [P], the row of each positive. By default positive `p` belongs to row `p`.
        excluded: bool tensor [R, C]; columns that take no part in the row's softmax: their probability
            is exactly 0 and no gradient reaches them. A positive must not be excluded.

    Returns:
        float32 tensor [P].

    Example:

    >>> nll = softmax_nll(tf.math.log([[1.0, 2.0, 1.0]]), [1])
    >>> print(f"{tf.exp(-nll)[0]:.2f}")
    0.50
    >>> nll = softmax_nll(tf.math.log([[1.0, 2.0, 1.0]]), [1], excluded=[[False, False, True]])
    >>> print(f"{tf.exp(-nll)[0]:.2f}")
    0.67
    """
    logits = tf.cast(logits, tf.float32)
    positive = tf.convert_to_tensor(positive)
    if row is None:
        row = tf.range(tf.size(positive, out_type=positive.dtype))
    at = tf.stack([row, positive], axis=1)

    # The automatic gradient would read and write [R, C] values about twice as often.
    @tf.custom_gradient
    def nll(logits):
        if excluded is not None:
            logits = tf.where(excluded, logits.dtype.min, logits)
        top = tf.reduce_max(logits, axis=1, keepdims=True)
        mass = tf.exp(logits - top)
        total = tf.reduce_sum(mass, axis=1, keepdims=True)
        log_z = tf.squeeze(top + tf.math.log(total), axis=1)

        def gradient(weight):
            of_row = tf.math.unsorted_segment_sum(weight, row, tf.shape(logits)[0])
            return tf.tensor_scatter_nd_sub(mass * (of_row[:, tf.newaxis] / total), at, weight)

        return tf.gather(log_z, row) - tf.gather_nd(logits, at), gradient

    return nll(logits)


def accidental_hits(positive_item, candidate_item, positive):
    """Marks candidates that are the row's own positive item under another column.

    Args:
        positive_item: int tensor [R], the item of each row's positive, or [R, H], all those that are none of
            its negatives, -1 pads.
        candidate_item: int tensor [C], the items of the candidate columns.
        positive: int tensor [R], the column that holds the positive itself (never marked).

    Returns:
        bool tensor [R, C], to be passed to `softmax_nll` as `excluded`.

    Example:

    >>> print(accidental_hits([7, 8], [7, 8, 7], [0, 1]).numpy().astype(int))
    [[0 0 1]
     [0 0 0]]
    """
    positive_item, candidate_item = tf.convert_to_tensor(positive_item), tf.convert_to_tensor(candidate_item)
    some = [positive_item] if positive_item.shape.rank == 1 else tf.unstack(positive_item, axis=1)
    # One after the other: [R, H, C] would be H times as large.
    same = functools.reduce(tf.logical_or, [one[:, tf.newaxis] == candidate_item for one in some])
    itself = tf.stack([tf.range(tf.size(positive)), positive], axis=1)
    return tf.tensor_scatter_nd_update(same, itself, tf.zeros([tf.size(positive)], tf.bool))
