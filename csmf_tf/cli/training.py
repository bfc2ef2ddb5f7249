"""Commands that train."""

from csmf_tf.cli.output import Answer
from csmf_tf.cli.runs import check_run


def register(command):
    """Adds the commands of this module; `command` is that of `csmf_tf.cli`."""
    sub = command(
        "fit",
        _fit,
        "train all stages, or go on with a run",
        "config.yaml --out build/run",
        "config.yaml --out build/small --set model.embedding_dim=16 --set training.epochs=5",
        goes_on=True,
    )
    sub.add_argument("config", metavar="CONFIG.yaml", help="the configuration, see docs/config.md")
    sub.add_argument(
        "--out", required=True, metavar="RUN", help="folder of the run; one that exists is resumed"
    )
    sub.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override, e.g. loss.l2=0.1"
    )

    sub = command(
        "extend",
        _extend,
        "add an objective to a finished run",
        "build/run --behavior return",
        "build/run --behavior refund --log more.csv.gz --share 0.05",
        goes_on=True,
    )
    sub.add_argument("directory", metavar="RUN", help="folder of a run")
    sub.add_argument("--behavior", required=True, metavar="NAME", help="the behaviour, as the log names it")
    sub.add_argument("--log", metavar="PATH", help="log in which it occurs (default that of the run)")
    sub.add_argument("--share", type=float, help="share of each layer to keep at most (default all free)")


def _fit(args):
    from csmf_tf.config import load_config

    config = load_config(args.config, args.set)

    from csmf_tf.evaluation.plots import capacity_png
    from csmf_tf.run import Run

    _make_deterministic()
    run = Run(args.out, config)
    run.fit(verbose=2)
    capacity_png(run.directory / "capacity.png", run.model.capacity(), run.model.funnel)
    return _trained(run, args.out)


def _extend(args):
    check_run(args.directory)

    from csmf_tf.run import Run

    _make_deterministic()
    run = Run(args.directory)
    run.add_objective(args.behavior, args.log, args.share, verbose=2)
    return _trained(run, args.directory)


def _make_deterministic():
    from csmf_tf._keras import tf

    # So that a resumed run ends with the same bits as an unbroken one.
    tf.config.experimental.enable_op_determinism()


def _trained(run, path):
    from csmf_tf.evaluation.tables import format_capacity

    capacity, funnel = run.model.capacity(), run.model.funnel
    owners = ("free", *funnel)
    shares = {name: dict(zip(owners, row.tolist(), strict=True)) for name, row in capacity.items()}
    text = (
        f"\ncapacity: share of each layer per owner\n{format_capacity(capacity, funnel)}\n\n"
        f"done: {path}; measure it with `csmf-tf evaluate {path}`"
    )
    return Answer({"path": path, "objectives": list(funnel), "capacity": shares, "log": run.log}, text)
