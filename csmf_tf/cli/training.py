"""Commands that train."""

import sys


def register(command):
    """Adds the commands of this module; `command` is that of `csmf_tf.cli`."""
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

    sub = command("demo", _demo, "run everything once on a small log", "--out build/demo")
    sub.add_argument("--out", required=True, metavar="DIR", help="folder for all that the demo writes")
    sub.add_argument(
        "--data",
        metavar="PATH",
        help="a log with columns user_id, item_id, behavior (view, cart, buy) and perhaps timestamp; "
        "default: a simulated one",
    )


def _fit(args):
    from csmf_tf.config import load_config

    config = load_config(args.config, args.set)

    from csmf_tf._keras import tf
    from csmf_tf.evaluation.plots import capacity_png
    from csmf_tf.evaluation.tables import format_capacity
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


def _demo(args):
    from csmf_tf.demo import demo

    demo(args.out, args.data)


def _verbose(args):
    # Progress bars in a file would be a heap of backspaces.
    return 2 if args.quiet or not sys.stdout.isatty() else "auto"
