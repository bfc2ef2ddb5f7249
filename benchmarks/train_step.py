"""Times a train step of CSMF beside a plain TFRS two-tower of the same shapes.

    .venv/bin/python benchmarks/train_step.py [--quick] [--repeats 7] [--seed 0]

Ours removes accidental hits and corrects for sampling; the peer does neither, it is TFRS's `Retrieval` task
as it comes. Both get the same batches and optimizer and run the function that `fit` runs. The models of a
group take turns step by step; a repeat is the median over its steps, a time or a ratio the median over the
repeats. Prints a table, then one line of JSON.
"""

import argparse
import dataclasses
import gc
import json
import os
import platform
import time

import numpy as np

import csmf_tf
from csmf_tf._keras import keras, tf
from csmf_tf.negatives import log_expected_count
from csmf_tf.towers import Feature

import tensorflow_recommenders as tfrs  # isort: skip  (after Keras is picked)

DIM = 64
BATCHES = 16


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained: one line of the table."""

    items: int
    users: int = 100_000
    batch: int = 1024
    hidden: tuple[int, ...] = ()
    stage: int = 1
    granularity: str = "unit"
    loss: str = "sampled"
    l2: float = 0.0

    def label(self):
        parts = [f"stage {self.stage}", f"{self.items} items", f"batch {self.batch}"]
        parts += [f"hidden {list(self.hidden)}"] if self.hidden else []
        parts += [f"by {self.granularity}"] if self.stage > 1 else []
        return ", ".join([*parts, *([f"full softmax, l2 {self.l2}"] if self.loss == "full" else [])])

    def optimizer(self):
        return keras.optimizers.Adam(0.01) if self.loss == "full" else keras.optimizers.Adagrad(0.1)


class TwoTower(tfrs.models.Model):
    """The peer: per side an id table, hidden layers and a linear layer that is added to the table."""

    def __init__(self, case):
        super().__init__()
        rows = (case.users + 1, case.items + 1)  # one for unknown ids, as ours
        self.tables = [keras.layers.Embedding(n, DIM) for n in rows]
        self.heads = [
            keras.Sequential(
                [
                    *(keras.layers.Dense(units, activation="relu") for units in case.hidden),
                    keras.layers.Dense(DIM),
                ]
            )
            for _ in rows
        ]
        self.task = tfrs.tasks.Retrieval()

    def embed(self, side, codes):
        x = self.tables[side](codes)
        return x + self.heads[side](x)

    def compute_loss(self, inputs, training=False):
        users, items = self.embed(0, inputs["user"]), self.embed(1, inputs["item"] + 1)
        return self.task(users, items, compute_metrics=False)


class FullSoftmax(TwoTower):
    """The peer of the full softmax: plain Keras crossentropy over all items."""

    def __init__(self, case):
        super().__init__(case)
        self.codes = tf.range(1, case.items + 1)

    def compute_loss(self, inputs, training=False):
        logits = tf.matmul(self.embed(0, inputs["user"]), self.embed(1, self.codes), transpose_b=True)
        loss = keras.losses.sparse_categorical_crossentropy(inputs["item"], logits, from_logits=True)
        return tf.reduce_mean(loss)


def make_csmf(case):
    """Our model at the beginning of the stage; the stages before it own 70 % of what was free."""
    users, items = (np.arange(n).astype(str) for n in (case.users, case.items))
    model = csmf_tf.CSMF(
        ["view", "buy"],
        user_features=[Feature("user_id", "id", vocabulary=tuple(users))],
        item_features=[Feature("item_id", "id", vocabulary=tuple(items))],
        embedding_dim=DIM,
        hidden=case.hidden,
        granularity=case.granularity,
        loss=case.loss,
        l2=case.l2,
    )
    model.set_catalogue(items, {"item_id": items})
    model.begin("view")
    if case.stage == 2:
        model.prune(share=0.7)
        model.freeze()
        model.begin("buy")
    return model


def draw_batches(case, seed):
    """Yields the batches of our model and of the peer; the popularity of the items falls off as 1 / rank."""
    rng = np.random.default_rng(seed)
    popularity = 1 / np.arange(10, case.items + 10)
    popularity /= popularity.sum()
    for _ in range(BATCHES):
        users = rng.integers(1, case.users + 1, case.batch, np.int32)
        items = rng.choice(case.items, case.batch, p=popularity).astype(np.int32)
        ones = np.ones(case.batch, np.float32)
        ours = {"user": {"user_id": users}, "user_l2": ones, "item": items}
        if case.loss == "full":
            ours |= {
                "row": np.arange(case.batch, dtype=np.int32),
                "catalogue_l2": np.full(case.items, 1 / 4096, np.float32),
            }
        else:
            ours |= {
                "item_l2": ones,
                "negatives": np.zeros(0, np.int32),
                "funnel_negatives": np.zeros((case.batch, 0), np.int32),
                "log_q": log_expected_count([popularity[items]], [case.batch - 1]),
            }
        yield ours, {"user": users, "item": items}


def make_step(model, batches, optimizer, **compiling):
    """A function that runs one step as `fit` would and waits for its loss."""
    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec([None, *x.shape[1:]][: x.ndim], x.dtype), batches[0]
    )
    dataset = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    iterator = iter(dataset.cache().repeat().prefetch(2))
    model.compile(optimizer, **compiling)
    function = model.make_train_function()
    return lambda: float(function(iterator)["loss"])


def interleaved(contestants, warm_up, repeats, steps):
    """Milliseconds a step of functions taking turns, float64 [repeats, functions]: medians over `steps`."""
    # The first steps trace and fill the cache of batches.
    for _ in range(warm_up):
        for step in contestants:
            step()
    seconds = np.zeros((repeats, steps, len(contestants)))
    for repeat in range(repeats):
        for n in range(steps):
            for k, step in enumerate(contestants):
                started = time.perf_counter()
                step()
                seconds[repeat, n, k] = time.perf_counter() - started
    return 1e3 * np.median(seconds, axis=1)


def measure(cases, repeats, steps, seed):
    """Milliseconds a step, float64 [repeats, cases, 2]: ours, then the peer's."""
    contestants = []
    for case in cases:
        keras.utils.set_random_seed(seed)
        ours, theirs = zip(*draw_batches(case, seed), strict=True)
        peer = FullSoftmax(case) if case.loss == "full" else TwoTower(case)
        contestants.append(make_step(make_csmf(case), ours, case.optimizer()))
        contestants.append(make_step(peer, theirs, case.optimizer()))
    times = interleaved(contestants, BATCHES + 1, repeats, steps)
    return times.reshape(repeats, len(cases), 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.quick:
        sizes, steps, repeats = {"users": 500, "batch": 64}, 2, 2
        small, large, full = Case(100, **sizes), Case(1000, **sizes), Case(100, **sizes, loss="full", l2=0.2)
        groups = [[small, large], [dataclasses.replace(small, stage=2, granularity="weight")], [full]]
    else:
        steps, repeats = 30, args.repeats
        small, large = Case(10_000), Case(1_000_000)
        groups = [
            [small, large],
            [Case(10_000, batch=4096)],
            [Case(10_000, hidden=(128,))],
            *(
                [Case(10_000, hidden=hidden, stage=2, granularity=granularity)]
                for hidden in ((), (128,))
                for granularity in ("unit", "weight")
            ),
            [Case(12_000, users=10_000, batch=256, loss="full", l2=0.2)],
        ]
    print(f"{'step':<58}{'ours ms':>9}{'peer ms':>9}{'ratio':>7}")
    ratios = {}
    for cases in groups:
        times = measure(cases, repeats, max(steps * 1024 // max(1024, cases[0].batch), 2), args.seed)
        gc.collect()  # a million rows a table
        for k, case in enumerate(cases):
            ratios[case.label()] = float(np.median(times[:, k, 0] / times[:, k, 1]))
            ours, peer = np.median(times[:, k], axis=0)
            print(f"{case.label():<58}{ours:>9.2f}{peer:>9.2f}{ratios[case.label()]:>7.3f}", flush=True)
        if cases[0] is small:
            growth = float(np.median(times[:, 1, 0] / times[:, 0, 0]))
    setting = {
        "seed": args.seed,
        "repeats": repeats,
        "steps": steps,
        "items": [small.items, large.items],
        "users": small.users,
        "batch": small.batch,
        "dim": DIM,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "tensorflow": tf.__version__,
        "tensorflow_recommenders": tfrs.__version__,
        "csmf_tf": csmf_tf.__version__,
    }
    result = {
        "ratio_to_tfrs": round(max(ratios[small.label()], ratios[large.label()]), 3),
        "ratio_1e6_to_1e4_items": round(growth, 3),
        "ratios": {label: round(ratio, 3) for label, ratio in ratios.items()},
        "setting": setting,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
