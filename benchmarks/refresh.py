"""Seconds of a full export of a catalogue beside those of a refresh of some of its items, for each index.

    .venv/bin/python benchmarks/refresh.py [--items 1000000] [--rows 10000] [--quick]

Both go from a CSV file of ids and a feature to a version that is served as it is: they read it, embed its
items by one tower, build or change the index and measure its recall. The file of the export holds all
items; of the rows for the refresh half are new items, a quarter changed and a quarter to be removed. They
take turns. The tower costs next to nothing: its vectors are pseudo-random, with a falling spectrum and
lengths that vary.
"""

import argparse
import csv
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
from retrieve import DIM, OBJECTIVES, OWNER, K, make_vectors

import csmf_tf
from csmf_tf._keras import tf
from csmf_tf.data.tables import read_table

KINDS = ("exact", "portable", "scann")
USERS = {"user": tf.TensorSpec([None, DIM])}
ITEMS = {"item": tf.TensorSpec([None], tf.string), "length": tf.TensorSpec([None], tf.float32)}


# Irrational, and no sums of each other.
PHASES = np.sqrt([n for n in range(2, 400) if all(n % d for d in range(2, n))][:DIM])
SPECTRUM = (2 / np.arange(1, DIM + 1)) ** 0.5


def embed_item(features):
    """Some vector for each id, of the length that the feature says."""
    codes = tf.cast(tf.strings.to_hash_bucket_fast(features["item"], 1 << 40), tf.float64)
    directions = tf.sin(codes[:, tf.newaxis] * PHASES) * SPECTRUM
    return tf.cast(directions, tf.float32) * features["length"][:, tf.newaxis]


def write_all(path: Path, n: int, rng: np.random.Generator) -> None:
    """A table of a catalogue of `n` items."""
    lengths = rng.lognormal(0, 0.25, n).round(3).tolist()
    path.write_text("item,length\n" + "\n".join(f"item {row},{x}" for row, x in enumerate(lengths)))


def write_changes(path: Path, n: int, rows: int, rng: np.random.Generator) -> None:
    """A table of `rows` items of a catalogue of `n`: half new, a quarter changed, a quarter removed."""
    old = rng.choice(n, rows // 2, replace=False)
    ids = [f"new {row}" for row in range(rows - len(old))] + [f"item {row}" for row in old]
    removed = np.arange(rows) >= rows - rows // 4
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["item", "length", "remove"])
        table.writerows(zip(ids, rng.lognormal(0, 0.25, rows).round(3), removed.astype(int), strict=True))


def embedded(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The ids and vectors of the items of a table."""
    table = read_table(path, "item", {"length": "numeric"})
    ids, lengths = table["item"], table["length"]
    parts = range(0, len(ids), 4096)
    vectors = [
        embed_item({"item": tf.constant(ids[at : at + 4096]), "length": tf.constant(lengths[at : at + 4096])})
        for at in parts
    ]
    return ids, np.concatenate(vectors)


def measure(kind: str, args: argparse.Namespace) -> dict[str, float]:
    """Median seconds of both, and of the call of `export` alone; and the least recall of both."""
    rng = np.random.default_rng(args.seed)
    probe = {"user": make_vectors(256, rng)}
    seconds: dict[str, list[float]] = {"full": [], "call": [], "refresh": []}
    recalls = {}
    for _ in range(args.repeats):
        with tempfile.TemporaryDirectory() as folder:
            catalogue, changes = Path(folder, "all.csv"), Path(folder, "items.csv")
            write_all(catalogue, args.items, rng)
            write_changes(changes, args.items, args.rows, rng)
            # Neither pays for what was written before it.
            os.sync()
            begun = time.perf_counter()
            ids, vectors = embedded(catalogue)
            started = time.perf_counter()
            path = csmf_tf.export(
                lambda features: features["user"],
                USERS,
                ids,
                vectors,
                OWNER,
                OBJECTIVES,
                f"{folder}/shop",
                index=kind,
                k=K,
                embed_item=embed_item,
                item_signature=ITEMS,
                probe=probe,
                min_recall=0,
            )
            seconds["call"].append(time.perf_counter() - started)
            seconds["full"].append(time.perf_counter() - begun)
            card = json.loads(Path(path, "assets.extra", "csmf.json").read_text())
            os.sync()
            started = time.perf_counter()
            done = csmf_tf.refresh(f"{folder}/shop", changes)
            seconds["refresh"].append(time.perf_counter() - started)
            assert (done.added, done.removed) == (args.rows - args.rows // 2, args.rows // 4)
            recalls = {"export": min(card["recall"].values(), default=1.0)}
            recalls["refresh"] = min(done.recall.values(), default=1.0)
    return {name: float(np.median(values)) for name, values in seconds.items()} | {
        f"recall_{name}": value for name, value in recalls.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    args = parser.parse_args()
    if args.quick:
        args.items, args.rows, args.repeats = 3000, 40, 1
    print(f"{args.items:,} items x {DIM}, {args.rows:,} rows of changes")
    columns = f"{'s, full':>10}{'export()':>10}{'refresh':>9}{'ratio':>7}"
    print(f"{'':<10}{columns}  recall:{'export':>8}{'refresh':>9}")
    results = {}
    for kind in args.index:
        found = results[kind] = measure(kind, args)
        print(
            f"{kind:<10}{found['full']:>10.2f}{found['call']:>10.2f}{found['refresh']:>9.2f}"
            f"{found['full'] / found['refresh']:>7.1f}{'':9}{found['recall_export']:>8.3f}"
            f"{found['recall_refresh']:>9.3f}",
            flush=True,
        )
    speedups = {kind: round(found["full"] / found["refresh"], 2) for kind, found in results.items()}
    of_call = {kind: round(found["call"] / found["refresh"], 2) for kind, found in results.items()}
    versions = {"tensorflow": tf.__version__, "numpy": np.__version__, "csmf_tf": csmf_tf.__version__}
    setting = {"items": args.items, "rows": args.rows, "dim": DIM, "k": K, "repeats": args.repeats}
    setting |= {"seed": args.seed, "cores": os.cpu_count(), "python": platform.python_version(), **versions}
    ratios = {"refresh_over_export_speedup": speedups, "refresh_over_export_call_speedup": of_call}
    print(json.dumps(ratios | {"results": results, "setting": setting}))


if __name__ == "__main__":
    main()
