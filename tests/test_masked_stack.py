"""A stack of masked layers learns who owns its inputs; one that never did cannot start a later stage."""

import numpy as np
import pytest
from masked_cases import FLOATS, IDS, assert_identical, make, with_fixed_inputs

from csmf_tf import propagate_owners
from csmf_tf._keras import keras
from csmf_tf.masking import MaskedDense, MaskedEinsumDense, MaskedEmbedding

INPUTS = FLOATS[:, 0]


def stack(hidden_activation="relu"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([MaskedDense(8, hidden_activation), MaskedDense(4)])
    model(INPUTS)
    return model


def finish(model, told):
    """Prunes half of each layer, tells the owners if asked to, and ends the stage in training."""
    for layer in model.layers:
        layer.prune(keep=int(np.sum(layer.owner == layer.stage)) // 2)
    if told:
        propagate_owners(model.layers)
    for layer in model.layers:
        layer.freeze()


def fit(model):
    model.compile(keras.optimizers.Adam(0.1), "mse")
    model.fit(INPUTS, np.ones([len(INPUTS), 4]), epochs=2, verbose=0)


def unchanged(model, path):
    return model


def reloaded(model, path):
    model.save(str(path / "model.keras"))
    return keras.models.load_model(str(path / "model.keras"))


def with_reloaded_weights(model, path):
    model.save_weights(str(path / "model.weights.h5"))
    other = stack(model.layers[0].activation)
    other.load_weights(str(path / "model.weights.h5"))
    return other


every_way = pytest.mark.parametrize("way", [unchanged, reloaded, with_reloaded_weights])


@every_way
def test_a_stack_that_was_never_told_cannot_begin_a_second_stage(way, tmp_path):
    model = stack()
    finish(model, told=False)
    model = way(model, tmp_path)
    before = model(INPUTS)
    for layer in model.layers:
        message = rf"`begin\(2\)` needs to know .* '{layer.name}'.*`propagate_owners\(layers\)`.*np\.ones\("
        with pytest.raises(ValueError, match=message):
            layer.begin(2)
        assert layer.stage.numpy() == 0
        assert 2 not in layer.owner.numpy()
    assert_identical(model(INPUTS), before)


@every_way
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
def test_a_stack_that_was_told_keeps_its_outputs_bit_for_bit(activation, way, tmp_path):
    model = stack(activation)
    fit(model)
    finish(model, told=True)
    mine = model.layers[-1].owner.numpy() == 1
    before = model(INPUTS).numpy()[:, mine]
    assert np.any(before)
    model = way(model, tmp_path)
    for layer in model.layers:
        layer.begin(2)
    propagate_owners(model.layers)
    assert_identical(model(INPUTS).numpy()[:, mine], before)
    fit(model)
    assert_identical(model(INPUTS).numpy()[:, mine], before)
    assert np.any(model(INPUTS).numpy()[:, ~mine])


def test_owners_flow_from_a_table_through_kernels_of_either_granularity():
    layers = [
        MaskedEmbedding(9, 6),
        MaskedDense(5, "relu"),
        MaskedDense(4, granularity="weight"),
        MaskedEinsumDense("abc,cde->abde", output_shape=(None, 3, 2)),
        MaskedEinsumDense("abde,dec->abc", output_shape=(None, 2)),
    ]
    keras.Sequential(layers)(IDS)
    table, dense, by_weight, einsum, out = layers
    table.release(np.arange(6) >= 4)
    dense.release(np.arange(5) == 1)
    by_weight.release(np.broadcast_to(np.arange(4) == 2, (5, 4)))
    einsum.release(np.array([[False, True]] * 3))
    propagate_owners(layers)
    assert dense.input_owner.numpy().tolist() == [1, 1, 1, 1, 0, 0]
    assert by_weight.input_owner is None
    assert einsum.input_owner.numpy().tolist() == [1, 1, 0, 1]
    assert out.input_owner.numpy().tolist() == [[1, 0]] * 3


def test_the_inputs_of_a_stack_never_change_unless_it_is_said():
    layers = stack().layers
    propagate_owners(layers)
    assert layers[0].input_owner.numpy().tolist() == [1] * 6
    propagate_owners(layers, inputs=[1, 0, 1, 0, 1, 1])
    assert layers[0].input_owner.numpy().tolist() == [1, 0, 1, 0, 1, 1]


def test_telling_fixed_inputs_changes_no_output():
    layer = make("dense", "unit")
    before = [layer(INPUTS, stage=stage) for stage in (None, 1, 2)]
    with_fixed_inputs(layer)
    for stage, output in zip((None, 1, 2), before, strict=True):
        assert_identical(layer(INPUTS, stage=stage), output)


def test_owners_come_before_freeze():
    model = stack("sigmoid")
    finish(model, told=False)
    with pytest.raises(ValueError, match=r"Set the owners of the inputs before `freeze\(\)`"):
        propagate_owners(model.layers)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: [*stack().layers, keras.layers.Dropout(0.5)], "masked layers only; leave out .*Dropout"),
        (lambda: [MaskedDense(3)], "has no weights yet"),
        (lambda: stack().layers[::-1], r"`owner` should have shape \(6,\). Received: shape \(4,\)"),
    ],
)
def test_stacks_that_are_none_are_errors(layers, message):
    with pytest.raises(ValueError, match=message):
        propagate_owners(layers())
