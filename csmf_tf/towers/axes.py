"""Principal axes of a segment: the basis in which few coordinates hold most of the scores."""

from typing import NamedTuple

import numpy as np

_ROWS = 65_536


class Axes(NamedTuple):
    """Changes of basis of users and items, float64 `[d, d]`, and what each new coordinate holds, `[d]`."""

    users: np.ndarray
    items: np.ndarray
    held: np.ndarray


def principal_axes(users: np.ndarray, items: np.ndarray, orthogonal: bool = False) -> Axes:
    """Changes of basis that keep all scores and sort the coordinates by what they hold.

    With the second moments `G_u` and `G_v` of both sides and the singular value decomposition
    `G_u^(1/2) G_v^(1/2) = P S Q^T`,

    `A_u = c G_u^(-1/2) P S^(1/2)`, `A_v = G_v^(-1/2) Q S^(1/2) / c`

    so that `(u A_u) . (v A_v) = u . v`, and the first n coordinates are the best n for the mean squared score
    over all pairs (Eckart and Young). `c` keeps the ratio of the sides' lengths (own choice). What a
    coordinate holds is the root of the product of its mean squares on both sides, here its entry of `S`.

    Args:
        users: float [U, d], user vectors.
        items: float [N, d], item vectors.
        orthogonal: whether both sides are turned alike, by the eigenvectors of the mean of their moments,
            each of trace 1; lengths stay as they are then.

    Returns:
        `Axes`: `A_u`, `A_v`, and what each coordinate holds.

    Example:

    >>> users, items = np.array([[3.0, 3.0], [0.1, -0.1]]), np.array([[1.0, 1.0], [1.0, -1.0]])
    >>> axes = principal_axes(users, items)
    >>> np.abs(users[:1] @ axes.users).round(2).tolist(), np.allclose(axes.users @ axes.items.T, np.eye(2))
    ([[3.57, 0.0]], True)
    >>> axes.held.round(2).tolist()
    [3.0, 0.1]
    """
    moments = [_moment(side) for side in (users, items)]
    # A side may not reach all coordinates: what it lacks is as good as nothing.
    moments = [g + 1e-9 * max(np.trace(g), 1e-30) * np.eye(len(g)) for g in moments]
    traces = [np.trace(g) for g in moments]
    if orthogonal:
        mean = sum(g / trace for g, trace in zip(moments, traces, strict=True))
        turn = np.linalg.eigh(mean)[1][:, ::-1]
        changes = turn, turn
    else:
        (root_u, inverse_u), (root_v, inverse_v) = map(_roots, moments)
        p, s, qt = np.linalg.svd(root_u @ root_v)
        c = (traces[0] / traces[1]) ** 0.25
        changes = c * inverse_u @ p * np.sqrt(s), inverse_v @ qt.T * np.sqrt(s) / c
    squares = [np.einsum("ij,ik,kj->j", a, g, a) for a, g in zip(changes, moments, strict=True)]
    return Axes(*changes, np.sqrt(squares[0] * squares[1]))


def _moment(side: np.ndarray) -> np.ndarray:
    """Mean of v v^T over the rows, in double precision, a part of them at a time."""
    parts = (side[at : at + _ROWS].astype(np.float64) for at in range(0, len(side), _ROWS))
    return sum((part.T @ part for part in parts), np.zeros([side.shape[1]] * 2)) / len(side)


def _roots(moment: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The square root of a symmetric positive matrix, and the inverse of that."""
    values, vectors = np.linalg.eigh(moment)
    roots = np.sqrt(values)
    return (vectors * roots) @ vectors.T, (vectors / roots) @ vectors.T
