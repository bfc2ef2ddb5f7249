"""The items of an export, changed: which rows go where, and what each kind of index makes of them."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from csmf_tf._keras import tf
from csmf_tf.serving import cells as cells_of
from csmf_tf.serving.ids import find_ids, moved_id_state
from csmf_tf.serving.scann_files import assigned


class Changes(NamedTuple):
    """Where the rows of a changed catalogue come from.

    Attributes:
        source: int32 [N'], for each new row an old one, or N + m for the m-th given item.
        added, changed, removed: how many items.
        unknown: how many items were to be removed that are not there.
    """

    source: np.ndarray
    added: int
    changed: int
    removed: int
    unknown: int


def changes(state: Mapping[str, Any], ids: Sequence[str], removed: Sequence[str]) -> Changes:
    """Returns the rows of a catalogue without the removed items and with the given ones.

    Items keep their order; changed ones stay in place, and new ones come last.

    Args:
        state: of `Retriever.catalogue`, what its variables hold.
        ids: the items that are new or changed, none twice.
        removed: the items to remove, none twice and none of `ids`.

    Raises:
        ValueError: when no item is left.

    Example:

    >>> from csmf_tf.serving.ids import id_state
    >>> found = changes(id_state(["cup", "hat", "tie"]), ["hat", "rug"], ["cup", "sofa"])
    >>> found.source.tolist(), found[1:]
    ([3, 2, 4], (1, 1, 1, 1))
    """
    n = tf.size(state["item_ids"]).numpy()
    rows, gone = (
        find_ids(state, tf.constant(names, tf.string)).numpy() for names in (list(ids), list(removed))
    )
    source, kept = np.arange(n, dtype=np.int32), np.ones(n, bool)
    kept[gone[gone >= 0]] = False
    given = n + np.arange(len(rows), dtype=np.int32)
    source[rows[rows >= 0]] = given[rows >= 0]
    source = np.concatenate([source[kept], given[rows < 0]])
    if not len(source):
        raise ValueError(
            f"A catalogue should keep an item. Received: all {n} of its items removed, none added"
        )
    return Changes(
        source,
        added=int(np.sum(rows < 0)),
        changed=int(np.sum(rows >= 0)),
        removed=int(np.sum(gone >= 0)),
        unknown=int(np.sum(gone < 0)),
    )


def changed_state(
    state: Mapping[str, Any], source: np.ndarray, ids: Sequence[str], vectors: np.ndarray
) -> dict[str, ArrayLike]:
    """Returns what the variables of a catalogue hold after a change.

    Cells, partitions and codebooks stay as they were trained; only the given items are put into them.

    Args:
        state: of `Retriever.catalogue`, what its variables hold.
        source: as in `Changes`.
        ids: the M given items.
        vectors: float32 [M, D].

    Example:

    >>> from csmf_tf.serving.ids import id_state
    >>> state = id_state(["cup", "hat"]) | {"vectors": np.array([[1.0], [2.0]], np.float32)}
    >>> new = changed_state(state, np.array([2, 1]), ["rug"], np.array([[5.0]], np.float32))
    >>> new["vectors"].numpy().tolist(), new["item_ids"].numpy().tolist()
    ([[5.0], [2.0]], [b'rug', b'hat'])
    """
    rows = {"vectors": vectors}
    new: dict[str, Any] = {}
    if "offsets" in state:
        source, new = _by_cell(state, source, vectors)
    elif np.ndim(state.get("hashed_dataset", 0)):
        rows["datapoint_to_token"], rows["hashed_dataset"] = assigned(state, vectors)
    with ThreadPoolExecutor(1) as beside:
        moving = beside.submit(moved_id_state, state, source, ids)
        new |= {name: tf.gather(tf.concat([state[name], values], 0), source) for name, values in rows.items()}
        if "offsets" in state:
            cells = np.repeat(np.arange(len(new["offsets"]) - 1), np.diff(new["offsets"]))
            centroids = np.asarray(state["centroids"])
            new["spreads"] = cells_of.spreads(np.asarray(new["vectors"]), centroids, cells)
        return new | moving.result()


def _by_cell(state, source, vectors):
    """Returns the source of each row sorted by cell, and the offsets of the cells."""
    offsets, centroids = np.asarray(state["offsets"]), np.asarray(state["centroids"])
    old = np.repeat(np.arange(len(centroids), dtype=np.int32), np.diff(offsets))
    cells = np.concatenate([old, cells_of.assign(vectors, centroids)])[source]
    order, offsets = cells_of.pack(cells, len(centroids))
    return source[order], {"offsets": offsets}
