import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csmf_tf.data import stream
from csmf_tf.data.stream import objects
from csmf_tf.data.tables import align, read_table

KINDS = {"category": "categorical", "price": "numeric", "genres": "multi"}
HEADER = "item_id,category,price,genres\n"
ROWS = "1,toys,2.5,a|b\n007,,,\n3,books, 4 ,c||a\n"


@pytest.fixture
def csv(tmp_path):
    def write(text):
        path = tmp_path / "items.csv"
        path.write_text(text)
        return path

    return write


def check(table):
    assert list(table) == ["item_id", "category", "price", "genres"]
    assert table["item_id"].tolist() == ["1", "007", "3"]
    assert table["category"].tolist() == ["toys", "", "books"]
    np.testing.assert_array_equal(table["price"], np.array([2.5, np.nan, 4], np.float32))
    assert table["price"].dtype == np.float32
    assert table["genres"].tolist() == [("a", "b"), (), ("c", "a")]


def test_csv(csv):
    check(read_table(csv(HEADER + ROWS), "item_id", KINDS))


def test_csv_in_chunks(csv, monkeypatch):
    monkeypatch.setattr(stream, "_CHUNK_BYTES", 40)
    check(read_table(csv(HEADER + ROWS), "item_id", KINDS))


@pytest.mark.parametrize("number", [pa.float64(), pa.float32(), pa.decimal128(4, 1)])
def test_parquet_with_lists(number, tmp_path):
    table = pa.table(
        {
            "genres": [["a", "b"], None, ["c", None, "a"]],
            "item_id": ["1", "007", "3"],
            "price": pa.array([2.5, None, 4.0]).cast(number),
            "category": pa.array(["toys", None, "books"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "items.parquet")
    check(read_table(tmp_path / "items.parquet", "item_id", KINDS))


def test_parquet_integers_and_booleans(tmp_path):
    path = tmp_path / "users.parquet"
    pq.write_table(
        pa.table({"id": [3, 1], "age": [31, 7], "paid": [True, False], "tags": [[1, 2], [3]]}), path
    )
    table = read_table(path, "id", {"age": "numeric", "paid": "numeric", "tags": "multi"})
    assert {name: column.tolist() for name, column in table.items()} == {
        "id": ["3", "1"],
        "age": [31.0, 7.0],
        "paid": [1.0, 0.0],
        "tags": [("1", "2"), ("3",)],
    }


BAD_TABLES = {
    "duplicate id": (
        "1,a,1,\n2,a,1,\n3,a,1,\n2,b,1,\n",
        KINDS,
        "`item_id` should hold each id once. Received: '2' in the data rows 2 and 4 ",
    ),
    "null id": ("1,a,1,\n,b,1,\n", KINDS, "data row 2 .*`item_id` should hold an id. Received: None"),
    "no number": (
        "1,a,1,\n2,b,dear,\n",
        KINDS,
        "data row 2 .*`price` should hold a finite number. Received: 'dear'",
    ),
    "infinite": ("1,a,inf,\n", KINDS, "data row 1 .*`price` should hold a finite number. Received: 'inf'"),
    "missing column": (ROWS, {"prise": "numeric"}, r"which lack `prise`. Did you mean `price`\?"),
    "unknown kind": (
        ROWS,
        {"price": "number"},
        "feature `price` should be one of categorical, multi, numeric, vector. Received: 'number'",
    ),
    "id as a feature": (
        ROWS,
        {"item_id": "categorical"},
        "`columns` should not hold the id column. Received: `item_id` as both",
    ),
    "no rows": ("", KINDS, "should hold at least one data row. Received: a header and no rows"),
}


@pytest.mark.parametrize(("rows", "columns", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables(rows, columns, message, csv):
    with pytest.raises(ValueError, match=message):
        read_table(csv(HEADER + rows), "item_id", columns)


def test_missing_table(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        read_table(tmp_path / "items.csv", "item_id", KINDS)


@given(have=st.lists(st.text(max_size=2), min_size=1, unique=True), want=st.lists(st.text(max_size=2)))
def test_align_looks_every_id_up(have, want):
    table = {
        "id": objects(have),
        "name": objects([f"<{text}>" for text in have]),
        "tags": objects([(text, "t") for text in have]),
        "rank": np.arange(len(have), dtype=np.float32),
    }
    if want and not set(want) & set(have):
        with pytest.raises(ValueError, match="should hold ids of the log"):
            align(table, "id", objects(want))
        return
    aligned = align(table, "id", objects(want))
    assert aligned["id"].tolist() == want
    assert aligned["name"].tolist() == [f"<{text}>" if text in have else "" for text in want]
    assert aligned["tags"].tolist() == [(text, "t") if text in have else () for text in want]
    ranks = np.array([have.index(text) if text in have else np.nan for text in want], np.float32)
    np.testing.assert_array_equal(aligned["rank"], ranks)
    assert table["name"].tolist() == [f"<{text}>" for text in have]


def test_a_table_of_other_ids_is_an_error_that_shows_both():
    table = {"item_id": objects(["7", "8"]), "price": np.array([1, 2], np.float32)}
    message = (
        "`item_id` of a feature table should hold ids of the log. Received: none of them; the table has e.g. "
        "'7' where the log has e.g. 'i7'. Write the ids alike in both files"
    )
    with pytest.raises(ValueError, match=message):
        align(table, "item_id", objects(["i7", "i8"]))


def test_real_movielens_genres(shared_data):
    table = read_table(
        shared_data("movielens-small/items.csv.gz"), "item_id", {"title": "categorical", "genres": "multi"}
    )
    assert len(table["item_id"]) > 9000
    assert table["genres"][0] == ("Adventure", "Animation", "Children", "Comedy", "Fantasy")
    assert table["title"][0] == "Toy Story (1995)"


VECTORS = np.array([[0.5, -1.0], [np.nan, np.nan], [2.0, 3.5]], np.float32)


def test_vectors_of_csv_in_one_chunk_and_in_many(csv, monkeypatch):
    path = csv("item_id,image\n1,0.5|-1\n007,\n3, 2.0 |3.5\n")
    for size in (stream._CHUNK_BYTES, 16, 24):
        monkeypatch.setattr(stream, "_CHUNK_BYTES", size)
        read = read_table(path, "item_id", {"image": "vector"})
        np.testing.assert_array_equal(read["image"], VECTORS)
        assert read["image"].dtype == np.float32
        # Chunks may have no row that is asked for.
        some = read_table(path, "item_id", {"image": "vector"}, rows=np.array([False, False, True]))
        np.testing.assert_array_equal(some["image"], VECTORS[2:])
    aligned = align(read, "item_id", objects(["3", "new", "1"]))
    np.testing.assert_array_equal(aligned["image"], VECTORS[[2, 1, 0]])


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float64()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2), pa.list_(pa.string())],
)
def test_vectors_of_parquet(kind, tmp_path):
    rows = [["0.5", "-1"], None, ["2", "3.5"]]
    if kind.value_type != pa.string():
        rows = [row and [float(number) for number in row] for row in rows]
    pq.write_table(
        pa.table({"item_id": ["1", "007", "3"], "image": pa.array(rows, kind)}), tmp_path / "i.parquet"
    )
    read = read_table(tmp_path / "i.parquet", "item_id", {"image": "vector"})
    np.testing.assert_array_equal(read["image"], VECTORS)


BAD_VECTORS = {
    "another length": (
        "1,0|1\n2,\n3,0|1|2\n",
        "data row 3 .*`image` should hold 2 numbers, as in .* Received: '0.1.2'",
    ),
    "no number": ("1,0|1\n2,0|red\n", "data row 2 .*`image` should hold a finite number. Received: 'red'"),
    "infinite": ("1,inf|1\n", "data row 1 .*`image` should hold a finite number. Received: 'inf'"),
    "none at all": ("1,\n2,\n", "`image` should hold vectors of one length. Received: none"),
}


@pytest.mark.parametrize(("rows", "message"), BAD_VECTORS.values(), ids=BAD_VECTORS)
def test_bad_vectors(rows, message, csv):
    with pytest.raises(ValueError, match=message):
        read_table(csv("item_id,image\n" + rows), "item_id", {"image": "vector"})


def test_vectors_of_two_lengths_in_two_chunks(csv, monkeypatch):
    monkeypatch.setattr(stream, "_CHUNK_BYTES", 20)
    with pytest.raises(ValueError, match=r"vectors of one length. Received: rows of 2 and of 3"):
        read_table(csv("item_id,image\n1,0|1\n2,\n3,0|1|2\n"), "item_id", {"image": "vector"})


def test_vectors_in_a_struct_are_refused(tmp_path):
    table = pa.table({"item_id": ["1"], "image": [{"x": 1.0}]})
    pq.write_table(table, tmp_path / "i.parquet")
    with pytest.raises(
        ValueError, match=r"`image` should hold strings or numbers. Received: values of type str"
    ):
        read_table(tmp_path / "i.parquet", "item_id", {"image": "vector"})
