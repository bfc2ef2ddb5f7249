"""Fits a real event log and measures it after every stage.

    .venv/bin/python benchmarks/real_logs.py [taobao] [retailrocket] [--folder ../shared/data] [--seed 0]

Prints the metrics of each objective after each stage and of popularity on the test events, over the full
catalogue, then one line of JSON. benchmarks/quality/task.py says what differs from the default configuration.
The logs are not part of the project; `--folder` says where they are.
"""

import argparse
import json
import os
import pathlib
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import csmf_tf
from benchmarks.quality.task import LOGS, configuration
from csmf_tf._keras import tf
from csmf_tf.demo import stage_table
from csmf_tf.run import Run

NAMES = ["taobao", "retailrocket"]


def measure(name: str, args: argparse.Namespace) -> dict:
    """Fits one log, prints its table and returns the metrics with their setting."""
    overrides = [f"training.seed={args.seed}", *args.set]
    config = configuration(name, args.folder, args.out, overrides)
    directory = args.out / f"{name}-{args.seed}"
    shutil.rmtree(directory, ignore_errors=True)
    started = time.monotonic()
    run = Run(directory, config)
    log = run.fit(verbose=2)
    minutes = (time.monotonic() - started) / 60
    results = run.evaluate()
    print(f"\n{name}\n{stage_table(log, {'popularity': results['baselines']['popularity']})}\n")
    owner = run.model.owner.tolist()
    coordinates = [owner.count(stage) for stage in range(1, 4)]
    return {"minutes": round(minutes, 1), **results, "setting": LOGS[name], "coordinates": coordinates}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="*", choices=[[], *NAMES], metavar="LOG", help="default: all")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in csmf-tf fit")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/bench"))
    args = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    results = {}
    for name in args.logs or NAMES:
        if (args.folder / name).exists():
            results[name] = measure(name, args)
        else:
            print(f"left out {name}: there is no {args.folder / name}")
    versions = {"tensorflow": tf.__version__, "csmf_tf": csmf_tf.__version__}
    print(
        json.dumps(
            {**results, "setting": {"seed": args.seed, "set": args.set, "cores": os.cpu_count(), **versions}}
        )
    )


if __name__ == "__main__":
    main()
