"""Export: one SavedModel with raw user features and fusion weights in, item ids and scores out."""

import json
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from csmf_tf._keras import tf
from csmf_tf.serving.fusion import check_weights, query_scale, request_weights
from csmf_tf.serving.index import INDICES, positive
from csmf_tf.serving.users import write_users
from csmf_tf.serving.versions import publish

FORMAT = 1
"""Version of the layout of `assets.extra`; `query` reads only its own."""


class Retriever(tf.Module):
    """Answers requests: embeds the user, scales the embedding by the fusion weights, searches the index.

    Args:
        embed_user: maps a dict of raw feature tensors to user vectors, float [B, D].
        index: `ExactIndex` or `ScannIndex` of the item vectors.
        item_ids: string [N].
        owner: integer [D], the objective that owns each coordinate, 0 = free.
        weights: float32 [K], the fusion weights of requests that give none.

    Example:

    >>> from csmf_tf.serving.index import ExactIndex
    >>> index = ExactIndex([[1.0, 0.0], [0.0, 2.0]], k=1)
    >>> retrieve = Retriever(lambda features: features["user"], index, ["i1", "i2"], [1, 2], [1.0, 1.0])
    >>> retrieve({"user": [[3.0, 2.0]]}, weights=[[1.0, 0.0], [0.0, 1.0]])["ids"].numpy().tolist()
    [[b'i1'], [b'i2']]
    """

    def __init__(self, embed_user, index, item_ids, owner, weights):
        super().__init__()
        self._embed_user = embed_user
        self._index = index
        # The last one stands for index -1: nothing found.
        self._item_ids = tf.Variable([*item_ids, ""], trainable=False, name="item_ids")
        self._owner = np.asarray(owner, np.int32)
        self._weights = np.asarray(weights, np.float32)

    def __call__(self, features, weights=None):
        """Returns the best items of each request.

        Args:
            features: dict of raw feature tensors, batch B first.
            weights: float32 [B, K]; a batch of one, here or in `features`, is repeated to the size of the
                other. A row of zeros takes the default weights, and `None` does for all.

        Returns:
            Dict of `ids`, string [B, k], and `scores`, float32 [B, k]: `sum_k w_k s_k`, descending. Where
            fewer than k items were found, "" and -inf fill the rest.
        """
        weights = self._weights if weights is None else request_weights(weights, self._weights)
        users = tf.cast(self._embed_user(features), tf.float32)
        if not users.shape.is_compatible_with([None, len(self._owner)]):
            raise ValueError(
                f"`embed_user` should return user vectors [B, {len(self._owner)}], as wide as the items'. "
                f"Received: shape={users.shape}"
            )
        indices, scores = self._index.search(users * query_scale(self._owner, weights))
        nothing = tf.size(self._item_ids) - 1
        return {"ids": tf.gather(self._item_ids, tf.where(indices < 0, nothing, indices)), "scores": scores}


def export(
    embed_user: Callable,
    user_signature: Mapping,
    item_ids: Sequence[str] | np.ndarray,
    item_vectors: np.ndarray,
    owner: Sequence[int] | np.ndarray,
    objectives: Sequence[str],
    directory: str | os.PathLike,
    *,
    index: str = "scann",
    k: int = 100,
    weights: Mapping[str, float] | Sequence[float] | np.ndarray | None = None,
    users: Mapping | None = None,
    user_id: str | None = None,
) -> str:
    """Writes the next version of a SavedModel that retrieves items; it needs no csmf_tf to run.

    Signatures:

    - `serving_default`: the user features -> `ids` string [B, k], `scores` float32 [B, k].
    - `retrieve`: the same and `weights` float32 [B, K] -> the same.

    An index of kind "exact" runs in stock TensorFlow; "scann" needs scann's ops: `import scann` before
    `tf.saved_model.load`. The version appears whole or not at all.

    Args:
        embed_user: a Keras model or `tf.Module` that maps a dict of raw feature tensors to user vectors,
            float [B, D]. Lookup tables are found through its attributes.
        user_signature: `tf.TensorSpec` of each raw feature, with batch size `None`.
        item_ids: strings [N], unique, not empty.
        item_vectors: float [N, D].
        owner: integer [D], the objective that owns each coordinate of the vectors, 0 = free.
        objectives: names of the K objectives, upstream first.
        directory: holds the versions 1, 2, ...; made when missing.
        index: "scann" or "exact".
        k: results for each query.
        weights: fusion weights of requests that give none, see `check_weights`; default equal.
        users: raw features of the known users, so that `query` needs only an id; arrays over users, with
            their ids.
        user_id: the key of the ids in `users`, and of the id among the features; default the first of
            `users`, without these the first of `user_signature`.

    Returns:
        The path of the version.

    Raises:
        ValueError: when arguments do not fit each other or their descriptions.
        ImportError: when `index` is "scann" and scann is not installed.

    Example:

    >>> import tempfile
    >>> path = export(
    ...     lambda features: features["vector"],
    ...     {"vector": tf.TensorSpec([None, 2])},
    ...     ["i1", "i2"],
    ...     [[1.0, 0.0], [0.0, 2.0]],
    ...     owner=[1, 2],
    ...     objectives=["view", "buy"],
    ...     directory=tempfile.mkdtemp(),
    ...     index="exact",
    ...     k=1,
    ... )
    >>> served = tf.saved_model.load(path).signatures["retrieve"]
    >>> served(vector=tf.constant([[3.0, 2.0]]), weights=tf.constant([[0.0, 1.0]]))["ids"].numpy().item()
    b'i2'
    """
    objectives = _checked_objectives(objectives)
    item_ids = _checked_item_ids(item_ids)
    item_vectors = np.asarray(item_vectors, np.float32)
    owner = _checked_owner(owner, item_vectors, item_ids, objectives)
    user_signature = _checked_signature(user_signature)
    weights = check_weights(weights, objectives)
    if index not in INDICES:
        raise ValueError(f"`index` should be one of {sorted(INDICES)}. Received: index={index!r}")
    card = {
        "format": FORMAT,
        "objectives": objectives,
        "weights": weights.tolist(),
        "k": positive("k", k),
        "index": index,
        "user_id": user_id or next(iter(users or user_signature)),
    }
    retriever = Retriever(embed_user, INDICES[index](item_vectors, k), item_ids, owner, weights)

    def write(draft):
        _save(retriever, user_signature, len(objectives), draft)
        extra = os.path.join(draft, "assets.extra")
        os.makedirs(extra)
        with open(os.path.join(extra, "csmf.json"), "w", encoding="utf-8") as file:
            json.dump(card, file, indent=1)
        if users is not None:
            write_users(os.path.join(extra, "users.parquet"), users, card["user_id"], user_signature)

    return publish(directory, write)


def _save(retriever: Retriever, user_signature: Mapping, n_objectives: int, path: str) -> None:
    def serving_default(**features):
        return retriever(features)

    def retrieve(weights, **features):
        return retriever(features, weights)

    weights = tf.TensorSpec([None, n_objectives], tf.float32, "weights")
    signatures = {
        "serving_default": tf.function(serving_default).get_concrete_function(**user_signature),
        "retrieve": tf.function(retrieve).get_concrete_function(weights=weights, **user_signature),
    }
    # Only what the signatures read is saved: not the item tower, nor what Keras traces of each layer.
    root = tf.Module()
    root.state = list({v.ref(): v for f in signatures.values() for v in f.variables}.values())
    root.resources = [
        part
        for part in tf.train.TrackableView(retriever).descendants()
        if isinstance(part, tf.saved_model.experimental.TrackableResource)
    ]
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"], experimental_custom_gradients=False)
    tf.saved_model.save(root, path, signatures, options)


def _checked_objectives(objectives: Sequence[str]) -> list[str]:
    names = [objectives] if isinstance(objectives, str) else list(objectives)
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"`objectives` should be names, at least one and none twice. Received: objectives={objectives!r}"
        )
    return names


def _checked_item_ids(item_ids: Sequence[str] | np.ndarray) -> list[str]:
    ids = [str(item) for item in item_ids]
    if "" in ids or len(set(ids)) < len(ids):
        raise ValueError(
            '`item_ids` should be unique and not empty: "" stands for no item. '
            f"Received: {len(ids)} ids, {len(set(ids))} different, {ids.count('')} empty"
        )
    return ids


def _checked_owner(
    owner: ArrayLike, item_vectors: np.ndarray, item_ids: list[str], objectives: list[str]
) -> np.ndarray:
    owner = np.asarray(owner)
    shape = (len(item_ids), *owner.shape)
    if owner.ndim != 1 or item_vectors.shape != shape:
        raise ValueError(
            "`item_vectors` should have a row for each item id and a column for each entry of `owner`. "
            f"Received: item_vectors.shape={item_vectors.shape}, {len(item_ids)} item ids, "
            f"owner.shape={owner.shape}"
        )
    if owner.dtype.kind not in "iu" or owner.min() < 0 or owner.max() > len(objectives):
        raise ValueError(
            f"`owner` should hold integers from 0 (free) to {len(objectives)}, the number of objectives. "
            f"Received: dtype={owner.dtype}, values {np.unique(owner)}"
        )
    return owner


def _checked_signature(user_signature: Mapping) -> dict:
    if not user_signature:
        raise ValueError("`user_signature` should name at least one user feature. Received: none")
    for name, spec in user_signature.items():
        if not name.isidentifier() or name == "weights":
            raise ValueError(
                "Names of user features should be identifiers (letters, digits, _) other than `weights`, "
                f"as they become inputs of the SavedModel. Received: {name!r}"
            )
        if spec.shape.rank is None or spec.shape.rank < 1 or spec.shape[0] is not None:
            raise ValueError(
                f"`user_signature[{name!r}]` should have batch size None first. Received: {spec}"
            )
    return {name: tf.TensorSpec(spec.shape, spec.dtype, name) for name, spec in user_signature.items()}
