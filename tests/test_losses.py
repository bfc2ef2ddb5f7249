"""The softmax loss, accidental hits and adaptive margins against plain float64 loops."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from csmf_tf._keras import tf
from csmf_tf.losses import accidental_hits, adaptive_margin, softmax_nll

SHAPES = st.tuples(st.integers(1, 4), st.integers(2, 6))


def floats(shape, size=30.0):
    return arrays(np.float32, shape, elements=st.floats(-size, size, width=32))


@st.composite
def softmaxes(draw):
    """Logits [R, C], the rows and columns of some positives, and exclusions that spare them."""
    rows, columns = draw(SHAPES)
    logits = draw(floats((rows, columns)))
    pairs = draw(
        st.lists(st.tuples(st.integers(0, rows - 1), st.integers(0, columns - 1)), min_size=1, max_size=8)
    )
    row, positive = np.array(pairs, np.int32).T
    excluded = draw(arrays(bool, (rows, columns)))
    excluded[row, positive] = False
    return logits, row, positive, excluded


def slow_nll(logits, row, positive, excluded):
    losses = []
    for r, p in zip(row, positive, strict=True):
        kept = [float(x) for x, out in zip(logits[r], excluded[r], strict=True) if not out]
        top = max(kept)
        losses.append(top + math.log(math.fsum(math.exp(x - top) for x in kept)) - float(logits[r, p]))
    return losses


@given(softmaxes())
def test_softmax_nll_is_that_of_a_float64_loop(case):
    logits, row, positive, excluded = case
    expected = slow_nll(logits, row, positive, excluded)
    got = softmax_nll(logits, positive, row, excluded)
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@given(SHAPES.flatmap(lambda shape: st.tuples(floats(shape), arrays(bool, shape))))
def test_without_rows_each_row_has_its_own_positive(case):
    logits, excluded = case
    row = np.arange(len(logits))
    positive = row % logits.shape[1]
    excluded[row, positive] = False
    got = softmax_nll(logits, positive, excluded=excluded)
    np.testing.assert_allclose(got, slow_nll(logits, row, positive, excluded), rtol=1e-5, atol=1e-5)


@given(softmaxes())
def test_gradient_is_probability_minus_indicator(case):
    logits, row, positive, excluded = case
    x = tf.constant(logits)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(softmax_nll(x, positive, row, excluded))
    expected = np.zeros(logits.shape)
    for r, p in zip(row, positive, strict=True):
        kept = np.where(excluded[r], -np.inf, logits[r].astype(np.float64))
        expected[r] += np.exp(kept - kept.max()) / np.exp(kept - kept.max()).sum()
        expected[r, p] -= 1
    np.testing.assert_allclose(tape.gradient(loss, x), expected, atol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("there", [0.0, 88.0, 3e38, -3e38, np.inf, -np.inf, np.nan])
def test_excluded_columns_have_probability_and_gradient_exactly_zero(there, jit_compile):
    excluded = np.array([[False, True, False], [True, False, True]])

    @tf.function(jit_compile=jit_compile)
    def loss_and_gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = softmax_nll(x, [0, 1], excluded=excluded)
        return loss, tape.gradient(loss, x)

    logits = np.array([[1.0, 0.0, 2.0], [0.0, -40.0, 0.0]], np.float32)
    loss, gradient = loss_and_gradient(tf.constant(np.where(excluded, np.float32(there), logits)))
    # The gradient of -log p(positive) by another column's logit is that column's probability.
    assert np.array_equal(gradient.numpy()[excluded], np.zeros(3))
    np.testing.assert_allclose(loss, [math.log(1 + math.e), 0.0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_logits_are_summed_in_float32(dtype):
    # In half precision log(4096 * e^0.5) would keep 3 digits, and the sum itself would stall.
    logits = tf.fill([1, 4096], tf.constant(0.5, dtype))
    got = softmax_nll(logits, [0])
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, [math.log(4096)], rtol=1e-6)


@given(st.data())
def test_accidental_hits_are_other_columns_with_the_same_item(data):
    items = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=8))
    columns = data.draw(st.lists(st.integers(0, len(items) - 1), min_size=1, max_size=5))
    own = [items[column] for column in columns]
    expected = [
        [item == mine and j != column for j, item in enumerate(items)]
        for mine, column in zip(own, columns, strict=True)
    ]
    assert accidental_hits(own, items, columns).numpy().tolist() == expected


def test_softmax_without_its_accidental_hits_is_that_of_the_distinct_items():
    # One item stands in three columns: its own row counts it once, the other row sees all three.
    items, logits = [5, 5, 8, 5], np.log([[3.0, 3.0, 2.0, 3.0], [3.0, 3.0, 2.0, 3.0]]).astype(np.float32)
    nll = softmax_nll(logits, [0, 2], excluded=accidental_hits([5, 8], items, [0, 2]))
    np.testing.assert_allclose(np.exp(-nll), [3 / 5, 2 / 11], rtol=1e-6)


@given(
    SHAPES.flatmap(lambda shape: st.tuples(floats(shape), st.just(shape))),
    st.floats(-3, 3),
    st.floats(0.05, 2),
    st.data(),
)
def test_adaptive_margin_is_that_of_a_float64_loop(upstream, margin, temperature, data):
    scores, (rows, columns) = upstream
    positive = data.draw(st.lists(st.integers(0, columns - 1), min_size=rows, max_size=rows))
    expected = [
        [
            0.0 if j == p else margin * (1 - 1 / (1 + math.exp(float(line[p]) - float(s)))) / temperature
            for j, s in enumerate(line)
        ]
        for line, p in zip(scores, positive, strict=True)
    ]
    got = adaptive_margin(scores, positive, margin, temperature)
    assert got.dtype == tf.float32
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_adaptive_margin_spares_what_upstream_likes_and_stops_gradients():
    upstream = tf.constant([[0.0, -50.0, 0.0, 50.0]], tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(upstream)
        margins = adaptive_margin(upstream, [0], margin=0.8)
    np.testing.assert_allclose(margins, [[0.0, 0.8, 0.4, 0.0]], atol=1e-6)
    assert tape.gradient(margins, upstream) is None
