"""Principal axes: scores stay, the best coordinates come first, and what is frozen is not touched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csmf_tf import CSMF
from csmf_tf._keras import keras
from csmf_tf.towers import Feature
from csmf_tf.towers.axes import principal_axes

RNG = np.random.default_rng(5)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**16))
def test_scores_stay_whatever_the_rank(dim, rank, seed):
    rng = np.random.default_rng(seed)
    users, items = (rng.normal(size=(40, rank)) @ rng.normal(size=(rank, dim)) for _ in range(2))
    of_users, of_items, _ = principal_axes(users, items)
    scores = users @ items.T
    found = (users @ of_users) @ (items @ of_items).T
    np.testing.assert_allclose(found, scores, atol=1e-5 * np.abs(scores).max())


def test_first_coordinates_are_the_best_of_that_number():
    users, items = (RNG.normal(size=(90, 7)) @ RNG.normal(size=(7, 7)) for _ in range(2))
    of_users, of_items, held = principal_axes(users, items)
    users_turned, items_turned = users @ of_users, items @ of_items
    singular = np.linalg.svd(users @ items.T, compute_uv=False)
    np.testing.assert_allclose(held, singular[:7] / np.sqrt(len(users) * len(items)), rtol=1e-5)
    for n in range(1, 8):
        missed = np.linalg.norm(users @ items.T - users_turned[:, :n] @ items_turned[:, :n].T)
        np.testing.assert_allclose(missed, np.sqrt(np.sum(singular[n:] ** 2)), atol=1e-6 * singular[0])
    ratio = np.linalg.norm(users) / np.linalg.norm(items)
    np.testing.assert_allclose(np.linalg.norm(users_turned) / np.linalg.norm(items_turned), ratio)


def test_fewer_users_than_coordinates_are_enough():
    users, items = RNG.normal(size=(2, 8)).astype(np.float32), RNG.normal(size=(3, 8)).astype(np.float32)
    axes = principal_axes(users, items)
    assert np.isfinite(axes.users).all()
    assert np.isfinite(axes.items).all()
    np.testing.assert_allclose((users @ axes.users) @ (items @ axes.items).T, users @ items.T, rtol=1e-4)
    assert (axes.held[2:] < 1e-3 * axes.held[0]).all()


def test_orthogonal_axes_keep_lengths():
    users, items = RNG.normal(size=(50, 5)) * [1, 9, 1, 2, 1], RNG.normal(size=(60, 5))
    of_users, of_items, held = principal_axes(users, items, orthogonal=True)
    np.testing.assert_array_equal(of_users, of_items)
    np.testing.assert_allclose(of_users @ of_users.T, np.eye(5), atol=1e-12)
    energy = np.sum((users @ of_users) ** 2, axis=0) / np.sum(users**2) + np.sum(
        (items @ of_items) ** 2, axis=0
    ) / np.sum(items**2)
    assert (np.diff(energy) < 1e-12).all()
    squares = [np.mean((side @ of_users) ** 2, axis=0) for side in (users, items)]
    np.testing.assert_allclose(held, np.sqrt(squares[0] * squares[1]))


def some_model(features=(), **options):
    users, items = tuple(f"u{n}" for n in range(30)), tuple(f"i{n}" for n in range(40))
    model = CSMF(
        ["view", "buy"],
        [Feature("user", "id", users), *features],
        [Feature("item", "id", items)],
        8,
        **options,
    )
    model.set_catalogue(np.array(items, object), {"item": np.array(items, object)})
    raw = {"user": np.array(users, object)} | {f.name: RAW[f.name] for f in features}
    return model, model.towers.user_encoder.encode(raw)


CITY, AGE = Feature("city", "categorical", ("a", "b"), dim=3), Feature("age", "numeric")
RAW = {
    "city": np.array(["a", "b", "a"] * 10, object),
    "age": np.linspace(-1, 1, 30, dtype=np.float32),
}


def shaken(model, rng):
    """The same model with other weights, as if the stage had been trained."""
    for variable in model.trainable_variables:
        variable.assign_add(rng.normal(size=variable.shape).astype(np.float32))
    return model


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"normalize": True},
        {"granularity": "weight"},
        {"features": (CITY, AGE)},
        {"features": (CITY, AGE), "granularity": "weight"},
    ],
    ids=str,
)
def test_each_stage_keeps_the_axes_that_hold_most_of_the_scores_of_its_users(options, seed):
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    model, everyone = some_model(**options)
    users = {name: values[:12] for name, values in everyone.items()}
    for stage, objective in enumerate(model.funnel, start=1):
        model.begin(objective)
        shaken(model, rng)
        u, v, own = model.user_vectors(users), model.item_vectors(), model.owner == stage
        scores = u[:, own] @ v[:, own].T
        model.prune(share=0.5 / stage, users=users)
        kept, pruned_u, pruned_v = model.owner == stage, model.user_vectors(users), model.item_vectors()
        assert kept.sum() == 4 // stage
        earlier = (model.owner > 0) & (model.owner < stage)
        np.testing.assert_array_equal(pruned_u[:, earlier], u[:, earlier])
        np.testing.assert_array_equal(pruned_v[:, earlier], v[:, earlier])
        # Other features lose columns of their own by the pruning, and normalisation has its own axes.
        if not options.keys() & {"normalize", "features"}:
            missed = np.linalg.norm(pruned_u[:, kept] @ pruned_v[:, kept].T - scores)
            best = np.sqrt(np.sum(np.linalg.svd(scores, compute_uv=False)[kept.sum() :] ** 2))
            np.testing.assert_allclose(missed, best, rtol=2e-3)
        model.freeze()


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"features": (CITY, AGE)}], ids=str)
def test_a_turn_changes_no_score(options):
    model, users = some_model(**options)
    model.begin("view")
    shaken(model, np.random.default_rng(0))
    before = model.user_vectors(users) @ model.item_vectors().T
    towers = model.towers
    towers._turn(1, towers._axes(1, model.user_vectors(users), model.item_vectors()))
    after = model.user_vectors(users) @ model.item_vectors().T
    np.testing.assert_allclose(after, before, atol=2e-4 * np.abs(before).max())


def test_nothing_is_turned_where_nothing_is_freed():
    model, users = some_model()
    model.begin("view")
    model.prune(share=0.5)
    model.freeze()
    model.begin("buy")
    shaken(model, np.random.default_rng(0))
    before = model.user_vectors(users)
    model.prune(share=1.0, users=users)
    np.testing.assert_array_equal(model.user_vectors(users), before)


def test_hidden_layers_that_read_the_coordinates_of_an_id_keep_them():
    pruned = []
    for by_axes in (True, False):
        keras.utils.set_random_seed(1)
        model, users = some_model(hidden=(6,))
        model.begin("view")
        shaken(model, np.random.default_rng(0))
        model.prune(share=0.5, users=users if by_axes else None)
        pruned.append(model.user_vectors(users))
    np.testing.assert_array_equal(*pruned)


def test_an_id_is_read_by_later_stages_only():
    model, users = some_model()
    tower, ids = model.towers.user, {"user": users["user"]}
    model.begin("view")
    shaken(model, np.random.default_rng(3))
    table, bias = tower.tables["user"].embeddings, tower.output_layer.bias
    expected = table.numpy()[users["user"]] + bias.numpy()
    np.testing.assert_allclose(tower(ids, stage=1).numpy(), expected, rtol=1e-6)
    model.prune(share=0.5)
    model.freeze()
    model.begin("buy")
    shaken(model, np.random.default_rng(3))
    first, own = model.owner == 1, model.owner == 2
    frozen = tower.tables["user"].embeddings_frozen.numpy()[users["user"]]
    expected = table.numpy()[users["user"]][:, own] + bias.numpy()[own]
    expected += frozen[:, first] @ tower.output_layer.kernel.numpy()[np.ix_(first, own)]
    np.testing.assert_allclose(tower(ids, stage=2).numpy()[:, own], expected, rtol=1e-4, atol=1e-5)
