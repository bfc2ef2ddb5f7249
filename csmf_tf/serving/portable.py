"""Approximate search in stock TensorFlow operations only: an inverted file.

The catalogue is parted into cells by k-means; a query scores the centroids, then the vectors of the best
cells. It runs where TensorFlow does: in an unmodified TensorFlow Serving, in C, without Python.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from csmf_tf._keras import tf
from csmf_tf.serving import cells as cells_of
from csmf_tf.serving.exact import search_all
from csmf_tf.serving.vectors import checked_vectors, padded, positive, usable

# Scanning fewer vectors is as fast, and misses none (measured).
_EXACT_BELOW = 50_000
# 16 sqrt(N) vectors score, or 16 for each result where that is more (measured: recall@50 above 0.96 on 5e4 to
# 1e6 vectors of a falling spectrum).
_CANDIDATES = 16
# Cells that promise most hold few, long vectors: up to so many times the average number is needed (measured:
# 1.2 to 5 times).
_SMALLER = 8
# How many standard deviations above its mean a cell's best vectors score (measured: 3 find .003 more than 2).
_DEVIATIONS = 3.0


class PortableIndex(tf.Module):
    """Inverted file: scores the vectors of the cells that promise most, a fixed number of vectors.

    A cell promises `<q, c> + 3 |q| r / sqrt(D)` to a query: the score of its centroid c, and three standard
    deviations of its members' scores, were they spread evenly about it with root mean square distance r
    (own choice). Without that term wide cells of long vectors, popular items, are missed, most of all
    when fusion weights leave out a part of the coordinates. The same vectors make the same index.

    Args:
        vectors: float [N, D], N >= 1, every entry below 1e9 in magnitude.
        k: default number of results for each query; may exceed N.
        cells: number of cells, at most N; 1 scans all, which is exact. Default `4 * sqrt(N)`, for
            N < 50,000 it is 1.
        candidates: vectors that a query is scored against, whole cells until there are as many;
            default `16 * sqrt(N)`, or `16 * k` where that is more.

    Attributes:
        vectors: `tf.Variable`, float32 [N, D] with N not fixed.
        order: `tf.Variable`, int32 [N] with N not fixed: the rows of `vectors` by cell.
        offsets: `tf.Variable`, int32 [C + 1]: the rows of cell c are `order[offsets[c] : offsets[c + 1]]`.
        centroids: `tf.Variable`, float32 [C, D].
        spreads: `tf.Variable`, float32 [C], r of each cell.
        settings: `cells` and `candidates` as chosen; of a single cell all is scored.

    Raises:
        ValueError: when `vectors` is not such a matrix or one of the numbers not a positive integer.

    Example:

    >>> vectors = [[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]]
    >>> indices, scores = PortableIndex(vectors, k=3, cells=2, candidates=1).search([[1.0, 2.0]])
    >>> indices.numpy().tolist(), scores.numpy().tolist()
    ([[2, 1, -1]], [[6.0, 4.0, -inf]])
    """

    def __init__(
        self, vectors: ArrayLike, k: int, *, cells: int | None = None, candidates: int | None = None
    ):
        super().__init__()
        vectors = checked_vectors(vectors)
        n, dim = vectors.shape
        self.k = positive("k", k)
        if cells is None:
            cells = 1 if n < _EXACT_BELOW else round(4 * math.sqrt(n))
        cells = min(positive("cells", cells), n)
        if candidates is None:
            candidates = _CANDIDATES * max(math.ceil(math.sqrt(n)), self.k)
        self.settings = {"cells": cells, "candidates": positive("candidates", candidates)}

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

    @classmethod
    def restore(cls, state: Mapping[str, ArrayLike], k: int, settings: Mapping[str, int]) -> "PortableIndex":
        """An index that was arranged, from what its variables held.

        Args:
            state: `vectors`, `offsets`, `centroids` and `spreads`, as in the attributes.
            k: default number of results for each query.
            settings: as in the attributes.

        Example:

        >>> state = {"vectors": [[0.0, 2.0], [1.0, 0.0]], "offsets": [0, 1, 2]}
        >>> state |= {"centroids": [[0.0, 2.0], [1.0, 0.0]], "spreads": [0.0, 0.0]}
        >>> index = PortableIndex.restore(state, 1, {"cells": 2, "candidates": 1})
        >>> index.search([[1.0, 0.0]])[0].numpy().tolist()
        [[1]]
        """
        index = cls.__new__(cls)
        tf.Module.__init__(index)
        index.k, index.settings, index._arranged = k, dict(settings), True
        index.vectors, index.offsets = state["vectors"], state["offsets"]
        index.centroids, index.spreads = (tf.constant(state[name]) for name in ("centroids", "spreads"))
        return index

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The variables by name."""
        names = ["vectors", "order", "offsets", "centroids", "spreads"]
        return {name: getattr(self, name) for name in names}

    def arrange(self) -> np.ndarray:
        """Sorts the rows of `vectors` by cell, which makes the search up to twice as fast.

        Call it before `search` is traced. `order` is then 0, 1, ..., N - 1 and no longer read.

        Returns:
            Int32 [N]: row i of `vectors` is now what row `order[i]` was; the items' ids have to follow.

        Example:

        >>> index = PortableIndex([[1.0, 0.0], [0.0, 2.0], [1.1, 0.0]], k=1, cells=2, candidates=3)
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
        k, more = (self.k, False) if k is None else (k, True)
        starts, ends = self._ranges(queries, _CANDIDATES * k if more else 0)
        vectors = tf.convert_to_tensor(self.vectors)
        order = None if self._arranged else tf.convert_to_tensor(self.order)

        def search_cells(query_and_ranges):
            query, starts, ends = query_and_ranges
            rows = tf.ragged.range(starts, ends).flat_values
            rows = rows if order is None else tf.gather(order, rows)
            scores = tf.linalg.matvec(tf.gather(vectors, rows), query)
            scores, best = tf.math.top_k(scores, tf.minimum(k, tf.size(rows)))
            missing = [[0, k - tf.size(scores)]]
            return (
                tf.pad(tf.gather(rows, best), missing, constant_values=-1),
                tf.pad(scores, missing, constant_values=-math.inf),
            )

        width = [None if tf.is_tensor(k) else k]
        specs = tf.TensorSpec(width, tf.int32), tf.TensorSpec(width, tf.float32)

        def search_each():
            return tf.map_fn(search_cells, (queries, starts, ends), fn_output_signature=specs)

        def nothing():
            return tf.zeros([0, k], tf.int32), tf.zeros([0, k])

        # `map_fn` fails for no queries where it does not know the width.
        some = tf.shape(queries)[0] > 0
        indices, scores = tf.cond(some, search_each, nothing) if tf.is_tensor(k) else search_each()
        return padded(indices, scores, fit, k)

    def _ranges(self, queries, least):
        """Returns the rows of the cells that promise most to each query, until they are enough.

        Args:
            queries: float32 [B, D].
            least: scalar, to score at least so many vectors, and as many as `settings` say.

        Returns:
            starts, ends: int32 [B, P], `starts[b, p]` to `ends[b, p] - 1` are rows to score; a range may be
            empty.
        """
        cells, n = self.settings["cells"], tf.shape(self.vectors)[0]
        wanted = tf.clip_by_value(least, self.settings["candidates"], n)
        scores = tf.matmul(queries, self.centroids, transpose_b=True)
        lengths = tf.norm(queries, axis=1, keepdims=True)
        promises = scores + _DEVIATIONS / math.sqrt(self.centroids.shape[1]) * lengths * self.spreads
        share = tf.cast(wanted, tf.float32) / tf.cast(n, tf.float32)
        several = tf.cast(tf.math.ceil(_SMALLER * cells * share), tf.int32)
        offsets = tf.convert_to_tensor(self.offsets)
        # A cell that lost its vectors promises nothing.
        promises = tf.where(offsets[1:] > offsets[:-1], promises, -math.inf)
        best = tf.math.top_k(promises, tf.minimum(several, cells)).indices
        starts, ends = tf.gather(offsets, best), tf.gather(offsets, best + 1)
        before = tf.cumsum(ends - starts, axis=1, exclusive=True)
        return starts, tf.where(before < wanted, ends, starts)
