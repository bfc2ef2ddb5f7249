"""Ranking and metrics against references in plain Python, written from their definitions."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csmf_tf.data.groups import Groups
from csmf_tf.evaluation import metrics
from csmf_tf.evaluation.metrics import evaluate, evaluate_static, popularity_scores, recall_ndcg, top_k


def ragged(lists):
    """Groups of plain lists."""
    offsets = np.cumsum([0] + [len(items) for items in lists])
    return Groups(offsets, np.array([item for items in lists for item in sorted(items)], np.int32))


def ranked_in_python(scores, seen, k):
    left = [item for item in range(len(scores)) if item not in seen and scores[item] > -math.inf]
    return (sorted(left, key=lambda item: (-scores[item], item)) + [-1] * k)[:k]


def measured_in_python(ranked, targets, ks):
    """Recall and NDCG of lists of ranked items and sets of targets."""
    pairs = [(row, goal) for row, goal in zip(ranked, targets, strict=True) if goal]
    result: dict[str, float] = {"users": len(pairs)}
    for k in ks:
        recalls, ndcgs = [], []
        for row, goal in pairs:
            found = [rank for rank, item in enumerate(row[:k], start=1) if item in goal]
            recalls.append(len(found) / len(goal))
            best = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(goal)) + 1))
            ndcgs.append(sum(1 / math.log2(rank + 1) for rank in found) / best)
        result[f"recall@{k}"] = sum(recalls) / len(pairs) if pairs else 0.0
        result[f"ndcg@{k}"] = sum(ndcgs) / len(pairs) if pairs else 0.0
    return result


@st.composite
def problems(draw):
    """Users, items, integer vectors (many exact ties), seen and target sets, k up to twice the catalogue."""
    n_users, n_items, dim = draw(st.integers(1, 6)), draw(st.integers(1, 12)), draw(st.integers(1, 3))
    entries = st.integers(-2, 2)
    user_vectors = draw(
        st.lists(st.lists(entries, min_size=dim, max_size=dim), min_size=n_users, max_size=n_users)
    )
    item_vectors = draw(
        st.lists(st.lists(entries, min_size=dim, max_size=dim), min_size=n_items, max_size=n_items)
    )
    sets = st.lists(st.sets(st.integers(0, n_items - 1)), min_size=n_users, max_size=n_users)
    return (
        np.array(user_vectors),
        np.array(item_vectors),
        draw(sets),
        draw(sets),
        draw(st.integers(1, 2 * n_items)),
    )


@given(problems(), st.sampled_from([1, 7, 1 << 24]))
def test_top_k_equals_a_sort_for_any_chunk_size(problem, cells):
    user_vectors, item_vectors, seen, _, k = problem
    scores = (user_vectors @ item_vectors.T).tolist()
    expected = [ranked_in_python(row, left_out, k) for row, left_out in zip(scores, seen, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_CELLS", cells)
        ranked = top_k(user_vectors, item_vectors, ragged(seen), np.arange(len(seen)), k)
    assert ranked.dtype == np.int32
    assert ranked.tolist() == expected


@given(problems())
def test_evaluate_equals_the_definitions(problem):
    user_vectors, item_vectors, seen, targets, k = problem
    scores = (user_vectors @ item_vectors.T).tolist()
    ranked = [ranked_in_python(row, left_out, k) for row, left_out in zip(scores, seen, strict=True)]
    ks = sorted({1, (k + 1) // 2, k})
    expected = measured_in_python(ranked, targets, ks)
    by_vectors = evaluate((user_vectors, item_vectors), ragged(targets), ragged(seen), ks)
    by_function = evaluate(lambda users: np.array(scores)[users], ragged(targets), ragged(seen), ks)
    assert by_vectors == by_function == pytest.approx(expected, abs=1e-12)


@given(problems())
def test_invariants(problem):
    user_vectors, item_vectors, seen, targets, k = problem
    results = evaluate((user_vectors, item_vectors), ragged(targets), ragged(seen), range(1, k + 1))
    recalls = [results[f"recall@{cut}"] for cut in range(1, k + 1)]
    assert recalls == sorted(recalls)
    assert all(0 <= value <= 1 for name, value in results.items() if name != "users")
    perfect = evaluate(
        lambda users: np.array(
            [[float(item in targets[user]) for item in range(len(item_vectors))] for user in users]
        ),
        ragged(targets),
        None,
        [len(item_vectors)],
    )
    if perfect["users"]:
        assert list(perfect.values())[:2] == pytest.approx([1, 1])


def test_users_may_come_in_any_order_and_in_part():
    vectors, items = (
        np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]),
        np.array([[3.0, 1.0], [1.0, 3.0], [2.0, 2.5]]),
    )
    seen = ragged([[], [1], [2]])
    users = np.array([2, 1])
    assert top_k(vectors[users], items, seen, users, 2).tolist() == [[0, 1], [2, 0]]


def test_seen_none_leaves_nothing_out_and_ties_go_to_the_lower_item():
    assert top_k(np.ones((1, 1)), np.ones((5, 1)), None, np.array([0]), 3).tolist() == [[0, 1, 2]]


def test_fewer_items_than_k_are_padded():
    everything = ragged([[0, 1, 2]])
    assert top_k(np.ones((1, 1)), np.ones((3, 1)), everything, np.array([0]), 5).tolist() == [[-1] * 5]
    assert top_k(np.ones((1, 1)), np.ones((3, 1)), None, np.array([0]), 5).tolist() == [[0, 1, 2, -1, -1]]


def test_a_pad_is_never_a_hit():
    ranked = np.array([[-1, -1], [-1, -1]])
    assert recall_ndcg(ranked, ragged([[4], [0, 4]]), np.array([0, 1]), [2])["recall@2"] == 0


def test_users_without_targets_do_not_count():
    targets = ragged([[], [0], [], [1]])
    results = recall_ndcg(np.array([[0], [0], [1], [0]]), targets, np.arange(4), [1])
    assert results == {"recall@1": 0.5, "ndcg@1": 0.5, "users": 2}


def test_no_targets_at_all_measure_nothing():
    assert evaluate((np.ones((2, 1)), np.ones((3, 1))), ragged([[], []]), None, [2])["users"] == 0
    assert evaluate_static(np.ones(3), ragged([[], []]), None, [2]) == {
        "recall@2": 0,
        "ndcg@2": 0,
        "users": 0,
    }


def test_the_first_metric_is_recall_at_the_first_cut_off():
    results = evaluate((np.ones((1, 1)), np.ones((9, 1))), ragged([[1]]), None, [5, 2])
    assert list(results) == ["recall@5", "ndcg@5", "recall@2", "ndcg@2", "users"]


def test_recall_divides_by_all_targets_and_ndcg_by_what_fits():
    results = recall_ndcg(np.array([[5, 6]]), ragged([[5, 6, 7, 8]]), np.array([0]), [2])
    assert results["recall@2"] == 0.5
    assert results["ndcg@2"] == 1.0


def test_popularity_counts_distinct_users_and_ranks_by_them():
    train = ragged([[0, 1], [1], [1, 2], [2]])
    scores = popularity_scores(train, 4)
    assert scores.tolist() == [1, 3, 2, 0]
    targets = ragged([[2], [2], [], [3]])
    # User 0 is shown 2 first, user 1 too; user 3 is shown 1, 0, 3.
    assert evaluate_static(scores, targets, train, [1, 3]) == pytest.approx(
        {"recall@1": 2 / 3, "ndcg@1": 2 / 3, "recall@3": 1.0, "ndcg@3": 2.5 / 3, "users": 3}
    )


def test_the_scores_of_the_caller_are_not_written_to():
    scores = np.zeros((1, 4))
    evaluate(lambda users: scores, ragged([[1]]), ragged([[0, 2]]), [1])
    assert not scores.any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: top_k(np.ones((1, 1)), np.ones((3, 1)), None, np.array([0]), 0),
            r"`k` should be .* Received: k=0",
        ),
        (
            lambda: top_k(np.ones((1, 2)), np.ones((3, 1)), None, np.array([0]), 1),
            r"should be \[1 users, D\] and \[N, D\]\. Received: shapes \(1, 2\) and \(3, 1\)",
        ),
        (
            lambda: top_k(np.ones((2, 1)), np.ones((3, 1)), None, np.array([0]), 1),
            r"Received: shapes \(2, 1\)",
        ),
        (lambda: top_k(np.full((1, 1), np.nan), np.ones((3, 1)), None, np.array([0]), 1), r"Received: NaN"),
        (
            lambda: top_k(np.ones((1, 1)), np.ones((3, 1)), ragged([[7]]), np.array([0]), 1),
            r"`seen` should hold codes of the 3 items that are scored\. Received: 7",
        ),
        (
            lambda: top_k(np.ones((1, 1)), np.ones((3, 1)), ragged([[0]]), np.array([4]), 1),
            r"`users` should be codes below 1\. Received: 4",
        ),
        (
            lambda: recall_ndcg(np.array([[0, 1]]), ragged([[0]]), np.array([0]), [1, 3]),
            r"`ks` should be in 1\.\.2, the ranked width\. Received: ks=\[1, 3\]",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_metrics_do_not_import_tensorflow():
    code = "import sys, csmf_tf.evaluation.metrics; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
