import gzip
import re
import subprocess
import sys
import time
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csmf_tf.data import stream
from csmf_tf.data.log import read_log
from csmf_tf.data.times import parse_times

FUNNEL = ("view", "cart", "buy")
HEADER = "user_id,item_id,behavior,timestamp\n"
ROWS = (
    ("bo", "007", "view", 1_430_623_510),
    ("al", "42", "view", 1_430_623_520),
    ("bo", "007", "buy", 1_430_623_530),
    ("al", "007", "cart", 1_430_623_540),
)
COLUMNS = {"user": "user_id", "item": "item_id", "behavior": "behavior"}


def read(path, funnel=FUNNEL, timestamp="timestamp", **options):
    return read_log(path, **{**COLUMNS, "timestamp": timestamp, "funnel": funnel, **options})


def events(log):
    times = [None] * len(log) if log.time is None else log.time.tolist()
    names = zip(log.users[log.user], log.items[log.item], log.behavior, times, strict=True)
    return [(user, item, log.funnel[behavior], time) for user, item, behavior, time in names]


def csv_of(rows):
    return HEADER + "".join(",".join(map(str, row)) + "\n" for row in rows)


def table_of(rows):
    return pa.table(dict(zip(HEADER.strip().split(","), map(list, zip(*rows, strict=True)), strict=True)))


@pytest.fixture
def csv(tmp_path):
    def write(text, name="events.csv"):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def write_as(form, rows, directory):
    path = directory / form
    if form == "parts":
        path.mkdir()
        pq.write_table(table_of(rows[:1]), path / "0.parquet")
        pq.write_table(table_of(rows[1:]), path / "1.parquet")
    elif form.endswith(".parquet"):
        pq.write_table(table_of(rows), path)
    else:
        text = csv_of(rows).encode()
        path.write_bytes(gzip.compress(text) if form.endswith(".gz") else text)
    return path


@pytest.mark.parametrize("form", ["events.csv", "events.csv.gz", "events.parquet", "parts"])
def test_every_form_of_a_log_reads_the_same(form, tmp_path):
    log = read(write_as(form, ROWS, tmp_path))
    assert events(log) == [(*row[:3], row[3] * 1_000_000) for row in ROWS]
    assert (log.users.tolist(), log.items.tolist(), log.funnel) == (["al", "bo"], ["007", "42"], FUNNEL)
    kinds = [array.dtype for array in (log.user, log.item, log.behavior, log.time, log.users, log.items)]
    assert kinds == [np.int32, np.int32, np.int8, np.int64, object, object]


ID = st.text("abz019_é", min_size=1, max_size=3)
EVENTS = st.lists(st.tuples(ID, ID, st.sampled_from(FUNNEL), st.integers(0, 2**31)), max_size=40)


@given(rows=EVENTS, chunk=st.integers(1, 9))
def test_reading_in_chunks_loses_and_reorders_nothing(rows, chunk, tmp_path_factory):
    rows = [("u", "i", name, 1) for name in FUNNEL] + rows
    path = tmp_path_factory.mktemp("log") / "events.parquet"
    pq.write_table(table_of(rows), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "_CHUNK_ROWS", chunk)
        log = read(path)
    assert events(log) == [(*row[:3], row[3] * 1_000_000) for row in rows]
    assert log.users.tolist() == sorted({row[0] for row in rows})
    assert log.items.tolist() == sorted({row[1] for row in rows})


def test_csv_is_read_in_chunks_with_running_row_numbers(csv, monkeypatch):
    monkeypatch.setattr(stream, "_CHUNK_BYTES", 1 << 12)
    rows = [(f"u{n}", f"i{n % 7}", FUNNEL[n % 3], n) for n in range(3000)]
    path = csv(csv_of(rows))
    assert len(list(stream.stream(path, ["user_id"]))) > 5
    assert [row[0] for row in events(read(path))] == [row[0] for row in rows]
    rows[2500] = ("u", "", "view", 1)
    with pytest.raises(ValueError, match="data row 2501 "):
        read(csv(csv_of(rows)))


def test_columns_may_have_any_name_and_times_are_optional(csv):
    log = read_log(
        csv("what,extra,who,did\n1,x,2,buy\n"), user="who", item="what", behavior="did", funnel=["buy"]
    )
    assert events(log) == [("2", "1", "buy", None)]
    assert log.take(np.array([True])).time is None


def test_ignored_behaviours_are_skipped_with_their_users_and_ids(csv):
    rows = [*ROWS, ("zoe", "99", "impression", 5), ("", "", "impression", "never")]
    log = read(csv(csv_of(rows)), ignore=["impression"])
    assert (len(log), log.users.tolist(), log.items.tolist()) == (4, ["al", "bo"], ["007", "42"])


def test_row_numbers_count_ignored_rows(csv):
    rows = [("zoe", "99", "impression", 5), *ROWS, ("al", "", "view", 5)]
    with pytest.raises(ValueError, match=r"data row 6 .*`item_id` should hold an id"):
        read(csv(csv_of(rows)), ignore=["impression"])


def test_quotes_line_ends_empty_lines_and_byte_order_marks(csv):
    log = read(csv("\ufeff" + HEADER + '"a,b",i,view,1\r\n\r\n"c\nd",i,view,2\r\n'), funnel=["view"])
    assert log.users.tolist() == ["a,b", "c\nd"]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pa.array([7, 8]), ["7", "8"]),
        (pa.array([7.0, 8.0]), ["7", "8"]),
        (pa.array([0.5, 1e15]), ["0.5", "1000000000000000"]),
        (pa.array(["b", "a"], pa.large_string()), ["a", "b"]),
        (pa.array(["b", "a"]).dictionary_encode(), ["a", "b"]),
    ],
)
def test_ids_of_parquet_are_taken_as_strings(ids, expected, tmp_path):
    pq.write_table(
        pa.table({"user_id": ids, "item_id": ids, "behavior": ["view"] * 2}), tmp_path / "e.parquet"
    )
    log = read(tmp_path / "e.parquet", funnel=["view"], timestamp=None)
    assert log.users.tolist() == log.items.tolist() == expected


def test_take_keeps_the_vocabularies(csv):
    log = read(csv(csv_of(ROWS)))
    part = log.take(log.behavior > 0)
    assert events(part) == events(log)[2:]
    assert part.users is log.users
    assert part.items is log.items
    assert events(log.take(np.array([3, 0]))) == [events(log)[3], events(log)[0]]


MOMENT = datetime(2015, 5, 3, 3, 25, 10, tzinfo=UTC)
MICROS = int(MOMENT.timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1430623510", MICROS),
        (" 1430623510.25 ", MICROS + 250_000),
        ("1430623510250", MICROS + 250_000),
        (1430623510, MICROS),
        (1430623510.25, MICROS + 250_000),
        (-86400, -86_400_000_000),
        ("2015-05-03T03:25:10", MICROS),
        ("2015-05-03 03:25:10.123456789", MICROS + 123_456),
        ("2015-05-03T03:25:10Z", MICROS),
        ("2015-05-03T05:25:10.5+02:00", MICROS + 500_000),
        ("2015-05-03", MICROS - (3 * 3600 + 25 * 60 + 10) * 1_000_000),
        (date(2015, 5, 3), MICROS - (3 * 3600 + 25 * 60 + 10) * 1_000_000),
        (MOMENT, MICROS),
        (MOMENT.replace(tzinfo=None), MICROS),
    ],
)
def test_times(value, expected):
    assert parse_times(pa.array([value])).tolist() == [expected]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_arrow_timestamps_of_any_unit(unit):
    column = pa.array([MOMENT]).cast(pa.timestamp(unit, "Europe/Berlin"))
    assert parse_times(column).tolist() == [MICROS]


@pytest.mark.parametrize(
    "bad", ["yesterday", "nan", "inf", "2015-13-01", "", "9" * 20, "2015-05-03T03:25:10Z"]
)
@pytest.mark.parametrize("row", [1, 2, 4])
def test_the_row_of_a_bad_time_is_named(bad, row, csv):
    rows = [list(one) for one in ROWS]
    rows[row - 1][3] = bad
    # A first row of another form makes the second one the odd one out.
    named = 2 if (row, bad[:3]) == (1, "201") and bad.endswith("Z") else row
    with pytest.raises(ValueError, match=f"data row {named} .*`timestamp` should hold a time: unix seconds"):
        read(csv(csv_of(rows)))


READ_AND_MEASURE = """
import sys, pyarrow
from csmf_tf.data.log import read_log
from csmf_tf.data.times import parse_times
log = read_log(sys.argv[1], user="u", item="i", behavior="b", timestamp="t", funnel=["view", "buy"])
assert "tensorflow" not in sys.modules
print(len(log), pyarrow.default_memory_pool().max_memory())
"""


def test_parquet_is_read_with_bounded_memory(tmp_path):
    """Ten times the rows, in one row group, take no more of Arrow's memory; only codes grow with the log."""

    def peak(rows):
        rng = np.random.default_rng(0)
        vocabularies = {
            "u": [f"user-{n:040d}" for n in range(9000)],
            "i": [f"item-{n:040d}" for n in range(999)],
        }
        columns = {
            name: pa.DictionaryArray.from_arrays(
                pa.array(rng.integers(0, len(ids), rows, np.int32)), pa.array(ids)
            )
            for name, ids in {**vocabularies, "b": ["view", "buy"]}.items()
        }
        path = tmp_path / f"{rows}.parquet"
        table = pa.table({**columns, "t": np.arange(rows), "unread": rng.random(rows)})
        pq.write_table(table, path, row_group_size=rows, use_dictionary=list(columns))
        command = [sys.executable, "-c", READ_AND_MEASURE, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        read_rows, peak_bytes = map(int, done.stdout.split())
        assert read_rows == rows
        return peak_bytes

    small, large = peak(200_000), peak(2_000_000)
    bytes_of_ids_alone = 2_000_000 * 90
    assert large < 1.3 * small
    assert large < bytes_of_ids_alone / 4


def test_progress_adds_up_to_the_bytes_of_the_files(csv, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_CHUNK_ROWS", 3)
    table = pa.table({"user_id": [f"u{n}" for n in range(20)]})
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("a", "b"):
        pq.write_table(table, folder / f"{name}.parquet")
    for path in (folder, folder / "a.parquet", csv(HEADER + "u1,i1,view,7\n")):
        told = []
        assert sum(len(chunk.rows) for chunk in stream.stream(path, ["user_id"], progress=told.append))
        assert sum(told) == stream.bytes_of(path)
        assert len(told) == {"parts": 14, "a.parquet": 7}.get(path.name, 1)


@pytest.mark.parametrize(
    ("name", "timestamp", "rows", "users"),
    [("taobao", None, 1_177_059, 15_449), ("retailrocket", "timestamp", 97_381, 2_174)],
)
def test_real_logs_read_in_seconds(name, timestamp, rows, users, shared_data):
    path = shared_data(f"{name}/events.csv.gz")
    start = time.perf_counter()
    log = read(path, timestamp=timestamp)
    assert time.perf_counter() - start < 20
    assert (len(log), len(log.users), log.user.max() + 1) == (rows, users, users)
    if timestamp:
        first, last = (datetime.fromtimestamp(t / 1e6, UTC).date() for t in (log.time.min(), log.time.max()))
        assert (first, last) == (date(2015, 5, 3), date(2015, 9, 18))


def test_columns_are_those_of_the_header(tmp_path):
    names = ["user_id", "what, then", "größe"]
    text = 'user_id,"what, then",größe\nu1,view,3\n'
    (tmp_path / "plain.csv").write_text(text, encoding="utf-8-sig")
    with gzip.open(tmp_path / "packed.csv.gz", "wt", encoding="utf-8") as file:
        file.write(text)
    table = pa.table({name: ["x"] for name in names})
    pq.write_table(table, tmp_path / "one.parquet")
    (tmp_path / "many").mkdir()
    pq.write_table(table, tmp_path / "many" / "part-0.parquet")
    for name in ("plain.csv", "packed.csv.gz", "one.parquet", "many"):
        assert stream.columns_of(tmp_path / name) == names


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.csv", b"", "should start with a header row. Received: an empty file."),
        ("broken.csv.gz", b"no gzip at all", "broken.csv.gz could not be read: "),
        ("broken.parquet", b"no parquet at all", "broken.parquet could not be read: "),
        ("log.txt", b"user_id\n", "should end in .csv, .csv.gz or .parquet. Received: log.txt."),
    ],
)
def test_columns_of_what_is_no_table_are_an_error(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(message)):
        stream.columns_of(tmp_path / name)
