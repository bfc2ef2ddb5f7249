"""Raw features of the known users, kept beside an export so that a user id is enough for a query."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def write_users(path: str | os.PathLike, users: Mapping[str, Any], user_id: str, signature: Mapping) -> None:
    """Writes the features that `signature` names, and the ids, to a Parquet file.

    Args:
        path: the file.
        users: raw feature arrays, one entry for each user: strings, numbers, or for features of rank 2
            lists or rows of a matrix.
        user_id: key of `users` that holds the ids.
        signature: `tf.TensorSpec` of each feature, batch first, of rank 1 or 2.

    Raises:
        ValueError: when a feature is missing, lengths differ, an id comes twice, or a list is longer than
            the width of its feature.

    Example:

    >>> import tempfile
    >>> from csmf_tf._keras import tf
    >>> path = os.path.join(tempfile.mkdtemp(), "users.parquet")
    >>> signature = {"id": tf.TensorSpec([None], tf.string), "tags": tf.TensorSpec([None, None], tf.string)}
    >>> write_users(path, {"id": ["u1", "u2"], "tags": [["a", "b"], []]}, "id", signature)
    >>> features, known = user_features(path, "u1", "id", signature)
    >>> features["tags"].tolist(), known
    ([['a', 'b']], True)
    """
    missing = [name for name in (user_id, *signature) if name not in users]
    if missing:
        raise ValueError(
            f"`users` should hold the ids and every user feature. Missing: {missing}; received: {list(users)}"
        )
    ids = [str(user) for user in users[user_id]]
    if len(set(ids)) < len(ids):
        raise ValueError(
            f"`users[{user_id!r}]` should hold every id once. Received: {len(ids)} ids, some twice"
        )
    columns = {user_id: pa.array(ids, pa.string())}
    for name, spec in signature.items():
        if len(users[name]) != len(ids):
            raise ValueError(
                f"`users[{name!r}]` should hold one entry for each of {len(ids)} users. "
                f"Received: {len(users[name])}"
            )
        if name != user_id:
            columns[name] = _column(name, users[name], spec)
    pq.write_table(pa.table(columns), path)


def user_features(
    path: str | os.PathLike | None, user: str, user_id: str, signature: Mapping
) -> tuple[dict[str, np.ndarray], bool]:
    """Returns one user's raw features as a batch of one, and whether the user is known.

    Of a user that is not known, strings are empty, floats NaN and integers 0.

    Args:
        path: file of `write_users`, or `None` when the id is the only feature.
        user: the id.
        user_id: name of the ids' column, and of the id feature if the model reads it.
        signature: `tf.TensorSpec` of each feature.

    Example:

    >>> from csmf_tf._keras import tf
    >>> user_features(None, "u1", "id", {"id": tf.TensorSpec([None], tf.string)})
    ({'id': array(['u1'], dtype=object)}, True)
    """
    rows = pq.read_table(path, filters=[(user_id, "==", user)]).to_pylist() if path else [{}]
    row = {**(rows[0] if rows else {}), user_id: user}
    return {name: _batch_of_one(row.get(name), spec) for name, spec in signature.items()}, bool(rows)


def user_batch(users: Mapping[str, Any], signature: Mapping, rows: Sequence[int]) -> dict[str, np.ndarray]:
    """Returns the raw features of some users as one batch; shorter lists are filled with blanks.

    Args:
        users: raw feature arrays, as `write_users` takes them.
        signature: `tf.TensorSpec` of each feature.
        rows: which users.

    Example:

    >>> from csmf_tf._keras import tf
    >>> signature = {"tags": tf.TensorSpec([None, None], tf.string)}
    >>> user_batch({"tags": [["a", "b"], []]}, signature, rows=[0, 1])["tags"].tolist()
    [['a', 'b'], ['', '']]
    """
    batch = {}
    for name, spec in signature.items():
        values = [_batch_of_one(users[name][row], spec) for row in rows]
        width = max((value.shape[-1] for value in values), default=0)
        blank = _batch_of_one(None, spec)[..., :1]
        batch[name] = np.concatenate(
            [
                np.concatenate([value, *[blank] * (width - value.shape[-1])], axis=-1)
                if spec.shape.rank == 2
                else value
                for value in values
            ]
        )
    return batch


def _column(name: str, values: Sequence, spec: Any) -> pa.Array:
    if spec.shape.rank not in (1, 2):
        raise ValueError(
            f"Features of `users` should be of rank 1 or 2 with the batch. Received: {name!r} of {spec.shape}"
        )
    if spec.shape.rank == 1:
        return pa.array(np.asarray(values).tolist())
    rows = [list(row) for row in values]
    longest = max(map(len, rows), default=0)
    if spec.shape[1] is not None and longest > spec.shape[1]:
        raise ValueError(
            f"`users[{name!r}]` should hold at most {spec.shape[1]} entries a user. Received: {longest}"
        )
    return pa.array(rows)


def _batch_of_one(value: Any, spec: Any) -> np.ndarray:
    dtype = spec.dtype.as_numpy_dtype
    blank = "" if dtype is object else np.nan if spec.dtype.is_floating else 0
    if spec.shape.rank == 1:
        return np.array([blank if value is None else value], dtype)
    entries = [blank if entry is None else entry for entry in ([] if value is None else value)]
    width = spec.shape[1] or max(len(entries), 1)
    return np.array([entries + [blank] * (width - len(entries))], dtype)
