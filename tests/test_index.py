"""Indices: always k columns, -1 and -inf where nothing was found, and the right neighbours elsewhere."""

import sys

import numpy as np
import pytest

from csmf_tf._keras import tf
from csmf_tf.serving.index import ExactIndex, ScannIndex

RNG = np.random.default_rng(0)
BOTH = pytest.mark.parametrize("make", [ExactIndex, ScannIndex], ids=["exact", "scann"])


def tree(vectors, k):
    """ScaNN with partitions and quantised scores, also for few vectors; all partitions are searched."""
    return ScannIndex(vectors, k, leaves=8, leaves_to_search=8)


ALL = pytest.mark.parametrize("make", [ExactIndex, ScannIndex, tree], ids=["exact", "scann", "tree"])


def clustered(n, dim, queries):
    """Item and user vectors in common clusters, as two towers make them."""
    centres = RNG.normal(size=(50, dim))
    items = centres[RNG.integers(50, size=n)] + 0.7 * RNG.normal(size=(n, dim))
    users = centres[RNG.integers(50, size=queries)] + 0.7 * RNG.normal(size=(queries, dim))
    return items.astype(np.float32), users.astype(np.float32)


def search(index, queries):
    """Searches, and checks what every answer must hold."""
    indices, scores = index.search(queries)
    indices, scores = indices.numpy(), scores.numpy()
    assert indices.dtype == np.int32
    assert scores.dtype == np.float32
    assert indices.shape == scores.shape == (len(queries), index.k)
    assert not np.isnan(scores).any()
    np.testing.assert_array_equal(indices == -1, scores == -np.inf)
    for row in indices:
        found = row[row >= 0]
        assert len(set(found)) == len(found)
        assert (row[len(found) :] == -1).all()
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    return indices, scores


@BOTH
@pytest.mark.parametrize("n", [1, 2, 7, 300])
@pytest.mark.parametrize("k", [1, 5, 400])
@pytest.mark.parametrize("batch", [0, 1, 9])
def test_small_catalogues_are_exact(make, n, k, batch):
    items, queries = clustered(n, 6, batch)
    indices, scores = search(make(items, k), queries)
    truth = queries @ items.T
    order = np.argsort(-truth, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices[:, :n], order)
    np.testing.assert_allclose(scores[:, :n], np.take_along_axis(truth, order, axis=1), rtol=1e-5, atol=1e-5)
    assert (indices[:, n:] == -1).all()


@ALL
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_unusable_query_finds_nothing_and_leaves_the_others_alone(make, bad):
    items, queries = clustered(300, 8, 4)
    index = make(items, 5)
    untouched, _ = search(index, queries)
    queries[1, 3] = bad
    indices, _ = search(index, queries)
    assert (indices[1] == -1).all()
    np.testing.assert_array_equal(indices[[0, 2, 3]], untouched[[0, 2, 3]])
    assert (search(index, queries[1:2])[0] == -1).all()


@ALL
@pytest.mark.parametrize("vector", [[0.0, 0.0, 0.0], [1.0, -2.0, 0.5]])
def test_equal_vectors_come_once_each(make, vector):
    items = np.tile(np.array(vector, np.float32), (60, 1))
    indices, scores = search(make(items, 80), np.array([[1, 1, 2], [0, 0, 0]], np.float32))
    np.testing.assert_array_equal(np.sort(indices[:, :60], axis=1), np.tile(np.arange(60), (2, 1)))
    assert (indices[:, 60:] == -1).all()
    np.testing.assert_allclose(scores[0, :60], items[0] @ [1, 1, 2], rtol=1e-6)


@pytest.mark.parametrize("n", [2, 17, 301])
def test_exact_index_puts_the_first_of_equal_vectors_first(n):
    vectors = np.tile(RNG.normal(size=37), (n, 1))
    indices, _ = search(ExactIndex(vectors, n), RNG.normal(size=(5, 37)))
    np.testing.assert_array_equal(indices, np.tile(np.arange(n), (5, 1)))


@pytest.mark.parametrize(("n", "leaves"), [(1, 4), (3, 4), (15, 2), (16, 16), (17, 16)])
def test_few_vectors_for_the_partitions_asked_for(n, leaves):
    items, queries = clustered(n, 5, 3)
    indices, _ = search(ScannIndex(items, 20, leaves=leaves, leaves_to_search=leaves), queries)
    np.testing.assert_array_equal(np.sort(indices[:, :n], axis=1), np.tile(np.arange(n), (3, 1)))


@pytest.mark.parametrize("dim", [1, 3])
def test_partitions_of_narrow_vectors(dim):
    items, queries = clustered(400, dim, 5)
    indices, _ = search(tree(items, 10), queries)
    assert (indices >= 0).all()


def test_fewer_found_than_asked_for_is_padded():
    items, queries = clustered(400, 8, 20)
    indices, _ = search(ScannIndex(items, 100, leaves=40, leaves_to_search=1), queries)
    found = (indices >= 0).sum(axis=1)
    assert (found < 100).all()
    assert (found > 0).any()


def test_scann_recall_against_exact():
    items, queries = clustered(4000, 32, 200)
    truth, _ = search(ExactIndex(items, 50), queries)
    for index, least in [
        (ScannIndex(items, 50), 1.0),
        (ScannIndex(items, 50, leaves=40, leaves_to_search=10), 0.97),
        (ScannIndex(items, 50, leaves=40, leaves_to_search=40), 0.99),
    ]:
        found, scores = search(index, queries)
        recall = np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)])
        assert recall >= least
        exact_scores = np.einsum("bd,bkd->bk", queries, items[found])
        np.testing.assert_allclose(scores[found >= 0], exact_scores[found >= 0], rtol=1e-4, atol=1e-4)


def test_defaults_partition_a_large_catalogue():
    items, queries = clustered(20_000, 16, 100)
    truth, _ = search(ExactIndex(items, 20), queries)
    found, _ = search(ScannIndex(items, 20), queries)
    recall = np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)])
    assert recall >= 0.95


@BOTH
def test_search_in_a_graph_has_static_width(make):
    index = make(np.eye(3), 4)
    graph = tf.function(index.search).get_concrete_function(tf.TensorSpec([None, 3], tf.float32))
    assert [tuple(shape) for shape in graph.output_shapes] == [(None, 4), (None, 4)]
    indices, _ = graph(tf.constant([[0.0, 2.0, 1.0]]))
    assert indices.numpy().tolist() == [[1, 2, 0, -1]]


@BOTH
def test_queries_of_another_precision(make):
    index = make(np.eye(3, dtype=np.float64), 2)
    for dtype in (np.float16, np.float64):
        indices, _ = search(index, np.array([[0, 2, 1]], dtype))
        assert indices.tolist() == [[1, 2]]


@BOTH
@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((0, 3)), r"should be a matrix \[N, D\].*Received: vectors.shape=\(0, 3\)"),
        (np.zeros((3, 0)), r"should be a matrix"),
        (np.zeros(3), r"should be a matrix"),
        (
            np.array([[1.0], [np.nan]]),
            "should be finite.*Received: 1 rows of 2 that are not, the first is row 1",
        ),
        (np.array([[np.inf]]), "should be finite"),
        (np.array([[1e10]]), r"should be finite and below 1e\+09 in magnitude"),
    ],
)
def test_vectors_are_checked(make, vectors, message):
    with pytest.raises(ValueError, match=f"^`vectors` {message}"):
        make(vectors, 2)


@BOTH
@pytest.mark.parametrize("k", [0, -3, 2.5, True, None])
def test_k_is_checked(make, k):
    with pytest.raises(ValueError, match=f"^`k` should be a positive integer. Received: k={k}"):
        make(np.eye(2), k)


@pytest.mark.parametrize("name", ["leaves", "leaves_to_search", "reorder"])
def test_scann_settings_are_checked(name):
    with pytest.raises(ValueError, match=f"^`{name}` should be a positive integer. Received: {name}=0"):
        ScannIndex(np.eye(2), 1, **{name: 0})


def test_without_scann_the_error_names_the_way_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "scann", None)
    with pytest.raises(ImportError, match=r'`pip install scann`.*or choose index="exact"'):
        ScannIndex(np.eye(2), 1)
