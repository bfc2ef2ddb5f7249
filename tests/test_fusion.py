"""Fusion: one inner product ranks as the weighted sum of log probabilities; partitions and mixtures."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csmf_tf._keras import tf
from csmf_tf.serving import fusion
from csmf_tf.serving.fusion import check_weights, query_scale, request_weights
from csmf_tf.serving.index import ExactIndex

FUNNEL = ["view", "cart", "buy"]


def fused_log_probabilities(users, items, owner, weights):
    """`sum_k w_k log softmax_k` over the items by its definition, float64 [B, N]."""
    total = np.zeros((len(users), len(items)))
    for k, weight in enumerate(weights, start=1):
        read = (owner >= 1) & (owner <= k)
        scores = users[:, read].astype(np.float64) @ items[:, read].astype(np.float64).T
        peak = scores.max(axis=1, keepdims=True)
        log_partition = peak + np.log(np.exp(scores - peak).sum(axis=1, keepdims=True))
        total += float(weight) * (scores - log_partition)
    return total


def search(users, items, owner, weights):
    scale = query_scale(owner, np.asarray(weights, np.float32)[np.newaxis])
    indices, scores = ExactIndex(items, k=len(items)).search(users * scale)
    return indices.numpy(), scores.numpy()


@st.composite
def segmentations(draw):
    objectives = draw(st.integers(1, 5))
    owner = draw(st.lists(st.integers(0, objectives), min_size=1, max_size=24))
    return objectives, np.array(owner), np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


@settings(max_examples=100)
@given(segmentations())
def test_ranking_is_that_of_the_fused_log_probabilities(case):
    # Small integers: float32 holds every score exactly, so that the order must match to the last tie.
    objectives, owner, rng = case
    users = rng.integers(-4, 5, size=(3, len(owner))).astype(np.float32)
    items = rng.integers(-4, 5, size=(40, len(owner))).astype(np.float32)
    weights = rng.integers(0, 5, size=objectives)
    truth = fused_log_probabilities(users, items, owner, weights)
    # The partition functions cancel between items; what is left are integers but for float64 rounding.
    gaps = truth - truth[:, :1]
    np.testing.assert_allclose(gaps, np.rint(gaps), atol=1e-9)
    indices, _ = search(users, items, owner, weights)
    np.testing.assert_array_equal(indices, np.argsort(-np.rint(gaps), axis=1, kind="stable"))


@settings(max_examples=100)
@given(segmentations())
def test_ranking_of_real_numbers_differs_only_within_rounding(case):
    objectives, owner, rng = case
    users = rng.normal(size=(3, len(owner))).astype(np.float32)
    items = rng.normal(size=(40, len(owner))).astype(np.float32)
    weights = (rng.exponential(size=objectives) * rng.integers(0, 2, size=objectives)).astype(np.float32)
    truth = fused_log_probabilities(users, items, owner, weights)
    indices, scores = search(users, items, owner, weights)

    largest_sum = weights.sum() * (np.abs(users).astype(np.float64) @ np.abs(items).T).max()
    rounding = (len(owner) + 8) * np.finfo(np.float32).eps * largest_sum + 1e-9
    ranked = np.take_along_axis(truth, indices, axis=1)
    assert (np.sort(indices, axis=1) == np.arange(40)).all()
    assert (np.diff(ranked, axis=1) <= 2 * rounding).all()
    # Scores are the fused log probabilities up to one constant for each user.
    offset = scores - ranked
    np.testing.assert_allclose(offset, np.broadcast_to(offset[:, :1], offset.shape), atol=4 * rounding)


def test_query_scale_by_hand():
    weights = np.array([[1.0, 2.0, 4.0], [0.0, 0.5, 0.0]])
    expected = [[7.0, 6.0, 4.0, 0.0, 7.0], [0.5, 0.5, 0.0, 0.0, 0.5]]
    scale = query_scale(np.array([1, 2, 3, 0, 1], np.uint8), weights)
    assert scale.dtype == tf.float64
    np.testing.assert_array_equal(scale, expected)
    np.testing.assert_array_equal(query_scale([1, 2, 3, 0, 1], weights[0]), expected[0])
    np.testing.assert_array_equal(query_scale([1, 2, 3, 0, 1], weights[np.newaxis]), [expected])


def test_query_scale_of_integer_weights_is_float32():
    scale = query_scale([2, 0, 1], [1, 3])
    assert scale.dtype == tf.float32
    np.testing.assert_array_equal(scale, [3.0, 0.0, 4.0])


def test_request_weights_keep_rows_and_fill_zero_rows():
    given_weights = [[0.0, 0.0, 0.0], [0.0, 2.0, 0.0]]
    resolved = request_weights(given_weights, np.array([1.0, 2.0, 3.0], np.float32))
    np.testing.assert_array_equal(resolved, [[1.0, 2.0, 3.0], [0.0, 2.0, 0.0]])


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize("wrap", [lambda f: f, tf.function], ids=["eager", "graph"])
def test_request_weights_refuse_unfit_numbers(bad, wrap):
    resolve = wrap(lambda weights: request_weights(weights, [1.0, 1.0]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="should be finite and not negative"):
        resolve(tf.constant([[1.0, 1.0], [1.0, bad]]))


def test_weights_without_a_normal_number_count_as_zero():
    resolved = request_weights([[0.0, 1e-40], [0.0, 2e-38]], np.array([1.0, 2.0], np.float32))
    np.testing.assert_array_equal(resolved, np.array([[1.0, 2.0], [0.0, 2e-38]], np.float32))


@pytest.mark.parametrize("largest", [2e-38, 1.0, np.finfo(np.float32).max])
def test_split_weights_are_the_shares_of_the_largest(largest):
    shares, found = fusion.split_weights(tf.constant([[largest, 0.0, largest], [1.0, 2.0, 4.0]]))
    np.testing.assert_array_equal(shares, [[1.0, 0.0, 1.0], [0.25, 0.5, 1.0]])
    np.testing.assert_array_equal(found, np.array([[largest], [4.0]], np.float32))


def test_objective_queries_give_the_score_of_each_objective():
    rng, owner = np.random.default_rng(1), np.array([2, 0, 1, 3, 1])
    users, items = rng.normal(size=(2, 5)).astype(np.float32), rng.normal(size=(7, 5)).astype(np.float32)
    scores = np.einsum("bkd,nd->bkn", fusion.objective_queries(tf.constant(users), owner, 3), items)
    for k, read in enumerate([[2, 4], [0, 2, 4], [0, 2, 3, 4]]):
        np.testing.assert_allclose(scores[:, k], users[:, read] @ items[:, read].T, rtol=1e-5)


@pytest.mark.parametrize("block", [1, 7, 12 * 13, 1 << 22])
@pytest.mark.parametrize("size", [1.0, 300.0])
def test_log_partition_of_any_block_size(monkeypatch, block, size):
    monkeypatch.setattr(fusion, "_BLOCK", block)
    rng = np.random.default_rng(0)
    items = rng.normal(size=(400, 5)).astype(np.float32)
    queries = rng.normal(size=(2, 3, 5)).astype(np.float32) * np.float32(size)
    scores = np.einsum("bkd,nd->bkn", queries.astype(np.float64), items)
    peak = scores.max(axis=2)
    expected = peak + np.log(np.exp(scores - peak[:, :, np.newaxis]).sum(axis=2))
    np.testing.assert_allclose(fusion.log_partition(tf.constant(queries), items), expected, rtol=1e-5)


def test_log_partition_of_many_items_keeps_its_precision():
    vectors = np.random.default_rng(0).normal(size=(300_000, 2)).astype(np.float32)
    queries = np.array([[[0.5, 1.0], [-3.0, 0.1]]], np.float32)
    expected = np.log(np.exp(np.einsum("bkd,nd->bkn", queries.astype(np.float64), vectors)).sum(axis=2))
    np.testing.assert_allclose(fusion.log_partition(tf.constant(queries), vectors), expected, atol=1e-5)


def test_log_mixture_of_what_is_not_there_is_no_number_less():
    nothing = -np.inf
    log_p = tf.constant([[[nothing, nothing], [-1.0, nothing], [-500.0, -2.0]]])
    mixture = fusion.log_mixture(log_p, tf.constant([[1.0, 0.0]])).numpy()
    np.testing.assert_array_equal(mixture, [[nothing, -1.0, -500.0]])


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (None, [1, 1, 1]),
        ({"buy": 3, "view": 1}, [1, 0, 3]),
        ([0.5, 0, 2], [0.5, 0, 2]),
        (np.array([1, 2, 3]), [1, 2, 3]),
    ],
)
def test_check_weights_orders_by_objective(weights, expected):
    checked = check_weights(weights, FUNNEL)
    assert checked.dtype == np.float32
    assert checked.tolist() == expected


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"view": 1, "like": 2}, r"should name objectives of \['view', 'cart', 'buy'\]. Unknown: \['like'\]"),
        ({"view": -1}, "should be finite and not negative. Received: weights={'view': -1}"),
        ({"view": float("nan"), "buy": 1}, "should be finite and not negative"),
        ([1, 1, float("inf")], "should be finite and not negative"),
        ({"view": 0.0}, "should hold at least one that is not zero"),
        ({}, "should hold at least one that is not zero"),
        ([0, 0, 0], "should hold at least one that is not zero"),
        ([0, 1e-40, 0], "should hold at least one that is not zero"),
        ([1, 2], "should hold one number for each objective"),
        ({"view": "much"}, "should be numbers"),
    ],
)
def test_check_weights_refuses(weights, message):
    with pytest.raises(ValueError, match=f"^`weights` {message}"):
        check_weights(weights, FUNNEL)
