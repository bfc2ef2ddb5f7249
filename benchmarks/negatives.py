"""What virtual negatives (EDIS) cost a train step, and what drawing by clusters (MSAC) costs.

    .venv/bin/python benchmarks/negatives.py [--quick] [--repeats 7] [--seed 0]

All train one stage with the same positives, 512 uniform and all in-batch negatives; what they have beside is
the difference. Those with cached batches take turns step by step: virtual negatives stand beside as many real
ones. Those that draw as they train, through the same pipeline as `fit`, take turns in blocks of steps. A
repeat is the median over its steps, or the mean of a block; a time or a ratio the median over the repeats.
Prints a table, then one line of JSON.
"""

import argparse
import json
import os
import platform
import time

import numpy as np

import csmf_tf
from csmf_tf._keras import keras, tf
from csmf_tf.config import Negatives
from csmf_tf.negatives.clusters import Clusters
from csmf_tf.negatives.sampler import NegativeSampler
from csmf_tf.towers import Feature

BATCHES = 16
BASE = ("in_batch", "uniform")


def make_model(users, items):
    """A model at the beginning of its stage."""
    names = [np.arange(n).astype(str) for n in (users, items)]
    model = csmf_tf.CSMF(
        ["view"],
        user_features=[Feature("user_id", "id", vocabulary=tuple(names[0]))],
        item_features=[Feature("item_id", "id", vocabulary=tuple(names[1]))],
        embedding_dim=64,
        loss="sampled",
        l2=0.4,
    )
    model.set_catalogue(names[1], {"item_id": names[1]})
    model.begin("view")
    return model


def make_clusters(items, rng):
    """Two levels of clusters of even sizes, for items without content."""
    outer = max(2, round(np.sqrt(items) / 4))
    level2 = rng.permutation(items) % (8 * outer)
    level1 = level2 // 8
    easy = rng.random((outer, outer))
    np.fill_diagonal(easy, 0)
    centres = np.zeros((outer, 1), np.float32)
    return Clusters(level1, level2, easy / easy.sum(axis=1, keepdims=True), centres, centres[level1])


class OwnUniform(NegativeSampler):
    """Draws so many uniform negatives for each row of its own, in place of those by clusters."""

    def __init__(self, count, *arguments):
        super().__init__(*arguments)
        self._own = count

    def draw(self, users, items, rng):
        shape = len(users), self._own
        return super().draw(users, items, rng) | {
            "cluster_negatives": rng.integers(0, len(self._frequency), shape, np.int32),
            "cluster_log_q": np.full(shape, -2.0, np.float32),
        }


def make_batches(sampler, users, popularity, size, rng):
    """Yields batches for ever; the popularity of the items falls off as 1 / rank."""
    ones = np.ones(size, np.float32)
    while True:
        who = rng.integers(1, users + 1, size, np.int32)
        items = np.searchsorted(np.cumsum(popularity)[:-1], rng.random(size)).astype(np.int32)
        batch = {"user": {"user_id": who}, "user_l2": ones, "item": items, "item_l2": ones}
        yield batch | sampler.draw(who, items, rng)


def make_step(model, batches, cached):
    """A function that runs one step as `fit` would and waits for its loss."""
    if cached:
        kept = [next(batches) for _ in range(BATCHES)]
        batches = iter(kept)
    else:
        kept = [next(batches)]
    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec([None, *x.shape[1:]][: x.ndim], x.dtype), kept[0]
    )
    dataset = tf.data.Dataset.from_generator(lambda: batches, output_signature=signature)
    dataset = dataset.cache().repeat() if cached else dataset
    iterator = iter(dataset.prefetch(2))
    model.compile(keras.optimizers.Adagrad(0.1))
    function = model.make_train_function()
    return lambda: float(function(iterator)["loss"])


def milliseconds(steps, repeats, count, block):
    """Milliseconds a step, float64 [repeats, S]; in turns of one step, or of `count`."""
    for _ in range(BATCHES + 1):
        for step in steps:
            step()
    found = np.zeros((repeats, len(steps)))
    for repeat in range(repeats):
        if block:
            for k, step in enumerate(steps):
                # What the others have drawn ahead is done by now.
                for _ in range(4):
                    step()
                started = time.perf_counter()
                for _ in range(count):
                    step()
                found[repeat, k] = (time.perf_counter() - started) / count
            continue
        seconds = np.zeros((count, len(steps)))
        for n in range(count):
            for k, step in enumerate(steps):
                started = time.perf_counter()
                step()
                seconds[n, k] = time.perf_counter() - started
        found[repeat] = np.median(seconds, axis=0)
    return 1e3 * found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    users, items, size, repeats, count = 100_000, 10_000, 1024, args.repeats, 30
    if args.quick:
        users, items, size, repeats, count = 300, 200, 64, 2, 2
    popularity = 1 / np.arange(10, items + 10)
    popularity /= popularity.sum()
    clusters = make_clusters(items, np.random.default_rng(args.seed))
    rows = np.maximum((1e6 * popularity).round(), 1)

    def sampler(*kinds, own=None, **settings):
        arguments = Negatives(kind=(*BASE, *kinds), **settings), rows, None, clusters
        return NegativeSampler(*arguments) if own is None else OwnUniform(own, *arguments)

    # By default EDIS makes 28 simple virtual negatives and a hard one a row, MSAC draws 14 a row.
    cached = {
        "29 more uniform": sampler(uniform=541),
        "EDIS": sampler("edis"),
        "14 + 29 more a row": sampler(own=43),
        "MSAC and EDIS": sampler("msac", "edis"),
    }
    drawing = {"14 uniform a row, drawn": sampler(own=14), "MSAC, drawn": sampler("msac")}
    times = {}
    print(f"{'beside in-batch and 512 uniform':<34}{'ms a step':>10}")
    for group in (cached, drawing):
        keras.utils.set_random_seed(args.seed)
        steps = [
            make_step(
                make_model(users, items),
                make_batches(one, users, popularity, size, np.random.default_rng(args.seed)),
                group is cached,
            )
            for one in group.values()
        ]
        found = milliseconds(steps, repeats, count, block=group is drawing)
        for name, column in zip(group, found.T, strict=True):
            times[name] = column
            print(f"{name:<34}{np.median(column):>10.2f}", flush=True)
    rng = np.random.default_rng(args.seed)
    alone = {}
    for name, one in drawing.items():
        who, what = np.zeros(size, np.int64), rng.integers(0, items, size)
        seconds = []
        for _ in range(5 * repeats):
            started = time.perf_counter()
            one.draw(who, what, rng)
            seconds.append(time.perf_counter() - started)
        alone[name] = 1e3 * float(np.median(seconds))

    def ratio(ours, peer):
        return round(float(np.median(times[ours] / times[peer])), 3)

    versions = {"numpy": np.__version__, "tensorflow": tf.__version__, "csmf_tf": csmf_tf.__version__}
    sizes = {"users": users, "items": items, "batch": size, "dim": 64, "repeats": repeats, "steps": count}
    result = {
        "edis_to_real": ratio("EDIS", "29 more uniform"),
        "edis_of_msac_to_real": ratio("MSAC and EDIS", "14 + 29 more a row"),
        "msac_to_uniform": ratio("MSAC, drawn", "14 uniform a row, drawn"),
        "draw_ms": {name: round(ms, 3) for name, ms in alone.items()},
        "setting": {
            "seed": args.seed,
            **sizes,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **versions,
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
