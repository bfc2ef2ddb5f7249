"""The sampling correction by counting, by simulation and at any size; funnel negatives against loops."""

import math
from collections import Counter, defaultdict
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csmf_tf.data.groups import group
from csmf_tf.losses import softmax_nll
from csmf_tf.negatives import draw_funnel_negatives, log_expected_count, upstream_only

USERS, ITEMS = 4, 7
PAIRS = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1)), max_size=25)


# The correction


@pytest.mark.parametrize("n_items", [10, 10**4, 10**7, 10**9])
def test_log_expected_count_is_right_at_any_vocabulary_size(n_items):
    # A clip of the probability at 1e-6 or a sum in float32 would show here.
    frequency = np.array([1 / n_items, 3.7 / n_items, 1e-12, 0.3])
    got = log_expected_count([frequency, np.full(4, 1 / n_items)], [1024, 512])
    expected = [math.log(math.fsum([1024 * q, 512 / n_items])) for q in frequency.tolist()]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("frequency", [1e-7, np.float32(1e-7), 1e-30])
def test_rare_items_of_a_batch_alone_are_not_clipped(frequency):
    got = log_expected_count([[frequency], [1e-7]], [4096, 0])
    assert got[0] == pytest.approx(math.log(4096) + math.log(frequency), rel=1e-6)


@given(st.integers(0, 50), st.integers(0, 50), st.lists(st.integers(0, 9), min_size=1, max_size=6))
def test_expected_counts_sum_to_the_number_of_negatives(in_batch, uniform, counts):
    frequency = np.array(counts) / max(sum(counts), 1)
    got = log_expected_count([frequency, np.full(len(counts), 1 / len(counts))], [in_batch, uniform])
    assert np.isfinite(got).all()
    expected = in_batch * frequency + uniform / len(counts)
    np.testing.assert_allclose(got, np.log(np.where(expected, expected, 1.0)), rtol=1e-6, atol=1e-6)


def estimates(in_batch, uniform, draws, rng, corrected=True):
    """-log p(positive) of one user as drawn negatives estimate it, and the full catalogue's."""
    scores = rng.normal(0, 1.5, ITEMS).astype(np.float32)
    frequency = rng.dirichlet(np.ones(ITEMS))
    positive = int(np.argmax(scores))
    others = np.concatenate(
        [rng.choice(ITEMS, (draws, in_batch), p=frequency), rng.integers(0, ITEMS, (draws, uniform))], axis=1
    )
    log_q = (
        log_expected_count([frequency, np.full(ITEMS, 1 / ITEMS)], [in_batch, uniform])[others] * corrected
    )
    logits = np.concatenate([np.full((draws, 1), scores[positive]), scores[others] - log_q], axis=1)
    hits = np.pad(others == positive, [[0, 0], [1, 0]])
    nll = softmax_nll(logits.astype(np.float32), np.zeros(draws, int), excluded=hits).numpy()
    exact = math.log(np.exp(scores.astype(np.float64)).sum()) - float(scores[positive])
    return nll.astype(np.float64), exact


@pytest.mark.parametrize(("in_batch", "uniform"), [(6, 0), (0, 5), (4, 3), (20, 10)])
def test_sampled_partition_is_an_unbiased_estimate_of_the_full_one(in_batch, uniform):
    """1 / p(positive) = Z / exp(s+) is linear in the negatives, so its mean has to be exact."""
    nll, exact = estimates(in_batch, uniform, 4000, np.random.default_rng(0))
    inverse = np.exp(nll)
    error = inverse.std() / math.sqrt(len(inverse))
    assert inverse.mean() == pytest.approx(math.exp(exact), abs=4 * error)
    # The test can tell: without the correction the estimate is far off.
    off, _ = estimates(in_batch, uniform, 4000, np.random.default_rng(0), corrected=False)
    assert abs(np.exp(off).mean() - math.exp(exact)) > 10 * error


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_sampled_loss_goes_to_the_full_loss_as_negatives_grow(share):
    errors = []
    for count in (10, 100, 2000):
        in_batch = round(share * count)
        nll, exact = estimates(in_batch, count - in_batch, 100, np.random.default_rng(1))
        errors.append(math.sqrt(np.mean((nll - exact) ** 2)))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


# Funnel negatives


def items_by_user(pairs):
    found = defaultdict(set)
    for user, item in pairs:
        found[user].add(item)
    return found


def grouped(pairs):
    users, items = np.array(pairs, int).reshape(-1, 2).T
    return group(users, items, USERS)


@given(reached=PAIRS, positives=PAIRS)
def test_upstream_only_is_the_difference_of_each_user(reached, positives):
    pool = upstream_only(grouped(reached), grouped(positives), ITEMS)
    up, down = items_by_user(reached), items_by_user(positives)
    for user in range(USERS):
        assert pool.of(user).tolist() == sorted(up[user] - down[user])


def test_upstream_only_does_not_overflow():
    pool = upstream_only(*(group(np.array([1, 1]), np.array(i), 2) for i in ([2**31 - 1, 5], [5, 6])), 2**31)
    assert pool.of(1).tolist() == [2**31 - 1]


@given(pairs=PAIRS, users=st.lists(st.integers(0, USERS - 1), max_size=6), count=st.integers(0, 4))
def test_drawn_negatives_are_of_the_pool_of_their_user(pairs, users, count):
    drawn = draw_funnel_negatives(grouped(pairs), np.array(users, int), count, np.random.default_rng(0))
    assert drawn.shape == (len(users), count)
    assert drawn.dtype == np.int32
    pool = items_by_user(pairs)
    for user, items in zip(users, drawn.tolist(), strict=True):
        # No item counts twice in the softmax, and pads come last.
        found = min(count, len(pool[user]))
        assert items[found:] == [-1] * (count - found)
        assert len(set(items[:found])) == found
        assert set(items[:found]) <= pool[user]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_every_subset_of_the_pool_is_drawn_alike(count):
    items, rows = [0, 2, 3, 5, 6], 6000
    pool = grouped([(0, 1), *((2, item) for item in items)])
    drawn = draw_funnel_negatives(pool, np.full(rows, 2), count, np.random.default_rng(0))
    subsets = Counter(map(frozenset, drawn.tolist()))
    share = 1 / math.comb(len(items), count)
    assert subsets.keys() == {frozenset(chosen) for chosen in combinations(items, count)}
    deviations = [abs(times - rows * share) for times in subsets.values()]
    assert max(deviations) <= 4 * math.sqrt(rows * share * (1 - share))
