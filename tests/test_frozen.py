"""Frozen means bit for bit: no optimiser, option or save moves a finished stage's outputs."""

import itertools

import numpy as np
import pytest
from thorough import left_out

from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedDense, MaskedEmbedding, propagate_owners
from csmf_tf.towers.features import Feature
from csmf_tf.towers.pair import TowerPair

STAGES = 3
IDS = np.arange(24)
BATCHES = tf.data.Dataset.from_tensor_slices((IDS, np.random.default_rng(0).normal(size=(24, 6)))).batch(8)


@keras.saving.register_keras_serializable("test_frozen")
class Tower(keras.Model):
    """Embedding, hidden layer, output; trained as the objective that `stage` names."""

    def __init__(self, granularity, regularizer=None, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"granularity": granularity, "regularizer": regularizer}
        self.table = MaskedEmbedding(24, 10, embeddings_regularizer=regularizer, granularity=granularity)
        dense = {
            "kernel_regularizer": regularizer,
            "bias_regularizer": regularizer,
            "granularity": granularity,
        }
        self.hidden = MaskedDense(8, "sigmoid", bias_initializer="ones", **dense)
        self.out = MaskedDense(6, bias_initializer="ones", **dense)

    @property
    def by_unit(self):
        return self.settings["granularity"] == "unit"

    @property
    def masked_layers(self):
        return [self.table, self.hidden, self.out]

    def call(self, ids, stage=None):
        return self.out(self.hidden(self.table(ids, stage=stage), stage=stage), stage=stage)

    def get_config(self):
        return {**super().get_config(), **self.settings}

    def begin(self, stage):
        for layer in self.masked_layers:
            layer.begin(stage)
        self.tell_owners()

    def prune(self):
        for layer in self.masked_layers:
            layer.prune(keep=np.sum(layer.owner == layer.stage) // 2)
        self.tell_owners()

    def freeze(self):
        for layer in self.masked_layers:
            layer.freeze()

    def tell_owners(self):
        propagate_owners(self.masked_layers)


def watch(tower, jit_compile=False):
    """Returns a function of `last` that gives every bit which objectives 1..last can see of a tower.

    That is an objective's own pass and, by unit, what it owns in the passes of later ones and of all.
    """
    passes = [None, *range(1, STAGES + 1)]
    function = tf.function(lambda ids: [tower(ids, stage=k) for k in passes], jit_compile=jit_compile)

    def outputs(last):
        everything, *own = function(IDS)
        later = [everything, tower.predict(IDS, verbose=0)] if tower.by_unit else []
        seen = {}
        for k in range(1, last + 1):
            mine = np.isin(tower.out.owner, range(1, k + 1))
            others = [*own[k:], *later] if tower.by_unit else []
            bits = [own[k - 1].numpy(), *(np.asarray(other)[:, mine] for other in others)]
            assert all(np.any(values) for values in bits)
            seen[k] = b"".join(values.tobytes() for values in bits)
        return seen

    return outputs


OPTIMIZERS = keras.optimizers
# Name: the optimiser, arguments of the tower, arguments of compile.
CASES = {
    "SGD with momentum": (lambda: OPTIMIZERS.SGD(0.1, momentum=0.9, nesterov=True), {}, {}),
    "Adam": (lambda: OPTIMIZERS.Adam(0.05), {}, {}),
    "AdamW with weight decay": (lambda: OPTIMIZERS.AdamW(0.05, weight_decay=0.1), {}, {}),
    "Adagrad": (lambda: OPTIMIZERS.Adagrad(0.1), {}, {}),
    "FTRL": (
        lambda: OPTIMIZERS.Ftrl(0.5, l1_regularization_strength=1e-4, l2_regularization_strength=0.1),
        {},
        {},
    ),
    "EMA": (
        lambda: OPTIMIZERS.Adam(0.05, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
        {},
        {},
    ),
    "clipnorm": (lambda: OPTIMIZERS.SGD(1.0, clipnorm=0.1, momentum=0.9), {}, {}),
    "regularisers": (lambda: OPTIMIZERS.Adam(0.05), {"regularizer": "l1_l2"}, {}),
    "mixed_float16": (
        lambda: keras.mixed_precision.LossScaleOptimizer(OPTIMIZERS.Adam(0.05)),
        {"dtype": "mixed_float16"},
        {},
    ),
    "mixed_bfloat16": (lambda: OPTIMIZERS.Adam(0.05), {"dtype": "mixed_bfloat16"}, {}),
    "jit_compile": (lambda: OPTIMIZERS.Adam(0.05), {}, {"jit_compile": True}),
}


TABLE = [*itertools.product(CASES, ("unit", "weight"))]
# The granularity that tests/test_model_stages.py takes for the same optimizer, in a model.
FURTHER = [
    ("SGD with momentum", "unit"),
    ("AdamW with weight decay", "weight"),
    ("Adagrad", "weight"),
    ("FTRL", "unit"),
    ("EMA", "unit"),
    ("clipnorm", "weight"),
    ("regularisers", "weight"),
    ("mixed_bfloat16", "weight"),
]


def tower_of(granularity, dtype="float32", **arguments):
    keras.utils.set_random_seed(0)
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(dtype)
    tower = Tower(granularity, **arguments)
    keras.mixed_precision.set_global_policy(policy)
    tower(IDS)
    return tower


def train(tower, stage):
    """Fit, prune, recover; the optimiser and its slots stay those of the stages before."""
    before = [layer.merged_weights()[0] for layer in tower.masked_layers]
    tower.fit(BATCHES, epochs=2, verbose=0)
    for layer, old in zip(tower.masked_layers, before, strict=True):
        assert np.any(layer.merged_weights()[0] != old)
    if stage < STAGES:
        tower.prune()
        tower.fit(BATCHES, verbose=0)


@pytest.mark.parametrize(("case", "granularity"), left_out(TABLE, FURTHER))
def test_finished_stages_keep_their_outputs_bit_for_bit(case, granularity):
    optimizer, arguments, options = CASES[case]
    tower = tower_of(granularity, **arguments)
    tower.compile(optimizer(), "mse", **options)
    outputs = watch(tower, **options)
    finished: dict[int, bytes] = {}
    for stage in range(1, STAGES + 1):
        if stage > 1:
            tower.begin(stage)
        train(tower, stage)
        tower.freeze()
        now = outputs(stage)
        assert {k: now[k] for k in finished} == finished
        finished = now
    tower.fit(BATCHES, verbose=0)
    assert outputs(STAGES) == finished
    assert len(set(finished.values())) == STAGES


@pytest.mark.parametrize(
    ("granularity", "ending"),
    left_out([("unit", ".keras"), ("weight", ".keras"), ("unit", "")], [("unit", ".keras")]),
)
def test_finished_stages_keep_their_outputs_through_save_and_reload(granularity, ending, tmp_path):
    tower = tower_of(granularity)
    tower.compile(OPTIMIZERS.Adam(0.05), "mse")
    finished: dict[int, bytes] = {}
    for stage in range(1, STAGES + 1):
        if stage > 1:
            tower.begin(stage)
        train(tower, stage)
        tower.freeze()
        now = watch(tower)(stage)
        assert {k: now[k] for k in finished} == finished
        finished = now
        path = str(tmp_path / f"after_stage_{stage}{ending}")
        tower.save(path)
        tower = keras.models.load_model(path)
        assert watch(tower)(stage) == finished


def test_a_pair_freezes_all_its_layers_or_none():
    keras.utils.set_random_seed(0)
    features = [[Feature(name, "id", ("a", "b"))] for name in ("user", "item")]
    pair = TowerPair(*features, embedding_dim=4, hidden=(3,))
    pair.prune(stage=1, share=0.5)
    last = pair.item.output_layer
    good = last.kernel.numpy()
    last.kernel.assign(np.full_like(good, np.nan))
    before = pair.get_weights()
    with pytest.raises(ValueError, match="Stage 1 has diverged"):
        pair.freeze()
    for one, other in zip(pair.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    last.kernel.assign(good)
    pair.freeze()
    pair.begin(2)
    assert sorted(pair.owner.tolist()) == [1, 1, 2, 2]


@pytest.mark.parametrize("granularity", ["unit", "weight"])
def test_a_pair_that_was_never_pruned_can_begin_a_second_stage(granularity):
    features = [[Feature(name, "id", ("a", "b"))] for name in ("user", "item")]
    pair = TowerPair(*features, embedding_dim=4, hidden=(3,), granularity=granularity)
    pair.freeze()
    pair.begin(2)
    assert pair.owner.tolist() == [1] * 4
