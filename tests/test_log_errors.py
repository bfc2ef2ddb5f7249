import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from csmf_tf.data.log import read_log
from csmf_tf.data.stream import columns_of

HEADER = "user_id,item_id,behavior,timestamp\n"
COLUMNS = {"user": "user_id", "item": "item_id", "behavior": "behavior", "timestamp": "timestamp"}


def read(path, **options):
    return read_log(path, **{**COLUMNS, "funnel": ("view", "cart", "buy"), **options})


@pytest.fixture
def csv(tmp_path):
    def write(text, name="events.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


ONE_OF_EACH = "u,i,view,1\nu,i,cart,2\nu,i,buy,3\n"
BAD_LOGS = {
    "empty file": ("", {}, "should start with a header row. Received: an empty file"),
    "no rows": (HEADER, {}, "should hold at least one data row. Received: a header and no rows"),
    "missing column": (
        "user,item_id,behavior,timestamp\nu,i,view,1\n",
        {},
        r"should have the columns `user_id`, `item_id`, `behavior`, `timestamp`. "
        r"Received: `user`, `item_id`, .* which lack `user_id`. Did you mean `user`\?",
    ),
    "two missing columns": (
        "a,b,behavior,timestamp\nu,i,view,1\n",
        {},
        r"Received: `a`, `b`, `behavior`, `timestamp`, which lack `user_id`, `item_id`.$",
    ),
    "column twice in the header": (
        "user_id,user_id,item_id,behavior,timestamp\nu,u,i,view,1\n",
        {},
        "should have each column once. Received: `user_id` more than once",
    ),
    "unknown behaviour": (
        HEADER + ONE_OF_EACH + "u,i,like,4\n",
        {},
        r"data row 4 \(from 1, without the header\): `behavior` should be a behaviour of the funnel "
        r"\(view, cart, buy\); name others in `ignore` to skip them. Received: 'like'",
    ),
    "null behaviour": (HEADER + ONE_OF_EACH + "u,i,,4\n", {}, "data row 4 .*`behavior` .* Received: None"),
    "null user": (
        HEADER + "u,i,view,1\n,i,view,2\n",
        {},
        r"data row 2 \(from 1, without the header\): `user_id` should hold an id. Received: None",
    ),
    "null item": (HEADER + 'u,"",view,1\n', {}, "data row 1 .*`item_id` should hold an id. Received: None"),
    "null time": (HEADER + "u,i,view,\n", {}, "data row 1 .*`timestamp` should hold a time.* Received: None"),
    "short row": (
        HEADER + "u,i,view,1\n\nu,i,view\n",
        {},
        "data row 2 .*a row should have 4 fields, as the header has. Received: 3 in 'u,i,view'",
    ),
    "long row": (HEADER + "u,i,view,1,9\n", {}, "data row 1 .* 4 fields, as the header has. Received: 5 in"),
    "behaviour without events": (
        HEADER + "u,i,view,1\n",
        {},
        r"should hold events of every behaviour of the funnel \(view, cart, buy\). "
        "Received: no event of cart, buy",
    ),
    "everything ignored": (
        HEADER + "u,i,view,1\n",
        {"funnel": ["buy"], "ignore": ["view"]},
        r"funnel \(buy\). Received: no event of buy",
    ),
    "empty funnel": (HEADER, {"funnel": []}, "`funnel` should have 1 to 127 behaviours. Received: 0"),
    "repeated funnel": (
        HEADER,
        {"funnel": ["view", "view"]},
        "`funnel` should name each behaviour once. Received: view, view",
    ),
    "funnel is a string": (
        HEADER,
        {"funnel": "view"},
        "`funnel` should be a list of names. Received: funnel='view'",
    ),
    "funnel of numbers": (
        HEADER,
        {"funnel": [1, 2]},
        r"`funnel` should be a list of names. Received: funnel=\[1, 2\]",
    ),
    "ignore is a string": (
        HEADER,
        {"ignore": "like"},
        "`ignore` should be a list of names. Received: ignore='like'",
    ),
    "ignored objective": (
        HEADER,
        {"ignore": ["like", "cart"]},
        "`ignore` should not name behaviours of the funnel. Received: cart in both",
    ),
    "one column for two": (
        HEADER,
        {"item": "user_id"},
        "`user`, `item`, `behavior` and `timestamp` should be distinct columns. Received: user_id, user_id",
    ),
}


@pytest.mark.parametrize(("text", "options", "message"), BAD_LOGS.values(), ids=BAD_LOGS)
def test_bad_logs(text, options, message, csv):
    with pytest.raises(ValueError, match=message):
        read(csv(text), **options)


def test_missing_file(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"There is no file .*none.csv. Give the path of a .csv, .csv.gz or"
    ):
        read(tmp_path / "none.csv")


def test_folder_without_parquet(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"A folder should hold .parquet files. Received: .*which holds none"
    ):
        read(tmp_path)


def test_unknown_ending(csv):
    with pytest.raises(ValueError, match=r"should end in .csv, .csv.gz or .parquet. Received: events.json"):
        read(csv("{}", "events.json"))


def test_truncated_gzip(csv):
    path = csv(HEADER + ONE_OF_EACH * 50, "events.csv.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"events.csv.gz could not be read after data row \d+: "):
        read(path)


def test_damaged_parquet(tmp_path):
    path = tmp_path / "events.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match=r"events.parquet could not be read after data row 0: .*"):
        read(path)


@pytest.mark.parametrize(("mark", "name"), [(";", "semicolons"), ("\t", "tabs")])
def test_another_separator(csv, mark, name):
    path = csv((HEADER + ONE_OF_EACH).replace(",", mark))
    for reading in (read, columns_of):
        with pytest.raises(
            ValueError,
            match=f"should have commas between its columns. Received: {name}, in the header 'user_id",
        ):
            reading(path)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16(tmp_path, encoding):
    path = tmp_path / "events.csv"
    path.write_bytes((HEADER + ONE_OF_EACH).encode(encoding))
    with pytest.raises(ValueError, match=r"events.csv should be UTF-8 text. Received: text in UTF-16; save"):
        read(path)


def test_text_that_is_not_utf8(tmp_path):
    path = tmp_path / "events.csv"
    path.write_bytes(HEADER.encode() + b"\xff\xfe,i,view,1\n")
    with pytest.raises(ValueError, match=r"events.csv could not be read after data row 0: .*UTF8"):
        read(path)


def test_lists_are_no_ids(tmp_path):
    table = pa.table({"user_id": [["a"]], "item_id": ["i"], "behavior": ["view"]})
    pq.write_table(table, tmp_path / "events.parquet")
    with pytest.raises(
        ValueError, match=r"`user_id` should hold strings or numbers. Received: values of type list"
    ):
        read(tmp_path / "events.parquet", funnel=["view"], timestamp=None)
