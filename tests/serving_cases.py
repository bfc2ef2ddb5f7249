"""Shared by the tests of exports: a catalogue, users, how to ask a signature, and the truth by numpy."""

import numpy as np

from csmf_tf._keras import tf
from csmf_tf.serving import export

RNG = np.random.default_rng(3)
OWNER = np.array([1, 1, 0, 2, 2, 3, 1, 3])
N, D, K = 400, len(OWNER), 3
VECTORS = RNG.normal(size=(N, D)).astype(np.float32)
ITEMS = [f"möbel {i}" for i in range(N)]
CODE = {item: code for code, item in enumerate(ITEMS)}
USERS = RNG.normal(size=(3, D)).astype(np.float32)
DEFAULT = [2.0, 1.0, 0.5]
WEIGHTS = np.array([[1, 1, 1], [0, 1, 0], [0.25, 0, 4]], np.float32)
SIGNATURE = {"user": tf.TensorSpec([None, D], tf.float32)}
ITEM_SIGNATURE = {"user": tf.TensorSpec([None], tf.float32), "tags": tf.TensorSpec([None, None], tf.string)}
# All partitions are searched, so that the approximate indices find everything.
WHOLE = {
    "exact": {},
    "portable": {"cells": 8, "candidates": N},
    "scann": {"leaves": 8, "leaves_to_search": 8, "reorder": N},
}
STARVED = {"portable": {"cells": 40, "candidates": 1}, "scann": {"leaves": 40, "leaves_to_search": 1}}


def embed_item(features):
    tags = tf.reduce_sum(tf.cast(features["tags"] != "", tf.float32), axis=1)
    return tf.stack([features["user"]] * (D - 1) + [tags], axis=1)


def write(directory, index="exact", settings=None, items=ITEMS, vectors=VECTORS, **options):
    arguments = {"k": 10, "weights": DEFAULT, "index": index, "settings": settings, **options}
    path = export(
        lambda features: features["user"],
        SIGNATURE,
        items,
        vectors,
        OWNER,
        ["view", "cart", "buy"],
        directory,
        embed_item=embed_item,
        item_signature=ITEM_SIGNATURE,
        **arguments,
    )
    return tf.saved_model.load(path)


def asked(model, signature, **inputs):
    """The outputs of a signature as numpy arrays, ids as strings; each of the batch's size."""
    specs = model.signatures[signature].structured_input_signature[1]
    assert specs.keys() == inputs.keys()
    given = {name: tf.constant(value, specs[name].dtype) for name, value in inputs.items()}
    outputs = {name: value.numpy() for name, value in model.signatures[signature](**given).items()}
    assert {len(value) for value in outputs.values()} == {max(map(len, inputs.values()))}
    if "ids" in outputs:
        outputs["ids"] = np.vectorize(bytes.decode, otypes=[object])(outputs["ids"])
        np.testing.assert_array_equal(outputs["ids"] == "", outputs["scores"] == -np.inf)
        assert (outputs["scores"][:, :-1] >= outputs["scores"][:, 1:]).all()
    return outputs


def scores_of(users, vectors=VECTORS):
    """float64 [B, N, K]: s_k(u, i) by its definition."""
    read = [np.isin(OWNER, range(1, k + 1)) for k in (1, 2, 3)]
    users, vectors = np.asarray(users, np.float64), np.asarray(vectors, np.float64)
    return np.stack([users[:, own] @ vectors[:, own].T for own in read], axis=-1)


def log_probabilities(users, vectors=VECTORS):
    scores = scores_of(users, vectors)
    peak = scores.max(axis=1, keepdims=True)
    return scores - peak - np.log(np.exp(scores - peak).sum(axis=1, keepdims=True))


def fused(users, weights):
    return np.einsum("bnk,bk->bn", scores_of(users), np.broadcast_to(weights, (len(users), K)))


def mixed(users, weights):
    weights = np.broadcast_to(weights, (len(users), K))
    return np.einsum("bnk,bk->bn", np.exp(log_probabilities(users)), weights)


def check_ranking(answer, truth, k, hidden=None):
    """The answer is the top k of `truth`, float64 [B, N], without what is hidden, bool [B, N]."""
    atol = 1e-5 * np.abs(truth).max()
    truth = truth if hidden is None else np.where(hidden, -np.inf, truth)
    expected = -np.sort(-truth, axis=1)[:, :k]
    np.testing.assert_allclose(answer["scores"], expected, rtol=1e-4, atol=atol)
    for row, items in enumerate(answer["ids"]):
        found = [CODE[item] for item in items if item]
        assert len(set(found)) == len(found)
        np.testing.assert_allclose(truth[row, found], expected[row, : len(found)], rtol=1e-4, atol=atol)


def mask(*lists):
    """bool [B, N]: which items the lists name."""
    return np.array([np.isin(ITEMS, names) for names in lists])
