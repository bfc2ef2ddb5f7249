import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csmf_tf.data import simulator
from csmf_tf.data.groups import group
from csmf_tf.data.log import read_log
from csmf_tf.data.simulator import load_truth, rows_of, simulate
from csmf_tf.data.splits import split_log
from csmf_tf.data.tables import align, read_table

FUNNEL = ("view", "cart", "buy")
COLUMNS = {"user": "user_id", "item": "item_id", "behavior": "behavior", "timestamp": "timestamp"}


@pytest.fixture(scope="module")
def simulation():
    return simulate(users=1500, items=400, seed=1)


def test_what_is_written_is_read_back(simulation, tmp_path):
    simulation.write(tmp_path / "new" / "folder")
    log = read_log(tmp_path / "new" / "folder" / "events.csv.gz", **COLUMNS, funnel=FUNNEL)
    for name in ("user", "item", "behavior", "time", "users", "items"):
        np.testing.assert_array_equal(getattr(log, name), getattr(simulation.log, name))
    truth = load_truth(tmp_path / "new" / "folder")
    for written, read in zip(simulation.truth, truth, strict=True):
        np.testing.assert_array_equal(written, read)
        assert written.dtype == read.dtype == np.float32
    kinds = {"category": "categorical", "price": "numeric"}
    items = read_table(tmp_path / "new" / "folder" / "items.csv.gz", "item_id", kinds)
    items = align(items, "item_id", np.array([f"i{row}" for row in range(400)], object))
    assert items["category"].tolist() == simulation.category.tolist()
    np.testing.assert_allclose(items["price"], simulation.price, rtol=1e-6)


def test_names_of_columns_and_ids(simulation, tmp_path):
    simulation.write(tmp_path)
    with gzip.open(tmp_path / "events.csv.gz", "rt") as file:
        assert file.readline() == "user_id,item_id,behavior,timestamp\n"
        user, item, behavior, timestamp = file.readline().strip().split(",")
    assert (user[0], item[0], behavior, len(timestamp)) == ("u", "i", "view", 10)
    with gzip.open(tmp_path / "items.csv.gz", "rt") as file:
        assert file.readline() == "item_id,category,price\n"


def test_deterministic_under_seed(tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate(users=40, items=30, seed=seed).write(tmp_path / name)
    for file in ("events.csv.gz", "items.csv.gz", "truth.npz"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b
        assert a != c


@settings(max_examples=20)
@given(users=st.integers(1, 30), items=st.integers(2, 40), names=st.integers(1, 4), seed=st.integers(0, 99))
def test_a_funnel_is_gone_through_step_by_step(users, items, names, seed):
    log = simulate(
        users, items, seed=seed, behaviors=[f"step{n}" for n in range(names)], events_per_user=8
    ).log
    moment = {(u, i, b): t for u, i, b, t in zip(log.user, log.item, log.behavior, log.time, strict=True)}
    assert len(moment) == len(log)
    assert all(moment[u, i, b - 1] < at for (u, i, b), at in moment.items() if b)
    assert (np.diff(log.time) >= 0).all()
    assert len(log.users) == users
    assert group(log.user, log.item, users).counts.max() <= max(1, items // 2)


def test_rates_and_sizes_are_as_asked(simulation):
    views, carts, buys = np.bincount(simulation.log.behavior)
    assert carts / views == pytest.approx(0.25, abs=0.01)
    assert buys / carts == pytest.approx(0.35, abs=0.02)
    assert len(simulation.log) / 1500 == pytest.approx(40, rel=0.05)


def test_log_probability_against_float64(simulation):
    z, q, maps, bias, intercept = (array.astype(np.float64) for array in simulation.truth)
    rows = np.array([7, 0, 1499])
    utility = [
        np.array([[z[u] @ (maps[k] @ q[i]) + bias[k, i] + intercept[k] for i in range(400)] for u in rows])
        for k in range(3)
    ]
    expected = utility[0] - np.log(np.exp(utility[0]).sum(axis=1, keepdims=True))
    for k in range(3):
        if k:
            expected = expected + np.log(1 / (1 + np.exp(-utility[k])))
        np.testing.assert_allclose(simulation.log_probability(k, rows), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.exp(simulation.log_probability(0, rows)).sum(axis=1), 1, rtol=1e-4)


def test_first_views_follow_the_stated_probabilities():
    """The item that many users of one taste view first, counted, against softmax(x_0)."""
    simulation = simulate(users=2, items=6, seed=0, dim=2, events_per_user=2)
    truth = simulation.truth._replace(users=np.repeat(simulation.truth.users[:1], 20_000, axis=0))
    users, items = simulator._draw_views(truth, 1.5, np.random.default_rng(5))
    first = items[np.unique(users, return_index=True)[1]]
    expected = np.exp(truth.log_probability(0, np.array([0])))[0]
    np.testing.assert_allclose(np.bincount(first, minlength=6) / 20_000, expected, atol=0.015)


def test_steps_follow_the_stated_probabilities(simulation):
    """In each tenth of the pairs by stated probability, the share that went on is that probability."""
    log, truth = simulation.log, simulation.truth
    n_items = len(log.items)
    users, items = rows_of(log.users), rows_of(log.items)
    pair = log.user.astype(np.int64) * n_items + log.item
    for step in (1, 2):
        tried = pair[log.behavior == step - 1]
        went_on = np.isin(tried, pair[log.behavior == step])
        stated = 1 / (1 + np.exp(-truth.utility(step, users)[tried // n_items, items[tried % n_items]]))
        groups = np.array_split(np.argsort(stated), 10)
        np.testing.assert_allclose(
            [went_on[g].mean() for g in groups], [stated[g].mean() for g in groups], atol=0.05
        )


def recall(scores, targets, seen, k=50):
    found = []
    for row in np.flatnonzero(targets.counts):
        ranking = np.where(np.isin(np.arange(scores.shape[1]), seen.of(row)), -np.inf, scores[row])
        found.append(np.isin(targets.of(row), np.argsort(-ranking)[:k]).mean())
    return np.mean(found)


def test_scores_of_a_log_are_in_its_order(simulation):
    """The codes of a log count its users and items in the order of their ids as text: u0, u1, u10 ..."""
    log, who = simulation.log, np.array([2, 2, 0])
    found = simulation.truth.scores_of(log, 1)(who)
    for row, user in zip(found, log.users[who], strict=True):
        stated = simulation.log_probability(1, np.array([int(user.removeprefix("u"))]))[0]
        expected = [stated[int(item.removeprefix("i"))] for item in log.items]
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["time", "item_holdout"])
def test_own_truth_ranks_best_and_objectives_differ(simulation, kind):
    split = split_log(simulation.log, kind, validation_users=0)
    train, test = split.train, split.test
    users, items = rows_of(train.users), rows_of(train.items)
    seen = group(train.user, train.item, len(users))
    scores = [simulation.log_probability(k, users)[:, items] for k in range(3)]
    for k in range(3):
        now = test.behavior == k
        targets = group(test.user[now], test.item[now], len(users))
        by = [recall(score, targets, seen) for score in scores]
        popular = np.bincount(train.item[train.behavior == k], minlength=len(items))
        assert by[k] == max(by)
        assert by[k] > by[(k + 1) % 3] + 0.01
        assert by[k] > 1.5 * recall(np.tile(popular, (len(users), 1)), targets, seen)


def test_users_are_drawn_in_bounded_chunks(monkeypatch):
    seen = []
    utility = simulator.Truth.utility
    monkeypatch.setattr(simulator, "_CELLS", 1000)
    monkeypatch.setattr(simulator.Truth, "utility", lambda *a: seen.append(len(a[2])) or utility(*a))
    assert len(simulate(users=95, items=100).log.users) == 95
    assert seen == [10] * 9 + [5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": 0}, "`users` should be an integer >= 1. Received: users=0"),
        ({"users": 2.5}, "`users` should be an integer >= 1. Received: users=2.5"),
        ({"items": 1}, "`items` should be an integer >= 2. Received: items=1"),
        ({"dim": 0}, "`dim` should be an integer >= 1. Received: dim=0"),
        ({"seed": -1}, "`seed` should be an integer >= 0. Received: seed=-1"),
        ({"events_per_user": 0}, "`events_per_user` should be > 0. Received: events_per_user=0"),
        ({"behaviors": []}, "`funnel` should have 1 to 127 behaviours. Received: 0"),
        ({"behaviors": ["a", "a"]}, "`funnel` should name each behaviour once. Received: a, a"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(**{"users": 5, "items": 5, **arguments})


def test_unknown_objective(simulation):
    with pytest.raises(ValueError, match=r"`objective` should be in 0..2. Received: 3"):
        simulation.log_probability(3, np.array([0]))


def test_missing_truth(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Only simulated logs .* have one"):
        load_truth(tmp_path)
