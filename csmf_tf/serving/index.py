"""Indices for maximum inner product search that live inside a SavedModel.

An index answers every query with `k` results: where fewer are found, index -1 and score -inf fill the rest.
"""

import math
import uuid
from types import ModuleType

import numpy as np
from numpy.typing import ArrayLike

from csmf_tf._keras import tf

# Scanning so few vectors is cheap, and misses none (own choice).
_BRUTE_FORCE_BELOW = 20_000
# ScaNN codes each pair of dimensions by one of 16 centres, and cannot train them on fewer points.
_QUANTISED_FROM = 16
# Squared distances between much larger vectors overflow in ScaNN, which then ends the process.
_TOO_LARGE = 1e9


class ExactIndex(tf.Module):
    """Scores every vector; needs no more than stock TensorFlow.

    Args:
        vectors: float [N, D], N >= 1, every entry below 1e9 in magnitude.
        k: results for each query; may exceed N.

    Raises:
        ValueError: when `vectors` is not such a matrix or `k` not a positive integer.

    Example:

    >>> index = ExactIndex([[1.0, 0.0], [0.0, 2.0]], k=3)
    >>> indices, scores = index.search([[1.0, 1.0]])
    >>> indices.numpy().tolist(), scores.numpy().tolist()
    ([[1, 0, -1]], [[2.0, 1.0, -inf]])
    """

    def __init__(self, vectors: ArrayLike, k: int):
        super().__init__()
        vectors = _checked_vectors(vectors)
        self.k = positive("k", k)
        self._reachable = min(self.k, len(vectors))
        self._vectors = tf.Variable(vectors, trainable=False, name="vectors")

    def search(self, queries):
        """Returns the `k` vectors of the highest inner product with each query; of equal scores the first.

        Args:
            queries: float [B, D]. One with an entry that is NaN or of 1e9 and more finds nothing.

        Returns:
            indices: int32 [B, k], -1 where nothing was found.
            scores: float32 [B, k], descending, -inf where nothing was found.
        """
        queries, usable = _usable(queries)
        scores = tf.matmul(queries, self._vectors, transpose_b=True)
        scores, indices = tf.math.top_k(scores, self._reachable)
        return _padded(indices, scores, usable, self.k)


class ScannIndex(tf.Module):
    """Approximate search by ScaNN: partitions, quantised scores, exact scores for the best of these.

    Catalogues of fewer than 20,000 vectors are scanned whole by default, and those of fewer than 16 or
    fewer than `leaves` always (also by ScaNN's ops), which is exact. Larger ones trade a few of the true
    results for a faster search; more `leaves_to_search` finds more. Builds are not deterministic.

    Args:
        vectors: float [N, D], N >= 1, every entry below 1e9 in magnitude.
        k: results for each query; may exceed N.
        leaves: number of partitions, 1 to scan all; default `2 * sqrt(N)`, for N < 20,000 it is 1.
        leaves_to_search: partitions that a query looks into; default an eighth of them, and more where
            those would hold fewer than `4 * k` vectors.
        reorder: how many of the best quantised scores are computed exactly, at least `k`; default `10 * k`.

    Raises:
        ImportError: when scann is not installed.
        ValueError: when `vectors` is not such a matrix or one of the numbers not a positive integer.

    Example:

    >>> index = ScannIndex([[1.0, 0.0], [0.0, 2.0]], k=3)
    >>> indices, scores = index.search([[1.0, 1.0]])
    >>> indices.numpy().tolist(), scores.numpy().tolist()
    ([[1, 0, -1]], [[2.0, 1.0, -inf]])
    """

    def __init__(
        self,
        vectors: ArrayLike,
        k: int,
        *,
        leaves: int | None = None,
        leaves_to_search: int | None = None,
        reorder: int | None = None,
    ):
        super().__init__()
        vectors = _checked_vectors(vectors)
        n = len(vectors)
        self.k = positive("k", k)
        if leaves is None:
            leaves = 1 if n < _BRUTE_FORCE_BELOW else round(2 * math.sqrt(n))
        leaves = positive("leaves", leaves)
        if leaves_to_search is None:
            leaves_to_search = max(leaves // 8, math.ceil(4 * self.k * leaves / n), 1)
        if reorder is None:
            reorder = 10 * self.k
        leaves_to_search = min(positive("leaves_to_search", leaves_to_search), leaves)
        reorder = max(positive("reorder", reorder), self.k)

        builder = scann_ops().builder(vectors, self.k, "dot_product")
        if leaves == 1 or n < max(leaves, _QUANTISED_FROM):
            builder = builder.score_brute_force()
        else:
            # 2 dimensions a block and a threshold of 0.2 are what ScaNN's guide advises.
            builder = builder.tree(leaves, leaves_to_search)
            builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2)
            builder = builder.reorder(reorder)
        trained = builder.build()
        self._parts = trained.serialize_to_module()
        tf.raw_ops.DestroyResourceOp(resource=trained.searcher_handle)
        self._searcher = _Searcher(self._parts)

    def search(self, queries):
        """Returns about the `k` vectors of the highest inner product with each query.

        Args:
            queries: float [B, D]. One with an entry that is NaN or of 1e9 and more finds nothing.

        Returns:
            indices: int32 [B, k], -1 where nothing was found.
            scores: float32 [B, k], descending, -inf where nothing was found.
        """
        queries, usable = _usable(queries)
        found = scann_ops().ScannSearcher(self._searcher.handle()).search_batched_parallel(queries, self.k)
        # Its rows are as wide as the longest of the batch; shorter ones end in index 0 and score NaN.
        return _padded(found.indices, found.distances, usable, self.k)


INDICES = {"exact": ExactIndex, "scann": ScannIndex}
"""Index classes by the names that `export` takes."""


class _Searcher(tf.saved_model.experimental.TrackableResource):
    """ScaNN's searcher, built from its serialised parts when a SavedModel is loaded.

    ScaNN's op would also build it inside the first query, as TFRS has it; but two first queries at a time
    then build one searcher twice over, which can crash the process.
    """

    def __init__(self, parts):
        super().__init__()
        self._parts = parts
        # Equal names within one SavedModel mean one searcher for all its signatures.
        self._shared_name = f"csmf_tf/{uuid.uuid4()}"
        self._initialize()

    def handle(self):
        p = self._parts
        return scann_ops().tensors_to_scann(
            x=p.dataset,
            scann_config=p.scann_config,
            serialized_partitioner=p.serialized_partitioner,
            datapoint_to_token=p.datapoint_to_token,
            ah_codebook=p.ah_codebook,
            hashed_dataset=p.hashed_dataset,
            int8_dataset=p.int8_dataset,
            int8_multipliers=p.int8_multipliers,
            dp_norms=p.dp_norms,
            shared_name=self._shared_name,
        )

    def _create_resource(self):
        # TensorFlow asks for a handle before the parts are restored; nothing reads this one.
        return tf.raw_ops.VarHandleOp(dtype=tf.bool, shape=[])

    def _initialize(self):
        self.handle()

    def _destroy_resource(self):
        tf.raw_ops.DestroyResourceOp(resource=self.handle())


def scann_ops() -> ModuleType:
    """Returns scann's TensorFlow ops, which also registers them so that a SavedModel with them loads."""
    try:
        from scann import scann_ops as ops
    except ImportError as error:
        raise ImportError(
            "The ScaNN index needs scann's TensorFlow ops: `pip install scann`, "
            'in the version that fits TensorFlow, or choose index="exact".'
        ) from error
    return ops


def _usable(queries):
    """Returns the queries and whether each is usable; one NaN, left in, would fail ScaNN's whole batch."""
    queries = tf.cast(queries, tf.float32)
    usable = tf.reduce_all(tf.abs(queries) < _TOO_LARGE, axis=-1, keepdims=True)
    return tf.where(usable, queries, 0.0), usable


def _padded(indices: tf.Tensor, scores: tf.Tensor, usable: tf.Tensor, k: int) -> tuple:
    """Marks as missing what is not finite or not usable, and fills up to `k` columns."""
    found = usable & tf.math.is_finite(scores)
    missing = [[0, 0], [0, k - tf.shape(indices)[1]]]
    indices = tf.pad(tf.where(found, indices, -1), missing, constant_values=-1)
    scores = tf.pad(tf.where(found, scores, -math.inf), missing, constant_values=-math.inf)
    return tf.ensure_shape(indices, [None, k]), tf.ensure_shape(scores, [None, k])


def _checked_vectors(vectors: ArrayLike) -> np.ndarray:
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(
            f"`vectors` should be a matrix [N, D] with N, D >= 1. Received: vectors.shape={vectors.shape}"
        )
    unfit = np.flatnonzero(~np.all(np.abs(vectors) < _TOO_LARGE, axis=1))
    if len(unfit):
        raise ValueError(
            f"`vectors` should be finite and below {_TOO_LARGE:.0e} in magnitude. "
            f"Received: {len(unfit)} rows of {len(vectors)} that are not, the first is row {unfit[0]}"
        )
    return vectors


def positive(name: str, value: object) -> int:
    """Returns `value` as an integer.

    Raises:
        ValueError: when it is not an integer, or below 1.

    Example:

    >>> positive("k", 3)
    3
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` should be a positive integer. Received: {name}={value!r}")
    return int(value)
