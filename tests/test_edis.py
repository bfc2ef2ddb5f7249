"""Virtual negatives: counts, where they lie, and the columns of the softmax that they become."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import linprog

from csmf_tf._keras import tf
from csmf_tf.negatives.edis import (
    hard_virtual,
    hardest,
    mixing_weights,
    simple_from,
    simple_log_q,
    simple_virtual,
    virtual_count,
)

# (m_o + 2)(m_o - 1) / 2 as ESANS publishes it, worked out by hand.
PUBLISHED = {2: 2, 3: 5, 4: 9, 5: 14, 6: 20, 8: 35}


@pytest.mark.parametrize(("anchors", "count"), PUBLISHED.items())
def test_counts_are_the_published_ones(anchors, count):
    assert virtual_count(anchors) == count
    weights = mixing_weights(3, anchors, 1.0, np.random.default_rng(0))
    assert weights.shape == (3 * count, 3 * anchors)
    # k combinations of k anchors for each k from 2 on, of one cluster each.
    for cluster, rows in enumerate(np.split(weights, 3)):
        own = rows[:, cluster * anchors : (cluster + 1) * anchors]
        assert np.count_nonzero(rows) == np.count_nonzero(own)
        used = (own > 0).sum(axis=1)
        assert {k: int((used == k).sum()) for k in range(2, anchors + 1)} == {
            k: k for k in range(2, anchors + 1)
        }


@given(
    anchors=st.integers(2, 7),
    concentration=st.sampled_from([1e-3, 0.3, 1.0, 20.0]),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_weights_are_convex(anchors, concentration, seed):
    weights = mixing_weights(2, anchors, concentration, np.random.default_rng(seed))
    assert weights.dtype == np.float32
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


def test_weights_of_two_are_uniform_and_every_pair_is_as_likely():
    rng = np.random.default_rng(0)
    pairs = np.concatenate([mixing_weights(1, 4, 1.0, rng)[:2] for _ in range(3000)])
    used = [tuple(np.flatnonzero(row)) for row in pairs]
    counts = [used.count(pair) for pair in itertools.combinations(range(4), 2)]
    assert stats.chisquare(counts).pvalue > 1e-3
    first = [row[row > 0][0] for row in pairs]
    assert stats.kstest(first, "uniform").pvalue > 1e-3


def test_more_concentration_is_nearer_to_equal_weights():
    spread = [
        np.mean([mixing_weights(1, 5, c, np.random.default_rng(n))[-1].std() for n in range(200)])
        for c in (0.2, 1.0, 50.0)
    ]
    assert spread[0] > spread[1] > spread[2]


@given(seed=st.integers(0, 999), anchors=st.integers(2, 5), dim=st.integers(1, 6), own=st.booleans())
@settings(max_examples=25, deadline=None)
def test_simple_virtual_negatives_lie_in_the_convex_hull_of_their_cluster(seed, anchors, dim, own):
    rng = np.random.default_rng(seed)
    shape = (3, 2 * anchors, dim) if own else (2 * anchors, dim)
    points = rng.normal(size=shape).astype(np.float32)
    mixing = mixing_weights(2, anchors, 1.0, rng)
    virtual = simple_virtual(tf.constant(points), tf.constant(mixing)).numpy()
    count = len(mixing) // 2
    for block, mixed in zip(
        points.reshape(-1, 2 * anchors, dim), virtual.reshape(-1, 2 * count, dim), strict=True
    ):
        for cluster in range(2):
            corners = block[cluster * anchors : (cluster + 1) * anchors].T
            for point in mixed[cluster * count : (cluster + 1) * count]:
                # Is there w >= 0 with sum 1 and corners @ w = point, within the rounding?
                bounds = np.vstack([corners, -corners]), np.concatenate([point + 1e-4, -point + 1e-4])
                found = linprog(np.zeros(anchors), *bounds, np.ones((1, anchors)), [1.0])
                assert found.status == 0


def test_simple_virtual_negatives_are_the_sums_of_a_loop():
    rng = np.random.default_rng(3)
    points, log_q = rng.normal(size=(4, 6, 5)), rng.normal(size=(4, 6))
    mixing = mixing_weights(2, 3, 1.0, rng)
    got = simple_virtual(tf.constant(points, tf.float32), tf.constant(mixing)).numpy()
    corrections = simple_log_q(tf.constant(log_q, tf.float32), tf.constant(mixing)).numpy()
    marked = rng.random((4, 6)) < 0.3
    from_marked = simple_from(tf.constant(marked), tf.constant(mixing)).numpy()
    for row, v in itertools.product(range(4), range(10)):
        members = slice(3 * (v // 5), 3 * (v // 5) + 3)
        weights = mixing[v, members]
        np.testing.assert_allclose(got[row, v], weights @ points[row, members], rtol=1e-5)
        assert corrections[row, v] == pytest.approx(weights @ log_q[row, members], rel=1e-5)
        assert from_marked[row, v] == (marked[row, members] & (weights > 0)).any()


@given(low=st.floats(0, 0.4), width=st.floats(0.05, 0.5), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_hard_virtual_negatives_lie_between_positive_and_negative(low, width, seed):
    rng = np.random.default_rng(seed)
    positive, hard = rng.normal(size=(6, 4)), rng.normal(size=(6, 3, 4))
    share = rng.uniform(low, low + width, (6, 3))
    got = hard_virtual(*(tf.constant(x, tf.float32) for x in (positive, hard, share))).numpy()
    towards = positive[:, None] - hard
    beta = np.sum((got - hard) * towards, axis=2) / np.sum(towards**2, axis=2)
    assert (beta >= low - 1e-4).all()
    assert (beta <= low + width + 1e-4).all()
    np.testing.assert_allclose(got, hard + beta[..., None] * towards, atol=1e-4)


def test_hardest_takes_the_highest_and_leaves_out_the_unfit():
    scores, unfit = (
        tf.constant([[3.0, 1.0, 2.0], [5.0, 4.0, 9.0]]),
        tf.constant([[True, False, False], [False] * 3]),
    )
    np.testing.assert_array_equal(hardest(scores, unfit, 2), [[2, 1], [2, 0]])
    # With nothing else left they are chosen, and stay marked by the caller's mask.
    assert int(hardest(scores, tf.ones([2, 3], tf.bool), 1)[0, 0]) in range(3)
