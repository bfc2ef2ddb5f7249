"""The metrics of each user on disk, so that runs can be compared user by user."""

import hashlib
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from csmf_tf.data.groups import Groups
from csmf_tf.data.stream import objects
from csmf_tf.evaluation.ranking import pairs_of

USERS_FILE = "evaluation/users.parquet"
"""Where `csmf-tf evaluate` leaves a run's `UserResults`, from the run's folder."""

TARGETS = ("discovery", "all", "met", "new")
"""Kinds of targets: what is new to the user, and with met items shown all targets, the met, the new ones."""

_ABOUT = b"csmf_tf.user_results"
_KEYS = ("user_id", "objective", "targets")

Key = tuple[str, str]
"""An objective and one of `TARGETS`."""


class UserTable(NamedTuple):
    """What one ranking gave to each user with a target.

    Attributes:
        users: object `[n]` of str, ids of the users, each once.
        values: metric, such as "recall@50" -> float64 `[n]`.
        digest: which targets were to be found, see `targets_digest`.
    """

    users: np.ndarray
    values: dict[str, np.ndarray]
    digest: str


class UserResults(NamedTuple):
    """The metrics of each user of one run, or of a peer.

    Attributes:
        name: what the table of a comparison calls it.
        tables: (objective, kind of targets) -> `UserTable`; all with the same metrics.
        state: which weights were measured, see `run_state`; "" for a peer.
        split: how the test events were held out, to be shown to people.
    """

    name: str
    tables: dict[Key, UserTable]
    state: str = ""
    split: Mapping[str, Any] = {}


def targets_digest(user_ids: np.ndarray, item_ids: np.ndarray, groups: Groups, users: np.ndarray) -> str:
    """A fingerprint of test targets: the same for the same ids, however they are coded and ordered.

    Args:
        user_ids: object `[U]` of str, the id of each user code.
        item_ids: object `[N]` of str, the id of each item code.
        groups: the target items of each user code.
        users: integer codes `[n]` of the users that are measured, each once; those without a target do not
            count.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: if a code is out of range.

    Example:
        >>> users, items = np.array(["ann", "bob"], object), np.array(["cup", "hat"], object)
        >>> one = Groups(np.array([0, 2, 3]), np.array([0, 1, 1]))
        >>> turned = Groups(np.array([0, 1, 3]), np.array([0, 0, 1]))
        >>> targets_digest(users, items, one, np.arange(2)) == targets_digest(
        ...     users[::-1], items[::-1], turned, np.arange(2)
        ... )
        True
    """
    users = np.asarray(users, np.int64)
    for name, codes, ids in (("users", users, user_ids), ("groups.items", groups.items, item_ids)):
        if len(codes) and not 0 <= codes.min() <= codes.max() < len(ids):
            raise ValueError(
                f"`{name}` should be codes in 0..{len(ids) - 1}. "
                f"Received: codes in {codes.min()}..{codes.max()}."
            )
    users = users[groups.counts[users] > 0]
    users = users[np.argsort(user_ids[users], kind="stable")]
    row, item = pairs_of(groups, users)
    distinct, position = np.unique(item, return_inverse=True)
    order = np.argsort(item_ids[distinct], kind="stable")
    rank = np.argsort(order)[position]
    items = item_ids[distinct][order]
    digest = hashlib.sha256()
    _feed(digest, user_ids[users])
    digest.update(np.bincount(row, minlength=len(users)).astype("<i8").tobytes())
    _feed(digest, items[np.sort(row * np.int64(len(items)) + rank) % max(len(items), 1)])
    return digest.hexdigest()


def run_state(directory: str | os.PathLike[str]) -> str:
    """A fingerprint of the weights that a run has now.

    Args:
        directory: the run's folder.

    Returns:
        the SHA-256 of its state.json, 64 hexadecimal digits.

    Raises:
        FileNotFoundError: when it is not the folder of a run that was trained.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = pathlib.Path(folder, "state.json").write_text("{}")
        ...     run_state(folder)[:8]
        '44136fa3'
    """
    path = pathlib.Path(directory) / "state.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{directory} should be the directory of a run. Received: one without state.json; "
            f"make it with `csmf-tf fit CONFIG.yaml --out {directory}`"
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write_user_results(path: str | os.PathLike[str], results: UserResults) -> None:
    """Writes one Parquet file, whole or not at all.

    A row is a user under one objective and kind of targets: the columns user_id, objective and targets, and
    one of float64 for each metric. The rest of `results` is JSON in the file's metadata.

    Args:
        path: the file to write; missing folders are made.
        results: what to write.

    Raises:
        ValueError: if a kind of targets is not known, tables have different metrics, or users or values of a
            table are missing, not finite, or there twice.

    Example:
        >>> import tempfile
        >>> table = UserTable(np.array(["u1", "u2"], object), {"recall@50": np.array([0.0, 0.5])}, digest="")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_user_results(
        ...         f"{folder}/peer.parquet", UserResults("peer", {("buy", "discovery"): table})
        ...     )
        ...     read_user_results(f"{folder}/peer.parquet").tables["buy", "discovery"].values
        {'recall@50': array([0. , 0.5])}
    """
    path = pathlib.Path(path)
    metrics = _check(results)
    tables = results.tables.items()
    counts = [len(table.users) for _, table in tables]
    names = [np.repeat(objects([key[part] for key, _ in tables]), counts) for part in (0, 1)]
    columns = {
        "user_id": pa.array([user for _, table in tables for user in table.users], pa.string()),
        "objective": pa.array(names[0], pa.string()).dictionary_encode(),
        "targets": pa.array(names[1], pa.string()).dictionary_encode(),
    }
    for metric in metrics:
        values = [np.asarray(table.values[metric], np.float64) for _, table in tables]
        columns[metric] = pa.array(np.concatenate(values))
    about = {
        "name": results.name,
        "metrics": metrics,
        "split": dict(results.split),
        "targets_digest": {"/".join(key): table.digest for key, table in tables},
        "state": results.state,
    }
    table = pa.table(columns).replace_schema_metadata({_ABOUT: json.dumps(about)})
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".tmp")
    pq.write_table(table, beside)
    beside.replace(path)


def read_user_results(path: str | os.PathLike[str]) -> UserResults:
    """Reads what `write_user_results` wrote.

    Args:
        path: the file.

    Returns:
        the `UserResults`.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the file is damaged or holds something else.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} should be a file of user results. Received: no file; `csmf-tf evaluate RUN` writes "
            f"RUN/{USERS_FILE}, `write_user_results` those of a peer"
        )
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(_damaged(path, "what cannot be read as Parquet")) from error
    about = (table.schema.metadata or {}).get(_ABOUT)
    if about is None:
        raise ValueError(_damaged(path, "a Parquet file of something else"))
    try:
        results = _from_table(table, json.loads(about))
        _check(results)
    except (pa.ArrowException, KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(_damaged(path, f"contents that contradict each other ({error})")) from error
    return results


def _from_table(table: pa.Table, about: Mapping[str, Any]) -> UserResults:
    tables: dict[Key, UserTable] = {}
    rows = 0
    for name, digest in about["targets_digest"].items():
        objective, _, targets = name.rpartition("/")
        where = pc.and_(pc.equal(table["objective"], objective), pc.equal(table["targets"], targets))
        part = table.filter(where)
        rows += len(part)
        values = {metric: part[metric].to_numpy().astype(np.float64) for metric in about["metrics"]}
        tables[objective, targets] = UserTable(objects(part["user_id"].to_pylist()), values, digest)
    if rows != len(table):
        raise ValueError(f"{len(table) - rows} rows of no known objective")
    return UserResults(about["name"], tables, about["state"], about["split"])


def _check(results: UserResults) -> list[str]:
    """The metrics, after a look at every table."""
    metrics = list(next(iter(results.tables.values())).values) if results.tables else []
    if not metrics:
        raise ValueError("`results.tables` should hold at least one table with a metric. Received: none")
    if not set(metrics).isdisjoint(_KEYS):
        raise ValueError(f"A metric should not be called one of {', '.join(_KEYS)}. Received: {metrics}")
    for (objective, targets), table in results.tables.items():
        where = f"of objective '{objective}', {targets} targets,"
        if targets not in TARGETS:
            raise ValueError(f"Targets should be one of {', '.join(TARGETS)}. Received: {targets!r}")
        if list(table.values) != metrics:
            raise ValueError(
                f"All tables should have the metrics {metrics}. Received: {list(table.values)} {where[:-1]}"
            )
        _check_users(table.users, where)
        for metric, value in table.values.items():
            if np.shape(value) != (len(table.users),) or not np.isfinite(value).all():
                raise ValueError(
                    f"Values {where} should be a finite number for each of {len(table.users)} users. "
                    f"Received: {metric} of shape {np.shape(value)}"
                )
    return metrics


def _check_users(users: Sequence[str] | np.ndarray, where: str) -> None:
    if not all(isinstance(user, str) for user in users) or len(set(users)) < len(users):
        raise ValueError(f"Users {where} should be ids of type str, each once. Received: others, or repeats")


def _damaged(path: pathlib.Path, received: str) -> str:
    return (
        f"{path} should be a file of user results. Received: {received}; write it anew with "
        "`csmf-tf evaluate RUN` or `write_user_results`"
    )


def _feed(digest: Any, ids: np.ndarray) -> None:
    """Adds ids with their lengths, so that ["ab", "c"] is not ["a", "bc"]."""
    texts = ids.tolist()
    digest.update(np.fromiter(map(len, texts), "<i8", len(texts)).tobytes())
    digest.update("".join(texts).encode("utf-8", "surrogatepass"))
