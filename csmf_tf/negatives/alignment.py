"""Alignment: modalities brought into one space, in which an item's vectors are near each other."""

import itertools
import math
from collections.abc import Mapping

import numpy as np

from csmf_tf._keras import keras, tf
from csmf_tf.losses import softmax_nll
from csmf_tf.negatives.rows import check_count, checked_modalities, unit_rows

_LEAST_STEPS = 200


def align(
    modalities: Mapping[str, np.ndarray],
    dim: int = 64,
    epochs: int = 20,
    batch_size: int = 256,
    temperature: float = 0.1,
    learning_rate: float = 1e-2,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Projects modalities into one space by contrastive learning (ESANS, WWW 2025; the details own choice).

    Each modality has one projection, a Dense layer without a bias, of inputs of mean 0 and deviation 1 in
    each column, so that no modality lies to one side. Its outputs at length 1 are trained with
    `contrastive_loss`.

    Args:
        modalities: name to float [N, d_m]; rows that are all NaN or all 0 are missing.
        dim: the number of coordinates D of the space.
        epochs: passes over the items with two or more modalities; more where that were fewer than 200 steps,
            after which little changes (own choice).
        batch_size: items a step; fewer where there are fewer.
        temperature: T, what the cosines are divided by.
        learning_rate: of Adam.
        seed: of the first projections and of the order of the items.

    Returns:
        A dict of name to float32 [N, D], rows of length 1; NaN rows where the modality is missing, or where
        all its columns are at their mean, so that it says nothing. A single modality has nothing to be
        aligned with and keeps its own d_m columns.

    Raises:
        ValueError: if there is no modality, their rows differ in number or are not finite, one is the same
            for all its items, some modalities are linked to the others by no two items that have both, not
            even by way of a third, or a number is not positive.

    Example:

    >>> tastes = np.random.default_rng(0).normal(size=[40, 3]).astype(np.float32)
    >>> aligned = align({"image": tastes, "text": tastes[:, ::-1]}, dim=3)
    >>> aligned["image"].shape, bool(np.mean(np.sum(aligned["image"] * aligned["text"], axis=1)) > 0.9)
    ((40, 3), True)
    """
    check_count("dim", dim)
    check_count("epochs", epochs)
    check_count("batch_size", batch_size, least=2)
    for name, number in (("temperature", temperature), ("learning_rate", learning_rate)):
        if not 0 < number < np.inf:
            raise ValueError(f"`{name}` should be a positive number. Received: {name}={number!r}")
    matrices = checked_modalities(modalities)
    if len(matrices) == 1:
        return {name: unit_rows(matrix) for name, matrix in matrices.items()}
    present = {name: ~np.isnan(matrix[:, 0]) for name, matrix in matrices.items()}
    _check_linked(present)
    inputs = [_standardised(matrix, name) for name, matrix in matrices.items()]
    rng = np.random.default_rng(seed)
    projections = [_projection(dim, int(n)) for n in rng.integers(2**31, size=len(inputs))]
    shared = np.flatnonzero(np.sum([*present.values()], axis=0) > 1)
    batch_size = min(batch_size, len(shared))
    fit = _fit_function(projections, inputs, [*present.values()], temperature, learning_rate)
    for _ in range(max(epochs, math.ceil(_LEAST_STEPS / (len(shared) // batch_size)))):
        fit(tf.constant(_batches(shared, batch_size, rng)))
    aligned = {}
    for name, project, values in zip(matrices, projections, inputs, strict=True):
        # A missing row is all 0 here and stays so, and nothing of length 0 has a direction.
        aligned[name] = unit_rows(project(values).numpy())
    return aligned


def contrastive_loss(vectors, present, temperature):
    """InfoNCE between all pairs of modalities.

    For two modalities with the vectors `a` and `b`, over the items of the batch that have both,

    `L_ab = -1/2 sum_i [log softmax_j(a_i . b_j / T)_i + log softmax_j(b_i . a_j / T)_i]`

    An item that lacks one of the two is no row and no negative there. The sum over all pairs is divided by
    the size of the batch, so each item counts alike in each pair that it has (own choice).

    Args:
        vectors: a float tensor [B, D] for each modality, rows of length 1.
        present: a bool tensor [B] for each modality, which rows it has.
        temperature: T.

    Returns:
        float32 scalar tensor.

    Example:

    >>> vectors, present = tf.eye(2), tf.constant([True, True])
    >>> print(f"{contrastive_loss([vectors, vectors], [present, present], temperature=1.0):.3f}")
    0.313
    """
    total = 0.0
    for (a, has_a), (b, has_b) in itertools.combinations(zip(vectors, present, strict=True), 2):
        both = has_a & has_b
        logits = tf.matmul(a[both], b[both], transpose_b=True) / temperature
        itself = tf.range(tf.shape(logits)[0])
        total += tf.reduce_sum(softmax_nll(logits, itself) + softmax_nll(tf.transpose(logits), itself))
    return 0.5 * total / tf.cast(tf.size(present[0]), tf.float32)


def _projection(dim, seed):
    initial = keras.initializers.GlorotUniform(seed=seed)
    # Not of the global policy: its float16 would be too coarse for small differences.
    return keras.layers.Dense(dim, use_bias=False, kernel_initializer=initial, dtype="float32")


def _fit_function(projections, inputs, present, temperature, learning_rate):
    """A function that trains the projections on int [steps, B] rows of the inputs."""
    for project, values in zip(projections, inputs, strict=True):
        project.build(values.shape)
    kernels = [project.kernel for project in projections]
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(kernels)
    inputs, present = [tf.constant(values) for values in inputs], [tf.constant(has) for has in present]

    @tf.function
    def fit(batches):
        for rows in batches:
            with tf.GradientTape() as tape:
                unit = [
                    tf.math.l2_normalize(project(tf.gather(values, rows)), axis=1)
                    for project, values in zip(projections, inputs, strict=True)
                ]
                loss = contrastive_loss(unit, [tf.gather(has, rows) for has in present], temperature)
            optimizer.apply_gradients(zip(tape.gradient(loss, kernels), kernels, strict=True))

    return fit


def _batches(rows, size, rng):
    """All full batches of an epoch, [steps, size]; what is left over differs from epoch to epoch."""
    steps = len(rows) // size
    return rng.permutation(rows)[: steps * size].reshape(steps, size)


def _standardised(matrix, name):
    """Mean 0 and deviation 1 in each column over the rows that are there, 0 in the others."""
    wide = matrix.astype(np.float64)
    centred = wide - np.nanmean(wide, axis=0)
    spread = np.nanstd(wide, axis=0)
    # Rounding leaves a constant column some 1e-17 of its size.
    varies = spread > 1e-9 * np.nanmax(np.abs(wide), axis=0)
    if not varies.any():
        raise ValueError(
            f"`{name}` should differ between items. Received: the same vector for all {len(matrix)}; "
            "leave this modality out"
        )
    scaled = np.where(varies, centred / np.where(varies, spread, 1.0), 0.0)
    return np.nan_to_num(scaled).astype(np.float32)


def _check_linked(present):
    names = [*present]
    linked, queue = {names[0]}, [names[0]]
    while queue:
        has = present[queue.pop()]
        for name in names:
            # Of one item alone, nothing says how near is near.
            if name not in linked and np.sum(has & present[name]) > 1:
                linked.add(name)
                queue.append(name)
    if len(linked) < len(names):
        alone = [name for name in names if name not in linked]
        raise ValueError(
            "`modalities` should be linked by at least two items that have both, each to the next. Received: "
            f"none that link {', '.join(alone)} to {', '.join(sorted(linked, key=names.index))}, so nothing "
            "can align them; give more rows, or leave one side out"
        )
