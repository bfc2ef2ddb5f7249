"""Commands that measure runs."""

from csmf_tf.cli.output import Answer
from csmf_tf.cli.runs import open_run


def register(command):
    """Adds the commands of this module; `command` is that of `csmf_tf.cli`."""
    sub = command(
        "evaluate",
        _evaluate,
        "measure a run on its test events and write RUN/report",
        "build/run",
        "build/run --json metrics.json",
    )
    sub.add_argument("directory", metavar="RUN", help="folder of a run")

    sub = command(
        "negatives",
        _negatives,
        "draw negatives of every kind for a run, say how many are false and how difficult, and write "
        "RUN/negatives",
        "build/run --objective buy",
    )
    sub.add_argument("directory", metavar="RUN", help="folder of a run")
    sub.add_argument("--objective", metavar="NAME", help="a finished objective (default the last)")
    sub.add_argument("--rows", type=int, default=4000, metavar="N", help="training events (default 4000)")

    sub = command(
        "compare",
        _compare,
        "put runs beside the first one, user by user",
        "build/one build/other",
        "build/one build/other --metric ndcg@50 --targets new --json compared.json",
    )
    sub.add_argument("baseline", metavar="RUN_A", help="folder of an evaluated run, or its users.parquet")
    sub.add_argument("others", metavar="RUN_B", nargs="+", help="the same of what to compare with it")
    sub.add_argument(
        "--metric",
        action="append",
        metavar="NAME",
        help="a metric such as map@50, or all; may be given more than once (default recall and ndcg at the "
        "first K of `evaluate.ks`)",
    )
    sub.add_argument(
        "--targets",
        action="append",
        choices=["discovery", "all", "met", "new"],
        help="kind of targets; may be given more than once (default discovery)",
    )


def _evaluate(args):
    run = open_run(args.directory)

    from csmf_tf.evaluation.tables import format_table
    from csmf_tf.reporting import write_evaluation

    evaluation = run.evaluation()
    page = write_evaluation(run, evaluation)
    return Answer(evaluation.results, f"{format_table(evaluation.results)}\n\nreport: {page}")


def _negatives(args):
    run = open_run(args.directory)

    from csmf_tf.diagnosis import diagnose
    from csmf_tf.evaluation.negative_plots import clusters_png, difficulty_png
    from csmf_tf.evaluation.tables import format_negatives

    diagnosis = diagnose(run, args.objective, args.rows)
    folder = run.directory / "negatives"
    folder.mkdir(exist_ok=True)
    difficulty_png(folder / "difficulty.png", {name: d.difficulty for name, d in diagnosis.drawn.items()})
    clusters_png(folder / "clusters.png", diagnosis.clusters)
    summary = diagnosis.summary()
    return Answer(summary, f"{format_negatives(summary)}\n\nplots: {folder}")


def _compare(args):
    from csmf_tf.evaluation.compare import compare, load_results
    from csmf_tf.evaluation.comparison import format_comparison

    results = load_results([args.baseline, *args.others])
    comparison = compare(results, args.metric, args.targets or ("discovery",))
    return Answer(comparison.to_dict(), format_comparison(comparison))
