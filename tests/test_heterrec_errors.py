"""What does not go with a HeterRec user tower, in a model and in a configuration."""

import re

import numpy as np
import pytest
from heterrec_cases import IDS, LENGTH, RAW_ITEMS, tiny

from csmf_tf.config import HeterRec, from_dict, to_dict
from csmf_tf.model import CSMF
from csmf_tf.towers import Feature

HISTORY = Feature("history", "history", ("i1", "i2"), length=3)
ITEM = Feature("item_id", "id", ("i1", "i2"))


def model_of(user_features, **settings):
    settings = {"embedding_dim": 4, "granularity": "weight", "heterrec": {"dim": 4, "layers": 1}, **settings}
    return CSMF(["view"], user_features, [ITEM], **settings)


@pytest.mark.parametrize(
    ("features", "settings", "message"),
    [
        (
            [HISTORY],
            {"granularity": "unit"},
            "`granularity` should be 'weight' with `heterrec`, whose layer norms and attention heads mix "
            "units, so that single ones cannot be frozen. Received: granularity='unit'",
        ),
        (
            [HISTORY],
            {"margin": 0.5},
            "`margin` should be 0 with `heterrec`, whose loss has several positives a position. "
            "Received: margin=0.5",
        ),
        (
            [Feature("history_view", "history", ("i1",), length=3)],
            {},
            "`user_features` should hold one named 'history' with `heterrec`. Received: ['history_view']",
        ),
        (
            [Feature("history", "history", ("i1",))],
            {},
            "Feature 'history' should be of kind 'history' and of a `length` >= 1 with `heterrec`. "
            "Received: kind='history', length=0",
        ),
        (
            [Feature("history", "multi", ("i1",), length=3)],
            {},
            "Received: kind='multi', length=3",
        ),
        (
            [HISTORY],
            {"heterrec": {"dim": 4, "heads": 3}},
            "`dim` should be a multiple of `heads`. Received: dim=4",
        ),
        (
            [HISTORY],
            {"heterrec": {"list_length": 0}},
            "`heterrec.list_length` should be an integer >= 1. Received: heterrec.list_length=0",
        ),
        (
            [HISTORY],
            {"heterrec": HeterRec(dropout=1.0)},
            "`heterrec.dropout` should be a number in [0, 1). Received: heterrec.dropout=1.0",
        ),
        (
            [HISTORY],
            {"loss": "sampled", "one_list": True},
            "`one_list` should go with `heterrec` and the full softmax. Received: loss='sampled'",
        ),
        ([HISTORY], {"heterrec": {}, "margin": 0.5}, "`margin` should be 0 with `heterrec`"),
        (
            [HISTORY],
            {"heterrec": {"depth": 2}},
            "Unknown key `heterrec.depth`. `heterrec` has the keys layers, heads,",
        ),
    ],
)
def test_model_refuses(features, settings, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        model_of(features, **settings)


@pytest.mark.parametrize(
    "ids", [IDS[::-1], IDS[:-1], (*IDS[:-1], "other")], ids=["reversed", "fewer", "another"]
)
def test_catalogue_has_to_be_the_vocabulary_of_the_history(ids):
    model = tiny(funnel=("view",), catalogue=False)
    message = (
        f"`ids` should be the vocabulary of the feature `history`, in its order. Received: {len(ids)} ids"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        model.set_catalogue(ids, {name: values[: len(ids)] for name, values in RAW_ITEMS.items()})
    with pytest.raises(ValueError, match="should come after"):
        model.item_vectors()


def test_history_that_is_longer_than_the_models_is_an_error():
    model = tiny(funnel=("view",))
    users = {"category": np.array([0]), "history": np.ones([1, LENGTH + 1], np.int32)}
    with pytest.raises(Exception, match=f"at most `length={LENGTH}` items"):
        model.embed_users(users)


def test_settings_may_come_from_numpy():
    model = tiny(
        funnel=("view",), heterrec={"layers": (np.int64(0), np.int32(1)), "dropout": np.float64(0.1)}
    )
    assert model.get_config()["heterrec"]["layers"] == (0, 1)


def config_of(**sections):
    log = {"path": "events.csv", "user": "u", "item": "i", "behavior": "b", "timestamp": "t"}
    return from_dict({"log": log, "funnel": ["view", "buy"], **sections})


def heterrec(history=8, loss=None, training=None, **model):
    """Sections of a configuration with the tower; keyword arguments go to `model`."""
    model = {"user_tower": "heterrec", "history": {"length": history}, **model}
    return {"model": model, "loss": loss or {}, "training": training or {}}


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"loss": {"step_weights": [1.0, 0.5]}},
            "`loss.step_weights` and `loss.one_list` belong to sequences. Received: model.user_tower='mlp'; "
            "set it to heterrec, or leave them out.",
        ),
        (
            {"loss": {"one_list": True}},
            "`loss.step_weights` and `loss.one_list` belong to sequences. Received: model.user_tower='mlp'; "
            "set it to heterrec, or leave them out.",
        ),
        (
            {"model": {"heterrec": {"layers": 4}}},
            "`model.heterrec` belongs to another tower. Received: model.user_tower='mlp'; set it to "
            "heterrec, or leave the section out.",
        ),
        (
            heterrec(history=0),
            "`model.user_tower: heterrec` reads histories. Received: model.history.length=0; "
            "write e.g. `model: {history: {length: 50}}`.",
        ),
        (
            heterrec(granularity="unit"),
            "`model.granularity` should be weight with heterrec, whose layer norms and attention heads mix "
            "units. Received: model.granularity='unit'; leave it out.",
        ),
        (
            heterrec(heterrec={"layers": [1, 2, 3]}),
            "`model.heterrec.layers` should be one number, or two: token-level and item-level. "
            "Received: [1, 2, 3].",
        ),
        (
            heterrec(heterrec={"dim": 10, "heads": 4}),
            "`model.heterrec.dim` should be a multiple of its heads. Received: dim=10, heads=4.",
        ),
        (
            heterrec(heterrec={"buckets": 1}),
            "`model.heterrec.buckets` should be 0, which projects numbers, or at least 2. Received: 1, which "
            "would say nothing of a number.",
        ),
        (
            heterrec(loss={"margin": 0.5}),
            "`loss.margin` belongs to `model.user_tower: mlp`. Received: loss.margin=0.5; leave it out.",
        ),
        (
            heterrec(loss={"one_list": True, "kind": "sampled"}),
            "`loss.one_list` belongs to the full softmax. Received: loss.kind='sampled'; leave it out.",
        ),
        (
            {**heterrec(loss={"one_list": True}), "negatives": {"kind": ["in_batch", "edis"]}},
            "`loss.one_list` belongs to the full softmax, which draws no negatives. Received: "
            "negatives.kind with ['edis']; leave out one of the two.",
        ),
        (
            {**heterrec(), "features": {"user": {"history": "multi"}}},
            "`features.user` should leave ['history', 'history_behavior'] to the histories of heterrec. "
            "Received: ['history']; name the columns otherwise.",
        ),
        (
            heterrec(training={"jit_compile": True}),
            "`training.jit_compile` should go with batches of fixed shape, which windows of histories are "
            "not. Received: jit_compile=True with model.user_tower='heterrec'; leave it out.",
        ),
    ],
)
def test_settings_that_do_not_go_together(sections, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        config_of(**sections)
    assert str(error.value).splitlines().count(message) == 1
    assert "should have an input" not in str(error.value)


def test_all_conflicts_of_the_tower_are_told_at_once():
    with pytest.raises(ValueError, match=r"(?s)granularity.*layers.*margin"):
        config_of(**heterrec(granularity="unit", heterrec={"layers": []}, loss={"margin": 0.5}))


@pytest.mark.parametrize(
    "sections",
    [
        heterrec(),
        heterrec(granularity="weight", user_id=True, hidden=[8], normalize=True, temperature=[0.1, 0.2]),
        heterrec(heterrec={"layers": [0, 2], "heads": 4, "dim": 16, "mask": "causal", "pooling": "last"}),
        heterrec(loss={"step_weights": [1.0, 0.5], "one_list": True}),
        heterrec(loss={"kind": "sampled", "step_weights": [0.5]}),
    ],
)
def test_settings_that_go_together_come_back_equal(sections):
    config = config_of(**sections)
    assert from_dict(to_dict(config)) == config
    assert config.model.by_weight
    assert config.model.reads_user_id == sections["model"].get("user_id", False)
