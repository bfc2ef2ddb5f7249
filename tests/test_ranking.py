"""Exact top-K against a sort in plain Python, for any size of the blocks and chunks."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm import tqdm

from csmf_tf.data.groups import Groups
from csmf_tf.evaluation import ranking
from csmf_tf.evaluation.ranking import Shortlist, rank, top_k


def ragged(lists):
    """Groups of plain lists."""
    offsets = np.cumsum([0] + [len(items) for items in lists])
    return Groups(offsets, np.array([item for items in lists for item in sorted(items)], np.int32))


def ranked_in_python(scores, seen, k):
    left = [item for item in range(len(scores)) if item not in seen and scores[item] > -math.inf]
    return (sorted(left, key=lambda item: (-scores[item], item)) + [-1] * k)[:k]


@st.composite
def problems(draw):
    """Integer vectors with many exact ties, items to leave out, k up to twice the catalogue."""
    n_users, n_items, dim = draw(st.integers(1, 6)), draw(st.integers(1, 40)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    spread = draw(st.sampled_from([0, 1, 3, 50]))
    vectors = [rng.integers(-spread, spread + 1, (n, dim)) for n in (n_users, n_items)]
    share = draw(st.sampled_from([0, 0.2, 0.9, 1]))
    seen = [set(np.flatnonzero(rng.random(n_items) < share).tolist()) for _ in range(n_users)]
    # Items in the order of their scores are the hard case of a filter.
    if draw(st.booleans()):
        vectors[1] = np.sort(vectors[1], axis=0)
    return *vectors, seen, draw(st.integers(1, 2 * n_items))


@given(problems(), st.sampled_from([1, 2, 7, 8192]), st.sampled_from([1e-9, 1e-3, 64]))
def test_top_k_equals_a_sort(problem, block, memory_mb):
    user_vectors, item_vectors, seen, k = problem
    scores = (user_vectors @ item_vectors.T).tolist()
    expected = [ranked_in_python(row, left_out, k) for row, left_out in zip(scores, seen, strict=True)]
    users = np.arange(len(seen))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "_FIRST", min(block, 3))
        patch.setattr(ranking, "_BLOCK", block)
        by_vectors = top_k(user_vectors, item_vectors, ragged(seen), users, k, memory_mb=memory_mb)
        by_scores = rank(lambda who: np.array(scores)[who], ragged(seen), users, k, memory_mb=memory_mb)
    assert by_vectors.dtype == by_scores.dtype == np.int32
    assert by_vectors.tolist() == by_scores.tolist() == expected
    lists = [[item for item in range(len(item_vectors)) if item % 3] for _ in seen]
    own = [score for row, items in zip(scores, lists, strict=True) for score in np.array(row)[items]]
    ranked = rank(Shortlist(ragged(lists), np.array(own)), ragged(seen), users, k)
    kept = [[score if item % 3 else -math.inf for item, score in enumerate(row)] for row in scores]
    assert ranked.tolist() == [
        ranked_in_python(row, left_out, k) for row, left_out in zip(kept, seen, strict=True)
    ]


@pytest.mark.parametrize("order", ["random", "ascending", "descending", "equal"])
def test_a_catalogue_of_many_blocks(order):
    rng = np.random.default_rng(0)
    items = rng.standard_normal((50_000, 1)).astype(np.float32)
    items = {
        "random": items,
        "ascending": np.sort(items, axis=0),
        "descending": -np.sort(items, axis=0),
        "equal": np.ones_like(items),
    }[order]
    users = np.array([[1.0], [-1.0], [0.5], [0.0]], np.float32)
    seen = ragged([rng.choice(50_000, 400, replace=False) for _ in users])
    ranked = top_k(users, items, seen, np.arange(4), 100)
    for row, vector in enumerate(users):
        scores = items @ vector
        scores[seen.of(row)] = -np.inf
        assert ranked[row].tolist() == np.argsort(-scores, kind="stable")[:100].tolist()


def test_scores_in_float64_are_not_rounded():
    scores = np.array([[1.0, 1.0 + 1e-12, 1.0]])
    assert rank(lambda users: scores[users], None, np.array([0]), 3).tolist() == [[1, 0, 2]]


def test_minus_infinity_leaves_an_item_out():
    scores = np.array([[-np.inf, 2.0, -np.inf, 3.0]])
    assert rank(lambda users: scores[users], None, np.array([0]), 3).tolist() == [[3, 1, -1]]


@pytest.mark.parametrize("users", [1, 7, 1000])
@pytest.mark.parametrize("dim", [7, 64, 100])
def test_equal_vectors_are_tied_whoever_else_is_ranked(users, dim):
    rng = np.random.default_rng(0)
    user_vectors = rng.standard_normal((1000, dim)).astype(np.float32)
    one = rng.standard_normal((1, dim)).astype(np.float32)
    for n_items in (1025, 1027, 3073):
        ranked = top_k(user_vectors, np.repeat(one, n_items, axis=0), None, np.arange(users), 10)
        assert (ranked == np.arange(10)).all()


def test_the_ranking_of_a_user_does_not_depend_on_who_else_is_ranked():
    rng = np.random.default_rng(1)
    users, items = (rng.standard_normal((n, 64)).astype(np.float32) for n in (300, 1700))
    items = np.concatenate([items, items])
    together = top_k(users, items, None, np.arange(300), 20)
    alone = [top_k(users, items, None, np.array([user]), 20)[0].tolist() for user in range(300)]
    assert together.tolist() == alone


@pytest.mark.parametrize("order", ["random", "ascending for a few"])
def test_memory_does_not_grow_with_users_times_items(order):
    # 2,000 x 20,000 scores would take 160 MB.
    code = r"""
import re, sys
import numpy as np
from csmf_tf.evaluation.ranking import top_k

def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024

if sys.argv[1] == "random":
    rng = np.random.default_rng(0)
    users, items = (rng.standard_normal((n, 8)).astype(np.float32) for n in (2000, 20000))
else:
    users, items = -np.ones((2000, 1), np.float32), np.linspace(1, 2, 20000, dtype=np.float32)[:, None]
    users[:4] = 1
top_k(users[-10:], items, None, np.arange(10), 50, memory_mb=8)
before = peak()
top_k(users, items, None, np.arange(2000), 50, memory_mb=8)
print(peak() - before)
"""
    result = subprocess.run([sys.executable, "-c", code, order], capture_output=True, text=True, check=True)
    assert float(result.stdout) < 16


def test_the_bar_counts_the_users(monkeypatch, capsys):
    """Whether there is one, is a matter of `csmf_tf.progress`."""
    monkeypatch.setattr(ranking, "bar", lambda total, about: tqdm(desc=about, total=total, mininterval=0))
    # So little memory that one user is ranked at a time.
    rank(lambda users: np.ones((len(users), 2)), None, np.arange(3), 1, memory_mb=1e-9)
    told = capsys.readouterr().err
    assert all(f"| {done}/3" in told for done in range(4))
    assert told.startswith("\rranking")


def test_users_may_come_in_any_order_and_in_part():
    vectors, items = (
        np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.5]]),
    )
    seen = ragged([[], [1], [2]])
    users = np.array([2, 1])
    assert top_k(vectors, items, seen, users, 2).tolist() == [[0, 1], [2, 0]]


def test_seen_none_leaves_nothing_out_and_ties_go_to_the_lower_item():
    assert top_k(np.ones((1, 1)), np.ones((5, 1)), None, np.array([0]), 3).tolist() == [[0, 1, 2]]


def test_fewer_items_than_k_are_padded():
    everything = ragged([[0, 1, 2]])
    assert top_k(np.ones((1, 1)), np.ones((3, 1)), everything, np.array([0]), 5).tolist() == [[-1] * 5]
    assert top_k(np.ones((1, 1)), np.ones((3, 1)), None, np.array([0]), 5).tolist() == [[0, 1, 2, -1, -1]]


def test_the_scores_of_the_caller_are_not_written_to():
    scores = np.zeros((1, 4))
    rank(lambda users: scores, ragged([[0, 2]]), np.array([0]), 1)
    assert not scores.any()


ONE = np.ones((1, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k(ONE, np.ones((3, 1)), None, np.array([0]), 0), r"`k` should be .* Received: k=0"),
        (
            lambda: top_k(np.ones((1, 2)), np.ones((3, 1)), None, np.array([0]), 1),
            r"should be \[U, D\] and \[N, D\]\. Received: shapes \(1, 2\) and \(3, 1\)",
        ),
        (lambda: top_k(ONE * np.nan, np.ones((3, 1)), None, np.array([0]), 1), r"Received: vectors with NaN"),
        (lambda: top_k(ONE, ONE * np.inf, None, np.array([0]), 1), r"Received: vectors with NaN, infinity"),
        (lambda: top_k(ONE * 1e30, ONE * 1e30, None, np.array([0]), 1), r"too large to multiply"),
        (
            lambda: top_k(ONE, np.ones((3, 1)), ragged([[7]]), np.array([0]), 1),
            r"`seen` should hold codes in 0\.\.2\. Received: codes in 7\.\.7",
        ),
        (lambda: top_k(ONE, ONE, None, np.array([4]), 1), r"`users` should hold codes in 0\.\.0\. .* 4\.\.4"),
        (lambda: top_k(ONE, ONE, None, np.array([-1]), 1), r"`users` .* Received: codes in -1\.\.-1"),
        (
            lambda: top_k(np.ones((5, 1)), ONE, ragged([[0]]), np.array([4]), 1),
            r"`users` should hold codes in 0\.\.0\. Received: codes in 4\.\.4",
        ),
        (
            lambda: top_k(ONE, ONE, None, np.array([0]), 1, memory_mb=0),
            r"`memory_mb` should be > 0\. Received: memory_mb=0",
        ),
        (lambda: rank(lambda users: ONE * np.nan, None, np.array([0]), 1), r"Received: NaN"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
