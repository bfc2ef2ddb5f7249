"""CSMF through its own `Run`, and its variants."""

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.quality.task import Ranked, Task
from csmf_tf.config import from_dict, to_dict
from csmf_tf.run import Run


def overridden(plain: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A plain configuration with some values replaced; of a section, those that `overrides` has."""
    replaced = {
        key: plain[key] | value if isinstance(value, Mapping) else value for key, value in overrides.items()
    }
    return {**plain, **replaced}


def cascade(overrides: Mapping[str, Any], task: Task, keep_freed: bool = False) -> Ranked:
    """Trains the cascade; killed, it goes on from its last epoch, with `keep_freed` from the start.

    Args:
        overrides: what differs from the default configuration, nested as it is.
        task: what to train on.
        keep_freed: whether a stage starts from what the one before had in the coordinates that it freed.
    """
    raw = overridden(to_dict(task.run.config), overrides)
    raw["training"]["seed"] = task.seed
    if keep_freed:
        shutil.rmtree(task.folder, ignore_errors=True)
    run = Run(task.folder, from_dict(raw))
    expected, found = (one.prepared.split.test for one in (task.run, run))
    if not np.array_equal(expected.pairs, found.pairs):
        raise ValueError("A variant should leave the split alone. Received: one with other test events")
    if keep_freed:
        _keep_freed(run.model)
    log = run.fit(verbose=0)
    vectors = run.evaluator().vectors(run.model)
    own = np.eye(len(task.funnel))
    scores = {name: vectors.weighed(own[place]) for place, name in enumerate(task.funnel)}
    metric = task.test.metric
    tested = [name for name in task.funnel if task.test.targets[name].counts.any()]
    after = {
        entry["objective"]: {name: row[metric] for name, row in entry["measured"].items() if name in tested}
        for entry in log
        if entry["phase"] == "freeze"
    }
    # How far a segment alone would bring its objective.
    own_segment = {}
    for name in tested:
        alone = np.where(vectors.owner == 1 + task.funnel.index(name), vectors.users, 0), vectors.items
        own_segment[name] = task.test.discovery(alone, name).summary()[metric]
    coordinates = np.bincount(run.model.owner, minlength=len(task.funnel) + 1).tolist()
    notes = {"after": after, "coordinates": coordinates, "own_segment": own_segment}
    return Ranked(scores, 1, len(run.model.owner), vectors.weighed, notes)


def _keep_freed(model):
    """Lets each stage start from what the one before had in the coordinates that it freed."""
    prune, begin, before = model.prune, model.begin, []
    tables = [tower.tables[tower.id_name].embeddings for tower in (model.towers.user, model.towers.item)]

    def remembering(**how):
        before[:] = [table.numpy() for table in tables]
        return prune(**how)

    def restoring(objective):
        begin(objective)
        if not before:
            return
        own = model.owner == model.stage
        for table, values in zip(tables, before, strict=True):
            started = table.numpy()
            started[:, own] = values[:, own]
            table.assign(started)

    model.prune, model.begin = remembering, restoring


ABLATIONS: dict[str, dict[str, Any]] = {
    "no_principal_axes": {"capacity": {"principal_axes": False}},
    "no_recovery": {"training": {"recover_epochs": 0}},
    "half_recovery": {"training": {"recover_share": 0.5}},
    "shares_75": {"capacity": {"shares": [0.75, 0.15, 0.1]}},
    "shares_50": {"capacity": {"shares": [0.5, 0.3, 0.2]}},
    "tau": {"capacity": {"tau": [0.2, 0.4, 0.0]}},
    "no_l2_popularity": {"loss": {"l2_popularity": 0.0}},
    "no_decay": {"training": {"decay": False}},
    "no_decay_half_rate": {"training": {"decay": False, "learning_rate": 0.01}},
    "aml": {"loss": {"margin": 1.0}},
    "aml_reversed": {"loss": {"margin": -1.0}},
    "no_closure": {"closure": False},
    "normalize_t07": {"model": {"normalize": True, "temperature": 0.07}, "loss": {"l2": 0.0}},
    "normalize_t15": {"model": {"normalize": True, "temperature": 0.15}, "loss": {"l2": 0.0}},
    "sampled": {"loss": {"kind": "sampled"}},
    "sampled_no_funnel": {"loss": {"kind": "sampled"}, "negatives": {"kind": ["in_batch", "uniform"]}},
    "sampled_no_log_q": {"loss": {"kind": "sampled"}, "negatives": {"log_q": False}},
    "hidden_by_unit": {"model": {"hidden": [64]}},
    "hidden_by_weight": {"model": {"hidden": [64], "granularity": "weight"}},
    "history": {"model": {"history": {"length": 50, "drop": 0.5}}},
}
"""What a variant of CSMF does otherwise than the default; sampled, its optimizer is Adagrad."""

# `packnet` keeps a fixed and equal share of every layer for each objective.
METHODS: dict[str, Callable[[Task], Ranked]] = {
    name: partial(cascade, overrides)
    for name, overrides in {
        "csmf": {},
        "packnet": {"capacity": {"shares": [1 / 3, 1 / 3, 1 / 3], "tau": None}},
        "csmf_128": {"model": {"embedding_dim": 128}},
        "csmf_256": {"model": {"embedding_dim": 256}},
        **{f"csmf_{name}": overrides for name, overrides in ABLATIONS.items()},
    }.items()
} | {"csmf_keep_freed": partial(cascade, {}, keep_freed=True)}
"""Name -> method."""
