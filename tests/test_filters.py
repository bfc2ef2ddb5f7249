"""Items left out of an answer, and items among which to choose, over every index, beside numpy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_cases import (
    ITEMS,
    STARVED,
    USERS,
    VECTORS,
    WEIGHTS,
    WHOLE,
    asked,
    check_ranking,
    fused,
    mask,
    mixed,
    write,
)

from csmf_tf.serving import ExactIndex
from csmf_tf.serving.filters import search_among, search_without


@pytest.fixture(scope="module", params=list(WHOLE))
def index(request):
    return request.param


@pytest.fixture(scope="module")
def model(index, tmp_path_factory):
    return write(tmp_path_factory.mktemp(index), index, WHOLE[index])


@pytest.fixture(scope="module")
def linear(index, tmp_path_factory):
    # 4k reaches the whole catalogue.
    return write(tmp_path_factory.mktemp(index), index, WHOLE[index], fusion="linear", k=100)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return write(tmp_path_factory.mktemp("exact"))


@st.composite
def requests(draw):
    """Vectors, queries and lists of indices of small integers: many ties, which are exact in float32."""
    n, batch, width, dim = (draw(st.integers(1, most)) for most in (30, 3, 12, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = rng.integers(-2, 3, size=(n, dim)).astype(np.float32)
    queries = rng.integers(-2, 3, size=(batch, dim)).astype(np.float32)
    return (
        vectors,
        queries,
        rng.integers(-1, n, size=(batch, width), dtype=np.int32),
        draw(st.integers(1, 40)),
    )


def ranked(vectors, queries, allowed, k):
    """The k best indices of each query among those that are allowed, bool [B, N]; -1 fills up."""
    truth = np.where(allowed, queries @ vectors.T, -np.inf)
    order = np.argsort(-truth, axis=1, kind="stable")
    order = np.where(np.take_along_axis(allowed, order, axis=1), order, -1)
    return np.pad(order, [(0, 0), (0, k)], constant_values=-1)[:, :k]


def named(indices, n):
    return np.array([np.isin(np.arange(n), row) for row in indices])


@settings(max_examples=60)
@given(requests())
def test_search_without_is_the_ranking_of_the_rest(case):
    vectors, queries, excluded, k = case
    indices, _ = search_without(ExactIndex(vectors, 3), queries, excluded, k)
    np.testing.assert_array_equal(indices, ranked(vectors, queries, ~named(excluded, len(vectors)), k))


@settings(max_examples=60)
@given(requests())
def test_search_without_on_an_index_that_finds_nothing_is_exact(case):
    vectors, queries, excluded, k = case
    index = ExactIndex(vectors, 3)
    index.search = lambda queries, k: ExactIndex(-np.ones_like(vectors), 1).search(np.nan * queries, k)
    indices, _ = search_without(index, queries, excluded, k)
    np.testing.assert_array_equal(indices, ranked(vectors, queries, ~named(excluded, len(vectors)), k))


@settings(max_examples=60)
@given(requests())
def test_search_among_is_the_ranking_of_these(case):
    vectors, queries, allowed, k = case
    indices, _ = search_among(vectors, queries, allowed, k)
    np.testing.assert_array_equal(indices, ranked(vectors, queries, named(allowed, len(vectors)), k))


# Items left out


def excluding(model, exclude, users=USERS, weights=WEIGHTS):
    width = max(map(len, exclude))
    padded = [[*names, *[""] * (width - len(names))] for names in exclude]
    return asked(model, "retrieve_excluding", user=users, weights=weights, exclude=np.array(padded, object))


@pytest.mark.parametrize(
    "exclude",
    [
        [[], [], []],
        [["", ""], ["stranger", ""], ["", "another"]],
        [ITEMS[:40], ITEMS[5:6] * 30, ["", *ITEMS[7:9], "stranger", ITEMS[7], ""]],
        [ITEMS, ITEMS[1:], []],
        [ITEMS[:-7], ITEMS[::2], ITEMS[10:] * 2],
    ],
    ids=["nothing", "unknown", "some", "all, all but one, nothing", "most"],
)
def test_excluded_items_never_come_back(model, linear, exclude):
    hidden = mask(*exclude)
    check_ranking(excluding(model, exclude), fused(USERS, WEIGHTS), 10, hidden)
    check_ranking(excluding(linear, exclude), mixed(USERS, WEIGHTS), 100, hidden)


def test_best_items_excluded_one_after_the_other(model):
    full = asked(model, "retrieve", user=USERS, weights=WEIGHTS)["ids"]
    rest = excluding(model, full[:, :4].tolist())["ids"]
    np.testing.assert_array_equal(rest[:, :6], full[:, 4:])
    assert (rest != "").all()


@pytest.mark.parametrize("fused_by", ["log", "linear"])
@pytest.mark.parametrize("kind", list(STARVED))
def test_index_that_finds_too_few_is_helped_out(kind, fused_by, tmp_path):
    served = write(tmp_path, kind, STARVED[kind], fusion=fused_by, k=60)
    plain = asked(served, "retrieve", user=USERS, weights=WEIGHTS)
    # Linear fusion asks for four times as many results, which may be enough.
    assert fused_by == "linear" or (plain["ids"] == "").any()
    # Of the first user nearly everything is left out, of the last one nothing.
    exclude = [ITEMS[:-50], plain["ids"][1][plain["ids"][1] != ""].tolist(), []]
    truth = fused(USERS, WEIGHTS) if fused_by == "log" else mixed(USERS, WEIGHTS)
    answer, hidden = excluding(served, exclude), mask(*exclude)
    assert (answer["ids"] != "").sum(axis=1).tolist() == [50, 60, 60]
    check_ranking({name: value[:1] for name, value in answer.items()}, truth[:1], 60, hidden[:1])
    for items, names in zip(answer["ids"], exclude, strict=True):
        assert not {*items} & {*names}


# Items among which to choose


@pytest.mark.parametrize(
    "among",
    [
        [[""], [""], [""]],
        [["stranger"], [ITEMS[4]], ["", ITEMS[3], "stranger", ITEMS[3], "", ITEMS[9]]],
        [ITEMS, ITEMS[::3], ITEMS[::-1]],
        [ITEMS[40:60] * 3, ITEMS[:10], ITEMS[:9]],
    ],
    ids=["pads", "few", "many", "repeats"],
)
def test_only_items_among_the_given_come_back(model, linear, among):
    width = max(map(len, among))
    hidden = ~mask(*among)
    padded = np.array([[*names, *[""] * (width - len(names))] for names in among], object)
    answer = asked(model, "retrieve_among", user=USERS, weights=WEIGHTS, among=padded)
    check_ranking(answer, fused(USERS, WEIGHTS), 10, hidden)
    answer = asked(linear, "retrieve_among", user=USERS, weights=WEIGHTS, among=padded)
    check_ranking(answer, mixed(USERS, WEIGHTS), 100, hidden)


def test_among_no_items_there_is_nothing(exact):
    answer = asked(exact, "retrieve_among", user=USERS, weights=WEIGHTS, among=np.zeros([3, 0], object))
    assert (answer["ids"] == "").all()


def test_among_ranks_equal_items_as_the_exact_index_does(tmp_path):
    served = write(tmp_path, vectors=np.ones_like(VECTORS))
    answer = asked(served, "retrieve_among", user=USERS, weights=WEIGHTS, among=[ITEMS[5::-1]])
    found = asked(served, "retrieve", user=USERS, weights=WEIGHTS)
    np.testing.assert_array_equal(answer["ids"][0, :6], ITEMS[:6])
    np.testing.assert_array_equal(found["ids"][0], ITEMS[:10])
