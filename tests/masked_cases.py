"""Masked layers to test: what each is made of, what it is called on, and one in the middle of its stages."""

import numpy as np
import pytest

from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedDense, MaskedEinsumDense, MaskedEmbedding

GRANULARITIES = ("unit", "weight")
RNG = np.random.default_rng(0)
FLOATS = RNG.normal(size=(4, 3, 6)).astype(np.float32)
IDS = RNG.integers(0, 9, size=(4, 3))
RAGGED_IDS = tf.ragged.constant([[1, 2], [], [8, 1, 0], [4]])
SPARSE_IDS = tf.sparse.from_dense(RAGGED_IDS.to_tensor())
RAGGED_FLOATS = tf.RaggedTensor.from_row_lengths(FLOATS[0], [2, 0, 1])
SPARSE_FLOATS = tf.sparse.from_dense(np.where(FLOATS[0] > 0, FLOATS[0], 0))

NAMESAKES = {
    MaskedDense: keras.layers.Dense,
    MaskedEinsumDense: keras.layers.EinsumDense,
    MaskedEmbedding: keras.layers.Embedding,
}
# Name: the layer, its arguments and inputs. Every argument is somewhere at another value than its default.
CASES = {
    "dense": (MaskedDense, {"units": 5}, FLOATS[:, 0]),
    "dense, all arguments": (
        MaskedDense,
        {
            "units": 5,
            "activation": "tanh",
            "kernel_initializer": "he_normal",
            "bias_initializer": keras.initializers.RandomNormal(seed=3),
            "kernel_regularizer": "l2",
            "bias_regularizer": "l1",
            "activity_regularizer": "l2",
            "kernel_constraint": "max_norm",
            "bias_constraint": "non_neg",
        },
        FLOATS,
    ),
    "dense without bias": (MaskedDense, {"units": 5, "use_bias": False}, FLOATS),
    "dense on ragged": (MaskedDense, {"units": 5, "bias_initializer": "ones"}, RAGGED_FLOATS),
    "dense on sparse": (MaskedDense, {"units": 5, "bias_initializer": "ones"}, SPARSE_FLOATS),
    "einsum": (MaskedEinsumDense, {"equation": "abc,cd->abd", "output_shape": (None, 5)}, FLOATS),
    "einsum, all arguments": (
        MaskedEinsumDense,
        {
            "equation": "abc,cde->abed",
            "output_shape": (None, 2, 5),
            "activation": "tanh",
            "bias_axes": "ed",
            "kernel_initializer": "he_normal",
            "bias_initializer": keras.initializers.RandomNormal(seed=3),
            "kernel_regularizer": "l2",
            "bias_regularizer": "l1",
            "activity_regularizer": "l2",
            "kernel_constraint": "max_norm",
            "bias_constraint": "non_neg",
        },
        FLOATS,
    ),
    "einsum with a shared bias": (
        MaskedEinsumDense,
        {
            "equation": "abc,cde->abde",
            "output_shape": (3, 2, 5),
            "bias_axes": "be",
            "bias_initializer": "ones",
        },
        FLOATS,
    ),
    "einsum, ellipsis left": (
        MaskedEinsumDense,
        {"equation": "...x,xy->...y", "output_shape": 5, "bias_axes": "y", "bias_initializer": "ones"},
        FLOATS,
    ),
    "einsum, ellipsis right": (
        MaskedEinsumDense,
        {"equation": "ab...,bc->ac...", "output_shape": 5, "bias_axes": "c", "bias_initializer": "ones"},
        FLOATS,
    ),
    "embedding": (MaskedEmbedding, {"input_dim": 9, "output_dim": 5}, IDS),
    "embedding, all arguments": (
        MaskedEmbedding,
        {
            "input_dim": 9,
            "output_dim": 5,
            "embeddings_initializer": "he_normal",
            "embeddings_regularizer": "l2",
            "activity_regularizer": "l2",
            "embeddings_constraint": "max_norm",
            "mask_zero": True,
            "input_length": 3,
        },
        IDS.astype(np.float32),
    ),
    "embedding by matmul": (
        MaskedEmbedding,
        {"input_dim": 9, "output_dim": 5, "use_one_hot_matmul": True},
        IDS,
    ),
    "embedding on ragged": (MaskedEmbedding, {"input_dim": 9, "output_dim": 5}, RAGGED_IDS),
    "embedding on sparse": (
        MaskedEmbedding,
        {"input_dim": 9, "output_dim": 5},
        tf.sparse.from_dense([[1, 2, 0], [0, 0, 0], [8, -1, 3]]),  # the namesake takes -1 for 0
    ),
    "embedding, sparse from dense": (MaskedEmbedding, {"input_dim": 9, "output_dim": 5, "sparse": True}, IDS),
    "embedding, sparse from sparse": (
        MaskedEmbedding,
        {"input_dim": 9, "output_dim": 5, "sparse": True},
        SPARSE_IDS,
    ),
}
every_case = pytest.mark.parametrize("case", CASES)
every_granularity = pytest.mark.parametrize("granularity", GRANULARITIES)
# One dense case per layer, for what does not depend on the arguments.
ONE_EACH = ("dense, all arguments", "einsum, all arguments", "embedding")


def flat(output):
    """The numbers of a dense, ragged or sparse output, with where they belong."""
    if isinstance(output, tf.SparseTensor):
        return output.indices.numpy(), output.values.numpy(), output.dense_shape.numpy()
    if isinstance(output, tf.RaggedTensor):
        return output.flat_values.numpy(), *(splits.numpy() for splits in output.nested_row_splits)
    return (np.asarray(output),)


def assert_identical(actual, expected):
    for one, other in zip(flat(actual), flat(expected), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


def make(case, granularity, seed=0, **kwargs):
    """A layer that has been called, so that it has weights."""
    cls, arguments, inputs = CASES[case]
    keras.utils.set_random_seed(seed)
    layer = cls(**arguments, granularity=granularity, **kwargs)
    layer(inputs)
    return layer


def scatter_weights(layer, rng):
    """Gives the live weights random values, as training would."""
    for live in layer.trainable_weights:
        live.assign(rng.normal(size=live.shape))


def with_fixed_inputs(layer):
    """The layer, told that its inputs never change, where it has to be told."""
    if layer.input_owner is not None:
        layer.set_input_owner(np.ones(layer.input_owner.shape, np.uint8))
    return layer


def staged(case, granularity, **kwargs):
    """A layer with two finished stages, a third in training and free weights."""
    layer, rng = with_fixed_inputs(make(case, granularity, **kwargs)), np.random.default_rng(1)
    for stage in (1, 2, 3):
        if stage > 1:
            layer.begin(stage)
        scatter_weights(layer, rng)
        layer.prune(keep=int(np.sum(layer.owner == stage)) // 2)
        if stage < 3:
            layer.freeze()
    if layer.input_owner is not None:
        layer.input_owner.assign(rng.integers(0, 4, size=layer.input_owner.shape))
    return layer


def namesake_of(layer, inputs, stage=None):
    """The plain Keras layer with the merged weights."""
    config = layer.get_config()
    del config["granularity"]
    plain = NAMESAKES[type(layer)](**config)
    plain(inputs)
    plain.set_weights(layer.merged_weights(stage))
    return plain
