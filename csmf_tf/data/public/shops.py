"""Shop logs with one row an event: Taobao UserBehavior, Tmall IJCAI-15, RetailRocket."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.public.base import PublicSet, categorical
from csmf_tf.data.public.source import Layout, Source, choices
from csmf_tf.data.public.target import Target
from csmf_tf.data.stream import Chunk
from csmf_tf.data.times import times_of

_BEIJING = timezone(timedelta(hours=8))
_TAOBAO_DAYS = datetime(2017, 11, 25, tzinfo=_BEIJING), datetime(2017, 12, 4, tzinfo=_BEIJING)
_TMALL_YEAR = 2014


def _taobao(files: Mapping[str, list[Source]], target: Target) -> None:
    first, end = (int(day.timestamp() * 1e6) for day in _TAOBAO_DAYS)
    names = {"pv": "view", "fav": "fav", "cart": "cart", "buy": "buy"}
    for chunk in files["log"][0].chunks("user_id", "item_id", "category_id", "behavior", "timestamp"):
        time = times_of(chunk, "timestamp")
        inside = np.flatnonzero((time >= first) & (time < end))
        target.leave_out("rows with a time outside of 2017-11-25 to 2017-12-03", len(time) - len(inside))
        chunk, time = chunk.take(inside), time[inside]
        item = chunk.ids("item_id")
        target.events(chunk.ids("user_id"), item, choices(chunk, "behavior", names), time)
        target.table("items", {"item_id": item, "category": chunk.text("category_id")})


TAOBAO = PublicSet(
    about="Taobao UserBehavior: views, favourites, carts and purchases of nine days in 2017",
    where="https://tianchi.aliyun.com/dataset/649 (UserBehavior.csv.zip)",
    licence="terms of the Tianchi page; check them there",
    files=(
        Layout(
            "UserBehavior.csv",
            ("user_id", "item_id", "category_id", "behavior", "timestamp"),
            header=False,
            numbers=("user_id", "item_id", "category_id", "timestamp"),
        ),
    ),
    funnel=("view", "cart", "buy"),
    ignore=("fav",),
    features={"items": categorical("category")},
    read=_taobao,
)


def _tmall(files: Mapping[str, list[Source]], target: Target) -> None:
    names = {"0": "view", "1": "cart", "2": "buy", "3": "fav"}
    columns = ("user_id", "item_id", "cat_id", "seller_id", "brand_id", "time_stamp", "action_type")
    for chunk in files["log"][0].chunks(*columns):
        item = chunk.ids("item_id")
        behavior = choices(chunk, "action_type", names)
        target.events(chunk.ids("user_id"), item, behavior, _days(chunk, "time_stamp"))
        features = {"category": "cat_id", "seller": "seller_id", "brand": "brand_id"}
        target.table(
            "items", {"item_id": item} | {name: chunk.text(column) for name, column in features.items()}
        )
    for source in files["users"]:
        for chunk in source.chunks("user_id", "age_range", "gender"):
            features = {name: chunk.text(name) for name in ("age_range", "gender")}
            target.table("users", {"user_id": chunk.ids("user_id")} | features)


def _days(chunk: Chunk, column: str) -> np.ndarray:
    """Turns month and day, as in 829 or 0829, into microseconds of midnight UTC in the year of the log."""
    days = {f"{day:%m%d}": day for day in _days_of_year()}
    padded = pc.utf8_lpad(chunk.text(column), 4, "0")
    index = pc.index_in(padded, value_set=pa.array(list(days)))
    if index.null_count:
        wrong = int(np.argmax(index.is_null().to_numpy(zero_copy_only=False)))
        raise chunk.error(wrong, column, "be a month and a day, as in 0829")
    micros = np.array([int(day.timestamp()) * 1_000_000 for day in days.values()])
    return micros[index.to_numpy()]


def _days_of_year() -> list[datetime]:
    first = datetime(_TMALL_YEAR, 1, 1, tzinfo=UTC)
    return [first + timedelta(days=day) for day in range(365)]


TMALL = PublicSet(
    about="Tmall (IJCAI-15 repeat buyers): half a year of clicks, carts, purchases and favourites of 2014",
    where="https://tianchi.aliyun.com/dataset/42 (data_format1.zip)",
    licence="terms of the Tianchi page; check them there",
    files=(
        Layout(
            "user_log_format1.csv",
            ("user_id", "item_id", "cat_id", "seller_id", "brand_id", "time_stamp", "action_type"),
        ),
        Layout("user_info_format1.csv", ("user_id", "age_range", "gender"), role="users", required=False),
    ),
    funnel=("view", "cart", "buy"),
    ignore=("fav",),
    features={
        "items": categorical("category", "seller", "brand"),
        "users": categorical("age_range", "gender"),
    },
    read=_tmall,
)


def _retailrocket(files: Mapping[str, list[Source]], target: Target) -> None:
    names = {"view": "view", "addtocart": "cart", "transaction": "buy"}
    for chunk in files["log"][0].chunks("timestamp", "visitorid", "event", "itemid"):
        behavior = choices(chunk, "event", names)
        time = times_of(chunk, "timestamp")
        target.events(chunk.ids("visitorid"), chunk.ids("itemid"), behavior, time)


RETAILROCKET = PublicSet(
    about="RetailRocket: views, carts and purchases of 4.5 months in 2015",
    where="https://www.kaggle.com/datasets/retailrocket/ecommerce-dataset (events.csv)",
    licence="terms of the Kaggle page; check them there",
    files=(Layout("events.csv", ("timestamp", "visitorid", "event", "itemid")),),
    funnel=("view", "cart", "buy"),
    read=_retailrocket,
)
