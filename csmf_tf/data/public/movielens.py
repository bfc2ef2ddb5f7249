"""MovieLens: ratings as a cascade, rated, liked, loved."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from csmf_tf.data.public.base import PublicSet, categorical, unfold
from csmf_tf.data.public.source import Layout, Source, numbers
from csmf_tf.data.public.target import Target
from csmf_tf.data.times import times_of

_LEVELS = ("liked", "loved")
_RATINGS = ("user", "item", "rating", "timestamp")
_NO_GENRE = "(no genres listed)"
_USER = ("gender", "age", "occupation")


def movielens(thresholds: Sequence[float] = (4, 5)) -> PublicSet:
    """Describes MovieLens as a cascade by rating.

    Args:
        thresholds: from which rating on a film is liked and, if there are two, loved; rising.

    Returns:
        The set, with the funnel rated, liked, loved or rated, liked.

    Raises:
        ValueError: if it is not one or two rising numbers.

    Example:
    >>> movielens([3.5]).funnel
    ('rated', 'liked')
    """
    levels = [float(level) for level in thresholds]
    if not 1 <= len(levels) <= len(_LEVELS) or not np.isfinite(levels).all() or levels != sorted(set(levels)):
        raise ValueError(
            "`thresholds` should be one or two rising ratings, from which on a film is liked and loved. "
            f"Received: {', '.join(f'{level:g}' for level in levels) or 'none'}; give e.g. 4,5."
        )
    named = dict(zip(_LEVELS, levels, strict=False))
    return PublicSet(
        about="MovieLens ratings as a cascade by thresholds: rated, liked, loved",
        where="https://grouplens.org/datasets/movielens",
        licence="GroupLens: research, not commercial; see the README beside the files",
        files=_FILES,
        funnel=("rated", *named),
        # Most users rate on one day only: those after a cut in time are unknown before it.
        split="leave_last",
        features={"items": {"genres": "multi"}, "users": categorical(*_USER)},
        read=partial(_read, named),
    )


_FILES = (
    Layout("ratings.csv", ("userId", "movieId", "rating", "timestamp"), role="ratings"),
    Layout("ratings.csv", ("user_id", "item_id", "rating", "timestamp"), role="ratings"),
    Layout("ratings.dat", _RATINGS, False, numbers=_RATINGS, delimiter="::", role="ratings"),
    Layout("movies.csv", ("movieId", "title", "genres"), role="movies", required=False),
    Layout("movies.csv", ("item_id", "title", "genres"), role="movies", required=False),
    Layout(
        "movies.dat",
        ("item_id", "title", "genres"),
        header=False,
        numbers=("item_id",),
        delimiter="::",
        role="movies",
        required=False,
    ),
    Layout(
        "users.dat",
        ("user_id", *_USER, "zip"),
        header=False,
        numbers=("user_id", "age", "occupation"),
        delimiter="::",
        role="users",
        required=False,
    ),
)


def _read(thresholds: Mapping[str, float], files: Mapping[str, list[Source]], target: Target) -> None:
    highest = -np.inf
    for source in files["ratings"]:
        user, item, rating, time = source.layout.columns
        for chunk in source.chunks(*source.layout.columns):
            stars = numbers(chunk, rating)
            highest = max(highest, stars.max(initial=highest))
            done = {"rated": np.ones(len(stars), bool)}
            done |= {name: stars >= threshold for name, threshold in thresholds.items()}
            row, behavior = unfold(done)
            times = times_of(chunk, time)[row.to_numpy()]
            target.events(chunk.ids(user).take(row), chunk.ids(item).take(row), behavior, times)
    for name, threshold in thresholds.items():
        if highest < threshold:
            raise ValueError(
                f"`thresholds` should be ratings that occur. Received: {threshold:g}, from which on a film "
                f"is {name}, where the highest rating is {highest:g}; lower it, or leave it out."
            )
    for source in files["movies"]:
        for item_id, title, genres in _movies(source):
            target.table("items", {"item_id": item_id, "title": title, "genres": genres})
    for source in files["users"]:
        for chunk in source.chunks("user_id", *_USER):
            features = {name: chunk.text(name) for name in _USER}
            target.table("users", {"user_id": chunk.ids("user_id")} | features)


def _movies(source: Source) -> Iterator[tuple[pa.Array, pa.Array, pa.Array]]:
    if source.layout.header:
        for chunk in source.chunks(*source.layout.columns):
            item, title, genres = source.layout.columns
            yield chunk.ids(item), chunk.text(title), _without_none(chunk.text(genres))
        return
    columns = zip(*(_fields(source, number, line) for number, line in _lines(source)), strict=True)
    item_id, title, genre = (pa.array(column) for column in columns)
    yield item_id, title, _without_none(genre)


def _lines(source: Source) -> Iterator[tuple[int, str]]:
    # Titles hold colons and, in the older sets, letters in Latin-1: not a file for Arrow, and a small one.
    raw = source.path.read_bytes()
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    # Not splitlines(), which also splits inside a title, say at U+0085.
    lines = (line.rstrip("\r") for line in text.split("\n"))
    return ((number, line) for number, line in enumerate(lines, start=1) if line)


def _fields(source: Source, number: int, line: str) -> list[str]:
    fields = line.split("::")
    if len(fields) != len(source.layout.columns) or not fields[0]:
        raise ValueError(
            f"{source.path}, data row {number}: a row should be item_id::title::genres. Received: {line!r}."
        )
    return fields


def _without_none(genres: pa.Array) -> pa.Array:
    return pc.if_else(pc.equal(genres, _NO_GENRE), None, genres)
