"""The portable index: cells, recall under fusion weights, items that come later, a life without csmf_tf."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_cases import RNG, clustered, recall, search

from csmf_tf._keras import tf
from csmf_tf.serving import cells
from csmf_tf.serving.index import PortableIndex


@given(st.lists(st.integers(0, 6), max_size=40))
def test_packed_rows_lie_by_cell(of_rows):
    order, offsets = cells.pack(np.array(of_rows, np.int32), 7)
    assert len(offsets) == 8
    assert offsets[0] == 0
    assert offsets[-1] == len(of_rows)
    for cell in range(7):
        rows = order[offsets[cell] : offsets[cell + 1]].tolist()
        assert rows == [row for row, of_row in enumerate(of_rows) if of_row == cell]


@pytest.mark.parametrize("chunk", [1, 50, 2**24])
def test_vectors_are_assigned_to_the_nearest_centroid(monkeypatch, chunk):
    monkeypatch.setattr(cells, "_CHUNK", chunk)
    vectors, centroids = RNG.normal(size=(97, 5)), RNG.normal(size=(11, 5))
    distances = np.linalg.norm(vectors[:, None] - centroids, axis=2)
    of_rows = cells.assign(vectors, centroids)
    np.testing.assert_array_equal(of_rows, np.argmin(distances, axis=1))
    assert of_rows.dtype == np.int32
    assert cells.assign(vectors[:0], centroids).shape == (0,)
    squares = distances[np.arange(97), of_rows] ** 2
    expected = [np.sqrt(np.mean(squares[of_rows == c])) if (of_rows == c).any() else 0 for c in range(11)]
    np.testing.assert_allclose(cells.spreads(vectors, centroids, of_rows), expected, rtol=1e-5)


def test_training_finds_clusters_that_lie_apart():
    centres = 20 * RNG.normal(size=(6, 8))
    vectors = (centres[np.arange(600) % 6] + 0.1 * RNG.normal(size=(600, 8))).astype(np.float32)
    # More centroids than clusters: some of those sampled lie in the same one.
    of_rows = cells.assign(vectors, cells.train(vectors, 24))
    for cell in np.unique(of_rows):
        assert len(set(np.flatnonzero(of_rows == cell) % 6)) == 1


@pytest.mark.parametrize("kind", ["equal", "two", "spread"])
def test_training_yields_finite_centroids(kind):
    vectors = {
        "equal": np.full((90, 3), 0.1),
        "two": np.repeat([[1e8, 0.0, 0.0], [0.0, -1e8, 3.0]], 45, axis=0),
        "spread": np.exp(4 * RNG.normal(size=(90, 3))),
    }[kind].astype(np.float32)
    centroids = cells.train(vectors, 16)
    assert centroids.shape == (16, 3)
    assert np.isfinite(centroids).all()
    index = PortableIndex(vectors, 3, cells=16, candidates=1)
    assert (search(index, vectors[[0, 50]])[0][:, 0] >= 0).all()


def test_same_vectors_make_the_same_index():
    items, _ = clustered(3000, 16, 1)
    first, second = (PortableIndex(items, 10, cells=50) for _ in range(2))
    for name in ("vectors", "order", "offsets", "centroids", "spreads"):
        np.testing.assert_array_equal(getattr(first, name).numpy(), getattr(second, name).numpy())


def test_default_settings_follow_the_catalogue():
    assert PortableIndex(clustered(49_999, 2, 1)[0], 10).settings == {"cells": 1, "candidates": 3584}
    large = clustered(50_000, 2, 1)[0]
    assert PortableIndex(large, 10).settings == {"cells": 894, "candidates": 3584}
    assert PortableIndex(large, 1000).settings == {"cells": 894, "candidates": 16_000}
    assert PortableIndex(large[:9], 10, cells=40, candidates=50).settings == {"cells": 9, "candidates": 50}


@pytest.mark.parametrize("norms", [0.0, 0.3], ids=["alike", "popular"])
def test_recall_of_the_defaults_under_weighted_queries(norms):
    items, queries = clustered(60_000, 32, 64, centres=200, norms=norms)
    index = PortableIndex(items, 50)
    assert index.settings["candidates"] < 60_000 / 10
    found = tf.function(lambda queries: index.search(queries))
    for scale in ((1, 1), (1, 0), (0, 1), (3, 1), (1, 3)):
        weighted = queries * np.repeat(np.array(scale, np.float32), 16)
        assert recall(items, weighted, found(weighted)[0].numpy(), 50) >= 0.95, scale


def test_wide_cell_whose_best_vector_beats_a_better_centroid_is_searched():
    narrow = np.tile([[10.0, 0.0]], (20, 1))
    wide = np.tile([[5.0, 100.0], [13.0, 100.0]], (10, 1))
    index = PortableIndex(np.concatenate([narrow, wide]), 1, cells=2, candidates=1)
    np.testing.assert_allclose(np.sort(index.centroids.numpy()[:, 0]), [9.0, 10.0])
    assert search(index, np.array([[1.0, 0.0]]))[1].tolist() == [[13.0]]


def test_more_results_are_searched_for_among_more_vectors():
    items, queries = clustered(4000, 16, 20)
    assert (search(PortableIndex(items, 800, cells=100, candidates=100), queries)[0] == -1).any()
    index = PortableIndex(items, 10, cells=100, candidates=100)
    for k in (800, tf.constant(800)):
        found, _ = search(index, queries, k)
        assert recall(items, queries, found, 800) == 1.0


@pytest.mark.parametrize("rearranged", [False, True])
def test_fewer_found_than_asked_for_is_padded(rearranged):
    items, queries = clustered(400, 8, 20)
    index = PortableIndex(items, 100, cells=40, candidates=1)
    if rearranged:
        index.arrange()
    found = (search(index, queries)[0] >= 0).sum(axis=1)
    assert (found < 100).all()
    assert (found > 0).all()


def test_arranged_vectors_lie_by_cell_and_are_found_as_before():
    items, queries = clustered(3000, 16, 20)
    index = PortableIndex(items, 10, cells=60, candidates=450)
    before, scores = search(index, queries)
    order = index.arrange()
    np.testing.assert_array_equal(index.vectors.numpy(), items[order])
    of_rows = cells.assign(index.vectors.numpy(), index.centroids.numpy())
    np.testing.assert_array_equal(of_rows, np.sort(of_rows))
    np.testing.assert_array_equal(index.order.numpy(), np.arange(3000))
    after, same_scores = search(index, queries)
    np.testing.assert_array_equal(order[after], before)
    np.testing.assert_array_equal(same_scores, scores)


@pytest.mark.parametrize("change", ["fewer", "more", "one"])
def test_other_items_are_found_without_new_centroids_or_graph(change):
    items, queries = clustered(3000, 16, 20)
    index = PortableIndex(items, 10, cells=60, candidates=6000)
    graph = tf.function(lambda queries: index.search(queries)).get_concrete_function(
        tf.TensorSpec([None, 16], tf.float32)
    )
    others = {"fewer": items[:50], "more": np.concatenate([items, -items]), "one": items[7:8]}[change]
    order, offsets = cells.pack(cells.assign(others, index.centroids.numpy()), 60)
    for variable, value in ((index.vectors, others), (index.order, order), (index.offsets, offsets)):
        variable.assign(value)
    indices, _ = graph(tf.constant(queries))
    expected = np.argsort(-(queries @ others.T), axis=1)[:, :10]
    np.testing.assert_array_equal(indices.numpy()[:, : len(others)], expected)
    assert (indices.numpy()[:, len(others) :] == -1).all()


def test_saved_model_needs_nothing_but_tensorflow(tmp_path):
    items, queries = clustered(2000, 8, 6)
    queries[4] = np.nan
    np.save(tmp_path / "queries.npy", queries)
    expected = []
    for name, rearranged in (("packed", False), ("rearranged", True)):
        index = PortableIndex(items, 12, cells=30, candidates=200)
        if rearranged:
            index.arrange()
        expected.append(search(index, queries)[0].tolist())
        module = tf.Module()
        module.variables_ = index.variables
        signature = tf.function(
            lambda queries, index=index: dict(zip(("ids", "scores"), index.search(queries), strict=True))
        )
        signature = signature.get_concrete_function(tf.TensorSpec([None, 8], tf.float32, "queries"))
        tf.saved_model.save(module, str(tmp_path / name), signature)
    code = (
        "import json, sys\nsys.modules['scann'] = sys.modules['csmf_tf'] = None\n"
        "import numpy as np, tensorflow as tf\nqueries = tf.constant(np.load('queries.npy'))\n"
        "models = [tf.saved_model.load(name) for name in ('packed', 'rearranged')]\n"
        "answers = [model.signatures['serving_default'](queries=queries)['ids'] for model in models]\n"
        "print(json.dumps([ids.numpy().tolist() for ids in answers]))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == expected


def test_whole_cells_are_scored_until_there_are_enough_vectors():
    # Cells at 1, 2, ..., 8 of one, two, ..., eight vectors; the query meets them from 8 downwards.
    items = np.repeat(np.arange(1.0, 9.0)[:, None], np.arange(1, 9), axis=0)
    for candidates, scored in ((1, 8), (8, 8), (9, 15), (15, 15), (16, 21), (36, 36)):
        index = PortableIndex(items, 36, cells=8, candidates=candidates)
        index.centroids.assign(np.arange(1.0, 9.0)[:, None])
        index.order.assign(np.arange(36))
        index.offsets.assign(np.cumsum(np.arange(9)))
        index.spreads.assign(np.zeros(8))
        found, _ = search(index, np.array([[1.0]]), None)
        assert (found >= 0).sum() == scored


@pytest.mark.parametrize("k", [3, tf.constant(3)])
def test_empty_batch(k):
    items, _ = clustered(300, 8, 1)
    index = PortableIndex(items, 5, cells=9)
    for search_ in (index.search, tf.function(index.search)):
        indices, scores = search_(tf.zeros([0, 8]), k)
        assert indices.shape == scores.shape == (0, 3)
