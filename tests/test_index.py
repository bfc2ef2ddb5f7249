"""What all indices promise: k columns, -1 and -inf where nothing was found, else the right neighbours."""

import numpy as np
import pytest
from index_cases import RNG, best, clustered, search

from csmf_tf._keras import tf
from csmf_tf.serving.index import INDICES, ExactIndex, PortableIndex, ScannIndex


def tree(vectors, k):
    """ScaNN with partitions and quantised scores, also for few vectors; all partitions are searched."""
    return ScannIndex(vectors, k, leaves=8, leaves_to_search=8)


def cells(vectors, k):
    """The portable index with cells, also for few vectors; all of them are searched."""
    return PortableIndex(vectors, k, cells=8, candidates=len(vectors))


def arranged(vectors, k):
    """The same, as an export has it, on a catalogue that lies by cell already."""
    index = PortableIndex(vectors, k, cells=8, candidates=len(vectors))
    rows = index.arrange()
    search = index.search

    def of_given_rows(queries, k=None):
        indices, scores = search(queries, k)
        return tf.where(indices < 0, -1, tf.gather(rows, tf.maximum(indices, 0))), scores

    index.search = of_given_rows
    return index


KINDS = pytest.mark.parametrize("make", INDICES.values(), ids=INDICES)
EXACT = {
    "exact": ExactIndex,
    "portable": PortableIndex,
    "cells": cells,
    "arranged": arranged,
    "scann": ScannIndex,
}
NUMPY = pytest.mark.parametrize("make", EXACT.values(), ids=EXACT)
ALL = pytest.mark.parametrize("make", [*EXACT.values(), tree], ids=[*EXACT, "tree"])


@NUMPY
@pytest.mark.parametrize("n", [1, 2, 7, 300])
@pytest.mark.parametrize("dim", [1, 6])
@pytest.mark.parametrize("k", [1, 5, 400])
@pytest.mark.parametrize("batch", [0, 1, 9])
def test_small_catalogues_are_exact(make, n, dim, k, batch):
    items, queries = clustered(n, dim, batch)
    indices, scores = search(make(items, k), queries)
    order, truth = best(items, queries, k)
    np.testing.assert_array_equal(indices[:, :n], order)
    np.testing.assert_allclose(scores[:, :n], truth, rtol=1e-5, atol=1e-5)
    assert (indices[:, n:] == -1).all()


@NUMPY
@pytest.mark.parametrize("n", [1, 60])
@pytest.mark.parametrize("asked", [1, 4, 5, 9, 100])
@pytest.mark.parametrize("tensor", [False, True], ids=["int", "tensor"])
def test_number_of_results_of_one_search(make, n, asked, tensor):
    items, queries = clustered(n, 6, 3)
    indices, scores = search(make(items, 5), queries, tf.constant(asked) if tensor else asked)
    order, truth = best(items, queries, asked)
    np.testing.assert_array_equal(indices[:, :n], order)
    np.testing.assert_allclose(scores[:, :n], truth, rtol=1e-5, atol=1e-5)
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


@ALL
def test_search_in_a_graph_has_static_width(make):
    index = make(np.eye(3), 4)
    graph = tf.function(lambda queries: index.search(queries)).get_concrete_function(
        tf.TensorSpec([None, 3], tf.float32)
    )
    assert [tuple(shape) for shape in graph.output_shapes] == [(None, 4), (None, 4)]
    indices, _ = graph(tf.constant([[0.0, 2.0, 1.0]]))
    assert indices.numpy().tolist() == [[1, 2, 0, -1]]


@ALL
def test_one_graph_serves_every_number_of_results(make):
    items, queries = clustered(60, 6, 2)
    index = make(items, 5)
    graph = tf.function(lambda queries, k: index.search(queries, k)).get_concrete_function(
        tf.TensorSpec([None, 6], tf.float32), tf.TensorSpec([], tf.int32)
    )
    for k in (1, 5, 7, 90):
        indices, scores = graph(tf.constant(queries), tf.constant(k))
        assert indices.shape == scores.shape == (2, k)
        assert ((indices.numpy() >= 0).sum(axis=1) == min(k, 60)).all()


@ALL
def test_vectors_are_kept_for_those_who_score_by_row(make):
    items, _ = clustered(60, 6, 3)
    index = make(items, 60)
    kept = index.vectors.numpy()
    np.testing.assert_array_equal(kept[np.lexsort(kept.T)], items[np.lexsort(items.T)])
    assert index.vectors.shape[0] in (None, 60)
    assert all(isinstance(value, int) for value in index.settings.values())


@KINDS
def test_indices_are_rows_of_the_vectors(make):
    items, queries = clustered(60, 6, 3)
    index = make(items, 5)
    np.testing.assert_array_equal(index.vectors.numpy(), items)
    indices, scores = search(index, queries)
    np.testing.assert_allclose(
        scores, np.einsum("bd,bkd->bk", queries, index.vectors.numpy()[indices]), rtol=1e-5
    )


@KINDS
def test_queries_of_another_precision(make):
    index = make(np.eye(3, dtype=np.float64), 2)
    for dtype in (np.float16, np.float64):
        indices, _ = search(index, np.array([[0, 2, 1]], dtype))
        assert indices.tolist() == [[1, 2]]


@KINDS
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


@KINDS
@pytest.mark.parametrize("k", [0, -3, 2.5, True, None])
def test_k_is_checked(make, k):
    with pytest.raises(ValueError, match=f"^`k` should be a positive integer. Received: k={k}"):
        make(np.eye(2), k)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (PortableIndex, "cells"),
        (PortableIndex, "candidates"),
        (ScannIndex, "leaves"),
        (ScannIndex, "leaves_to_search"),
        (ScannIndex, "reorder"),
    ],
)
def test_settings_are_checked(make, name):
    with pytest.raises(ValueError, match=f"^`{name}` should be a positive integer. Received: {name}=0"):
        make(np.eye(2), 1, **{name: 0})
