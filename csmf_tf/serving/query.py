"""Queries to an export, by user id or by a history."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from csmf_tf._keras import tf
from csmf_tf.config_sections import SEQUENCE, SEQUENCE_BEHAVIOR
from csmf_tf.serving.card import read_card
from csmf_tf.serving.fusion import check_weights
from csmf_tf.serving.index import positive, scann_ops
from csmf_tf.serving.shards import common_version, merge_retrieved, shard_folders
from csmf_tf.serving.users import user_batch, user_features
from csmf_tf.serving.versions import latest_version
from csmf_tf.serving.warmup import signature_inputs


class UnknownUserWarning(UserWarning):
    """The user was not known at export: the answer is that of the out-of-vocabulary user."""


class UnknownItemWarning(UserWarning):
    """A history names items that the export does not retrieve: misspelt ones say nothing of the user."""


def load(directory: str | os.PathLike, version: int | None = None) -> Any:
    """Loads an export's SavedModel, and scann's ops with it where it needs them.

    Args:
        directory: as given to `export`; of a shard, its folder.
        version: default the latest.

    Returns:
        The loaded object; its `signatures` are those described in `export`.

    Raises:
        FileNotFoundError: when there is no such version.
        ImportError: when the index needs scann and it is not installed.
    """
    path = _version_path(directory, latest_version(directory) if version is None else version)
    if read_card(path)["index"] == "scann":
        scann_ops()
    return tf.saved_model.load(path)


def query(
    directory: str | os.PathLike,
    user: str | None = None,
    weights: Mapping[str, float] | Sequence[float] | None = None,
    k: int = 10,
    history: Sequence[str | tuple[str, str]] | None = None,
) -> list[tuple[str, float]]:
    """Returns the best items of one user from the latest version of an export, or of all its shards.

    Args:
        directory: as given to `export` or `export_shards`. Shards are loaded one at a time.
        user: the user's id; None when a `history` says enough.
        weights: fusion weights, see `check_weights`; default those of the export.
        k: number of items.
        history: of a model with a HeterRec user tower, what the user did in place of what the export holds,
            the latest last: item ids or, in a funnel of several, pairs of item id and behaviour. Of more than
            the model takes the last ones are read.

    Returns:
        Pairs of item id and score, best first; fewer than `k` when the index finds no more.

    Raises:
        FileNotFoundError: when nothing was exported to `directory`, or its shards have no version in common.
        ValueError: when `k` exceeds the export's, `weights` or `history` are unfit, the model reads features
            of the user that the export does not hold, or neither `user` nor `history` is given.

    Warns:
        UnknownUserWarning: when the export holds its users, `user` is not among them or None, and the model
            reads more than `history`.
        UnknownItemWarning: when `history` names items that the export does not retrieve.

    Example:

    >>> import tempfile
    >>> from csmf_tf.serving.export import export
    >>> def embed(features):
    ...     return tf.ones_like(features["user_id"], tf.float32)[:, tf.newaxis] * [[1.0, 2.0]]
    >>> signature = {"user_id": tf.TensorSpec([None], tf.string)}
    >>> items, vectors, owner = ["cup", "hat"], [[1.0, 0.0], [0.0, 1.0]], [1, 2]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = export(embed, signature, items, vectors, owner, ["view", "buy"], folder, index="exact", k=2)
    ...     query(folder, "ann", {"view": 1, "buy": 3}, k=2)
    [('hat', 6.0), ('cup', 4.0)]
    """
    if user is None and history is None:
        raise ValueError("A query should have a `user` or a `history`. Received: neither")
    shards = shard_folders(directory)
    version = common_version(shards) if shards else latest_version(directory)
    folders = shards or [os.fspath(directory)]
    path = _version_path(folders[0], version)
    card = read_card(path)
    if positive("k", k) > card["k"]:
        raise ValueError(
            f"`k` should be at most {card['k']}, the results that this export returns for a query. "
            f"Received: k={k}; export again with k={k} or more"
        )
    vector = check_weights(card["weights"] if weights is None else weights, card["objectives"])

    signature = signature_inputs(path)["retrieve"]
    del signature["weights"]
    given = {} if history is None else _history_inputs(history, signature, card.get("behaviors"))
    users = os.path.join(path, "assets.extra", "users.parquet")
    held = os.path.exists(users)
    unheld = sorted(signature.keys() - {card["user_id"], *given})
    if unheld and not held:
        raise ValueError(
            f"The export should hold the users' features, as the model reads {unheld}. "
            "Received: an export without; export again with `users`"
        )
    features, known = user_features(users if held else None, user or "", card["user_id"], signature)
    if not known and signature.keys() - given:
        who = "no `user` is given" if user is None else f"user {user!r} is not known to this export"
        advice = "; give a `history`" if SEQUENCE in signature and history is None else ""
        warnings.warn(
            f"{who}: the answer is that of an unknown user{advice}", UnknownUserWarning, stacklevel=2
        )
    features |= given
    inputs = {name: tf.constant(value, signature[name].dtype) for name, value in features.items()}
    named = [] if history is None else sorted({*given[SEQUENCE].ravel()} - {""})
    answers, found = [], set[str]()
    for folder in folders:
        signatures = load(folder, version).signatures
        answers.append(signatures["retrieve"](**inputs, weights=tf.constant([vector], tf.float32)))
        found.update(_retrievable(named, signatures["score"], inputs) if named else [])
    if unknown := [item for item in named if item not in found]:
        warnings.warn(
            f"the history names items that this export does not retrieve: {unknown[:5]}, {len(unknown)} of "
            f"{len(named)}; what the model has not met says nothing of the user",
            UnknownItemWarning,
            stacklevel=2,
        )
    answer = merge_retrieved(answers, k)
    pairs = zip(answer["ids"][0], answer["scores"][0], strict=True)
    return [(item.decode(), float(score)) for item, score in pairs if item]


def _history_inputs(
    history: Sequence[str | tuple[str, str]],
    signature: Mapping[str, Any],
    behaviors: Sequence[str] | None,
) -> dict[str, np.ndarray]:
    """A history as a batch of one, as wide as the signature has it."""
    if SEQUENCE not in signature:
        raise ValueError(
            f"`history` should go with a model that reads `{SEQUENCE}`, of a HeterRec user tower. "
            f"Received: one that reads {sorted(signature)}; leave it out"
        )
    names = [name for name in (SEQUENCE, SEQUENCE_BEHAVIOR) if name in signature]
    rows = [one if isinstance(one, tuple | list) else (one,) for one in history]
    fits = all(len(row) == len(names) and all(isinstance(part, str) and part for part in row) for row in rows)
    known = behaviors is None or all({*row[1:]} <= {*behaviors} for row in rows)
    if isinstance(history, str) or not (rows and fits and known):
        what = "item ids" if len(names) == 1 else "pairs of item id and behaviour"
        what += f", one of {[*behaviors]}" if behaviors and len(names) > 1 else ""
        raise ValueError(f"`history` should hold {what}, one at least. Received: {history!r}")
    read = rows[-(signature[SEQUENCE].shape[1] or len(rows)) :]
    columns = {name: [list(column)] for name, column in zip(names, zip(*read, strict=True), strict=True)}
    return user_batch(columns, {name: signature[name] for name in names}, rows=[0])


def _retrievable(items, score, inputs):
    """Those of the items that an export holds."""
    scores = score(**inputs, item_ids=tf.constant([items]))["log_scores"][0]
    return [item for item, row in zip(items, scores.numpy(), strict=True) if np.isfinite(row).any()]


def _version_path(directory: str | os.PathLike, version: int) -> str:
    return os.path.join(directory, str(version))
