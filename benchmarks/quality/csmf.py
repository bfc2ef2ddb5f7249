"""CSMF through its own `Run`, and its variants."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from benchmarks.quality.task import Ranked, Task
from csmf_tf.config import from_dict, to_dict
from csmf_tf.run import Run


def cascade(overrides: Mapping[str, Any], task: Task) -> Ranked:
    """Trains the cascade; killed, it goes on from its last epoch.

    Args:
        overrides: what differs from the default configuration, nested as it is.
        task: what to train on.
    """
    raw = to_dict(task.run.config)
    for key, value in overrides.items():
        raw[key] = raw[key] | value if isinstance(value, Mapping) else value
    raw["training"]["seed"] = task.seed
    run = Run(task.folder, from_dict(raw))
    expected, found = (one.prepared.split.test for one in (task.run, run))
    if not np.array_equal(expected.pairs, found.pairs):
        raise ValueError("A variant should leave the split alone. Received: one with other test events")
    log = run.fit(verbose=0)
    vectors = run.evaluator().vectors(run.model)
    own = np.eye(len(task.funnel))
    scores = {name: vectors.weighed(own[place]) for place, name in enumerate(task.funnel)}
    metric = task.test.metric
    after = {
        entry["objective"]: {name: row[metric] for name, row in entry["measured"].items()}
        for entry in log
        if entry["phase"] == "freeze"
    }
    coordinates = np.bincount(run.model.owner, minlength=len(task.funnel) + 1).tolist()
    return Ranked(
        scores, 1, len(run.model.owner), vectors.weighed, {"after": after, "coordinates": coordinates}
    )


# The first is the method itself; `packnet` keeps a fixed and equal share of every layer for each objective.
METHODS: dict[str, Callable[[Task], Ranked]] = {
    name: partial(cascade, overrides)
    for name, overrides in {
        "csmf": {},
        "packnet": {"capacity": {"shares": [1 / 3, 1 / 3, 1 / 3], "tau": None}},
        "csmf_no_recovery": {"training": {"recover_epochs": 0}},
        "csmf_half_recovery": {"training": {"recover_share": 0.5}},
        "csmf_aml": {"loss": {"margin": 1.0}},
        "csmf_aml_reversed": {"loss": {"margin": -1.0}},
        "csmf_no_closure": {"closure": False},
        "csmf_128": {"model": {"embedding_dim": 128}},
        "csmf_256": {"model": {"embedding_dim": 256}},
    }.items()
}
"""Name -> method."""
