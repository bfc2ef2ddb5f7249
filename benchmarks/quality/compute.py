"""One result: one method, trained and measured on one log with one seed.

    .venv/bin/python benchmarks/quality/compute.py OUT LOG METHOD SEED

computes it in a process of its own, from the split that `run.py` has made in OUT/LOG/split.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
from functools import partial

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
os.environ.setdefault("OPENBLAS_NUM_THREADS", "2")

from benchmarks.quality import alternatives, csmf, graph, heterrec, negatives, peers, report, sequential
from benchmarks.quality.fused import curve
from benchmarks.quality.task import Task
from csmf_tf._keras import tf
from csmf_tf.config import Config, from_dict, to_dict
from csmf_tf.run import Run

TRAINED = alternatives.METHODS | csmf.METHODS | negatives.METHODS | heterrec.METHODS | sequential.METHODS
METHODS = peers.METHODS | graph.METHODS | TRAINED
FUSED_USERS = 2000


def setting_of(method: str, config: Config, seed: int) -> dict:
    """What a result depends on, apart from the code."""
    plain = to_dict(config)
    trained = METHODS[method]
    if isinstance(trained, partial) and trained.func is csmf.cascade:
        plain = to_dict(from_dict(csmf.overridden(plain, trained.args[0])))
    keys = ("funnel", "split", "validation_users", "evaluate", "model")
    if method in TRAINED:
        keys = tuple(key for key in plain if key != "log")
    return {"method": method, "seed": seed, **{key: plain[key] for key in keys}}


def code_of() -> str:
    """The commit of the code, with "-dirty" where files differ from it; "" without git or a repository."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=7", "--exclude=*"]
    folder = pathlib.Path(__file__).parent
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def path_of(folder: pathlib.Path, method: str, seed: int) -> pathlib.Path:
    """Where a log's result is or will be."""
    return folder / f"{method}-{seed}.json"


def measured(method: str, setting: dict, task: Task) -> report.Result:
    """Trains and measures one method."""
    started = time.monotonic()
    ranked = METHODS[method](task)
    seconds = time.monotonic() - started
    test = task.test
    metrics = report.metrics_of(task.run.config.evaluate.ks)
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
    summary = {
        "setting": setting,
        "code": code_of(),
        "metrics": summary,
        "met": met,
        "fused": None if points is None else points.tolist(),
        "seconds": seconds,
        "indexes": ranked.indexes,
        "dims": ranked.dims,
        "notes": dict(ranked.notes),
    }
    return report.Result(summary, users)


def compute(folder: pathlib.Path, base: Run, method: str, seed: int) -> None:
    """Computes a result, writes it into its log's folder and prints it.

    Args:
        folder: the log's.
        base: the run in `folder / "split"`.
        method: its name.
        seed: seed of all that the method draws.
    """
    setting = setting_of(method, base.config, seed)
    digest = hashlib.sha256(json.dumps(setting).encode()).hexdigest()[:8]
    unfinished = folder / f"unfinished-{method}-{seed}-{digest}"
    task = Task(base, base.validation(), base.evaluator(), seed, unfinished)
    result = measured(method, setting, task)
    report.write(path_of(folder, method, seed), result)
    shutil.rmtree(unfinished, ignore_errors=True)
    found = {name: round(row[task.test.metric], 4) for name, row in result.summary["metrics"].items()}
    print(f"{folder.name} {method} {seed}: {found}, {result.summary['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    out, log, method, seed = sys.argv[1:]
    tf.config.experimental.enable_op_determinism()
    folder = pathlib.Path(out) / log
    compute(folder, Run(folder / "split"), method, int(seed))
