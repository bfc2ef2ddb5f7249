"""Train-step time of CSMF beside a plain TFRS two-tower of the same shapes.

Both models run the step that `fit` runs, on the same batches and with the same optimizer, in one process and
interleaved step by step. A repeat is the median over its steps; the table shows the median over the repeats.

    .venv/bin/python benchmarks/train_step.py [--quick]
"""

import argparse
import gc
import json
import os
import platform
import time

import numpy as np

from csmf_tf import CSMF
from csmf_tf._keras import keras, tf
from csmf_tf.negatives import log_expected_count
from csmf_tf.towers import Feature

import tensorflow_recommenders as tfrs  # isort: skip  (after the Keras guard)

DIM = 64
FUNNEL = ["view", "buy"]


class TwoTower(tfrs.models.Model):
    """The peer: TFRS's retrieval task on two towers of plain Keras layers."""

    def __init__(self, users: int, items: int, hidden: tuple[int, ...]):
        super().__init__()
        self.tables = [keras.layers.Embedding(rows, DIM) for rows in (users, items)]
        self.towers = [self.tower(hidden) for _ in self.tables]
        self.task = tfrs.tasks.Retrieval()

    @staticmethod
    def tower(hidden):
        layers = [keras.layers.Dense(units, activation="relu") for units in hidden]
        return keras.Sequential([*layers, keras.layers.Dense(DIM)])

    def compute_loss(self, inputs, training=False):
        vectors = []
        for table, tower, name in zip(self.tables, self.towers, ("user", "item"), strict=True):
            x = table(inputs[name])
            vectors.append(x + tower(x))
        return self.task(*vectors, compute_metrics=False)


class FullSoftmax(TwoTower):
    """The peer of the full softmax: the same towers, all items scored, Keras's crossentropy."""

    def compute_loss(self, inputs, training=False):
        users = self.tables[0](inputs["user"])
        users = users + self.towers[0](users)
        items = self.tables[1](self.catalogue)
        items = items + self.towers[1](items)
        logits = tf.matmul(users, items, transpose_b=True)
        return tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(inputs["item"], logits, from_logits=True))


def csmf(users, items, hidden=(), stage=1, granularity="unit", loss="sampled"):
    names = [np.char.add(prefix, np.arange(n).astype(str)) for prefix, n in (("u", users), ("i", items))]
    features = [[Feature(key, "id", vocabulary=tuple(ids))] for key, ids in zip(("user_id", "item_id"), names)]
    model = CSMF(FUNNEL, *features, embedding_dim=DIM, hidden=hidden, granularity=granularity, loss=loss)
    model.set_catalogue(names[1], {"item_id": names[1]})
    model.begin("view")
    if stage == 2:
        model.prune(share=0.7)
        model.freeze()
        model.begin("buy")
    return model
