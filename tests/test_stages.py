"""The batches of a stage against loops over the log."""

import math
from collections import Counter, defaultdict
from itertools import islice

import numpy as np
import pytest

from csmf_tf._keras import keras, tf
from csmf_tf.config import Negatives
from csmf_tf.data.batches import Batching
from csmf_tf.data.log import EventLog
from csmf_tf.data.stages import StageData
from csmf_tf.data.users import UserFeatures

FUNNEL = ("view", "cart", "buy")
USERS, ITEMS, ID_BUCKETS = 12, 9, 2
HISTORIES = [f"history_{name}" for name in FUNNEL]
# Name: whether the log has times, the width of histories, the loss. Rows are users in the first two.
CASES = {
    "full": (True, 0, "full"),
    "full, drawn histories": (False, 4, "full"),
    "full, timed histories": (True, 4, "full"),
    "sampled": (True, 0, "sampled"),
    "sampled, drawn histories": (False, 4, "sampled"),
    "sampled, timed histories": (True, 4, "sampled"),
}
every_case = pytest.mark.parametrize("case", CASES)
DRAWN = [name for name in CASES if "drawn" in name]
WHOLE = [name for name in CASES if "drawn" not in name]


def make_log(timed, n=150, seed=0):
    """Random events; users and items repeat, and some times are equal."""
    rng = np.random.default_rng(seed)
    return EventLog(
        user=rng.integers(0, USERS, n, np.int32),
        item=rng.integers(0, ITEMS, n, np.int32),
        behavior=rng.choice(3, n, p=[0.6, 0.25, 0.15]).astype(np.int8),
        time=rng.integers(0, 60, n) if timed else None,
        users=np.array([f"u{code}" for code in range(USERS)], object),
        items=np.array([f"i{code}" for code in range(ITEMS)], object),
        funnel=FUNNEL,
    )


def features_of(log, length):
    """Users known by a code and an age; histories hold item codes + 2."""
    fixed = {
        "id": np.arange(ID_BUCKETS, ID_BUCKETS + USERS, dtype=np.int32),
        "age": np.linspace(0, 1, USERS, dtype=np.float32)[:, None],
    }
    return UserFeatures(fixed, log, length, np.arange(2, ITEMS + 2, dtype=np.int32), "id", ID_BUCKETS)


def make(case, stage=2, kind=StageData, log=None, **plan):
    timed, length, loss = CASES[case]
    log = log or make_log(timed)
    plan = {"batch_size": 5, "negatives": Negatives(uniform=6), "unknown_user_rate": 0.0} | plan
    return kind(log, stage, features_of(log, length), Batching(loss=loss, **plan))


def first_times(log, stage, closure=True):
    """{(user, item): time of the first positive event}; the times are 0 in a log without."""
    times = [0] * len(log) if log.time is None else log.time
    met = {}
    for user, item, behavior, time in zip(log.user, log.item, log.behavior, times, strict=True):
        if behavior >= stage - 1 if closure else behavior == stage - 1:
            met[user, item] = min(time, met.get((user, item), time))
    return met


def user_codes(batch):
    """The users of the rows; the age tells who a row under an unknown id is."""
    return np.rint(batch["user"]["age"][:, 0] * (USERS - 1)).astype(int)


def pairs_of(batch):
    users = user_codes(batch)
    rows = batch.get("row", np.arange(len(users)))
    return list(zip(users[rows].tolist(), batch["item"].tolist(), strict=True))


def assert_same(one, other):
    tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("stage", [1, 3])
@every_case
def test_batches_are_as_the_model_documents_them(case, stage):
    _, length, loss = CASES[case]
    for batch in make(case, stage, negatives=Negatives(uniform=6, funnel=3)).batches(0):
        rows, positives = len(batch["user"]["id"]), len(batch["item"])
        expected = {"item": ("int32", (positives,)), "user_l2": ("float32", (rows,))}
        expected |= {"user.id": ("int32", (rows,)), "user.age": ("float32", (rows, 1))}
        expected |= {f"user.{name}": ("int32", (rows, length)) for name in HISTORIES if length}
        if loss == "full":
            expected |= {"row": ("int32", (positives,)), "catalogue_l2": ("float32", (ITEMS,))}
        else:
            assert positives == rows
            expected |= {
                "item_l2": ("float32", (rows,)),
                "negatives": ("int32", (6,)),
                "log_q": ("float32", (rows + 6,)),
                "funnel_negatives": ("int32", (rows, 3 if stage > 1 else 0)),
            }
        user = {f"user.{name}": value for name, value in batch.pop("user").items()}
        assert {k: (v.dtype.name, v.shape) for k, v in (batch | user).items()} == expected
        assert 1 <= rows <= 5
        assert all(np.isfinite(value).all() for value in batch.values())


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("case", WHOLE)
def test_every_positive_appears_exactly_once_an_epoch(case, stage, closure):
    data = make(case, stage, closure=closure)
    wanted = first_times(make_log(CASES[case][0]), stage, closure)
    for epoch in (0, 7):
        seen = [pair for batch in data.batches(epoch) for pair in pairs_of(batch)]
        assert sorted(seen) == sorted(wanted)
    assert len(data) == len(wanted)
    assert data.objective == FUNNEL[stage - 1]


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("case", DRAWN)
def test_drawn_targets_are_a_share_of_the_positives(case, closure):
    data = make(case, 2, closure=closure, history_drop=0.3)
    wanted = first_times(make_log(False), 2, closure)
    seen = Counter()
    for epoch in range(60):
        pairs = [pair for batch in data.batches(epoch) for pair in pairs_of(batch)]
        # As many in every epoch, or Keras ends a fit at the first shorter one.
        assert len(pairs) == len(set(pairs)) == round(0.3 * len(wanted))
        seen.update(pairs)
    deviation = math.sqrt(60 * 0.3 * 0.7)
    assert set(seen) == set(wanted)
    assert all(abs(count - 18) < 4 * deviation for count in seen.values())


@pytest.mark.parametrize("case", DRAWN)
def test_an_epoch_always_has_a_target(case):
    # With one purchase and a share this small hardly any epoch would draw it.
    log = make_log(False)
    log = log.take((log.behavior < 2) | (np.arange(len(log)) == np.argmax(log.behavior)))
    data = make(case, 3, log=log, history_drop=0.01)
    assert len(data) == 1
    for epoch in range(5):
        batches = list(data.batches(epoch))
        assert [pair for batch in batches for pair in pairs_of(batch)] == [*first_times(log, 3)]
        assert all(np.isfinite(batch["user_l2"]).all() for batch in batches)
    assert len(list(data.dataset())) >= 1


@every_case
def test_an_epoch_depends_on_seed_number_and_stage_alone(case):
    def epoch(number, seed=3, stage=2):
        return list(make(case, stage, seed=seed, unknown_user_rate=0.5).batches(number))

    assert_same(epoch(4), epoch(4))
    epochs = (epoch(4), epoch(5), epoch(4, seed=4), epoch(4, stage=1))
    orders = [[pairs_of(batch) for batch in batches] for batches in epochs]
    assert all(one != other for n, one in enumerate(orders) for other in orders[:n])


@every_case
def test_passes_over_a_dataset_are_the_epochs_from_the_first_on(case):
    data = make(case, unknown_user_rate=0.5)
    dataset = data.dataset(first_epoch=3)
    for epoch in (3, 4, 5):
        assert_same(list(dataset.as_numpy_iterator()), list(data.batches(epoch)))


class Recorder(keras.Model):
    """Keeps the rows that Keras trains it on, by epoch."""

    def __init__(self):
        super().__init__()
        self.epochs = defaultdict(list)
        self.epoch = None

    def train_step(self, data):
        self.epochs[self.epoch].append(tf.nest.map_structure(lambda x: x.numpy(), data))
        return {"loss": tf.constant(0.0)}

    def fit(self, *args, **kwargs):
        def begin(epoch, logs):
            self.epoch = epoch

        counts = keras.callbacks.LambdaCallback(on_epoch_begin=begin)
        return super().fit(*args, callbacks=[counts], verbose=0, **kwargs)


class Counted(StageData):
    """Keeps the numbers of the epochs whose batches were asked for."""

    def dataset(self, *args, **kwargs):
        made = super().dataset(*args, **kwargs)
        # Without the look at a first batch that tells shapes and dtypes.
        self.asked = []
        return made

    def batches(self, epoch, share=1.0):
        self.asked.append(epoch)
        return super().batches(epoch, share)


@pytest.mark.parametrize("first", [0, 2])
@every_case
def test_each_keras_epoch_is_the_next_epoch_of_the_data(case, first):
    data = make(case, kind=Counted)
    data.asked = []
    dataset = data.dataset(first)
    model = Recorder()
    model.compile(run_eagerly=True)
    model.fit(dataset, initial_epoch=first, epochs=first + 3)
    assert data.asked == [first, first + 1, first + 2]
    assert sorted(model.epochs) == data.asked
    for epoch, batches in model.epochs.items():
        assert_same(batches, list(data.batches(epoch)))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
@every_case
def test_a_share_of_an_epoch_is_that_share_of_its_rows(case, share):
    data = make(case)
    sizes = [sum(len(b["user"]["id"]) for b in data.batches(2, s)) for s in (1.0, share)]
    assert sizes[1] == max(round(share * sizes[0]), 1)
    dataset = data.dataset(share=share)
    assert dataset.cardinality() == len(list(dataset))


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("case", ["full, timed histories", "sampled, timed histories"])
def test_timed_histories_hold_what_came_before_without_the_target(case, stage, closure):
    log, length = make_log(True), CASES[case][1]
    times = first_times(log, stage, closure)
    order = np.argsort(log.time, kind="stable")
    for batch in make(case, stage, closure=closure).batches(0):
        for n, (user, item) in enumerate(pairs_of(batch)):
            for behavior, name in enumerate(HISTORIES):
                mine = order[(log.user == user)[order] & (log.behavior == behavior)[order]]
                before = [log.item[at] for at in mine if log.time[at] < times[user, item]][-length:]
                window = batch["user"][name][n]
                assert window[window > 0].tolist() == [code + 2 for code in before if code != item]
                assert item + 2 not in window


@pytest.mark.parametrize("stage", [1, 3])
@pytest.mark.parametrize("case", DRAWN)
def test_drawn_histories_are_the_items_that_are_no_targets(case, stage):
    log = make_log(False)
    met = [set(zip(log.user[log.behavior == b], log.item[log.behavior == b], strict=True)) for b in range(3)]
    data = StageData(log, stage, features_of(log, 40), make(case).batching)
    for epoch in range(3):
        batches = list(data.batches(epoch))
        targets = {pair for batch in batches for pair in pairs_of(batch)}
        for batch in batches:
            for n, user in enumerate(user_codes(batch)):
                mine = {item for u, item in targets if u == user}
                history = [set(batch["user"][name][n].tolist()) - {0} for name in HISTORIES]
                history = [{code - 2 for code in codes} for codes in history]
                for behavior, items in enumerate(history):
                    everything = {item for u, item in met[behavior] if u == user}
                    assert not items & mine
                    # Upstream items that are no positives of the stage may be left out, positives may not.
                    positives = {item for u, item in first_times(log, stage) if u == user}
                    assert everything & positives - mine <= items <= everything
        # Otherwise the test would see no history at all.
        assert any((batch["user"]["history_view"] > 0).any() for batch in batches)


@every_case
def test_unknown_user_rate_is_the_share_of_rows_under_an_unknown_id(case):
    def rows(rate):
        batches = [b for epoch in range(30) for b in make(case, unknown_user_rate=rate).batches(epoch)]
        ids = np.concatenate([batch["user"]["id"] for batch in batches])
        users = np.concatenate([user_codes(batch) for batch in batches])
        unknown = ids < ID_BUCKETS
        # Whoever is known keeps the id, and the other features are untouched.
        np.testing.assert_array_equal(ids[~unknown], users[~unknown] + ID_BUCKETS)
        return ids[unknown], len(ids)

    assert len(rows(0.0)[0]) == 0
    ids, total = rows(1.0)
    assert len(ids) == total
    assert np.mean(ids) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(total))
    ids, total = rows(0.25)
    assert len(ids) / total == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / total))


@pytest.mark.parametrize("case", ["full", "sampled", "full, timed histories"])
def test_batches_say_how_many_ids_of_items_are_hidden_and_which(case):
    epochs = [list(make(case, item_id_drop=0.25).batches(epoch)) for epoch in (0, 0, 1)]
    assert_same(epochs[0], epochs[1])
    seeds = [(*batch["item_id_seed"].tolist(),) for batches in epochs[1:] for batch in batches]
    assert len(set(seeds)) == len(seeds)
    for batch in epochs[0]:
        assert (batch["item_id_drop"], batch["item_id_drop"].dtype) == (0.25, np.float32)
        assert (batch["item_id_seed"].dtype, batch["item_id_seed"].shape) == (np.int32, (2,))


def test_without_an_id_no_row_is_unknown():
    log = make_log(True)
    users = UserFeatures({"age": np.linspace(0, 1, USERS, dtype=np.float32)[:, None]}, log)
    batches = list(StageData(log, 1, users, Batching(unknown_user_rate=1.0)).batches(0))
    assert [*batches[0]["user"]] == ["age"]


@pytest.mark.parametrize(("in_batch", "uniform"), [(True, 6), (True, 0), (False, 6), (False, 0)])
@pytest.mark.parametrize("case", ["sampled", "sampled, drawn histories"])
def test_log_q_is_the_log_of_the_expected_count(case, in_batch, uniform):
    kind = ("funnel", *["in_batch"] * in_batch, *["uniform"] * bool(uniform))
    data = make(case, 2, negatives=Negatives(kind=kind, uniform=6))
    batches = list(data.batches(1))
    positives = Counter(item for batch in batches for _, item in pairs_of(batch))
    for batch in batches:
        others = len(batch["item"]) - 1 if in_batch else 0
        for item, log_q in zip([*batch["item"], *batch["negatives"]], batch["log_q"], strict=True):
            expected = others * positives[item] / positives.total() + uniform / ITEMS
            assert log_q == pytest.approx(math.log(expected) if expected else 0.0, abs=1e-6)


def test_log_q_off_is_zero():
    assert all(
        not batch["log_q"].any() for batch in make("sampled", negatives=Negatives(log_q=False)).batches(0)
    )


def test_uniform_negatives_are_uniform():
    drawn = np.concatenate(
        [
            batch["negatives"]
            for n in range(20)
            for batch in make("sampled", negatives=Negatives(uniform=60)).batches(n)
        ]
    )
    counts = np.bincount(drawn, minlength=ITEMS)
    chi_square = np.sum((counts - len(drawn) / ITEMS) ** 2) / (len(drawn) / ITEMS)
    assert chi_square < 26.1  # the 99.9th percentile for 8 degrees of freedom


@pytest.mark.parametrize("closure", [True, False])
@pytest.mark.parametrize("stage", [2, 3])
def test_funnel_negatives_went_upstream_and_no_further(stage, closure):
    log = make_log(True)
    positives = set(first_times(log, stage, closure))
    upstream = {(u, i) for u, i, b in zip(log.user, log.item, log.behavior, strict=True) if b < stage - 1}
    pool = defaultdict(set)
    for user, item in upstream - positives:
        pool[user].add(item)
    drawn = defaultdict(set)
    for epoch in range(20):
        for batch in make("sampled", stage, closure=closure).batches(epoch):
            for user, items in zip(user_codes(batch), batch["funnel_negatives"], strict=True):
                drawn[user] |= set(items.tolist())
    asked = {user for user, _ in positives}
    assert {user: items - {-1} for user, items in drawn.items()} == {user: pool[user] for user in asked}


def reference_noise(pairs):
    """Half of sqrt(mean positives a user) + sqrt(mean positives an item)."""
    users, items = (Counter(codes) for codes in zip(*pairs, strict=True))
    return 0.5 * sum(math.sqrt(counts.total() / len(counts)) for counts in (users, items))


@pytest.mark.parametrize("stage", [1, 3])
@every_case
def test_l2_weights_sum_to_noise_times_the_squared_norms(case, stage):
    """An epoch's sum of rows x loss has `noise * (sum_u |u|^2 + sum_v |v|^2)`."""
    rng = np.random.default_rng(0)
    u2, v2 = rng.random(USERS), rng.random(ITEMS)
    batches = list(make(case, stage).batches(0))
    total = 0.0
    for batch in batches:
        users, rows = user_codes(batch), len(batch["user_l2"])
        total += np.sum(u2[users] * batch["user_l2"])
        if "catalogue_l2" in batch:
            total += rows * np.sum(v2 * batch["catalogue_l2"])
        else:
            total += np.sum(v2[batch["item"]] * batch["item_l2"])
    pairs = [pair for batch in batches for pair in pairs_of(batch)]
    noise = reference_noise(pairs)
    users = sorted({user for batch in batches for user in user_codes(batch)})
    items = sorted({item for _, item in pairs}) if "sampled" in case else np.arange(ITEMS)
    assert total == pytest.approx(noise * (np.sum(u2[users]) + np.sum(v2[items])), rel=1e-5)


@every_case
def test_l2_of_an_item_grows_with_its_popularity(case):
    batches = list(make(case, l2_popularity=0.75).batches(0))
    popularity = Counter(item for batch in batches for _, item in pairs_of(batch))
    weights = np.array([max(popularity[item], 1) ** 0.75 for item in range(ITEMS)])
    found = np.zeros(ITEMS)
    for batch in batches:
        rows = len(batch["user_l2"])
        if "catalogue_l2" in batch:
            found += rows * batch["catalogue_l2"]
        else:
            np.add.at(found, batch["item"], batch["item_l2"])
    noise = reference_noise([pair for batch in batches for pair in pairs_of(batch)])
    seen = np.array([item in popularity for item in range(ITEMS)])
    # Under the sampled softmax an item has L2 where it is a positive.
    expected = np.where(seen | ("sampled" not in case), noise * weights / weights.mean(), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_objective_without_events_is_an_error():
    log = make_log(True)
    message = "Objective 'buy' should have at least one training event. Received: none; check the log"
    with pytest.raises(ValueError, match=message):
        make("full", 3, log=log.take(log.behavior < 2))


def test_a_later_stage_trains_under_fit_on_what_is_yielded_in_order():
    """The graph that `fit` traces sees the same batches as the eager loop."""
    data = make("sampled", 2, unknown_user_rate=0.5)
    seen = []

    class Traced(keras.Model):
        def train_step(self, batch):
            tf.py_function(lambda items: seen.append(items.numpy()), [batch["item"]], [])
            return {"loss": tf.constant(0.0)}

    model = Traced()
    model.compile()
    model.fit(data.dataset(), epochs=2, verbose=0)
    assert_same(seen, [batch["item"] for epoch in (0, 1) for batch in data.batches(epoch)])


def test_batches_are_made_lazily():
    data = make("full", kind=Counted)
    data.asked = []
    iterator = iter(data.dataset())
    assert data.asked == []
    assert len(list(islice(iterator, 1))) == 1
    assert data.asked == [0]
