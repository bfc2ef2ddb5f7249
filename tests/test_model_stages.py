"""The stages of a model: what each call asks for, what it does, and what no later training may move."""

import re

import numpy as np
import pytest
from thorough import left_out

from csmf_tf._keras import keras, tf
from csmf_tf.model import CSMF
from csmf_tf.towers import Feature

FUNNEL = ("view", "cart", "buy")
USERS = tuple(f"u{n}" for n in range(7))
ITEMS = tuple(f"i{n}" for n in range(11))
RAW_ITEMS = {
    "item_id": np.array(ITEMS, dtype=object),
    "tags": np.array([["x", "y"], ["y", ""], ["", ""], *[["x", ""]] * 8], dtype=object),
}
RAW_USERS = {
    "user_id": np.array([*USERS, "stranger"], dtype=object),
    "country": np.array(["de", "fr", "de", "", "fr", "it", "de", "fr"], dtype=object),
    "age": np.array([31, 17, np.nan, 44, 80, 25, 31, 50], np.float32),
}


def tiny(funnel=FUNNEL, seed=0, **settings):
    """A model of seven users and eleven items with features of several kinds."""
    keras.utils.set_random_seed(seed)
    model = CSMF(
        funnel,
        user_features=[
            Feature("user_id", "id", USERS),
            Feature("country", "categorical", ("de", "fr"), dim=4),
            Feature.numeric("age", RAW_USERS["age"]),
        ],
        item_features=[Feature("item_id", "id", ITEMS), Feature("tags", "multi", ("x", "y"), dim=4)],
        **{"embedding_dim": 8, "hidden": (6,), "l2": 0.1, **settings},
    )
    model.set_catalogue(ITEMS, RAW_ITEMS)
    return model


def batches(model, seed=0, steps=2):
    """Random training batches, of the same shapes for every seed."""
    rng = np.random.default_rng(seed)
    encoded = model.towers.user_encoder.encode(RAW_USERS)

    def batch():
        rows = np.arange(6) if model.loss_kind == "sampled" else np.sort(rng.integers(0, 6, 9))
        who = rng.integers(0, len(RAW_USERS["age"]), 6)
        common = {
            "user": {name: values[who] for name, values in encoded.items()},
            "user_l2": np.ones(6, np.float32),
            "item": rng.integers(0, len(ITEMS), len(rows)).astype(np.int32),
        }
        if model.loss_kind == "full":
            return common | {
                "row": rows.astype(np.int32),
                "catalogue_l2": np.full(len(ITEMS), 0.1, np.float32),
            }
        return common | {
            "item_l2": np.ones(6, np.float32),
            "negatives": rng.integers(0, len(ITEMS), 4).astype(np.int32),
            "log_q": rng.normal(size=10).astype(np.float32),
            "funnel_negatives": rng.integers(-1, len(ITEMS), (6, 2)).astype(np.int32),
        }

    stacked = tf.nest.map_structure(lambda *parts: np.stack(parts), *[batch() for _ in range(steps)])
    return tf.data.Dataset.from_tensor_slices(stacked)


def train(model, optimizer=None, seed=0, **options):
    """Compiles, and trains the stage that has begun through `fit`."""
    model.compile(optimizer or keras.optimizers.Adam(0.05), **options)
    # Built before the first step, so that the step is traced once only.
    model.optimizer.build(model.trainable_variables)
    fit(model, seed)


def fit(model, seed=0):
    before = [live.numpy() for live in model.trainable_variables]
    model.fit(batches(model, seed), verbose=0)
    assert any(np.any(live != old) for live, old in zip(model.trainable_variables, before, strict=True))


def bits(model):
    """Every bit of the vectors of each stage begun, for all users and items, in its pass and the latest."""
    users = model.towers.user_encoder.encode(RAW_USERS)
    items = model.towers.item_encoder.encode(RAW_ITEMS)

    def both(stage=None):
        return model.embed_users(users, stage).numpy(), model.embed_items(items, stage).numpy()

    latest, seen = both(), {}
    for stage in range(1, max(model.stage, model.frozen_stages) + 1):
        segment = np.isin(model.owner, range(1, stage + 1))
        vectors = [*both(stage), *(v[:, segment] for v in latest)]
        assert all(np.any(v) for v in vectors)
        seen[stage] = b"".join(v.tobytes() for v in vectors)
    return seen


def finished(stages=1, share=0.3, **settings):
    """A model whose first stages are finished, on random weights instead of trained ones."""
    model, rng = tiny(**settings), np.random.default_rng(1)
    for objective in model.funnel[:stages]:
        model.begin(objective)
        for live in model.trainable_variables:
            live.assign(rng.normal(size=live.shape, scale=0.3))
        model.prune(share=share)
        model.freeze()
    return model


# Constructor


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"funnel": []}, "`funnel` should be one or more different names. Received: ()"),
        (
            {"funnel": ["view", "view"]},
            "`funnel` should be one or more different names. Received: ('view', 'view')",
        ),
        (
            {"embedding_dim": 2},
            "`embedding_dim` should be at least one coordinate for each objective. "
            "Received: embedding_dim=2 for 3 objectives",
        ),
        ({"loss": "hinge"}, "`loss` should be 'full' or 'sampled'. Received: loss='hinge'"),
        (
            {"temperature": [0.1, 0.2]},
            "`temperature` should be one positive number or one for each objective. "
            "Received: temperature=[0.1, 0.2] for 3 objectives",
        ),
        ({"temperature": 0.0}, "`temperature` should be one positive number or one for each objective."),
        ({"granularity": "row"}, "`granularity` should be 'unit' or 'weight'. Received: granularity='row'"),
    ],
)
def test_constructor_refuses(settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny(**settings)


# Order of the stages


def test_begin_refuses_an_objective_that_is_not_in_the_funnel():
    with pytest.raises(ValueError, match=re.escape(f"one of {FUNNEL}. Received: objective='click'")):
        tiny().begin("click")


def test_begin_refuses_an_objective_out_of_order():
    message = f"order of the funnel {FUNNEL}. Received: objective='buy'; begin 'view' first"
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny().begin("buy")


def test_begin_refuses_a_stage_while_another_is_in_training():
    model = tiny()
    model.begin("view")
    for again in ("view", "cart"):
        message = f"Received: objective='{again}' while 'view' is; call `freeze()` first"
        with pytest.raises(ValueError, match=re.escape(message)):
            model.begin(again)


def test_begin_refuses_a_finished_stage():
    model = finished(1)
    with pytest.raises(ValueError, match="Received: objective='view'; begin 'cart' first"):
        model.begin("view")


def test_begin_refuses_any_stage_when_all_are_finished():
    model = finished(1, funnel=["view"])
    with pytest.raises(ValueError, match="Received: objective='view'; every stage is finished"):
        model.begin("view")


def test_begin_refuses_a_stage_without_a_free_coordinate():
    model = tiny()
    model.begin("view")
    model.freeze()
    message = (
        "Objective 'cart' needs at least one free coordinate of the embedding. Received: none, earlier "
        "stages own all; prune them to smaller shares"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        model.begin("cart")


@pytest.mark.parametrize("call", ["prune", "freeze"])
def test_prune_and_freeze_need_a_stage_in_training(call):
    for model in (tiny(), finished(1)):
        arguments = {"tau": 0.2} if call == "prune" else {}
        message = (
            f"`{call}` should come while a stage is in training. Received: none; call `begin(objective)`"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            getattr(model, call)(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": 1.0}, "`tau` should be in [0, 1). Received: tau=1.0"),
        ({"tau": -0.1}, "`tau` should be in [0, 1). Received: tau=-0.1"),
        ({"share": 0.0}, "`share` should be in (0, 1]. Received: share=0.0"),
        ({"share": 1.2}, "`share` should be in (0, 1]. Received: share=1.2"),
        ({}, "`prune` should get either `tau` or `share`. Received: tau=None, share=None"),
        (
            {"tau": 0.1, "share": 0.5},
            "`prune` should get either `tau` or `share`. Received: tau=0.1, share=0.5",
        ),
    ],
)
def test_prune_refuses(arguments, message):
    model = tiny()
    model.begin("view")
    with pytest.raises(ValueError, match=re.escape(message)):
        model.prune(**arguments)
    assert np.all(model.owner == 1)


def test_fit_refuses_a_model_without_a_catalogue():
    model = CSMF(
        ["view"], [Feature("user_id", "id", USERS)], [Feature("item_id", "id", ITEMS)], embedding_dim=2
    )
    model.begin("view")
    with pytest.raises(ValueError, match="`fit` should come after `set_catalogue"):
        train(model)


@pytest.mark.parametrize("stages", [0, 1])
def test_fit_refuses_a_model_without_a_stage_in_training(stages):
    model = finished(stages)
    model.compile("sgd")
    message = "`fit` should come while a stage is in training. Received: none; call `begin(objective)` first"
    with pytest.raises(ValueError, match=re.escape(message)):
        model.fit(batches(model), verbose=0)


def test_add_objective_refuses_a_known_name():
    message = f"`name` should be a new objective. Received: name='buy', known {FUNNEL}"
    with pytest.raises(ValueError, match=re.escape(message)):
        tiny().add_objective("buy")


# What the steps do


def test_stage_and_objective_follow_the_steps():
    model = tiny()
    assert (model.stage, model.objective, model.frozen_stages) == (0, None, 0)
    model.begin("view")
    assert (model.stage, model.objective, model.frozen_stages) == (1, "view", 0)
    model.prune(share=0.5)
    model.freeze()
    assert (model.stage, model.objective, model.frozen_stages) == (0, None, 1)
    model.begin("cart")
    assert (model.stage, model.objective, model.frozen_stages) == (2, "cart", 1)


@pytest.mark.parametrize("granularity", ["unit", "weight"])
def test_capacity_holds_the_share_of_each_owner(granularity):
    model = finished(2, share=0.5, granularity=granularity, embedding_dim=8, hidden=(6,))
    model.begin("buy")
    capacity = model.capacity()
    assert capacity["embedding"].tolist() == [0, 0.5, 0.375, 0.125]
    assert set(capacity) == {
        "embedding",
        "user_tower/table_country",
        "user_tower/hidden_0",
        "item_tower/table_tags",
        "item_tower/hidden_0",
    }
    for shares in capacity.values():
        assert shares.shape == (4,)
        assert shares.sum() == pytest.approx(1)
        assert shares[1] == pytest.approx(0.5)
        assert shares[0] == 0
    np.testing.assert_array_equal(capacity["embedding"][1:] * 8, np.bincount(model.owner)[1:])


@pytest.mark.parametrize("granularity", ["unit", "weight"])
def test_prune_by_share_keeps_it_in_every_layer_and_reports_the_tau_that_frees_as_much(granularity):
    by_share, by_tau = (finished(0, granularity=granularity, hidden=(10,)) for _ in range(2))
    by_share.begin("view")
    by_tau.begin("view")
    report = by_share.prune(share=0.25)
    assert report["embedding"].kept == 2
    assert report["user_tower/table_country"].kept == 1
    for pruned in report.values():
        assert pruned.kept == round(0.25 * (pruned.kept + pruned.freed))
        assert 0 < pruned.tau < 1
    by_tau.prune(tau=report["embedding"].tau)
    assert by_tau.owner.tolist() == by_share.owner.tolist()


def test_prune_by_tau_frees_a_share_of_the_l1_mass_of_the_geometric_mean():
    model = tiny(hidden=())
    model.begin("view")
    rng = np.random.default_rng(2)
    for live in model.trainable_variables:
        live.assign(rng.normal(size=live.shape) * rng.uniform(0.1, 3, live.shape[-1:]))

    def l1(tower, name):
        kernel, bias = (weight.astype(np.float64) for weight in tower.output_layer.merged_weights())
        # What an id gets at least: its own row and the bias.
        rows = tower.tables[name].merged_weights()[0] + bias
        return np.abs(kernel).sum(axis=0) + np.abs(rows).sum(axis=0)

    importance = np.sqrt(l1(model.towers.user, "user_id") * l1(model.towers.item, "item_id"))
    order = np.argsort(importance)
    smallest = np.cumsum(importance[order]) <= 0.4 * importance.sum()
    pruned = model.prune(tau=0.4)["embedding"]
    assert sorted(np.flatnonzero(model.owner == 0)) == sorted(order[smallest])
    assert (pruned.kept, pruned.freed, pruned.tau) == (8 - smallest.sum(), smallest.sum(), 0.4)


@pytest.mark.parametrize("dim", [4, 5])
def test_prune_by_share_leaves_a_coordinate_for_each_objective_to_come(dim):
    model = tiny(funnel=["a", "b", "c", "d"], embedding_dim=dim, hidden=())
    for objective in model.funnel:
        model.begin(objective)
        model.prune(share=0.9)
        model.freeze()
    assert set(model.owner) >= {1, 2, 3, 4}


@pytest.mark.parametrize("granularity", ["unit", "weight"])
def test_both_towers_keep_the_same_owners(granularity):
    model, rng = tiny(granularity=granularity), np.random.default_rng(3)
    for objective in model.funnel:
        model.begin(objective)
        for live in model.trainable_variables:
            live.assign(rng.normal(size=live.shape))
        model.prune(share=0.3)
        owners = [
            layer.owner.numpy().tolist()
            for tower in (model.towers.user, model.towers.item)
            for layer in tower.segment_layers
        ]
        assert len(owners) == 4
        assert owners == [model.owner.tolist()] * 4
        model.freeze()


def test_diverged_stage_can_be_neither_pruned_nor_frozen():
    model = tiny()
    model.begin("view")
    model.towers.item.hidden_layers[0].kernel.assign_add(tf.fill([12, 6], np.nan))
    with pytest.raises(ValueError, match="diverged: train it again"):
        model.prune(share=0.5)
    assert np.all(model.owner == 1)
    with pytest.raises(ValueError, match="Stage 1 has diverged: train it again"):
        model.freeze()
    assert (model.stage, model.frozen_stages) == (1, 0)


# Outputs


def test_call_gives_the_score_of_each_objective_begun():
    model = finished(2, normalize=True, temperature=[0.5, 0.2, 0.1])
    raw = {name: values[:7] for name, values in RAW_USERS.items()}
    raw |= {name: values[4:] for name, values in RAW_ITEMS.items()}
    scores = model({name: tf.constant(values) for name, values in raw.items()})
    assert list(scores) == ["view", "cart"]
    u = model.user_vectors(model.towers.user_encoder.encode(RAW_USERS))[:7].astype(np.float64)
    v = model.item_vectors()[4:].astype(np.float64)
    for stage, name in enumerate(scores, start=1):
        read = (model.owner >= 1) & (model.owner <= stage)
        np.testing.assert_allclose(scores[name], (u * v * read).sum(axis=1), rtol=1e-5, atol=1e-5)
    # A segment is a cosine over the temperature of its own objective.
    for owner, temperature in ((1, 0.5), (2, 0.2)):
        norms = np.linalg.norm(u[:, model.owner == owner], axis=1)
        np.testing.assert_allclose(norms**2, 1 / temperature, rtol=1e-5)


def test_predict_gives_what_call_gives_and_knows_strangers():
    model = finished(1)
    raw = {name: values[-2:] for name, values in RAW_USERS.items()}
    raw |= {name: values[:2] for name, values in RAW_ITEMS.items()}
    dataset = tf.data.Dataset.from_tensor_slices(raw).batch(1)
    predicted = model.predict(dataset, verbose=0)
    called = model({name: tf.constant(values) for name, values in raw.items()})
    assert list(predicted) == ["view"]
    np.testing.assert_allclose(predicted["view"], called["view"], rtol=1e-5)
    assert np.all(np.isfinite(predicted["view"]))


def test_evaluate_gives_the_mean_loss_and_moves_nothing():
    model = finished(2)
    model.compile("sgd")
    before = [value.copy() for value in model.get_weights()]
    data = batches(model, steps=3)
    losses = [float(model.compute_loss(batch)) for batch in data]
    assert model.evaluate(data, return_dict=True, verbose=0)["loss"] == pytest.approx(np.mean(losses), 1e-5)
    weights = {
        v.name: value for v, value in zip(model.weights, before, strict=True) if "metric" not in v.name
    }
    moved = [v.name for v in model.weights if v.name in weights and np.any(v.numpy() != weights[v.name])]
    assert set(moved) <= {"total:0", "count:0"}


def test_evaluate_refuses_a_model_that_has_not_begun():
    model = tiny()
    model.compile("sgd")
    with pytest.raises(ValueError, match="no stage has begun"):
        model.evaluate(batches(model), verbose=0)


# Frozen means bit for bit

OPTIMIZERS = keras.optimizers
# Name: the optimizer of each later stage, arguments of the model, arguments of compile.
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
    "EMA": (lambda: OPTIMIZERS.Adam(0.05, use_ema=True, ema_overwrite_frequency=2), {}, {}),
    "clipnorm": (lambda: OPTIMIZERS.SGD(1.0, momentum=0.9, clipnorm=0.5), {}, {}),
    "mixed_bfloat16": (lambda: OPTIMIZERS.Adam(0.05), {"policy": "mixed_bfloat16"}, {}),
    "jit_compile": (lambda: OPTIMIZERS.Adam(0.05), {}, {"jit_compile": True}),
    "sampled with margin": (lambda: OPTIMIZERS.Adagrad(0.1), {"loss": "sampled", "margin": 0.5}, {}),
}
GRANULARITIES = {
    "unit": {"granularity": "unit"},
    "weight": {"granularity": "weight"},
    "unit, normalized": {"granularity": "unit", "normalize": True, "temperature": [0.5, 0.2, 0.1]},
    "weight, normalized": {"granularity": "weight", "normalize": True, "temperature": 0.3},
}
# Each case in both granularities, once normalized.
TABLE = [
    (case, granularity + (", normalized" if (n + by_weight) % 2 else ""))
    for n, case in enumerate(CASES)
    for by_weight, granularity in enumerate(("unit", "weight"))
]
# One of the two, so that four cases after another have all four granularities.
FURTHER = [TABLE[2 * n + (n // 2 + 1) % 2] for n in range(len(CASES))]


@pytest.fixture
def policy():
    yield keras.mixed_precision.set_global_policy
    keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize(("case", "granularity"), left_out(TABLE, FURTHER))
def test_training_moves_no_bit_of_an_earlier_stage(case, granularity, policy):
    optimizer, settings, options = CASES[case]
    policy(settings.get("policy", "float32"))
    settings = {name: value for name, value in settings.items() if name != "policy"}
    model = finished(2, **GRANULARITIES[granularity], **settings)
    kept = bits(model)
    assert len(set(kept.values())) == 2
    model.begin("buy")
    train(model, optimizer(), **options)
    model.prune(share=0.2)
    fit(model, seed=1)
    assert earlier(model, kept) == kept
    model.freeze()
    assert earlier(model, kept) == kept


def earlier(model, kept):
    now = bits(model)
    return {stage: now[stage] for stage in kept}


@pytest.mark.parametrize("granularity", ["unit", "weight, normalized"])
def test_one_optimizer_for_all_stages_moves_no_bit_of_an_earlier_one(granularity):
    model, kept = tiny(**GRANULARITIES[granularity]), {}
    model.compile(OPTIMIZERS.AdamW(0.05, weight_decay=0.1, use_ema=True))
    for stage, objective in enumerate(model.funnel, start=1):
        model.begin(objective)
        model.optimizer.build(model.trainable_variables)
        fit(model, stage)
        model.prune(share=0.3)
        assert earlier(model, kept) == kept
        model.freeze()
        now = bits(model)
        assert {k: now[k] for k in kept} == kept
        kept = now
    assert len(set(kept.values())) == 3


@pytest.mark.parametrize("granularity", left_out(GRANULARITIES, ["unit, normalized", "weight"]))
def test_compiled_vectors_and_scores_of_finished_stages_keep_their_bits(granularity):
    model = finished(1, **GRANULARITIES[granularity])
    users = model.towers.user_encoder.encode(RAW_USERS)
    raw = {name: values[:8] for name, values in (RAW_USERS | RAW_ITEMS).items()}
    dataset = tf.data.Dataset.from_tensors(raw)

    def compiled(stage):
        segment = np.isin(model.owner, range(1, stage + 1))
        scores = model.predict(dataset, verbose=0)
        vectors = [model.user_vectors(users)[:, segment], model.item_vectors()[:, segment]]
        return b"".join(v.tobytes() for v in [*vectors, *(scores[n] for n in model.funnel[:stage])])

    first = compiled(1)
    again = finished(3, **GRANULARITIES[granularity])
    model.set_weights(again.get_weights())
    model.retrace()
    assert model.frozen_stages == 3
    assert compiled(1) == first


@pytest.mark.parametrize("granularity", ["unit, normalized", "weight"])
def test_finished_stages_survive_a_checkpoint_bit_for_bit(granularity, tmp_path):
    model = finished(1, **GRANULARITIES[granularity])
    kept = bits(model)
    model.begin("cart")
    train(model)
    model = reloaded(model, tmp_path / "in_training")
    assert model.objective == "cart"
    assert earlier(model, kept) == kept
    train(model, seed=1)
    model.prune(share=0.3)
    model.freeze()
    assert earlier(model, kept) == kept
    kept = bits(model)
    model = reloaded(model, tmp_path / "finished")
    assert model.frozen_stages == 2
    assert bits(model) == kept


def reloaded(model, path):
    """Another model of the same configuration, with the weights of the first by way of a checkpoint."""
    path = tf.train.Checkpoint(model=model).save(str(path))
    keras.utils.set_random_seed(99)
    other = CSMF.from_config(model.get_config())
    other.set_catalogue(ITEMS, RAW_ITEMS)
    status = tf.train.Checkpoint(model=other).restore(path)
    status.assert_existing_objects_matched().expect_partial()
    other.retrace()
    return other


@pytest.mark.parametrize("granularity", left_out(GRANULARITIES, ["unit, normalized", "weight"]))
def test_objective_added_to_a_finished_model_trains_and_moves_no_earlier_one(granularity):
    model = finished(3, share=0.25, **GRANULARITIES[granularity])
    kept = bits(model)
    model.add_objective("review", temperature=0.4)
    assert model.capacity()["embedding"].tolist() == [0.25, 0.25, 0.25, 0.25, 0]
    model.begin("review")
    train(model)
    model.freeze()
    assert earlier(model, kept) == kept
    assert model.funnel == (*FUNNEL, "review")
    assert model.temperatures[-1] == 0.4
    assert model.capacity()["embedding"].tolist() == [0, 0.25, 0.25, 0.25, 0.25]
    raw = {name: values[:1] for name, values in (RAW_USERS | RAW_ITEMS).items()}
    scores = model({name: tf.constant(values) for name, values in raw.items()})
    assert tuple(scores) == model.funnel
    assert scores["review"] != scores["buy"]


def test_added_objective_needs_free_capacity():
    model = tiny(funnel=["view"])
    model.begin("view")
    model.freeze()
    model.add_objective("buy")
    with pytest.raises(ValueError, match="Objective 'buy' needs at least one free coordinate"):
        model.begin("buy")


def test_add_objective_refuses_a_temperature_that_is_not_positive():
    model = tiny(funnel=["view"])
    with pytest.raises(ValueError, match=re.escape("should be positive. Received: temperature=0.0")):
        model.add_objective("buy", temperature=0.0)
    assert model.funnel == ("view",)
