"""Leak checks against small logs counted by hand and loops over random ones."""

import itertools
import json
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from csmf_tf.data.check import check
from csmf_tf.data.findings import Finding, Report
from csmf_tf.data.log import EventLog
from csmf_tf.data.splits import held_out, split_log

FUNNEL = ("view", "cart", "buy")
USERS, ITEMS = 5, 6
DAY = 86_400_000_000
IN_2015 = 1_430_000_000_000_000


def make_log(events, timed=True, funnel=FUNNEL):
    """A log of (user, item, behaviour, day) rows."""
    user, item, behavior, day = np.array(events, np.int64).reshape(-1, 4).T
    return EventLog(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        behavior=behavior.astype(np.int8),
        time=IN_2015 + day * DAY if timed else None,
        users=np.array([f"u{code}" for code in range(USERS)], object),
        items=np.array([f"i{code}" for code in range(ITEMS)], object),
        funnel=funnel,
    )


# User, item, behaviour, day; T marks the test part of the log, V what is in neither part.
EVENTS = [
    ((0, 0, 0, 1), "L"),
    ((0, 0, 2, 5), "T"),  # met: viewed in training
    ((0, 1, 1, 2), "L"),
    ((0, 1, 0, 3), "L"),  # its cart came before its view
    ((0, 1, 0, 3), "L"),  # twice
    ((0, 1, 1, 6), "T"),  # repeated: was in the cart in training
    ((0, 2, 2, 6), "T"),  # new; a purchase of what was never viewed
    ((1, 0, 0, 4), "L"),
    ((1, 3, 2, 4), "V"),
    ((1, 0, 2, 7), "T"),  # met
    ((1, 0, 0, 9), "L"),  # after the test events of user 1
    ((2, 4, 0, 8), "T"),  # a user and an item that training does not have
    ((3, 1, 0, 2), "L"),
]


@pytest.fixture
def example():
    events, parts = zip(*EVENTS, strict=True)
    parts = np.array(parts)
    return make_log(events), parts == "T", parts == "L"


def test_counts_of_a_small_log(example):
    found = check(*example)["counts"]
    assert "blanks" not in found.sentence
    assert found.numbers == {
        "view": {"events": 7, "pairs": 5, "users": 4, "items": 3},
        "cart": {"events": 2, "pairs": 1, "users": 1, "items": 1},
        "buy": {"events": 4, "pairs": 4, "users": 2, "items": 3},
    }
    assert "13 events of 4 users with 5 items, 7 distinct pairs" in found.sentence
    # Four pairs were bought and one put into the cart.
    assert found.level == "note"
    assert "'buy' has more pairs than 'cart'" in found.sentence


@pytest.mark.parametrize(
    ("funnel", "level", "alike"),
    [
        (("view", "View", "buy"), "problem", ["'view' and 'View' differ by case or blanks only"]),
        (("add to cart", "buy ", "buy"), "problem", ["'buy ' and 'buy' differ"]),
        (("view", "cart", "view2"), "note", []),
    ],
)
def test_behaviours_that_are_one_but_for_case_or_blanks_are_a_problem(example, funnel, level, alike):
    log, test, training = example
    found = check(replace(log, funnel=funnel), test, training)["counts"]
    assert found.level == level
    assert found.sentence.count("differ by case or blanks") == len(alike)
    assert all(words in found.sentence for words in alike)


def test_which_split_it_is_comes_first(example):
    log, test, training = example
    found = next(iter(check(log, test, training)))
    assert (found.name, found.level) == ("split", "problem")
    sizes = {"training events": 7, "test events": 5, "events in neither part": 1}
    assert found.numbers == sizes
    # What was bought, was bought in the test part or in neither.
    assert found.sentence == (
        "7 training events, 5 test events, 1 events in neither part. No event of 'buy' is left to train on: "
        "hold out less, or leave it out of the funnel."
    )
    settings = {"kind": "time", "at": 0.6}
    found = check(log, test, training, split=settings)["split"]
    assert found.numbers == settings | {"cut": "2015-04-30T22:13:20"} | sizes
    assert found.sentence.startswith("time (at 0.6, cut 2015-04-30T22:13:20): 7 training events, 5 test")
    assert check(log, test, training, split={"kind": "leave_last"})["split"].sentence.startswith(
        "leave_last: 7 training events"
    )
    assert check(log, test, ~test, split=settings)["split"].level == "ok"


def test_an_empty_training_part_is_a_problem_and_nothing_is_said_to_be_discovered(example):
    log, test, _ = example
    report = check(log, np.ones_like(test), np.zeros_like(test))
    assert report["split"].level == report["unknown"].level == report.level == "problem"
    assert "No event is left to train on: hold out less" in report["split"].sentence
    assert "discovered" not in report["targets"].sentence


def test_overlap_of_a_small_log(example):
    assert check(*example)["overlap"].numbers == {
        "view": {"view": 1.0, "cart": 1 / 5, "buy": 2 / 5},
        "cart": {"view": 1.0, "cart": 1.0, "buy": 0.0},
        "buy": {"view": 1 / 2, "cart": 0.0, "buy": 1.0},
    }


def test_targets_of_a_small_log(example):
    found = check(*example)["targets"]
    columns = ("targets", "in view", "in cart", "in buy", "new", "met", "repeated")
    rows = {"view": (1, 0, 0, 0, 1, 0, 0), "cart": (1, 1, 1, 0, 0, 0, 1), "buy": (3, 2, 0, 0, 1, 2, 0)}
    assert found.numbers == {name: dict(zip(columns, row, strict=True)) for name, row in rows.items()}
    assert found.level == "problem"
    assert "3 of 5 (60.0%) test targets also stand in training" in found.sentence
    assert "--split item_holdout" in found.sentence


def test_what_the_evaluator_takes_apart_is_no_problem(example):
    report = check(*example, met_apart=True)
    assert [report[name].level for name in ("targets", "shortcut")] == ["note", "note"]
    assert (
        "The 1 repeated ones are no targets of the evaluator, the 2 met upstream"
        in report["targets"].sentence
    )
    assert report["targets"].numbers == check(*example)["targets"].numbers


def test_the_shortcut_of_a_small_log(example):
    found = check(*example)["shortcut"]
    # Users 0 and 1 are asked for purchases; they have viewed items 0 and 1, and item 0, and bought none.
    buy = {"ranks": "view, no buy", "targets": 3, "found": 2, "candidates a user": 2}
    assert found.numbers["buy"] == buy
    assert (found.numbers["cart"]["targets"], found.numbers["cart"]["found"]) == (1, 0)
    assert found.level == "problem"
    assert found.sentence == (
        "A rule that ranks what the user has 'view' but not yet 'buy' of would find 2 of 3 (66.7%) 'buy' "
        "targets, among 2 candidates a user."
    )


def test_unknown_users_and_items_of_a_small_log(example):
    found = check(*example)["unknown"]
    # User 2; items 2 and 4; the targets (0, 2, buy) and (2, 4, view).
    assert found.numbers == {"users": 1, "items": 2, "targets": 2}
    assert "1 of 3 (33.3%) test users and 2 of 4 (50.0%) test items have no training event" in found.sentence
    assert "2 of 5 (40.0%) targets are theirs" in found.sentence
    assert found.level == "note"
    assert "cannot be measured" not in found.sentence


@pytest.mark.parametrize(("known", "level"), [(3, "ok"), (2, "note"), (1, "problem")])
def test_when_most_targets_are_of_unknown_users_it_is_a_problem(known, level):
    log = make_log([(user, 0, 0, user) for user in range(known)] + [(user, 0, 1, 9) for user in range(3)])
    found = check(log, log.behavior == 1, log.behavior == 0)["unknown"]
    assert found.level == level
    assert ("most targets cannot be measured" in found.sentence) == (level == "problem")


def test_half_of_the_targets_unknown_is_not_most():
    log = make_log([(0, 0, 0, 1), (0, 0, 1, 9), (1, 0, 1, 9)])
    assert check(log, log.behavior == 1, log.behavior == 0)["unknown"].level == "note"


@pytest.mark.parametrize(("without", "level"), [(0, "ok"), (2, "note"), (3, "problem")])
def test_most_downstream_events_without_upstream_question_the_order_of_the_funnel(without, level):
    log = make_log([(0, 0, 0, 1), *[(0, 0, 1, 2)] * (4 - without), *[(1, 1, 1, 2)] * without])
    found = check(log, log.behavior == 1, log.behavior == 0)["funnel gaps"]
    assert found.level == level
    assert ("is the funnel in the right order (upstream first)?" in found.sentence) == (level == "problem")


def test_training_events_after_test_events_of_a_small_log(example):
    found = check(*example)["future"]
    after = {"training events after the first test event": 1}
    assert found.numbers == {"test events": 5, "followed": 1, "users": 1} | after
    assert found.level == "problem"
    assert "1 of 5 (20.0%) test events come before training events of the same user" in found.sentence


def test_training_after_the_test_events_of_others_is_a_note():
    log = make_log([(0, 0, 0, 1), (0, 1, 0, 2), (1, 0, 0, 3), (1, 1, 0, 4)])
    found = check(log, held_out(log, "leave_last"), ~held_out(log, "leave_last"))["future"]
    assert (found.level, found.numbers["training events after the first test event"]) == ("note", 1)
    assert "1 of 2 (50.0%) training events, of other users" in found.sentence
    assert "--split time" in found.sentence
    cut = held_out(log, "time", at=0.5)
    assert check(log, cut, ~cut)["future"].level == "ok"


def test_faults_of_a_small_log(example):
    report = check(*example)
    assert report["duplicates"].numbers == {"events": 1}
    assert report["funnel gaps"].numbers == {
        "cart": {"events": 2, "without upstream": 0, "before upstream": 1},
        "buy": {"events": 4, "without upstream": 2, "before upstream": 0},
    }
    assert "`closure: true` counts them as upstream positives" in report["funnel gaps"].sentence
    assert report["single-item users"].numbers == {"users": 2, "of": 4}
    # Days 5 -> 2, 6 -> 4, 9 -> 8 and 8 -> 2.
    assert report["file order"].numbers == {"rows": 4}
    assert report["times"].level == "ok"
    assert report["times"].numbers["before 1990"] == report["times"].numbers["after 2100"] == 0


def test_without_times_repeats_are_told_by_user_item_and_behaviour(example):
    log, test, training = example
    report = check(replace(log, time=None), test, training)
    # Besides the repeated view of (0, 1): its second cart, and the second view of (1, 0).
    assert report["duplicates"].numbers == {"events": 3}
    assert report["funnel gaps"].numbers["cart"] == {"events": 2, "without upstream": 0}
    assert report["times"].level == "note"
    assert "no split by time" in report["times"].sentence
    assert {finding.name for finding in report}.isdisjoint({"future", "file order"})


@pytest.mark.parametrize(
    ("stamps", "level", "words"),
    [
        (
            ["1990-01-01", "2100-12-31T23:59:59"],
            "ok",
            "Events from 1990-01-01T00:00:00 to 2100-12-31T23:59:59",
        ),
        (["1989-12-31T23:59:59", "2000-01-01"], "problem", "1 of 2 (50.0%) lie before 1990 or after 2100"),
        (["2000-01-01", "2101-01-01"], "problem", "1 of 2 (50.0%) lie before 1990 or after 2100"),
        (["2015-05-03", "2015-05-03"], "problem", "All times are equal"),
    ],
)
def test_times_that_cannot_be_times(stamps, level, words):
    log = make_log([(0, 0, 0, 0), (0, 1, 0, 0)], funnel=("view",))
    log = replace(log, time=np.array(stamps, "datetime64[us]").astype(np.int64))
    found = check(log, np.array([False, True]), np.array([True, False]))["times"]
    assert (found.level, words in found.sentence) == (level, True)


def test_one_behaviour_has_no_funnel_to_check():
    log = make_log([(0, 0, 0, 1), (0, 1, 0, 2)], funnel=("view",))
    report = check(log, np.array([False, True]), np.array([True, False]))
    assert {finding.name for finding in report}.isdisjoint({"shortcut", "funnel gaps"})
    assert report["overlap"].numbers == {"view": {"view": 1.0}}
    assert report["targets"].level == "ok"


ROWS = st.lists(
    st.tuples(
        st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), st.integers(0, 2), st.integers(0, 9)),
        st.sampled_from("LLTV"),
    ),
    min_size=1,
    max_size=60,
)


def checked(rows, timed=True):
    """The report on random rows, and their events in all and by part."""
    events, parts = zip(*rows, strict=True)
    assume("T" in parts)
    of_part = {part: [event for event, p in rows if p == part] for part in "LT"}
    parts = np.array(parts)
    return check(make_log(events, timed), parts == "T", parts == "L"), events, of_part["L"], of_part["T"]


def pairs_of(events):
    """The set of (user, item) pairs of each behaviour."""
    return [{(u, i) for u, i, b, _ in events if b == behavior} for behavior in range(3)]


@given(rows=ROWS)
def test_counts_and_overlap_are_those_of_a_loop(rows):
    report, events, _, _ = checked(rows)
    pairs = pairs_of(events)
    for n, name in enumerate(FUNNEL):
        assert report["counts"].numbers[name] == {
            "events": sum(b == n for _, _, b, _ in events),
            "pairs": len(pairs[n]),
            "users": len({u for u, _ in pairs[n]}),
            "items": len({i for _, i in pairs[n]}),
        }
        for m, other in enumerate(FUNNEL):
            share = len(pairs[n] & pairs[m]) / len(pairs[n]) if pairs[n] else 0.0
            assert report["overlap"].numbers[name][other] == pytest.approx(share, abs=1e-12)
    json.dumps(report.to_dict())


@given(rows=ROWS)
def test_targets_and_shortcuts_are_those_of_a_loop(rows):
    report, _, training, test = checked(rows)
    known, held = pairs_of(training), pairs_of(test)
    assert set(report["targets"].numbers) == {name for n, name in enumerate(FUNNEL) if held[n]}
    for name, row in report["targets"].numbers.items():
        n = FUNNEL.index(name)
        repeated = held[n] & set.union(*known[n:])
        met = held[n] & set().union(*known[:n]) - repeated
        assert row["targets"] == len(held[n])
        assert [row[f"in {other}"] for other in FUNNEL] == [len(held[n] & pairs) for pairs in known]
        assert (row["repeated"], row["met"]) == (len(repeated), len(met))
        assert row["new"] == len(held[n]) - len(repeated) - len(met)
        if n:
            rules = {up: known[m] - set.union(*known[n:]) for m, up in enumerate(FUNNEL[:n])}
            told = report["shortcut"].numbers[name]
            rule = rules[told["ranks"].split(",")[0]]
            assert told["found"] == len(held[n] & rule) == max(len(held[n] & r) for r in rules.values())
            asked = {u for u, _ in held[n]}
            assert told["candidates a user"] == round(sum(u in asked for u, _ in rule) / len(asked))


@given(rows=ROWS)
def test_unknown_users_and_items_are_those_of_a_loop(rows):
    report, _, training, test = checked(rows)
    users, items = ({event[n] for event in training} for n in range(2))
    targets = {event[:3] for event in test}
    assert report["unknown"].numbers == {
        "users": len({u for u, _, _ in targets} - users),
        "items": len({i for _, i, _ in targets} - items),
        "targets": sum(u not in users or i not in items for u, i, _ in targets),
    }


@given(rows=ROWS, timed=st.booleans())
def test_faults_are_those_of_a_loop(rows, timed):
    report, events, _, _ = checked(rows, timed)
    repeats = Counter(event if timed else event[:3] for event in events)
    assert report["duplicates"].numbers["events"] == sum(n - 1 for n in repeats.values())
    items_of = defaultdict(set)
    for user, item, _, _ in events:
        items_of[user].add(item)
    single = sum(len(items) == 1 for items in items_of.values())
    assert report["single-item users"].numbers == {"users": single, "of": len(items_of)}
    for n, name in enumerate(FUNNEL[1:], start=1):
        first = {}
        for user, item, behavior, day in events:
            if behavior < n:
                first[user, item] = min(day, first.get((user, item), day))
        mine = [((u, i), day) for u, i, b, day in events if b == n]
        row = report["funnel gaps"].numbers[name]
        assert (row["events"], row["without upstream"]) == (len(mine), sum(p not in first for p, _ in mine))
        assert row.get("before upstream", 0) == timed * sum(p in first and day < first[p] for p, day in mine)


@given(rows=ROWS)
def test_what_comes_after_what_is_that_of_a_loop(rows):
    report, events, training, test = checked(rows)
    followed = [u for u, _, _, day in test if any(v == u and later > day for v, _, _, later in training)]
    assert report["future"].numbers == {
        "test events": len(test),
        "followed": len(followed),
        "users": len(set(followed)),
        "training events after the first test event": sum(
            day > min(day for *_, day in test) for *_, day in training
        ),
    }
    days = [day for *_, day in events]
    assert report["file order"].numbers["rows"] == sum(a > b for a, b in itertools.pairwise(days))
    at_once = Counter((user, day) for user, _, _, day in events)
    tied = sum(n for n in at_once.values() if n > 1)
    assert report["times"].numbers["tied"] == tied
    assert ("in the order of the file" in report["times"].sentence) == (tied > 0 and len({*days}) > 1)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("time", {"at": 0.6}), ("item_holdout", {"fraction": 0.3, "seed": 4}), ("leave_last", {})],
)
def test_of_own_splits_it_tells_what_the_split_leaves_out(kind, settings):
    rng = np.random.default_rng(0)
    shape = {"user": USERS, "item": ITEMS, "behavior": 3, "day": 40}
    events = np.stack([rng.integers(0, high, 90) for high in shape.values()], axis=1)
    # A user and an item that only the end of the log has.
    log = make_log([event for event in events.tolist() if event[0] < 4 and event[1] < 5] + [(4, 5, 0, 40)])
    split = split_log(log, kind, **settings)
    test = held_out(log, kind, **settings)
    report = check(log, test, ~test, met_apart=True)
    assert report["unknown"].numbers["users"] == split.unknown_users
    assert report["unknown"].numbers["items"] == split.unknown_items
    total = {
        column: sum(row[column] for row in report["targets"].numbers.values())
        for column in ("new", "met", "repeated")
    }

    def targets(part):
        return len(set(zip(part.user, part.item, part.behavior, strict=True)))

    assert total["new"] - report["unknown"].numbers["targets"] == targets(split.test)
    assert total["met"] == targets(split.met)
    assert total["repeated"] == split.repeated
    if kind == "time":
        assert total["met"]
        assert total["repeated"]
        assert report["future"].level == "ok"
    else:
        assert report["targets"].level == report["shortcut"].level == "ok"


@pytest.mark.parametrize(
    ("test", "training", "message"),
    [
        ([0, 0], [1, 1], r"`test` should hold at least one event. Received: none"),
        ([0, 1], [1, 1], r"no event in common. Received: 1 events in both"),
        (
            [0, 1, 1],
            [1, 0],
            r"`test` should be a bool array with one entry for each of the 2 events. .*\(3,\)",
        ),
    ],
)
def test_masks_that_are_no_split_are_errors(test, training, message):
    log = make_log([(0, 0, 0, 1), (0, 1, 0, 2)])
    with pytest.raises(ValueError, match=message):
        check(log, np.array(test, bool), np.array(training, bool))


def test_masks_of_numbers_are_an_error():
    log = make_log([(0, 0, 0, 1), (0, 1, 0, 2)])
    with pytest.raises(ValueError, match=r"`training` should be a bool array .* dtype int64"):
        check(log, np.array([False, True]), np.array([1, 0]))


def test_text_has_a_sentence_for_each_finding_and_an_aligned_table():
    table = {"view": {"pairs": 12345, "share": 0.25}, "buy": {"pairs": 7}}
    report = Report(
        (Finding("counts", "ok", "So many.", table), Finding("rest", "problem", "Bad.", {"n": 1}))
    )
    assert report.text().splitlines() == [
        "[ok]      counts: So many.",
        "                 pairs  share",
        "          view  12,345  25.0%",
        "          buy        7",
        "",
        "[problem] rest: Bad.",
        "",
        "1 problem, 0 notes, 1 ok",
    ]
    assert report.level == "problem"
    assert report.to_dict() == {
        "level": "problem",
        "findings": {
            "counts": {"level": "ok", "sentence": "So many.", "numbers": table},
            "rest": {"level": "problem", "sentence": "Bad.", "numbers": {"n": 1}},
        },
    }
    with pytest.raises(KeyError, match="leaks"):
        report["leaks"]
