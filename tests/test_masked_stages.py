"""What the steps of a stage do to a masked layer, and which steps are refused."""

import numpy as np
import pytest
from masked_cases import (
    CASES,
    FLOATS,
    ONE_EACH,
    assert_identical,
    every_granularity,
    make,
    scatter_weights,
    staged,
    with_fixed_inputs,
)

from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedDense


@pytest.mark.parametrize("case", CASES)
@every_granularity
def test_freezing_changes_no_output_and_leaves_nothing_to_train(case, granularity):
    layer, inputs = staged(case, granularity), CASES[case][2]
    before = [layer(inputs, stage=stage) for stage in (None, 1, 2, 3)]
    layer.freeze()
    for stage, output in zip((None, 1, 2, 3), before, strict=True):
        assert_identical(layer(inputs, stage=stage), output)
    assert not layer.trainable_mask().any()
    assert not any(np.any(live) for live in layer.trainable_weights)
    assert layer.stage.numpy() == 0


@pytest.mark.parametrize("case", ONE_EACH)
@every_granularity
def test_a_claim_starts_at_zero_by_weight_and_anew_by_unit(case, granularity):
    layer = with_fixed_inputs(make(case, granularity))
    first = layer.trainable_weights[0].numpy()
    freed = layer.prune(keep=layer.owner.numpy().size // 2)
    assert np.sum(~freed) == freed.size // 2
    layer.freeze()
    scatter_weights(layer, np.random.default_rng(2))  # what momentum does when training goes on
    np.testing.assert_array_equal(layer.begin(2), freed)
    np.testing.assert_array_equal(layer.owner, np.where(freed, 2, 1))
    live, mine = layer.trainable_weights[0].numpy(), layer.trainable_mask()
    assert not live[~mine].any()
    if granularity == "weight":
        assert not live.any()
    else:
        assert np.std(live[mine]) == pytest.approx(np.std(first), rel=0.5)
        assert not np.any(live[mine] == first[mine])


@every_granularity
def test_what_is_released_weighs_nothing_any_more(granularity):
    layer = make("dense, all arguments", granularity)
    layer.release(np.full(layer.owner.shape, True))
    assert not any(np.any(live) for live in layer.trainable_weights)
    assert float(layer.losses[-1]) == float(layer.losses[-2]) == 0


def test_part_of_what_is_free_can_be_left_to_a_later_stage():
    layer = with_fixed_inputs(make("dense", "unit"))
    layer.prune(keep=2)
    layer.freeze()
    free = np.flatnonzero(layer.owner == 0)
    layer.begin(2, claim=np.arange(5) == free[0])
    assert layer.capacity(3).tolist() == [0.4, 0.4, 0.2, 0]
    layer.freeze()
    layer.begin(3)
    assert layer.capacity(3).tolist() == [0, 0.4, 0.2, 0.4]


def test_new_units_are_reproducible_and_differ_by_stage():
    def new_units(seed, stage, initializer):
        layer = with_fixed_inputs(make("dense", "unit", kernel_initializer=initializer))
        layer.release(np.full(5, True))
        layer.freeze()
        keras.utils.set_random_seed(seed)
        layer.begin(stage)
        return layer.kernel.numpy()

    for initializer, by_seed in (("he_normal", True), (keras.initializers.HeNormal(seed=5), False)):
        assert_identical(new_units(1, 2, initializer), new_units(1, 2, initializer))
        assert np.array_equal(new_units(1, 2, initializer), new_units(2, 2, initializer)) != by_seed
    assert not np.any(new_units(1, 2, initializer) == new_units(1, 3, initializer))


def test_new_units_read_inputs_whose_owner_is_set_after_the_claim():
    layer = make("dense", "unit")
    layer.set_input_owner([1, 1, 1, 1, 1, 0])
    layer.prune(keep=3)
    layer.freeze()
    layer.begin(2)
    layer.set_input_owner([1, 1, 1, 1, 1, 2])
    assert layer.trainable_mask()[5].tolist() == (layer.owner == 2).numpy().tolist()
    assert np.all(layer.merged_weights()[0][5, layer.owner == 2])


@every_granularity
def test_pruning_by_tau_frees_the_least_important_of_the_stage(granularity):
    layer = with_fixed_inputs(make("dense", granularity))
    layer.prune(keep=layer.owner.numpy().size // 2)
    layer.freeze()
    layer.begin(2)
    scatter_weights(layer, np.random.default_rng(2))
    sizes, owned = layer.importance(), layer.owner.numpy() == 2
    freed = layer.prune(tau=0.5)
    assert freed.any()
    assert sizes[freed].sum() <= 0.5 * sizes[owned].sum()
    assert sizes[freed].max() <= sizes[owned & ~freed].min()
    np.testing.assert_array_equal(layer.owner == 0, freed)


def test_no_step_traces_a_function_again():
    layer, inputs = with_fixed_inputs(make("dense", "unit")), tf.constant(FLOATS[:, 0])
    function = tf.function(layer)
    function(inputs)
    layer.prune(keep=3)
    layer.freeze()
    layer.begin(2)
    assert_identical(function(inputs), layer(inputs))
    assert function.experimental_get_tracing_count() == 1


def diverged():
    layer = make("dense", "unit")
    layer.kernel.assign(layer.kernel * np.nan)
    return layer


def frozen(case="dense", granularity="unit"):
    layer = make(case, granularity)
    layer.prune(keep=3)
    layer.freeze()
    return layer


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MaskedDense(3, granularity="row"), "`granularity` should be one of .* granularity='row'"),
        (lambda: MaskedDense(3).begin(2), "has no weights yet: call it on data or `build` it first"),
        (
            lambda: make("dense", "unit").begin(2),
            r"`begin\(2\)` needs .* call `freeze\(\)` .* trains stage 1",
        ),
        (lambda: frozen().begin(1), "`stage` should be later than every stage .* Received: stage=1"),
        (lambda: frozen().begin(2, np.full(5, True)), "`where` should cover free weights only .* 3 weights"),
        (lambda: frozen().prune(tau=0.5), r"`prune` needs a stage in training.* `begin\(stage\)` first"),
        (lambda: frozen().release(np.full(5, False)), "`release` needs a stage in training"),
        (lambda: frozen().freeze(), "`freeze` needs a stage in training"),
        (
            lambda: make("dense", "unit").prune(),
            "exactly one of `tau` and `keep`. Received: tau=None, keep=None",
        ),
        (lambda: make("dense", "unit").prune(0.5, 3), "exactly one of `tau` and `keep`. .* tau=0.5, keep=3"),
        (lambda: make("dense", "unit").prune(tau=1.2), r"`tau` should be in \[0, 1\). Received: tau=1.2"),
        (lambda: make("dense", "unit").prune(keep=6), r"`keep` should be an integer in 0..5.* keep=6"),
        (lambda: diverged().prune(tau=0.5), "`values` should be finite .* lower learning rate"),
        (
            lambda: diverged().freeze(),
            "`kernel` should be finite. Received: 30 values .* Stage 1 has diverged",
        ),
        (
            lambda: frozen().set_input_owner([1, 1, 1, 0, 1, 1]),
            r"inputs of finished stages .*owner=\[1 1 1 0 1 1\]",
        ),
        (
            lambda: frozen().set_input_owner([255] * 6),
            r"`owner` should hold integers in 0\.\.254: 255 marks",
        ),
        (lambda: frozen().set_input_owner([1, 1]), r"`owner` should have shape \(6,\). .* shape \(2,\)"),
        (lambda: frozen(granularity="weight").set_input_owner([1] * 6), "granularity='unit'`. .*='weight'"),
        (lambda: frozen("embedding").set_input_owner([1] * 9), "needs a kernel .* MaskedEmbedding"),
        (lambda: make("dense", "unit")(FLOATS[0], stage=0), r"`stage` should be an integer in 1\.\.255"),
    ],
)
def test_errors_say_what_was_wrong_and_what_mends_it(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_diverged_stage_leaves_the_layer_as_it_was():
    layer = diverged()
    with pytest.raises(ValueError, match="should be finite"):
        layer.freeze()
    assert layer.stage.numpy() == 1
    assert not np.any(layer.kernel_frozen)
