"""The loss of a model against a loop over rows and candidates in float64."""

import itertools
import math

import numpy as np
import pytest
from loss_cases import (
    AGES,
    ITEMS,
    NEGATIVES,
    PLAIN,
    PRICES,
    ROWS,
    SETTINGS,
    batch_of,
    make,
    slow_loss,
    user_batch,
    with_drawn,
)
from thorough import left_out

from csmf_tf._keras import keras, tf
from csmf_tf.model import CSMF
from csmf_tf.negatives import log_expected_count
from csmf_tf.towers import Feature

every_setting = pytest.mark.parametrize("setting", SETTINGS)
both_losses = pytest.mark.parametrize("loss", ["full", "sampled"])
both_stages = pytest.mark.parametrize("stage", [1, 2])


@pytest.fixture
def policy(request):
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy(before)


@both_stages
@every_setting
@both_losses
def test_loss_is_that_of_a_float64_loop(loss, setting, stage):
    model = make(loss, stage, **SETTINGS[setting])
    batch = batch_of(model)
    got = model.compute_loss(batch)
    assert got.dtype == tf.float32
    assert float(got) == pytest.approx(slow_loss(model, batch, stage), rel=1e-5)


@pytest.mark.parametrize("kind", ["full", "sampled", "both"])
def test_loss_with_hidden_ids_is_that_of_items_that_nobody_knows(kind):
    model = make("full" if kind == "full" else "sampled", **PLAIN)
    batch = batch_of(model)
    batch = with_drawn(batch, kind) if kind == "both" else batch

    def loss(share, seed=(1, 2)):
        hidden = {"item_id_drop": np.float32(share), "item_id_seed": np.array(seed, np.int32)}
        return float(model.compute_loss(batch | hidden, training=True))

    some = [loss(0.5), loss(0.5), loss(0.5, (1, 3))]
    assert some[0] == some[1] != some[2]
    plain, hidden = float(model.compute_loss(batch)), loss(1.0)
    assert loss(0.0) == plain
    model.set_catalogue(ITEMS, {"item": np.full(len(ITEMS), "?", object), "price": PRICES})
    assert hidden == float(model.compute_loss(batch)) != plain


def test_ids_are_hidden_in_training_only():
    model = make("full", **PLAIN)
    batch = batch_of(model)
    hidden = {"item_id_drop": np.float32(1), "item_id_seed": np.array([1, 2], np.int32)}
    assert float(model.compute_loss(batch | hidden)) == float(model.compute_loss(batch))


def test_ids_of_positives_and_of_negatives_are_hidden_independently(monkeypatch):
    model, drawn = make("sampled", **PLAIN), []
    embed = model.embed_items
    monkeypatch.setattr(
        model, "embed_items", lambda encoded, stage: drawn.append(encoded) or embed(encoded, stage)
    )
    batch = with_drawn(batch_of(model), "both")
    batch = {
        name: np.zeros_like(v) if v.dtype == np.int32 else v for name, v in batch.items() if name != "user"
    }
    batch |= {"user": batch_of(model)["user"], "item_id_drop": np.float32(0.5)}
    masks = []
    for seed in range(40):
        drawn.clear()
        model.compute_loss(batch | {"item_id_seed": np.array([seed, 0], np.int32)}, training=True)
        masks.append([encoded["item"].numpy()[:ROWS] == 0 for encoded in drawn])
    masks = np.array(masks)
    assert masks.shape[1] == 3
    for one, other in itertools.combinations(range(3), 2):
        assert np.mean(masks[:, one] == masks[:, other]) == pytest.approx(
            0.5, abs=4 * 0.5 / math.sqrt(40 * ROWS)
        )


def test_to_hide_ids_of_items_without_is_an_error():
    model = CSMF(["view"], [Feature("user", "id", ("u",))], [Feature("price", "numeric")], 2)
    model.set_catalogue(ITEMS, {"price": PRICES})
    model.begin("view")
    hidden = {"item_id_drop": np.float32(0.5), "item_id_seed": np.array([1, 2], np.int32)}
    batch = {"user": {"user": np.array([1], np.int32)}, **hidden}
    with pytest.raises(
        ValueError, match=r"`item_id_drop` should go with an item feature of kind 'id'\. Received"
    ):
        model.compute_loss(batch, training=True)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
@pytest.mark.parametrize("setting", ["margin", "normalized margin", "margin by weight"])
@both_losses
def test_loss_of_half_precision_towers_is_computed_in_float32(loss, setting, policy):
    model = make(loss, **SETTINGS[setting])
    batch = batch_of(model)
    assert float(model.compute_loss(batch)) == pytest.approx(slow_loss(model, batch, 2), rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "stage", "kind"),
    [
        *itertools.product(SETTINGS, [2], ["both"]),
        *itertools.product(["plain", "normalized margin"], [1, 2], ["by clusters", "virtual"]),
    ],
)
def test_loss_with_drawn_and_virtual_negatives_is_that_of_a_float64_loop(setting, stage, kind):
    model = make("sampled", stage, **SETTINGS[setting])
    batch = with_drawn(batch_of(model), kind)
    expected = slow_loss(model, batch, stage)
    assert float(model.compute_loss(batch)) == pytest.approx(expected, rel=1e-5)
    # They count.
    assert abs(float(model.compute_loss(batch_of(model))) - expected) > 0.01


@pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("setting", ["margin", "normalized margin"])
def test_virtual_negatives_of_half_precision_towers_are_mixed_in_float32(setting, policy):
    model = make("sampled", **SETTINGS[setting])
    batch = with_drawn(batch_of(model), "both")
    assert float(model.compute_loss(batch)) == pytest.approx(slow_loss(model, batch, 2), rel=1e-5)


@pytest.mark.parametrize("kind", ["virtual", "both"])
def test_virtual_negatives_made_from_the_positive_never_count(kind):
    """Every anchor is the positive of row 0, so that for row 0 nothing virtual is left."""
    model = make("sampled", 1, l2=0.0)
    batch = with_drawn(batch_of(model), kind)
    item = int(batch["item"][0])
    codes = "anchors" if kind == "virtual" else "cluster_negatives"
    batch[codes] = np.full_like(batch[codes], item)
    none = batch | {"positive_share": np.zeros((ROWS, 0), np.float32)}
    for name in ("mixing", "cluster_negatives", "anchors"):
        none.pop(name, None)
    gradients = []
    for given in (batch, none):
        given = tf.nest.map_structure(tf.constant, given)
        with tf.GradientTape() as tape:
            users = model.embed_users(given["user"])
            model.embed_users = lambda encoded, stage=None, users=users: users
            tape.watch(users)
            loss = model.compute_loss(given)
        del model.embed_users
        gradients.append(tape.gradient(loss, users).numpy())
    np.testing.assert_allclose(gradients[0][0], gradients[1][0], rtol=1e-5, atol=1e-7)
    other = [row for row in range(ROWS) if batch["item"][row] != item]
    assert all(np.abs(gradients[0][row] - gradients[1][row]).max() > 1e-4 for row in other)


@pytest.mark.parametrize("kind", ["virtual", "both"])
def test_gradient_flow_through_virtual_negatives_is_a_switch(kind):
    """Anchors that are met nowhere else learn from virtual negatives, or learn nothing."""
    moved = {}
    for gradient in (True, False):
        model = make("sampled", 1, l2=0.0, virtual_gradient=gradient, in_batch_negatives=False)
        batch = with_drawn(batch_of(model), kind)
        batch |= {
            "item": np.array([0, 1, 0, 1, 0, 1], np.int32),
            "negatives": np.full(NEGATIVES, 2, np.int32),
        }
        batch["funnel_negatives"] = np.zeros((ROWS, 0), np.int32)
        if kind == "virtual":
            batch["anchors"] = np.array([3, 4, 5, 6, 7, 8], np.int32)
        else:
            batch["cluster_negatives"] = np.full_like(batch["cluster_negatives"], 8)
        table = model.towers.item.tables["item"].embeddings
        with tf.GradientTape() as tape:
            loss = model.compute_loss(batch)
        rows = tf.convert_to_tensor(tape.gradient(loss, table)).numpy()[1:]
        moved[gradient] = loss, rows[8]
    assert moved[True][0] == moved[False][0]
    assert not np.array_equal(moved[True][1], moved[False][1])
    if kind == "virtual":
        assert moved[True][1].any()
        assert not moved[False][1].any()


def loss_and_gradients(model, batch):
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]


XLA = [
    *itertools.product(["normalized margin", "without in-batch negatives"], ["full", "sampled"]),
    ("normalized margin", "virtual"),
    ("normalized margin", "both"),
]


@pytest.mark.parametrize(
    ("setting", "loss"),
    left_out(XLA, [("normalized margin", "sampled"), ("normalized margin", "virtual"), XLA[2]]),
)
def test_xla_gives_the_same_loss_and_gradients(loss, setting):
    model = make("full" if loss == "full" else "sampled", **SETTINGS[setting])
    batch = batch_of(model)
    if loss in ("virtual", "both"):
        batch = with_drawn(batch, loss)
    batch = tf.nest.map_structure(tf.constant, batch)
    compiled = tf.function(lambda batch: loss_and_gradients(model, batch), jit_compile=True)
    for got, expected in zip(
        tf.nest.flatten(compiled(batch)), tf.nest.flatten(loss_and_gradients(model, batch)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("loss", "jit_compile"),
    left_out([("full", False), ("sampled", False), ("sampled", True)], [("sampled", True)]),
)
def test_fit_and_evaluate_report_the_mean_loss_of_the_epoch(loss, jit_compile):
    model = make(loss, **SETTINGS["margin"])
    batches = [batch_of(model, seed) for seed in (1, 2, 3)]
    expected = np.mean([slow_loss(model, batch, 2) for batch in batches])
    stacked = tf.nest.map_structure(lambda *parts: np.stack(parts), *batches)
    data = tf.data.Dataset.from_tensor_slices(stacked)
    model.compile(keras.optimizers.SGD(0.0), jit_compile=jit_compile)
    history = model.fit(data, epochs=2, verbose=0)
    assert history.history["loss"] == pytest.approx([expected] * 2, rel=1e-5)
    assert model.evaluate(data, verbose=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16"], indirect=True)
@both_losses
def test_half_precision_steps_are_scaled_and_unscaled(loss, policy):
    def step(factor):
        model = make(loss, **PLAIN)
        batch = batch_of(model)
        before = [weight.numpy() for weight in model.trainable_variables]
        # A loss this small has gradients below the least float16, so without loss scaling nothing moves.
        model.compute_loss = lambda *args, **kwargs: factor * CSMF.compute_loss(model, *args, **kwargs)
        model.compile(keras.optimizers.SGD(0.1 / factor), run_eagerly=True)
        model.train_step(tf.nest.map_structure(tf.constant, batch))
        return [weight.numpy() - old for weight, old in zip(model.trainable_variables, before, strict=True)]

    keras.mixed_precision.set_global_policy("float32")
    expected = step(1.0)
    keras.mixed_precision.set_global_policy(policy)
    for moved, wanted in zip(step(1e-6), expected, strict=True):
        np.testing.assert_allclose(moved, wanted, rtol=0.05, atol=2e-3)


def test_pads_are_no_negatives_and_get_no_gradient():
    model = make("sampled", **SETTINGS["margin"])
    batch = batch_of(model)
    # Item 6 is met as a funnel negative only; pads are looked up as item 0, which is not in this batch.
    batch |= {"item": np.array([3, 4, 3, 8, 2, 1], np.int32), "negatives": np.full(NEGATIVES, 7, np.int32)}
    some = batch | {"funnel_negatives": np.array([[6, -1]] + [[-1, -1]] * 5, np.int32)}
    none = batch | {"funnel_negatives": np.full((ROWS, 2), -1, np.int32)}
    without = batch | {"funnel_negatives": np.zeros((ROWS, 0), np.int32)}
    assert float(model.compute_loss(none)) == pytest.approx(float(model.compute_loss(without)), rel=1e-6)
    assert float(model.compute_loss(some)) > float(model.compute_loss(none))
    table = model.towers.item.tables["item"].embeddings
    with tf.GradientTape() as tape:
        loss = model.compute_loss(some)
    gradient = tf.convert_to_tensor(tape.gradient(loss, table)).numpy()[1:]  # without the unknown bucket
    assert not gradient[0].any()
    assert gradient[6].any()


def test_no_gradient_reaches_what_is_frozen_or_only_a_margin_reads():
    model = make("full", **SETTINGS["margin"])
    batch = batch_of(model)
    earlier = model.owner == 1
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch)
    tables = [tower.tables[tower.id_name].embeddings for tower in (model.towers.user, model.towers.item)]
    for gradient in tape.gradient(loss, tables):
        gradient = tf.convert_to_tensor(gradient).numpy()
        assert not gradient[:, earlier].any()
        assert gradient[:, ~earlier].any()


@pytest.mark.parametrize("temperature", [0.05, 0.07, 0.11, 0.3, 0.7])
def test_temperatures_of_objectives_to_come_do_not_move_a_bit(temperature):
    features = [Feature("age", "numeric")], [Feature("price", "numeric")]
    model = CSMF(["view"], *features, embedding_dim=4, normalize=True, temperature=temperature)
    model.begin("view")
    encoded = {"age": tf.constant(AGES[:, np.newaxis])}
    before = model.embed_users(encoded, stage=1)
    for n in range(12):
        model.add_objective(f"objective {n}", temperature=0.1 + n)
        np.testing.assert_array_equal(model.embed_users(encoded, stage=1), before)


def test_sampled_likelihood_is_unbiased_over_all_draws_of_negatives():
    """The mean of 1 / p over every possible draw of two uniform negatives is the full softmax's."""
    model = make("sampled", l2=0.0)
    count, user, item = 2, np.array([2]), np.array([4], np.int32)
    log_q = log_expected_count(np.full((1, 1 + count), 1 / len(ITEMS)), [count])
    batch = {
        "user": user_batch(model, user),
        "user_l2": np.zeros(1, np.float32),
        "item": item,
        "item_l2": np.zeros(1, np.float32),
        "log_q": log_q,
        "funnel_negatives": np.zeros((1, 0), np.int32),
    }
    loss = tf.function(lambda negatives: model.compute_loss(batch | {"negatives": negatives}))
    draws = itertools.product(range(len(ITEMS)), repeat=count)
    inverse = [math.exp(loss(tf.constant(draw, tf.int32))) for draw in draws]
    scores = model.embed_users(batch["user"]).numpy().astype(np.float64) @ model.item_vectors().T
    assert np.mean(inverse) == pytest.approx(np.exp(scores[0] - scores[0, item]).sum(), rel=1e-5)
    # Extreme draws: the positive alone, whose probability then is 1.
    assert min(inverse) == pytest.approx(1.0, abs=1e-6)
