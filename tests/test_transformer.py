"""Causal transformer blocks: masks, pooling, exact causality, and Keras' own attention as a reference."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csmf_tf._keras import keras, tf
from csmf_tf.towers.transformer import (
    CausalBlock,
    HierarchicalCausalTransformer,
    attention_bias,
    standardized,
    token_mask,
)

DIM = 8


def make(seed=0, **arguments):
    keras.utils.set_random_seed(seed)
    transform = HierarchicalCausalTransformer(**{"dim": DIM, "layers": 1, "heads": 2, **arguments})
    inputs = tf.zeros([1, 2, 2, DIM]), tf.ones([1, 2, 2], tf.bool), tf.ones([1, 2], tf.bool)
    transform(*inputs)
    rng = np.random.default_rng(seed)
    for variable in transform.trainable_variables:
        variable.assign(rng.normal(0, 0.4, variable.shape))
    return transform


made = functools.cache(make)


def draw(rng, batch, length, count):
    """Random tokens, which of them say something and where there are items; some rows have none."""
    present = rng.random((batch, length)) < 0.7
    said = present[:, :, None] & (rng.random((batch, length, count)) < 0.7)
    return rng.normal(size=(batch, length, count, DIM)).astype(np.float32), said, present


@pytest.mark.parametrize("kind", ["block", "causal"])
@pytest.mark.parametrize(("length", "count"), [(1, 1), (3, 1), (4, 3)])
def test_token_mask_by_loops(kind, length, count):
    expected = np.zeros((length * count, length * count), bool)
    for (at, f), (other, g) in itertools.product(itertools.product(range(length), range(count)), repeat=2):
        seen = other < at or (other == at and (kind == "block" or g <= f))
        expected[at * count + f, other * count + g] = seen
    np.testing.assert_array_equal(token_mask(length, count, kind), expected)


def test_unknown_token_mask_is_an_error():
    with pytest.raises(ValueError, match=r"`kind` should be one of .* Received: kind='full'"):
        token_mask(2, 2, "full")


def test_standardized_by_numpy():
    x = np.random.default_rng(0).normal(3, 5, (4, 3, DIM)).astype(np.float32)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(standardized(x), expected, rtol=1e-4, atol=1e-6)


def test_attention_equals_that_of_keras_with_the_same_weights():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(3, 6, DIM)).astype(np.float32)
    said = rng.random((3, 6)) < 0.8
    said[:, 0] = True
    block = CausalBlock(DIM, 2, 16)
    block(x, 0.0)
    for variable in block.trainable_variables:
        variable.assign(rng.normal(0, 0.5, variable.shape))
    # Without its feed-forward part.
    block.outer.kernel.assign(tf.zeros_like(block.outer.kernel))
    block.outer.bias.assign(tf.zeros_like(block.outer.bias))
    attention = keras.layers.MultiHeadAttention(2, DIM // 2)
    attention(x, x)
    parts = [*block.projections, block.attended]
    weights = [value for layer in parts for value in (layer.kernel.numpy(), layer.bias.numpy())]
    shaped = [w.reshape(v.shape) for w, v in zip(weights, attention.weights, strict=True)]
    attention.set_weights(shaped)
    y = standardized(x)
    mask = token_mask(6, 1).numpy() & said[:, None, :]
    expected = x + attention(y, y, attention_mask=mask)
    np.testing.assert_allclose(
        block(x, attention_bias(token_mask(6, 1), said)), expected, rtol=1e-4, atol=1e-5
    )


def block_by_numpy(block, x, seen):
    """A block on one sequence, float64 [T, dim]; `seen` are the places that each place may attend to."""

    def normed(v):
        return (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-6)

    def dense(layer, v):
        return v @ layer.kernel.numpy().astype(np.float64) + layer.bias.numpy()

    heads, width = block.heads, block.dim // block.heads
    query, key, value = (dense(layer, normed(x)).reshape(-1, heads, width) for layer in block.projections)
    attended = np.zeros_like(query)
    for place, head in itertools.product(range(len(x)), range(heads)):
        weights = np.exp(key[seen[place], head] @ query[place, head] / np.sqrt(width))
        attended[place, head] = weights @ value[seen[place], head] / weights.sum()
    x = x + dense(block.attended, attended.reshape(x.shape))
    return x + dense(block.outer, np.maximum(dense(block.inner, normed(x)), 0.0))


@pytest.mark.parametrize("mask", ["block", "causal"])
def test_both_levels_by_numpy(mask):
    transform, length, count = make(mask=mask), 3, 2
    tokens = np.random.default_rng(4).normal(size=(1, length, count, DIM)).astype(np.float32)
    said, present = np.ones((1, length, count), bool), np.ones((1, length), bool)
    said[0, 1, 0] = False
    (token_level,), (item_level,) = transform._levels
    flat = [(at, f) for at in range(length) for f in range(count)]
    seen = [
        [
            n
            for n, (j, g) in enumerate(flat)
            if said[0, j, g] and (j < at or (j == at and (mask == "block" or g <= f)))
        ]
        for at, f in flat
    ]
    x = block_by_numpy(token_level, tokens.reshape(-1, DIM).astype(np.float64), seen)
    x = x.reshape(length, count, DIM)
    pooled = np.stack([x[at][said[0, at]].mean(axis=0) for at in range(length)])
    x = block_by_numpy(item_level, pooled, [[*range(at + 1)] for at in range(length)])
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(transform(tokens, said, present)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("mask", "pooling", "layers"),
    [
        ("block", "mean", (2, 1)),
        ("causal", "last", (1, 1)),
        ("block", "attention", (1, 0)),
        ("block", "mean", (0, 2)),
    ],
)
@settings(max_examples=20)
@given(shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3)), seed=st.integers(0, 99))
def test_nothing_at_or_after_an_item_changes_what_comes_before(mask, pooling, layers, shape, seed):
    transform = made(mask=mask, pooling=pooling, layers=layers)
    rng = np.random.default_rng(seed)
    one, other = draw(rng, *shape), draw(rng, *shape)
    at = int(rng.integers(0, shape[1] + 1))
    changed = [np.concatenate([a[:, :at], b[:, at:]], axis=1) for a, b in zip(one, other, strict=True)]
    before, after = transform(*one).numpy(), transform(*changed).numpy()
    assert before[:, :at].tobytes() == after[:, :at].tobytes()


def test_nothing_at_or_after_an_item_changes_what_comes_before_in_a_graph():
    transform, rng = tf.function(made(layers=(1, 1))), np.random.default_rng(0)
    one, other = draw(rng, 2, 6, 3), draw(rng, 2, 6, 3)
    before = transform(*one).numpy()
    for at in range(6):
        changed = [np.concatenate([a[:, :at], b[:, at:]], axis=1) for a, b in zip(one, other, strict=True)]
        after = transform(*changed).numpy()
        assert before[:, :at].tobytes() == after[:, :at].tobytes()
        assert np.any(before[:, at:] != after[:, at:])


@pytest.mark.parametrize(("count", "same"), [(1, True), (2, False)])
def test_masks_differ_within_an_item_alone(count, same):
    inputs = draw(np.random.default_rng(0), 3, 4, count)
    block, causal = (made(mask=mask)(*inputs).numpy() for mask in ("block", "causal"))
    assert np.array_equal(block, causal) == same


@pytest.mark.parametrize("pooling", ["mean", "last", "attention"])
def test_pads_and_what_they_hold_change_nothing(pooling):
    transform = make(pooling=pooling, layers=(2, 2))
    rng = np.random.default_rng(3)
    tokens, said, _ = draw(rng, 2, 3, 2)
    present = np.ones((2, 3), bool)
    said[..., 0] = True
    alone = transform(tokens, said, present).numpy()
    junk, _, _ = draw(rng, 2, 5, 2)
    wide_present = np.zeros((2, 5), bool)
    wide_present[:, [1, 3, 4]] = True
    wide_said = np.zeros((2, 5, 2), bool)
    wide_said[:, [1, 3, 4]] = said
    junk[:, [1, 3, 4]] = tokens
    padded = transform(junk, wide_said, wide_present).numpy()
    np.testing.assert_allclose(padded[:, [1, 3, 4]], alone, rtol=1e-4, atol=1e-5)
    assert not padded[:, [0, 2]].any()


def test_an_item_that_says_nothing_is_still_an_item():
    """Its tokens are ignored, whatever they hold; its position has a finite vector."""
    transform = make()
    tokens, _, _ = draw(np.random.default_rng(0), 1, 3, 2)
    said = np.array([[[True, True], [False, False], [True, False]]])
    present = np.ones((1, 3), bool)
    first = transform(tokens, said, present).numpy()
    tokens[0, 1], tokens[0, 2, 1] = 7.0, -9.0
    assert transform(tokens, said, present).numpy().tobytes() == first.tobytes()
    assert np.isfinite(first).all()


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [[3.0], [4.0], [0.0]]), ("last", [[5.0], [4.0], [0.0]])]
)
def test_pooling_of_tokens_that_say_something(pooling, expected):
    transform = make(pooling=pooling)
    values = np.array([[[1.0, 9.0, 5.0], [9.0, 4.0, 9.0], [9.0, 9.0, 9.0]]])
    said = np.array([[[True, False, True], [False, True, False], [False, False, False]]])
    tokens = np.repeat(values[..., None], DIM, axis=-1).astype(np.float32)
    np.testing.assert_allclose(transform._pooled(tokens, said, None)[0, :, :1], expected)


def test_attention_pooling_by_numpy():
    transform = make(pooling="attention")
    rng = np.random.default_rng(5)
    tokens, said, _ = draw(rng, 2, 2, 3)
    said[..., 0] = True
    (layer,) = transform._attention
    kernel, bias = layer.kernel.numpy(), layer.bias.numpy()
    for b, at in itertools.product(range(2), range(2)):
        shown = tokens[b, at][said[b, at]]
        normed = (shown - shown.mean(-1, keepdims=True)) / np.sqrt(shown.var(-1, keepdims=True) + 1e-6)
        weights = np.exp(normed @ kernel[:, 0] + bias)
        expected = weights @ shown / weights.sum()
        np.testing.assert_allclose(
            transform._pooled(tokens, said, None)[b, at], expected, rtol=1e-4, atol=1e-5
        )


def test_saved_and_loaded_it_gives_the_same(tmp_path):
    further = {"intermediate_dim": 5, "dropout": 0.3, "layers": [1, 2]}
    transform = make(heads=4, mask="causal", pooling="attention", **further)
    inputs = draw(np.random.default_rng(2), 2, 3, 2)
    symbols = [keras.Input(values.shape[1:], dtype=values.dtype) for values in inputs]
    model = keras.Model(symbols, transform(*symbols))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded([*inputs]), transform(*inputs))
    # Two blocks by weight, in training the same draws from the same seed.
    twice = [transform(*inputs, training=True, seed=tf.constant([1, place])).numpy() for place in (2, 2, 3)]
    assert twice[0].tobytes() == twice[1].tobytes() != twice[2].tobytes()


def test_dropout_is_for_training():
    transform = make(dropout=0.5)
    inputs = draw(np.random.default_rng(0), 2, 4, 2)
    still = transform(*inputs).numpy()
    assert transform(*inputs).numpy().tobytes() == still.tobytes()
    assert np.abs(transform(*inputs, training=True).numpy() - still).max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"heads": 3}, r"`dim` should be a multiple of `heads`. Received: dim=8, heads=3"),
        ({"pooling": "max"}, r"`pooling` should be one of .* Received: pooling='max'"),
        ({"layers": [1, 1, 1]}, r"`layers` should be one number, or two.* Received: \(1, 1, 1\)"),
        ({"layers": -1}, r"`layers` should be >= 0 .* Received: layers=\(-1, -1\), dropout=0.0"),
        ({"dropout": 1.0}, r"`dropout` in \[0, 1\)\. Received: .* dropout=1.0"),
        ({"mask": "none"}, r"`kind` should be one of .* Received: kind='none'"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        HierarchicalCausalTransformer(**{"dim": DIM, **arguments})
