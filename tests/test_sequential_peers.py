"""SASRec and BERT4Rec, the sequential peers of the quality benchmark: what they read, predict and hide."""

import pathlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from csmf_tf._keras import keras, tf
from csmf_tf.data.log import EventLog
from csmf_tf.towers import Feature

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.quality import sequential
from benchmarks.quality.sequential import LENGTH, Batch, Items, Sequences, Transformer

COUNTS = [5, 1, 0, 70, 50, 51]
EVENTS = sum(COUNTS)
FIRST = np.cumsum(COUNTS) - COUNTS


def shuffled_log():
    """Every event has an item of its own; those of a user are numbered in the order of their times."""
    order = np.random.default_rng(0).permutation(EVENTS)
    user = np.repeat(np.arange(len(COUNTS)), COUNTS).astype(np.int32)
    item = np.arange(EVENTS, dtype=np.int32)
    names = [np.array([f"{side}{n}" for n in range(EVENTS)], object) for side in "ui"]
    users = names[0][: len(COUNTS)]
    return EventLog(
        user[order], item[order], np.zeros(EVENTS, np.int8), item[order], users, names[1], ("view",)
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_causal_window_predicts_the_item_after_each_place(seed):
    asked = []
    for batch in Sequences(shuffled_log()).batches(True, np.random.default_rng(seed)):
        inside = np.arange(LENGTH) < batch.lengths[:, np.newaxis]
        assert np.all(batch.tokens[~inside] == EVENTS)
        assert np.all(batch.labels[~inside] == -1)
        assert np.all(batch.labels[inside] == batch.tokens[inside] + 1)
        asked += batch.tokens[inside].tolist()
    # All but the last one of each user, each once.
    assert sorted(asked) == sorted({*range(EVENTS)} - {*(np.cumsum(COUNTS) - 1).tolist()})


@pytest.mark.parametrize("seed", range(5))
def test_a_cloze_hides_what_it_asks_for_and_nothing_else(seed):
    seen = []
    for batch in Sequences(shuffled_log()).batches(False, np.random.default_rng(seed)):
        inside, hidden = np.arange(LENGTH) < batch.lengths[:, np.newaxis], batch.labels >= 0
        assert np.all(batch.tokens[hidden] == EVENTS)
        assert np.all(batch.tokens[inside & ~hidden] < EVENTS)
        assert np.all(hidden.any(axis=1))
        assert not np.any(hidden & ~inside)
        whole = np.where(hidden, batch.labels, batch.tokens)
        for row, length in zip(whole, batch.lengths, strict=True):
            assert np.all(np.diff(row[:length]) == 1)
        seen += whole[inside].tolist()
    assert sorted(seen) == list(range(EVENTS))


def test_the_latest_window_ends_with_the_last_event_or_with_the_mask_after_it():
    users = np.flatnonzero(COUNTS)
    for causal in (True, False):
        tokens, lengths = Sequences(shuffled_log()).latest(users, causal)
        for user, row, length in zip(users, tokens, lengths, strict=True):
            end = FIRST[user] + COUNTS[user]
            shown = list(range(max(FIRST[user], end - LENGTH + (not causal)), end))
            assert row[:length].tolist() == shown + [EVENTS] * (not causal)


@pytest.mark.parametrize("causal", [True, False])
def test_a_place_reads_later_items_in_the_cloze_alone_and_never_beyond_the_window(causal):
    keras.utils.set_random_seed(0)
    model = Transformer(Items(EVENTS + 1, 8, [], {}), 8, causal)
    tokens, lengths = np.random.default_rng(0).integers(0, EVENTS, (2, LENGTH)), np.array([20, 30])
    before = model(tf.constant(tokens), tf.constant(lengths)).numpy()
    beyond, later = tokens.copy(), tokens.copy()
    beyond[0, 20:] += 1
    later[:, 10] = (later[:, 10] + 1) % EVENTS
    after = model(tf.constant(beyond % EVENTS), tf.constant(lengths)).numpy()
    np.testing.assert_allclose(after[0, :20], before[0, :20], atol=1e-5)
    after = model(tf.constant(later), tf.constant(lengths)).numpy()
    moved = np.abs(after - before).max(axis=2) > 1e-4
    assert np.all(moved[:, 10])
    assert np.any(moved[:, :10]) != causal


def log_of(*histories):
    """The log of users with some items each, in their order."""
    user = np.repeat(np.arange(len(histories)), [len(items) for items in histories]).astype(np.int32)
    item = np.concatenate(histories).astype(np.int32)
    users = np.array([f"u{n}" for n in range(len(histories))], object)
    items = np.array([f"i{n}" for n in range(item.max() + 1)], object)
    return EventLog(user, item, np.zeros(len(item), np.int8), np.arange(len(item)), users, items, ("view",))


def test_items_are_scored_by_their_ids_and_the_means_of_their_features():
    keras.utils.set_random_seed(0)
    tags, price = Feature("tags", "multi", ("x", "y", "z"), dim=3), Feature("price", "numeric")
    codes = np.array([[2, 4], [3, 0], [0, 0]], np.int32)
    prices = np.array([[0.5], [-1.0], [2.0]], np.float32)
    items = Items(4, 5, [tags, price], {"tags": codes, "price": prices})
    found = items.outputs(tf.constant([0, 1, 2])).numpy()
    ids, table = items.ids.get_weights()[0], items.tables[0].get_weights()[0]
    kernel, bias = items.scored.get_weights()
    for item, of_tags in enumerate(([2, 4], [3], [])):
        mean = np.mean(table[of_tags], axis=0) if of_tags else np.zeros(3)
        expected = ids[item] + np.append(mean, prices[item]) @ kernel + bias
        np.testing.assert_allclose(found[item], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("full", [True, False])
def test_the_loss_is_the_mean_log_softmax_over_the_candidates(full, monkeypatch):
    monkeypatch.setattr(sequential, "DROPOUT", 0.0)
    keras.utils.set_random_seed(0)
    model, n_items = Transformer(Items(10, 4, [], {}), 4, causal=True), 9
    tokens, labels = np.full((2, LENGTH), n_items), np.full((2, LENGTH), -1)
    tokens[0, :3], labels[0, :3] = [1, 2, 3], [2, 3, 4]
    tokens[1, :1], labels[1, :1] = [7], [0]
    # Of the candidates one is asked for by a place: it must not be its own negative.
    candidates = np.arange(n_items) if full else np.array([5, 3, 8])
    batch = Batch(*(tf.constant(x, tf.int32) for x in (tokens, [3, 1], labels)))
    loss = float(model.loss_of(batch, tf.constant(candidates, tf.int32), full))
    scores = model(batch.tokens, batch.lengths).numpy() @ model.items.ids.get_weights()[0][:n_items].T
    losses = []
    for row, place in zip(*np.nonzero(labels >= 0), strict=True):
        wanted, of_place = labels[row, place], scores[row, place].astype(np.float64)
        among = {*candidates.tolist(), wanted}
        losses.append(np.log(np.sum(np.exp(of_place[[*among]]))) - of_place[wanted])
    assert len(losses) == 4
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)


def test_users_have_the_vector_of_their_latest_window_if_they_are_asked_for():
    keras.utils.set_random_seed(0)
    log = log_of([0, 1, 2], [2, 4], [3])
    model = Transformer(Items(6, 4, [], {}), 4, causal=True)
    users, items = sequential.vectors(model, log, np.array([0, 2]))
    assert not np.any(users[1])
    for user, read in ((0, [0, 1, 2]), (2, [3])):
        tokens = np.full((1, LENGTH), 5)
        tokens[0, : len(read)] = read
        expected = model(tf.constant(tokens), tf.constant([len(read)]))[0, len(read) - 1]
        np.testing.assert_allclose(users[user], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(items, model.items.ids.get_weights()[0][:5])


@pytest.mark.parametrize("causal", [True, False])
def test_training_learns_what_follows_what_and_keeps_the_best_epoch(causal, monkeypatch):
    monkeypatch.setattr(sequential, "LENGTH", 4)
    for name, value in {"EPOCHS": 40, "PATIENCE": 5, "PLACES": 16, "RATE": 1e-2, "DROPOUT": 0.0}.items():
        monkeypatch.setattr(sequential, name, value)
    keras.utils.set_random_seed(0)
    # Users go round a ring of items.
    n_items = 12
    log = log_of(*[(start + np.arange(9)) % n_items for start in range(n_items)] * 4)
    following = (log.item.reshape(-1, 9)[:, -1] + 1) % n_items
    judged = []

    def judge(scores):
        judged.append(scores["view"])
        users, items = scores["view"]
        return float(np.mean(np.argmax(users @ items.T, axis=1) == following))

    asked = SimpleNamespace(user=np.arange(len(log.users)))
    run = SimpleNamespace(prepared=SimpleNamespace(split=SimpleNamespace(validation=asked)))
    task = SimpleNamespace(
        seed=0, validation=SimpleNamespace(known=log), run=run, funnel=("view",), judge=judge
    )
    model = Transformer(Items(n_items + 1, 16, [], {}), 16, causal)
    curve = sequential.train(model, task)
    best = int(np.argmax(curve))
    assert curve[best] > 0.9
    assert best < len(curve) - 1
    users, items = sequential.vectors(model, log, asked.user)
    np.testing.assert_allclose(users, judged[best][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(items, judged[best][1])
