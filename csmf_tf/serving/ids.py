"""Item ids as part of a SavedModel: index to string and string to index."""

from collections.abc import Sequence

import numpy as np

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
        self._state = {
            name: tf.Variable(value, trainable=False, name=name, shape=[None] * np.ndim(value))
            for name, value in id_state(ids).items()
        }

    def strings(self, indices):
        """Returns the ids at `indices`, int32 of any shape; "" where an index is negative."""
        ids = tf.gather(self._read("item_ids"), tf.maximum(indices, 0))
        return tf.where(tf.less(indices, 0), "", ids)

    def find(self, ids):
        """Returns the index of each id, int32 of the shape of `ids`; -1 where it is unknown."""
        known, order = self._read("item_ids"), self._read("item_id_order")
        flat = tf.reshape(ids, [-1, 1])
        first = tf.searchsorted(self._read("item_id_hashes"), _hashes(flat[:, 0]))
        places = first[:, tf.newaxis] + tf.range(self._read("item_id_run"))
        indices = tf.gather(order, tf.minimum(places, tf.size(order) - 1))
        same = tf.equal(tf.gather(known, indices), flat)
        return tf.reshape(tf.reduce_max(tf.where(same, indices, -1), axis=1), tf.shape(ids))

    def _read(self, name):
        # Gathering from a variable itself would make every later read copy the whole of it.
        return self._state[name].read_value()


def id_state(ids: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns what the variables of `ItemIds` hold, by their names.

    Args:
        ids: strings [N], N >= 1, unique.

    Returns:
        `item_ids`: strings [N]; `item_id_hashes`: int64 [N], ascending; `item_id_order`: int32 [N], the
        index of the id that has each hash; `item_id_run`: int32, how many ids share a hash at most.

    Example:

    >>> state = id_state(["cup", "hat", "scarf"])
    >>> sorted(state["item_id_order"].tolist()), int(state["item_id_run"])
    ([0, 1, 2], 1)
    """
    strings = np.array(ids, object)
    hashes = _hashes(tf.constant(strings, tf.string)).numpy()
    order = np.argsort(hashes, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(hashes[order]) != 0))
    return {
        "item_ids": strings,
        "item_id_hashes": hashes[order],
        "item_id_order": order.astype(np.int32),
        "item_id_run": np.int32(np.max(np.diff(starts, append=len(hashes)))),
    }


def _hashes(strings: tf.Tensor) -> tf.Tensor:
    return tf.strings.to_hash_bucket_fast(strings, 2**63 - 1)
