"""KuaiRand: exposures of short videos with several kinds of feedback."""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.public.base import PublicSet, categorical, unfold
from csmf_tf.data.public.source import Layout, Source, flags, numbers
from csmf_tf.data.public.target import Target
from csmf_tf.data.times import times_of

_FEEDBACK = {"click": "is_click", "long_view": "long_view", "like": "is_like"}
_RANGES = ("follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range")
_USER = (
    "user_active_degree",
    "is_live_streamer",
    "is_video_author",
    *_RANGES,
    *(f"onehot_feat{number}" for number in range(18)),
)
_VIDEO = ("author_id", "video_type", "upload_type", "music_type")


def _kuairand(files: Mapping[str, list[Source]], target: Target) -> None:
    for source in files["log"]:
        for chunk in source.chunks("user_id", "video_id", "time_ms", *_FEEDBACK.values()):
            done = {"exposure": np.ones(len(chunk.rows), bool)}
            done |= {name: flags(chunk, column) for name, column in _FEEDBACK.items()}
            time = times_of(chunk, "time_ms")
            user, item = chunk.ids("user_id"), chunk.ids("video_id")
            row, behavior = unfold(done)
            target.events(user.take(row), item.take(row), behavior, time[row.to_numpy()])
    for source in files["users"]:
        for chunk in source.chunks("user_id", *_USER):
            columns = {"user_id": chunk.ids("user_id")} | {name: chunk.text(name) for name in _USER}
            target.table("users", columns)
    for source in files["items"]:
        for chunk in source.chunks("video_id", *_VIDEO, "video_duration", "tag"):
            columns = {"item_id": chunk.ids("video_id")} | {name: chunk.text(name) for name in _VIDEO}
            columns["tag"] = pc.replace_substring(chunk.text("tag"), ",", "|")
            columns["video_duration"] = pa.array(numbers(chunk, "video_duration", empty=True))
            target.table("items", columns)


KUAIRAND = PublicSet(
    about="KuaiRand (27K, 1K or Pure): exposures, clicks, long views and likes of videos in 2022",
    where="https://kuairand.com",
    licence="CC BY-SA 4.0",
    files=(
        Layout("log_*.csv", ("user_id", "video_id", "time_ms", *_FEEDBACK.values()), many=True),
        Layout("user_features_*.csv", ("user_id", *_USER), role="users", required=False),
        Layout(
            "video_features_basic_*.csv",
            ("video_id", *_VIDEO, "video_duration", "tag"),
            role="items",
            required=False,
        ),
    ),
    funnel=("exposure", "click", "long_view"),
    ignore=("like",),
    features={
        "users": categorical(*_USER),
        "items": categorical(*_VIDEO) | {"tag": "multi", "video_duration": "numeric"},
    },
    read=_kuairand,
)
