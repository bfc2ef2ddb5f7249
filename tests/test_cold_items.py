"""Items without their ids: which ids are hidden, and that a model so trained ranks new items by features."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pytest

from csmf_tf._keras import tf
from csmf_tf.config import from_dict
from csmf_tf.data.groups import group
from csmf_tf.data.simulator import simulate
from csmf_tf.evaluation.metrics import evaluate
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


def recalls(folder, share):
    """Recall of a trained model on held-out events of its own items, and on items that it has never seen."""
    simulation = simulate(600, 240, seed=1)
    simulation.write(folder)
    rows = pa.csv.read_csv(folder / "events.csv.gz")
    new = [f"i{n}" for n in range(0, 240, 5)]
    is_new = pc.is_in(rows["item_id"], pa.array(new))
    pa.csv.write_csv(rows.filter(pc.invert(is_new)), folder / "known.csv")
    config = {
        "log": {"path": f"{folder}/known.csv", "items": f"{folder}/items.csv.gz", "ignore": ["cart", "buy"]}
        | {"user": "user_id", "item": "item_id", "behavior": "behavior"},
        "funnel": ["view"],
        "split": {"kind": "item_holdout"},
        "features": {"item": {"category": "categorical", "price": "numeric"}},
        "model": {"embedding_dim": 16, "item_id_drop": share},
        "training": {"recover_epochs": 0},
        "evaluate": {"ks": [5]},
    }
    run = Run(folder / "run", from_dict(config))
    run.fit(verbose=0)
    evaluator = run.evaluator()
    users, items, _ = evaluator.vectors(run.model)
    raw = {"category": simulation.category[::5], "price": simulation.price[::5], "item_id": np.array(new)}
    vectors = run.model.item_embedder()({name: tf.constant(values) for name, values in raw.items()})
    seen = rows.filter(pc.and_(is_new, pc.equal(rows["behavior"], "view")))
    place = {user: at for at, user in enumerate(run.prepared.split.train.users)}
    pairs = {
        (place[row["user_id"]], new.index(row["item_id"]))
        for row in seen.to_pylist()
        if row["user_id"] in place
    }
    who, what = np.array(sorted(pairs)).T
    targets = group(who, what.astype(np.int32), len(users))
    known = evaluator.discovery((users, items), "view").summary()["recall@5"]
    return known, evaluate((users, vectors.numpy()), targets, None, ks=[5])["recall@5"], 5 / len(new)


def test_with_ids_hidden_in_training_items_that_it_never_saw_rank_by_their_features(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "hidden").mkdir()
    known, new, chance = recalls(tmp_path / "plain", 0.0)
    known_too, new_too, _ = recalls(tmp_path / "hidden", 0.3)
    assert new_too > 1.3 * new
    assert new_too > 1.5 * chance
    assert known_too > 0.85 * known
