"""What describes a public set."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from csmf_tf.data.public.source import Layout, Source
from csmf_tf.data.public.target import Target


@dataclass(frozen=True)
class PublicSet:
    """A public set and how to read it.

    Attributes:
        about: what it is, in a few words.
        where: where to get it.
        licence: under what terms, as far as established.
        files: its files.
        funnel: the objectives, upstream first.
        read: reads the files of each role into a `Target`.
        split: the kind of split that its configuration asks for; `"item_holdout"` where there are no times.
        ignore: further behaviours, which stay in the log but not in the funnel.
        features: for `"users"` and `"items"`, the kind of each feature.
    """

    about: str
    where: str
    licence: str
    files: tuple[Layout, ...]
    funnel: tuple[str, ...]
    read: Callable[[Mapping[str, list[Source]], Target], None]
    split: str = "time"
    ignore: tuple[str, ...] = ()
    features: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def categorical(*names: str) -> dict[str, str]:
    """Returns the mapping of each name to `"categorical"`.

    >>> categorical("brand")
    {'brand': 'categorical'}
    """
    return dict.fromkeys(names, "categorical")


def remember(known: dict[str, str], keys: pa.Array, values: pa.Array) -> int:
    """Adds keys with their values to `known`; a key that is there keeps its value.

    Returns:
        How many of the keys were there with another value.

    Example:
    >>> known = {"a": "1"}
    >>> remember(known, pa.array(["a", "b"]), pa.array(["2", "3"])), known
    (1, {'a': '1', 'b': '3'})
    """
    pairs = zip(keys.to_pylist(), values.to_pylist(), strict=True)
    return sum(known.setdefault(key, value) != value for key, value in pairs)


def unfold(done: Mapping[str, np.ndarray]) -> tuple[pa.Array, pa.Array]:
    """Turns rows with one flag per behaviour into one event per flag that is set.

    Args:
        done: for each behaviour, upstream first, a boolean `[n]`.

    Returns:
        For each event, in the order of the rows, its row and the name of its behaviour.

    Example:
    >>> rows, names = unfold({"exposure": np.array([True, True]), "click": np.array([True, False])})
    >>> rows.to_pylist(), names.to_pylist()
    ([0, 0, 1], ['exposure', 'click', 'exposure'])
    """
    rows = [np.flatnonzero(flag) for flag in done.values()]
    row = np.concatenate(rows)
    step = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
    order = np.lexsort((step, row))
    names = pa.array(list(done), pa.string()).take(pa.array(step[order]))
    return pa.array(row[order]), names
