"""Trains one run on a simulated log and ships it as two exports, each with a card of what was measured.

    .venv/bin/python savedmodels/build.py [--out savedmodels]

An export takes the place of the one before. On one machine the trained vectors are the same each time, bit
for bit, and so are the answers of the portable export; ScaNN builds its index anew.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

import csmf_tf
from csmf_tf.config import from_dict, to_dict
from csmf_tf.data.simulator import Simulation
from csmf_tf.evaluation.cells import rankings
from csmf_tf.evaluation.statistics import intervals

HERE = Path(__file__).parent
SIMULATED = {"users": 3000, "items": 2000, "seed": 0}
CONFIG = {
    "log": {"user": "user_id", "item": "item_id", "behavior": "behavior", "timestamp": "timestamp"},
    "funnel": ["view", "cart", "buy"],
    "model": {"embedding_dim": 32},
    "training": {"seed": 0},
}
K = 50
# By default a catalogue of this size is scanned whole; what is shipped should show an index at work.
SETTINGS = {
    "scann": {"leaves": 32, "leaves_to_search": 16},
    "portable": {"cells": 64, "candidates": 800},
}
# Of the example: the first objective alone, and the last one alone.
WEIGHTS = [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
PACKAGES = ("tensorflow", "tf-keras", "tensorflow-recommenders", "scann", "numpy")
METRICS = ("recall@50", "ndcg@50")
# Scores closer than this could change places on another CPU, and an example is to answer the same everywhere.
LEAST_GAP = 1e-4


def train(folder: Path) -> tuple[Simulation, Any]:
    """Returns the simulation and the finished run."""
    from csmf_tf._keras import tf

    simulation = csmf_tf.simulate(**SIMULATED)
    simulation.write(folder / "log")
    log = CONFIG["log"] | {"path": str(folder / "log" / "events.csv.gz")}
    tf.config.experimental.enable_op_determinism()
    run = csmf_tf.Run(folder / "run", from_dict(CONFIG | {"log": log}))
    run.fit(verbose=2)
    return simulation, run


def measure(simulation: Simulation, run: Any) -> list[dict[str, Any]]:
    """Rows of a table: objective, what ranked, users, and of each metric the mean and its interval."""
    evaluation = run.evaluation()
    tables = dict(rankings(evaluation.results))
    tables["best possible"] = best_possible(simulation, run, evaluation.evaluator)
    return [
        {"objective": name, "ranking": label.replace("_", ", "), "users": leaves[name]["users"]}
        | {metric: [leaves[name][metric], *leaves[name]["intervals"][metric]] for metric in METRICS}
        for name in evaluation.results["objectives"]
        for label, leaves in tables.items()
    ]


def best_possible(simulation: Simulation, run: Any, evaluator: Any) -> dict[str, dict[str, Any]]:
    """Metrics of ranking by the simulator's own probabilities, with intervals."""
    leaves = {}
    for k, name in enumerate(run.model.funnel):
        measured = evaluator.discovery(simulation.truth.scores_of(evaluator.known, k), name)
        leaves[name] = measured.summary() | {"intervals": intervals(measured.values)}
    return leaves


def count_events(run: Any) -> dict[str, dict[str, int]]:
    """Part of the log -> behaviour -> number of events."""
    split = run.prepared.split
    parts = {"training": split.train, "validation": split.validation, "test": split.test}
    parts["test, met upstream"] = split.met
    counted = {name: np.bincount(part.behavior, minlength=len(part.funnel)) for name, part in parts.items()}
    return {name: dict(zip(split.train.funnel, map(int, n), strict=True)) for name, n in counted.items()}


def example_user(exports: Iterable[Mapping[str, Any]], users: np.ndarray) -> str:
    """Returns the first of `users` for whom no two scores of an answer almost tie, in any export."""
    for user in users:
        request = {"retrieve": {"user_id": [user], "weights": WEIGHTS}}
        scores = [answers(served, request)[0]["outputs"]["scores"] for served in exports]
        if np.diff(scores).max() < -LEAST_GAP:
            return str(user)
    raise ValueError(f"A user should have scores {LEAST_GAP} apart. Received: {len(users)} without")


def examples(served: Mapping[str, Any], user: str) -> list[dict[str, Any]]:
    """One request for each signature, and its answer."""
    one = {"user_id": [user]}
    found = answers(served, {"serving_default": one})[0]["outputs"]["ids"][0]
    requests = {
        "serving_default": one,
        "retrieve": one | {"weights": WEIGHTS},
        "retrieve_excluding": one | {"weights": WEIGHTS[:1], "exclude": [found[:3]]},
        "retrieve_among": one | {"weights": WEIGHTS[:1], "among": [found[-3:]]},
        "embed_user": one,
        "embed_item": {"item_id": found[:2]},
        "score": one | {"item_ids": [found[:3]]},
    }
    return answers(served, requests)


def answers(served: Mapping[str, Any], requests: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Asks signatures by name: each request as a body for the REST API, and its outputs by name."""
    from csmf_tf._keras import tf

    found = []
    for name, inputs in requests.items():
        specs = served[name].structured_input_signature[1]
        given = {key: tf.constant(inputs[key], spec.dtype) for key, spec in specs.items()}
        outputs = {key: plain(value.numpy()) for key, value in sorted(served[name](**given).items())}
        found.append({"request": {"signature_name": name, "inputs": dict(inputs)}, "outputs": outputs})
    return found


def plain(array: np.ndarray) -> list:
    """Nested lists of text, or of numbers with the digits that float32 has."""
    if array.dtype == object:
        return np.char.decode(array.astype(bytes), "utf-8").tolist()
    return array.astype(str).astype(float).tolist()


def signature_rows(served: Mapping[str, Any]) -> list[dict[str, str]]:
    """Of each signature its name, and its inputs and outputs with dtypes and shapes."""

    def told(specs: Mapping[str, Any]) -> str:
        shapes = {name: ["B", *(n or "any" for n in spec.shape[1:])] for name, spec in specs.items()}
        parts = [
            f"`{name}` {spec.dtype.name} [{', '.join(map(str, shapes[name]))}]"
            for name, spec in sorted(specs.items())
        ]
        return ", ".join(parts)

    return [
        {
            "name": name,
            "inputs": told(served[name].structured_input_signature[1]),
            "outputs": told(served[name].structured_outputs),
        }
        for name in served
    ]


def file_rows(folder: Path) -> list[dict[str, Any]]:
    """Of each file of an export its path, bytes and SHA-256."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "README.md")
    return [
        {
            "path": path.relative_to(folder).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    ]


def describe(folder: Path, served: Mapping[str, Any], user: str, facts: Mapping[str, Any]) -> None:
    """Writes an example of each signature, and the card, which comes last: it lists the files."""
    asked = examples(served, user)
    lines = ",\n".join(json.dumps(one) for one in asked)
    (folder / "example.json").write_text(f"[\n{lines}\n]\n")
    environment = Environment(
        loader=FileSystemLoader(HERE), undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True
    )
    card = environment.get_template("card.md.jinja").render(
        facts,
        index=folder.name,
        export=json.loads((folder / "1" / "assets.extra" / "csmf.json").read_text()),
        signatures=signature_rows(served),
        example=next(one for one in asked if one["request"]["signature_name"] == "retrieve"),
        files=file_rows(folder),
    )
    (folder / "README.md").write_text(card)


def facts_of(simulation: Simulation, run: Any) -> dict[str, Any]:
    """What both cards tell."""
    config = to_dict(run.config)
    config["log"]["path"] = Path(config["log"]["path"]).name
    split = run.prepared.split
    return {
        "simulated": SIMULATED,
        "parts": count_events(run),
        "known": {"users": len(split.train.users), "items": len(split.train.items)},
        "rows": measure(simulation, run),
        "metrics": METRICS,
        "chosen": _yaml(CONFIG),
        "config": _yaml(config),
        "seed": config["training"]["seed"],
        "versions": {"csmf_tf": csmf_tf.__version__} | {name: version(name) for name in PACKAGES},
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "weights": WEIGHTS,
    }


def _yaml(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(config, sort_keys=False, default_flow_style=None).strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the exports; default: beside this")
    out = parser.parse_args().out
    from csmf_tf.serving import load

    with tempfile.TemporaryDirectory() as name:
        simulation, run = train(Path(name))
        facts = facts_of(simulation, run)
        folders = {index: Path(name, index) for index in SETTINGS}
        for index, folder in folders.items():
            run.export(folder, index=index, k=K, settings=SETTINGS[index])
        served = {index: load(folder).signatures for index, folder in folders.items()}
        train_part = run.prepared.split.train
        busiest = train_part.users[np.argsort(-np.bincount(train_part.user), kind="stable")]
        user = example_user(served.values(), busiest)
        for index, folder in folders.items():
            describe(folder, served[index], user, facts)
        # Only now is anything replaced.
        for index, folder in folders.items():
            shutil.rmtree(out / index, ignore_errors=True)
            shutil.move(folder, out / index)
            size = sum(row["bytes"] for row in file_rows(out / index))
            print(f"{out / index}: {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
