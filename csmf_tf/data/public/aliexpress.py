"""The AliExpress search log: result pages and their products, without ids of either.

Users and items are known by their features only, so the key of each is a hash of all its features.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.public.base import PublicSet, remember, unfold
from csmf_tf.data.public.source import Layout, Source, flags, numbers
from csmf_tf.data.public.target import Target
from csmf_tf.data.stream import Chunk

_USER = tuple(f"user_{number}" for number in range(2, 34))
_ITEM = tuple(f"item_{number}" for number in range(2, 49))
_CATEGORICAL = {f"user_{number}" for number in (*range(2, 9), 32, 33)} | {
    f"item_{number}" for number in (19, 34, 35, 36, 40, 41, 42)
}
# The order in which MTReclib's preprocessing sets the raw columns in train.csv and test.csv.
_IN_ORDER = (*_USER, *_ITEM)
_JOINED = dict(
    zip(
        (name for name in _IN_ORDER if name in _CATEGORICAL),
        (f"categorical_{n}" for n in range(1, 17)),
        strict=True,
    )
) | dict(
    zip(
        (name for name in _IN_ORDER if name not in _CATEGORICAL),
        (f"numerical_{n}" for n in range(1, 64)),
        strict=True,
    )
)


def _aliexpress(files: Mapping[str, list[Source]], target: Target) -> None:
    users, items = files["users"], files["items"]
    if len(users) != len(items) or not (users or files["joined"]):
        raise ValueError(
            "Each item file should come with its user file, in the same order, e.g. nl_user_train.csv "
            f"nl_item_train.csv. Received: {len(users)} user files and {len(items)} item files. "
            f"Get them from {ALIEXPRESS.where}."
        )
    for user_file, item_file in zip(users, items, strict=True):
        _join(item_file, _pages(user_file, target), target)
    for source in files["joined"]:
        for chunk in source.chunks(*_JOINED.values(), "click", "conversion"):
            chunk = Chunk(chunk.path, chunk.rows, _renamed(chunk))
            user = _keyed(chunk, "users", "user_id", _USER, target)
            _add(chunk, user, flags(chunk, "click"), flags(chunk, "conversion"), target)


def _pages(source: Source, target: Target) -> dict[str, str]:
    """Writes the users of a user file and returns the user of each result page."""
    pages: dict[str, str] = {}
    for chunk in source.chunks("search_id", *_USER):
        page = chunk.ids("search_id")
        user = _keyed(chunk, "users", "user_id", _USER, target)
        target.leave_out(
            "rows of a user file whose search_id stood before with other features",
            remember(pages, page, user),
        )
    return pages


def _join(source: Source, pages: Mapping[str, str], target: Target) -> None:
    joined = 0
    for chunk in source.chunks("search_id", *_ITEM, "label"):
        user = pa.array([pages.get(page) for page in chunk.ids("search_id").to_pylist()], pa.string())
        known = np.flatnonzero(user.is_valid().to_numpy(zero_copy_only=False))
        target.leave_out("rows whose search_id is not in the user file", len(user) - len(known))
        joined += len(known)
        chunk, user = chunk.take(known), user.take(pa.array(known))
        label = numbers(chunk, "label")
        wrong = ~np.isin(label, (0, 1, 2))
        if wrong.any():
            raise chunk.error(int(np.argmax(wrong)), "label", "be 0 (shown), 1 (clicked) or 2 (bought)")
        _add(chunk, user, label >= 1, label == 2, target)
    if not joined:
        raise ValueError(
            f"{source.path} should share its search_ids with the user file given with it. Received: none in "
            "common; give the two files of one country and part, e.g. nl_user_train.csv nl_item_train.csv."
        )


def _add(chunk: Chunk, user: pa.Array, click: np.ndarray, buy: np.ndarray, target: Target) -> None:
    item = _keyed(chunk, "items", "item_id", _ITEM, target)
    row, behavior = unfold({"exposure": np.ones(len(click), bool), "click": click, "buy": buy})
    target.events(user.take(row), item.take(row), behavior)


def _keyed(chunk: Chunk, side: str, id_column: str, names: Sequence[str], target: Target) -> pa.Array:
    """Writes the features of one side and returns their keys: 64 bits of BLAKE2b of the values as text."""
    text = pc.binary_join_element_wise(
        *(chunk.text(name) for name in names), ",", null_handling="replace", null_replacement=""
    )
    keys = pa.array(
        [blake2b(row.encode(), digest_size=8).hexdigest() for row in text.to_pylist()], pa.string()
    )
    features = {
        name: chunk.text(name) if name in _CATEGORICAL else pa.array(numbers(chunk, name, empty=True))
        for name in names
    }
    target.table(side, {id_column: keys} | features, derived=True)
    return keys


def _renamed(chunk: Chunk) -> dict[str, pa.Array]:
    features = {name: chunk.columns[column] for name, column in _JOINED.items()}
    return features | {name: chunk.columns[name] for name in ("click", "conversion")}


def _kinds(names: Sequence[str]) -> dict[str, str]:
    return {name: "categorical" if name in _CATEGORICAL else "numeric" for name in names}


ALIEXPRESS = PublicSet(
    about="AliExpress search log of one country: products shown, clicked and bought",
    where="https://tianchi.aliyun.com/dataset/74690 (aliexpress_NL_datasets.zip and so on)",
    licence="terms of the Tianchi page; check them there",
    files=(
        Layout(
            "nl_user_train.csv",
            ("search_id", *_USER),
            header=False,
            numbers=("user_9",),
            role="users",
            required=False,
            many=True,
        ),
        Layout(
            "nl_item_train.csv",
            ("search_id", *_ITEM, "label"),
            header=False,
            numbers=("label",),
            role="items",
            required=False,
            many=True,
        ),
        Layout(
            "train.csv of MTReclib",
            ("search_id", *_JOINED.values(), "click", "conversion"),
            role="joined",
            required=False,
            many=True,
        ),
    ),
    funnel=("exposure", "click", "buy"),
    split="item_holdout",
    features={"users": _kinds(_USER), "items": _kinds(_ITEM)},
    read=_aliexpress,
)
