"""Commands about event logs."""

import os
import shlex

# Those of csmf_tf.data.public.SETS, named here so that --help need not load them.
_SETS = ("taobao", "tmall", "retailrocket", "aliexpress", "aliccp", "kuairand", "movielens")


def register(command):
    """Adds the commands of this module; `command` is that of `csmf_tf.cli`."""
    sub = command(
        "simulate", _simulate, "write a simulated funnel log", "--users 2000 --items 1000 --out build/log"
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
    )
    sub.add_argument("set", metavar="SET", help=f"one of {', '.join(_SETS)}; see docs/datasets.md")
    sub.add_argument("files", metavar="FILE", nargs="+", help="the files of the set that you have downloaded")
    sub.add_argument("--out", required=True, metavar="DIR", help="new folder for log and configuration")
    sub.add_argument(
        "--thresholds", metavar="A,B", help="movielens: from which rating on a film is liked, loved (4,5)"
    )


def _simulate(args):
    if args.heterogeneous:
        from csmf_tf.data.heterogeneous import simulate_heterogeneous

        # No user takes an item twice.
        made = simulate_heterogeneous(args.users, args.items, args.seed, length=min(40, args.items))
        made.write(args.out)
        print(f"wrote events.csv.gz ({len(made.log):,} events) and items.csv.gz to {args.out}")
        return
    from csmf_tf.data.simulator import simulate

    simulation = simulate(args.users, args.items, seed=args.seed)
    simulation.write(args.out)
    print(f"wrote events.csv.gz ({len(simulation.log):,} events), items.csv.gz and truth.npz to {args.out}")


def _import(args):
    from csmf_tf.data.public import import_set

    done = import_set(args.set, args.files, args.out, thresholds=_ratings(args.thresholds), progress=True)
    out = os.path.normpath(args.out)
    counts = ", ".join(f"{name} {count:,}" for name, count in done.events.items())
    print(f"wrote {out}/events.parquet: {counts}")
    for side, rows in done.tables.items():
        print(f"wrote {out}/{side}.parquet: {rows:,} {side}")
    for reason, rows in done.left_out.items():
        print(f"left out: {rows:,} {reason}")
    for side, ids in done.several.items():
        print(f"note: {ids:,} of the {side} come with several sets of features; their first one is taken")
    config = shlex.quote(f"{out}/config.yaml")
    print(f"wrote {out}/config.yaml")
    print(f"next: csmf-tf check {config}")
    print(f"next: csmf-tf fit {config} --out {shlex.quote(f'{out}-run')}")


def _ratings(text):
    try:
        return None if text is None else [float(rating) for rating in text.split(",")]
    except ValueError:
        raise ValueError(f"`--thresholds` should be ratings, e.g. 4,5. Received: {text!r}.") from None
