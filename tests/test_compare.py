"""Runs side by side: which rows a comparison has, what it refuses, and its text table."""

import numpy as np
import pytest
from compare_cases import METRICS, results

from csmf_tf.data.stream import objects
from csmf_tf.evaluation.compare import compare
from csmf_tf.evaluation.comparison import format_comparison
from csmf_tf.evaluation.statistics import holm, intervals, paired_test
from csmf_tf.evaluation.user_results import UserTable


def test_users_are_paired_by_id_whatever_their_order():
    a, b = results("a"), results("b", 0.1, seed=1)
    found = [row for row in compare([a, b]).rows if row.run == "b"]
    for row in found:
        of = dict(zip(*_pairs(b, row), strict=True))
        users, first = _pairs(a, row)
        expected = paired_test(first, np.array([of[user] for user in users]))
        assert row.difference == pytest.approx(expected)
        assert row.mean == pytest.approx(np.mean(list(of.values())))
        assert row.low < row.mean < row.high
    assert [(row.objective, row.metric, row.users) for row in found] == [
        ("view", "recall@10", 120),
        ("view", "ndcg@10", 120),
        ("buy", "recall@10", 40),
        ("buy", "ndcg@10", 40),
    ]


def _pairs(one, row):
    table = one.tables[row.objective, row.targets]
    return table.users.tolist(), table.values[row.metric]


def test_intervals_are_those_of_an_evaluation():
    a, b = results("a"), results("b", 0.1)
    row = next(row for row in compare([a, b]).rows if row.run == "b")
    expected = intervals(b.tables["view", "discovery"].values)["recall@10"]
    assert (row.low, row.high) == pytest.approx(expected)


def test_p_values_are_adjusted_over_the_whole_table():
    runs = [results("a"), results("b", 0.1, seed=1), results("c", 0.004, seed=2)]
    rows = [row for row in compare(runs).rows if row.difference]
    assert len(rows) == 8
    assert [row.adjusted for row in rows] == pytest.approx(holm([row.difference.p for row in rows]))
    told = {row.run for row in rows if row.adjusted < 0.05}
    assert told == {"b"}


def test_a_run_does_not_differ_from_itself():
    a = results("a")
    for row in compare([a, a, a], metrics=["all"]).rows:
        assert row.difference is None or row.difference == (0, 0, 0, 1)
        assert row.adjusted in (None, 1)
    assert compare([a, a, a]).runs == ("a", "a #2", "a #3")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, ["recall@10", "ndcg@10"]),
        (["recall@50"], ["recall@50"]),
        (["ndcg@10", "recall@50", "ndcg@10"], ["ndcg@10", "recall@50"]),
        (["all"], [*METRICS]),
    ],
)
def test_metrics_shown(wanted, found):
    rows = compare([results("a"), results("b")], wanted, repeats=10).rows
    assert list(dict.fromkeys(row.metric for row in rows)) == found


def test_metrics_that_a_run_lacks_are_not_shown_unasked():
    runs = [results("a"), results("b", metrics=("recall@50",))]
    assert {row.metric for row in compare(runs, repeats=10).rows} == {"recall@50"}
    with pytest.raises(
        ValueError, match=r"all runs have: recall@50. Received: ndcg@10; another K has to be in `evaluate.ks`"
    ):
        compare(runs, ["ndcg@10"])
    with pytest.raises(ValueError, match="should have a metric in common"):
        compare([results("a", metrics=("ndcg@10",)), runs[1]])


def test_objectives_that_a_run_lacks_are_left_out_and_said():
    found = compare([results("a"), results("b", objectives=("view",))], repeats=10)
    assert {row.objective for row in found.rows} == {"view"}
    assert found.left_out == ("'buy', discovery targets: not measured in b",)
    assert "left out: 'buy', discovery targets: not measured in b" in format_comparison(found)
    turned = compare([results("b", objectives=("view",)), results("a")], repeats=10)
    assert turned.left_out == found.left_out
    with pytest.raises(ValueError, match=r"an objective in common. Received: none with discovery targets"):
        compare([results("a", objectives=("buy",)), results("b", objectives=("view",))])


def test_kinds_of_targets():
    kinds = ("discovery", "all", "met", "new")
    runs = [results("a", kinds=kinds), results("b", kinds=kinds[:3])]
    found = compare(runs, targets=["met", "new"], repeats=10)
    assert {row.targets for row in found.rows} == {"met"}
    assert len(found.left_out) == 2
    assert "view, met targets, recall@10, 120 users" in format_comparison(found)
    found = compare([results("a"), results("b")], targets=["discovery", "met"], repeats=10)
    assert found.left_out == ("met targets: in no run",)
    with pytest.raises(ValueError, match=r"`targets` should be of discovery, all, met, new. Received: old"):
        compare(runs, targets=["old"])


def test_targets_of_no_user_are_left_out():
    runs = []
    for name in "ab":
        one = results(name)
        empty = UserTable(objects([]), {metric: np.zeros(0) for metric in METRICS}, "none")
        runs.append(one._replace(tables=one.tables | {("buy", "discovery"): empty}))
    found = compare(runs, repeats=10)
    assert found.left_out == ("'buy', discovery targets: no user has one",)
    assert {row.objective for row in found.rows} == {"view"}


def test_other_test_targets_are_refused():
    other = results("b")
    key = ("buy", "discovery")
    tables = other.tables | {key: other.tables[key]._replace(digest="other")}
    with pytest.raises(
        ValueError, match=r"same test targets. Received: others for 'buy', .* in b than in a;"
    ):
        compare([results("a"), other._replace(tables=tables)])
    with pytest.raises(ValueError, match=r"\(split {'kind': 'time'} against {'kind': 'leave_last'}\)"):
        compare([results("a"), other._replace(tables=tables, split={"kind": "leave_last"})])


def test_runs_of_other_splits_say_so_even_without_a_metric_in_common():
    other = results("b", metrics=("ndcg@10",))._replace(split={"kind": "leave_last"})
    tables = {key: table._replace(digest="other") for key, table in other.tables.items()}
    with pytest.raises(ValueError, match=r"same test targets.*against {'kind': 'leave_last'}"):
        compare([results("a", metrics=("recall@10",)), other._replace(tables=tables)], ["mrr@10"])


def test_a_misspelt_metric_gets_the_one_that_was_meant():
    with pytest.raises(ValueError, match=r"\(`--metric`\).*Received: recal@10; did you mean recall@10\?"):
        compare([results("a"), results("b")], ["recal@10"])


def test_other_users_are_refused_whatever_the_digest_says():
    other = results("b")
    key = ("view", "discovery")
    users = other.tables[key].users.copy()
    users[3] = "stranger"
    tables = other.tables | {key: other.tables[key]._replace(users=users)}
    with pytest.raises(
        ValueError, match=r"on the same users. Received: others for 'view', .* in b than in a"
    ):
        compare([results("a"), other._replace(tables=tables)])


def test_one_run_is_no_comparison():
    with pytest.raises(ValueError, match=r"two runs or more. Received: 1"):
        compare([results("a")])


def test_the_table_says_who_differs_from_whom():
    text = format_comparison(compare([results("base"), results("better", 0.1, seed=1)]))
    lines = text.splitlines()
    assert " ".join(lines[0].split()) == "mean 95 % interval difference 95 % interval p Holm p"
    assert lines[1] == "view, recall@10, 120 users"
    assert lines[2].split()[0] == "base"
    assert len(lines[2].split()) == 5
    assert lines[3].split()[0] == "better"
    assert lines[3].endswith(" *")
    assert lines[-1] == "* differs from base: Holm p < 0.05, 4 tests."
    ends = {len(line.removesuffix(" *")) for line in [lines[0], *lines[3::3]] if line[0] == " "}
    assert len(ends) == 1


def test_the_table_says_when_nothing_can_be_told():
    text = format_comparison(compare([results("a"), results("b", 0, seed=3)], ["recall@50"]))
    assert text.endswith("No difference from a can be told: every Holm p >= 0.05, 2 tests.")
    assert "*" not in text


def test_names_with_line_breaks_leave_the_table_whole():
    named = "buy\nnow"
    tables = {(named, "discovery"): results("a").tables["buy", "discovery"]}
    runs = [results(name)._replace(tables=tables) for name in ("a\nb", "c")]
    lines = format_comparison(compare(runs, repeats=9)).splitlines()
    assert lines[1] == "buy\\nnow, recall@10, 40 users"
    assert lines[2].split()[0] == "a\\nb"


def test_the_table_fits_a_terminal_whatever_the_names():
    stem = "a-run-with-a-name-that-says-every-setting"
    runs = [results(f"{stem}-{end}") for end in ("one", "two")] + [results(f"x{stem}-one", 0.2)]
    text = format_comparison(compare(runs, repeats=99))
    assert max(map(len, text.splitlines())) <= 110
    names = [line.split("  ")[1] for line in text.splitlines()[2:5]]
    assert len(set(names)) == 3
    assert all("…" in name for name in names)
