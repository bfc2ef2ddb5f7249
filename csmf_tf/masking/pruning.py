"""Cumulative percentile pruning (CPP): which weights a stage gives up.

Pure functions on numpy arrays, computed in float64. "Paper" is CSMF, SIGIR 2025.
"""

import math

import numpy as np


def cumulative_percentile_prune(values: np.ndarray, owned: np.ndarray, tau: float) -> np.ndarray:
    """Frees the smallest weights that together hold at most the share `tau` of the L1 mass.

    Over the owned weights only: sort `|w|` ascending (own choice), take the cumulative sums
    `c_1 <= ... <= c_n` and free every weight with `c_j <= tau * c_n` (paper). So `tau` is a share of the
    layer's L1 mass and not of its count: for Gaussian weights `tau=0.2` frees about half of them. Equal
    weights are freed in index order; weights that are exactly zero hold no mass and are always freed.

    Args:
        values: Float array of any shape, the weights or the importances of units.
        owned: Bool mask of the same shape: what the stage owns. Nothing else is looked at.
        tau: Share of the L1 mass to free, in [0, 1).

    Returns:
        The bool mask of what is freed, of the shape of `values`.

    Raises:
        ValueError: If `tau` is out of range, the shapes differ or an owned value is not finite.

    >>> values = np.array([4.0, -1.0, 2.0, 3.0])
    >>> cumulative_percentile_prune(values, np.array([True, True, True, True]), tau=0.3)
    array([False,  True,  True, False])
    """
    if not 0 <= tau < 1:
        raise ValueError(f"`tau` should be in [0, 1). Received: tau={tau!r}")
    order, mass = _ascending(values, owned)
    total = mass[-1] if mass.size else 0.0
    return _mask(owned, order[: np.searchsorted(mass, tau * total, side="right")])


def prune_to_count(values: np.ndarray, owned: np.ndarray, keep: int) -> tuple[np.ndarray, float]:
    """Frees the smallest weights so that `keep` owned ones remain (own choice).

    Args:
        values: Float array of any shape, the weights or the importances of units.
        owned: Bool mask of the same shape: what the stage owns. Nothing else is looked at.
        keep: How many owned weights remain.

    Returns:
        The bool mask of what is freed, of the shape of `values`, and the `tau` that it amounts to: the freed
        share of the L1 mass. `cumulative_percentile_prune` with this `tau` frees the same weights, as long as
        `tau` is below 1 and the smallest weight that remains is not too small to change the sum.

    Raises:
        ValueError: If `keep` is out of range, the shapes differ or an owned value is not finite.

    >>> freed, tau = prune_to_count(np.array([4.0, -1.0, 2.0, 3.0]), np.full(4, True), keep=2)
    >>> freed, tau
    (array([False,  True,  True, False]), 0.3)
    """
    order, mass = _ascending(values, owned)
    if not 0 <= keep <= order.size or keep != int(keep):
        raise ValueError(
            f"`keep` should be an integer in 0..{order.size}, the number of weights that the stage owns. "
            f"Received: keep={keep!r}"
        )
    count = order.size - int(keep)
    freed = _mask(owned, order[:count])
    if not count or not mass[-1]:
        return freed, 0.0
    tau = float(mass[count - 1] / mass[-1])
    # The division rounds: the threshold `tau * total` must not fall below the sum that it stands for.
    while tau * mass[-1] < mass[count - 1]:
        tau = math.nextafter(tau, 2.0)
    return freed, tau


def _ascending(values: np.ndarray, owned: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks the owned weights by `|w|` and sums them up: their order `[n]` and cumulative sums `[n]`."""
    values, owned = np.asarray(values), np.asarray(owned)
    if owned.dtype != bool or owned.shape != values.shape:
        raise ValueError(
            f"`owned` should be a bool mask of the shape of `values`, {values.shape}. "
            f"Received: dtype {owned.dtype} and shape {owned.shape}"
        )
    sizes = np.abs(values[owned]).astype(np.float64)
    if not np.isfinite(sizes).all():
        raise ValueError(
            "`values` should be finite where they are owned. Received: "
            f"{np.count_nonzero(~np.isfinite(sizes))} values that are NaN or infinite. "
            "The stage has diverged: train it again with a lower learning rate."
        )
    order = np.argsort(sizes, kind="stable")
    return order, np.cumsum(sizes[order])


def _mask(owned: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The mask over all weights of those at `chosen` among the owned ones."""
    mask = np.zeros(np.shape(owned), dtype=bool)
    mask.flat[np.flatnonzero(owned)[chosen]] = True
    return mask
