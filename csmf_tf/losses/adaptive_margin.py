"""Cross-stage adaptive margin (AML)."""

from csmf_tf._keras import tf


def adaptive_margin(upstream, positive, margin, temperature=1.0):
    """Margins that spare a negative which the frozen upstream stage also likes.

    `m_j = margin * (1 - sigmoid(s_up(u, j) - s_up(u, i+))) / temperature`, and 0 for the positive itself.
    Added to the logits of the softmax, a negative far below the positive upstream (say an item that the user
    was never shown) must be beaten by up to `margin`, one that upstream ranks above it by next to nothing.
    No gradient flows through the margin. A negative `margin` turns the effect round (an ablation). The idea
    is the CSMF paper's (SIGIR 2025), this formula is the project's own choice.

    Args:
        upstream: float tensor [P, C], upstream scores of each row's candidates.
        positive: int tensor [P], the column of each row's positive.
        margin: float, the largest margin `m0`, in units of the score.
        temperature: float > 0, the temperature by which the scores were divided.

    Returns:
        float32 tensor [P, C].

    Example:

    >>> print(adaptive_margin([[2.0, -8.0, 2.0]], [0], margin=1.0).numpy().round(2))
    [[0.  1.  0.5]]
    """
    upstream = tf.stop_gradient(tf.cast(upstream, tf.float32))
    of_positive = tf.gather(upstream, tf.convert_to_tensor(positive)[:, tf.newaxis], batch_dims=1)
    margins = (margin / temperature) * (1.0 - tf.sigmoid(upstream - of_positive))
    is_positive = tf.one_hot(positive, tf.shape(upstream)[1], on_value=True, off_value=False, dtype=tf.bool)
    return tf.where(is_positive, 0.0, margins)
