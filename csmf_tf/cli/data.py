"""Commands about event logs."""

import os
import shlex
from typing import Any

from csmf_tf.cli.output import Answer

# Those of csmf_tf.data.public, named here so that --help need not load them.
SETS = ("taobao", "tmall", "retailrocket", "aliexpress", "aliccp", "kuairand", "movielens")


def register(command):
    """Adds the commands of this module; `command` is that of `csmf_tf.cli`."""
    sub = command(
        "simulate",
        _simulate,
        "write a simulated funnel log",
        "--users 2000 --items 1000 --out build/log",
        "--heterogeneous --users 300 --items 200 --out build/sequences",
    )
    sub.add_argument("--users", type=int, required=True, help="number of users")
    sub.add_argument("--items", type=int, required=True, help="number of items")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for log, items and truth")
    sub.add_argument("--seed", type=int, default=0, help="seed of every draw (default 0)")
    sub.add_argument(
        "--heterogeneous",
        action="store_true",
        help="one behaviour; category, brand, price and tags of several earlier items decide what comes next",
    )
    sub = command(
        "import",
        _import,
        "turn the files of a known public set into a log and its configuration",
        "taobao UserBehavior.csv --out build/taobao",
        "movielens ratings.csv movies.csv --thresholds 4,5 --out build/movielens",
    )
    sub.add_argument("set", metavar="SET", help=f"one of {', '.join(SETS)}; see docs/datasets.md")
    sub.add_argument("files", metavar="FILE", nargs="+", help="the files of the set that you have downloaded")
    sub.add_argument("--out", required=True, metavar="DIR", help="new folder for log and configuration")
    sub.add_argument(
        "--thresholds", metavar="A,B", help="movielens: from which rating on a film is liked, loved (4,5)"
    )


def _simulate(args):
    if args.heterogeneous:
        from csmf_tf.data.heterogeneous import simulate_heterogeneous

        # No user takes an item twice.
        made: Any = simulate_heterogeneous(args.users, args.items, args.seed, length=min(40, args.items))
        files = ["events.csv.gz", "items.csv.gz"]
    else:
        from csmf_tf.data.simulator import simulate

        made = simulate(args.users, args.items, seed=args.seed)
        files = ["events.csv.gz", "items.csv.gz", "truth.npz"]
    made.write(args.out)
    first, *others = files
    told = ", ".join([f"{first} ({len(made.log):,} events)", *others[:-1]])
    document = {"path": args.out, "files": files, "events": len(made.log)}
    return Answer(document, f"wrote {told} and {others[-1]} to {args.out}")


def _import(args):
    from csmf_tf.data.public import import_set

    done = import_set(args.set, args.files, args.out, thresholds=_ratings(args.thresholds))
    out = os.path.normpath(args.out)
    counts = ", ".join(f"{name} {count:,}" for name, count in done.events.items())
    lines = [f"wrote {out}/events.parquet: {counts}"]
    lines += [f"wrote {out}/{side}.parquet: {rows:,} {side}" for side, rows in done.tables.items()]
    lines += [f"left out: {rows:,} {reason}" for reason, rows in done.left_out.items()]
    lines += [
        f"note: {ids:,} of the {side} come with several sets of features; their first one is taken"
        for side, ids in done.several.items()
    ]
    config = shlex.quote(f"{out}/config.yaml")
    lines += [f"wrote {out}/config.yaml", f"next: csmf-tf check {config}"]
    lines += [f"next: csmf-tf fit {config} --out {shlex.quote(f'{out}-run')}"]
    document = {name: value for name, value in done._asdict().items() if name != "directory"}
    return Answer({"path": out} | document, "\n".join(lines))


def _ratings(text):
    try:
        return None if text is None else [float(rating) for rating in text.split(",")]
    except ValueError:
        raise ValueError(f"`--thresholds` should be ratings, e.g. 4,5. Received: {text!r}.") from None
