"""MovieLens with its times and with features of its items."""

import pathlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

YEAR = re.compile(r"\((\d{4})\)\s*$")


def with_times(ratings: pathlib.Path, written: pathlib.Path) -> pathlib.Path:
    """Writes the ratings as a log of one behaviour with times; gives its path.

    One row of the source has an address for a time, and is left out. The source sorts a user's ratings of
    one second, nearly a quarter of all, by item: they are shuffled, so that no order is learned that is none.
    """
    texts = pa.csv.ConvertOptions(column_types={"timestamp": pa.string()})
    table = pa.csv.read_csv(ratings, convert_options=texts).select(["user_id", "item_id", "timestamp"])
    table = table.filter(pc.utf8_is_decimal(table["timestamp"]))
    table = table.take(np.random.default_rng(0).permutation(len(table)))
    pa.csv.write_csv(table.append_column("behavior", pa.array(["rated"] * len(table))), written)
    return written


def with_words(items: pathlib.Path, written: pathlib.Path) -> pathlib.Path:
    """Writes the items' genres, the words of their titles and their years; gives its path."""
    table = pa.csv.read_csv(items)
    titles = table["title"].to_pylist()
    years = [found.group(1) if (found := YEAR.search(title)) else "" for title in titles]
    words = [re.findall(r"[^\W_]{2,}", YEAR.sub("", title).lower()) for title in titles]
    table = table.select(["item_id", "genres"]).append_column("year", pa.array(years))
    table = table.append_column("words", pa.array(["|".join(dict.fromkeys(some)) for some in words]))
    pa.csv.write_csv(table, written)
    return written
