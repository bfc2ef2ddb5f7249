"""Ranks items that training never saw, by their features alone, after training with some ids hidden.

    .venv/bin/python benchmarks/cold_items.py [--shares 0 0.1 0.3 0.5] [--seed 0] [--quick]

Of the items with five events or more a tenth, drawn at random, is new: their events are taken out of the
log. A model is trained on the rest for each share of hidden ids (`model.item_id_drop`). Users of whom
something is left are asked for the new items that they did: among the new items alone, and among all items
but those that they have met. `known` is what the model finds of its own held-out events. Prints Recall@50
with 95 % intervals over users, then one line of JSON. The logs are a simulated one, and movielens-small where
`--folder` has it.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import csmf_tf
from benchmarks.quality.movielens import with_times, with_words
from csmf_tf._keras import keras, tf
from csmf_tf.config import from_dict
from csmf_tf.data.groups import Groups, group
from csmf_tf.data.log import EventLog
from csmf_tf.data.tables import align, pad_lists, read_table
from csmf_tf.evaluation.metrics import user_metrics
from csmf_tf.evaluation.ranking import rank
from csmf_tf.evaluation.statistics import intervals
from csmf_tf.run import Run

COLUMNS = {"user": "user_id", "item": "item_id", "behavior": "behavior"}
LEAST_EVENTS, NEW, K = 5, 0.1, 50


class Log(NamedTuple):
    """A log on disk, with what is known of its items."""

    events: pathlib.Path
    items: pathlib.Path
    funnel: tuple[str, ...]
    features: dict[str, str]


def simulated(out: pathlib.Path, users: int, items: int) -> Log:
    """A log of the simulator: the category of an item tells part of who likes it."""
    csmf_tf.simulate(users, items).write(out)
    kinds = {"category": "categorical", "price": "numeric"}
    return Log(out / "events.csv.gz", out / "items.csv.gz", ("view", "cart", "buy"), kinds)


def movielens(folder: pathlib.Path, out: pathlib.Path) -> Log:
    """movielens-small, with genres, words of the titles and years."""
    out.mkdir(parents=True, exist_ok=True)
    events = with_times(folder / "ratings.csv.gz", out / "events.csv")
    items = with_words(folder / "items.csv.gz", out / "items.csv")
    return Log(events, items, ("rated",), {"genres": "multi", "words": "multi", "year": "numeric"})


class Left(NamedTuple):
    """What is left of a log without its new items: its path, their ids, and all events."""

    path: pathlib.Path
    new: np.ndarray
    events: EventLog


def without_new(log: Log, out: pathlib.Path, seed: int) -> Left:
    """Draws the new items, and writes the log without them."""
    events = csmf_tf.read_log(log.events, **COLUMNS, funnel=log.funnel)
    often = np.flatnonzero(np.bincount(events.item) >= LEAST_EVENTS)
    new = np.random.default_rng(seed).choice(often, round(NEW * len(often)), replace=False)
    text = pa.csv.ConvertOptions(column_types=dict.fromkeys(COLUMNS.values(), pa.string()))
    table = pa.csv.read_csv(log.events, convert_options=text)
    is_new = np.isin(table["item_id"].to_numpy(), events.items[new].astype(str))
    pa.csv.write_csv(table.filter(pa.array(~is_new)), out / "known.csv")
    return Left(out / "known.csv", events.items[new], events)


def measure(
    log: Log, left: Left, out: pathlib.Path, share: float, training: dict[str, int]
) -> dict[str, dict[str, Any]]:
    """Objective -> what -> mean Recall@50 and its interval."""
    path, new, events = left
    config = {
        "log": {"path": str(path), "items": str(log.items), **COLUMNS},
        "funnel": list(log.funnel),
        "split": {"kind": "item_holdout"},
        "features": {"item": log.features},
        "model": {"item_id_drop": share},
        "training": training,
    }
    shutil.rmtree(out / "run", ignore_errors=True)
    run = Run(out / "run", from_dict(config))
    run.fit(verbose=0)
    evaluator = run.evaluator()
    vectors, found = evaluator.vectors(run.model), {}
    table = pad_lists(align(read_table(log.items, "item_id", log.features), "item_id", new))
    inputs = {key: tf.constant(v.astype(str) if v.dtype == object else v) for key, v in table.items()}
    of_new = run.model.item_embedder()(inputs).numpy()
    split = run.prepared.split
    met = evaluator.known.append(split.test).append(split.met).items_of_users()
    for k, objective in enumerate(log.funnel):
        users, items = vectors.weighed(np.eye(len(log.funnel))[k])
        targets = new_targets(events, k, new, split.train.users)
        everything = Groups(targets.offsets, targets.items + np.int32(len(items)))
        values = {
            "known": evaluator.discovery((users, items), objective).values[f"recall@{K}"],
            "new among new": recall((users, of_new), targets, None),
            "new among all": recall((users, np.concatenate([items, of_new])), everything, met),
        }
        found[objective] = {
            what: {"mean": float(one.mean()), "interval": list(intervals({K: one})[K]), "users": len(one)}
            for what, one in values.items()
        }
        found[objective]["chance among new"] = {"mean": min(1.0, K / len(new))}
    return found


def new_targets(events: EventLog, behavior: int, new: np.ndarray, users: np.ndarray) -> Groups:
    """The new items, by their place in `new`, that each of `users` did."""
    row, place = ({one: n for n, one in enumerate(ids)} for ids in (users, new))
    row_of = np.array([row.get(user, -1) for user in events.users])
    place_of = np.array([place.get(item, -1) for item in events.items])
    did = events.take(events.behavior == behavior)
    pairs = np.stack([row_of[did.user], place_of[did.item]])
    rows, items = np.unique(pairs[:, (pairs >= 0).all(axis=0)], axis=1)
    return group(rows, items.astype(np.int32), len(users))


def recall(scores, targets: Groups, seen: Groups | None) -> np.ndarray:
    """Recall@50 of each user with a target."""
    users = np.flatnonzero(targets.counts)
    return user_metrics(rank(scores, seen, users, K), targets, users, [K])[f"recall@{K}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.1, 0.3, 0.5])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/bench/cold"))
    parser.add_argument("--quick", action="store_true", help="a tiny log, to see that it runs")
    args = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    training = {"seed": args.seed} | ({"epochs": 1, "recover_epochs": 0} if args.quick else {})
    logs = {"simulated": simulated(args.out / "simulated", *((150, 80) if args.quick else (3000, 1500)))}
    source = args.folder / "movielens-small"
    if args.quick:
        print("left out movielens-small: --quick")
    elif source.exists():
        logs["movielens-small"] = movielens(source, args.out / "movielens-small")
    else:
        print(f"left out movielens-small: there is no {source}")
    results: dict[str, Any] = {}
    for name, log in logs.items():
        left = without_new(log, args.out / name, args.seed)
        for share in args.shares:
            one = measure(log, left, args.out / name, share, training)
            results.setdefault(name, {})[str(share)] = one
            for objective, row in one.items():
                cells = [f"{what} {_shown(cell)}" for what, cell in row.items()]
                print(f"{name:16} {share:<4} {objective:6} {', '.join(cells)}", flush=True)
            keras.backend.clear_session()
    setting = {"seed": args.seed, "cores": os.cpu_count(), "tensorflow": tf.__version__}
    print(json.dumps(results | {"setting": setting | {"csmf_tf": csmf_tf.__version__}}))


def _shown(cell: dict[str, Any]) -> str:
    bounds = " ".join(f"{bound:.4f}".removeprefix("0") for bound in cell.get("interval", []))
    return f"{cell['mean']:.4f}".removeprefix("0") + (f" [{bounds}]" if bounds else "")


if __name__ == "__main__":
    main()
