"""A run's evaluation in its folder: a report for people, and what each user got for comparisons."""

import datetime
import os
import pathlib
import platform
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import yaml

from csmf_tf import __version__
from csmf_tf.config import to_dict
from csmf_tf.evaluation.plots import weight_grid
from csmf_tf.evaluation.report import write_report
from csmf_tf.evaluation.results import Evaluation, tradeoff
from csmf_tf.evaluation.user_results import (
    USERS_FILE,
    UserResults,
    UserTable,
    targets_digest,
    write_user_results,
)
from csmf_tf.run import Run

REPORT = "report"
"""The report's folder in that of the run."""

TRADEOFF_USERS = 2000
"""So many users are asked what the fusion weights do (own choice)."""

_PACKAGES = ("tensorflow", "tf-keras", "tensorflow-recommenders", "scann", "numpy")


def write_evaluation(run: Run, evaluation: Evaluation) -> pathlib.Path:
    """Writes the report of a run, and what `csmf-tf compare` reads, each whole or not at all.

    Args:
        run: the `Run`, restored.
        evaluation: what `run.evaluation()` gave.

    Returns:
        the path of the report's page.
    """
    model, split = run.model, to_dict(run.config)["split"]
    done = model.funnel[: model.frozen_stages]
    weights = None
    if len(done) > 1:
        grid = weight_grid(len(done), steps=10 if len(done) == 2 else 6)
        weights = tradeoff(model, evaluation.evaluator.sample(TRADEOFF_USERS), grid)
    name = run.directory.resolve().name
    page = write_report(
        run.directory / REPORT,
        # A run is often called "run": the folder that it is in tells it from others.
        title=f"Evaluation of {run.directory.resolve().parent.name}/{name}",
        results=evaluation.results,
        capacity=model.capacity(),
        log=run.log,
        funnel=model.funnel,
        tradeoff=weights,
        tradeoff_users=TRADEOFF_USERS,
        data=_sizes(run),
        setting=_setting(run),
    )
    tables = {key: UserTable(*parts) for key, *parts in _tables(run, evaluation)}
    results = UserResults(name, tables, evaluation.state, split)
    write_user_results(run.directory / USERS_FILE, results)
    return page


def _tables(run: Run, evaluation: Evaluation) -> Iterator[tuple[Any, ...]]:
    train = run.prepared.split.train
    for key, (users, targets, values, *_) in evaluation.tables.items():
        yield key, train.users[users], values, targets_digest(train.users, train.items, targets, users)


def _sizes(run: Run) -> dict[str, dict[str, int]]:
    split = run.prepared.split
    parts = {"training": split.train, "validation": split.validation, "test, new": split.test}
    return {
        name: {
            "events": len(part),
            "users": len(np.unique(part.user)),
            "items": len(np.unique(part.item)),
        }
        for name, part in (parts | {"test, met upstream": split.met}).items()
    }


def _setting(run: Run) -> dict[str, Any]:
    config = to_dict(run.config)
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "versions": ", ".join([f"csmf_tf {__version__}", *(f"{n} {version(n)}" for n in _PACKAGES)]),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "seed": config["training"]["seed"],
        "split": ", ".join(f"{key} {value}" for key, value in config["split"].items()),
        "config": yaml.safe_dump(config, sort_keys=False),
    }
