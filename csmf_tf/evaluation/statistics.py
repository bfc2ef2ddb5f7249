"""How sure a mean over users is, and whether two rankings measured on the same users differ."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

# Cells of a chunk of resamples: 16 MB of float64, whatever the number of users.
_CELLS = 1 << 21
# Users whose signs one random byte flips.
_BYTE = 8
_SIGNS = 1.0 - 2.0 * np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)

Name = TypeVar("Name", bound=Hashable)


class Difference(NamedTuple):
    """How far the mean of `b` is above that of `a`, over the same users.

    Attributes:
        mean: mean of b - a.
        low: lower bound of its confidence interval.
        high: upper bound of its confidence interval.
        p: two-sided p value of "a and b are interchangeable".
    """

    mean: float
    low: float
    high: float
    p: float


def intervals(
    values: Mapping[Name, np.ndarray], level: float = 0.95, repeats: int = 1000, seed: int = 0
) -> dict[Name, tuple[float, float]]:
    """Confidence intervals of means over users, by the percentile bootstrap.

    Users are drawn with replacement, as many as there are, `repeats` times; the interval holds the middle
    `level` of the means so found (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13).
    All metrics see the same draws, so the interval of one does not depend on which others are there.

    A draw is a vector of how often each user came up, and many draws are one matrix product: the same as
    `scipy.stats.bootstrap(method="percentile")`, which is some 18 times slower at 100,000 users x 15 metrics.

    Args:
        values: name -> the metric of each user, numeric `[n]`; the users are the same for all names.
        level: probability that the interval aims to hold the true mean with, in (0, 1).
        repeats: number of draws.
        seed: seed of the draws.

    Returns:
        name -> (low, high); (nan, nan) of no users, and twice the value of a single one.

    Raises:
        ValueError: if a value is not finite, lengths differ, or an argument is out of range.

    Example:
        >>> low, high = intervals({"recall@5": np.array([0.0, 1.0, 0.5, 0.5] * 25)})["recall@5"]
        >>> print(f"{low:.2f} to {high:.2f}")
        0.43 to 0.57
    """
    _check(level, repeats)
    columns = _columns(values)
    if not columns.size:
        return dict.fromkeys(values, (np.nan, np.nan))
    n = len(columns)
    means = np.concatenate([counts @ columns / n for counts in _draws(n, repeats, seed)])
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0).tolist()
    return dict(zip(values, zip(low, high, strict=True), strict=True))


def sign_flip_test(difference: np.ndarray, repeats: int = 10_000, seed: int = 0) -> float:
    """Two-sided p value of a paired randomisation test (Fisher, The Design of Experiments, 1935).

    If two rankings are interchangeable, the difference of each user could as well have the other sign. The p
    value is the share of all assignments of signs under which the mean is at least as far from 0 as it is.

    All assignments are tried where `repeats` allows (at most 13 users that differ by default); else
    p = (1 + r) / (1 + repeats), where r of `repeats` random ones are as far from 0 (Phipson and Smyth, 2010),
    so p is never 0. `scipy.stats.permutation_test` gives the same; at 100,000 users it takes minutes where
    signs taken eight at a time from a table take half a second.

    Args:
        difference: b - a of each user, numeric `[n]`.
        repeats: number of random assignments.
        seed: seed of the assignments.

    Returns:
        p in (0, 1]; 1.0 where no user differs.

    Raises:
        ValueError: if a value is not finite or an argument is out of range.

    Example:
        >>> sign_flip_test(np.array([0.1, 0.2, 0.1, 0.3, 0.0]))
        0.125
    """
    _check(0.5, repeats)
    difference = _columns({"difference": difference})[:, 0]
    # A difference of 0 has no sign.
    difference = difference[difference != 0]
    # Sums of the same numbers differ by rounding; those are ties.
    limit = np.abs(difference.sum()) - 1e-12 * np.abs(difference).sum()
    if 2 ** min(len(difference), 64) <= repeats:
        return float(np.mean(np.abs(_all_sums(difference)) >= limit))
    extreme = np.count_nonzero(np.abs(_random_sums(difference, repeats, seed)) >= limit)
    return float((1 + extreme) / (1 + repeats))


def paired_test(
    a: np.ndarray,
    b: np.ndarray,
    level: float = 0.95,
    repeats: int = 10_000,
    resamples: int = 1000,
    seed: int = 0,
) -> Difference:
    """Compares two rankings by one metric of the same users, in the same order.

    Args:
        a: the metric of each user under the one, numeric `[n]`.
        b: the same under the other.
        level: as in `intervals`.
        repeats: number of random assignments of signs, see `sign_flip_test`.
        resamples: number of draws for the interval, see `intervals`.
        seed: seed of both.

    Returns:
        the `Difference` b - a; of no users nan, with p = 1.

    Raises:
        ValueError: if the lengths differ, a value is not finite, or an argument is out of range.

    Example:
        >>> a = np.array([0.0, 0.5, 0.5, 1.0])
        >>> paired_test(a, a)
        Difference(mean=0.0, low=0.0, high=0.0, p=1.0)
    """
    columns = _columns({"a": a, "b": b})
    difference = columns[:, 1] - columns[:, 0]
    mean = float(difference.mean()) if len(difference) else np.nan
    low, high = intervals({"b - a": difference}, level, resamples, seed)["b - a"]
    return Difference(mean, low, high, sign_flip_test(difference, repeats, seed))


def holm(p: Sequence[float] | np.ndarray) -> np.ndarray:
    """Adjusts the p values of several tests, so that all stand together at one level.

    With p_(1) <= ... <= p_(m): adjusted p_(i) = max over j <= i of min(1, (m - j + 1) p_(j)). Calling those
    below alpha different holds the probability of any false call below alpha (Holm, 1979).

    Args:
        p: p values `[m]`.

    Returns:
        float64 `[m]`, in the order of `p`.

    Raises:
        ValueError: if a p value is not in [0, 1].

    Example:
        >>> holm([0.01, 0.04, 0.03]).tolist()
        [0.03, 0.06, 0.06]
    """
    p = np.asarray(p, np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"`p` should be a list of numbers in [0, 1]. Received: p={p.tolist()}.")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1)


def _draws(n: int, repeats: int, seed: int) -> Iterator[np.ndarray]:
    """Float64 `[chunk, n]`: how often each user came up in each of the draws of a chunk."""
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS // n)
    for start in range(0, repeats, step):
        counts = np.empty((min(step, repeats - start), n))
        for row in counts:
            row[:] = np.bincount(rng.integers(n, size=n), minlength=n)
        yield counts


def _random_sums(difference: np.ndarray, repeats: int, seed: int) -> np.ndarray:
    """Float64 `[repeats]`: sums under random signs."""
    rng = np.random.default_rng(seed)
    sums = np.zeros(repeats)
    for block in _blocks(difference):
        sums += (_SIGNS @ block)[rng.integers(256, size=repeats, dtype=np.uint8)]
    return sums


def _all_sums(difference: np.ndarray) -> np.ndarray:
    """Float64 `[2^n]`: sums under every assignment of signs."""
    sums = np.zeros(1)
    for value in difference:
        sums = np.concatenate([sums + value, sums - value])
    return sums


def _blocks(difference: np.ndarray) -> np.ndarray:
    """The differences by eights, float64 `[blocks, 8]`; the last block is filled with zeros."""
    missing = -len(difference) % _BYTE
    return np.append(difference, np.zeros(missing)).reshape(-1, _BYTE)


def _columns(values: Mapping[Name, np.ndarray]) -> np.ndarray:
    """Float64 `[n, metrics]`."""
    columns = [np.asarray(value, np.float64) for value in values.values()]
    shapes = {column.shape for column in columns}
    if len(shapes) > 1 or any(len(shape) != 1 for shape in shapes):
        found = {name: column.shape for name, column in zip(values, columns, strict=True)}
        raise ValueError(f"Values should be one number for each user, of the same users. Received: {found}.")
    matrix = np.stack(columns, axis=1) if columns else np.empty((0, 0))
    if not np.isfinite(matrix).all():
        raise ValueError("Values of users should be finite numbers. Received: NaN or infinity.")
    return matrix


def _check(level: float, repeats: int) -> None:
    if not 0 < level < 1:
        raise ValueError(f"`level` should be in (0, 1), e.g. 0.95. Received: level={level}.")
    if repeats < 1:
        raise ValueError(f"`repeats` should be an integer >= 1. Received: repeats={repeats}.")
