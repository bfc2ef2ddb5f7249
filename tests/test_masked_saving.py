"""The masked layers are the same after whatever Keras does to a layer: configs, files, dtypes, XLA."""

import numpy as np
import pytest
from masked_cases import (
    CASES,
    IDS,
    ONE_EACH,
    assert_identical,
    every_case,
    every_granularity,
    make,
    namesake_of,
    staged,
)

from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedDense, MaskedEmbedding, MaskedLayer


@every_case
@every_granularity
def test_config_makes_the_same_layer(case, granularity):
    layer, inputs = staged(case, granularity, name="mine", trainable=False), CASES[case][2]
    config = layer.get_config()
    with keras.utils.custom_object_scope({}):
        serialized = keras.saving.serialize_keras_object(layer)
        other = keras.saving.deserialize_keras_object(serialized)
    assert serialized["registered_name"] == f"csmf_tf>{type(layer).__name__}"
    assert other.get_config() == config
    assert config["granularity"] == granularity
    other(inputs)
    other.set_weights(layer.get_weights())
    assert_identical(other(inputs), layer(inputs))
    assert len(other.losses) == len(layer.losses)


class Pair(keras.Model):
    """A subclassed model with a nested one inside."""

    def __init__(self, inner, outer):
        super().__init__()
        self.inner, self.outer = keras.Sequential([inner]), outer

    def call(self, inputs):
        return [self.inner(inputs), self.outer(inputs, stage=1), self.outer(inputs, stage=2)]


def subclassed(inner, outer, inputs):
    model = Pair(inner, outer)
    model(inputs)
    return model


def functional(inner, outer, inputs):
    symbol = keras.Input(inputs.shape[1:], dtype=inputs.dtype)
    nested = keras.Sequential([inner])
    return keras.Model(symbol, [nested(symbol), outer(symbol, stage=1), outer(symbol, stage=2)])


def model_of(kind, case, granularity, make=staged):
    return kind(make(case, granularity), make(case, granularity), CASES[case][2])


every_variable = pytest.mark.parametrize(
    ("case", "granularity"),
    [
        ("dense, all arguments", "unit"),
        ("dense, all arguments", "weight"),
        ("einsum, all arguments", "unit"),
        ("embedding", "weight"),
    ],
)


@every_variable
@pytest.mark.parametrize(
    ("kind", "ending"), [(functional, ".h5"), (functional, ""), (subclassed, ".weights.h5"), (subclassed, "")]
)
def test_weights_load_into_a_new_model(case, granularity, kind, ending, tmp_path):
    inputs, path = CASES[case][2], str(tmp_path / f"weights{ending}")
    model = model_of(kind, case, granularity)
    model.save_weights(path)
    other = model_of(kind, case, granularity, make)
    other.load_weights(path)
    for one, expected in zip(other(inputs), model(inputs), strict=True):
        assert_identical(one, expected)


@every_variable
@pytest.mark.parametrize(
    ("kind", "ending"), [(functional, ".keras"), (functional, ".h5"), (functional, ""), (subclassed, "")]
)
def test_a_saved_model_gives_the_same_outputs_and_goes_on(case, granularity, kind, ending, tmp_path):
    inputs, path = CASES[case][2], str(tmp_path / f"model{ending}")
    model = model_of(kind, case, granularity)
    expected = model(inputs)
    model.save(path)
    loaded = keras.models.load_model(path)
    for one, other in zip(loaded(inputs), expected, strict=True):
        assert_identical(one, other)
    if kind is functional:
        (again,) = (layer for layer in loaded.layers if isinstance(layer, MaskedLayer))
        (layer,) = (layer for layer in model.layers if isinstance(layer, MaskedLayer))
        np.testing.assert_array_equal(again.trainable_mask(), layer.trainable_mask())
        again.freeze()
        again.begin(4)
        assert again.capacity(4)[4] > 0


@pytest.mark.parametrize(("case", "granularity"), [("dense", "unit"), ("embedding", "weight")])
def test_a_saved_model_runs_without_keras(case, granularity, tmp_path):
    inputs, model = CASES[case][2], model_of(functional, case, granularity)
    model.save(str(tmp_path))
    signature = tf.saved_model.load(str(tmp_path)).signatures["serving_default"]
    (name,) = signature.structured_input_signature[1]
    outputs = signature(**{name: tf.constant(inputs)})
    for name, expected in zip(model.output_names, model(inputs), strict=True):
        np.testing.assert_allclose(outputs[name], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("case", [*ONE_EACH, "embedding by matmul", "embedding on ragged"])
@every_granularity
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64", "bfloat16"])
def test_dtype_policies_are_those_of_the_namesake(case, granularity, policy):
    layer, inputs = staged(case, granularity, dtype=policy), CASES[case][2]
    output = layer(inputs, stage=2)
    assert output.dtype == keras.mixed_precision.Policy(policy).compute_dtype
    assert layer.trainable_weights[0].dtype == keras.mixed_precision.Policy(policy).variable_dtype
    assert_identical(output, namesake_of(layer, inputs, 2)(inputs))


@every_variable
def test_xla_compiles_a_training_step(case, granularity):
    layer, inputs = staged(case, granularity), CASES[case][2]
    model = keras.Sequential([layer])
    model.compile("sgd", "mse", jit_compile=True)
    before, outputs = layer.merged_weights()[0], layer(inputs)
    np.testing.assert_allclose(model.predict(inputs, verbose=0), outputs, rtol=1e-5, atol=1e-6)
    model.fit(inputs, np.zeros(outputs.shape), verbose=0)
    changed = layer.merged_weights()[0] != before
    assert changed.any()
    assert not np.any(changed & ~layer.trainable_mask())


@every_granularity
def test_distribution_strategy(granularity):
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        model = keras.Sequential([MaskedEmbedding(9, 4, granularity=granularity), MaskedDense(3)])
        model.compile("sgd", "mse")
    model.fit(IDS, np.ones([4, 3, 3]), verbose=0)
    before = model.predict(IDS, verbose=0)
    for layer in model.layers:
        layer.freeze()
    model.fit(IDS, np.zeros([4, 3, 3]), verbose=0)
    assert_identical(model.predict(IDS, verbose=0), before)
