"""The log with times and item features that the benchmark of sequential recommenders makes of MovieLens."""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.quality.movielens import with_times, with_words
from csmf_tf.data.log import read_log
from csmf_tf.data.tables import read_table


def test_ties_lose_their_order_and_what_has_no_time_is_left_out(tmp_path):
    rows = [f"7,{item},4.0,1000" for item in range(60)] + ["7,99,4.0,12 https://example.org1", "8,1,2.0,2000"]
    (tmp_path / "ratings.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]))
    log = read_log(
        with_times(tmp_path / "ratings.csv", tmp_path / "log.csv"),
        user="user_id",
        item="item_id",
        behavior="behavior",
        timestamp="timestamp",
        funnel=["rated"],
    )
    assert len(log) == 61
    items = log.items[log.item[log.users[log.user] == "7"]].astype(int)
    assert sorted(items) == list(range(60))
    # Sixty items in a random order rarely stand within two places of their own.
    assert np.mean(np.abs(items - np.arange(60)) <= 2) < 0.3


def test_titles_become_words_and_a_year(tmp_path):
    rows = ['1,"Amélie, la vie! 2 (2001)",Comedy|Romance', "2,Untold,(no genres listed)"]
    (tmp_path / "items.csv").write_text("\n".join(["item_id,title,genres", *rows]))
    written = with_words(tmp_path / "items.csv", tmp_path / "words.csv")
    kinds = {"words": "multi", "year": "numeric", "genres": "multi"}
    table = read_table(written, "item_id", kinds)
    assert table["words"].tolist() == [("amélie", "la", "vie"), ("untold",)]
    np.testing.assert_array_equal(table["year"], np.array([2001, np.nan], np.float32))
    assert table["genres"].tolist()[0] == ("Comedy", "Romance")
