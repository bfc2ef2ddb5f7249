"""A tiny made sample of each public set in the columns of the real files, and what it has to become."""

import gzip
from pathlib import Path
from typing import NamedTuple


class Case(NamedTuple):
    set: str
    files: dict[str, str]  # in the order in which they are given
    funnel: tuple[str, ...]
    events: list[tuple]  # user, item, behaviour, unix seconds or None: of the funnel, in order
    ignored: tuple[str, ...] = ()
    left_out: tuple[int, ...] = ()
    several: int = 0  # items with several sets of features
    split: str = "time"
    users: dict[str, dict[str, object]] | None = None
    items: dict[str, dict[str, object]] | None = None


def write(case: Case, folder: Path) -> list[Path]:
    paths = [folder / name for name in case.files]
    for path, text in zip(paths, case.files.values(), strict=True):
        raw = text.encode("latin-1")
        path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return paths


TAOBAO = Case(
    set="taobao",
    files={
        "UserBehavior.csv": "1,2268318,2520377,pv,1511544070\n"
        "1,2268318,2520377,cart,1511561733\n"
        "100,3219016,1467545,fav,1511566541\n"
        "100,3219016,1467545,pv,1511539200\n"  # the first second of 2017-11-25 in Beijing
        "100,3219016,1467545,pv,1512316799\n"  # and the last one of 2017-12-03
        "100,3219016,1467545,pv,1511539199\n"
        "100,3219016,1467545,buy,1512316800\n"
        "1,2268318,99,buy,1511600000\n"
    },
    funnel=("view", "cart", "buy"),
    ignored=("fav",),
    events=[
        ("1", "2268318", "view", 1511544070),
        ("1", "2268318", "cart", 1511561733),
        ("100", "3219016", "view", 1511539200),
        ("100", "3219016", "view", 1512316799),
        ("1", "2268318", "buy", 1511600000),
    ],
    left_out=(2,),
    several=1,
    items={"2268318": {"category": "2520377"}, "3219016": {"category": "1467545"}},
)
TMALL = Case(
    set="tmall",
    files={
        "user_info_format1.csv": "user_id,age_range,gender\n34176,6,0\n230784,,1\n",
        "user_log_format1.csv": "user_id,item_id,cat_id,seller_id,brand_id,time_stamp,action_type\n"
        "34176,323294,833,2882,2661,829,0\n"
        "34176,323294,833,2882,2661,0829,1\n"
        "34176,323294,833,2882,2661,1111,2\n"
        "230784,1023,1271,2,,511,3\n",
    },
    funnel=("view", "cart", "buy"),
    ignored=("fav",),
    events=[
        ("34176", "323294", "view", 1409270400),  # 2014-08-29
        ("34176", "323294", "cart", 1409270400),
        ("34176", "323294", "buy", 1415664000),  # 2014-11-11
    ],
    users={"34176": {"age_range": "6", "gender": "0"}, "230784": {"age_range": "", "gender": "1"}},
    items={
        "323294": {"category": "833", "seller": "2882", "brand": "2661"},
        "1023": {"category": "1271", "seller": "2", "brand": ""},
    },
)
RETAILROCKET = Case(
    set="retailrocket",
    files={
        "events.csv": "timestamp,visitorid,event,itemid,transactionid\n"
        "1433221332117,257597,view,355908,\n"
        "1433224214164,992329,addtocart,248676,\n"
        "1433224214999,992329,transaction,248676,4000\n"
    },
    funnel=("view", "cart", "buy"),
    events=[
        ("257597", "355908", "view", 1433221332.117),
        ("992329", "248676", "cart", 1433224214.164),
        ("992329", "248676", "buy", 1433224214.999),
    ],
)


def _log(*rows: str) -> str:
    return (
        "user_id,video_id,date,hourmin,time_ms,is_click,is_like,is_follow,is_comment,is_forward,is_hate,"
        "long_view,play_time_ms,duration_ms,profile_stay_time,comment_stay_time,is_profile_enter,is_rand,tab\n"
    ) + "".join(f"{row}\n" for row in rows)


ONE_HOT = [f"onehot_feat{number}" for number in range(18)]
KUAIRAND = Case(
    set="kuairand",
    files={
        "log_standard_4_08_to_4_21_1k.csv": _log(
            "0,3784,20220421,400,1650485801301,1,1,0,0,0,0,1,151024,104400,0,0,0,0,1",
            "0,9,20220421,400,1650485802000,0,0,0,0,0,0,0,120,9000,0,0,0,0,1",
        ),
        "log_standard_4_22_to_5_08_1k.csv": _log(
            "7,9,20220422,1200,1650600000500,1,0,0,0,0,0,0,8000,9000,0,0,0,1,0"
        ),
        "user_features_1k.csv": "user_id,user_active_degree,is_lowactive_period,is_live_streamer,"
        "is_video_author,follow_user_num,follow_user_num_range,fans_user_num,fans_user_num_range,friend_user_num,"
        f"friend_user_num_range,register_days,register_days_range,{','.join(ONE_HOT)}\n"
        '0,full_active,0,0,1,5,"(0,10]",312,"[100,1k)",0,0,3624,730+,' + ",".join(map(str, range(18))) + "\n",
        "video_features_basic_1k.csv": "video_id,author_id,video_type,upload_dt,upload_type,visible_status,"
        "video_duration,server_width,server_height,music_id,music_type,tag\n"
        '3784,441,NORMAL,2020-07-08,ShortImport,1,17200.0,720,1280,989206467,4,"12,65"\n'
        "9,8,AD,2021-01-01,Web,1,,720,1280,1,,\n",
    },
    funnel=("exposure", "click", "long_view"),
    ignored=("like",),
    events=[
        ("0", "3784", "exposure", 1650485801.301),
        ("0", "3784", "click", 1650485801.301),
        ("0", "3784", "long_view", 1650485801.301),
        ("0", "9", "exposure", 1650485802),
        ("7", "9", "exposure", 1650600000.5),
        ("7", "9", "click", 1650600000.5),
    ],
    users={
        "0": {
            "user_active_degree": "full_active",
            "is_live_streamer": "0",
            "is_video_author": "1",
            "follow_user_num_range": "(0,10]",
            "fans_user_num_range": "[100,1k)",
            "friend_user_num_range": "0",
            "register_days_range": "730+",
            **{name: str(number) for number, name in enumerate(ONE_HOT)},
        }
    },
    items={
        "3784": {
            "author_id": "441",
            "video_type": "NORMAL",
            "upload_type": "ShortImport",
            "music_type": "4",
            "tag": ("12", "65"),
            "video_duration": 17200.0,
        },
        "9": {
            "author_id": "8",
            "video_type": "AD",
            "upload_type": "Web",
            "music_type": "",
            "tag": (),
            "video_duration": None,
        },
    },
)
MOVIELENS = Case(
    set="movielens",
    files={
        "movies.csv": "movieId,title,genres\n1,Toy Story (1995),Adventure|Animation\n"
        '11,"American President, The (1995)",(no genres listed)\n',
        "ratings.csv.gz": "userId,movieId,rating,timestamp\n"
        "1,1,4.0,964982703\n1,11,5.0,964981247\n2,1,3.5,1445714835\n",
    },
    funnel=("rated", "liked", "loved"),
    events=[
        ("1", "1", "rated", 964982703),
        ("1", "1", "liked", 964982703),
        ("1", "11", "rated", 964981247),
        ("1", "11", "liked", 964981247),
        ("1", "11", "loved", 964981247),
        ("2", "1", "rated", 1445714835),
    ],
    split="leave_last",
    items={"1": {"genres": ("Adventure", "Animation")}, "11": {"genres": ()}},
)
MOVIELENS_DAT = Case(
    set="movielens",
    files={
        "ratings.dat": "1::1193::5::978300760\n2::661::3::978302109\n",
        "movies.dat": "1193::Star Wars: Episode IV (1977)::Action|Sci-Fi\n"
        "661::Les Misérables (1995)::Drama\n",
        "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    },
    funnel=("rated", "liked", "loved"),
    events=[
        ("1", "1193", "rated", 978300760),
        ("1", "1193", "liked", 978300760),
        ("1", "1193", "loved", 978300760),
        ("2", "661", "rated", 978302109),
    ],
    split="leave_last",
    users={
        "1": {"gender": "F", "age": "1", "occupation": "10"},
        "2": {"gender": "M", "age": "56", "occupation": "16"},
    },
    items={"1193": {"genres": ("Action", "Sci-Fi")}, "661": {"genres": ("Drama",)}},
)


def features(**fields: str) -> str:
    return "\x01".join(f"{field.strip('_')}\x02{value}\x031.0" for field, value in fields.items())


_USER = {
    "_101": "31319",
    "_121": "a",
    "_122": "b",
    "_124": "c",
    "_125": "d",
    "_127_14": "no",
    "_127": "f",
    "_129": "h",
}
_ITEM = {"_216": "9122", "_301": "1", "_205": "42", "_206": "84", "_207": "19"}
SKELETON = (
    f"1,0,0,bacff91692951881,5,{features(**_ITEM)}\n"
    f"2,1,0,bacff91692951881,5,{features(**_ITEM)}\n"
    f"3,0,1,bacff91692951881,5,{features(**_ITEM)}\n"
    f"4,1,1,00000f1692951881,2,{features(_205='7', _206='84')}\n"
)
ALICCP = Case(
    set="aliccp",
    files={
        "sample_skeleton_train.csv": SKELETON,
        "common_features_train.csv": f"bacff91692951881,8,{features(**_USER)}\n"
        f"00000f1692951881,2,{features(_110_14='x', _101='5')}\n",
    },
    funnel=("exposure", "click", "buy"),
    events=[
        ("31319", "42", "exposure", None),
        ("31319", "42", "exposure", None),
        ("31319", "42", "click", None),
        ("5", "7", "exposure", None),
        ("5", "7", "click", None),
        ("5", "7", "buy", None),
    ],
    left_out=(1,),
    split="item_holdout",
    users={
        "31319": {
            **{"group": "a", "group2": "b", "gender": "c", "age": "d"},
            **{"consumption": "", "consumption2": "f", "occupation": "", "geography": "h"},
        },
        "5": dict.fromkeys(
            ("group", "group2", "gender", "age", "consumption", "consumption2", "occupation", "geography"), ""
        ),
    },
    items={
        "42": {"category": "84", "shop": "19", "brand": "9122"},
        "7": {"category": "84", "shop": "", "brand": ""},
    },
)

CASES = {
    "taobao": TAOBAO,
    "tmall": TMALL,
    "retailrocket": RETAILROCKET,
    "kuairand": KUAIRAND,
    "movielens": MOVIELENS,
    "movielens (.dat)": MOVIELENS_DAT,
    "aliccp": ALICCP,
}
