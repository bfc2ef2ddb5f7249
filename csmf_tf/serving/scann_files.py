"""ScaNN's searcher in files: how one that TensorFlow serves takes in new vectors without training.

ScaNN's operations in TensorFlow cannot add to a searcher; its Python library can, and reads the same parts
from files. To give a vector its partition and codes, it needs neither training nor the other vectors.
"""

import math
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from csmf_tf._keras import tf
from csmf_tf.serving.scann import scann_ops
from csmf_tf.serving.vectors import padded, usable

_PROTOS = {"scann_config": None, "ah_codebook": "AH_CENTERS", "serialized_partitioner": "PARTITIONER"}
_ARRAYS = {
    "datapoint_to_token": "TOKENIZATION_NPY",
    "hashed_dataset": "AH_DATASET_NPY",
    "vectors": "DATASET_NPY",
}
# Vectors that ScaNN takes in at a time.
_BATCH = 256


def assigned(state: Mapping[str, Any], vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the partition and the codes that a searcher gives to new vectors.

    Args:
        state: the parts of a partitioned searcher, `csmf_tf.serving.scann.PARTS`.
        vectors: float32 [M, D].

    Returns:
        `datapoint_to_token`: int32 [M]; `hashed_dataset`: uint8 [M, C].
    """
    # One vector will do: what is there changes nothing.
    few = {name: np.asarray(state[name][:1]) if name in _ARRAYS else state[name] for name in state}
    with tempfile.TemporaryDirectory() as folder:
        searcher = _load(few, folder)
        if len(vectors):
            searcher.upsert([None] * len(vectors), vectors, _BATCH)
        searcher.serialize(folder, False)
        tokens, codes = (np.load(_file(folder, name)) for name in ("datapoint_to_token", "hashed_dataset"))
    return tokens[1:], codes[1:]


class LoadedScann:
    """A searcher of given parts, as the others of `INDICES`: what a SavedModel with these parts serves.

    Only the codes go through files. ScaNN finds the `reorder` vectors of the best quantised scores, and their
    exact scores are computed here, so that the vectors need not be written and read once more.

    Args:
        state: the parts of a partitioned searcher, `csmf_tf.serving.scann.PARTS`.
        k: number of results for each query.
        reorder: how many of the best quantised scores are computed exactly.

    Attributes:
        vectors: float32 [N, D].
    """

    def __init__(self, state: Mapping[str, Any], k: int, reorder: int):
        scann_ops()
        from scann.proto.scann_pb2 import ScannConfig

        self.vectors = tf.convert_to_tensor(state["vectors"])
        self.k = k
        self._reorder = min(reorder, len(self.vectors))
        config = ScannConfig.FromString(np.asarray(state["scann_config"]).item())
        config.ClearField("exact_reordering")
        config.num_neighbors = self._reorder
        codes = {name: state[name] for name in (*_PROTOS, *_ARRAYS) if name != "vectors"}
        with tempfile.TemporaryDirectory() as folder:
            self._searcher = _load(
                codes | {"scann_config": np.array(config.SerializeToString(), object)}, folder
            )

    def search(self, queries):
        """Returns indices, int32 [B, k], and scores, float32 [B, k], as `ScannIndex.search` does."""
        queries, fit = usable(queries)
        # -1 is what the configuration says.
        rows, quantised = self._searcher.search_batched(queries.numpy(), self._reorder, -1, -1, True, _BATCH)
        rows = tf.cast(rows, tf.int32)
        scores = tf.einsum("bd,brd->br", queries, tf.gather(self.vectors, rows))
        # Where fewer are found, their places hold row 0 and NaN.
        scores = tf.where(tf.math.is_finite(quantised), scores, -math.inf)
        scores, best = tf.math.top_k(scores, min(self.k, rows.shape[1]))
        return padded(tf.gather(rows, best, batch_dims=1), scores, fit, self.k)


def _load(state, folder):
    scann_ops()
    from scann import scann_ops_pybind

    for name in _PROTOS:
        with open(_file(folder, name), "wb") as file:
            file.write(np.asarray(state[name]).item())
    for name in _ARRAYS.keys() & state.keys():
        np.save(_file(folder, name), np.asarray(state[name]))
    assets = [
        f'assets {{ asset_type: {kind} asset_path: "{_file(folder, name)}" }}\n'
        for name, kind in (_PROTOS | _ARRAYS).items()
        if kind and name in state
    ]
    with open(os.path.join(folder, "scann_assets.pbtxt"), "w") as file:
        file.writelines(assets)
    return scann_ops_pybind.load_searcher(folder).searcher


def _file(folder, name):
    file = "dataset" if name == "vectors" else name
    return os.path.join(folder, f"{file}.{'npy' if name in _ARRAYS else 'pb'}")
