"""A graph model as a peer: LightGCN, trained by RecBole in an environment of its own."""

import pathlib
import subprocess
import tempfile
from collections.abc import Callable

import numpy as np

from benchmarks.quality.task import Ranked, Task

ROOT = pathlib.Path(__file__).parents[2]
INTERPRETER = ROOT / ".venv-lightgcn" / "bin" / "python"
SCRIPT = pathlib.Path(__file__).with_name("lightgcn.py")


def lightgcn_union(task: Task) -> Ranked:
    """LightGCN of all events. As of what else is trained by gradients, validation chooses the epoch."""
    split = task.run.prepared.split
    known = np.unique(split.train.pairs)
    parts = {"train": known, "validation": np.setdiff1d(split.validation.pairs, known)}
    shape = len(split.train.users), len(split.train.items)
    pairs = {name: np.stack(np.divmod(part, shape[1]), axis=1) for name, part in parts.items()}
    with tempfile.TemporaryDirectory() as folder:
        given, found = (pathlib.Path(folder, name) for name in ("pairs.npz", "vectors.npz"))
        np.savez(given, **pairs, shape=shape, dim=task.dim, seed=task.seed)
        subprocess.run([INTERPRETER, "-W", "ignore", SCRIPT, given, found], check=True)
        with np.load(found) as arrays:
            users, items, curve, seconds = (arrays[name] for name in ("users", "items", "curve", "seconds"))
    notes = {"curve": curve.tolist(), "seconds_an_epoch": float(seconds)}
    return Ranked(dict.fromkeys(task.funnel, (users, items)), 1, task.dim, notes=notes)


METHODS: dict[str, Callable[[Task], Ranked]] = {"lightgcn_union": lightgcn_union}
"""Name -> method; by name only, as it takes long."""
