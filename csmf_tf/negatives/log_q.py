"""The sampling correction of in-batch and uniform negatives."""

import numpy as np


def log_expected_count(frequency: np.ndarray, n_items: int, in_batch: int, uniform: int) -> np.ndarray:
    """Log of how often each candidate is expected among the negatives of a row.

    `log Q(i) = log(in_batch * frequency(i) + uniform / n_items)`

    Subtracted from the logits of what is sampled, it makes the sampled softmax an estimate of the full one
    (Yi et al., RecSys 2019; the mixture as in Yang et al., WWW 2020): without accidental hits, the mean of
    `sum_j exp(s_j) / Q(j)` over the negatives is the sum of `exp(s_i)` over all items but the positive. The
    positive is always there, so it is not corrected (own choice). Computed in float64 and never clipped, so
    it is right for any number of items.

    Args:
        frequency: float [C], each candidate's share of the training positives.
        n_items: number of items that uniform negatives are drawn from.
        in_batch: other rows' positives that serve a row as negatives; 0 for none.
        uniform: negatives a step drawn uniformly from all items; 0 for none.

    Returns:
        float32 [C]; 0 for candidates that are never drawn.

    Example:

    >>> np.exp(log_expected_count(np.array([0.75, 0.25]), n_items=2, in_batch=8, uniform=2)).round(3).tolist()
    [7.0, 3.0]
    """
    expected = in_batch * np.asarray(frequency, np.float64) + uniform / n_items
    return np.log(expected, where=expected > 0, out=np.zeros_like(expected)).astype(np.float32)
