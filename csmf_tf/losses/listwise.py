"""Listwise multi-step prediction (LMP): a softmax over each of the next items."""

from csmf_tf._keras import tf


def listwise_multi_step(logits, targets, weights, one_list=False):
    """Weighed negative log-likelihood of the next items of each position (LMP of HeterRec).

    `L_q = - sum_h w_qh log( e^{s_qh} / (e^{s_qh} + sum over j not in the targets of q of e^{s_qj}) )`

    with `s_qh` the logit of target h: a step has all columns but the position's other targets for negatives.
    With `one_list` they stand in one softmax, `L_q = - sum_h w_qh log( e^{s_qh} / sum_j e^{s_qj} )`. With one
    target either is the softmax of the next item. The idea is the HeterRec paper's, the formula the project's
    own choice. Computed in float32 whatever the dtype of the logits.

    Args:
        logits: float tensor [Q, C].
        targets: int tensor [Q, H], columns of the next items, different ones in a row; -1 pads.
        weights: float tensor [Q, H], of the steps; those of pads do not count.
        one_list: whether all targets of a position stand in one softmax.

    Returns:
        float32 tensor [Q].

    Example:

    >>> logits, targets = tf.math.log([[1.0, 2.0, 1.0]]), [[1, 0]]
    >>> print(f"{tf.exp(-listwise_multi_step(logits, targets, [[1.0, 0.0]]))[0]:.2f}")
    0.67
    >>> print(f"{tf.exp(-listwise_multi_step(logits, targets, [[1.0, 0.0]], one_list=True))[0]:.2f}")
    0.50
    """
    logits = tf.cast(logits, tf.float32)
    targets = tf.convert_to_tensor(targets)
    # A position with one target has no others to leave out, and to look for them copies all logits.
    one_list = one_list or targets.shape[1] == 1
    valid = tf.where(targets >= 0)
    column = tf.cast(tf.gather_nd(targets, valid), tf.int64)
    at = tf.stack([valid[:, 0], column], axis=1)
    weight = tf.gather_nd(tf.cast(weights, tf.float32), valid)
    row, rows = valid[:, 0], tf.shape(logits, tf.int64)[0]

    # As in `softmax_nll`, an automatic gradient would read and write [Q, C] values more often.
    @tf.custom_gradient
    def nll(logits):
        scores = tf.gather_nd(logits, at)
        others = logits
        if not one_list:
            others = tf.tensor_scatter_nd_update(logits, at, tf.fill(tf.shape(scores), logits.dtype.min))
        top = tf.reduce_max(others, axis=1, keepdims=True)
        mass = tf.exp(others - top)
        total = tf.reduce_sum(mass, axis=1, keepdims=True)
        log_z = tf.gather(tf.squeeze(top + tf.math.log(total), axis=1), row)
        # Of the mass beside a step's own: what the gradient pushes down.
        missed = tf.ones_like(scores) if one_list else tf.sigmoid(log_z - scores)
        steps = log_z - scores if one_list else tf.nn.softplus(log_z - scores)

        def gradient(upstream):
            pull = tf.gather(upstream, row) * weight * missed
            of_row = tf.math.unsorted_segment_sum(pull, row, rows)
            return tf.tensor_scatter_nd_sub(mass * (of_row[:, tf.newaxis] / total), at, pull)

        return tf.math.unsorted_segment_sum(weight * steps, row, rows), gradient

    return nll(logits)
