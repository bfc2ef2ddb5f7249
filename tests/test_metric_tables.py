"""Text tables hold the right numbers, in a width that a terminal has."""

import re

import numpy as np
import pytest

from csmf_tf.evaluation.tables import format_capacity, format_metric, format_table

CAPACITY = {"embedding": np.array([0.2, 0.5, 0.3]), "user/hidden_1": np.array([0.0, 0.75, 0.25])}
METRICS = ("recall", "ndcg", "hit_rate", "mrr", "map")


def leaf(value, users, ks=(50,)):
    per_user = {f"{name}@{k}": value for k in ks for name in METRICS}
    shown = {f"{name}@{k}": 0.25 for k in ks for name in ("coverage", "popular")}
    intervals = {name: [value - 0.003, value + 0.0032] for name in per_user} if users else {}
    return {**per_user, **shown, "users": users, "skipped": 34, "intervals": intervals}


def results(ks=(50,)):
    parts = {"all": leaf(0.3, 1100, ks), "met": leaf(0.0, 0, ks), "new": leaf(0.1, 1080, ks)}
    return {
        "objectives": {"view": leaf(0.16374, 12011, ks), "buy": leaf(0.2, 7, ks)},
        "fused": {"view": leaf(0.15, 12011, ks), "buy": leaf(0.19, 7, ks)},
        "baselines": {"popularity": {"view": leaf(0.03, 12011, ks), "buy": leaf(0.04, 6, ks)}},
        "met_shown": {"objectives": {"buy": parts}, "baselines": {"counting": {"buy": parts}}},
        "retention": {"view": {"view": 0.16374, "buy": 0.16374}, "buy": {"buy": 0.2}},
        "metric": f"recall@{ks[0]}",
        "targets": {"view": {"new": 54321, "met": 0}, "buy": {"new": 9, "met": 3}},
        "repeated": 1713,
        "unknown_users": 0,
    }


def blocks(text):
    """Cells of each table, by two spaces and more, and the lines below the tables."""
    lines = text.splitlines()
    below = [line for line in lines if re.match(r"\w+: ", line)]
    tables = "\n".join(line for line in lines if line not in below).split("\n\n")
    return [[re.split(r"\s{2,}", line.strip()) for line in table.split("\n")] for table in tables], below


def test_metrics_of_a_few_columns_are_one_table():
    measured = {
        "objectives": {
            "view": {"recall@50": 0.16374, "ndcg@50": 0.07, "users": 12011},
            "buy": {"recall@50": 0.2, "ndcg@50": 0.125, "users": 7},
        },
        "fused": {"view": {"recall@50": 0.15, "ndcg@50": 0.0651, "users": 12011}},
        "baselines": {"popularity": {"view": {"recall@50": 0.03, "ndcg@50": 0.01, "users": 12011}}},
        "unknown_users": 1234,
        "unknown_items": 0,
    }
    assert format_table(measured).splitlines() == [
        "                 recall@50  ndcg@50   users",
        "view                0.1637   0.0700  12,011",
        "buy                 0.2000   0.1250       7",
        "fused view          0.1500   0.0651  12,011",
        "popularity view     0.0300   0.0100  12,011",
        "unknown_users: 1,234",
        "unknown_items: 0",
    ]


def test_table_of_plain_rows_and_of_rows_with_other_columns():
    rows = {"stage 1": {"recall@10": 0.5}, "best possible": {"recall@10": 0.75, "ndcg@10": np.float32(0.25)}}
    assert format_table(rows).splitlines() == [
        "               recall@10  ndcg@10",
        "stage 1           0.5000",
        "best possible     0.7500   0.2500",
    ]


@pytest.mark.parametrize("ks", [(50,), (10, 50, 100)])
def test_whole_results_are_a_table_for_each_cutoff_and_one_for_each_question(ks):
    text = format_table(results(ks))
    assert max(map(len, text.splitlines())) <= 110
    tables, below = blocks(text)
    assert [table[0][0] for table in tables] == [
        *(f"@{k}" for k in ks),
        "users",
        f"recall@{ks[0]}, met shown:",
        f"recall@{ks[0]} after",
        "targets",
    ]
    for table in tables[: len(ks)]:
        assert table[0][1:] == [*METRICS, "coverage", "popular"]
        names = ["view", "buy", "fused view", "fused buy", "popularity view", "popularity buy"]
        assert [row[0] for row in table[1:]] == names
        assert table[1][1:] == ["0.1637 ±.0031"] * 5 + ["0.2500"] * 2
    users, met, retention, targets = tables[len(ks) :]
    # Rows that repeat the users of an objective are left out.
    assert users[1:] == [["view", "12,011", "34"], ["buy", "7", "34"], ["popularity buy", "6", "34"]]
    assert met[0][1:] == ["all", "met", "new", "users all", "users met", "users new"]
    numbers = ["0.3000 ±.0031", "-", "0.1000 ±.0031", "1,100", "0", "1,080"]
    assert met[1:] == [["buy", *numbers], ["counting buy", *numbers]]
    assert retention[1:] == [["view", "0.1637", "0.1637"], ["buy", "0.2000"]]
    assert targets[1:] == [["view", "54,321", "0"], ["buy", "9", "3"]]
    assert below == ["repeated: 1,713", "unknown_users: 0"]


@pytest.mark.parametrize("met", [{}, {"objectives": {}, "baselines": {"counting": {}}}])
def test_where_no_target_was_met_there_is_no_such_table(met):
    assert "met shown" not in format_table(results() | {"met_shown": met})


def test_metrics_over_no_users_are_not_shown_as_numbers():
    line = format_table({"buy": {"recall@50": 0.0, "users": 0, "skipped": 3}}).splitlines()[1]
    assert line.split() == ["buy", "-", "0", "3"]


def test_metric_that_is_not_there_is_blank():
    assert format_metric({"users": 3}, "recall@50") == ""


def test_wide_intervals_keep_their_digits():
    wide = {"recall@5": 0.5, "users": 1, "intervals": {"recall@5": [0.0, 1.0]}}
    assert "0.5000 ±.5000" in format_table({"view": wide})


def test_capacity_table_lists_objectives_in_order_and_the_free_part_last():
    assert format_capacity(CAPACITY, ["view", "buy"]).splitlines() == [
        "                view    buy   free",
        "embedding      50.0%  30.0%  20.0%",
        "user/hidden_1  75.0%  25.0%   0.0%",
    ]


def test_capacity_of_the_wrong_length():
    with pytest.raises(
        ValueError, match=r"`capacity\['embedding'\]` should have a share for each of free, view\. "
    ):
        format_capacity(CAPACITY, ["view"])
