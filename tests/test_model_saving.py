"""A CSMF model saved in the middle of its funnel answers the same after loading, and goes on."""

import numpy as np
import pytest

from csmf_tf import CSMF
from csmf_tf._keras import keras, tf
from csmf_tf.towers import Feature

ITEMS = ("i1", "i2", "i3")
FEATURES = {
    "user_id": tf.constant(["u1", "u9"]),
    "history_view": tf.constant([["", "i1", "i3"], ["", "", ""]]),
    "item_id": tf.constant(["i1", "i3"]),
    "price": tf.constant([1.0, np.nan]),
}


@pytest.fixture(params=["unit", "weight"])
def model(request):
    """The first of two stages is frozen, the second one in training."""
    model = CSMF(
        ["view", "buy"],
        [Feature("user_id", "id", ("u1", "u2")), Feature("history_view", "history", ITEMS, 4, length=3)],
        [Feature("item_id", "id", ITEMS), Feature("price", "numeric", mean=1.0, std=2.0)],
        embedding_dim=6,
        hidden=[5],
        granularity=request.param,
        normalize=True,
        temperature=[0.5, 0.2],
    )
    model.begin("view")
    model.prune(share=0.5)
    model.freeze()
    model.begin("buy")
    return model


def through_keras_file(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


def through_weights(model, folder):
    model.save_weights(folder / "weights")
    loaded = CSMF.from_config(model.get_config())
    loaded.load_weights(folder / "weights").assert_existing_objects_matched()
    return loaded


@pytest.mark.parametrize("reloaded", [through_keras_file, through_weights])
def test_a_loaded_model_answers_the_same_and_goes_on(model, reloaded, tmp_path):
    before = {name: scores.numpy() for name, scores in model(FEATURES).items()}
    loaded = reloaded(model, tmp_path)
    after = loaded(FEATURES)
    assert set(after) == {"view", "buy"}
    for name, scores in before.items():
        np.testing.assert_array_equal(after[name], scores)
    assert loaded.objective == "buy"
    loaded.freeze()
    assert loaded.frozen_stages == 2
    np.testing.assert_array_equal(loaded(FEATURES)["view"], before["view"])
