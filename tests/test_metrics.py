"""Metrics against ranx, an independent library, and what ranx does not say."""

import subprocess
import sys

import numpy as np
import pytest
import ranx

from csmf_tf.data.groups import Groups
from csmf_tf.data.log import EventLog
from csmf_tf.evaluation.baselines import counting, popularity_scores, static
from csmf_tf.evaluation.metrics import evaluate, shown_metrics, user_metrics

KINDS = ["recall", "ndcg", "hit_rate", "mrr", "map"]


def ragged(lists):
    """Groups of plain lists."""
    offsets = np.cumsum([0] + [len(items) for items in lists])
    return Groups(offsets, np.array([item for items in lists for item in sorted(items)], np.int32))


@pytest.mark.parametrize("seed", range(20))
def test_each_user_is_measured_as_ranx_does(seed):
    rng = np.random.default_rng(seed)
    n_users, n_items = rng.integers(5, 30), rng.integers(3, 80)
    # Few distinct scores: most places are decided by ties.
    scores = rng.integers(0, rng.choice([2, 5, 1000]), (n_users, n_items)).astype(float)
    chosen = {"seen": rng.random((n_users, n_items)) < 0.2, "targets": rng.random((n_users, n_items)) < 0.15}
    seen, targets = ([set(np.flatnonzero(row).tolist()) for row in rows] for rows in chosen.values())
    targets = [goal - left_out for goal, left_out in zip(targets, seen, strict=True)]
    ks = sorted({1, int(rng.integers(1, n_items + 1)), n_items})

    places, measured = {}, [user for user in range(n_users) if targets[user]]
    ranked = np.full((n_users, n_items), -1)
    for user in measured:
        left = [item for item in range(n_items) if item not in seen[user]]
        order = sorted(left, key=lambda item: (-scores[user, item], item))
        ranked[user, : len(order)] = order
        places[f"u{user:02}"] = {str(item): float(n_items - place) for place, item in enumerate(order)}
    goals = {f"u{user:02}": {str(item): 1 for item in targets[user]} for user in measured}
    asked = [f"{kind}@{k}" for k in ks for kind in KINDS]
    expected = ranx.evaluate(
        ranx.Qrels(goals), ranx.Run(places), asked, return_mean=False, make_comparable=True
    )

    results = evaluate(lambda users: scores[users], ragged(targets), ragged(seen), ks)
    values = user_metrics(ranked, ragged(targets), np.arange(n_users), ks)
    assert list(values) == asked
    for name in asked:
        np.testing.assert_allclose(values[name], expected[name], rtol=0, atol=1e-9)
        assert results[name] == pytest.approx(np.mean(expected[name]), abs=1e-9)
    assert (results["users"], results["skipped"]) == (len(measured), n_users - len(measured))


def test_vectors_are_measured_as_their_products():
    rng = np.random.default_rng(1)
    users, items = rng.integers(-2, 3, (9, 2)), rng.integers(-2, 3, (30, 2))
    targets = ragged([set(rng.choice(30, 3).tolist()) for _ in users])
    by_vectors = evaluate((users, items), targets, None, [3, 7])
    assert by_vectors == evaluate(lambda who: (users @ items.T)[who], targets, None, [3, 7])


def test_a_pad_is_never_a_hit():
    ranked = np.array([[-1, -1], [-1, -1]])
    values = user_metrics(ranked, ragged([[4], [0, 4]]), np.array([0, 1]), [2])
    assert not any(value.any() for value in values.values())


def test_users_without_targets_do_not_count():
    values = user_metrics(np.array([[0], [0], [1], [0]]), ragged([[], [0], [], [1]]), np.arange(4), [1])
    assert values["recall@1"].tolist() == values["mrr@1"].tolist() == [1, 0]


def test_users_may_come_in_any_order_and_in_part():
    values = user_metrics(np.array([[2], [0]]), ragged([[0], [1], [2]]), np.array([2, 1]), [1])
    assert values["hit_rate@1"].tolist() == [1, 0]


def test_no_targets_at_all_measure_nothing():
    for scores in ((np.ones((2, 1)), np.ones((3, 1))), static(np.ones(3), 2)):
        results = evaluate(scores, ragged([[], []]), None, [2])
        assert results.pop("skipped") == 2
        assert set(results.values()) == {0}


def test_the_first_metric_is_recall_at_the_first_cut_off():
    results = evaluate((np.ones((1, 1)), np.ones((9, 1))), ragged([[1]]), None, [5, 2])
    assert next(iter(results)) == "recall@5"


def test_recall_divides_by_all_targets_and_ndcg_by_what_fits():
    values = user_metrics(np.array([[5, 6]]), ragged([[5, 6, 7, 8]]), np.array([0]), [2])
    assert values["recall@2"] == values["map@2"] == 0.5
    assert values["ndcg@2"] == 1.0


def test_coverage_and_popularity_count_what_is_shown():
    # Of 20 items, the 2 most popular: 7, and of the tied ones the first, 3.
    popularity = np.zeros(20)
    popularity[[3, 5, 7]] = 4, 4, 9
    ranked = np.array([[7, 3, 1], [7, 5, 3], [2, -1, -1]])
    assert shown_metrics(ranked, [1, 3], 20, popularity) == pytest.approx(
        {"coverage@1": 2 / 20, "popular@1": 2 / 3, "coverage@3": 5 / 20, "popular@3": 4 / 7}
    )
    assert shown_metrics(ranked[:0], [1], 20, popularity) == {"coverage@1": 0, "popular@1": 0}
    assert shown_metrics(ranked, [2], 20) == {"coverage@2": 4 / 20}


def test_popularity_counts_distinct_users_and_ranks_by_them():
    train = ragged([[0, 1], [1], [1, 2], [2]])
    scores = popularity_scores(train, 4)
    assert scores.tolist() == [1, 3, 2, 0]
    targets = ragged([[2], [2], [], [3]])
    # User 0 is shown 2 first, user 1 too; user 3 is shown 1, 0, 3.
    results = evaluate(static(scores, 4), targets, train, [1, 3])
    assert [results[name] for name in ("recall@1", "recall@3", "ndcg@3", "mrr@3")] == pytest.approx(
        [2 / 3, 1, 2.5 / 3, 7 / 9]
    )


def test_counting_shows_again_what_was_met_and_nothing_else():
    rows = [(0, 0, 0), (0, 0, 0), (0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0), (1, 1, 2), (1, 2, 2)]
    user, item, behavior = np.array(rows).T
    ids = np.array(list("abcd"), object)
    log = EventLog(user, item, behavior.astype(np.int8), None, ids, ids, ("view", "cart", "buy"))
    met = counting(log, 2)
    assert [met.groups.of(user).tolist() for user in range(4)] == [[0, 1, 2], [1], [], []]
    assert met.scores.tolist() == pytest.approx([2 * 1 / 2, 2 * 2 / 3, 1 * 2 / 2, 1 * 2 / 3])
    assert not len(counting(log, 0).scores)


def test_targets_that_do_not_ascend_are_refused():
    unsorted = Groups(np.array([0, 2]), np.array([3, 0]))
    with pytest.raises(ValueError, match="The items of each user should ascend"):
        user_metrics(np.array([[0, 1, 2, 3]]), unsorted, np.array([0]), [4])


@pytest.mark.parametrize("ks", [[1, 3], [0], []])
def test_bad_cut_offs(ks):
    with pytest.raises(ValueError, match=r"`ks` should be .*1\.\.2, the ranked width\. Received: ks=\["):
        user_metrics(np.array([[0, 1]]), ragged([[0]]), np.array([0]), ks)


def test_metrics_do_not_import_tensorflow():
    code = "import sys, csmf_tf.evaluation.metrics; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
