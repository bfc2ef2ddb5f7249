"""Virtual negatives, mixed from the vectors of real ones (EDIS of ESANS)."""

import numpy as np
import scipy.linalg

from csmf_tf._keras import tf


def virtual_count(anchors: int) -> int:
    """How many simple virtual negatives a cluster gives: (m_o + 2) (m_o - 1) / 2, k for each k = 2..m_o.

    Example:

    >>> virtual_count(5)
    14
    """
    return (anchors + 2) * (anchors - 1) // 2


def mixing_weights(clusters: int, anchors: int, concentration: float, rng: np.random.Generator) -> np.ndarray:
    """Draws the weights of simple virtual negatives.

    For each k = 2..m_o there are k convex combinations of k random anchors of a cluster (ESANS, WWW 2025),
    their weights Dirichlet(concentration) (own choice).

    Args:
        clusters: m_c.
        anchors: m_o >= 2, the items drawn from each.
        concentration: of the Dirichlet distribution, > 0; 1 is uniform over all weights that sum to 1, more
            is nearer to equal weights.
        rng: the random generator.

    Returns:
        float32 [m_c V, m_c m_o], V = (m_o + 2)(m_o - 1) / 2: row v holds the weights of virtual negative v,
        which sum to 1 and are 0 for anchors left out and those of other clusters.

    Example:

    >>> weights = mixing_weights(2, 3, 1.0, np.random.default_rng(0))
    >>> weights.shape, (weights > 0).sum(axis=1).tolist()
    ((10, 6), [2, 2, 3, 3, 3, 2, 2, 3, 3, 3])
    """
    sizes = np.repeat(np.arange(2, anchors + 1), np.arange(2, anchors + 1))
    used = np.argsort(rng.random((clusters, len(sizes), anchors)), axis=2) < sizes[:, np.newaxis]
    # A small concentration gives zeros: they still sum to 1.
    drawn = np.maximum(rng.standard_gamma(concentration, used.shape), np.finfo(np.float32).tiny)
    weights = np.where(used, drawn, 0.0)
    weights /= weights.sum(axis=2, keepdims=True)
    return scipy.linalg.block_diag(*weights).astype(np.float32)


def simple_virtual(anchors, mixing):
    """Convex combinations of the anchors of each cluster: `e_v = sum_j w_vj e_j`.

    Args:
        anchors: float tensor [..., m_c m_o, D], cluster by cluster.
        mixing: float tensor [m_c V, m_c m_o], as `mixing_weights` draws it.

    Returns:
        float tensor [..., m_c V, D].

    Example:

    >>> halves = tf.constant([[0.5, 0.5], [0.25, 0.75]])
    >>> print(simple_virtual(tf.constant([[0.0, 2.0], [4.0, 2.0]]), halves).numpy())
    [[2. 2.]
     [3. 2.]]
    """
    return tf.matmul(mixing, anchors)


def simple_log_q(log_q, mixing):
    """The corrections of simple virtual negatives: those of their anchors, mixed as the vectors are.

    So a corrected logit is the same mix of corrected logits, and an anchor alone is itself (own choice).

    Args:
        log_q: float tensor [..., m_c m_o], the corrections of the anchors.
        mixing: float tensor [m_c V, m_c m_o].

    Returns:
        float tensor [..., m_c V].
    """
    return tf.linalg.matvec(mixing, log_q)


def simple_from(marked, mixing):
    """Whether a simple virtual negative is made from a marked anchor.

    Args:
        marked: bool tensor [R, m_c m_o].
        mixing: float tensor [m_c V, m_c m_o].

    Returns:
        bool tensor [R, m_c V].
    """
    used = tf.cast(mixing > 0, tf.float32)
    return tf.matmul(tf.cast(marked, tf.float32), used, transpose_b=True) > 0


def hardest(scores, unfit, count):
    """The columns of the highest scores of each row, without gradient.

    Args:
        scores: float tensor [R, C].
        unfit: bool tensor [R, C], columns that are not to be chosen while there are others.
        count: how many, at most C.

    Returns:
        int32 tensor [R, count].
    """
    return tf.math.top_k(tf.where(unfit, scores.dtype.min, tf.stop_gradient(scores)), count).indices


def hard_virtual(positive, hard, share):
    """Points between the positive and a hard negative: `e = beta e_positive + (1 - beta) e_hard`.

    Args:
        positive: float tensor [R, D].
        hard: float tensor [R, B, D].
        share: float tensor [R, B], beta, uniform in (lambda, cap) (own choice).

    Returns:
        float tensor [R, B, D].

    Example:

    >>> print(hard_virtual(tf.constant([[4.0]]), tf.constant([[[0.0]]]), tf.constant([[0.25]])).numpy())
    [[[1.]]]
    """
    beta = share[..., tf.newaxis]
    return beta * positive[:, tf.newaxis] + (1.0 - beta) * hard
