"""Approximate search by ScaNN's TensorFlow ops."""

import math
import uuid
from types import ModuleType

from numpy.typing import ArrayLike

from csmf_tf._keras import tf
from csmf_tf.serving.vectors import checked_vectors, padded, positive, usable

# Scanning so few vectors is cheap, and misses none (own choice).
_BRUTE_FORCE_BELOW = 20_000
# Vectors in the partitions searched, for each result (own choice).
_CANDIDATES = 4
# Quantised scores to compute exactly, for each result: vectors of popular items need that many (measured).
_REORDERED = 30
# ScaNN codes each pair of dimensions by one of 16 centres, and cannot train them on fewer points.
QUANTISED_FROM = 16

PARTS = (
    "scann_config",
    "serialized_partitioner",
    "datapoint_to_token",
    "ah_codebook",
    "hashed_dataset",
    "int8_dataset",
    "int8_multipliers",
    "dp_norms",
    "vectors",
)
"""What a searcher of ScaNN is made of, as `scann_to_tensors` orders it; what it does not use is a scalar."""


class ScannIndex(tf.Module):
    """Approximate search by ScaNN: partitions, quantised scores, exact scores for the best of these.

    Catalogues of fewer than 20,000 vectors are scanned whole by default, and those of fewer than 16 or
    fewer than `leaves` always (also by ScaNN's ops), which is exact. Larger ones trade a few of the true
    results for a faster search; more `leaves_to_search` finds more. Builds are not deterministic.

    Args:
        vectors: float [N, D], N >= 1, every entry below 1e9 in magnitude.
        k: default number of results for each query; may exceed N.
        leaves: number of partitions, 1 to scan all; default `2 * sqrt(N)`, for N < 20,000 it is 1.
        leaves_to_search: partitions that a query looks into; default an eighth of them, and more where
            those would hold fewer than `4 * k` vectors.
        reorder: how many of the best quantised scores are computed exactly, at least `k`; default `30 * k`.

    Attributes:
        vectors: `tf.Variable`, float32 [N, D] with N not fixed.
        settings: `leaves`, `leaves_to_search` and `reorder` as chosen; empty where all is scanned.

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
        vectors = checked_vectors(vectors)
        n = len(vectors)
        self.k = positive("k", k)
        if leaves is None:
            leaves = 1 if n < _BRUTE_FORCE_BELOW else round(2 * math.sqrt(n))
        leaves = positive("leaves", leaves)
        if leaves_to_search is None:
            leaves_to_search = max(leaves // 8, math.ceil(_CANDIDATES * self.k * leaves / n), 1)
        if reorder is None:
            reorder = _REORDERED * self.k
        leaves_to_search = min(positive("leaves_to_search", leaves_to_search), leaves)
        reorder = max(positive("reorder", reorder), self.k)

        builder = scann_ops().builder(vectors, self.k, "dot_product")
        self.settings: dict[str, int] = {}
        if leaves == 1 or n < max(leaves, QUANTISED_FROM):
            builder = builder.score_brute_force()
        else:
            # Not the anisotropic quantisation of ScaNN's guide, as it supposes queries along the vectors.
            # Measured with it at this `reorder`: weighted queries find up to .05 less where lengths differ,
            # .01 more where they do not.
            # Nor its least size of partitions, 50, with which it parts unevenly: recall@50 of .90 instead of
            # .96 on 1e6 vectors, in 1.4 times the time (measured).
            builder = builder.tree(leaves, leaves_to_search, min_partition_size=1)
            builder = builder.score_ah(2).reorder(reorder)
            self.settings = {"leaves": leaves, "leaves_to_search": leaves_to_search, "reorder": reorder}
        trained = builder.build()
        self._parts = {
            name: tf.Variable(
                value, trainable=False, name=name, shape=[None, *value.shape[1:]][: value.shape.rank]
            )
            for name, value in zip(PARTS, scann_ops().scann_to_tensors(trained.searcher_handle), strict=True)
        }
        tf.raw_ops.DestroyResourceOp(resource=trained.searcher_handle)
        self._searcher = _Searcher(self._parts)

    @property
    def vectors(self) -> tf.Variable:
        """float32 [N, D], the vectors of the items."""
        return self._parts["vectors"]

    @property
    def state(self) -> dict[str, tf.Variable]:
        """The variables by name, `PARTS`."""
        return dict(self._parts)

    def search(self, queries, k=None):
        """Returns about the `k` vectors of the highest inner product with each query.

        Args:
            queries: float [B, D]. One with an entry that is NaN or of 1e9 and more finds nothing.
            k: number of results, an integer or a scalar int32 tensor; default that of the index. Where
                it is larger, more partitions may be searched and more scores are computed exactly.

        Returns:
            indices: int32 [B, k], -1 where nothing was found.
            scores: float32 [B, k], descending, -inf where nothing was found.
        """
        queries, fit = usable(queries)
        searcher = scann_ops().ScannSearcher(self._searcher.handle())
        effort = {} if k is None else self._effort(k)
        k = self.k if k is None else k
        found = searcher.search_batched_parallel(queries, k, **effort)
        # Its rows are as wide as the longest of the batch; shorter ones end in index 0 and score NaN.
        return padded(found.indices, found.distances, fit, k)

    def _effort(self, k):
        """Returns ScaNN's settings for `k` results, never less than `settings`."""
        if not self.settings:
            return {}
        leaves, reorder = self.settings["leaves"], self.settings["reorder"]
        k = tf.cast(k, tf.float32)
        n = tf.cast(tf.shape(self.vectors)[0], tf.float32)
        wanted = tf.cast(tf.math.ceil(_CANDIDATES * leaves * k / n), tf.int32)
        return {
            "leaves_to_search": tf.clip_by_value(wanted, self.settings["leaves_to_search"], leaves),
            "pre_reorder_num_neighbors": tf.maximum(tf.cast(reorder / self.k * k, tf.int32), reorder),
        }


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
        parts = dict(self._parts)
        return scann_ops().tensors_to_scann(x=parts.pop("vectors"), **parts, shared_name=self._shared_name)

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
