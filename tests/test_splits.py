import time
from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, reject
from hypothesis import strategies as st

from csmf_tf.data.log import EventLog, read_log
from csmf_tf.data.splits import KINDS, split_log

FUNNEL = ("view", "buy")
OPTIONS = {"at": 0.6, "fraction": 0.4, "validation_users": 0.5}


def make_log(rows, timed=True):
    """A log of (user code, item code, behaviour code, time) rows over 6 users and 9 items."""
    user, item, behavior, times = np.array(rows, np.int64).reshape(-1, 4).T
    return EventLog(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        behavior=behavior.astype(np.int8),
        time=times if timed else None,
        users=np.array([f"u{code}" for code in range(6)], object),
        items=np.array([f"i{code}" for code in range(9)], object),
        funnel=FUNNEL,
    )


ROWS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 1), st.integers(0, 15)),
    min_size=8,
    max_size=60,
)
LOGS = st.builds(make_log, ROWS)


def rows_of(*logs):
    """The events of some logs in terms of raw ids."""
    return [
        (log.users[u], log.items[i], log.funnel[b], t)
        for log in logs
        for u, i, b, t in zip(log.user, log.item, log.behavior, log.time, strict=True)
    ]


def pairs_of(*logs):
    return {row[:2] for row in rows_of(*logs)}


def split_or_reject(log, kind, **options):
    try:
        return split_log(log, kind, **{**OPTIONS, **options})
    except ValueError as error:
        if "split should leave" not in str(error):
            raise
        reject()


@given(log=LOGS, kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_parts_share_the_vocabulary_of_training(log, kind, seed):
    split = split_or_reject(log, kind, seed=seed)
    for part in split[:3]:
        np.testing.assert_array_equal(part.users, split.train.users)
        np.testing.assert_array_equal(part.items, split.train.items)
        assert (part.user.dtype, part.item.dtype, part.behavior.dtype) == (np.int32, np.int32, np.int8)
    assert set(split.train.user) == set(range(len(split.train.users)))
    assert set(split.train.item) == set(range(len(split.train.items)))


@given(log=LOGS, kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_no_target_was_met_in_training(log, kind, seed):
    train, validation, test, *_ = split_or_reject(log, kind, seed=seed)
    assert not pairs_of(test) & pairs_of(train, validation)
    assert not pairs_of(validation) & pairs_of(train)


@given(log=LOGS, kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_every_event_is_in_one_part_or_counted(log, kind, seed):
    split = split_or_reject(log, kind, seed=seed)
    rest = Counter(rows_of(split.train, split.validation))
    assert not rest - Counter(rows_of(log))
    held = list((Counter(rows_of(log)) - rest).elements())
    users, items = set(split.train.users), set(split.train.items)
    known = [row for row in held if row[0] in users and row[1] in items]
    furthest = {}
    for user, item, behavior, *_ in rest:
        place = split.train.funnel.index(behavior)
        furthest[user, item] = max(place, furthest.get((user, item), 0))
    new, met, repeated = [], [], set()
    for row in known:
        if row[:2] not in furthest:
            new.append(row)
        elif furthest[row[:2]] < split.train.funnel.index(row[2]):
            met.append(row)
        else:
            repeated.add(row[:3])
    assert Counter(rows_of(split.test)) == Counter(new)
    assert Counter(rows_of(split.met)) == Counter(met)
    assert split.unknown_users == len({row[0] for row in held} - users)
    assert split.unknown_items == len({row[1] for row in held} - items)
    assert split.repeated == len(repeated)
    assert split.unknown_targets == len({row[:3] for row in held} - {row[:3] for row in known})
    if kind != "time":
        assert (split.unknown_users, len(split.met), split.repeated) == (0, 0, 0)


@given(log=LOGS, kind=st.sampled_from(KINDS), seed=st.integers(0, 99))
def test_exact_under_seed_and_in_the_order_of_the_log(log, kind, seed):
    one, other = (split_or_reject(log, kind, seed=seed) for _ in range(2))
    assert [rows_of(part) for part in one[:3]] == [rows_of(part) for part in other[:3]]
    in_order = iter(rows_of(log))
    assert all(row in in_order for row in rows_of(one.test))


@given(log=LOGS, seed=st.integers(0, 99), order=st.randoms(use_true_random=False), timed=st.booleans())
def test_order_of_rows_does_not_matter_for_item_holdout(log, seed, order, timed):
    shuffled = log.take(np.array(order.sample(range(len(log)), len(log))))
    if not timed:
        log, shuffled = (replace(one, time=np.zeros(len(one), np.int64)) for one in (log, shuffled))
    one, other = (split_or_reject(each, "item_holdout", seed=seed) for each in (log, shuffled))
    assert [Counter(rows_of(part)) for part in one[:3]] == [Counter(rows_of(part)) for part in other[:3]]


@given(log=LOGS, at=st.floats(0.05, 0.95))
def test_time_split_cuts_once_for_everyone(log, at):
    split = split_or_reject(log, "time", at=at, validation_users=0)
    cut = sorted(log.time)[int(at * len(log))]
    assert sorted(rows_of(split.train)) == sorted(row for row in rows_of(log) if row[3] < cut)
    assert all(row[3] >= cut for row in rows_of(split.test))


@given(log=LOGS, seed=st.integers(0, 99))
def test_time_validation_is_later_than_what_its_users_train_on(log, seed):
    train, validation, test, *_ = split_or_reject(log, "time", seed=seed, validation_users=0.9)
    assume(len(validation))
    before = sorted([*train.time, *validation.time])
    assert validation.time.min() >= before[int(OPTIONS["at"] * len(before))]
    assert max(before) < test.time.min()


@given(log=LOGS, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_item_holdout_takes_its_fraction_of_each_user(log, fraction, seed):
    split = split_or_reject(log, "item_holdout", fraction=fraction, seed=seed, validation_users=0)
    items, kept = defaultdict(set), defaultdict(set)
    for user, item in pairs_of(log):
        items[user].add(item)
    for user, item in pairs_of(split.train):
        kept[user].add(item)
    for user, mine in items.items():
        expected = min(max(int(fraction * len(mine) + 0.5), 1), len(mine) - 1)
        assert len(mine) - len(kept[user]) == expected


@given(log=LOGS, timed=st.booleans())
def test_leave_last_takes_the_item_of_the_latest_event(log, timed):
    if not timed:
        log = replace(log, time=np.zeros(len(log), np.int64))
    split = split_or_reject(log, "leave_last", validation_users=0)
    latest, items = {}, defaultdict(set)
    for user, item, _, at in rows_of(log):
        items[user].add(item)
        if user not in latest or at >= latest[user][1]:
            latest[user] = item, at
    last = {(user, item) for user, (item, _) in latest.items() if len(items[user]) > 1}
    assert Counter(rows_of(split.train)) == Counter(row for row in rows_of(log) if row[:2] not in last)


def test_leave_last_without_times_goes_by_the_order_of_the_file():
    log = make_log([(0, 1, 0, 9), (0, 1, 1, 8), (0, 2, 1, 1), (1, 2, 0, 5), (1, 1, 1, 2)], timed=False)
    split = split_log(log, "leave_last", validation_users=0)
    assert split.train.items[split.train.item].tolist() == ["i1", "i1", "i2"]
    assert split.test.items[split.test.item].tolist() == ["i2", "i1"]


@given(
    log=LOGS, kind=st.sampled_from(KINDS), share=st.sampled_from([0, 0.2, 0.5, 0.99]), seed=st.integers(0, 99)
)
def test_validation_is_of_a_share_of_the_users(log, kind, share, seed):
    split = split_or_reject(log, kind, validation_users=share, seed=seed)
    held_apart = pairs_of(split.train, split.validation)
    users = {user for user, _ in held_apart}
    assert len({user for user, _ in pairs_of(split.validation)}) <= np.ceil(share * len(users))


def test_validation_and_seed_matter_on_a_larger_log():
    rng = np.random.default_rng(0)
    rows = np.stack(
        [rng.integers(0, 6, 400), rng.integers(0, 9, 400), rng.integers(0, 2, 400), np.arange(400)], 1
    )
    log = make_log(rows[np.unique(rows[:, :2], axis=0, return_index=True)[1]])
    one, other = (split_log(log, "item_holdout", seed=seed, validation_users=0.5) for seed in (1, 2))
    assert 0 < len(one.validation) < len(one.train)
    assert pairs_of(one.test) != pairs_of(other.test)
    assert not len(split_log(log, "item_holdout", validation_users=0).validation)


DIVERSE = [(u, i, b, 10 * u + i) for u in range(6) for i in range(9) for b in range(2)]
BAD_SPLITS = {
    "kind": (
        DIVERSE,
        {"kind": "random"},
        "`kind` should be one of time, item_holdout, leave_last. Received: kind='random'",
    ),
    "at 0": (
        DIVERSE,
        {"kind": "time", "at": 0},
        r"`at` should be between 0 and 1 \(both excluded\). Received: at=0",
    ),
    "at 1": (DIVERSE, {"kind": "time", "at": 1.0}, "`at` should be between 0 and 1 .* Received: at=1.0"),
    "at nan": (DIVERSE, {"kind": "time", "at": np.nan}, "`at` should be between 0 and 1 .* Received: at=nan"),
    "fraction 1.5": (
        DIVERSE,
        {"kind": "item_holdout", "fraction": 1.5},
        "`fraction` should be between 0 and 1 .* Received: fraction=1.5",
    ),
    "validation of all": (
        DIVERSE,
        {"kind": "time", "validation_users": 1},
        r"`validation_users` should be in \[0, 1\). Received: validation_users=1",
    ),
    "negative seed": (
        DIVERSE,
        {"kind": "time", "seed": -1},
        "`seed` should be an integer >= 0. Received: seed=-1",
    ),
    "float seed": (
        DIVERSE,
        {"kind": "time", "seed": 0.5},
        "`seed` should be an integer >= 0. Received: seed=0.5",
    ),
    "empty log": ([], {"kind": "item_holdout"}, "`log` should hold events. Received: an empty log"),
    "no training events": (
        [(0, 1, 0, 5), (0, 2, 1, 5)],
        {"kind": "time"},
        "The time split should leave training events of every behaviour. Received: none of view, buy;",
    ),
    "no training buys": (
        [(0, 1, 0, 1), (0, 2, 0, 2), (0, 2, 1, 9)],
        {"kind": "leave_last"},
        "The leave_last split should leave training events of every behaviour. Received: none of buy",
    ),
    "no test events": (
        [(0, 1, 0, 1), (1, 2, 1, 2)],
        {"kind": "item_holdout"},
        "The item_holdout split should leave test events whose users and items are known from training and "
        "not met there. Received: none; hold out more",
    ),
    "only met test events": (
        [(0, 1, 0, 1), (0, 1, 1, 2), (0, 1, 1, 3)],
        {"kind": "time"},
        "The time split should leave test events",
    ),
}


@pytest.mark.parametrize(("rows", "arguments", "message"), BAD_SPLITS.values(), ids=BAD_SPLITS)
def test_bad_splits(rows, arguments, message):
    with pytest.raises(ValueError, match=message):
        split_log(make_log(rows), **arguments)


def test_time_split_without_times():
    with pytest.raises(
        ValueError, match=r"A time split should have a log with times. Received: a log without; name its"
    ):
        split_log(make_log(DIVERSE, timed=False), "time")


def read_shared(path, timestamp):
    names = {"user": "user_id", "item": "item_id", "behavior": "behavior"}
    return read_log(path, **names, timestamp=timestamp, funnel=["view", "cart", "buy"])


@pytest.mark.parametrize(
    ("name", "timestamp", "kind"),
    [("taobao", None, "item_holdout"), ("taobao", None, "leave_last"), ("retailrocket", "timestamp", "time")],
)
def test_real_logs_split_in_seconds(name, timestamp, kind, shared_data):
    log = read_shared(shared_data(f"{name}/events.csv.gz"), timestamp)
    start = time.perf_counter()
    split = split_log(log, kind)
    assert time.perf_counter() - start < 20
    assert (np.bincount(split.test.behavior, minlength=3) > 100).all()
    assert (np.bincount(split.validation.behavior, minlength=3) > 50).all()
    if kind == "item_holdout":
        assert len(split.test) / len(log) == pytest.approx(0.1, abs=0.005)
    if kind == "time":
        assert split.validation.time.max() < split.test.time.min()
        assert (split.unknown_users, split.unknown_items) == (172, 1923)
