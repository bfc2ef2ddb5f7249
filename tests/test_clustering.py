"""Clusters in a run: what items are told by, when they are made anew, and that a broken run goes on so."""

import dataclasses
import itertools

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import csmf_tf.clustering
from csmf_tf import build
from csmf_tf._keras import keras
from csmf_tf.clustering import RunClusters, item_modalities
from csmf_tf.config import from_dict, to_dict
from csmf_tf.data.simulator import simulate
from csmf_tf.data.stages import StageData
from csmf_tf.run import Run

ITEMS = 60
WORDS = ["red", "green", "blue", "round", "square", "large"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log, a table of items in another order than the log's, and a matrix in the order of the table."""
    folder, rng = tmp_path_factory.mktemp("log"), np.random.default_rng(0)
    simulate(80, ITEMS, seed=3, events_per_user=20).write(folder)
    ids = rng.permutation([f"i{n}" for n in range(ITEMS)])
    titles = [" ".join(rng.choice(WORDS, 3)) for _ in ids]
    tags = [[*rng.choice(["x", "y", "z"], 1)] for _ in ids]
    table = {"item_id": pa.array(ids), "title": pa.array(titles), "tags": pa.array(tags)}
    pq.write_table(pa.table(table), folder / "items.parquet")
    vectors = rng.normal(size=(ITEMS, 7)).astype(np.float16)
    # Each row tells whose it is; two have none.
    vectors[:, 0] = [int(item[1:]) for item in ids]
    vectors[[5, 6]] = np.nan
    np.save(folder / "image.npy", vectors)
    return folder


def config_of(folder, modalities=True, **negatives):
    named = {"image": str(folder / "image.npy"), "text": "title", "tags": "tags"}
    return from_dict(
        {
            "log": {
                "path": str(folder / "events.csv.gz"),
                "items": str(folder / "items.parquet"),
                "user": "user_id",
                "item": "item_id",
                "behavior": "behavior",
                "ignore": ["cart"],
            },
            "funnel": ["view", "buy"],
            "split": {"kind": "item_holdout", "fraction": 0.3},
            "validation_users": 0.5,
            "features": {"item": {"tags": "multi"}},
            "modalities": named if modalities else {},
            "model": {"embedding_dim": 8},
            "negatives": {"kind": ["in_batch", "msac", "edis"], "anchors": 3} | negatives,
            "training": {"epochs": 3, "recover_epochs": 2, "batch_size": 64, "patience": 9},
        }
    )


def test_modalities_are_in_the_order_of_the_catalogue(folder, tmp_path):
    config = config_of(folder)
    prepared = build.prepare(config)
    items = prepared.split.train.items
    found = item_modalities(config, prepared)
    assert [*found] == ["image", "text", "tags", "behavior"]
    assert all(len(values) == len(items) and values.dtype == np.float32 for values in found.values())
    here = np.isfinite(found["image"]).all(axis=1)
    assert found["image"][here, 0].tolist() == [float(item[1:]) for item in items[here]]
    assert len(items) - here.sum() <= 2
    table = pq.read_table(folder / "items.parquet").to_pydict()
    titles = dict(zip(table["item_id"], table["title"], strict=True))
    told = [sorted(titles[item].split()) for item in items]
    likeness = found["text"] @ found["text"].T
    alike = np.array([[one == other for other in told] for one in told])
    np.testing.assert_allclose(likeness[alike], 1, atol=1e-5)
    assert likeness[~alike].max() < 1 - 1e-3
    # A column of vectors is what the table says.
    table = pa.table({"item_id": items, "image": found["image"][:, :2].astype(np.float32).tolist()})
    pq.write_table(table, tmp_path / "items.parquet")
    log = dataclasses.replace(config.log, items=tmp_path / "items.parquet")
    features = dataclasses.replace(config.features, item={"image": "vector"})
    columns = dataclasses.replace(config, log=log, features=features, modalities={"looks": "image"})
    np.testing.assert_array_equal(item_modalities(columns, prepared)["looks"], found["image"][:, :2])
    without = item_modalities(config_of(folder, msac={"behavioral": False}), prepared)
    assert "behavior" not in without


def test_clusters_are_made_once_and_anew_for_another_setting(folder, tmp_path, monkeypatch):
    config = config_of(folder)
    prepared = build.prepare(config)
    made = []
    cluster_items = csmf_tf.clustering.cluster_items

    def counted(*args, **kwargs):
        made.append(kwargs)
        return cluster_items(*args, **kwargs)

    monkeypatch.setattr(csmf_tf.clustering, "cluster_items", counted)
    first, again = (RunClusters(config, prepared, tmp_path).initial() for _ in range(2))
    assert len(made) == 1
    np.testing.assert_array_equal(first.level2, again.level2)
    assert np.bincount(first.level1).min() >= 3
    other = RunClusters(config_of(folder, msac={"level1": 2}), prepared, tmp_path).initial()
    assert len(made) == 2
    assert len(np.unique(other.level1)) == 2


def drawing(monkeypatch):
    """Records (objective, clusters) of every epoch that a stage draws."""
    epochs, batches = [], StageData.batches

    def recorded(data, epoch, share=1.0):
        epochs.append((data.objective, epoch, data.clusters))
        return batches(data, epoch, share)

    monkeypatch.setattr(StageData, "batches", recorded)
    return epochs


def test_epochs_draw_from_the_clusters_of_the_model_as_it_was(folder, tmp_path, monkeypatch):
    epochs = drawing(monkeypatch)
    run = Run(tmp_path, config_of(folder, modalities=False, msac={"recluster": 2}))
    vectors, kept = {}, []

    class Remember(keras.callbacks.Callback):
        def __init__(self, *key):
            super().__init__()
            self.key = key

        def on_epoch_begin(self, epoch, logs=None):
            vectors[(*self.key, epoch)] = run.model.item_vectors(), len(epochs)
            kept.append({path.stem for path in (tmp_path / "clusters").iterdir()})

    run.fit(lambda *key: [Remember(*key)], verbose=0)
    initial = run.clusters.initial()
    for names, ((objective, phase, epoch), (_, before)) in zip(kept, vectors.items(), strict=True):
        name, _, drawn_from = epochs[before]
        assert name == objective
        if (objective, phase) == ("view", "fit") and epoch < 2:
            expected = initial
        else:
            since = epoch - epoch % 2
            assert {name for name in names if name.startswith(objective)} == {f"{objective}-{phase}-{since}"}
            own = vectors[objective, phase, since][0]
            own = own / np.linalg.norm(own, axis=1, keepdims=True)
            expected = csmf_tf.clustering.cluster_items({"behavior": own}, min_size=3, seed=0)
        np.testing.assert_array_equal(drawn_from.level2, expected.level2)
    assert {key[:2] for key in vectors} >= {("view", "fit"), ("buy", "fit")}


def test_vectors_that_are_not_aligned_should_be_of_one_width(folder, tmp_path):
    config = config_of(folder, msac={"align": False})
    with pytest.raises(ValueError, match=r"of one width. Received:\s+\{'image': 7, .*; set `align: true`"):
        Run(tmp_path / "run", config).stages()
    np.save(tmp_path / "wide.npy", np.random.default_rng(0).normal(size=(ITEMS, 6)))
    raw = to_dict(config)
    raw["modalities"] = {"file": str(tmp_path / "wide.npy")}
    assert len(Run(tmp_path / "one", from_dict(raw)).stages()["view"].clusters.vectors) == ITEMS
    raw["negatives"]["msac"]["recluster"] = 1
    # The model's vectors have 8 coordinates: said before any epoch.
    with pytest.raises(ValueError, match='"the model\'s": 8'):
        Run(tmp_path / "two", from_dict(raw)).stages()


def test_another_split_has_other_clusters(folder, tmp_path):
    raw = to_dict(config_of(folder, modalities=False))
    found = []
    for seed in (0, 1):
        raw["split"]["seed"] = seed
        found.append(Run(tmp_path, from_dict(raw)).stages()["view"].clusters)
    assert not np.array_equal(found[0].vectors, found[1].vectors)


class Cut(Exception):
    """Stands for a kill."""


def test_a_broken_run_goes_on_as_if_it_had_not_been(folder, tmp_path):
    config = config_of(folder, modalities=False, msac={"recluster": 2})
    whole = Run(tmp_path / "whole", config)
    whole.fit(verbose=0)
    left = iter([3, 1, 4])

    def cutting(objective, phase):
        count, seen = next(left, None), itertools.count(1)

        def begin(batch, logs=None):
            if count is not None and next(seen) > count:
                raise Cut

        return [keras.callbacks.LambdaCallback(on_batch_begin=begin)]

    broken, cuts = tmp_path / "broken", 0
    while True:
        try:
            Run(broken, config).fit(cutting, verbose=0)
            break
        except Cut:
            cuts += 1
    assert cuts >= 3
    for name in ("owner", "funnel"):
        np.testing.assert_array_equal(getattr(Run(broken).restore().model, name), getattr(whole.model, name))
    np.testing.assert_array_equal(Run(broken).restore().model.item_vectors(), whole.model.item_vectors())


def test_a_file_that_changed_is_noticed(folder, tmp_path):
    matrix = tmp_path / "image.npy"
    matrix.write_bytes((folder / "image.npy").read_bytes())
    raw = to_dict(config_of(folder))
    raw["modalities"] = {"image": str(matrix)}
    raw["training"] |= {"epochs": 1, "recover_epochs": 0}
    config = from_dict(raw)
    before = Run(tmp_path / "run", config).stages()["view"].clusters
    # A run that has not trained may be given other files: its clusters are those of the new one.
    np.save(matrix, np.random.default_rng(1).normal(size=(ITEMS, 2)))
    run = Run(tmp_path / "run", config)
    assert not np.array_equal(run.stages()["view"].clusters.level1, before.level1)
    run.fit(verbose=0)
    np.save(matrix, np.ones((ITEMS, 2)))
    with pytest.raises(ValueError, match=r"should not change. Received: other\s+contents in .*image.npy"):
        Run(tmp_path / "run", config)
