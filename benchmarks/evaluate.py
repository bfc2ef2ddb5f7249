"""Time and memory of a full-catalogue evaluation, beside `tfrs.metrics.FactorizedTopK` on the same metric.

    .venv/bin/python benchmarks/evaluate.py [--quick] [--users 100000] [--items 100000] [--dim 64] [--k 50]

Both rank the whole catalogue for users with one target each; the share of targets in the top K has to be the
same. FactorizedTopK streams the catalogue for each batch of queries, so that its time grows in proportion to
them: it is timed on `--peer-users` of the users, and its time is scaled to all. Its catalogue comes as
`dataset.batch(n)`: n = 128 is what its documentation and tutorials write; larger ones are measured too, up to
the whole catalogue at once. Repeats are interleaved. Memory is that of a process of its own.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np

import csmf_tf
from csmf_tf._keras import tf
from csmf_tf.data.groups import Groups
from csmf_tf.evaluation.metrics import evaluate
from csmf_tf.evaluation.ranking import MEMORY_MB

import tensorflow_recommenders as tfrs  # isort: skip  # csmf_tf picks Keras 2 first

DOCUMENTED_BATCH = 128
QUERIES = 1024
MEMORY = r"""
import re, sys
import numpy as np
from csmf_tf.data.groups import Groups
from csmf_tf.evaluation.metrics import evaluate
users, items, dim, k, seed = map(int, sys.argv[1:])
rng = np.random.default_rng(seed)
vectors = [rng.standard_normal((n, dim), np.float32) for n in (users, items)]
targets = Groups(np.arange(users + 1), rng.integers(0, items, users, np.int32))

def peak():  # of this process; getrusage would count what its parent had
    return int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024

before = peak()
evaluate(tuple(vectors), targets, None, [k])
print(peak(), peak() - before)
"""


def make_peer(vectors: np.ndarray, positives: np.ndarray, items: np.ndarray, batch: int, k: int):
    """A function that measures hits in the top k by FactorizedTopK, as in a model's `test_step`."""
    candidates = tf.data.Dataset.from_tensor_slices(items).batch(batch)
    metric = tfrs.metrics.FactorizedTopK(candidates=candidates, ks=(k,))

    @tf.function
    def update(queries, true):
        metric.update_state(queries, true)
        return tf.constant(0)

    def run() -> float:
        metric.reset_states()
        for start in range(0, len(vectors), QUERIES):
            update(vectors[start : start + QUERIES], positives[start : start + QUERIES])
        return float(metric.result()[0])

    update(vectors[:QUERIES], positives[:QUERIES])  # traces
    return run


def timed(function):
    """(seconds, result)."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--peer-users", type=int, default=QUERIES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.users, args.items, args.peer_users, args.repeats = 600, 900, 100, 2

    rng = np.random.default_rng(args.seed)
    users, items = (rng.standard_normal((n, args.dim), np.float32) for n in (args.users, args.items))
    targets = rng.integers(0, args.items, args.users, np.int32)
    # So that some targets are found.
    users += 0.3 * items[targets]
    few = slice(0, args.peer_users)

    def ours(who=slice(None)):
        vectors = users[who]
        groups = Groups(np.arange(len(vectors) + 1), targets[who])
        return evaluate((vectors, items), groups, None, [args.k])[f"hit_rate@{args.k}"]

    batches = sorted({min(n, args.items) for n in (DOCUMENTED_BATCH, 1024, 8192, args.items)})
    peers = {n: make_peer(users[few], items[targets[few]], items, n, args.k) for n in batches}
    expected = ours(few)
    seconds: dict[str | int, list[float]] = {name: [] for name in ("ours", *batches)}
    for _ in range(args.repeats):
        seconds["ours"].append(timed(ours)[0])
        for batch, peer in peers.items():
            took, found = timed(peer)
            if not np.isclose(found, expected, atol=0.5 / args.peer_users):
                raise AssertionError(f"The metrics should be equal. Received: {found} and {expected}")
            seconds[batch].append(took * args.users / args.peer_users)

    ratios = {n: float(np.median(np.divide(seconds[n], seconds["ours"]))) for n in batches}
    sizes = [str(value) for value in (args.users, args.items, args.dim, args.k, args.seed)]
    memory = subprocess.run(
        [sys.executable, "-c", MEMORY, *sizes], capture_output=True, text=True, check=True
    ).stdout.split()
    print(f"{args.users:,} users x {args.items:,} items x {args.dim}, top {args.k}: {expected:.4f} are found")
    print(f"{'evaluation':<40}{'seconds':>10}{'times ours':>12}")
    print(f"{'csmf_tf':<40}{np.median(seconds['ours']):>10.1f}{1:>12.1f}")
    for batch in batches:
        label = f"FactorizedTopK, catalogue by {batch:,}"
        print(f"{label:<40}{np.median(seconds[batch]):>10.1f}{ratios[batch]:>12.1f}")
    print(f"peak memory {float(memory[0]):.0f} MB, of which beside vectors {float(memory[1]):.0f} MB")
    setting = {name: getattr(args, name) for name in ("users", "items", "dim", "k", "peer_users", "repeats")}
    versions = {"numpy": np.__version__, "tensorflow": tf.__version__, "csmf_tf": csmf_tf.__version__}
    setting |= {"seed": args.seed, "memory_mb": MEMORY_MB, "cores": os.cpu_count(), **versions}
    setting |= {"python": platform.python_version(), "tensorflow_recommenders": tfrs.__version__}
    result = {
        "speedup_over_factorized_topk": round(ratios[batches[0]], 1),
        "speedup_by_catalogue_batch": {str(n): round(ratio, 1) for n, ratio in ratios.items()},
        "peak_memory_mb": round(float(memory[0])),
        "working_memory_mb": round(float(memory[1])),
        "setting": setting,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
