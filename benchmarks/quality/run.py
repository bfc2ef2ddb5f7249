"""CSMF beside every alternative, on the same split, with the same evaluator.

    .venv/bin/python benchmarks/quality/run.py [--logs taobao retailrocket] [--methods csmf mmoe] [--small]

Computes what is missing in `--out`, one file for each log, method and seed, and prints the table: killed, it
goes on. After a change of code, take another `--out`. The logs are not part of the project.
"""

import argparse
import gc
import hashlib
import json
import os
import pathlib
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")

import csmf_tf
from benchmarks.quality import alternatives, csmf, peers, report
from benchmarks.quality.fused import curve
from benchmarks.quality.task import LOGS, Task, configuration, files_of
from csmf_tf._keras import keras, tf
from csmf_tf.config import to_dict
from csmf_tf.run import Run

METHODS = peers.METHODS | alternatives.METHODS | csmf.METHODS
DEFAULT = [*peers.METHODS, "csmf", "packnet", *alternatives.METHODS]
# What takes long to lose is run by name.
DEFAULT.remove("bpr_own")
ABLATIONS = ["csmf", "csmf_keep_freed", *(f"csmf_{name}" for name in csmf.ABLATIONS)]
SMALL = [name for name in DEFAULT if not name.startswith(("ease", "bpr")) and not name.endswith("_own")]
SMALL_OVERRIDES = ["training.epochs=5", "training.recover_epochs=3"]
FUSED_USERS = 2000


def setting_of(method: str, config, seed: int) -> dict:
    """What a result depends on, apart from the code."""
    plain = to_dict(config)
    keys = ("funnel", "split", "validation_users", "evaluate", "model")
    if method not in peers.METHODS:
        keys = tuple(key for key in plain if key != "log")
    return {"method": method, "seed": seed, **{key: plain[key] for key in keys}}


def compute(method: str, setting: dict, task: Task) -> report.Result:
    """Trains and measures one method."""
    started = time.monotonic()
    ranked = METHODS[method](task)
    seconds = time.monotonic() - started
    test = task.test
    metrics = [test.metric, test.metric.replace("recall", "ndcg")]
    summary, users, met = {}, {}, {}
    tested = {name: one for name, one in ranked.scores.items() if test.targets[name].counts.any()}
    for name, scores in tested.items():
        found = test.discovery(scores, name)
        summary[name] = {metric: float(found.values[metric].mean()) for metric in metrics}
        users |= {f"{name}/{metric}": found.values[metric] for metric in metrics}
        users[f"{name}/users"] = found.users
        if test.met_targets[name].counts.any():
            parts = test.with_met(scores, name)
            met[name] = {
                part: {m: float(one.values[m].mean()) for m in metrics} for part, one in parts.items()
            }
    points = curve(ranked, test.sample(FUSED_USERS)) if len(tested) == len(ranked.scores) else None
    measured = {
        "setting": setting,
        "metrics": summary,
        "met": met,
        "fused": None if points is None else points.tolist(),
        "seconds": seconds,
        "indexes": ranked.indexes,
        "dims": ranked.dims,
        "notes": dict(ranked.notes),
    }
    return report.Result(measured, users)


def results_of(log: str, args: argparse.Namespace) -> tuple[dict, list[str]]:
    """All results of one log, the missing ones computed; and the metrics that they hold."""
    overrides = [*(SMALL_OVERRIDES if args.small else []), *args.set]
    config = configuration(log, args.folder, args.out, overrides)
    base, results = None, {}
    for method in args.methods:
        for seed in args.seeds[:1] if method in peers.SEEDLESS else args.seeds:
            setting = setting_of(method, config, seed)
            path = args.out / log / f"{method}-{seed}.json"
            result = report.read(path, setting)
            if result is None:
                base = base or Run(args.out / log / "split", config)
                digest = hashlib.sha256(json.dumps(setting).encode()).hexdigest()[:8]
                folder = args.out / log / f"unfinished-{method}-{seed}-{digest}"
                result = compute(
                    method, setting, Task(base, base.validation(), base.evaluator(), seed, folder)
                )
                report.write(path, result)
                shutil.rmtree(folder, ignore_errors=True)
                keras.backend.clear_session()
                gc.collect()
                found = {
                    name: round(row[f"recall@{config.evaluate.ks[0]}"], 4)
                    for name, row in result.summary["metrics"].items()
                }
                print(f"{log} {method} {seed}: {found}, {result.summary['seconds']:.0f} s", flush=True)
            results.setdefault(method, []).append(result)
    k = config.evaluate.ks[0]
    return results, [f"recall@{k}", f"ndcg@{k}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logs", nargs="+", choices=LOGS, help="default: all, taobao with --small")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, metavar="METHOD", help=f"of {', '.join(METHODS)}"
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
    parser.add_argument("--small", action="store_true", help="one seed, few epochs, the quick methods")
    args = parser.parse_args()
    part = args.small or args.ablations
    args.logs = args.logs or (["taobao"] if part else [*LOGS])
    args.methods = args.methods or (ABLATIONS if args.ablations else SMALL if args.small else DEFAULT)
    args.seeds = args.seeds or ([0] if part else [0, 1, 2])
    args.out = args.out or pathlib.Path("build/quality-small" if args.small else "build/quality")
    tf.config.experimental.enable_op_determinism()
    reported = {}
    for log in args.logs:
        if absent := [file for file in files_of(log, args.folder) if not file.exists()]:
            print(f"left out {log}: there is no {absent[0]}")
            continue
        results, metrics = results_of(log, args)
        reported[log] = report.summarise(results, metrics)
        print(f"\n{log}\n{report.table(reported[log], metrics)}\n", flush=True)
    versions = {"tensorflow": tf.__version__, "csmf_tf": csmf_tf.__version__}
    setting = {"seeds": args.seeds, "set": args.set, "small": args.small, "cores": os.cpu_count(), **versions}
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / ("ablations.json" if args.ablations else "summary.json")
    path.write_text(json.dumps({**reported, "setting": setting}, indent=1))
    print(f"all of it, with the fused rankings: {path}")


if __name__ == "__main__":
    main()
