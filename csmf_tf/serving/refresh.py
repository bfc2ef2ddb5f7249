"""Refresh: the next version of an export with items added, changed and removed, without training."""

import os
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from csmf_tf.serving.card import read_card, write_card
from csmf_tf.serving.catalogue import changed_state, changes
from csmf_tf.serving.checks import checked_item_ids
from csmf_tf.serving.items import embed_items, read_items
from csmf_tf.serving.partial import load_signature
from csmf_tf.serving.portable import PortableIndex
from csmf_tf.serving.probe import make_probe, moved_recall, read_probe
from csmf_tf.serving.recall import check_recall
from csmf_tf.serving.scann import QUANTISED_FROM
from csmf_tf.serving.scann_files import LoadedScann
from csmf_tf.serving.server_files import SCANN_IMAGE, STOCK_IMAGE, write_server_files
from csmf_tf.serving.shards import common_version, shard_folders, shard_of
from csmf_tf.serving.variables import (
    catalogue_of,
    link_files,
    read_variables,
    with_catalogue,
    write_variables,
)
from csmf_tf.serving.vectors import checked_vectors
from csmf_tf.serving.versions import latest_version, next_version, publish
from csmf_tf.serving.warmup import signature_inputs

LEAST_FILLED = 0.8
"""The least share of ScaNN's partitions that a refresh leaves filled (own choice)."""


class Refreshed(NamedTuple):
    """What a refresh did.

    Attributes:
        path: of the new version.
        items: how many it holds.
        added, changed, removed: how many of them.
        unknown: how many items were to be removed that the export does not hold.
        recall: label of the weighting to recall, as in the card; empty where it was never measured.
    """

    path: str
    items: int
    added: int
    changed: int
    removed: int
    unknown: int
    recall: dict[str, float]


def refresh(
    directory: str | os.PathLike,
    items: str | os.PathLike | Mapping[str, Sequence],
    *,
    min_recall: float | None = None,
) -> Refreshed:
    """Writes the next version of an export with some items added, changed or removed.

    Vectors come from the export's own signature `embed_item`, so that an item which no training event names
    is found by its features. All other items stay as they are, bit for bit. The last version stays where it
    is, and a refresh that is interrupted leaves nothing that is served: run it again.

    Args:
        directory: as given to `export`; its last version is refreshed.
        items: a CSV(.gz) or Parquet file, or a dict of arrays, with a row for each item to add, change or
            remove: the item features of the run, and where the column `remove` is 1 or true, none.
        min_recall: least recall under any weighting, where the index is not exact; default that of the
            export, 0 refreshes all the same. It is the export's figure, moved by what the index finds more or
            less for a few users kept beside it.

    Raises:
        FileNotFoundError: when there is no export, or no such file.
        FileExistsError: when another version has appeared meanwhile.
        ValueError: when the export has no `embed_item`, the table is at fault, a vector is not finite, no
            item is left, or recall falls below `min_recall`.

    Example:

    >>> import tempfile
    >>> from csmf_tf._keras import tf
    >>> from csmf_tf.serving.export import export
    >>> from csmf_tf.serving.query import query
    >>> def embed(features):
    ...     return tf.stack([features["price"], tf.ones_like(features["price"])], axis=1)
    >>> of_users = {"price": tf.TensorSpec([None], tf.float32)}
    >>> of_items = {"item": tf.TensorSpec([None], tf.string), **of_users}
    >>> folder = tempfile.mkdtemp()
    >>> vectors, owner, users = [[3.0, 1.0], [5.0, 1.0]], [1, 1], {"user": ["ann"], "price": [2.0]}
    >>> _ = export(
    ...     embed,
    ...     of_users,
    ...     ["cup", "hat"],
    ...     vectors,
    ...     owner,
    ...     ["view"],
    ...     folder,
    ...     index="exact",
    ...     k=2,
    ...     users=users,
    ...     embed_item=embed,
    ...     item_signature=of_items,
    ... )
    >>> done = refresh(folder, {"item": ["rug", "cup"], "price": [4.0, 0.0], "remove": [0, 1]})
    >>> done.added, done.changed, done.removed, query(folder, "ann", k=2)
    (1, 0, 1, [('hat', 11.0), ('rug', 9.0)])
    """
    if shard_folders(directory):
        raise ValueError(
            "`directory` should hold an export with `embed_item`. "
            f"Received: {os.fspath(directory)} of shards, which have none; "
            "give vectors to `csmf_tf.serving.replace_items`"
        )
    version = latest_version(directory)
    path = os.path.join(directory, str(version))
    card = _card(directory, version)
    if "embed_item" not in signature_inputs(path):
        raise ValueError(
            f"{path} should have the signature `embed_item`. Received: an export without; export it again "
            "with `embed_item`, or give vectors to `csmf_tf.serving.replace_items`"
        )
    with ThreadPoolExecutor(1) as beside:
        reading = beside.submit(read_variables, path)
        table = read_items(items, card["item_features"], card["item_id"])
        vectors = None
        if table.ids:
            model = load_signature(path, "embed_item")
            vectors = embed_items(model.signatures["embed_item"], table.features, len(table.ids))
        tensors = reading.result()
    changed = table.ids, vectors, table.removed
    return _in_export(directory, version, card, tensors, changed, min_recall)


def replace_items(
    directory: str | os.PathLike,
    ids: Sequence[str] | np.ndarray,
    vectors: ArrayLike,
    removed: Sequence[str] | np.ndarray = (),
    *,
    min_recall: float | None = None,
) -> Refreshed:
    """Writes the next version of an export, or of all its shards, with the vectors of some items given.

    See `refresh`. Each item goes to its shard; the recall of shards is that of the worst.

    Args:
        directory: as given to `export` or `export_shards`.
        ids: items to add or change, M of them.
        vectors: float [M, D], of the space of the export's users.
        removed: items to remove.
        min_recall: as in `refresh`.

    Raises:
        FileNotFoundError: when there is no export.
        FileExistsError: when another version has appeared meanwhile.
        ValueError: when ids and vectors do not fit each other or the export, a vector is not finite, no item
            is left, or recall falls below `min_recall`.

    Example:

    >>> import tempfile
    >>> from csmf_tf._keras import tf
    >>> from csmf_tf.serving.export import export
    >>> signature, folder = {"vector": tf.TensorSpec([None, 1])}, tempfile.mkdtemp()
    >>> arguments = ["cup", "hat"], [[1.0], [2.0]], [1], ["view"], folder
    >>> _ = export(lambda features: features["vector"], signature, *arguments, index="exact", k=2)
    >>> path = replace_items(folder, ["rug"], [[3.0]], removed=["hat"]).path
    >>> served = tf.saved_model.load(path).signatures["serving_default"]
    >>> served(vector=tf.constant([[1.0]]))["ids"].numpy().tolist()
    [[b'rug', b'cup']]
    """
    names = checked_item_ids([*ids, *removed])
    vectors = np.asarray(vectors, np.float32)
    if len(vectors) != len(ids):
        raise ValueError(
            f"`vectors` should have a row for each of `ids`. Received: {len(vectors)} rows, {len(ids)} ids"
        )
    changed = names[: len(ids)], vectors, names[len(ids) :]
    if folders := shard_folders(directory):
        return _in_shards(directory, folders, changed, min_recall)
    version = latest_version(directory)
    card = _card(directory, version)
    tensors = read_variables(os.path.join(directory, str(version)))
    return _in_export(directory, version, card, tensors, changed, min_recall)


def _card(directory: str | os.PathLike, version: int) -> dict[str, Any]:
    card = read_card(os.path.join(directory, str(version)))
    if card["shard"]:
        raise ValueError(
            "`directory` should hold an export or all its shards. "
            f"Received: {os.fspath(directory)}, one of {card['shard']['of']} shards; give the folder of all"
        )
    return card


def _in_export(directory, version, card, tensors, changed, min_recall):
    try:
        done = _write(directory, version, card, tensors, changed, min_recall, version + 1)
    except FileExistsError as error:
        raise FileExistsError(
            f"{os.fspath(directory)} should stay at version {version} while it is refreshed. "
            f"Received: version {latest_version(directory)} appeared meanwhile; refresh again"
        ) from error
    _write_server_files(directory, card)
    return done


def _in_shards(directory, folders, changed, min_recall):
    ids, vectors, removed = changed
    version, number = common_version(folders), max(map(next_version, folders))
    written = uuid.uuid4().hex
    home, gone = (np.array([shard_of(item, len(folders)) for item in names], int) for names in (ids, removed))
    done = []
    for shard, folder in enumerate(folders):
        old = os.path.join(folder, str(version))
        card = read_card(old)
        card["shard"] = card["shard"] | {"written": written}
        rows, left = np.flatnonzero(home == shard), np.flatnonzero(gone == shard)
        part = [ids[row] for row in rows], vectors[rows], [removed[row] for row in left]
        done.append(_write(folder, version, card, read_variables(old), part, min_recall, number))
    for folder in folders:
        _write_server_files(folder, card)
    names = ("items", "added", "changed", "removed", "unknown")
    counts = {name: sum(getattr(each, name) for each in done) for name in names}
    worst = {label: min(each.recall[label] for each in done) for label in done[0].recall}
    return done[0]._replace(path=os.fspath(directory), recall=worst, **counts)


def _write_server_files(directory, card):
    write_server_files(directory, image=SCANN_IMAGE if card["index"] == "scann" else STOCK_IMAGE)


def _write(directory, version, card, tensors, changed, min_recall, number):
    """Writes version `number` from `version`."""
    ids, vectors, removed = changed
    old = os.path.join(directory, str(version))
    done: list[Any] = []

    def write(draft):
        link_files(old, draft, but=[os.path.join("assets.extra", "csmf.json")])
        state = catalogue_of(tensors)
        given = _checked(ids, vectors, state["vectors"].shape[1])
        found = changes(state, ids, removed)
        _check_items(card, len(found.source))
        new = changed_state(state, found.source, ids, given)
        _check_partitions(card, new)
        with ThreadPoolExecutor(1) as beside:
            writing = beside.submit(write_variables, draft, with_catalogue(tensors, new))
            recall = _measure(old, card, state | new, min_recall)
            writing.result()
        told = {"from": version, "added": found.added, "changed": found.changed, "removed": found.removed}
        told["recall_at_export"] = _recall_at_export(card)
        write_card(draft, card | {"recall": recall, "refreshed": told})
        done.append((len(found.source), *found[1:], recall))

    path = publish(directory, write, number)
    return Refreshed(path, *done[0])


def _checked(ids: Sequence[str], vectors: np.ndarray | None, dim: int) -> np.ndarray:
    """The vectors of the given items, float32 [M, D]."""
    if not len(ids):
        return np.zeros([0, dim], np.float32)
    vectors = np.asarray(vectors, np.float32)
    if vectors.shape != (len(ids), dim):
        raise ValueError(
            f"`vectors` should be of shape {(len(ids), dim)}. Received: vectors.shape={vectors.shape}"
        )
    try:
        return checked_vectors(vectors)
    except ValueError as error:
        fit = np.abs(vectors).max(axis=1) < 1e9
        raise ValueError(f"{error}, item {ids[int(np.argmin(fit))]!r}") from error


def _check_items(card: Mapping[str, Any], items: int) -> None:
    least = max(card["settings"]["leaves"], QUANTISED_FROM) if "leaves" in card["settings"] else 1
    if items < least:
        raise ValueError(
            f"The scann index of this export should keep {least} items, as many as its partitions need. "
            f"Received: {items}; export again"
        )


def _check_partitions(card: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """ScaNN looks into a number of partitions, also into those that a refresh has emptied."""
    if "leaves" not in card["settings"]:
        return
    filled = len(np.unique(state["datapoint_to_token"]))
    if filled < LEAST_FILLED * card["settings"]["leaves"]:
        raise ValueError(
            f"The scann index of this export should keep {LEAST_FILLED:.0%} of its partitions filled. "
            f"Received: {filled} of {card['settings']['leaves']}; export again"
        )


def _recall_at_export(card: Mapping[str, Any]) -> dict[str, float]:
    return card["refreshed"]["recall_at_export"] if "refreshed" in card else card["recall"]


def _measure(
    old: str, card: Mapping[str, Any], state: Mapping[str, Any], min_recall: float | None
) -> dict[str, float]:
    """Returns the recall of the new version; an error where it is too low."""
    probe = read_probe(old)
    index: Any
    if probe is None:
        return card["recall"]
    if card["index"] == "portable" and "offsets" in state:
        index = PortableIndex.restore(state, card["k"], card["settings"])
    elif "leaves" in card["settings"]:
        index = LoadedScann(state, card["k"], card["settings"]["reorder"])
    else:
        # All is scanned, as before.
        return card["recall"]
    now = make_probe(index, probe["users"], probe["owner"], card["objectives"], card["k"])
    recall = moved_recall(_recall_at_export(card), probe, now)
    floor = card["min_recall"] if min_recall is None else min_recall
    mend = "export again, lower `min_recall`, or set it to 0 to refresh all the same"
    check_recall(recall, floor, card["index"], card["k"], mend)
    return recall
