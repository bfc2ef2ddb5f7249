"""A small model with random weights, batches for it, and its loss by a loop in float64."""

import math

import numpy as np

from csmf_tf._keras import keras, tf
from csmf_tf.model import CSMF
from csmf_tf.towers import Feature

USERS, ITEMS = tuple(f"u{n}" for n in range(5)), tuple(f"i{n}" for n in range(9))
AGES = np.linspace(-1, 1, len(USERS), dtype=np.float32)
PRICES = np.linspace(-2, 2, len(ITEMS), dtype=np.float32)
ROWS, NEGATIVES = 6, 5
TEMPERATURES = (0.7, 0.4)
# Two clusters of three anchors.
CLUSTERED = 6
PLAIN = {"l2": 0.3, "l2_balance": 2.0}
# Name: arguments of the model beside the loss. Every term of the loss is on somewhere.
SETTINGS = {
    "plain": PLAIN,
    "margin": PLAIN | {"margin": 0.8},
    "normalized margin": PLAIN | {"margin": 0.8, "normalize": True, "temperature": TEMPERATURES},
    "margin by weight": PLAIN | {"margin": -0.5, "granularity": "weight"},
    "without in-batch negatives": PLAIN | {"margin": 0.8, "in_batch_negatives": False},
}


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


def with_drawn(batch, kind, seed=2):
    """A "sampled" batch with negatives "by clusters", "virtual" ones, or "both"; some hit the positives."""
    rng = np.random.default_rng(seed)
    if kind != "virtual":
        easy = rng.integers(0, len(ITEMS), (ROWS, CLUSTERED)).astype(np.int32)
        hard = np.array([[5, 6, 1], [8, -1, -1], [-1, -1, -1], [3, 5, 0], [1, 2, 3], [7, -1, -1]], np.int32)
        log_q = rng.normal(0, 1, (ROWS, CLUSTERED + 3)).astype(np.float32)
        batch = batch | {"cluster_negatives": np.hstack([easy, hard]), "cluster_log_q": log_q}
    else:
        # No two alike, so that the order of their scores is one.
        anchors = rng.permutation(len(ITEMS))[:CLUSTERED].astype(np.int32)
        batch = batch | {"anchors": anchors, "anchor_log_q": rng.normal(0, 1, CLUSTERED).astype(np.float32)}
    if kind != "by clusters":
        weights = np.zeros((10, CLUSTERED), np.float32)
        weights[:5, :3], weights[5:, 3:] = rng.dirichlet(np.ones(3), (2, 5))
        weights[[0, 1, 5], [0, 1, 3]] = 0
        share = rng.uniform(0.1, 0.6, (ROWS, 1)).astype(np.float32)
        batch = batch | {"mixing": weights / weights.sum(axis=1, keepdims=True), "positive_share": share}
    return batch


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


def slow_mix(model, parts, stage):
    """The weighted sum of vectors, brought to the norms of the tower's."""
    mixed = sum(weight * vector for weight, vector in parts)
    if model.towers.normalize:
        for k in range(1, stage + 1):
            segment = model.owner == k
            mixed[segment] /= np.linalg.norm(mixed[segment]) * math.sqrt(TEMPERATURES[k - 1])
    return mixed


def slow_clusters(model, batch, r, u, v, stage):
    """What negatives by clusters and virtual ones add to the candidates of row r."""
    positive, candidates, anchors = batch["item"][r], [], []
    if "cluster_negatives" in batch:
        drawn = list(zip(batch["cluster_negatives"][r], batch["cluster_log_q"][r], strict=True))
        candidates += [(v[j], float(log_q), j == positive) for j, log_q in drawn if j >= 0]
        anchors, hard = drawn[:CLUSTERED], drawn[CLUSTERED:]
    elif "anchors" in batch:
        anchors = hard = list(zip(batch["anchors"], batch["anchor_log_q"], strict=True))
    if "mixing" not in batch:
        return candidates
    for weights in batch["mixing"]:
        used = [(float(w), j, float(q)) for w, (j, q) in zip(weights, anchors, strict=True) if w]
        vector = slow_mix(model, [(w, v[j]) for w, j, _ in used], stage)
        excluded = any(j == positive for _, j, _ in used)
        candidates.append((vector, sum(w * q for w, _, q in used), excluded))
    fit = [(j, q) for j, q in hard if j >= 0 and j != positive]
    ranked = sorted(fit, key=lambda one: -float(u @ v[one[0]]))
    if ranked:
        beta, (j, q) = float(batch["positive_share"][r, 0]), ranked[0]
        vector = slow_mix(model, [(beta, v[positive]), (1 - beta, v[j])], stage)
        candidates.append((vector, (1 - beta) * q, False))
    return candidates


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
        candidates += slow_clusters(model, batch, r, u[r], v, stage)
        total += slow_row(model, stage, u[r], candidates, r) + users[r] + items[item] * batch["item_l2"][r]
    return total / len(u)
