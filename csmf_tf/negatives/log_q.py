"""The sampling correction of negatives that are drawn with a known probability."""

import numpy as np


def log_expected_count(probability: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Log of how often each candidate is expected among the negatives of a row.

    `log Q(i) = log(sum_s count_s * probability_s(i))`

    over the sources s that the negatives come from, say the other rows of the batch and uniform draws.
    Subtracted from the logits of what is sampled, it makes the sampled softmax an estimate of the full one
    (Yi et al., RecSys 2019; the mixture as in Yang et al., WWW 2020): without accidental hits, the mean of
    `sum_j exp(s_j) / Q(j)` over the negatives is the sum of `exp(s_i)` over all items but the positive. The
    positive is always there, so it is not corrected (own choice). Computed in float64 and never clipped, so
    it is right for any number of items.

    Args:
        probability: float [S, C], with which one draw of each source is each candidate.
        count: [S], the number of draws of each source.

    Returns:
        float32 [C]; 0 for candidates that are never drawn.

    Example:

    >>> frequency, uniform = np.array([0.75, 0.25]), np.full(2, 0.5)
    >>> np.exp(log_expected_count([frequency, uniform], count=[8, 2])).round(3).tolist()
    [7.0, 3.0]
    """
    expected = np.asarray(count, np.float64) @ np.asarray(probability, np.float64)
    return np.log(expected, where=expected > 0, out=np.zeros_like(expected)).astype(np.float32)
