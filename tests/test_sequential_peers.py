"""SASRec and BERT4Rec, the sequential peers of the quality benchmark: what they read, predict and hide."""

import pathlib
import sys

import numpy as np
import pytest

from csmf_tf._keras import keras, tf
from csmf_tf.data.log import EventLog

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.quality.sequential import LENGTH, Items, Sequences, Transformer

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
