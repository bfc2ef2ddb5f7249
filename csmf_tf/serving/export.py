"""Export: one SavedModel with raw features and fusion weights in, item ids and scores out."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from csmf_tf._keras import tf
from csmf_tf.progress import step
from csmf_tf.serving.card import FORMAT, write_card
from csmf_tf.serving.checks import checked_item_ids, checked_objectives, checked_owner, checked_signature
from csmf_tf.serving.fusion import FUSIONS, check_weights
from csmf_tf.serving.index import INDICES, checked_settings, positive
from csmf_tf.serving.items import item_columns
from csmf_tf.serving.probe import make_probe, write_probe
from csmf_tf.serving.recall import check_recall, measure_recall
from csmf_tf.serving.retriever import Retriever
from csmf_tf.serving.server_files import SCANN_IMAGE, STOCK_IMAGE, served_name, write_server_files
from csmf_tf.serving.users import user_batch, write_users
from csmf_tf.serving.versions import LAYOUT, publish
from csmf_tf.serving.warmup import signature_inputs, write_warmup

PROBE_USERS = 256
"""So many users tell the recall of an index (own choice)."""


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
    embed_item: Callable | None = None,
    item_signature: Mapping | None = None,
    item_id: str | None = None,
    fusion: str = "log",
    settings: Mapping[str, int] | None = None,
    probe: Mapping | None = None,
    min_recall: float = 0.9,
    version: int | None = None,
    shard: Mapping[str, Any] | None = None,
    item_features: Mapping[str, Mapping[str, str]] | None = None,
    behaviors: Sequence[str] | None = None,
) -> str:
    """Writes the next version of a SavedModel that retrieves items; it needs no csmf_tf to run.

    Signatures, all with named inputs and outputs; B is the batch, K the number of objectives:

    | signature | inputs | outputs |
    |---|---|---|
    | `serving_default` | user features | `ids` string [B, k], `scores` float32 [B, k] |
    | `retrieve` | and `weights` float32 [B, K] | the same |
    | `retrieve_excluding` | and `weights`, `exclude` string [B, E] | the same, without these items |
    | `retrieve_among` | and `weights`, `among` string [B, A] | the same, of these items only |
    | `embed_user` | user features | `embedding` float32 [B, D] |
    | `embed_item` | item features | `embedding` float32 [B, D] |
    | `score` | and `item_ids` [B, A] | `log_scores`, `probabilities` [B, A, K], `log_partitions` [B, K] |

    `Retriever` has what they compute. Indices of kind "exact" and "portable" run in stock TensorFlow; "scann"
    needs scann's ops: `import scann` before `tf.saved_model.load`. The version appears whole or not at all.

    Args:
        embed_user: a Keras model or `tf.Module` that maps a dict of raw feature tensors to user vectors,
            float [B, D]. Lookup tables are found through its attributes.
        user_signature: `tf.TensorSpec` of each raw feature, with batch size `None`.
        item_ids: strings [N], unique, not empty, valid UTF-8.
        item_vectors: float [N, D].
        owner: integer [D], the objective that owns each coordinate of the vectors, 0 = free.
        objectives: names of the K objectives, upstream first.
        directory: holds the versions 1, 2, ...; made when missing.
        index: "scann", "portable" or "exact".
        k: results for each query.
        weights: fusion weights of requests that give none, see `check_weights`; default equal.
        users: raw features of the known users, so that `query` needs only an id; arrays over users, with
            their ids.
        user_id: the key of the ids in `users`, and of the id among the features; default the first of
            `users`, without these the first of `user_signature`.
        embed_item: as `embed_user`, for items; without it there is no signature `embed_item`. Its variables
            are part of the export.
        item_signature: `tf.TensorSpec` of each raw item feature, with batch size `None`.
        item_id: the key of the id among the item features; default the first of `item_signature`.
        fusion: "log" ranks by `sum_k w_k s_k`, in one search. "linear" ranks by `sum_k w_k p_k` the 4k items
            that log fusion finds first; each request then scores the whole catalogue K times, whatever the
            index.
        settings: keyword arguments of the index, such as `leaves_to_search`; default those of its class.
        probe: raw features of users, arrays as in `users`, on which the recall of an index that is not exact
            is measured under several weightings, see `measure_recall`; default `users`, of which 256 are
            drawn. The recalls stand in `assets.extra/csmf.json`.
        min_recall: least recall under any weighting; 0 exports all the same.
        version: the number to take, above those that are there; the files of TF Serving are then left to the
            caller. Default the next.
        shard: of `export_shards`, what the card says of the shard.
        item_features: the columns of the item tables that `refresh` will read: name of a column to its
            `input`, a key of `item_signature`, and its `kind`, "id", "categorical", "multi" or "numeric". By
            default columns are named as the inputs.
        behaviors: what the user feature `history_behavior` knows, so that `query` can check a history.

    Returns:
        The path of the version.

    Raises:
        ValueError: when arguments do not fit each other or their descriptions, or the index finds less than
            `min_recall`.
        FileExistsError: when `version` is not above those that are there.
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
    objectives = checked_objectives(objectives)
    item_ids = checked_item_ids(item_ids)
    item_vectors = np.asarray(item_vectors, np.float32)
    owner = checked_owner(owner, item_vectors, item_ids, objectives)
    user_signature = checked_signature("user_signature", user_signature)
    if (embed_item is None) != (item_signature is None):
        raise ValueError(
            "`embed_item` and `item_signature` should be given both or neither. "
            f"Received: embed_item={embed_item!r}, item_signature={item_signature!r}"
        )
    if item_signature is not None:
        item_signature = checked_signature("item_signature", item_signature)
    weights = check_weights(weights, objectives)
    if index not in INDICES:
        raise ValueError(f"`index` should be one of {sorted(INDICES)}. Received: index={index!r}")
    if fusion not in FUSIONS:
        raise ValueError(f"`fusion` should be one of {sorted(FUSIONS)}. Received: fusion={fusion!r}")
    if shard is None and os.path.exists(os.path.join(directory, LAYOUT)):
        raise ValueError(
            f"`directory` should hold no shards, which a query would ask instead. Received: {LAYOUT} in "
            f"{os.fspath(directory)}; export to another folder"
        )
    k = positive("k", k)
    item_id = item_id or next(iter(item_signature or {}), None)
    settings = checked_settings(index, settings or {})
    with step(f"building the {index} index of {len(item_ids):,} items"):
        made = INDICES[index](item_vectors, k, **settings)
    if index == "portable":
        item_ids = [item_ids[row] for row in made.arrange()]
    retriever = Retriever(embed_user, made, item_ids, owner, weights, fusion=fusion, embed_item=embed_item)
    card = {
        "format": FORMAT,
        "objectives": objectives,
        "weights": weights.tolist(),
        "k": k,
        "index": index,
        "settings": made.settings,
        "user_id": user_id or next(iter(users or user_signature)),
        "fusion": fusion,
        "item_id": item_id,
        "item_features": item_features or item_columns(item_signature or {}, item_id),
        "behaviors": None if behaviors is None else [*behaviors],
        "recall": {},
        "min_recall": min_recall,
        "shard": dict(shard) if shard else None,
    }
    probe = users if probe is None else probe
    if probe is not None and index != "exact":
        count = len(next(iter(probe.values())))
        rows = np.random.default_rng(0).permutation(count)[:PROBE_USERS]
        batch = user_batch(probe, user_signature, rows.tolist())
        vectors = embed_user({name: tf.constant(values) for name, values in batch.items()})
        card["recall"] = measure_recall(made, vectors, owner, objectives, k)
        check_recall(card["recall"], min_recall, index, k)

    def write(draft):
        _save(retriever, retriever.signatures(user_signature, item_signature), draft)
        write_card(draft, card)
        if card["recall"]:
            write_probe(draft, make_probe(made, vectors, owner, objectives, k))
        if users is not None:
            file = os.path.join(draft, "assets.extra", "users.parquet")
            write_users(file, users, card["user_id"], user_signature)
        write_warmup(draft, _examples(draft, users, user_signature, weights, item_ids), name)

    name = served_name(directory)
    with step("writing the SavedModel"):
        path = publish(directory, write, version)
    if version is None:
        write_server_files(directory, name, SCANN_IMAGE if index == "scann" else STOCK_IMAGE)
    return path


def _examples(
    path: str, users: Mapping | None, user_signature: Mapping, weights: np.ndarray, item_ids: Sequence[str]
) -> dict:
    """Inputs of one request for each signature, as far as they are known; the rest will be blank."""
    known = {} if users is None else user_batch(users, user_signature, [0])
    ids = {"exclude": item_ids[:2], "among": item_ids[:10], "item_ids": item_ids[:10]}
    known |= {"weights": weights[None]} | {key: np.array([value], object) for key, value in ids.items()}
    return {
        signature: {name: known[name] for name in inputs if name in known}
        for signature, inputs in signature_inputs(path).items()
        if signature != "embed_item"
    }


def _save(retriever: Retriever, signatures: Mapping, path: str) -> None:
    # Only what the signatures read is saved: no other weights, nor what Keras traces of each layer.
    root = tf.Module()
    read = {v.ref(): v for f in signatures.values() for v in f.variables}
    catalogue = {name: v for name, v in retriever.catalogue.items() if v.ref() in read}
    # Keys of the checkpoint that a refresh finds the items by.
    root.catalogue = catalogue
    items = {v.ref() for v in catalogue.values()}
    root.state = [v for ref, v in read.items() if ref not in items]
    root.resources = [
        part
        for part in tf.train.TrackableView(retriever).descendants()
        if isinstance(part, tf.saved_model.experimental.TrackableResource)
    ]
    options = tf.saved_model.SaveOptions(namespace_whitelist=["Scann"], experimental_custom_gradients=False)
    tf.saved_model.save(root, path, signatures, options)
