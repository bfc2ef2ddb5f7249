"""The log in which features of several earlier items decide what comes next."""

import gzip
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csmf_tf.cli import main
from csmf_tf.data import heterogeneous, simulator
from csmf_tf.data.heterogeneous import simulate_heterogeneous
from csmf_tf.data.log import read_log
from csmf_tf.data.simulator import rows_of
from csmf_tf.data.tables import read_table

COLUMNS = {"user": "user_id", "item": "item_id", "behavior": "behavior", "timestamp": "timestamp"}
KINDS = {"category": "categorical", "brand": "categorical", "price": "numeric", "tags": "multi"}


@pytest.fixture(scope="module")
def simulation():
    return simulate_heterogeneous(users=300, items=400, seed=1, length=25)


def histories(simulation):
    """What each user took, oldest first: [U, length] rows of the rules."""
    log = simulation.log
    order = np.lexsort((log.time, log.user))
    return rows_of(log.items)[log.item[order]].reshape(len(log.users), -1)


def reference(rules, history):
    """The probability of every item after a history, by loops over the stated rules."""
    met = [0] * len(rules.category)
    tags = [set(np.flatnonzero(row)) for row in rules.tags]
    if len(history):
        *earlier, last = history
        before = earlier[-1] if earlier else last
        like = next((j for j in earlier[::-1] if rules.category[j] == rules.category[last]), last)
        shares = next((j for j in earlier[::-1] if tags[j] & tags[last]), last)
        for i in range(len(met)):
            wanted = [rules.next_category[rules.category[last], tag] for tag in tags[before]]
            met[i] += rules.category[i] in wanted
            met[i] += rules.brand[i] == rules.next_brand[rules.brand[like]]
            met[i] += rules.level[i] in (rules.level[shares] - 1, rules.level[shares] + 1)
    q = [0 if i in history else rules.popularity[i] for i in range(len(met))]
    ruled = [q[i] * np.exp(rules.strength * met[i]) for i in range(len(met))]
    noise = rules.noise
    return np.array(
        [noise * a / sum(q) + (1 - noise) * b / sum(ruled) for a, b in zip(q, ruled, strict=True)]
    )


@settings(max_examples=40, deadline=None)
@given(
    items=st.integers(1, 30),
    length=st.integers(0, 29),
    values=st.tuples(*[st.integers(1, 5)] * 4),
    noise=st.sampled_from([0, 0.3, 1]),
    seed=st.integers(0, 99),
)
def test_probability_is_that_of_the_stated_rules(items, length, values, noise, seed):
    categories, brands, levels, tags = values
    made = simulate_heterogeneous(
        1, items, seed, 1, categories=categories, brands=brands, levels=levels, tags=tags, noise=noise
    )
    rng = np.random.default_rng(seed)
    some = np.array([rng.permutation(items)[: min(length, items - 1)] for _ in range(3)])
    with np.errstate(divide="ignore"):
        expected = np.log([reference(made.rules, history) for history in some])
    together = made.log_probability(some)
    assert together.shape == (3, items)
    np.testing.assert_allclose(together, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(made.log_probability(some[0]), together[0])
    np.testing.assert_allclose(np.exp(together).sum(axis=1), 1)
    assert np.isneginf(np.take_along_axis(together, some, axis=1)).all()


def test_draws_follow_the_stated_probability():
    """What follows each short history, counted over many users."""
    made = simulate_heterogeneous(
        60_000, 6, length=4, categories=2, brands=2, levels=3, tags=2, noise=0.3, seed=2
    )
    made = type(made)(made.rules._replace(strength=1.0), made.log, made.features)
    items = heterogeneous._draw(made.rules, np.random.default_rng(3).random((60_000, 4))).reshape(-1, 4)
    assert (np.sort(items)[:, 1:] > np.sort(items)[:, :-1]).all()
    tried = 0
    for length in range(4):
        for history in np.unique(items[:, :length], axis=0):
            followed = items[(items[:, :length] == history).all(axis=1), length]
            if len(followed) > 1500:
                tried += 1
                shares = np.bincount(followed, minlength=6) / len(followed)
                error = 5 * np.sqrt(0.25 / len(followed))
                np.testing.assert_allclose(shares, reference(made.rules, history), atol=error)
    assert tried > 20


def test_the_log_is_one_of_such_draws(simulation):
    """Over all events, what was drawn is as likely as the stated probabilities say."""
    taken = histories(simulation)
    surprise, expected, spread = 0.0, 0.0, 0.0
    for step in range(taken.shape[1]):
        log_p = simulation.log_probability(taken[:, :step])
        p, finite = np.exp(log_p), np.where(np.isfinite(log_p), log_p, 0)
        surprise -= np.take_along_axis(log_p, taken[:, step : step + 1], axis=1).sum()
        expected -= (p * finite).sum()
        spread += ((p * finite**2).sum(axis=1) - (p * finite).sum(axis=1) ** 2).sum()
    assert abs(surprise - expected) < 4 * np.sqrt(spread)


def test_items_of_a_user_are_distinct_and_events_in_order(simulation):
    log, taken = simulation.log, histories(simulation)
    assert log.funnel == ("view",)
    assert taken.shape == (300, 25)
    assert all(len(set(row)) == 25 for row in taken.tolist())
    assert (np.diff(log.time) >= 0).all()
    everything = histories(simulate_heterogeneous(20, 7, length=7))
    np.testing.assert_array_equal(np.sort(everything), np.tile(np.arange(7), (20, 1)))


def test_no_two_events_of_a_user_are_at_one_time(monkeypatch):
    monkeypatch.setattr(simulator, "_DAYS", 1)  # so that seconds repeat
    log = simulate_heterogeneous(300, 40).log
    assert len(set(zip(log.user, log.time, strict=True))) == len(log) == 12_000


def test_features_are_those_of_the_rules(simulation):
    rules, features = simulation.rules, simulation.features
    assert features["item_id"].tolist() == [f"i{row}" for row in range(400)]
    assert features["category"].tolist() == [f"c{code}" for code in rules.category]
    assert features["brand"].tolist() == [f"b{code}" for code in rules.brand]
    np.testing.assert_array_equal(np.rint(np.log2(features["price"] / 10)), rules.level)
    has = [[f"t{tag}" in tags for tag in range(12)] for tags in features["tags"]]
    np.testing.assert_array_equal(has, rules.tags)
    assert set(rules.tags.sum(axis=1)) == {1, 2, 3}
    assert [len(set(codes.tolist())) for codes in (rules.category, rules.brand, rules.level)] == [8, 16, 6]
    np.testing.assert_array_equal(np.sort(rules.next_category, axis=0), np.tile(np.arange(8), (12, 1)).T)
    brand, seen = 0, []
    while brand not in seen:
        seen.append(brand)
        brand = rules.next_brand[brand]
    assert len(seen) == 16


def test_what_is_written_is_read_back(simulation, tmp_path):
    folder = tmp_path / "new" / "folder"
    simulation.write(folder)
    log = read_log(folder / "events.csv.gz", **COLUMNS, funnel=["view"])
    for name in ("user", "item", "behavior", "time", "users", "items"):
        written, read = getattr(simulation.log, name), getattr(log, name)
        np.testing.assert_array_equal(written, read)
        assert written.dtype == read.dtype
    items = read_table(folder / "items.csv.gz", "item_id", KINDS)
    assert list(items) == list(simulation.features)
    for name, values in items.items():
        np.testing.assert_array_equal(values, simulation.features[name])
        assert values.dtype == simulation.features[name].dtype
    assert sorted(path.name for path in folder.iterdir()) == ["events.csv.gz", "items.csv.gz"]
    with gzip.open(folder / "events.csv.gz", "rt") as file:
        assert file.readline() == "user_id,item_id,behavior,timestamp\n"
    with gzip.open(folder / "items.csv.gz", "rt") as file:
        assert file.readline() == "item_id,category,brand,price,tags\n"
        assert re.fullmatch(r"i0,c\d,b\d+,\d+\.\d\d,t\d+(\|t\d+)*\n", file.readline())


def test_deterministic_under_seed(tmp_path, monkeypatch):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        simulate_heterogeneous(users=40, items=30, seed=seed, length=9).write(tmp_path / name)
        monkeypatch.setattr(heterogeneous, "_CELLS", 200)  # users in other chunks
    for file in ("events.csv.gz", "items.csv.gz"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b
        assert a != c


def recall(scores, past, target, k=10):
    np.put_along_axis(scores, past, -np.inf, axis=1)
    return np.mean([row in np.argsort(-s)[:k] for row, s in zip(target, scores, strict=True)])


def test_only_several_items_in_order_tell_the_next_one():
    made = simulate_heterogeneous(users=500, items=1000, length=30)
    taken = histories(made)
    past, target = taken[:, :-1], taken[:, -1]
    popular = np.bincount(past.ravel(), minlength=1000) / past.size
    follows = np.zeros((1000, 1000))
    np.add.at(follows, (past[:, :-1], past[:, 1:]), 1)
    shuffled = np.random.default_rng(0).permuted(past[:, :-1], axis=1)
    best = recall(made.log_probability(past), past, target)
    assert best > 0.8
    assert recall(np.tile(popular, (500, 1)), past, target) < 0.15
    assert recall(follows[past[:, -1]] + popular, past, target) < 0.15
    assert recall(made.log_probability(past[:, -1:]), past, target) < 0.3
    out_of_order = np.concatenate([shuffled, past[:, -1:]], axis=1)
    assert recall(made.log_probability(out_of_order), past, target) < 0.3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": 0}, "`users` should be an integer >= 1. Received: users=0."),
        ({"users": 2.5}, "`users` should be an integer >= 1. Received: users=2.5."),
        ({"items": 0}, "`items` should be an integer >= 1. Received: items=0."),
        ({"seed": -1}, "`seed` should be an integer >= 0. Received: seed=-1."),
        ({"length": 0}, "`length` should be an integer >= 1. Received: length=0."),
        ({"length": 6}, "`length` should be in 1..5. Received: length=6."),
        ({"categories": 0}, "`categories` should be an integer >= 1. Received: categories=0."),
        ({"brands": "2"}, "`brands` should be an integer >= 1. Received: brands='2'."),
        ({"levels": 0}, "`levels` should be an integer >= 1. Received: levels=0."),
        ({"tags": 0}, "`tags` should be an integer >= 1. Received: tags=0."),
        ({"noise": 1.5}, "`noise` should be in 0..1. Received: noise=1.5."),
        ({"noise": float("nan")}, "`noise` should be in 0..1. Received: noise=nan."),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        simulate_heterogeneous(**{"users": 5, "items": 5, "length": 3, **arguments})


@pytest.mark.parametrize(
    ("history", "received"),
    [
        ([3, 400], "[3, 400] (int64 [2])"),
        ([[-1, 3]], "[[-1, 3]] (int64 [1, 2])"),
        ([0.5], "[0.5] (float64 [1])"),
        (["i1"], "['i1'] (<U2 [1])"),
        (3, "3 (int64 [])"),
        (np.zeros((1, 1, 1), int), "[[[0]]] (int64 [1, 1, 1])"),
        (np.arange(400), "(int64 [400])"),
    ],
)
def test_bad_history(simulation, history, received):
    expected = r"`history` should hold integers in 0..399, \[n\] or \[B, n\] with n < 400. Received: "
    with pytest.raises(ValueError, match=f"{expected}.*{re.escape(received)}"):
        simulation.log_probability(history)


def test_command_writes_the_same(tmp_path, capsys):
    arguments = ["simulate", "--heterogeneous", "--users", "30", "--items", "50", "--seed", "7", "--out"]
    assert main([*arguments, str(tmp_path / "a")]) == 0
    assert capsys.readouterr().out == (
        f"wrote events.csv.gz (1,200 events) and items.csv.gz to {tmp_path / 'a'}\n"
    )
    simulate_heterogeneous(30, 50, seed=7).write(tmp_path / "b")
    for file in ("events.csv.gz", "items.csv.gz"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_command_tells_what_was_wrong(tmp_path, capsys):
    arguments = ["simulate", "--heterogeneous", "--users", "3", "--out", str(tmp_path / "new"), "--items"]
    assert main([*arguments, "0"]) == 2
    assert "`items` should be an integer >= 1. Received: items=0." in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert main([*arguments, "9"]) == 0
    assert "(27 events)" in capsys.readouterr().out


def test_command_needs_no_tensorflow(tmp_path):
    arguments = ["simulate", "--heterogeneous", "--users", "2", "--items", "40", "--out", str(tmp_path)]
    code = f"import sys; from csmf_tf.cli import main; main({arguments}); print('tensorflow' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.endswith("False\n")
