"""Intervals and paired tests: against SciPy and plain Python, their coverage, and what must always hold."""

import itertools
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from csmf_tf.evaluation import statistics as chunked
from csmf_tf.evaluation.statistics import holm, intervals, paired_test, sign_flip_test

METRIC = st.floats(0, 1, allow_subnormal=False)
PAIRS = st.lists(st.tuples(METRIC, METRIC), min_size=1, max_size=30)


def recalls(seed, n, targets=4, chance=0.3):
    """What Recall@K looks like: a few values between 0 and 1, many of them 0."""
    return np.random.default_rng(seed).binomial(targets, chance, size=n) / targets


def test_intervals_agree_with_scipy_within_the_noise_of_their_draws():
    values = {"recall@5": recalls(0, 400), "mrr@5": np.random.default_rng(1).beta(0.5, 2, size=400)}
    ours = intervals(values, level=0.9, repeats=20_000)
    for name, value in values.items():
        theirs = stats.bootstrap(
            (value,), np.mean, n_resamples=20_000, confidence_level=0.9, method="percentile", rng=7, batch=100
        ).confidence_interval
        error = value.std() / np.sqrt(len(value))
        assert ours[name] == pytest.approx(tuple(theirs), abs=0.06 * error)


def test_an_interval_holds_the_true_mean_as_often_as_it_says():
    held = 0
    for seed in range(300):
        low, high = intervals({"recall": recalls(seed, 80)}, repeats=400, seed=seed)["recall"]
        held += low <= 0.3 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_all_metrics_see_the_same_users():
    one = recalls(0, 50)
    found = intervals({"one": one, "twice": 2 * one, "other": recalls(3, 50)})
    assert found["twice"] == pytest.approx([2 * bound for bound in found["one"]])
    assert found["one"] == pytest.approx(intervals({"one": one})["one"])


def test_the_size_of_chunks_changes_nothing(monkeypatch):
    values = {"recall": recalls(0, 50)}
    whole = intervals(values, repeats=101)
    monkeypatch.setattr(chunked, "_CELLS", 150)
    assert intervals(values, repeats=101)["recall"] == pytest.approx(whole["recall"], abs=1e-12)


def test_intervals_depend_on_the_seed_alone():
    values = {"recall": recalls(0, 50)}
    assert intervals(values, seed=1) == intervals(values, seed=1)
    assert intervals(values, seed=1) != intervals(values, seed=2)


def test_intervals_of_no_user_and_of_one():
    assert intervals({}) == {}
    assert np.isnan(intervals({"recall": np.zeros(0)})["recall"]).all()
    assert intervals({"recall": np.array([0.3])}) == {"recall": (0.3, 0.3)}


@given(st.lists(METRIC, min_size=1, max_size=30), st.integers(0, 99))
def test_an_interval_lies_within_the_values_and_grows_with_the_level(values, seed):
    found = [intervals({"m": values}, level, repeats=60, seed=seed)["m"] for level in (0.5, 0.95)]
    (low, high), (lowest, highest) = found
    assert min(values) - 1e-9 <= lowest <= low <= high <= highest <= max(values) + 1e-9


@given(METRIC, st.integers(1, 30))
def test_the_interval_of_a_constant_is_the_constant(value, n):
    assert intervals({"m": np.full(n, value)}, repeats=20)["m"] == pytest.approx((value, value))


@pytest.mark.parametrize("n", range(11))
def test_few_users_are_tested_exactly(n):
    difference = np.random.default_rng(n).integers(-3, 4, size=n) / 8
    least = abs(sum(difference))
    as_far = [
        abs(sum(s * d for s, d in zip(signs, difference, strict=True))) >= least
        for signs in itertools.product([1, -1], repeat=n)
    ]
    assert sign_flip_test(difference) == statistics.fmean(as_far)


@pytest.mark.parametrize("n", [3, 9, 12])
def test_few_users_are_tested_as_scipy_does(n):
    difference = np.random.default_rng(n).normal(0.3, 1, size=n)
    theirs = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip_test(difference) == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize(("n", "shift"), [(21, 0.4), (200, 0.15), (203, 0.05)])
def test_many_users_are_tested_as_scipy_does_within_the_noise(n, shift):
    difference = np.random.default_rng(n).normal(shift, 1, size=n)
    theirs = stats.permutation_test(
        (difference,), np.mean, permutation_type="samples", n_resamples=20_000, batch=1000, rng=3
    )
    p = theirs.pvalue
    assert sign_flip_test(difference, repeats=20_000) == pytest.approx(
        p, abs=5 * np.sqrt(2 * p * (1 - p) / 20_000)
    )


def test_p_is_uniform_where_nothing_differs():
    p = []
    for seed in range(300):
        a, b = np.random.default_rng(seed).random((2, 40))
        p.append(sign_flip_test(b - a, repeats=400, seed=seed))
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_p_is_never_0_and_no_smaller_than_the_repeats_can_tell():
    assert sign_flip_test(np.ones(1000), repeats=99) == 1 / 100
    assert sign_flip_test(np.ones(6)) == 2 / 2**6


def test_users_that_do_not_differ_count_in_the_mean_alone():
    difference = np.random.default_rng(0).normal(0.2, 1, size=30)
    spread = np.insert(difference, np.arange(30), 0)
    assert sign_flip_test(spread) == sign_flip_test(difference)
    assert paired_test(np.zeros(60), spread).mean == pytest.approx(difference.mean() / 2)


def test_rounding_does_not_untie_ties():
    # 0.1 + 0.2 + 0.3 in another order is another float.
    assert sign_flip_test(np.array([0.1, 0.2, 0.3])) == 2 / 8
    assert sign_flip_test(np.array([0.3, 0.1, -0.2])) == 6 / 8


@given(PAIRS, st.integers(0, 99))
def test_swapping_the_two_turns_the_difference(pairs, seed):
    a, b = np.array(pairs).T
    one, other = (
        paired_test(*pair, repeats=50, resamples=50, seed=seed, level=0.8) for pair in ((a, b), (b, a))
    )
    assert one.mean == -other.mean
    assert one.p == other.p
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-12)


@given(PAIRS)
def test_nothing_differs_from_itself(pairs):
    a = np.array(pairs)[:, 0]
    assert paired_test(a, a, repeats=20, resamples=20) == (0, 0, 0, 1)


@given(PAIRS, st.integers(0, 99))
def test_a_difference_is_the_mean_with_the_interval_of_its_users(pairs, seed):
    a, b = np.array(pairs).T
    found = paired_test(a, b, repeats=40, resamples=40, seed=seed)
    assert found.mean == pytest.approx(statistics.fmean(b) - statistics.fmean(a), abs=1e-12)
    assert (found.low, found.high) == intervals({"gap": b - a}, repeats=40, seed=seed)["gap"]
    assert 0 < found.p <= 1


def test_a_clear_difference_is_told_and_noise_is_not():
    a = recalls(0, 300)
    better = paired_test(a, np.clip(a + recalls(1, 300, chance=0.1), 0, 1))
    assert better.p < 0.001
    assert 0 < better.low < better.mean < better.high
    same = paired_test(recalls(2, 300), recalls(3, 300))
    assert same.p > 0.05
    assert same.low < 0 < same.high


def test_no_user_at_all_tells_nothing():
    found = paired_test(np.zeros(0), np.zeros(0))
    assert np.isnan(found[:3]).all()
    assert found.p == 1


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_rejects_what_its_steps_reject(p):
    adjusted = holm(p)
    for alpha in (0.01, 0.05, 0.3):
        rejected = []
        for step, index in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
            if p[index] * (len(p) - step) > alpha:
                break
            rejected.append(index)
        assert set(np.flatnonzero(adjusted <= alpha)) == set(rejected)
    assert all(adjusted >= p)


def test_holm_of_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == pytest.approx([1, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: intervals({"m": np.ones(3)}, level=95),
            r"`level` should be in \(0, 1\).* Received: level=95",
        ),
        (lambda: intervals({"m": np.ones(3)}, repeats=0), "`repeats` should be an integer >= 1. Received"),
        (lambda: intervals({"m": np.ones(3), "n": np.ones(4)}), r"of the same users. Received: .*\(4,\)"),
        (lambda: intervals({"m": np.ones((3, 2))}), r"one number for each user.* Received: .*\(3, 2\)"),
        (lambda: intervals({"m": np.array([1, np.nan])}), "finite numbers. Received: NaN or infinity"),
        (lambda: sign_flip_test(np.array([np.inf])), "finite numbers"),
        (lambda: sign_flip_test(np.ones(3), repeats=-1), "Received: repeats=-1"),
        (lambda: paired_test(np.ones(3), np.ones(2)), r"of the same users. Received: .*\(2,\)"),
        (lambda: holm([0.5, 1.5]), r"`p` should be a list of numbers in \[0, 1\]. Received: p=\[0.5, 1.5\]"),
        (lambda: holm([np.nan]), "`p` should be"),
    ],
)
def test_bad_input_is_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
