"""Shards: a catalogue in several exports, each for a server of its own, and the merge of their answers.

An item's shard follows from its id: `shard_of`. All shards hold the same user tower, so that their scores
compare. A client asks them all and merges by the rules of `merge_retrieved` and `merge_scored`, which need
nothing but the answers.
"""

import json
import os
import re
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from csmf_tf.progress import bar
from csmf_tf.serving.card import read_card
from csmf_tf.serving.checks import checked_item_ids, checked_objectives, checked_owner
from csmf_tf.serving.export import export
from csmf_tf.serving.server_files import SCANN_IMAGE, STOCK_IMAGE, write_server_files
from csmf_tf.serving.vectors import positive
from csmf_tf.serving.versions import LAYOUT, next_version, versions


def shard_of(item: str, shards: int) -> int:
    """Returns the shard that holds an item: the CRC-32 of its id in UTF-8, as zlib has it, modulo `shards`.

    Example:

    >>> shard_of("123456789", 4), 0xCBF43926 % 4
    (2, 2)
    """
    return zlib.crc32(item.encode("utf-8")) % shards


def merge_retrieved(answers: Sequence[Mapping[str, Any]], k: int) -> dict[str, np.ndarray]:
    """Merges the answers of all shards to one request: the `k` of the highest scores.

    For `serving_default`, `retrieve`, `retrieve_excluding` and `retrieve_among`. Under log fusion a score is
    `sum_k w_k s_k`, whatever else is in the shard, and the best of all are among the best of their shards.

    Args:
        answers: of each shard `ids`, [B, at least k], and `scores`, float [B, at least k]; "" stands for no
            item.
        k: number of results, at most those of each answer.

    Returns:
        Dict of `ids`, object [B, k], as they came, and `scores`, float32 [B, k], descending; of equal scores
        the first shard's. Where all shards together have fewer than k items, "" and -inf fill the rest.

    Raises:
        ValueError: when there is no answer, or one holds fewer than `k` results.

    Example:

    >>> first = {"ids": [["cup", "hat"]], "scores": [[3.0, 1.0]]}
    >>> second = {"ids": [["pen", ""]], "scores": [[2.0, -np.inf]]}
    >>> merge_retrieved([first, second], k=2)["ids"].tolist()
    [['cup', 'pen']]
    """
    widths = [np.shape(answer["ids"])[1] for answer in answers]
    if min(widths, default=0) < positive("k", k):
        raise ValueError(
            "`answers` should hold one of each shard, of at least `k` results. "
            f"Received: k={k}, answers of {widths} results; ask for fewer, or export with a larger `k`"
        )
    ids = np.concatenate([np.asarray(answer["ids"], object) for answer in answers], axis=1)
    scores = np.concatenate([np.asarray(answer["scores"], np.float32) for answer in answers], axis=1)
    scores = np.where(ids.astype(bool), scores, np.float32(-np.inf))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return {"ids": np.take_along_axis(ids, best, 1), "scores": np.take_along_axis(scores, best, 1)}


def merge_scored(answers: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Merges the answers of all shards to one request of `score`.

    Over the whole catalogue `log Z_k = log sum over shards of exp log_partitions`, and so
    `log p_k = log_scores + log_partitions - log Z_k` with both of the shard that knows the item. On all
    others it is -inf: take the largest.

    Args:
        answers: of each shard `log_scores`, float [B, A, K], and `log_partitions`, float [B, K].

    Returns:
        Dict of `log_scores` and `probabilities`, float32 [B, A, K], and `log_partitions`, float32 [B, K], as
        the export of the whole catalogue gives them.

    Raises:
        ValueError: when there is no answer.

    Example:

    >>> first = {"log_scores": [[[0.0], [-np.inf]]], "log_partitions": [[0.0]]}
    >>> second = {"log_scores": [[[-np.inf], [0.0]]], "log_partitions": [[np.log(3.0)]]}
    >>> merge_scored([first, second])["probabilities"].round(3).tolist()
    [[[0.25], [0.75]]]
    """
    if not answers:
        raise ValueError("`answers` should hold one of each shard. Received: none")
    scores, partitions = (
        np.stack([np.asarray(answer[name], np.float64) for answer in answers])
        for name in ("log_scores", "log_partitions")
    )
    log_z = np.logaddexp.reduce(partitions, axis=0)
    log_p = np.max(scores + (partitions - log_z)[:, :, np.newaxis, :], axis=0)
    merged = {"log_scores": log_p, "probabilities": np.exp(log_p), "log_partitions": log_z}
    return {name: values.astype(np.float32) for name, values in merged.items()}


def shard_folders(directory: str | os.PathLike) -> list[str]:
    """Returns the folders of the shards that `export_shards` wrote to `directory`, in order; none otherwise.

    Example:

    >>> shard_folders("no such folder")
    []
    """
    return [os.path.join(directory, f"shard-{number}") for number in range(_count(directory))]


def common_version(folders: Sequence[str]) -> int:
    """Returns the highest version that all of the shards have, written by one export or refresh.

    Raises:
        FileNotFoundError: when there is none, as after a first export that was interrupted.
    """
    common = {
        version
        for version in set.intersection(*(set(versions(folder)) for folder in folders))
        if len({read_card(os.path.join(folder, str(version)))["shard"]["written"] for folder in folders}) == 1
    }
    if not common:
        held = {os.path.basename(folder): versions(folder) for folder in folders}
        raise FileNotFoundError(
            f"Shards should have a version in common. Received: versions {held} in "
            f"{os.path.dirname(folders[0])}; export the shards again"
        )
    return max(common)


def export_shards(
    embed_user: Callable,
    user_signature: Mapping,
    item_ids: Sequence[str] | np.ndarray,
    item_vectors: np.ndarray,
    owner: Sequence[int] | np.ndarray,
    objectives: Sequence[str],
    directory: str | os.PathLike,
    *,
    shards: int,
    index: str = "scann",
    fusion: str = "log",
    **options: Any,
) -> list[str]:
    """Writes an export of each shard of a catalogue: `shard-0`, `shard-1` and so on in `directory`.

    Each is an ordinary export of the items that `shard_of` gives it, with the signatures of `export` but for
    `embed_item`, and gives `k` results of its own. They are written one after the other under one version
    number, which none of them had before. Interrupted midway, some shards lack the version; the next run
    takes a new one for all. The files of TF Serving come last: the label `stable` moves when all are whole.

    Args:
        embed_user: as in `export`.
        user_signature: as in `export`.
        item_ids: as in `export`.
        item_vectors: float [N, D]. Of an `np.memmap`, one shard's rows at a time are in memory.
        owner: as in `export`.
        objectives: as in `export`.
        directory: holds the shards' folders, and in `shards.json` their number; made when missing.
        shards: their number.
        index: as in `export`.
        fusion: "log", as the probabilities that "linear" ranks by are those of the whole catalogue.
        options: further arguments of `export`, but `embed_item`, `item_signature` and `version`. With its
            table of ids an item tower would take as much memory in each shard as the vectors of all.

    Returns:
        The path of each shard's version.

    Raises:
        ValueError: as `export`; when a shard is left without items; when `directory` holds an export of the
            whole, or of another number of shards.
        FileExistsError: when another export to `directory` took the version meanwhile.
        ImportError: when `index` is "scann" and scann is not installed.

    Example:

    >>> import tempfile
    >>> from csmf_tf._keras import tf
    >>> folder = tempfile.mkdtemp()
    >>> paths = export_shards(
    ...     lambda features: features["vector"],
    ...     {"vector": tf.TensorSpec([None, 2])},
    ...     ["cup", "hat", "pen"],
    ...     np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]),
    ...     owner=[1, 2],
    ...     objectives=["view", "buy"],
    ...     directory=folder,
    ...     shards=2,
    ...     index="exact",
    ...     k=2,
    ... )
    >>> [os.path.relpath(path, folder) for path in paths]
    ['shard-0/1', 'shard-1/1']
    >>> request = {"vector": tf.constant([[3.0, 2.0]]), "weights": tf.constant([[0.0, 1.0]])}
    >>> answers = [tf.saved_model.load(path).signatures["retrieve"](**request) for path in paths]
    >>> merge_retrieved(answers, k=2)["ids"].tolist()
    [[b'hat', b'cup']]
    """
    _check_options(positive("shards", shards), fusion, options)
    ids, item_vectors = checked_item_ids(item_ids), np.asarray(item_vectors)
    checked_owner(owner, item_vectors, ids, checked_objectives(objectives))
    home = np.array([shard_of(item, shards) for item in ids], int)
    empty = np.setdiff1d(np.arange(shards), home)
    if len(empty):
        raise ValueError(
            f"`shards` should leave no shard without items. Received: shards={shards} for {len(ids)} items, "
            f"of which shard {empty[0]} has none; take fewer shards"
        )
    _lay_out(directory, shards)
    folders = shard_folders(directory)
    version, written = max(map(next_version, folders)), uuid.uuid4().hex
    paths = []
    for number, folder in enumerate(bar(folders, "exporting shards", delay=0)):
        rows = np.flatnonzero(home == number)
        part = [ids[row] for row in rows], item_vectors[rows], owner, objectives, folder
        try:
            shard = {"number": number, "of": shards, "written": written}
            path = export(
                embed_user, user_signature, *part, index=index, version=version, shard=shard, **options
            )
        except ValueError as error:
            raise ValueError(f"shard {number} of {shards}: {error}") from error
        paths.append(path)
    for folder in folders:
        write_server_files(folder, image=SCANN_IMAGE if index == "scann" else STOCK_IMAGE)
    return paths


def _check_options(shards: int, fusion: str, options: Mapping[str, Any]) -> None:
    if fusion != "log":
        raise ValueError(
            'Shards should have `fusion="log"`, as probabilities are those of the whole catalogue. '
            f"Received: fusion={fusion!r}; ask `score` for the merged items and rank them by `merge_scored`"
        )
    own = ("embed_item", "item_signature", "version", "shard")
    unfit = [name for name in own if options.get(name) is not None]
    if unfit:
        raise ValueError(
            "Shards should come without an item tower and under a version of their own. "
            f"Received: {', '.join(f'`{name}`' for name in unfit)}; leave out what is named"
        )


def _lay_out(directory: str | os.PathLike, shards: int) -> None:
    """Writes the number of shards before the first of them, so that a part is never taken for the whole."""
    os.makedirs(directory, exist_ok=True)
    if versions(directory):
        raise ValueError(
            f"`directory` should hold no export but shards. Received: versions {versions(directory)} in "
            f"{os.fspath(directory)}; export to another folder"
        )
    numbers = [
        int(found[1]) for found in map(re.compile(r"shard-(\d+)").fullmatch, os.listdir(directory)) if found
    ]
    held = [n for n in sorted(numbers) if versions(os.path.join(directory, f"shard-{n}"))]
    if held and (_count(directory) != shards or held[-1] >= shards):
        raise ValueError(
            f"`shards` should be as many as `directory` holds. Received: shards={shards}, and in "
            f"{os.fspath(directory)} {', '.join(f'shard-{n}' for n in held)}; "
            "export to another folder, or delete these"
        )
    path = os.path.join(directory, LAYOUT)
    with open(path + ".tmp", "w", encoding="utf-8") as file:
        json.dump({"shards": shards}, file)
    os.replace(path + ".tmp", path)


def _count(directory: str | os.PathLike) -> int:
    path = os.path.join(directory, LAYOUT)
    if not os.path.exists(path):
        return 0
    with open(path, encoding="utf-8") as file:
        return int(json.load(file)["shards"])
