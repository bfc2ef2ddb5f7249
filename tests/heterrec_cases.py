"""Shared by the tests of the HeterRec user tower: a small log and items, a model of them, and its batches."""

import dataclasses

import numpy as np

from csmf_tf._keras import keras
from csmf_tf.data.batches import Batching
from csmf_tf.data.simulator import simulate
from csmf_tf.data.stages import StageData
from csmf_tf.data.users import UserFeatures
from csmf_tf.model import CSMF
from csmf_tf.towers import Feature

LENGTH = 6
LOG = simulate(30, 20, seed=1, events_per_user=12).log
FUNNEL, IDS, N = LOG.funnel, tuple(LOG.items), len(LOG.items)
RNG = np.random.default_rng(5)
RAW_ITEMS = {
    "item_id": LOG.items,
    "category": np.array([f"c{n % 3}" for n in range(N)], object),
    "tags": np.array([["x", "y"] if n % 3 else ["y", ""] if n % 2 else ["", ""] for n in range(N)], object),
    "price": RNG.lognormal(size=N).astype(np.float32),
    "weight": RNG.normal(size=N).astype(np.float32),
    "image": RNG.normal(size=(N, 3)).astype(np.float32),
}
# A feature of this name is one of items too.
RAW_USERS = {"category": np.array([f"c{n % 4}" for n in range(len(LOG.users))], object)}
SETTINGS = {"layers": 1, "heads": 2, "dim": 8, "dropout": 0.3, "list_length": 2}


def tiny(funnel=FUNNEL, heterrec=None, catalogue=True, **settings):
    """An untrained model of the log, whose items have a feature of each kind."""
    keras.utils.set_random_seed(0)
    behaviors = [Feature("history_behavior", "history", funnel, length=LENGTH)] if len(funnel) > 1 else []
    model = CSMF(
        funnel,
        [
            Feature("category", "categorical", ("c0", "c1", "c2"), dim=4),
            Feature("history", "history", IDS, length=LENGTH),
            *behaviors,
        ],
        [
            Feature("item_id", "id", IDS),
            Feature("category", "categorical", ("c0", "c1", "c2"), dim=4),
            Feature("tags", "multi", ("x", "y"), dim=4),
            Feature.numeric("price", RAW_ITEMS["price"], buckets=3),
            Feature.numeric("weight", RAW_ITEMS["weight"]),
            Feature("image", "vector", length=3),
        ],
        **{"embedding_dim": 8, "granularity": "weight", "heterrec": SETTINGS | (heterrec or {}), **settings},
    )
    if catalogue:
        model.set_catalogue(IDS, RAW_ITEMS)
    return model


def log_of(model):
    """The events of the model's objectives."""
    return dataclasses.replace(LOG.take(LOG.behavior < len(model.funnel)), funnel=model.funnel)


def users_of(model):
    """The `UserFeatures` of the log as the model reads them."""
    encode, log = model.towers.user_encoder, log_of(model)
    several = len(model.funnel) > 1
    return UserFeatures(
        encode.encode(RAW_USERS, skip="history"),
        log,
        LENGTH,
        encode.codes("history", LOG.items),
        sequence=True,
        behavior_codes=encode.codes("history_behavior", np.array(model.funnel, object)) if several else None,
    )


def data_of(model, stage=1, **batching):
    """The `StageData` of one objective."""
    batching = {"loss": model.loss_kind, "batch_size": 20, "step_weights": (0.6, 0.4)} | batching
    return StageData(log_of(model), stage, users_of(model), Batching(**batching))


def everyone(model):
    """Encoded features of all users as of now."""
    return users_of(model).latest(np.arange(len(LOG.users)))
