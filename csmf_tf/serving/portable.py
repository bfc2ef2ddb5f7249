"""Approximate search in stock TensorFlow operations only: an inverted file.

The catalogue is parted into cells by k-means; a query scores the centroids, then the vectors of the best
cells. It runs where TensorFlow does: in an unmodified TensorFlow Serving, in C, without Python.
"""

import math

import numpy as np
from numpy.typing import ArrayLike

from csmf_tf._keras import tf
from csmf_tf.serving import cells as cells_of
from csmf_tf.serving.exact import search_all
from csmf_tf.serving.vectors import checked_vectors, padded, positive, usable

# Scanning fewer vectors is as fast, and misses none (measured).
_EXACT_BELOW = 50_000
# With 4 sqrt(N) cells these hold 32 sqrt(N) vectors (measured: recall@50 above 0.95 on hard vectors).
_PROBES = 128
# Vectors to score for each result: fewer would miss too many of the true ones (own choice).
_CANDIDATES = 16
# How many standard deviations above its mean a cell's best vectors score (measured: 1 to 3 do as well).
_DEVIATIONS = 2.0


class PortableIndex(tf.Module):
    """Inverted file: scores the vectors of the cells that promise most.

    A cell promises `<q, c> + 2 |q| r / sqrt(D)` to a query: the score of its centroid c, and two standard
    deviations of its members' scores, were they spread evenly about it with root mean square distance r
    (own choice). Without that term wide cells of long vectors, popular items, are missed, most of all
    when fusion weights leave out a part of the coordinates. The same vectors make the same index.

    Args:
        vectors: float [N, D], N >= 1, every entry below 1e9 in magnitude.
        k: default number of results for each query; may exceed N.
        cells: number of cells, at most N; 1 scans all, which is exact. Default `4 * sqrt(N)`, for
            N < 50,000 it is 1.
        probes: cells that a query looks into, at most `cells`; default 128, and more where those would
            hold fewer than `16 * k` vectors.

    Attributes:
        vectors: `tf.Variable`, float32 [N, D] with N not fixed.
        order: `tf.Variable`, int32 [N] with N not fixed: the rows of `vectors` by cell.
        offsets: `tf.Variable`, int32 [C + 1]: the rows of cell c are `order[offsets[c] : offsets[c + 1]]`.
        centroids: `tf.Variable`, float32 [C, D].
        spreads: `tf.Variable`, float32 [C], r of each cell.
        settings: `cells` and `probes` as chosen.

    Raises:
        ValueError: when `vectors` is not such a matrix or one of the numbers not a positive integer.

    Example:

    >>> vectors = [[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]]
    >>> indices, scores = PortableIndex(vectors, k=3, cells=2, probes=1).search([[1.0, 2.0]])
    >>> indices.numpy().tolist(), scores.numpy().tolist()
    ([[2, 1, -1]], [[6.0, 4.0, -inf]])
    """

    def __init__(self, vectors: ArrayLike, k: int, *, cells: int | None = None, probes: int | None = None):
        super().__init__()
        vectors = checked_vectors(vectors)
        n, dim = vectors.shape
        self.k = positive("k", k)
        if cells is None:
            cells = 1 if n < _EXACT_BELOW else round(4 * math.sqrt(n))
        cells = min(positive("cells", cells), n)
        if probes is None:
            probes = max(_PROBES, math.ceil(_CANDIDATES * self.k * cells / n))
        probes = min(positive("probes", probes), cells)
        self.settings = {"cells": cells, "probes": probes}

        centroids = cells_of.train(vectors, cells)
        cell = cells_of.assign(vectors, centroids)
        order, offsets = cells_of.pack(cell, cells)
        self.vectors = tf.Variable(vectors, trainable=False, name="vectors", shape=[None, dim])
        self.order = tf.Variable(order, trainable=False, name="order", shape=[None])
        self._arranged = False
        self.offsets = tf.Variable(offsets, trainable=False, name="offsets", shape=[None])
        self.centroids = tf.Variable(centroids, trainable=False, name="centroids")
        self.spreads = tf.Variable(
            cells_of.spreads(vectors, centroids, cell), trainable=False, name="spreads"
        )

    def arrange(self) -> np.ndarray:
        """Sorts the rows of `vectors` by cell, which makes the search up to twice as fast.

        Call it before `search` is traced. `order` is then 0, 1, ..., N - 1 and no longer read.

        Returns:
            Int32 [N]: row i of `vectors` is now what row `order[i]` was; the items' ids have to follow.

        Example:

        >>> index = PortableIndex([[1.0, 0.0], [0.0, 2.0], [1.1, 0.0]], k=1, cells=2, probes=2)
        >>> ids = np.array(["i1", "i2", "i3"])[index.arrange()]
        >>> indices, _ = index.search([[0.0, 1.0], [1.0, 0.0]])
        >>> ids[indices.numpy()[:, 0]].tolist()
        ['i2', 'i3']
        """
        order = self.order.numpy()
        self.vectors.assign(self.vectors.numpy()[order])
        self.order.assign(np.arange(len(order), dtype=np.int32))
        self._arranged = True
        return order

    def search(self, queries, k=None):
        """Returns about the `k` vectors of the highest inner product with each query.

        Args:
            queries: float [B, D]. One with an entry that is NaN or of 1e9 and more finds nothing.
            k: number of results, an integer or a scalar int32 tensor; default that of the index. Where
                it is larger, more cells may be searched.

        Returns:
            indices: int32 [B, k], -1 where nothing was found.
            scores: float32 [B, k], descending, -inf where nothing was found.
        """
        if self.settings["cells"] == 1:
            return search_all(queries, self.vectors, self.k if k is None else k)
        queries, fit = usable(queries)
        cells = self._best_cells(queries, self._probes(k))
        k = self.k if k is None else k
        vectors, offsets = tf.convert_to_tensor(self.vectors), tf.convert_to_tensor(self.offsets)
        order = None if self._arranged else tf.convert_to_tensor(self.order)

        def search_cells(query_and_cells):
            query, cells = query_and_cells
            rows = tf.ragged.range(tf.gather(offsets, cells), tf.gather(offsets, cells + 1)).flat_values
            rows = rows if order is None else tf.gather(order, rows)
            scores = tf.linalg.matvec(tf.gather(vectors, rows), query)
            scores, best = tf.math.top_k(scores, tf.minimum(k, tf.size(rows)))
            missing = [[0, k - tf.size(scores)]]
            return (
                tf.pad(tf.gather(rows, best), missing, constant_values=-1),
                tf.pad(scores, missing, constant_values=-math.inf),
            )

        width = [None if tf.is_tensor(k) else k]
        indices, scores = tf.map_fn(
            search_cells,
            (queries, cells),
            fn_output_signature=(tf.TensorSpec(width, tf.int32), tf.TensorSpec(width, tf.float32)),
        )
        return padded(indices, scores, fit, k)

    def _probes(self, k):
        """Returns how many cells a query for `k` results looks into."""
        cells, probes = self.settings["cells"], self.settings["probes"]
        if k is None:
            return probes
        wanted = _CANDIDATES * cells * tf.cast(k, tf.float32) / tf.cast(tf.shape(self.vectors)[0], tf.float32)
        return tf.clip_by_value(tf.cast(tf.math.ceil(wanted), tf.int32), probes, cells)

    def _best_cells(self, queries, probes):
        """Returns the cells that promise most to each query, int32 [B, probes]; empty ones come last."""
        scores = tf.matmul(queries, self.centroids, transpose_b=True)
        deviations = (
            tf.norm(queries, axis=1, keepdims=True) * self.spreads / math.sqrt(self.centroids.shape[1])
        )
        offsets = tf.convert_to_tensor(self.offsets)
        filled = offsets[1:] > offsets[:-1]
        promises = tf.where(filled, scores + _DEVIATIONS * deviations, -math.inf)
        return tf.math.top_k(promises, probes, sorted=False).indices
