"""Fits the default configuration on a real event log and measures it after every stage.

    .venv/bin/python benchmarks/real_logs.py [taobao] [retailrocket] [--folder ../shared/data] [--seed 0]

Prints the metrics of each objective after each stage and of popularity on the test events, over the full
catalogue, then one line of JSON. The logs are not part of the project; `--folder` says where they are.
"""

import argparse
import json
import os
import pathlib
import shutil
import time

import csmf_tf
from csmf_tf._keras import tf
from csmf_tf.config import load_config
from csmf_tf.demo import stage_table
from csmf_tf.run import Run

SPLITS = {
    "taobao": {"kind": "item_holdout", "fraction": 0.1, "seed": 0},
    "retailrocket": {"kind": "time", "at": 0.9},
}


def measure(name: str, args: argparse.Namespace) -> dict:
    """Fits one log, prints its table and returns the metrics with their setting."""
    timed = {"timestamp": "timestamp"} if SPLITS[name]["kind"] == "time" else {}
    path = args.folder / name / "events.csv.gz"
    columns = {"user": "user_id", "item": "item_id", "behavior": "behavior", **timed}
    least = {"log": {"path": str(path.absolute()), **columns}, "funnel": ["view", "cart", "buy"]}
    args.out.mkdir(parents=True, exist_ok=True)
    written = args.out / f"{name}.yaml"
    written.write_text(json.dumps({**least, "split": SPLITS[name], "training": {"seed": args.seed}}))
    config = load_config(written, args.set)
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
    return {"minutes": round(minutes, 1), **results, "split": SPLITS[name], "coordinates": coordinates}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", nargs="*", choices=[[], *SPLITS], metavar="LOG", help="default: all")
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("../shared/data"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as in csmf-tf fit")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build/bench"))
    args = parser.parse_args()
    tf.config.experimental.enable_op_determinism()
    results = {}
    for name in args.logs or SPLITS:
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
