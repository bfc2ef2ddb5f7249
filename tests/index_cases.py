"""Vectors, and searches checked for what every answer must hold, shared by the tests of the indices."""

import numpy as np

RNG = np.random.default_rng(0)


def clustered(n, dim, queries, *, centres=50, norms=0.0):
    """Item and user vectors in common clusters, as two towers make them; `norms` sets apart their lengths."""
    centre = RNG.normal(size=(centres, dim))
    items = centre[RNG.integers(centres, size=n)] + 0.7 * RNG.normal(size=(n, dim))
    users = centre[RNG.integers(centres, size=queries)] + 0.7 * RNG.normal(size=(queries, dim))
    return (items * np.exp(norms * RNG.normal(size=(n, 1)))).astype(np.float32), users.astype(np.float32)


def search(index, queries, k=None):
    """Searches, and checks what every answer must hold."""
    indices, scores = index.search(queries, k)
    indices, scores = indices.numpy(), scores.numpy()
    assert indices.dtype == np.int32
    assert scores.dtype == np.float32
    assert indices.shape == scores.shape == (len(queries), index.k if k is None else int(k))
    assert not np.isnan(scores).any()
    np.testing.assert_array_equal(indices == -1, scores == -np.inf)
    for row in indices:
        found = row[row >= 0]
        assert len(set(found)) == len(found)
        assert (row[len(found) :] == -1).all()
    assert (scores[:, :-1] >= scores[:, 1:]).all()
    return indices, scores


def best(items, queries, k):
    """Returns the rows of the `k` highest inner products, the first of equal ones first, and these."""
    truth = queries @ items.T
    order = np.argsort(-truth, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(truth, order, axis=1)


def recall(items, queries, found, k):
    """Returns the mean share of the true `k` best rows among those found."""
    truth, _ = best(items, queries, k)
    return np.mean([np.isin(a, b).mean() for a, b in zip(truth, found, strict=True)])
