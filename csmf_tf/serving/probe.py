"""The probe of an export: a few user vectors by which a refresh tells how the recall of its index has moved.

Each refreshed version is compared with the export on the same users, so that few will do: what they share
cancels out, and nothing adds up over refreshes.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from csmf_tf.serving.recall import user_recalls

USERS = 16
"""So many users are kept (own choice): the exact answers for each take milliseconds a million items."""

FILE = os.path.join("assets.extra", "probe.npz")
"""Where the probe lies, inside a version."""


def make_probe(
    index: Any, users: np.ndarray, owner: np.ndarray, objectives: Sequence[str], k: int
) -> dict[str, np.ndarray]:
    """Returns the probe of an index.

    Args:
        index: one of `INDICES`.
        users: float [B, D], user vectors; the first 16 finite ones are kept.
        owner: integer [D], the objective that owns each coordinate, 0 = free.
        objectives: names of the K objectives.
        k: number of results, that of the index.

    Returns:
        `users`: float32 [P, D]; `owner`; `recalls`: float64 [W, P], the recall of each user under each of
        the `weightings`.

    Example:

    >>> from csmf_tf.serving.index import ExactIndex
    >>> index = ExactIndex([[1.0, 0.0], [0.0, 2.0]], k=1)
    >>> make_probe(index, np.ones([1, 2]), np.array([1, 1]), ["view"], 1)["recalls"].tolist()
    [[1.0], [1.0]]
    """
    users = np.asarray(users, np.float32)
    users = users[np.isfinite(users).all(axis=1)][:USERS]
    recalls = user_recalls(index, users, owner, objectives, k)
    return {"users": users, "owner": np.asarray(owner), "recalls": np.stack([*recalls.values()])}


def moved_recall(
    recall: Mapping[str, float], before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Returns a version's recall: that of an earlier one, and by how much the probe's users now find more.

    Args:
        recall: label of the weighting to recall, of the earlier version.
        before: the probe of that version.
        after: the probe of the later one, of the same users.

    Example:

    >>> before, after = {"recalls": np.array([[0.8, 1.0]])}, {"recalls": np.array([[0.7, 1.0]])}
    >>> moved_recall({"equal": 0.93}, before, after)
    {'equal': 0.88}
    """
    moved = (after["recalls"] - before["recalls"]).mean(axis=1)
    return {
        label: round(float(np.clip(old + by, 0.0, 1.0)), 6)
        for (label, old), by in zip(recall.items(), moved, strict=True)
    }


def read_probe(version_dir: str | os.PathLike) -> dict[str, np.ndarray] | None:
    """Returns the probe of a version, `None` where its export had no users to measure."""
    path = os.path.join(version_dir, FILE)
    if not os.path.exists(path):
        return None
    with np.load(path) as file:
        return dict(file)


def write_probe(version_dir: str | os.PathLike, probe: Mapping[str, np.ndarray]) -> None:
    """Writes the probe of a version, if it has users."""
    if len(probe["users"]):
        np.savez(os.path.join(version_dir, FILE), allow_pickle=False, **probe)
