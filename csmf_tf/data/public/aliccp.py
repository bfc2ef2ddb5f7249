r"""Ali-CCP: impressions of a recommender with clicks and purchases, in skeleton and common features.

A feature list holds entries `field \x02 value \x03 weight`, separated by `\x01`.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.public.base import PublicSet, categorical, remember, unfold
from csmf_tf.data.public.source import Layout, Source, flags
from csmf_tf.data.public.target import Target
from csmf_tf.data.stream import Chunk

_USER_ID, _ITEM_ID = "101", "205"
_USER = {
    "group": "121",
    "group2": "122",
    "gender": "124",
    "age": "125",
    "consumption": "126",
    "consumption2": "127",
    "occupation": "128",
    "geography": "129",
}
_ITEM = {"category": "206", "shop": "207", "brand": "216"}


def _aliccp(files: Mapping[str, list[Source]], target: Target) -> None:
    skeletons, commons = files["skeleton"], files["common"]
    if len(skeletons) != len(commons):
        raise ValueError(
            "Each sample_skeleton file should come with its common_features file, in the same order. "
            f"Received: {len(skeletons)} and {len(commons)}."
        )
    for skeleton, common in zip(skeletons, commons, strict=True):
        _join(skeleton, _users(common, target), target)


def _users(common: Source, target: Target) -> dict[str, str]:
    """Writes the users of a common_features file and returns the user of each index."""
    users: dict[str, str] = {}
    for chunk in common.chunks("common_feature_index", "feature_list"):
        index, user = chunk.ids("common_feature_index"), _field(chunk, _USER_ID, needed=True)
        other = remember(users, index, user)
        target.leave_out("rows of common features whose index stood before with another user", other)
        features = {name: _field(chunk, field) for name, field in _USER.items()}
        target.table("users", {"user_id": user} | features)
    return users


def _join(skeleton: Source, users: Mapping[str, str], target: Target) -> None:
    columns = ("click", "buy", "common_feature_index", "feature_list")
    for chunk in skeleton.chunks(*columns):
        click, buy = flags(chunk, "click"), flags(chunk, "buy")
        possible = np.flatnonzero(click | ~buy)
        target.leave_out("rows with a purchase but no click", len(click) - len(possible))
        chunk, click, buy = chunk.take(possible), click[possible], buy[possible]
        index = chunk.ids("common_feature_index").dictionary_encode()
        found = pa.array([users.get(name) for name in index.dictionary.to_pylist()], pa.string())
        user = found.take(index.indices)
        if user.null_count:
            wrong = int(np.argmax(user.is_null().to_numpy(zero_copy_only=False)))
            raise chunk.error(
                wrong, "common_feature_index", "stand in the common_features file given with it"
            )
        item = _field(chunk, _ITEM_ID, needed=True)
        row, behavior = unfold({"exposure": np.ones(len(click), bool), "click": click, "buy": buy})
        target.events(user.take(row), item.take(row), behavior)
        features = {name: _field(chunk, field) for name, field in _ITEM.items()}
        target.table("items", {"item_id": item} | features)


def _field(chunk: Chunk, field: str, needed: bool = False) -> pa.Array:
    """The first value of a field in each feature list, strings `[n]`; null where it has none."""
    text = chunk.text("feature_list")
    found = pc.extract_regex(text, rf"(?:^|\x01){field}\x02(?P<value>[^\x01\x03]+)")
    values = pc.struct_field(found, "value")
    if needed and values.null_count:
        wrong = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise chunk.error(wrong, "feature_list", f"hold field {field}")
    return values


ALICCP = PublicSet(
    about="Ali-CCP: impressions, clicks and purchases of Taobao's recommender",
    where="https://tianchi.aliyun.com/dataset/408 (sample_skeleton and common_features files)",
    licence="terms of the Tianchi page; check them there",
    files=(
        Layout(
            "sample_skeleton_train.csv",
            ("sample_id", "click", "buy", "common_feature_index", "feature_num", "feature_list"),
            header=False,
            numbers=("sample_id", "click", "buy", "feature_num"),
            role="skeleton",
            many=True,
        ),
        Layout(
            "common_features_train.csv",
            ("common_feature_index", "feature_num", "feature_list"),
            header=False,
            numbers=("feature_num",),
            role="common",
            many=True,
        ),
    ),
    funnel=("exposure", "click", "buy"),
    split="item_holdout",
    features={"users": categorical(*_USER), "items": categorical(*_ITEM)},
    read=_aliccp,
)
