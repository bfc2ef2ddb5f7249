"""Times a train step of HeterRec beside a SASRec of plain Keras layers that is fed with joined features.

    .venv/bin/python benchmarks/heterrec.py [--quick] [--repeats 5] [--seed 0]

Both read the same histories at the same width d, train all positions in one pass with the softmax over the
whole catalogue, without L2, and run the function that `fit` runs, with the same optimizer. SASRec has as many
blocks as HeterRec has item-level ones, or as it has in all. The models of a line take turns step by step; a
repeat is the median over its steps, a time or a ratio the median over the repeats. Prints a table, then one
line of JSON.
"""

import argparse
import dataclasses
import gc
import json
import os
import platform
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import csmf_tf
from benchmarks.train_step import interleaved, make_step
from csmf_tf._keras import keras, tf
from csmf_tf.towers import Feature

BATCHES = 4
VALUES = 100
HEADS = 2


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained: one line of the table. The id is one of the `features`."""

    length: int = 50
    features: int = 4
    layers: tuple[int, int] = (2, 2)
    dim: int = 64
    items: int = 10_000
    batch: int = 32
    dropout: float = 0.2

    def label(self):
        token_level, item_level = self.layers
        shape = f"L {self.length}, F {self.features}, {token_level}+{item_level} layers, d {self.dim}"
        return f"{shape}, N {self.items}"


class SASRec(keras.Model):
    """The peer: features joined and projected, then pre-norm blocks of Keras' own layers."""

    def __init__(self, case, blocks):
        super().__init__()
        dim, drop = case.dim, case.dropout
        self.tables = [
            keras.layers.Embedding(rows, dim) for rows in [case.items] + [VALUES] * (case.features - 1)
        ]
        self.joined, self.positions = keras.layers.Dense(dim), keras.layers.Embedding(case.length, dim)
        self.blocks = [
            (
                keras.layers.LayerNormalization(),
                keras.layers.MultiHeadAttention(HEADS, dim // HEADS, dropout=drop),
                keras.layers.Dropout(drop),
                keras.layers.LayerNormalization(),
                keras.Sequential([keras.layers.Dense(2 * dim, "relu"), keras.layers.Dense(dim)]),
                keras.layers.Dropout(drop),
            )
            for _ in range(blocks)
        ]
        self.drop, self.last = keras.layers.Dropout(drop), keras.layers.LayerNormalization()
        self.users, self.items = keras.layers.Dense(dim), keras.layers.Embedding(case.items, dim)

    def call(self, inputs, training=False):
        codes = tf.unstack(inputs, axis=2)
        x = self.joined(tf.concat([table(c) for table, c in zip(self.tables, codes, strict=True)], axis=2))
        x = self.drop(x + self.positions(tf.range(tf.shape(x)[1])), training=training)
        for norm, attend, drop, norm_too, feed_forward, drop_too in self.blocks:
            y = norm(x)
            x += drop(attend(y, y, use_causal_mask=True, training=training), training=training)
            x += drop_too(feed_forward(norm_too(x)), training=training)
        return self.users(self.last(x))

    def softmax(self, following, vectors):
        """The loss of each position over all items, leaner than Keras' own cross-entropy."""
        everything = self.items(tf.range(self.items.input_dim))
        logits = tf.matmul(vectors, everything, transpose_b=True)
        return tf.reduce_logsumexp(logits, axis=2) - tf.reduce_sum(vectors * self.items(following), axis=2)


def make_heterrec(case, codes):
    """Our model in its first stage; `codes` int [N, F] are the features of its items, their ids first."""
    names = ["item_id", *(f"feature_{n}" for n in range(1, case.features))]
    raw = {name: values.astype(str).astype(object) for name, values in zip(names, codes.T, strict=True)}
    features = [
        Feature(name, "categorical" if n else "id", tuple(np.unique(raw[name])), case.dim)
        for n, name in enumerate(names)
    ]
    ids = features[0].vocabulary
    settings = {"layers": case.layers, "heads": HEADS, "dim": case.dim, "dropout": case.dropout}
    model = csmf_tf.CSMF(
        ["click"],
        user_features=[Feature("history", "history", ids, length=case.length)],
        item_features=features,
        embedding_dim=case.dim,
        granularity="weight",
        heterrec=settings,
    )
    order = np.argsort(raw["item_id"])
    model.set_catalogue(ids, {name: values[order] for name, values in raw.items()})
    model.begin("click")
    return model


def draw_batches(case, codes, rng):
    """Yields the batches of our model and of the peer: full histories, the item after each position."""
    at = case.batch * case.length
    for _ in range(BATCHES):
        items = rng.integers(0, case.items, (case.batch, case.length + 1), np.int32)
        following = items[:, 1:].reshape(-1, 1)
        ours = {
            # 0 is the pad, 1 what is unknown.
            "user": {"history": items[:, :-1] + 2},
            "query": np.arange(at, dtype=np.int32),
            "dropout_seed": rng.integers(0, 2**31, 2, np.int32),
            "targets": following,
            "weight": np.ones((at, 1), np.float32),
            "user_l2": np.zeros(at, np.float32),
            "catalogue_l2": np.zeros(case.items, np.float32),
        }
        yield ours, (codes[items[:, :-1]], items[:, 1:])


def measure(case, repeats, steps, seed):
    """Milliseconds a step, float64 [repeats, 3]: ours, the peer with item-level blocks, and with all."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, VALUES, (case.items, case.features), np.int32)
    codes[:, 0] = np.arange(case.items)
    ours, theirs = zip(*draw_batches(case, codes, rng), strict=True)
    peers = [SASRec(case, case.layers[1]), SASRec(case, sum(case.layers))]
    contestants = [make_step(make_heterrec(case, codes), ours, adam())]
    contestants += [make_step(peer, theirs, adam(), loss=peer.softmax) for peer in peers]
    return interleaved(contestants, BATCHES + 1, repeats, steps)


def adam():
    """The optimizer of all."""
    return keras.optimizers.Adam(0.001)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    default = Case()
    repeats, steps = args.repeats, 10
    cases = [
        default,
        dataclasses.replace(default, items=1000),
        *(dataclasses.replace(default, length=length) for length in (25, 100)),
        *(dataclasses.replace(default, features=features) for features in (2, 8)),
        *(dataclasses.replace(default, layers=layers) for layers in ((1, 1), (4, 4), (0, 2), (0, 4))),
    ]
    if args.quick:
        default = Case(length=5, features=2, layers=(1, 1), dim=8, items=200, batch=4)
        cases, repeats, steps = [default], 2, 2
    print(f"{'ms a step':<42}{'HeterRec':>10}{'SASRec':>10}{'ratio':>7}{'all blocks':>12}{'ratio':>7}")
    ratios = {}
    for case in cases:
        times = measure(case, repeats, steps, args.seed)
        gc.collect()
        keras.backend.clear_session()
        ratio, to_all = (float(np.median(times[:, 0] / times[:, n])) for n in (1, 2))
        ratios[case.label()] = {"sasrec": round(ratio, 3), "sasrec_all_blocks": round(to_all, 3)}
        ours, peer, deep = np.median(times, axis=0)
        print(
            f"{case.label():<42}{ours:>10.1f}{peer:>10.1f}{ratio:>7.2f}{deep:>12.1f}{to_all:>7.2f}",
            flush=True,
        )
    setting = {
        "seed": args.seed,
        "repeats": repeats,
        "steps": steps,
        **{name: getattr(default, name) for name in ("items", "batch", "dropout")},
        "heads": HEADS,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tensorflow": tf.__version__,
        "csmf_tf": csmf_tf.__version__,
    }
    print(json.dumps({"ratio_to_sasrec": ratios[default.label()], "ratios": ratios, "setting": setting}))


if __name__ == "__main__":
    main()
