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
    of_users, of_items = principal_axes(users, items)
    scores = users @ items.T
    found = (users @ of_users) @ (items @ of_items).T
    np.testing.assert_allclose(found, scores, atol=1e-5 * np.abs(scores).max())


def test_first_coordinates_are_the_best_of_that_number():
    users, items = (RNG.normal(size=(90, 7)) @ RNG.normal(size=(7, 7)) for _ in range(2))
    of_users, of_items = principal_axes(users, items)
    users_turned, items_turned = users @ of_users, items @ of_items
    singular = np.linalg.svd(users @ items.T, compute_uv=False)
    for n in range(1, 8):
        missed = np.linalg.norm(users @ items.T - users_turned[:, :n] @ items_turned[:, :n].T)
        np.testing.assert_allclose(missed, np.sqrt(np.sum(singular[n:] ** 2)), atol=1e-6 * singular[0])
    ratio = np.linalg.norm(users) / np.linalg.norm(items)
    np.testing.assert_allclose(np.linalg.norm(users_turned) / np.linalg.norm(items_turned), ratio)


def test_orthogonal_axes_keep_lengths():
    users, items = RNG.normal(size=(50, 5)) * [1, 9, 1, 2, 1], RNG.normal(size=(60, 5))
    of_users, of_items = principal_axes(users, items, orthogonal=True)
    np.testing.assert_array_equal(of_users, of_items)
    np.testing.assert_allclose(of_users @ of_users.T, np.eye(5), atol=1e-12)
    energy = np.sum((users @ of_users) ** 2, axis=0) / np.sum(users**2) + np.sum(
        (items @ of_items) ** 2, axis=0
    ) / np.sum(items**2)
    assert (np.diff(energy) < 1e-12).all()


def some_model(**options):
    users, items = tuple(f"u{n}" for n in range(30)), tuple(f"i{n}" for n in range(40))
    model = CSMF(
        ["view", "buy"], [Feature("user", "id", users)], [Feature("item", "id", items)], 8, **options
    )
    model.set_catalogue(np.array(items, object), {"item": np.array(items, object)})
    return model, model.towers.user_encoder.encode({"user": np.array(users, object)})


def shaken(model):
    """The same model with other weights, as if the stage had been trained."""
    for variable in model.trainable_variables:
        variable.assign_add(RNG.normal(size=variable.shape).astype(np.float32))
    return model


@pytest.mark.parametrize("options", [{}, {"normalize": True}, {"granularity": "weight"}], ids=str)
def test_stages_turn_their_own_coordinates(options):
    keras.utils.set_random_seed(1)
    model, users = some_model(**options)
    for stage, objective in enumerate(model.funnel, start=1):
        model.begin(objective)
        shaken(model)
        u, v, own = model.user_vectors(users), model.item_vectors(), model.owner == stage
        assert model.to_principal_axes(users)
        turned_u, turned_v = model.user_vectors(users), model.item_vectors()
        np.testing.assert_array_equal(turned_u[:, ~own], u[:, ~own])
        np.testing.assert_array_equal(turned_v[:, ~own], v[:, ~own])
        scores = u[:, own] @ v[:, own].T
        np.testing.assert_allclose(
            turned_u[:, own] @ turned_v[:, own].T, scores, atol=2e-4 * np.abs(scores).max()
        )
        model.prune(share=0.5 / stage)
        if stage == 1 and not options.get("normalize"):
            # What is pruned now is what the best approximation leaves out.
            missed = np.linalg.norm(turned_u[:, model.owner == 1] @ turned_v[:, model.owner == 1].T - scores)
            best = np.sqrt(np.sum(np.linalg.svd(scores, compute_uv=False)[4:] ** 2))
            np.testing.assert_allclose(missed, best, rtol=1e-3)
        model.freeze()


def test_hidden_layers_that_read_the_coordinates_keep_them():
    model, users = some_model(hidden=(6,))
    model.begin("view")
    before = model.user_vectors(users)
    assert not model.to_principal_axes(users)
    np.testing.assert_array_equal(model.user_vectors(users), before)


def test_axes_need_a_stage_in_training():
    model, users = some_model()
    with pytest.raises(ValueError, match="`to_principal_axes` should come while a stage is in training"):
        model.to_principal_axes(users)


def test_an_id_is_read_by_later_stages_only():
    model, users = some_model()
    tower, ids = model.towers.user, {"user": users["user"]}
    model.begin("view")
    shaken(model)
    table, bias = tower.tables["user"].embeddings, tower.output_layer.bias
    expected = table.numpy()[users["user"]] + bias.numpy()
    np.testing.assert_allclose(tower(ids, stage=1).numpy(), expected, rtol=1e-6)
    model.prune(share=0.5)
    model.freeze()
    model.begin("buy")
    shaken(model)
    first, own = model.owner == 1, model.owner == 2
    frozen = tower.tables["user"].embeddings_frozen.numpy()[users["user"]]
    expected = table.numpy()[users["user"]][:, own] + bias.numpy()[own]
    expected += frozen[:, first] @ tower.output_layer.kernel.numpy()[np.ix_(first, own)]
    np.testing.assert_allclose(tower(ids, stage=2).numpy()[:, own], expected, rtol=1e-4, atol=1e-5)
