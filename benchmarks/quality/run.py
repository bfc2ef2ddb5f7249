"""CSMF beside every alternative, on the same split, with the same evaluator.

    .venv/bin/python benchmarks/quality/run.py [--logs taobao retailrocket] [--methods csmf mmoe] [--small]

Computes what is missing in `--out`, one file for each log, method and seed, and prints the table: killed, it
goes on. `--workers` results are computed at a time, each in a process of its own on its share of the cores.
After a change of code, take another `--out`. The logs are not part of the project.
"""

import argparse
import gc
import json
import os
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")

import csmf_tf
from benchmarks.quality import (
    alternatives,
    compute,
    csmf,
    graph,
    heterrec,
    negatives,
    peers,
    report,
    scaling,
    sequential,
    workers,
)
from benchmarks.quality.task import (
    ALL_LOGS,
    NEGATIVES_LOGS,
    SEQUENCE_LOGS,
    SIMULATED_LOGS,
    configuration,
    files_of,
)
from csmf_tf._keras import keras, tf
from csmf_tf.run import Run

MAIN_LOGS = ["taobao", "retailrocket"]
DEFAULT = [*peers.METHODS, "csmf", "packnet", *alternatives.METHODS]
# What takes long to lose is run by name.
DEFAULT.remove("bpr_own")
ABLATIONS = ["csmf", "csmf_keep_freed", *(f"csmf_{name}" for name in csmf.ABLATIONS)]
SMALL = [name for name in DEFAULT if not name.startswith(("ease", "bpr")) and not name.endswith("_own")]
# The test file is an extra bar, and dear: 36 users a batch.
PUBLISHED = ["csmf", "union", "ials_own", "ials_union", "ials_weighted", "knn_union", "ease_union"]
PUBLISHED += ["popularity", "popularity_any", "counting"]
SEQUENCES = ["popularity", "knn_own", *sequential.METHODS, "heterrec", "heterrec_joined"]
SMALL_OVERRIDES = ["training.epochs=5", "training.recover_epochs=3"]


def results_of(log: str, args: argparse.Namespace) -> tuple[dict, list[str]]:
    """All results of one log, the missing ones computed; and the metrics that they hold."""
    overrides = [*(SMALL_OVERRIDES if args.small else []), *args.set]
    config = configuration(log, args.folder, args.out, overrides)
    folder = args.out / log

    def read(method, seed):
        return report.read(compute.path_of(folder, method, seed), compute.setting_of(method, config, seed))

    seeds = {method: args.seeds[: 1 if method in peers.SEEDLESS else None] for method in args.methods}
    asked = [(method, seed) for method in args.methods for seed in seeds[method]]
    if missing := [one for one in asked if read(*one) is None]:
        # The split is made once: two processes that start at once would write over one another's.
        compute_all(folder, Run(folder / "split", config), missing, args.workers)
    found = {name: [read(name, seed) for seed in seeds[name]] for name in seeds}
    return found, report.metrics_of(config.evaluate.ks)


def compute_all(folder: pathlib.Path, base: Run, missing: Sequence[tuple[str, int]], at_once: int) -> None:
    """Computes a log's missing results (method and seed), several at a time or, if one, in this process."""
    if min(at_once, len(missing)) == 1:
        for method, seed in missing:
            compute.compute(folder, base, method, seed)
            keras.backend.clear_session()
            gc.collect()
        return
    # The peers are quick, and fill the gaps at the end.
    ordered = sorted(missing, key=lambda one: one[0] in peers.METHODS)
    script = [sys.executable, compute.__file__, str(folder.parent), folder.name]
    workers.run_all(
        {f"{folder.name} {method} {seed}": [*script, method, str(seed)] for method, seed in ordered}, at_once
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--logs",
        nargs="+",
        choices=ALL_LOGS,
        help=f"default: {', '.join(MAIN_LOGS)}",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=compute.METHODS,
        metavar="METHOD",
        help=f"of {', '.join(compute.METHODS)}",
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 0 1 2, 0 with --small")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument(
        "--out", type=pathlib.Path, help="default: build/quality, with --small build/quality-small"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in csmf-tf fit")
    parser.add_argument(
        "--ablations", action="store_true", help="variants of CSMF instead, one seed, on taobao"
    )
    parser.add_argument(
        "--published", action="store_true", help="a choice of methods instead, on retailrocket-published"
    )
    parser.add_argument(
        "--negatives", action="store_true", help="kinds of negatives instead, on logs of one objective"
    )
    parser.add_argument(
        "--sequences", action="store_true", help="sequential recommenders instead, on logs with times"
    )
    parser.add_argument(
        "--scaling", action="store_true", help="depths and widths of HeterRec instead, one seed, two logs"
    )
    parser.add_argument(
        "--small", action="store_true", help="one seed, few epochs, the quick methods, on taobao"
    )
    cores = len(os.sched_getaffinity(0))
    parser.add_argument(
        "--workers", type=int, default=cores, help="results at a time, default: one a core (%(default)s here)"
    )
    args = parser.parse_args()
    if args.workers < 1:
        parser.error(f"`--workers` should be an integer >= 1. Received: {args.workers}")
    part = args.small or args.ablations or args.scaling
    logs, methods, name = MAIN_LOGS[: 1 if part else None], DEFAULT, "summary.json"
    if args.published:
        logs, methods, name = ["retailrocket-published"], PUBLISHED, "published.json"
    elif args.negatives:
        logs, methods, name = [*NEGATIVES_LOGS], [*negatives.METHODS], "negatives.json"
    elif args.sequences:
        logs, methods, name = [*SEQUENCE_LOGS], SEQUENCES, "sequences.json"
    elif args.scaling:
        logs, methods, name = [*SIMULATED_LOGS, "movielens-last"], [*heterrec.SCALING], "scaling.json"
    elif args.ablations:
        methods, name = ABLATIONS, "ablations.json"
    elif args.small:
        methods = SMALL
    args.logs, args.methods = args.logs or logs, args.methods or methods
    if not graph.INTERPRETER.exists() and set(args.methods) & set(graph.METHODS):
        print(f"left out {[*graph.METHODS]}: there is no {graph.INTERPRETER}; `make lightgcn` makes it")
        args.methods = [method for method in args.methods if method not in graph.METHODS]
        if not args.methods:
            return
    args.seeds = args.seeds or ([0] if part else [0, 1, 2])
    args.out = args.out or pathlib.Path("build/quality-small" if args.small else "build/quality")
    tf.config.experimental.enable_op_determinism()
    reported = {}
    for log in args.logs:
        simulated = log in SIMULATED_LOGS
        if absent := not simulated and [file for file in files_of(log, args.folder) if not file.exists()]:
            print(f"left out {log}: there is no {absent[0]}")
            continue
        results, metrics = results_of(log, args)
        reported[log] = report.summarise(results, metrics)
        print(f"\n{log}\n{report.table(reported[log], metrics)}\n", flush=True)
    versions = {"tensorflow": tf.__version__, "csmf_tf": csmf_tf.__version__}
    options = {key: getattr(args, key) for key in ("seeds", "set", "small", "workers")}
    setting = {**options, "cores": os.cpu_count(), **versions}
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / name
    path.write_text(json.dumps({**reported, "setting": setting}, indent=1))
    print(f"all of it, with the fused rankings: {path}")
    if args.scaling and reported:
        scaling.draw(
            path.with_suffix(".png"), reported, "recall@10" if "recall@10" in metrics else metrics[0]
        )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("Stopped. What was finished is kept, and the same command goes on")
