"""Cells of an inverted file: k-means on a sample, nearest centroids, and the catalogue's rows by cell.

Plain numpy, in chunks of bounded memory, and the same result for the same input and seed.
"""

import numpy as np

# More of either was measured not to find more (own choice).
_SAMPLE_PER_CELL = 32
_ROUNDS = 4
# Numbers worked on at a time: 64 MB.
_CHUNK = 2**24


def train(vectors: np.ndarray, n_cells: int, seed: int = 0) -> np.ndarray:
    """Returns centroids by Lloyd's k-means on a random sample of the vectors.

    Euclidean, not spherical: long vectors, which inner products favour, so get cells of their own.

    Args:
        vectors: float32 [N, D].
        n_cells: number of centroids, at most N.
        seed: of the sample.

    Returns:
        Float32 [n_cells, D].

    Example:

    >>> vectors = np.array([[0, 0], [9, 9], [0, 1], [9, 8]], np.float32)
    >>> sorted(train(vectors, 2).tolist())
    [[0.0, 0.5], [9.0, 8.5]]
    """
    rng = np.random.default_rng(seed)
    rows = rng.choice(len(vectors), min(len(vectors), _SAMPLE_PER_CELL * n_cells), replace=False)
    sample = vectors[rows]
    centroids = sample[:n_cells].copy()
    for _ in range(_ROUNDS):
        cells = assign(sample, centroids)
        order, offsets = pack(cells, n_cells)
        filled = np.flatnonzero(np.diff(offsets))
        sums = np.add.reduceat(sample[order], offsets[filled], axis=0)
        centroids[filled] = sums / np.diff(offsets)[filled, None]
        empty = np.setdiff1d(np.arange(n_cells), filled)
        centroids[empty] = sample[rng.choice(len(sample), len(empty), replace=False)]
    return centroids


def assign(vectors: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Returns the cell of each vector: its nearest centroid, of equally near ones the first.

    Args:
        vectors: float32 [N, D], N may be 0.
        centroids: float32 [C, D].

    Returns:
        Int32 [N].

    Example:

    >>> assign(np.array([[1.0, 1.0], [8.0, 9.0]]), np.array([[9.0, 9.0], [0.0, 0.0]])).tolist()
    [1, 0]
    """
    # The nearest c of v: |v - c|^2 = |v|^2 - 2 (<v, c> - |c|^2 / 2), in one product with a 1 beside v.
    half_squares = 0.5 * np.sum(centroids**2, axis=1, keepdims=True)
    centroids = np.hstack([centroids, -half_squares]).T
    cells = np.empty(len(vectors), np.int32)
    rows = max(_CHUNK // centroids.shape[1], 1)
    for start in range(0, len(vectors), rows):
        part = vectors[start : start + rows]
        part = np.hstack([part, np.ones((len(part), 1), part.dtype)])
        cells[start : start + rows] = np.argmax(part @ centroids, axis=1)
    return cells


def pack(cells: np.ndarray, n_cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows by cell: those of cell c are `order[offsets[c] : offsets[c + 1]]`, ascending.

    Args:
        cells: integer [N], the cell of each row.
        n_cells: number of cells C.

    Returns:
        order: int32 [N].
        offsets: int32 [C + 1].

    Example:

    >>> order, offsets = pack(np.array([2, 0, 2]), 3)
    >>> order.tolist(), offsets.tolist()
    ([1, 0, 2], [0, 1, 1, 3])
    """
    order = np.argsort(cells, kind="stable").astype(np.int32)
    offsets = np.zeros(n_cells + 1, np.int32)
    np.cumsum(np.bincount(cells, minlength=n_cells), out=offsets[1:])
    return order, offsets


def spreads(vectors: np.ndarray, centroids: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Returns the root mean square distance of each cell's vectors to its centroid, 0 for an empty cell.

    Args:
        vectors: float32 [N, D].
        centroids: float32 [C, D].
        cells: integer [N], of `assign`.

    Returns:
        Float32 [C].

    Example:

    >>> vectors, centroids = np.array([[3.0, 0.0], [-4.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 0.0]])
    >>> spreads(vectors, centroids, np.array([0, 1])).tolist()
    [4.0, 4.0]
    """
    squares = np.empty(len(vectors))
    rows = max(_CHUNK // vectors.shape[1], 1)
    for start in range(0, len(vectors), rows):
        part = slice(start, start + rows)
        squares[part] = np.sum((vectors[part] - centroids[cells[part]]) ** 2, axis=1)
    sizes = np.bincount(cells, minlength=len(centroids))
    sums = np.bincount(cells, squares, minlength=len(centroids))
    return np.sqrt(sums / np.maximum(sizes, 1)).astype(np.float32)
