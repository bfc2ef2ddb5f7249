"""No example's history holds its target or anything later; serving and evaluation see all that is known.

Random logs against references in plain Python, from a log or a file to the features that the tower reads.
"""

import itertools
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from csmf_tf.build import user_features
from csmf_tf.config import Negatives, from_dict
from csmf_tf.data.batches import Batching
from csmf_tf.data.log import EventLog
from csmf_tf.data.splits import split_log
from csmf_tf.data.stages import StageData
from csmf_tf.data.users import HISTORY, UserFeatures
from csmf_tf.run import Run

USERS, ITEMS, CUT = 4, 6, 0.7
FUNNEL = ("seen", "liked", "bought", "kept")


@st.composite
def logs(draw, timed=True, min_size=1):
    """Rows (user, item, behaviour, time) in any order, with repeats and equal times, and their log."""
    funnel = FUNNEL[: draw(st.integers(1, len(FUNNEL)))]
    row = st.tuples(
        st.integers(0, USERS - 1),
        st.integers(0, ITEMS - 1),
        st.integers(0, len(funnel) - 1),
        st.integers(-8, 8),
    )
    rows = draw(st.lists(row, min_size=min_size, max_size=50))
    # Seconds or microseconds apart.
    unit = draw(st.sampled_from([1, 1_000_000]))
    rows = [(user, item, behavior, time * unit) for user, item, behavior, time in rows]
    return rows, make_log(rows, funnel, timed)


def make_log(rows, funnel, timed=True):
    user, item, behavior, time = np.array(rows, np.int64).reshape(-1, 4).T
    return EventLog(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        behavior=behavior.astype(np.int8),
        time=time if timed else None,
        users=np.array([f"u{code}" for code in range(USERS)], object),
        items=np.array([f"i{code}" for code in range(ITEMS)], object),
        funnel=funnel,
    )


def features_of(log, length):
    """Users known by their code; the tower's codes of items are not those of the log."""
    users, items = len(log.users), len(log.items)
    return UserFeatures({"who": np.arange(users)}, log, length, np.arange(items, 0, -1, dtype=np.int32))


def examples(batches, log):
    """(user, item, {behaviour: history}) of each example, as codes of the log with -1 pads."""
    for batch in batches:
        rows = batch.get("row", np.arange(len(batch["item"])))
        for row, item in zip(rows, batch["item"], strict=True):
            windows = {
                b: [
                    len(log.items) - code if code else -1 for code in batch["user"][HISTORY.format(name)][row]
                ]
                for b, name in enumerate(log.funnel)
            }
            yield int(batch["user"]["who"][row]), int(item), windows


def first_times(rows, stage, closure):
    """{(user, item): time of its first positive event} of a stage."""
    first = {}
    for user, item, behavior, time in rows:
        if behavior >= stage - 1 if closure else behavior == stage - 1:
            first[user, item] = min(time, first.get((user, item), time))
    return first


def padded(items, length):
    last = items[-length:]
    return [-1] * (length - len(last)) + last


PLANS = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(["full", "sampled"]),
        "closure": st.booleans(),
        "batch_size": st.integers(1, 7),
        "negatives": st.just(Negatives(uniform=3)),
        "history_drop": st.sampled_from([0.2, 0.5, 0.9]),
        "seed": st.integers(0, 3),
    }
)
LENGTHS = st.integers(1, 12)


def stages_of(log, length, plan):
    """The data of every stage that has an event."""
    for stage in range(1, len(log.funnel) + 1):
        if (log.behavior == stage - 1).any():
            yield stage, StageData(log, stage, features_of(log, length), Batching(**plan))


@given(drawn=logs(), plan=PLANS, length=LENGTHS)
def test_a_timed_history_is_what_came_strictly_before_without_the_target(drawn, plan, length):
    rows, log = drawn
    # Equal times stay in the order of the file.
    by_time = sorted(rows, key=lambda row: row[3])
    for (stage, data), epoch in itertools.product(stages_of(log, length, plan), range(3)):
        times, seen = first_times(rows, stage, plan["closure"]), []
        for user, item, windows in examples(data.batches(epoch), log):
            seen.append((user, item))
            for behavior, window in windows.items():
                mine = [(i, time) for u, i, b, time in by_time if (u, b) == (user, behavior)]
                before = [i for i, time in mine if time < times[user, item]]
                assert item not in window
                # Whatever is there was done before, as often as it is there.
                assert not Counter(i for i in window if i >= 0) - Counter(before)
                assert window == [-1 if i == item else i for i in padded(before, length)]
        assert sorted(seen) == sorted(times)


@given(drawn=logs(), plan=PLANS, length=LENGTHS, data=st.data())
def test_events_at_or_after_an_example_do_not_change_its_history(drawn, plan, length, data):
    rows, log = drawn
    stage, whole = data.draw(st.sampled_from(list(stages_of(log, length, plan))))
    target = data.draw(st.sampled_from(sorted(first_times(rows, stage, plan["closure"]).items())))
    (user, item), time = target
    future = st.tuples(
        st.just(user),
        st.integers(0, ITEMS - 1),
        st.integers(0, len(log.funnel) - 1),
        st.integers(time, time + 9),
    )
    changed = [row for row in rows if row[0] != user or row[3] < time or row[:2] == target[0]]
    changed = make_log(changed + data.draw(st.lists(future, max_size=8)), log.funnel)
    other = StageData(changed, stage, features_of(changed, length), Batching(**plan))

    def histories(stage_data, log):
        found = examples(stage_data.batches(0), log)
        return [windows for u, i, windows in found if (u, i) == (user, item)]

    assert histories(whole, log) == histories(other, changed)


@given(drawn=logs(timed=False), plan=PLANS, length=LENGTHS)
def test_without_times_no_history_holds_a_target_of_its_epoch(drawn, plan, length):
    rows, log = drawn
    for (stage, data), epoch in itertools.product(stages_of(log, length, plan), range(4)):
        found = list(examples(data.batches(epoch), log))
        assert found
        targets = defaultdict(set)
        for user, item, _ in found:
            targets[user].add(item)
        for user, _, windows in found:
            for behavior, window in windows.items():
                mine = [i for u, i, b, _ in rows if (u, b) == (user, behavior)]
                assert targets[user].isdisjoint(window)
                # In the order of the log, and nothing that the user did not do.
                left = iter(mine)
                assert all(item in left for item in window if item >= 0)
                # What the stage could have asked for and did not is in.
                if length >= len(mine):
                    positives = {i for u, i in first_times(rows, stage, plan["closure"]) if u == user}
                    assert positives.intersection(mine) - targets[user] <= set(window)


@given(drawn=logs(min_size=20), plan=PLANS, length=LENGTHS, seed=st.integers(0, 9))
def test_after_a_time_split_training_sees_nothing_from_the_cut_on(drawn, plan, length, seed):
    rows, log = drawn
    try:
        split = split_log(log, "time", at=CUT, seed=seed, validation_users=0.5)
    except ValueError:
        assume(False)
    cut = sorted(time for *_, time in rows)[int(CUT * len(rows))]
    validation, train = named(split.validation), named(split.train)
    # What is held out for validation is in no training event of the user.
    assert not {row[:2] for row in validation} & {row[:2] for row in train}
    for (stage, data), epoch in itertools.product(stages_of(split.train, length, plan), range(2)):
        times = first_times(train, stage, plan["closure"])
        for user, item, windows in examples(data.batches(epoch), split.train):
            user, item = split.train.users[user], split.train.items[item]
            assert times[user, item] < cut
            for behavior, window in windows.items():
                ids = {split.train.items[i] for i in window if i >= 0}
                early = [
                    (f"u{u}", f"i{i}")
                    for u, i, b, time in rows
                    if b == behavior and time < min(cut, times[user, item])
                ]
                assert {(user, i) for i in ids} <= set(early) - {row[:2] for row in validation}
                assert item not in ids


def named(log):
    """The events of a log as rows with ids in place of the codes."""
    times = [0] * len(log) if log.time is None else log.time.tolist()
    users, items = log.users[log.user].tolist(), log.items[log.item].tolist()
    return list(zip(users, items, log.behavior.tolist(), times, strict=True))


class Probe:
    """Stands in for a model, and keeps the user features that an evaluator embeds."""

    def __init__(self):
        self.features = {}
        self.owner = np.ones(1, int)

    def item_vectors(self):
        return np.zeros((1, 1), np.float32)

    def user_vectors(self, features):
        self.features = features
        return np.zeros((len(next(iter(features.values()))), 1), np.float32)


TIMED = ["time", "item_holdout", "leave_last"]


@pytest.fixture(scope="module", params=[*TIMED, "item_holdout, no times"])
def run(request, tmp_path_factory):
    """The rows of a shuffled file and an untrained run on it; histories are wide enough for all events."""
    folder, rng = tmp_path_factory.mktemp("run"), random.Random(3)
    times = [rng.randrange(1_400_000_000, 1_400_000_050) for _ in range(400)]
    rows = [
        (f"u{rng.randrange(20)}", f"i{rng.randrange(15)}", rng.choices(range(3), [6, 3, 2])[0]) for _ in times
    ]
    rows = [(*row, time) for row, time in zip(rows, times, strict=True)]
    kind, untimed = request.param.split(",")[0], "no times" in request.param
    header = ["user_id", "item_id", "behavior", "timestamp"]
    lines = [header] + [[user, item, FUNNEL[behavior], str(time)] for user, item, behavior, time in rows]
    (folder / "log.csv").write_text("\n".join(",".join(line) for line in lines))
    log = {"path": str(folder / "log.csv"), "user": "user_id", "item": "item_id", "behavior": "behavior"}
    raw = {
        "log": log if untimed else {**log, "timestamp": "timestamp"},
        "funnel": list(FUNNEL[:3]),
        "split": {"kind": kind} | ({"at": CUT} if kind == "time" else {}),
        "validation_users": 0.5,
        "model": {"embedding_dim": 4, "history": {"length": 60}},
    }
    scale = 0 if untimed else 1_000_000
    return [(*row[:3], row[3] * scale) for row in rows], Run(folder / "run", from_dict(raw))


def histories_of(features, run):
    """{(user id, behaviour): item ids} of encoded features."""
    encoder, known = run.model.towers.user_encoder, run.prepared.split.train
    users = dict(
        zip(
            encoder.encode({"user_id": known.users}, skip="history")["user_id"].tolist(),
            known.users,
            strict=True,
        )
    )
    found = {}
    for behavior, name in enumerate(known.funnel):
        codes = encoder.codes(HISTORY.format(name), known.items)
        items = dict(zip(codes.tolist(), known.items, strict=True)) | {0: None}
        for user, window in zip(features["user_id"], features[HISTORY.format(name)], strict=True):
            found[users[int(user)], behavior] = [items[int(code)] for code in window if code]
    return found


def by_user(rows):
    """{(user, behaviour): [(item, time)]}, in the order of the rows."""
    done = defaultdict(list)
    for user, item, behavior, time in rows:
        done[user, behavior].append((item, time))
    return done


def assert_whole(found, rows):
    """Whether each history has all of the user's events in these rows, by time, and no other."""
    done = by_user(rows)
    for key, items in found.items():
        assert Counter(items) == Counter(item for item, _ in done[key])
        moments = [time for _, time in sorted(done[key], key=lambda event: event[1])]
        for moment in set(moments):
            at = [n for n, time in enumerate(moments) if time == moment]
            then = Counter(item for item, time in done[key] if time == moment)
            assert Counter(items[n] for n in at) == then


def test_the_test_evaluator_sees_all_that_is_known_and_no_test_event(run):
    rows, run = run
    split = run.prepared.split
    known = Counter(named(split.train) + named(split.validation))
    tested = Counter(named(split.test) + named(split.met))
    assert tested
    assert not known & tested
    assert not (known + tested) - Counter(rows)
    if run.config.split.kind == "time":
        cut = sorted(time for *_, time in rows)[int(CUT * len(rows))]
        assert known == Counter(row for row in rows if row[3] < cut)
    probe = Probe()
    run.evaluator().vectors(probe)
    found = histories_of(probe.features, run)
    assert {user for user, _ in found} >= {user for user, *_ in named(split.test)}
    assert any(found.values())
    assert_whole(found, list(known.elements()))


def test_the_validation_evaluator_sees_the_training_part_alone(run):
    _, run = run
    split = run.prepared.split
    probe = Probe()
    run.validation().vectors(probe)
    found = histories_of(probe.features, run)
    assert {user for user, _ in found} == {user for user, *_ in named(split.validation)}
    assert any(found.values())
    assert_whole(found, named(split.train))
    held = {(user, item) for user, item, *_ in named(split.validation)}
    assert not held & {(user, item) for (user, _), items in found.items() for item in items}


def test_serving_sees_all_that_is_known_of_everyone(run):
    _, run = run
    split = run.prepared.split
    raw, known = run.raw_users(), named(split.train) + named(split.validation)
    served = {
        (user, behavior): [item for item in window if item]
        for behavior, name in enumerate(split.train.funnel)
        for user, window in zip(raw["user_id"], raw[HISTORY.format(name)], strict=True)
    }
    assert {user for user, _ in served} == set(split.train.users)
    assert_whole(served, known)
    log = split.train.append(split.validation)
    features = user_features(run.config, run.prepared, run.model, log)
    assert histories_of(features.latest(np.arange(len(log.users))), run) == served


@pytest.mark.parametrize("run", TIMED, indirect=True)
def test_training_examples_of_a_run_see_what_came_before_them_in_the_training_part(run):
    _, run = run
    train = named(run.prepared.split.train)
    done = by_user(sorted(train, key=lambda row: row[3]))
    encoder, ids = run.model.towers.user_encoder, run.prepared.split.train
    users = dict(
        zip(
            encoder.encode({"user_id": ids.users}, skip="history")["user_id"].tolist(), ids.users, strict=True
        )
    )
    for stage, data in enumerate(run.stages().values(), start=1):
        times, checked = first_times(train, stage, closure=True), 0
        for batch in data.batches(0):
            for n, item in enumerate(ids.items[batch["item"]]):
                user = users.get(int(batch["user"]["user_id"][n]))
                # The other rows train the place of unknown users.
                if user is None:
                    continue
                one = {name: values[n : n + 1] for name, values in batch["user"].items()}
                for (_, behavior), items in histories_of(one, run).items():
                    before = [i for i, time in done[user, behavior] if time < times[user, item] and i != item]
                    assert items == before
                checked += 1
        assert checked > 0.9 * len(times)
