"""The loss of a model against a loop over rows and candidates in float64."""

import itertools
import math

import numpy as np
import pytest

from csmf_tf._keras import keras, tf
from csmf_tf.model import CSMF
from csmf_tf.negatives import log_expected_count
from csmf_tf.towers import Feature

USERS, ITEMS = tuple(f"u{n}" for n in range(5)), tuple(f"i{n}" for n in range(9))
AGES = np.linspace(-1, 1, len(USERS), dtype=np.float32)
PRICES = np.linspace(-2, 2, len(ITEMS), dtype=np.float32)
ROWS, NEGATIVES = 6, 5
TEMPERATURES = (0.7, 0.4)
PLAIN = {"l2": 0.3, "l2_balance": 2.0}
# Name: arguments of the model beside the loss. Every term of the loss is on somewhere.
SETTINGS = {
    "plain": PLAIN,
    "margin": PLAIN | {"margin": 0.8},
    "normalized margin": PLAIN | {"margin": 0.8, "normalize": True, "temperature": TEMPERATURES},
    "margin by weight": PLAIN | {"margin": -0.5, "granularity": "weight"},
    "without in-batch negatives": PLAIN | {"margin": 0.8, "in_batch_negatives": False},
}
every_setting = pytest.mark.parametrize("setting", SETTINGS)
both_losses = pytest.mark.parametrize("loss", ["full", "sampled"])
both_stages = pytest.mark.parametrize("stage", [1, 2])


@pytest.fixture
def policy(request):
    before = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(request.param)
    yield request.param
    keras.mixed_precision.set_global_policy(before)


def make(loss, stage=2, **settings):
    """A model in training, with random weights throughout."""
    keras.utils.set_random_seed(0)
    model = CSMF(
        ["view", "buy"],
        [Feature("user", "id", USERS), Feature("age", "numeric")],
        [Feature("item", "id", ITEMS), Feature("price", "numeric")],
        embedding_dim=6,
        hidden=(4,),
        loss=loss,
        **settings,
    )
    model.set_catalogue(ITEMS, {"item": np.array(ITEMS, object), "price": PRICES})
    rng = np.random.default_rng(0)
    for k in range(1, stage + 1):
        if k > 1:
            model.prune(share=0.5)
            model.freeze()
        model.begin(model.funnel[k - 1])
        for weight in model.trainable_variables:
            weight.assign(rng.normal(0, 0.6, weight.shape))
    return model


def user_batch(model, users):
    raw = {"user": np.array(USERS, object)[users], "age": AGES[users]}
    return model.towers.user_encoder.encode(raw)


def batch_of(model, seed=1):
    """A batch with repeated items: every kind of accidental hit is in it."""
    rng = np.random.default_rng(seed)
    batch = {
        "user": user_batch(model, rng.integers(0, len(USERS), ROWS)),
        "user_l2": rng.random(ROWS, np.float32),
    }
    if model.loss_kind == "full":
        # Rows with several positives, with one and with none.
        row = np.array([0, 0, 0, 1, 3, 4, 4, 5], np.int32)
        item = np.array([0, 3, 8, 3, 0, 2, 1, 5], np.int32)
        return batch | {"row": row, "item": item, "catalogue_l2": rng.random(len(ITEMS), np.float32)}
    item = np.array([3, 0, 3, 8, 2, 1], np.int32)
    return batch | {
        "item": item,
        "item_l2": rng.random(ROWS, np.float32),
        "negatives": np.array([3, 4, 4, 0, 7], np.int32),
        "log_q": rng.normal(0, 2, ROWS + NEGATIVES).astype(np.float32),
        "funnel_negatives": np.array([[5, 6], [-1, -1], [7, 4], [5, 5], [-1, -1], [0, 6]], np.int32),
    }


# The reference


def slow_vectors(model, tower, encoded, stage):
    """Each segment by its own pass, normalised and divided by the root of its temperature."""
    owner = model.owner
    vectors = 0.0
    for k in range(1, stage + 1):
        segment = tf.cast(tower(encoded, stage=k), tf.float64).numpy() * (owner == k)
        if model.towers.normalize:
            segment /= np.linalg.norm(segment, axis=1, keepdims=True) * math.sqrt(TEMPERATURES[k - 1])
        vectors = vectors + segment
    return vectors


def slow_row(model, stage, u, candidates, positive):
    """-log p of column `positive` among (vector, log_q, excluded) candidates of one row."""
    upstream = model.owner < stage
    temperature = TEMPERATURES[stage - 1] if model.towers.normalize else 1.0
    total, own, liked = 0.0, None, float(u @ (candidates[positive][0] * upstream))
    for column, (v, log_q, excluded) in enumerate(candidates):
        score = float(u @ v) - log_q
        if stage > 1 and column != positive:
            above = float(u @ (v * upstream)) - liked
            score += model.margin / temperature * (1 - 1 / (1 + math.exp(-above)))
        if column == positive:
            own = score
        if not excluded:
            total += math.exp(score)
    return math.log(total) - own


def slow_loss(model, batch, stage):
    encoded = {name: tf.constant(value) for name, value in batch["user"].items()}
    raw = {"item": np.array(ITEMS, object), "price": PRICES}
    u = slow_vectors(model, model.towers.user, encoded, stage)
    v = slow_vectors(model, model.towers.item, model.towers.item_encoder(raw), stage)
    own = model.owner == stage
    bias = 0.0 if model.towers.normalize else model.towers.user.output_layer.merged_weights()[1]
    users = np.sum(((u - bias) * own) ** 2, axis=1) * batch["user_l2"] * model.l2 / model.l2_balance
    items = np.sum((v * own) ** 2, axis=1) * model.l2 * model.l2_balance
    if model.loss_kind == "full":
        candidates = [(vector, 0.0, False) for vector in v]
        pairs = zip(batch["row"], batch["item"], strict=True)
        nll = sum(slow_row(model, stage, u[r], candidates, i) for r, i in pairs)
        return nll / len(u) + users.mean() + np.sum(items * batch["catalogue_l2"])
    total = 0.0
    for r, item in enumerate(batch["item"]):
        candidates = []
        for column, (j, log_q) in enumerate(
            zip([*batch["item"], *batch["negatives"]], batch["log_q"], strict=True)
        ):
            excluded = j == item or (column < len(u) and not model.in_batch_negatives)
            candidates.append((v[j], 0.0, False) if column == r else (v[j], float(log_q), excluded))
        candidates += [(v[j], 0.0, False) for j in batch["funnel_negatives"][r] if j >= 0]
        total += slow_row(model, stage, u[r], candidates, r) + users[r] + items[item] * batch["item_l2"][r]
    return total / len(u)


# Tests


@both_stages
@every_setting
@both_losses
def test_loss_is_that_of_a_float64_loop(loss, setting, stage):
    model = make(loss, stage, **SETTINGS[setting])
    batch = batch_of(model)
    got = model.compute_loss(batch)
    assert got.dtype == tf.float32
    assert float(got) == pytest.approx(slow_loss(model, batch, stage), rel=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
@pytest.mark.parametrize("setting", ["margin", "normalized margin", "margin by weight"])
@both_losses
def test_loss_of_half_precision_towers_is_computed_in_float32(loss, setting, policy):
    model = make(loss, **SETTINGS[setting])
    batch = batch_of(model)
    assert float(model.compute_loss(batch)) == pytest.approx(slow_loss(model, batch, 2), rel=1e-5)


def loss_and_gradients(model, batch):
    with tf.GradientTape() as tape:
        loss = model.compute_loss(batch, training=True)
    return loss, [tf.convert_to_tensor(g) for g in tape.gradient(loss, model.trainable_variables)]


@pytest.mark.parametrize("setting", ["normalized margin", "without in-batch negatives"])
@both_losses
def test_xla_gives_the_same_loss_and_gradients(loss, setting):
    model = make(loss, **SETTINGS[setting])
    batch = tf.nest.map_structure(tf.constant, batch_of(model))
    compiled = tf.function(lambda batch: loss_and_gradients(model, batch), jit_compile=True)
    for got, expected in zip(
        tf.nest.flatten(compiled(batch)), tf.nest.flatten(loss_and_gradients(model, batch)), strict=True
    ):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("loss", "jit_compile"), [("full", False), ("sampled", False), ("sampled", True)])
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
    log_q = log_expected_count(np.zeros(1 + count), len(ITEMS), in_batch=0, uniform=count)
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
