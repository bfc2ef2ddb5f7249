"""Draws by clusters against a reference that lists every item's probability."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from csmf_tf.negatives.clusters import Clusters
from csmf_tf.negatives.msac import ClusterSampler


def clusters_of(level1, level2, temperature=1.0, seed=0):
    """`Clusters` of given labels, their centres drawn at random; the items in random order."""
    rng = np.random.default_rng(seed)
    level1, level2 = np.asarray(level1), np.asarray(level2)
    centres = rng.normal(size=(level1.max() + 1, 3))
    easy = np.exp(-np.linalg.norm(centres[:, None] - centres[None], axis=2) / temperature)
    np.fill_diagonal(easy, 0)
    easy /= easy.sum(axis=1, keepdims=True)
    order = rng.permutation(len(level1))
    return Clusters(level1[order], level2[order], easy, centres, centres[level1[order]])


def nested(sizes):
    """Labels of both levels from the sizes of level-2 clusters, one list for each level-1 cluster."""
    level1 = [c for c, inner in enumerate(sizes) for _ in range(sum(inner))]
    flat = [size for inner in sizes for size in inner]
    return level1, [c for c, size in enumerate(flat) for _ in range(size)]


PLAN = nested([[3, 4, 2], [2, 5], [6], [3, 3, 3, 3]])


def expected_counts(clusters, positive, count, anchors, hard):
    """How many times a row of this positive is expected to hold each item: easy, and hard."""
    level1, level2 = clusters.level1, clusters.level2
    easy, others = np.zeros(len(level1)), []
    for item, c in enumerate(level1):
        if c != level1[positive]:
            easy[item] = count * clusters.easy[level1[positive], c] * anchors / np.sum(level1 == c)
        elif level2[item] != level2[positive]:
            others.append(item)
    near = np.zeros(len(level1))
    near[others] = min(hard, len(others)) / max(len(others), 1)
    return easy, near


@pytest.mark.parametrize("positive", [0, 7, 20, 33])
@pytest.mark.parametrize("hard", [0, 2, 5])
def test_draw_probabilities(positive, hard):
    """A million easy draws, and the hard ones beside, by a chi-square test."""
    clusters = clusters_of(*PLAN)
    count, anchors, rows = 2, 5, 100_000
    sampler = ClusterSampler(clusters, count, anchors, hard)
    assert sampler.draws == count * anchors + hard
    items, probability = sampler.draw(np.full(rows, positive), np.random.default_rng(1))
    assert items.shape == probability.shape == (rows, sampler.draws)
    easy, near = expected_counts(clusters, positive, count, anchors, hard)
    n = len(easy)
    parts = (items[:, : count * anchors], easy), (items[:, count * anchors :], near)
    for drawn, expected in parts:
        found = np.bincount(drawn[drawn >= 0], minlength=n)
        assert not found[expected == 0].any()
        if expected.any():
            kept = expected > 0
            assert found.sum() == round(expected.sum() * rows)
            # Items of one draw exclude each other, which makes the counts vary less than the test takes.
            assert stats.chisquare(found[kept], expected[kept] * rows).pvalue > 1e-3
    known = items >= 0
    of_item = (easy + near) / sampler.draws
    np.testing.assert_allclose(probability[known], of_item[items[known]], rtol=1e-9)
    assert not probability[~known].any()


@given(
    sizes=st.lists(st.lists(st.integers(2, 6), min_size=1, max_size=4), min_size=2, max_size=5),
    count=st.integers(1, 3),
    hard=st.integers(0, 6),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_every_draw_is_where_it_should_be(sizes, count, hard, seed):
    clusters, rng = clusters_of(*nested(sizes), seed=seed), np.random.default_rng(seed)
    anchors = int(np.bincount(clusters.level1).min())
    positive = rng.integers(0, len(clusters.level1), 40)
    items, _ = ClusterSampler(clusters, count, anchors, hard).draw(positive, rng)
    for row, item in zip(items, positive, strict=True):
        blocks = row[: count * anchors].reshape(count, anchors)
        for block in blocks:
            assert len(set(block)) == anchors
            assert len(set(clusters.level1[block])) == 1
            assert clusters.level1[block[0]] != clusters.level1[item]
        near = row[count * anchors :]
        near = near[near >= 0]
        assert len(set(near)) == len(near)
        assert (clusters.level1[near] == clusters.level1[item]).all()
        assert (clusters.level2[near] != clusters.level2[item]).all()
        inside = np.sum(
            (clusters.level1 == clusters.level1[item]) & (clusters.level2 != clusters.level2[item])
        )
        assert len(near) == min(hard, inside)


def test_draws_are_the_same_for_the_same_seed():
    sampler = ClusterSampler(clusters_of(*PLAN), 2, 3, 2)
    one, other = (sampler.draw(np.arange(30), np.random.default_rng(4))[0] for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_a_cluster_smaller_than_the_anchors_is_an_error():
    with pytest.raises(
        ValueError, match=r"at least `anchors` items. Received: anchors=7, and a cluster of 6"
    ):
        ClusterSampler(clusters_of(*PLAN), 1, 7, 0)
