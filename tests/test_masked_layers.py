"""The masked layers compute as their namesakes do, on the weights that the owners say."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from masked_cases import (
    CASES,
    NAMESAKES,
    ONE_EACH,
    assert_identical,
    every_case,
    every_granularity,
    flat,
    make,
    namesake_of,
    scatter_weights,
    staged,
    with_fixed_inputs,
)

from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedDense


@every_case
@every_granularity
def test_a_new_layer_is_its_namesake(case, granularity):
    cls, arguments, inputs = CASES[case]
    layer = make(case, granularity)
    keras.utils.set_random_seed(0)
    plain = NAMESAKES[cls](**arguments)
    expected = plain(inputs)
    assert_identical(layer(inputs), expected)
    assert_identical(layer(inputs, stage=1), expected)
    for one, other in zip(layer.trainable_weights, plain.trainable_weights, strict=True):
        assert_identical(one, other)
    assert [float(loss) for loss in layer.losses] == [float(loss) for loss in plain.losses]
    assert layer.compute_output_shape(inputs.shape) == plain.compute_output_shape(inputs.shape)
    assert layer.supports_masking == plain.supports_masking


@pytest.mark.parametrize("case", ONE_EACH)
@every_granularity
def test_a_new_layer_trains_as_its_namesake(case, granularity):
    cls, arguments, inputs = CASES[case]
    trained = []
    for layer in (cls(**arguments, granularity=granularity), NAMESAKES[cls](**arguments)):
        keras.utils.set_random_seed(0)
        layer = type(layer).from_config(layer.get_config())
        model = keras.Sequential([layer])
        model.compile(keras.optimizers.Adam(0.1), "mse")
        outputs = layer(inputs)
        model.fit(inputs, np.zeros(outputs.shape), epochs=2, verbose=0)
        trained.append(layer)
    for one, other in zip(trained[0].trainable_weights, trained[1].trainable_weights, strict=True):
        assert_identical(one, other)


@every_case
@every_granularity
def test_a_pass_is_that_of_the_namesake_with_merged_weights(case, granularity):
    layer, inputs = staged(case, granularity), CASES[case][2]
    for stage in (None, 1, 2, 3):
        output = layer(inputs, stage=stage)
        assert_identical(output, namesake_of(layer, inputs, stage)(inputs))
        assert any(np.any(values) for values in flat(output))


@st.composite
def ownerships(draw):
    """The owners of a 3 x 4 kernel and of its inputs, and the stage in training."""
    by_unit = draw(st.booleans())
    owner = draw(hnp.arrays(np.uint8, (4,) if by_unit else (3, 4), elements=st.integers(0, 3)))
    inputs = draw(hnp.arrays(np.uint8, 3, elements=st.integers(0, 3))) if by_unit else np.ones(3, np.uint8)
    return by_unit, owner, inputs, draw(st.integers(0, 3))


@settings(max_examples=60)
@given(ownerships(), st.sampled_from([None, 1, 2, 3]))
def test_effective_weights_entry_by_entry(ownership, stage):
    by_unit, owner, inputs, training = ownership
    layer = MaskedDense(4, granularity="unit" if by_unit else "weight")
    layer.build((None, 3))
    rng = np.random.default_rng(2)
    scatter_weights(layer, rng)
    live, frozen = layer.kernel.numpy(), rng.normal(size=(3, 4)).astype(np.float32)
    layer.kernel_frozen.assign(frozen)
    layer.owner.assign(owner)
    layer.stage.assign(training)
    if by_unit:
        layer.input_owner.assign(inputs)
    kernel, active = layer.merged_weights(stage)[0], layer.active(stage or 3)
    trainable, full = layer.trainable_mask(), np.broadcast_to(owner, (3, 4))
    for i, j in itertools.product(range(3), range(4)):
        reads = 1 <= full[i, j] <= (stage or 3) and (not by_unit or 1 <= inputs[i] <= full[i, j])
        value = live if full[i, j] == training else frozen
        assert kernel[i, j] == (value[i, j] if reads else 0)
        assert active[i, j] == reads
        if stage is None:
            assert trainable[i, j] == (reads and full[i, j] == training)
    if by_unit:
        np.testing.assert_allclose(layer.importance(), np.abs(layer.merged_weights()[0]).sum(0), rtol=1e-6)
    else:
        np.testing.assert_array_equal(layer.importance(), np.abs(layer.merged_weights()[0]))


@every_granularity
def test_only_what_the_stage_trains_has_a_gradient(granularity):
    layer = staged("dense", granularity)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.ones([1, 6])))
    kernel, bias = tape.gradient(loss, layer.trainable_weights)
    np.testing.assert_array_equal(kernel != 0, layer.trainable_mask())
    np.testing.assert_array_equal(bias != 0, layer.bias_owner == 3)


@every_granularity
def test_the_gradient_of_a_table_is_sparse(granularity):
    layer = staged("embedding", granularity)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tf.constant([[2, 4]])))
    gradient = tape.gradient(loss, layer.embeddings)
    assert isinstance(gradient, tf.IndexedSlices)
    assert gradient.indices.numpy().tolist() == [2, 4]
    np.testing.assert_array_equal(gradient.values != 0, layer.trainable_mask()[[2, 4]])


def test_a_shared_bias_goes_with_the_earliest_of_its_units():
    layer = with_fixed_inputs(make("einsum with a shared bias", "unit"))
    assert layer.owner.shape == (2, 5)
    layer.release(np.arange(10).reshape(2, 5) >= 4)
    assert layer.bias_owner.numpy().tolist() == [[[1, 1, 1, 1, 0]]] * 3
    layer.freeze()
    layer.begin(2)
    assert layer.owner.numpy().tolist() == [[1, 1, 1, 1, 2], [2] * 5]
    assert layer.bias_owner.numpy().tolist() == [[[1, 1, 1, 1, 2]]] * 3
    assert_identical(layer.bias, np.array([[[0, 0, 0, 0, 1]]] * 3, np.float32))


def test_in_weight_granularity_a_bias_is_freed_with_the_whole_unit():
    layer = make("dense", "weight")
    freed = np.zeros((6, 5), bool)
    freed[:, 0] = freed[1:, 1] = True
    layer.release(freed)
    assert layer.bias_owner.numpy().tolist() == layer.unit_owner.tolist() == [0, 1, 1, 1, 1]
    layer.freeze()
    layer.begin(2)
    assert layer.bias_owner.numpy().tolist() == layer.unit_owner.tolist() == [2, 1, 1, 1, 1]
