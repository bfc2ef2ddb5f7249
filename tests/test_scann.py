"""ScaNN's index: recall, what it does where its ops stumble, and life without the package."""

import importlib
import sys

import numpy as np
import pytest
from index_cases import clustered, recall, search

import csmf_tf
from csmf_tf.serving.index import ScannIndex


@pytest.mark.parametrize(("n", "leaves"), [(1, 4), (3, 4), (15, 2), (16, 16), (17, 16)])
def test_few_vectors_for_the_partitions_asked_for(n, leaves):
    items, queries = clustered(n, 5, 3)
    indices, _ = search(ScannIndex(items, 20, leaves=leaves, leaves_to_search=leaves), queries)
    np.testing.assert_array_equal(np.sort(indices[:, :n], axis=1), np.tile(np.arange(n), (3, 1)))


@pytest.mark.parametrize("dim", [1, 3])
def test_partitions_of_narrow_vectors(dim):
    items, queries = clustered(400, dim, 5)
    indices, _ = search(ScannIndex(items, 10, leaves=8, leaves_to_search=8), queries)
    assert (indices >= 0).all()


def test_fewer_found_than_asked_for_is_padded():
    items, queries = clustered(400, 8, 20)
    indices, _ = search(ScannIndex(items, 100, leaves=40, leaves_to_search=1), queries)
    found = (indices >= 0).sum(axis=1)
    assert (found < 100).all()
    assert (found > 0).any()


@pytest.mark.parametrize("settings", [{}, {"leaves": 8, "leaves_to_search": 8}], ids=["whole", "tree"])
@pytest.mark.parametrize("k", [None, 10, 50])
def test_more_results_than_vectors(settings, k):
    items, queries = clustered(40, 8, 3)
    queries[1] = np.nan
    indices, _ = search(ScannIndex(items, 60, **settings), queries, k)
    assert ((indices >= 0).sum(axis=1) == [min(k or 60, 40), 0, min(k or 60, 40)]).all()


def test_recall_against_exact():
    items, queries = clustered(4000, 32, 200)
    for settings, least in [
        ({}, 1.0),
        ({"leaves": 40, "leaves_to_search": 10}, 0.97),
        ({"leaves": 40, "leaves_to_search": 40}, 0.99),
    ]:
        found, scores = search(ScannIndex(items, 50, **settings), queries)
        assert recall(items, queries, found, 50) >= least
        truth = np.einsum("bd,bkd->bk", queries, items[found])
        np.testing.assert_allclose(scores[found >= 0], truth[found >= 0], rtol=1e-4, atol=1e-4)


def test_defaults_partition_a_large_catalogue():
    items, queries = clustered(20_000, 16, 100)
    index = ScannIndex(items, 20)
    assert index.settings == {"leaves": 283, "leaves_to_search": 35, "reorder": 600}
    assert recall(items, queries, search(index, queries)[0], 20) >= 0.95


def test_more_results_are_searched_for_in_more_partitions():
    items, queries = clustered(4000, 16, 50)
    index = ScannIndex(items, 10, leaves=100, leaves_to_search=3, reorder=100)
    few = ScannIndex(items, 800, leaves=100, leaves_to_search=3, reorder=800)
    assert (search(few, queries)[0] == -1).any()
    found, _ = search(index, queries, 800)
    assert (found >= 0).all()
    assert recall(items, queries, found, 800) >= 0.9


def test_without_scann_the_error_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "scann", None)
    with pytest.raises(ImportError, match=r'`pip install scann`.*or choose index="exact"'):
        ScannIndex(np.eye(2), 1)


def test_the_others_do_not_need_scann(monkeypatch):
    # Imported anew here: a process of its own would import TensorFlow too, for seconds.
    monkeypatch.setitem(sys.modules, "scann", None)
    monkeypatch.setattr(csmf_tf, "serving", csmf_tf.serving)
    for name in [name for name in sys.modules if f"{name}.".startswith("csmf_tf.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    indices = importlib.import_module("csmf_tf.serving.index").INDICES
    assert indices["scann"] is not ScannIndex
    assert [indices[kind]([[1.0]], 1).search([[1.0]])[0] for kind in ("exact", "portable")] == [[[0]]] * 2
