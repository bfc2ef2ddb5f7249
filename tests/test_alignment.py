"""Alignment: modalities that tell of the same items find each other, and what is missing stays missing."""

import math

import numpy as np
import pytest

from csmf_tf._keras import keras, tf
from csmf_tf.negatives.alignment import align, contrastive_loss

# The loss


def info_nce(vectors, present, temperature):
    """The loss in loops."""
    total, batch = 0.0, len(present[0])
    for a in range(len(vectors)):
        for b in range(a + 1, len(vectors)):
            both = [i for i in range(batch) if present[a][i] and present[b][i]]
            for x, y in ((vectors[a], vectors[b]), (vectors[b], vectors[a])):
                for i in both:
                    scores = [math.exp(float(x[i] @ y[j]) / temperature) for j in both]
                    total -= math.log(math.exp(float(x[i] @ y[i]) / temperature) / sum(scores)) / 2
    return total / batch


@pytest.mark.parametrize("share", [1.0, 0.6, 0.1])
@pytest.mark.parametrize("count", [2, 3])
def test_loss_is_the_one_written_in_loops(count, share):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=[count, 12, 4])
    vectors = (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype(np.float32)
    present = rng.random([count, 12]) < share
    loss = contrastive_loss([*map(tf.constant, vectors)], [*map(tf.constant, present)], 0.2)
    assert loss.numpy() == pytest.approx(info_nce(vectors, present, 0.2), rel=1e-5)


def test_rows_without_both_get_no_gradient_and_are_no_negatives():
    rng = np.random.default_rng(0)
    a, b = (tf.constant(rng.normal(size=[6, 3]), tf.float32) for _ in range(2))
    has_a, has_b = tf.constant([True] * 5 + [False]), tf.constant([True] * 3 + [False] * 2 + [True])

    def loss_of(a, b):
        return contrastive_loss([a, b], [has_a, has_b], 0.1)

    with tf.GradientTape() as tape:
        tape.watch([a, b])
        loss = loss_of(a, b)
    for gradient in tape.gradient(loss, [a, b]):
        dense = tf.convert_to_tensor(gradient).numpy()
        assert not dense[3:].any()
        assert dense[:3].any(axis=1).all()
    mask = tf.constant([[1.0]] * 3 + [[99.0]] * 3)
    assert loss_of(a * mask, b * mask).numpy() == loss.numpy()


# Alignment


def views(n, widths, noise=0.1, rank=6, seed=0):
    """Different linear views of one latent vector of each item, with noise of its own in each."""
    rng = np.random.default_rng(seed)
    latent = rng.normal(size=[n, rank])
    clean = {f"view{k}": latent @ rng.normal(size=[rank, width]) for k, width in enumerate(widths)}
    return {
        name: (view + noise * view.std() * rng.normal(size=view.shape)).astype(np.float32)
        for name, view in clean.items()
    }


def found(one, other):
    """How often the nearest vector of `other` is of the same row."""
    has = ~(np.isnan(one) | np.isnan(other)).any(axis=1)
    return np.mean((one[has] @ other[has].T).argmax(axis=1) == np.arange(has.sum()))


def units(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


def test_an_item_is_nearest_to_itself_in_another_modality():
    modalities = views(400, [16, 16, 16])
    aligned = align(modalities, dim=8)
    for one, other in (("view0", "view1"), ("view1", "view2"), ("view2", "view0")):
        assert found(units(modalities[one]), units(modalities[other])) < 0.05
        assert found(aligned[one], aligned[other]) > 0.8


def test_aligned_vectors_have_one_width_and_length_1():
    aligned = align(views(20, [3, 20, 7]), dim=5)
    assert [*aligned] == ["view0", "view1", "view2"]
    for vectors in aligned.values():
        assert vectors.shape == (20, 5)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_missing_rows_stay_missing_and_break_nothing():
    modalities = views(400, [16, 12, 20])
    rng = np.random.default_rng(1)
    missing = {name: rng.random(400) < 0.5 for name in modalities}
    for (name, rows), nothing in zip(missing.items(), (np.nan, 0.0, np.nan), strict=True):
        modalities[name][rows] = nothing
    aligned = align(modalities, dim=8)
    for name, rows in missing.items():
        np.testing.assert_array_equal(np.isnan(aligned[name]).all(axis=1), rows)
        np.testing.assert_array_equal(np.isnan(aligned[name]).any(axis=1), rows)
    assert found(aligned["view0"], aligned["view1"]) > 0.8
    assert found(aligned["view1"], aligned["view2"]) > 0.8


def test_an_item_of_one_modality_lies_where_its_like_lie():
    modalities = views(400, [16, 12])
    modalities["view0"][300:] = modalities["view0"][:100]
    modalities["view1"][300:] = np.nan
    aligned = align(modalities, dim=8)
    np.testing.assert_allclose(aligned["view0"][300:], aligned["view0"][:100], rtol=1e-5)


def test_modalities_without_a_common_item_are_aligned_by_a_third():
    # The items 0 to 299 and 300 to 599 are twins: one shows its first view, the other its last.
    modalities = {name: np.tile(view, [2, 1]) for name, view in views(300, [12, 16, 20]).items()}
    modalities["view0"][300:] = np.nan
    modalities["view2"][:300] = np.nan
    aligned = align(modalities, dim=8)
    assert found(aligned["view0"][:300], aligned["view2"][300:]) > 0.6


def test_units_and_offsets_of_the_columns_do_not_matter():
    modalities = views(100, [10, 10])
    other = {name: view * np.arange(1, 11) * 100 + 7000 for name, view in modalities.items()}
    for one, same in zip(align(modalities).values(), align(other).values(), strict=True):
        np.testing.assert_allclose(one, same, atol=1e-2)


def test_columns_that_never_change_tell_nothing():
    modalities = views(100, [8, 8])
    more = modalities | {"view0": np.hstack([modalities["view0"], np.full([100, 1], 0.1, np.float32)])}
    aligned = align(more, dim=8)
    assert np.isfinite(aligned["view0"]).all()
    assert found(aligned["view0"], aligned["view1"]) > 0.8


@pytest.mark.parametrize("n", [2, 257])
def test_few_items_work(n):
    aligned = align(views(n, [4, 4]), dim=3)
    for vectors in aligned.values():
        assert vectors.shape == (n, 3)
        assert np.isfinite(vectors).all()


def test_one_modality_keeps_its_vectors_at_length_1():
    matrix = np.array([[3.0, 4.0, 0.0], [np.nan] * 3, [0.0, 0.0, 1e-30], [0.0, 0.0, 0.0]])
    aligned = align({"image": matrix}, dim=2)
    assert [*aligned] == ["image"]
    assert aligned["image"].dtype == np.float32
    expected = [[0.6, 0.8, 0], [np.nan] * 3, [0, 0, 1], [np.nan] * 3]
    np.testing.assert_allclose(aligned["image"], expected, rtol=1e-6)


def test_a_seed_gives_the_same_vectors_whatever_else_is_drawn():
    modalities = views(100, [8, 8])
    before = {name: view.copy() for name, view in modalities.items()}
    first = align(modalities, seed=3)
    tf.random.set_seed(5)
    drawn = tf.random.uniform([3]).numpy()
    tf.random.set_seed(5)
    again, other = align(modalities, seed=3), align(modalities, seed=4)
    np.testing.assert_array_equal(tf.random.uniform([3]).numpy(), drawn)
    for name in modalities:
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.allclose(first[name], other[name])
        np.testing.assert_array_equal(modalities[name], before[name])


def test_mixed_precision_does_not_reach_it():
    modalities = views(100, [8, 8])
    plain = align(modalities)
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        mixed = align(modalities)
    finally:
        keras.mixed_precision.set_global_policy(policy)
    np.testing.assert_array_equal(plain["view0"], mixed["view0"])


def gap(name, rows, width=2):
    matrix = np.random.default_rng(len(name)).normal(size=[6, width])
    matrix[rows] = np.nan
    return {name: matrix}


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({}, "`modalities` should hold at least one matrix. Received: none"),
        (
            {"a": np.ones([3, 2]), "b": np.ones([4, 2])},
            "one row for each item. Received: rows={'a': 3, 'b': 4}",
        ),
        ({"a": np.ones([3, 2]), "b": np.ones(3)}, r"`b` should be a matrix of floats.*shape=\(3,\)"),
        ({"a": np.array([[1.0, np.nan]])}, "`a` should hold rows of finite.*the first is row 0"),
        ({"a": np.zeros([3, 2])}, "`a` should have a vector of at least one item. Received: 3 rows, all"),
        ({"a": np.full([3, 2], 0.1), "b": np.eye(3)}, "`a` should differ between items.*for all 3; leave"),
        (gap("a", range(3)) | gap("bb", range(3, 6)), "none that link bb to a, so nothing can align them"),
        (gap("a", range(3)) | gap("bb", range(4, 6)), "none that link bb to a, so"),
        (
            gap("a", range(3)) | gap("bb", range(3, 6)) | gap("ccc", range(3)) | gap("dddd", range(3, 6)),
            "none that link bb, dddd to a, ccc, so",
        ),
    ],
)
def test_modalities_that_cannot_be_aligned_are_refused(modalities, message):
    with pytest.raises(ValueError, match=message):
        align(modalities)


@pytest.mark.parametrize(
    ("argument", "value", "least"),
    [("dim", 0, 1), ("epochs", 0, 1), ("epochs", 1.5, 1), ("batch_size", 1, 2)],
)
def test_counts_out_of_range_are_refused(argument, value, least):
    with pytest.raises(ValueError, match=f"`{argument}` should be an integer >= {least}. Received.*{value}"):
        align(views(5, [2, 2]), **{argument: value})


@pytest.mark.parametrize("argument", ["temperature", "learning_rate"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_numbers_out_of_range_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}` should be a positive number. Received: .*={value}"):
        align(views(5, [2, 2]), **{argument: value})
