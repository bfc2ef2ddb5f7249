"""MSAC's clusters: two levels of clusters of items, by aligned modality vectors."""

import os
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from csmf_tf.negatives.kmeans import kmeans
from csmf_tf.negatives.rows import check_count, checked_modalities


class Clusters(NamedTuple):
    """Two levels of clusters of the N items.

    Attributes:
        level1: int32 [N], from 0.
        level2: int32 [N], from 0, numbered over all clusters of level 1: it implies `level1`.
        easy: float64 [C1, C1]; row c is the probability that an easy negative of a positive of the level-1
            cluster c comes from each cluster. Rows sum to 1, the diagonal is 0.
        centres: float32 [C1, D], the mean of `vectors` over each level-1 cluster.
        vectors: float32 [N, D], the mean of each item's modalities; NaN where it has none.
    """

    level1: np.ndarray
    level2: np.ndarray
    easy: np.ndarray
    centres: np.ndarray
    vectors: np.ndarray


def cluster_items(
    modalities: Mapping[str, np.ndarray],
    level1: int | None = None,
    level2: int = 8,
    min_size: int = 5,
    temperature: float = 1.0,
    seed: int = 0,
) -> Clusters:
    """Clusters items in two levels (ESANS, WWW 2025), none smaller than `min_size`.

    Level 1 is k-means on the mean over the modalities that an item has. Level 2 is k-means, within each
    level-1 cluster, on the residuals of all modalities to its centre side by side, 0 where one is missing:
    items that agree in one modality may still differ in another. With the centres `c`,

    `easy[a, b] = exp(-|c_a - c_b| / temperature) / sum over all b' but a`, `easy[a, a] = 0`

    Own choice: k-means that keeps the sizes, see `kmeans`; a cluster of level 1 may stay whole in level 2
    (one of fewer than `2 * min_size` items, or of near-duplicates), and then has no hard negatives. An item
    without any modality is put into both clusters of an item drawn at random. So the unknown spread over the
    clusters in proportion to their sizes and are drawn as negatives as often as others; in a cluster of their
    own they would be drawn as often as that one cluster. As positives their hard negatives are random items,
    no harder than others; the NaN rows of `vectors` tell which they are.

    Args:
        modalities: name to float [N, D], as `align` returns them; rows of NaN or 0 are missing.
        level1: the number of clusters of level 1, by default max(2, round(sqrt(N) / 4)). It ends smaller
            where small clusters are dissolved.
        level2: the number of clusters of level 2 in each of level 1, at most.
        min_size: the fewest items of a cluster, so that as many anchors can be drawn of each.
        temperature: what distances are divided by; the lower, the nearer the easy negatives' clusters.
        seed: of k-means and of the items without a modality.

    Returns:
        `Clusters`.

    Raises:
        ValueError: if there is no modality, the shapes differ, a row is not finite, fewer than
            `2 * min_size` items have a modality, or a number is out of range.

    Example:

    >>> places = np.repeat([[0.0, 1.0], [1.0, 0.0], [3.0, 0.0]], 6, axis=0)
    >>> clusters = cluster_items({"image": places}, level1=3)
    >>> np.bincount(clusters.level1).tolist(), np.bincount(clusters.level2).tolist()
    ([6, 6, 6], [6, 6, 6])
    >>> np.sort(clusters.easy[clusters.level1[0]]).round(2).tolist()
    [0.0, 0.15, 0.85]
    """
    if level1 is not None:
        check_count("level1", level1, least=2)
    check_count("level2", level2)
    check_count("min_size", min_size)
    if not 0 < temperature < np.inf:
        raise ValueError(f"`temperature` should be a positive number. Received: temperature={temperature!r}")
    matrices = checked_modalities(modalities)
    widths = {name: matrix.shape[1] for name, matrix in matrices.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"`modalities` should have the same number of columns. Received: columns={widths}; "
            "align them first, see `align`"
        )
    vectors, known = _means(matrices)
    if known.sum() < 2 * min_size:
        raise ValueError(
            f"`modalities` should have vectors of at least 2 * min_size = {2 * min_size} items. "
            f"Received: {known.sum()} of {len(known)} items with a vector; lower "
            "`min_size` (`negatives.anchors`), or give more"
        )
    count = level1 or max(2, round(np.sqrt(len(known)) / 4))
    outer = kmeans(vectors[known], count, min_size, least=2, seed=seed)
    centres = _centres(vectors[known], outer)
    residuals = [np.nan_to_num(matrix[known] - centres[outer]) for matrix in matrices.values()]
    inner = _inner(residuals, outer, level2, min_size, seed)
    # Each item is clustered like some known item: like itself, or like one drawn at random.
    like = np.random.default_rng(seed).integers(len(outer), size=len(known))
    like[known] = np.arange(len(outer))
    return Clusters(outer[like], inner[like], _easy(centres, temperature), centres, vectors)


def save_clusters(path: str | os.PathLike[str], clusters: Clusters, fingerprint: str) -> None:
    """Writes clusters beside `path` and then renames, so that they are there whole or not at all.

    Args:
        path: the `.npz` file to write.
        clusters: the clusters.
        fingerprint: what they were made from, in any words; `load_clusters` asks for the same.
    """
    path = pathlib.Path(path)
    beside = path.with_name(path.name + ".tmp")
    with beside.open("wb") as file:
        np.savez(file, fingerprint=np.array(fingerprint), **clusters._asdict())
    beside.replace(path)


def load_clusters(path: str | os.PathLike[str], fingerprint: str) -> Clusters | None:
    """Reads what `save_clusters` wrote; None without a file, or if it has another fingerprint.

    Example:

    >>> import tempfile
    >>> clusters = cluster_items({"image": np.eye(10)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_clusters(f"{folder}/clusters.npz", clusters, "image, seed 0")
    ...     again = load_clusters(f"{folder}/clusters.npz", "image, seed 0")
    ...     other = load_clusters(f"{folder}/clusters.npz", "image, seed 1")
    >>> np.array_equal(again.level2, clusters.level2), other
    (True, None)
    """
    try:
        stored = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    with stored:
        if stored["fingerprint"].item() != fingerprint:
            return None
        return Clusters(*(stored[name] for name in Clusters._fields))


def _means(matrices):
    """The mean of each item's modalities, float32 [N, D], NaN where it has none; and which have one."""
    counts = np.sum([~np.isnan(matrix[:, :1]) for matrix in matrices.values()], axis=0)
    total = np.sum([np.nan_to_num(matrix) for matrix in matrices.values()], axis=0, dtype=np.float64)
    return (total / np.where(counts, counts, np.nan)).astype(np.float32), counts[:, 0] > 0


def _centres(vectors, labels):
    total = np.zeros([labels.max() + 1, vectors.shape[1]])
    np.add.at(total, labels, vectors)
    return (total / np.bincount(labels)[:, None]).astype(np.float32)


def _inner(residuals, outer, count, min_size, seed):
    """Labels of level 2, int32 [n], numbered on from one level-1 cluster to the next."""
    labels, after = np.empty(len(outer), np.int32), 0
    for cluster in range(outer.max() + 1):
        mine = np.flatnonzero(outer == cluster)
        points = np.concatenate([residual[mine] for residual in residuals], axis=1)
        labels[mine] = after + kmeans(points, count, min_size, seed=seed)
        after = labels[mine].max() + 1
    return labels


def _easy(centres, temperature):
    distances = np.linalg.norm(centres[:, None].astype(np.float64) - centres, axis=2)
    np.fill_diagonal(distances, np.inf)
    weights = np.exp((distances.min(axis=1, keepdims=True) - distances) / temperature)
    return weights / weights.sum(axis=1, keepdims=True)
