"""The HeterRec user tower in a model: what stages freeze and prune, and the loss of every position."""

import numpy as np
import pytest
from heterrec_cases import FUNNEL, LENGTH, RAW_ITEMS, N, data_of, everyone, tiny
from thorough import left_out

from csmf_tf._keras import keras, tf
from csmf_tf.config import Negatives

BLOCK = ("query", "key", "value", "attended", "inner", "outer")


@pytest.fixture(autouse=True)
def eager():
    """To trace the blocks of a transformer takes longer than to run them once."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def train(model, data, optimizer=None):
    """An epoch of the stage that has begun."""
    model.compile(optimizer or keras.optimizers.AdamW(0.05, weight_decay=0.1))
    model.optimizer.build(model.trainable_variables)
    model.fit(data.dataset(), verbose=0)


def masked(model):
    """Every masked layer of the model."""
    return [*model.towers.user.masked_layers, *model.towers.item.masked_layers]


def randomize(model, seed):
    """Random weights for the stage in training."""
    rng = np.random.default_rng(seed)
    for live in model.trainable_variables:
        live.assign(rng.normal(size=live.shape, scale=0.3))


def bits(model):
    """Every bit of the scores of each stage begun, of all users and items, in its pass and in the latest."""
    encoded, items = everyone(model), model.towers.item_encoder.encode(RAW_ITEMS)
    owner, last, seen = model.owner, max(model.stage, model.frozen_stages), {}
    passes = {
        k: (model.embed_users(encoded, k).numpy(), model.embed_items(items, k).numpy())
        for k in range(1, last + 1)
    }
    for stage in passes:
        own = (owner >= 1) & (owner <= stage)
        vectors = [side[:, own] for k in (stage, last) for side in passes[k]]
        scores = [vectors[0] @ vectors[1].T, vectors[2] @ vectors[3].T]
        assert np.all(np.isfinite(scores[0]))
        assert np.std(scores[0]) > 0
        seen[stage] = b"".join(values.tobytes() for values in (*vectors, *scores))
    return seen


# Frozen means bit for bit

CASES = {
    "shared tables": {},
    "own tables, sampled, mixed precision": {
        "heterrec": {"share_embeddings": False, "pooling": "attention", "mask": "causal", "layers": [1, 0]},
        "loss": "sampled",
        "dtype": "mixed_bfloat16",
    },
    "normalized, hidden layers, joined features": {
        "heterrec": {"flatten": False, "pooling": "last", "layers": [0, 1]},
        "normalize": True,
        "temperature": [0.3, 0.2, 0.1],
        "hidden": (6,),
    },
    "mixed precision": {"dtype": "mixed_bfloat16"},
}


@pytest.mark.parametrize("case", left_out(CASES, ["mixed precision"]))
def test_training_of_three_stages_moves_no_bit_of_an_earlier_one(case):
    model, kept = tiny(l2=0.1, **CASES[case]), {}
    for stage, objective in enumerate(FUNNEL, start=1):
        model.begin(objective)
        data = data_of(model, stage, batch_size=100)
        before = [layer.merged_weights()[0] for layer in masked(model)]
        train(model, data)
        for layer, old in zip(masked(model), before, strict=True):
            moved = layer.merged_weights()[0] != old
            owned = np.broadcast_to(layer.owner.numpy() == stage, moved.shape)
            assert np.any(moved[owned]), layer.name
            assert not np.any(moved[~owned]), layer.name
        model.prune(share=0.3, users=data.users(10) if stage == 2 else None)
        model.fit(data.dataset(1), verbose=0)
        now = bits(model)
        assert {k: now[k] for k in kept} == kept
        model.freeze()
        now = bits(model)
        assert {k: now[k] for k in kept} == kept
        kept = now
    assert len(set(kept.values())) == 3


@pytest.mark.parametrize(("share_embeddings", "layers"), [(True, 1), (False, [0, 0])])
def test_no_layer_shows_an_earlier_stage_what_a_later_one_changes(share_embeddings, layers):
    model = tiny(heterrec={"share_embeddings": share_embeddings, "layers": layers})
    model.begin("view")
    randomize(model, 0)
    model.prune(share=0.3)
    model.freeze()
    kept = bits(model)
    model.begin("cart")
    users = {name: values[:4] for name, values in everyone(model).items()}
    items = model.towers.item_encoder.encode(RAW_ITEMS)

    def vectors():
        return np.concatenate([model.embed_users(users), model.embed_items(items)])

    before = vectors()
    for layer in masked(model):
        for live in layer.trainable_variables:
            live.assign_add(np.random.default_rng(1).normal(size=live.shape))
        after = vectors()
        assert np.any(after != before), layer.name
        before = after
    now = bits(model)
    assert {k: now[k] for k in kept} == kept


def test_nothing_at_or_after_a_position_changes_what_comes_before():
    model = tiny()
    randomize(model, 0)
    sequence, rng = model.towers.user.sequence, np.random.default_rng(1)
    behaviors = sequence.behaviors.rows
    for _ in range(20):
        # Some positions are pads, before and after the change.
        one, other = (
            {"history": codes, "history_behavior": (codes > 0) * rng.integers(1, behaviors, codes.shape)}
            for codes in rng.integers(1, sequence.history.rows, (2, 3, LENGTH))
            * (rng.random((2, 3, LENGTH)) < 0.7)
        )
        at = int(rng.integers(0, LENGTH + 1))
        changed = {name: np.concatenate([one[name][:, :at], other[name][:, at:]], axis=1) for name in one}
        before, after = (sequence(encoded, stage=1).numpy() for encoded in (one, changed))
        assert before[:, :at].tobytes() == after[:, :at].tobytes()
        assert at == LENGTH or np.any(before[:, at:] != after[:, at:])


def test_steps_in_a_graph_give_the_weights_of_eager_ones():
    found = []
    for eager in (True, False):
        tf.config.run_functions_eagerly(eager)
        model = tiny(heterrec={"dropout": 0.0, "layers": [0, 1]}, l2=0.1)
        model.begin("view")
        train(model, data_of(model), keras.optimizers.SGD(0.1))
        found.append(model.embed_users(everyone(model)))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)


def test_compiled_vectors_of_a_finished_stage_keep_their_bits():
    """As `Run` and exports compute them, in a graph; the tests above are eager."""
    model = tiny(heterrec={"layers": [1, 1]})

    def compiled():
        tf.config.run_functions_eagerly(False)
        vectors = model.user_vectors(everyone(model)), model.item_vectors()
        tf.config.run_functions_eagerly(True)
        return b"".join(side[:, model.owner == 1].tobytes() for side in vectors)

    model.begin("view")
    train(model, data_of(model))
    model.prune(share=0.5)
    model.freeze()
    before = compiled()
    model.begin("cart")
    randomize(model, 1)
    assert compiled() == before
    model.freeze()
    assert compiled() == before


def test_as_many_users_are_embedded_at_a_time_as_bound_the_attention(monkeypatch):
    model = tiny()
    whole, most = model.user_vectors(everyone(model)), 1 << 14
    monkeypatch.setattr("csmf_tf.towers.heterrec.ATTENTION_WEIGHTS", most)
    # Two heads, and a token for each of the six features of an item.
    rows = model.towers.user.chunk
    assert rows * 2 * (LENGTH * 6) ** 2 <= most < (rows + 1) * 2 * (LENGTH * 6) ** 2
    np.testing.assert_allclose(model.user_vectors(everyone(model)), whole, rtol=1e-4, atol=1e-6)


def test_dropout_is_of_the_stage_in_training_alone():
    model = begun(2, dropout=0.5)
    batch = next(data_of(model, 2).batches(0))
    other = batch | {"dropout_seed": batch["dropout_seed"] + 1}
    losses = [[float(model.compute_loss(b, t)) for b in (batch, batch, other)] for t in (True, False)]
    assert losses[0][0] == losses[0][1] != losses[0][2]
    assert losses[1][0] == losses[1][1] == losses[1][2]
    whole, dropped = (
        model.towers.embed(model.towers.user, batch["user"], 2, training=training).numpy()
        for training in (False, True)
    )
    assert np.all(dropped[:, model.owner == 1] == whole[:, model.owner == 1])
    assert np.all(np.any(dropped[:, model.owner == 2] != whole[:, model.owner == 2], axis=0))


# Pruning and capacity


@pytest.mark.parametrize("share_embeddings", [True, False])
def test_every_masked_layer_takes_part_in_pruning_and_capacity(share_embeddings):
    model = tiny(heterrec={"share_embeddings": share_embeddings, "layers": [1, 2], "pooling": "attention"})
    tables, projected = ["item_id", "category", "tags"], ["weight", "image"]
    if share_embeddings:
        tables, projected = [], projected + tables
    blocks = [f"{block}_{part}" for block in ("token_0", "item_0", "item_1") for part in BLOCK]
    names = [
        "table_category",
        *(f"token_table_{name}" for name in (*tables, "price")),
        *(f"project_{name}" for name in projected),
        *("positions", "types", "behaviors", "pooling", *blocks),
    ]
    expected = {f"user_tower/{name}" for name in names}
    expected |= {"embedding", "item_tower/table_category", "item_tower/table_tags"}
    model.begin("view")
    randomize(model, 0)
    report = model.prune(share=0.5)
    assert set(report) == expected
    for pruned in report.values():
        assert pruned.kept == max(round((pruned.kept + pruned.freed) / 2), 1)
    model.freeze()
    model.begin("cart")
    capacity = model.capacity()
    assert set(capacity) == expected
    for name, shares in capacity.items():
        total = report[name].kept + report[name].freed
        np.testing.assert_allclose(shares, [0, report[name].kept / total, report[name].freed / total, 0])
    # One entry for each layer but the segments of the embedding: two outputs and the item's id table.
    assert len(expected) - 1 == len(masked(model)) - 3
    # With weights of its own a layer is trained by the second stage too.
    assert all(np.any(layer.owner.numpy() == 2) for layer in masked(model))


# The loss


def vectors_at(model, batch, stage):
    """float64 [Q, D]: what users have whose history ends at each position, one by one."""
    rows, columns = np.divmod(batch["query"], LENGTH)
    users = {name: values[rows] for name, values in batch["user"].items()}
    for name in ("history", "history_behavior"):
        if name in users:
            cut = np.zeros_like(users[name])
            for n, column in enumerate(columns):
                cut[n, LENGTH - column - 1 :] = users[name][n, : column + 1]
            users[name] = cut
    return model.embed_users(users, stage).numpy().astype(np.float64)


def log_softmax(scores, columns):
    """Of column 0 among some of the columns."""
    top = scores[columns].max()
    return scores[0] - top - np.log(np.exp(scores[columns] - top).sum())


def begun(stage, dropout=0.0, **settings):
    """A model in training, on random weights."""
    model = tiny(l2=0.0, heterrec={"dropout": dropout}, **settings)
    for seed, objective in enumerate(FUNNEL[:stage]):
        if seed:
            model.prune(share=0.3)
            model.freeze()
        model.begin(objective)
        randomize(model, seed)
    return model


@pytest.mark.parametrize(
    ("stage", "horizon", "one_list"),
    [(1, 1, False), (1, 2, False), (2, 1, False), (2, 2, False), (2, 2, True)],
)
def test_full_loss_is_the_softmax_of_the_next_items_at_each_position(stage, horizon, one_list):
    model = begun(stage, one_list=one_list)
    steps = (0.6, 0.4)[:horizon]
    batch = next(data_of(model, stage, step_weights=steps).batches(0))
    scores = vectors_at(model, batch, stage) @ model.item_vectors().astype(np.float64).T
    losses = []
    for row, targets in zip(scores, batch["targets"].tolist(), strict=True):
        targets = [item for item in targets if item >= 0]
        loss = 0.0
        for item, weight in zip(targets, steps, strict=False):
            others = [other for other in range(N) if other != item and (one_list or other not in targets)]
            loss -= weight * log_softmax(np.append(row[item], row[others]), slice(None))
        losses.append(loss)
    assert float(model.compute_loss(batch)) == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("in_batch", [True, False])
@pytest.mark.parametrize("horizon", [1, 2])
def test_sampled_loss_is_the_corrected_softmax_over_what_the_batch_holds(in_batch, horizon):
    model, steps = begun(2, loss="sampled", in_batch_negatives=in_batch), (0.6, 0.4)[:horizon]
    kinds = ("in_batch", "uniform") if in_batch else ("uniform",)
    data = data_of(model, 2, step_weights=steps, negatives=Negatives(kind=kinds, uniform=7))
    batch = next(data.batches(0))
    users = vectors_at(model, batch, 2)
    items = model.item_vectors().astype(np.float64)
    codes = np.concatenate([batch["item"], batch["negatives"]])
    sums = np.zeros(len(users))
    for n, (position, item) in enumerate(zip(batch["row"], batch["item"], strict=True)):
        targets = batch["item"][batch["row"] == position]
        # Of the others' next items, and of those drawn uniformly, what is none of its own.
        others = np.flatnonzero(batch["user_code"] != batch["user_code"][n]) if in_batch else []
        columns = [c for c in (*others, *range(len(batch["item"]), len(codes))) if codes[c] not in targets]
        corrected = items[codes[columns]] @ users[position] - batch["log_q"][columns]
        weight = steps[list(targets).index(item)]
        sums[position] -= weight * log_softmax(
            np.append(items[item] @ users[position], corrected), slice(None)
        )
        assert batch["future"][n][batch["future"][n] >= 0].tolist() == targets.tolist()
    assert float(model.compute_loss(batch)) == pytest.approx(np.mean(sums), rel=1e-4)
