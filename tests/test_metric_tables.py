"""Text tables hold the right numbers, in a width that a terminal has."""

import re

import numpy as np
import pytest

from csmf_tf.evaluation.cells import format_metric
from csmf_tf.evaluation.tables import format_capacity, format_table

CAPACITY = {"embedding": np.array([0.2, 0.5, 0.3]), "user/hidden_1": np.array([0.0, 0.75, 0.25])}
METRICS = ("recall", "ndcg", "hit_rate", "mrr", "map")


def leaf(value, users, ks=(50,)):
    per_user = {f"{name}@{k}": value for k in ks for name in METRICS}
    shown = {f"{name}@{k}": 0.25 for k in ks for name in ("coverage", "popular")}
    intervals = {name: [value - 0.003, value + 0.0032] for name in per_user} if users else {}
    return {**per_user, **shown, "users": users, "skipped": 34, "intervals": intervals}


def results(ks=(50,), view="view", buy="buy"):
    parts = {"all": leaf(0.3, 1100, ks), "met": leaf(0.0, 0, ks), "new": leaf(0.1, 12, ks)}
    shown = {buy: parts}
    return {
        "objectives": {view: leaf(0.16374, 12011, ks), buy: leaf(0.2, 7, ks)},
        "fused": {view: leaf(0.15, 12011, ks), buy: leaf(0.19, 7, ks)},
        "baselines": {
            "popularity": {view: leaf(0.03, 12011, ks), buy: leaf(0.04, 7, ks)},
            "popularity_any": {view: leaf(0.02, 12011, ks), buy: leaf(0.05, 7, ks)},
        },
        "met_shown": {
            "objectives": shown,
            "fused": shown,
            "baselines": {"popularity": shown, "popularity_any": shown, "counting": shown},
        },
        "retention": {view: {view: 0.16374, buy: 0.16374}, buy: {buy: 0.2}},
        "metric": f"recall@{ks[0]}",
        "targets": {view: {"new": 4000, "met": 0}, buy: {"new": 9, "met": 450}},
        "repeated": 13,
        "unknown_users": 1234,
        "unknown_items": 4,
        "unknown_targets": 5267,
    }


RANKINGS = ["own score", "equal weights", "popularity", "popularity, any"]


def blocks(text):
    """Cells of each table, by two spaces and more, and the lines of the last block."""
    *tables, below = text.split("\n\n")
    cells = [[re.split(r"\s{2,}", line.strip()) for line in table.split("\n")] for table in tables]
    return cells, below.split("\n")


def test_metrics_of_a_few_columns_are_one_table():
    measured = {
        "objectives": {
            "view": {"recall@50": 0.16374, "ndcg@50": 0.07, "users": 12011, "skipped": 3},
            "buy": {"recall@50": 0.2, "ndcg@50": np.float32(0.125), "users": 7},
        },
        "fused": {"view": {"recall@50": 0.15, "ndcg@50": 0.0651, "users": 12011}},
        "baselines": {"popularity": {"view": {"recall@50": 0.03, "ndcg@50": 0.01, "users": 12011}}},
    }
    assert format_table(measured).split("\n\n")[0].splitlines() == [
        "                recall@50  ndcg@50",
        "view: 12,011 users, 3 skipped",
        " own score         0.1637   0.0700",
        " equal weights     0.1500   0.0651",
        " popularity        0.0300   0.0100",
        "buy: † 7 users",
        " own score         0.2000   0.1250",
    ]


@pytest.mark.parametrize("ks", [(50,), (10, 50, 100)])
def test_whole_results_are_a_table_for_each_cutoff_and_one_for_each_question(ks):
    text = format_table(results(ks))
    assert max(map(len, text.splitlines())) <= 110
    tables, below = blocks(text)
    assert [table[0][0] for table in tables] == [
        *(f"@{k}" for k in ks),
        f"recall@{ks[0]}, met shown:",
        f"recall@{ks[0]} after",
        "targets",
    ]
    for table in tables[: len(ks)]:
        assert table[0][1:] == [*METRICS, "coverage", "popular"]
        titles = "view: 12,011 users, 34 skipped", "buy: † 7 users, 34 skipped"
        assert [row[0] for row in table[1:]] == [titles[0], *RANKINGS, titles[1], *RANKINGS]
        assert table[2][1:] == ["0.1637 ±.0031"] * 5 + ["0.2500"] * 2
    met, retention, targets = tables[len(ks) :]
    assert met[0][1:] == ["all", "met", "new", "users all", "users met", "users new"]
    numbers = ["0.3000 ±.0031", "-", "0.1000 ±.0031", "1,100", "0", "† 12"]
    assert met[1:] == [["buy"], *([label, *numbers] for label in [*RANKINGS, "counting"])]
    assert retention[1:] == [["view", "0.1637", "0.1637"], ["buy", "0.2000"]]
    assert targets[1:] == [["view", "4,000", "0"], ["buy", "9", "450"]]
    assert below[-3:] == [
        "left out: 5,267 of 9,739 test targets (54.1 %) are of users or items unknown in training "
        "(1,234 users, 4",
        "  items)",
        "left out: 13 of 9,739 test targets (0.1 %) were done before by their users",
    ]
    assert below[-4].startswith("† fewer than 30 users")
    assert all(f"{word}: " in " ".join(below) for word in (*RANKINGS, "counting", "±"))
    assert "≤" not in text


@pytest.mark.parametrize("name", ["intervals", "objectives", "baselines", "users", "skipped", "met_shown"])
def test_a_behaviour_may_be_called_anything(name):
    usual = format_table(results()).splitlines()
    named = format_table(results(view=name)).splitlines()
    assert [line.split() for line in named] == [
        [re.sub("^view(?=:?$)", name, word) for word in line.split()] for line in usual
    ]


def test_line_breaks_in_names_are_escaped():
    usual, named = results(), results(view="a\nb\x1b[1m")
    text = format_table(named)
    assert len(text.splitlines()) == len(format_table(usual).splitlines())
    assert text.count("a\\nb\\x1b[1m") == 4
    assert r"a\nb" in format_capacity({"x\ny": [0.5, 0.5]}, ["a\nb"]).splitlines()[0]


@pytest.mark.parametrize("met", [{}, {"objectives": {}, "baselines": {"counting": {}}}])
def test_where_no_target_was_met_there_is_no_such_table(met):
    assert "met shown" not in format_table(results() | {"met_shown": met})


def test_metrics_over_no_users_are_not_shown_as_numbers():
    lines = format_table({"objectives": {"buy": {"recall@50": 0.0, "users": 0, "skipped": 3}}}).splitlines()
    assert lines[1] == "buy: 0 users, 3 skipped"
    assert lines[2].split() == ["own", "score", "-"]


def cell(value, low, high):
    measured = {"recall@5": value, "users": 100, "intervals": {"recall@5": [low, high]}}
    return format_table({"objectives": {"view": measured}}).splitlines()[2].removeprefix(" own score").strip()


@pytest.mark.parametrize(
    ("value", "low", "high", "shown"),
    [
        (0.5, 0.0, 1.0, "0.5000 ±.5000"),
        (0.01, 0.0, 0.03, "0.0100 ≤.0300"),
        (0.98, 0.9, 1.0, "0.9800 ≥.9000"),
        (0.4, 0.0, 1.0, "0.4000 ≤1.000"),
        (0.0, 0.0, 0.0, "0.0000"),
        (0.5, 0.5, 0.5, "0.5000"),
    ],
)
def test_intervals_stay_within_what_a_metric_can_be_and_without_width_there_is_none(value, low, high, shown):
    assert cell(value, low, high) == shown


def test_metric_that_is_not_there_is_blank():
    assert format_metric({"users": 3}, "recall@50") == ""


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


def ranked(own, popularity, anything, users=90):
    by = {"objectives": own, "popularity": popularity, "popularity_any": anything}
    rows = {label: {"buy": {"map@5": value, "users": users}} for label, value in by.items()}
    return {"objectives": rows.pop("objectives"), "baselines": rows, "metric": "map@5"}


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (ranked(0.2, 0.1, 0.19), []),
        (ranked(0.2, 0.2, 0.1), ["popularity ranks", "0.2000 against 0.2000"]),
        (ranked(0.2, 0.1, 0.3), ["popularity, any ranks", "0.3000 against 0.2000"]),
        (ranked(0.0, 0.0, 0.0, users=0), []),
        (ranked(0.0, 0.0, 0.0), []),
        ({"metric": "map@5", "objectives": {"buy": {"map@5": 0.0, "users": 90}}}, []),
    ],
)
def test_it_is_said_where_a_ranking_without_a_model_is_as_good(results, said):
    lines = [line for line in format_table(results).splitlines() if "ranks as well as" in line]
    assert len(lines) == bool(said)
    assert all(part in lines[0] for part in said)
