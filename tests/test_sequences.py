"""Windows of histories and the targets of their positions, against loops over the log."""

import dataclasses
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csmf_tf._keras import tf
from csmf_tf.config import Negatives
from csmf_tf.data.batches import Batching
from csmf_tf.data.history import History
from csmf_tf.data.log import EventLog
from csmf_tf.data.sequences import Targets, Windows, windows
from csmf_tf.data.stages import StageData
from csmf_tf.data.users import UserFeatures

USERS, ITEMS = 6, 8
STEPS = (0.5, 0.3, 0.2)
# Name: the funnel, whether the log has times.
LOGS = {
    "one behaviour, no times": (("view",), False),
    "one behaviour": (("view",), True),
    "three behaviours, no times": (("view", "cart", "buy"), False),
    "three behaviours": (("view", "cart", "buy"), True),
}
# Each log with each of its stages; closure is off where it makes a difference too.
PLANS = [
    (name, stage, closure)
    for name, (funnel, _) in LOGS.items()
    for stage in range(1, len(funnel) + 1)
    for closure in ([True] if len(funnel) == 1 else [True, False])
]


def make_log(name, n=70, seed=0):
    """Random events; pairs repeat, some times are equal, the last user has a single event."""
    funnel, timed = LOGS[name]
    rng = np.random.default_rng(seed)
    user = np.append(rng.choice(USERS - 1, n, p=[0.45, 0.25, 0.15, 0.1, 0.05]), USERS - 1)
    return EventLog(
        user=rng.permutation(user).astype(np.int32),
        item=rng.choice(ITEMS, n + 1, p=[0.3, 0.2, *[0.1] * 4, 0.05, 0.05]).astype(np.int32),
        behavior=rng.integers(0, len(funnel), n + 1).astype(np.int8),
        time=rng.integers(0, 25, n + 1) if timed else None,
        users=np.array([f"u{code}" for code in range(USERS)], object),
        items=np.array([f"i{code}" for code in range(ITEMS)], object),
        funnel=funnel,
    )


def sequences(log):
    """{user: list of (item, behaviour)}, oldest first; of equal times the earlier in the log."""
    times = [0] * len(log) if log.time is None else log.time.tolist()
    found = {user: [] for user in range(USERS)}
    for n in sorted(range(len(log)), key=lambda n: (times[n], n)):
        found[int(log.user[n])].append((int(log.item[n]), int(log.behavior[n])))
    return found


def following(events, at, stage, closure):
    """The positives that a user first meets after event `at`, in that order."""
    positive = {item for item, b in events if (b >= stage - 1 if closure else b == stage - 1)}
    new = []
    for item, _ in events[at + 1 :]:
        if item in positive and item not in new and item not in [met for met, _ in events[: at + 1]]:
            new.append(item)
    return new


def positions_of(log, stage, closure=True, horizon=3):
    """{(user, event): its next items}, of the events that have any."""
    return {
        (user, at): following(events, at, stage, closure)[:horizon]
        for user, events in sequences(log).items()
        for at in range(len(events))
        if following(events, at, stage, closure)
    }


class Told(UserFeatures):
    """Rows that also tell whose they are and which of the user's events they hold."""

    def __init__(self, log, length):
        fixed = {"age": np.linspace(0, 1, USERS, dtype=np.float32)[:, None]}
        codes = np.arange(2, ITEMS + 2), np.arange(2, len(log.funnel) + 2)
        super().__init__(fixed, log, length, codes[0], sequence=True, behavior_codes=codes[1])
        history = self.histories["history"]
        number = np.concatenate([np.arange(n) for n in np.diff(history.offsets)])
        self.histories["event"] = dataclasses.replace(history, items=number)

    def rows(self, users, windows):
        event = windows.pop("event")
        return super().rows(users, windows) | {"who": users, "event": event}


def make(name, stage=1, length=4, loss="full", log=None, **plan):
    log = make_log(name) if log is None else log
    plan = {"batch_size": 3, "step_weights": STEPS, "negatives": Negatives(uniform=6), **plan}
    return StageData(log, stage, Told(log, length), Batching(loss=loss, **plan))


def places(batch, length=4):
    """(user, event, row, column) of each position of a batch."""
    row, column = np.divmod(batch["query"], length)
    user = batch["user"]
    return list(zip(user["who"][row], user["event"][row, column], row, column, strict=True))


# Targets and windows alone


@st.composite
def small_logs(draw):
    name = draw(st.sampled_from(sorted(LOGS)))
    return make_log(name, draw(st.integers(1, 40)), draw(st.integers(0, 10**6)))


@settings(max_examples=40)
@given(small_logs(), st.integers(1, 3), st.booleans(), st.integers(1, 4))
def test_targets_are_the_next_positives_that_the_user_had_not_met(log, stage, closure, horizon):
    stage = min(stage, len(log.funnel))
    mask = log.behavior >= stage - 1 if closure else log.behavior == stage - 1
    everything = np.ones(len(log), bool)
    targets = Targets.of(History.of(log), everything, np.unique(log.pairs[mask]), ITEMS)
    for user, events in sequences(log).items():
        for at in range(-1, len(events)):
            new = following(events, at, stage, closure)[:horizon]
            found = targets.after(np.array([user]), np.array([at]), horizon)[0]
            assert found.tolist() == new + [-1] * (horizon - len(new))
        followed = [at for at in range(len(events)) if following(events, at, stage, closure)]
        assert followed == list(range(targets.last[user]))


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(0, 10**6))
def test_items_met_in_what_towers_do_not_read_are_targets_too(events, seed):
    """As of an objective that was added later: carts are positives, views alone are read."""
    log = make_log("three behaviours", events, seed)
    behavior = History.of(dataclasses.replace(log, item=log.behavior)).items
    targets = Targets.of(History.of(log), behavior < 1, np.unique(log.pairs[log.behavior == 1]), ITEMS)
    for user, done in sequences(log).items():
        read = [at for at, (_, b) in enumerate(done) if b == 0]
        for number, at in enumerate(read):
            new = following(done, at, 2, closure=False)
            found = targets.after(np.array([user]), np.array([number]), ITEMS)[0]
            assert [item for item in found if item >= 0] == new


@settings(max_examples=60)
@given(st.lists(st.integers(0, 17), min_size=1, max_size=6), st.integers(1, 5), st.integers(0, 10**6))
def test_windows_hold_each_event_as_new_once_and_are_as_few_as_can_be(lengths, length, seed):
    cut = windows(np.array(lengths), length, np.random.default_rng(seed))
    new = [
        (user, event)
        for user, end, n in zip(*(values.tolist() for values in cut), strict=True)
        for event in range(end - n, end)
    ]
    assert new == [(user, event) for user, n in enumerate(lengths) for event in range(n)]
    assert np.all((cut.new >= 1) & (cut.new <= length))
    assert len(cut.user) == sum(math.ceil(n / length) for n in lengths)


def test_windows_are_cut_at_every_place_alike():
    """A long sequence has slack, here 3 events, that any part of may fall to the first window."""
    rng = np.random.default_rng(0)
    first = Counter(int(windows(np.array([9]), 4, rng).new[0]) for _ in range(800))
    assert sorted(first) == [1, 2, 3, 4]
    assert all(abs(count - 200) < 4 * math.sqrt(800 * 0.25 * 0.75) for count in first.values())
    # What fits one window is never cut.
    assert {int(windows(np.array([4]), 4, rng).new[0]) for _ in range(50)} == {4}


def test_positions_are_the_last_columns_of_their_rows():
    cut = Windows(np.array([3, 0, 3]), np.array([7, 2, 3]), np.array([2, 1, 3]))
    assert [values.tolist() for values in cut.positions(4)] == [
        [3, 3, 0, 3, 3, 3],
        [5, 6, 1, 0, 1, 2],
        [2, 3, 7, 9, 10, 11],
    ]


# Batches


@pytest.mark.parametrize(("name", "stage", "closure"), PLANS)
@pytest.mark.parametrize("length", [1, 4])
def test_every_followed_event_is_a_position_once_an_epoch_with_its_next_items(name, stage, closure, length):
    data, log = make(name, stage, length, closure=closure), make_log(name)
    wanted, events = positions_of(log, stage, closure), sequences(log)
    for epoch in (0, 5):
        seen = []
        for batch in data.batches(epoch):
            held = batch["user"]
            for n, (user, at, row, column) in enumerate(places(batch, length)):
                seen.append((user, at))
                targets = wanted[user, at]
                assert batch["targets"][n].tolist() == targets + [-1] * (len(STEPS) - len(targets))
                expected = [*STEPS[: len(targets)], *[0] * (len(STEPS) - len(targets))]
                np.testing.assert_allclose(batch["weight"][n], expected, rtol=1e-6)
                # Exactly what came before, without gaps, as far as the window reaches.
                numbers = held["event"][row, : column + 1]
                shown = numbers[numbers >= 0].tolist()
                assert shown == list(range(at + 1))[-len(shown) :]
                assert np.all(numbers[: -len(shown)] == -1)
                assert len(shown) == min(at + 1, column + 1)
                before = [events[user][number] for number in shown]
                assert not {item for item, _ in before} & {*targets}
                pads = [0] * (column + 1 - len(shown))
                assert held["history"][row, : column + 1].tolist() == pads + [i + 2 for i, _ in before]
                if len(log.funnel) > 1:
                    done = held["history_behavior"][row, : column + 1].tolist()
                    assert done == pads + [b + 2 for _, b in before]
        assert sorted(seen) == sorted(wanted)
    assert ("history_behavior" in held) == (len(log.funnel) > 1)


def test_windows_are_no_wider_than_what_the_model_reads():
    log = make_log("three behaviours")
    users = Told(log, 4)
    users.positions = 2
    data = StageData(log, 1, users, Batching(loss="full", batch_size=3, step_weights=STEPS))
    batches = list(data.batches(0))
    assert {batch["user"]["history"].shape[1] for batch in batches} == {2}
    seen = [(user, at) for batch in batches for user, at, _, _ in places(batch, 2)]
    assert sorted(seen) == sorted(positions_of(log, 1))


@pytest.mark.parametrize(("name", "stage", "closure"), PLANS)
def test_a_positive_is_asked_for_as_of_when_its_item_was_met(name, stage, closure):
    data, events = make(name, stage, closure=closure), sequences(make_log(name))
    pairs = list(zip(*(codes.tolist() for codes in data.positives), strict=True))
    met = [[item for item, _ in events[user]].index(item) for user, item in pairs]
    assert data.predicted.tolist() == [n for n, count in enumerate(met) if count]
    held = data.asking(data.predicted)["history"]
    for row, n in zip(held, data.predicted, strict=True):
        before = [item + 2 for item, _ in events[pairs[n][0]][: met[n]]][-4:]
        assert row.tolist() == [0] * (4 - len(before)) + before


def test_over_epochs_a_position_sees_as_much_of_the_past_as_some_cut_lets_it():
    data, length = make("three behaviours", 1), 4
    seen, expected = {}, {}
    for epoch in range(60):
        for batch in data.batches(epoch):
            for user, at, _, column in places(batch):
                seen.setdefault((user, at), set()).add(min(at, column) + 1)
    wanted = positions_of(make_log("three behaviours"), 1)
    for user, at in wanted:
        n = sum(user == other for other, _ in wanted)
        # The first window ends at `cut`, the others each `length` later, the last one with the sequence.
        most = -(-n // length) * length
        for cut in range(length - (most - n), length + 1) if n > length else [n]:
            end = min(cut if at < cut else at + length - (at - cut) % length, n)
            expected.setdefault((user, at), set()).add(min(at + 1, length - (end - at) + 1))
    assert seen == expected
    assert max(map(len, seen.values())) > 2


@pytest.mark.parametrize("loss", ["full", "sampled"])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_epochs_have_as_many_batches_as_the_dataset_says_and_repeat_by_seed(loss, share):
    data, again, other = (make("three behaviours", 2, loss=loss, seed=seed) for seed in (1, 1, 2))
    dataset = data.dataset(first_epoch=3, share=share)
    steps = int(dataset.cardinality())
    count = sum(math.ceil(len(part) / 4) for part in by_user(positions_of(make_log("three behaviours"), 2)))
    assert steps == math.ceil(max(round(share * count), 1) / 3)
    passes = [list(dataset.as_numpy_iterator()) for _ in range(3)]
    for epoch, found in enumerate(passes, start=3):
        expected = list(again.batches(epoch, share))
        assert len(found) == len(expected) == steps
        tf.nest.map_structure(np.testing.assert_array_equal, found, expected)
    orders = [[places(batch) for batch in found] for found in (*passes, list(other.batches(3, share)))]
    assert all(one != another for one, another in itertools.combinations(orders, 2))


def by_user(positions):
    users = [user for user, _ in positions]
    return [[user] * users.count(user) for user in sorted(set(users))]


@pytest.mark.parametrize(("name", "stage", "closure"), PLANS)
def test_sampled_batches_are_the_full_ones_target_by_target(name, stage, closure):
    full, sampled = (
        list(make(name, stage, closure=closure, loss=loss, l2_popularity=0.75).batches(2))
        for loss in ("full", "sampled")
    )
    positives = Counter(
        item for items in positions_of(make_log(name), stage, closure).values() for item in items
    )
    rng = np.random.default_rng(0)
    for whole, batch in zip(full, sampled, strict=True):
        tf.nest.map_structure(np.testing.assert_array_equal, whole["user"], batch["user"])
        np.testing.assert_array_equal(whole["query"], batch["query"])
        filled = [
            (q, h) for q in range(len(whole["targets"])) for h in range(3) if whole["targets"][q, h] >= 0
        ]
        rows = np.array([q for q, _ in filled])
        assert batch["row"].tolist() == rows.tolist()
        assert batch["item"].tolist() == [whole["targets"][place] for place in filled]
        np.testing.assert_array_equal(batch["future"], whole["targets"][rows])
        # The weighed mean over the targets is the mean over the positions.
        nll = rng.random(whole["targets"].shape)
        mine = np.mean([weight * nll[place] for weight, place in zip(batch["weight"], filled, strict=True)])
        assert mine == pytest.approx(np.mean(np.sum(nll * whole["weight"], axis=1)), rel=1e-5)
        norms = rng.random(len(rows))[rows]
        shares = [whole["weight"][place] * whole["user_l2"][place[0]] for place in filled]
        mine = np.mean(batch["user_l2"] * norms)
        assert mine == pytest.approx(np.sum(shares * norms) / len(whole["targets"]), rel=1e-5)
        drawn = [*batch["item"], *batch["negatives"]]
        assert len(batch["negatives"]) == 6
        who = [places(whole)[q][0] for q, _ in filled]
        assert batch["user_code"].tolist() == who
        others = np.mean([sum(other != user for other in who) for user in who])
        for item, log_q in zip(drawn, batch["log_q"], strict=True):
            expected = others * positives[item] / positives.total() + 6 / ITEMS
            assert log_q == pytest.approx(math.log(expected), abs=1e-5)
        # In the mean over an epoch's targets an item's L2 is that of the full softmax.
        for item, l2 in zip(batch["item"], batch["item_l2"], strict=True):
            expected = whole["catalogue_l2"][item] * positives.total() / positives[item]
            assert l2 == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("popularity", [0.0, 0.75])
def test_l2_is_in_units_of_the_noise_of_positions_and_weighed_targets(popularity):
    data, wanted = (
        make("three behaviours", 2, l2_popularity=popularity),
        positions_of(make_log("three behaviours"), 2),
    )
    users, items = Counter(user for user, _ in wanted), Counter()
    for targets in wanted.values():
        for item, step in zip(targets, STEPS, strict=False):
            items[item] += step
    noise = 0.5 * sum(math.sqrt(rows.total() / len(rows)) for rows in (users, items))
    weights = np.array([max(items[item], 1) ** popularity for item in range(ITEMS)])
    mean = np.mean([weights[item] for item in items])
    for batch in data.batches(0):
        np.testing.assert_allclose(batch["catalogue_l2"], noise / len(wanted) * weights / mean, rtol=1e-5)
        expected = [noise / users[user] for user, *_ in places(batch)]
        np.testing.assert_allclose(batch["user_l2"], expected, rtol=1e-5)


def test_a_log_in_which_nothing_follows_is_an_error():
    log = make_log("three behaviours")
    log = log.take(np.unique(log.user, return_index=True)[1])
    with pytest.raises(ValueError, match="'view' should have at least one training event with"):
        make("three behaviours", 1, log=dataclasses.replace(log, behavior=np.zeros(len(log), np.int8)))
