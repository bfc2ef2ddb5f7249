"""The recall that an export tells, and the floor below which it fails."""

import json

import numpy as np
import pytest

from csmf_tf._keras import tf
from csmf_tf.serving.export import export
from csmf_tf.serving.fusion import query_scale
from csmf_tf.serving.index import INDICES
from csmf_tf.serving.recall import measure_recall, weightings

OWNER, OBJECTIVES = np.array([1] * 5 + [2] * 3), ["view", "buy"]
RNG = np.random.default_rng(0)
ITEMS = RNG.standard_normal((2000, 8)).astype(np.float32)
USERS = RNG.standard_normal((40, 8)).astype(np.float32)


def true_share(index, label, k):
    """Recall by sorting in numpy."""
    queries = USERS * query_scale(OWNER, weightings(OBJECTIVES)[label]).numpy()
    found = index.search(queries)[0].numpy()
    best = np.argsort(-(queries @ ITEMS.T), axis=1)[:, :k]
    return np.mean([len(set(a) & set(b)) / k for a, b in zip(found.tolist(), best.tolist(), strict=True)])


def test_every_weighting_is_measured():
    index = INDICES["portable"](ITEMS, 20, cells=50, candidates=200)
    recalls = measure_recall(index, USERS, OWNER, OBJECTIVES, 20)
    assert list(recalls) == ["equal", "view", "buy", "3 view", "3 buy"]
    assert 0.1 < min(recalls.values()) < 0.99
    for label, recall in recalls.items():
        assert recall == pytest.approx(true_share(index, label, 20), abs=1e-6)


@pytest.mark.parametrize("kind", INDICES)
def test_small_catalogues_are_searched_whole(kind):
    recalls = measure_recall(INDICES[kind](ITEMS, 20), USERS, OWNER, OBJECTIVES, 20)
    assert set(recalls.values()) == {1.0}


def test_fewer_items_than_results_and_users_without_a_vector():
    users = np.concatenate([USERS, np.full((1, 8), np.nan, np.float32)])
    recalls = measure_recall(INDICES["exact"](ITEMS[:3], 20), users, OWNER, OBJECTIVES, 20)
    assert set(recalls.values()) == {1.0}


def write(directory, **options):
    return export(
        lambda features: features["vector"],
        {"vector": tf.TensorSpec([None, 8])},
        [f"i{n}" for n in range(len(ITEMS))],
        ITEMS,
        OWNER,
        OBJECTIVES,
        directory,
        index="portable",
        k=20,
        settings={"cells": 50, "candidates": 200},
        probe={"vector": USERS},
        **options,
    )


def test_an_index_below_the_floor_is_not_exported(tmp_path):
    with pytest.raises(ValueError, match=r"the portable index should be at least 0\.9 .* Received: 0"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_card_tells_the_recall(tmp_path):
    path = write(tmp_path, min_recall=0)
    with open(f"{path}/assets.extra/csmf.json") as file:
        recalls = json.load(file)["recall"]
    assert set(recalls) == set(weightings(OBJECTIVES))
    assert 0.1 < min(recalls.values()) < 0.9
