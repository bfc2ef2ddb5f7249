"""Item ids in an export: found whatever their hashes, and replaced by those of another catalogue."""

import numpy as np
import pytest
from serving_cases import ITEMS, RNG, USERS, D, N, asked, log_probabilities, scores_of, write

from csmf_tf._keras import tf
from csmf_tf.serving import ids
from csmf_tf.serving.ids import ItemIds, id_state

# Ids


def test_ids_of_equal_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(ids, "_hashes", lambda strings: tf.strings.to_hash_bucket_fast(strings, 5))
    known = ItemIds(ITEMS)
    assert known.find([ITEMS, [""] * N, ["stranger"] * N]).numpy().tolist() == [
        [*range(N)],
        [-1] * N,
        [-1] * N,
    ]
    alone = ItemIds(["one"])
    assert (
        alone.find(tf.constant(["", "one", "zwei", "three", "4", "5", "6"])).numpy().tolist()
        == [-1, 0] + [-1] * 5
    )


def test_strings_of_indices():
    assert ItemIds(["a", "ö"]).strings(tf.constant([[1, -1], [0, 1]])).numpy().tolist() == [
        ["ö".encode(), b""],
        [b"a", "ö".encode()],
    ]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_another_catalogue_can_take_the_place_of_the_first(tmp_path, size):
    served = write(tmp_path)
    vectors = RNG.normal(size=(size, D)).astype(np.float32)
    names = [f"new {i}" for i in range(size)]
    state = {**id_state(names), "vectors": vectors}
    assert state.keys() == served.catalogue.keys()
    for name, value in state.items():
        served.catalogue[name].assign(value)
    everything = asked(served, "score", user=USERS, item_ids=[names])
    np.testing.assert_allclose(
        everything["log_scores"], log_probabilities(USERS, vectors), rtol=1e-5, atol=1e-5
    )
    exclude = [[ITEMS[0], "new 0", ""]]
    answer = asked(served, "retrieve_excluding", user=USERS, weights=[[1, 1, 1]], exclude=exclude)
    best = np.argsort(-scores_of(USERS, vectors).sum(axis=2)[:, 1:], axis=1)[:, :10] + 1
    best = np.pad(best, [(0, 0), (0, 10 - best.shape[1])], constant_values=-1)
    np.testing.assert_array_equal(answer["ids"], np.where(best < 0, "", np.array([*names, ""], object)[best]))
