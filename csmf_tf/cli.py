"""The `csmf-tf` command."""

import argparse
import json
import os
import pathlib
import sys
import warnings
from collections.abc import Sequence

import csmf_tf


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the arguments without the program's name; by default those of the process.

    Returns:
        The exit code: 0, or 2 when the input was at fault (the reason is on stderr).
    """
    # TensorFlow reports a missing GPU as an error; its Python errors come as exceptions all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    args = _parser().parse_args(argv)
    try:
        args.run(args)
    except BrokenPipeError:
        # The reader of our output has gone, say `head`: nothing is left to say, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError, ImportError, MemoryError) as error:
        if args.debug:
            raise
        print(f"csmf-tf: error: {_text(error)}", file=sys.stderr)
        return 2
    return 0


def _text(error: BaseException) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="csmf-tf",
        description="Multi-objective retrieval: one model, one index, objectives weighed per request.",
    )
    parser.add_argument("--version", action="version", version=f"csmf-tf {csmf_tf.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name, run, about, example):
        sub = commands.add_parser(
            name,
            help=about,
            description=about,
            epilog=f"example: csmf-tf {name} {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "simulate", _simulate, "write a simulated funnel log", "--users 2000 --items 1000 --out build/log"
    )
    sub.add_argument("--users", type=int, required=True, help="number of users")
    sub.add_argument("--items", type=int, required=True, help="number of items")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for log, items and truth")
    sub.add_argument("--seed", type=int, default=0, help="seed of every draw (default 0)")

    sub = command("fit", _fit, "train all stages, or go on with a run", "config.yaml --out build/run")
    sub.add_argument("config", metavar="CONFIG.yaml", help="the configuration, see docs/config.md")
    sub.add_argument(
        "--out", required=True, metavar="RUN", help="folder of the run; one that exists is resumed"
    )
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. loss.l2=0.1"
    )
    sub.add_argument("--quiet", action="store_true", help="plain lines instead of progress bars")

    sub = command("extend", _extend, "add an objective to a finished run", "build/run --behavior return")
    sub.add_argument("directory", metavar="RUN", help="folder of a run")
    sub.add_argument("--behavior", required=True, metavar="NAME", help="the behaviour, as the log names it")
    sub.add_argument("--log", metavar="PATH", help="log in which it occurs (default that of the run)")
    sub.add_argument("--share", type=float, help="share of each layer to keep at most (default all free)")
    sub.add_argument("--quiet", action="store_true", help="plain lines instead of progress bars")

    sub = command("evaluate", _evaluate, "measure a run on its test events", "build/run --json metrics.json")
    sub.add_argument("directory", metavar="RUN", help="folder of a run")
    sub.add_argument("--json", metavar="FILE", help="also write JSON; - for JSON on standard output")

    sub = command("export", _export, "write a SavedModel with its index", "build/run --out build/export")
    sub.add_argument("directory", metavar="RUN", help="folder of a run")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder of the versions 1, 2, ...")
    sub.add_argument("--index", choices=["scann", "exact"], default="scann", help="kind (default scann)")
    sub.add_argument("-k", type=int, default=100, help="results an answer holds (default 100)")

    sub = command(
        "query", _query, "ask an export for a user's items", "DIR --user u17 --weights view=1,buy=3"
    )
    sub.add_argument("directory", metavar="DIR", help="folder of an export")
    sub.add_argument("--user", required=True, metavar="ID", help="the user")
    sub.add_argument("--weights", metavar="NAME=W,...", help="fusion weights; default equal")
    sub.add_argument("-k", type=int, default=10, help="number of items (default 10)")
    sub.add_argument("--json", action="store_true", help="answer as JSON")

    sub = command("demo", _demo, "run everything once on a small log", "--out build/demo")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for all that the demo writes")
    sub.add_argument(
        "--data",
        metavar="PATH",
        help="a log with columns user_id, item_id, behavior (view, cart, buy) and perhaps timestamp; "
        "default: a simulated one",
    )
    return parser


def _simulate(args):
    from csmf_tf.data.simulator import simulate

    simulation = simulate(args.users, args.items, seed=args.seed)
    simulation.write(args.out)
    print(f"wrote events.csv.gz ({len(simulation.log):,} events), items.csv.gz and truth.npz to {args.out}")


def _fit(args):
    from csmf_tf.config import load_config

    config = load_config(args.config, args.set)

    from csmf_tf._keras import tf
    from csmf_tf.evaluation.report import capacity_png, format_capacity
    from csmf_tf.run import Run

    # So that a resumed run ends with the same bits as an unbroken one.
    tf.config.experimental.enable_op_determinism()
    run = Run(args.out, config)
    run.fit(verbose=_verbose(args))
    print("\ncapacity: share of each layer per owner")
    print(format_capacity(run.model.capacity(), run.model.funnel))
    capacity_png(run.directory / "capacity.png", run.model.capacity(), run.model.funnel)
    print(f"\ndone: {args.out}; measure it with `csmf-tf evaluate {args.out}`")


def _extend(args):
    from csmf_tf._keras import tf
    from csmf_tf.run import Run

    tf.config.experimental.enable_op_determinism()
    verbose = _verbose(args)
    Run(args.directory).add_objective(args.behavior, args.log, args.share, verbose=verbose)
    print(f"\ndone: {args.directory}; measure it with `csmf-tf evaluate {args.directory}`")


def _evaluate(args):
    from csmf_tf.evaluation.report import format_table
    from csmf_tf.run import Run

    results = Run(args.directory).restore().evaluate()
    text = json.dumps(results, indent=1)
    if args.json == "-":
        print(text)
        return
    if args.json:
        path = pathlib.Path(args.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(path.name + ".tmp")
        beside.write_text(text + "\n")
        beside.replace(path)
    print(format_table(results))


def _export(args):
    from csmf_tf.run import Run

    print(f"wrote {Run(args.directory).restore().export(args.out, index=args.index, k=args.k)}")


def _query(args):
    from csmf_tf.serving.query import UnknownUserWarning, query

    weights = None if args.weights is None else _parse_weights(args.weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UnknownUserWarning)
        answer = query(args.directory, args.user, weights, args.k)
    for warning in caught:
        if issubclass(warning.category, UnknownUserWarning):
            print(f"csmf-tf: note: {warning.message}", file=sys.stderr)
    if args.json:
        print(json.dumps([{"item": item, "score": score} for item, score in answer]))
    else:
        for rank, (item, score) in enumerate(answer, start=1):
            print(f"{rank:>4}  {score:>10.4f}  {item}")


def _verbose(args):
    # Progress bars in a file would be a heap of backspaces.
    return 2 if args.quiet or not sys.stdout.isatty() else "auto"


def _parse_weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        try:
            if name.strip() in weights:
                raise ValueError
            weights[name.strip()] = float(value)
        except ValueError:
            raise ValueError(
                f"`--weights` should look like view=1,buy=3, each name once. Received: {part!r} in {text!r}"
            ) from None
    return weights


def _demo(args):
    from csmf_tf.demo import demo

    demo(args.out, args.data)
