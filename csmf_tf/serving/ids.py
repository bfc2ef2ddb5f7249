"""Item ids as part of a SavedModel: index to string and string to index."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from csmf_tf._keras import tf


class ItemIds(tf.Module):
    """The ids of a catalogue, found by binary search among their sorted hashes.

    A static hash table has its size written into the graph; these are variables of unknown length, so that a
    checkpoint of another catalogue can take their place. Ids of equal hash are told apart by their strings.

    Args:
        ids: strings [N], N >= 1, unique, none empty.

    Example:

    >>> ids = ItemIds(["cup", "hat"])
    >>> ids.find(tf.constant([["hat", "", "scarf"], ["cup", "cup", "hat"]])).numpy().tolist()
    [[1, -1, -1], [0, 0, 1]]
    >>> ids.strings([1, -1]).numpy().tolist()
    [b'hat', b'']
    """

    def __init__(self, ids: Sequence[str]):
        super().__init__()
        self.state = {
            name: tf.Variable(value, trainable=False, name=name, shape=[None] * np.ndim(value))
            for name, value in id_state(ids).items()
        }

    def strings(self, indices):
        """Returns the ids at `indices`, int32 of any shape; "" where an index is negative."""
        ids = tf.gather(self._read("item_ids"), tf.maximum(indices, 0))
        return tf.where(tf.less(indices, 0), "", ids)

    def find(self, ids):
        """Returns the index of each id, int32 of the shape of `ids`; -1 where it is unknown."""
        return find_ids({name: self._read(name) for name in self.state}, ids)

    def _read(self, name):
        # Gathering from a variable itself would make every later read copy the whole of it.
        return self.state[name].read_value()


def find_ids(state: Mapping[str, tf.Tensor], ids: tf.Tensor) -> tf.Tensor:
    """Returns the index of each id, int32 of the shape of `ids`; -1 where it is unknown.

    Args:
        state: what `id_state` gives.
        ids: strings of any shape.

    Example:

    >>> find_ids(id_state(["cup", "hat"]), tf.constant(["hat", "scarf"])).numpy().tolist()
    [1, -1]
    """
    order = state["item_id_order"]
    flat = tf.reshape(ids, [-1, 1])
    first = tf.searchsorted(state["item_id_hashes"], _hashes(flat[:, 0]))
    places = first[:, tf.newaxis] + tf.range(state["item_id_run"])
    indices = tf.gather(order, tf.minimum(places, tf.size(order) - 1))
    same = tf.equal(tf.gather(state["item_ids"], indices), flat)
    return tf.reshape(tf.reduce_max(tf.where(same, indices, -1), axis=1), tf.shape(ids))


def id_state(ids: Sequence[str]) -> dict[str, ArrayLike]:
    """Returns what the variables of `ItemIds` hold, by their names.

    Args:
        ids: strings [N], N >= 1, unique.

    Returns:
        `item_ids`: string tensor [N]; `item_id_hashes`: int64 [N], ascending; `item_id_order`: int32 [N], the
        index of the id that has each hash; `item_id_run`: int32, how many ids share a hash at most.

    Example:

    >>> state = id_state(["cup", "hat", "scarf"])
    >>> sorted(state["item_id_order"].tolist()), int(state["item_id_run"])
    ([0, 1, 2], 1)
    """
    strings = tf.constant(np.array(ids, object), tf.string)
    hashes = _hashes(strings).numpy()
    order = np.argsort(hashes, kind="stable")
    return {"item_ids": strings, **_order(hashes[order], order)}


def moved_id_state(state: Mapping[str, Any], source: np.ndarray, ids: Sequence[str]) -> dict[str, ArrayLike]:
    """Returns what `id_state` gives for ids that have moved, of which a few are new, several times faster.

    Args:
        state: what `id_state` gave for the N ids before.
        source: integer [N'], for each index the one before, or N + m for the m-th of `ids`; none twice.
        ids: strings [M].

    Example:

    >>> state = moved_id_state(id_state(["cup", "hat", "tie"]), np.array([2, 0, 3]), ["rug"])
    >>> state["item_ids"].numpy().tolist(), find_ids(state, tf.constant(["rug", "hat"])).numpy().tolist()
    ([b'tie', b'cup', b'rug'], [2, -1])
    """
    strings = tf.constant(list(ids), tf.string)
    n = len(state["item_id_hashes"])
    index = np.full(n + len(ids), -1, np.int32)
    index[source] = np.arange(len(source), dtype=np.int32)
    order = index[np.asarray(state["item_id_order"])]
    kept, new = order >= 0, index[n:] >= 0
    hashes, order = np.asarray(state["item_id_hashes"])[kept], order[kept]
    new_hashes = _hashes(strings).numpy()[new]
    by_hash = np.argsort(new_hashes)
    places = np.searchsorted(hashes, new_hashes[by_hash])
    return {
        "item_ids": tf.gather(tf.concat([state["item_ids"], strings], 0), source),
        **_order(
            np.insert(hashes, places, new_hashes[by_hash]), np.insert(order, places, index[n:][new][by_hash])
        ),
    }


def _order(hashes: np.ndarray, order: np.ndarray) -> dict[str, ArrayLike]:
    """Ascending hashes and what has them, with the length of the longest run of equal ones."""
    starts = np.flatnonzero(np.append(True, np.diff(hashes) != 0))
    run = np.int32(np.max(np.diff(starts, append=len(hashes))))
    return {"item_id_hashes": hashes, "item_id_order": order.astype(np.int32), "item_id_run": run}


def _hashes(strings: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(strings, 2**63 - 1)
