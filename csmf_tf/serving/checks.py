"""Checks of what an export is made from."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from csmf_tf._keras import tf
from csmf_tf.serving.retriever import RESERVED


def checked_objectives(objectives: Sequence[str]) -> list[str]:
    """Returns the names of the objectives.

    Raises:
        ValueError: when there is none, or one comes twice.
    """
    names = [objectives] if isinstance(objectives, str) else list(objectives)
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"`objectives` should be names, at least one and none twice. Received: objectives={objectives!r}"
        )
    return names


def checked_item_ids(item_ids: Sequence[str] | np.ndarray) -> list[str]:
    """Returns the ids as strings that are safe in JSON; bytes are read as UTF-8 and integers written out.

    Raises:
        ValueError: when an id is empty, comes twice, is not valid UTF-8 or none of these kinds.

    Example:

    >>> checked_item_ids(["cup", b"hat", 7])
    ['cup', 'hat', '7']
    """
    ids = [_text(item) for item in item_ids]
    if "" in ids or len(set(ids)) < len(ids):
        raise ValueError(
            '`item_ids` should be unique and not empty: "" stands for no item. '
            f"Received: {len(ids)} ids, {len(set(ids))} different, {ids.count('')} empty"
        )
    return ids


def checked_owner(
    owner: ArrayLike, item_vectors: np.ndarray, item_ids: Sequence[str], objectives: Sequence[str]
) -> np.ndarray:
    """Returns the owners of the coordinates, integers [D].

    Raises:
        ValueError: when they do not fit the vectors, or the vectors the ids, or one is no objective's number.
    """
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


def checked_signature(name: str, signature: Mapping) -> dict:
    """Returns the `tf.TensorSpec` of each raw feature, named as the feature is.

    Args:
        name: of the argument, for the errors: "user_signature" or "item_signature".
        signature: what it holds.

    Raises:
        ValueError: when there is none, a name cannot be that of an input, or a batch size is not open.
    """
    kind = name.partition("_")[0]
    if not signature:
        raise ValueError(f"`{name}` should name at least one {kind} feature. Received: none")
    for feature, spec in signature.items():
        if not feature.isidentifier() or feature in RESERVED:
            others = ", ".join(f"`{reserved}`" for reserved in RESERVED)
            raise ValueError(
                f"Names of {kind} features should be identifiers (letters, digits, _) other than {others}, "
                f"as they become inputs of the SavedModel. Received: {feature!r}"
            )
        if spec.shape.rank is None or spec.shape.rank < 1 or spec.shape[0] is not None:
            raise ValueError(f"`{name}[{feature!r}]` should have batch size None first. Received: {spec}")
    return {feature: tf.TensorSpec(spec.shape, spec.dtype, feature) for feature, spec in signature.items()}


def _text(item: object) -> str:
    try:
        if isinstance(item, bytes):
            return item.decode("utf-8")
        if isinstance(item, str):
            item.encode("utf-8")
            return str(item)
    except UnicodeError as error:
        raise ValueError(
            f"`item_ids` should be valid UTF-8, as JSON holds nothing else. Received: {item!r}"
        ) from error
    if isinstance(item, int | np.integer) and not isinstance(item, bool):
        return str(item)
    raise ValueError(f"`item_ids` should be strings. Received: {item!r} of type {type(item).__name__}")
