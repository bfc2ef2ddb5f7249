"""Items without their ids: which ids are hidden, and that a model so trained ranks by features alone."""

import math

import numpy as np
import pytest
import tensorflow as tf

from csmf_tf.config import from_dict
from csmf_tf.data.simulator import simulate
from csmf_tf.run import Run
from csmf_tf.towers.lookup import some_unknown

N, UNKNOWN, SHARE = 20_000, 3, 0.3


def test_a_share_of_ids_is_replaced_by_unknown_ones_evenly():
    ids = tf.range(UNKNOWN, N + UNKNOWN)
    found = some_unknown(ids, UNKNOWN, SHARE, [5, 6])
    assert found.dtype == ids.dtype
    replaced = found.numpy() != ids.numpy()
    assert replaced.mean() == pytest.approx(SHARE, abs=4 * math.sqrt(SHARE * (1 - SHARE) / N))
    counts = np.bincount(found.numpy()[replaced], minlength=UNKNOWN)
    assert counts.size == UNKNOWN
    np.testing.assert_allclose(counts / replaced.sum(), 1 / UNKNOWN, atol=4 / math.sqrt(N * SHARE))
    np.testing.assert_array_equal(found, some_unknown(ids, UNKNOWN, SHARE, [5, 6]))
    assert np.mean((some_unknown(ids, UNKNOWN, SHARE, [5, 7]) != ids).numpy() != replaced) > SHARE / 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("log")
    simulate(300, 150, seed=1).write(folder)
    return folder


def recalls(folder, directory, share, loss):
    """Recall of a trained model by ids and features, and by features alone."""
    columns = {"user": "user_id", "item": "item_id", "behavior": "behavior"}
    files = {"path": f"{folder}/events.csv.gz", "items": f"{folder}/items.csv.gz"}
    config = {
        "log": {**files, **columns, "ignore": ["cart", "buy"]},
        "funnel": ["view"],
        "split": {"kind": "item_holdout"},
        "features": {"item": {"category": "categorical", "price": "numeric"}},
        "model": {"embedding_dim": 16, "item_id_drop": share},
        "training": {"epochs": 10, "recover_epochs": 0},
        "loss": {"kind": loss},
        "evaluate": {"ks": [10]},
    }
    run = Run(directory, from_dict(config))
    run.fit(verbose=0)
    evaluator = run.evaluator()
    known, _ = evaluator.vectors(run.model)[:2]
    raw = run.prepared.items | {"item_id": np.full(150, "nobody has seen it", object)}
    without = run.model.item_embedder()({name: tf.constant(values) for name, values in raw.items()})
    ways = {"ids": run.model.item_vectors(), "features": without.numpy()}
    return {
        way: evaluator.discovery((known, items), "view").summary()["recall@10"] for way, items in ways.items()
    }


@pytest.mark.parametrize("loss", ["full", "sampled"])
def test_with_ids_hidden_in_training_features_alone_rank(folder, tmp_path, loss):
    plain = recalls(folder, tmp_path / "plain", 0.0, loss)
    hidden = recalls(folder, tmp_path / "hidden", 0.3, loss)
    assert hidden["features"] > 1.5 * plain["features"]
    assert hidden["ids"] > 0.9 * plain["ids"]
    assert hidden["ids"] > hidden["features"]
