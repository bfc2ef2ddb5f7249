"""Modality matrices: rows find their items, texts and items in the same baskets find each other."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csmf_tf.data.stream import objects
from csmf_tf.negatives.modalities import cooccurrence_vectors, read_vectors, text_vectors

# Matrices in files


def written(folder, matrix):
    np.save(folder / "image.npy", matrix)
    return folder / "image.npy"


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_a_file_find_their_items(tmp_path, dtype, order):
    path = written(tmp_path, np.array([[1, 2], [3, 4], [5, 6]], dtype, order=order))
    found = read_vectors(path, objects(["c", "z", "a"]), objects(["a", "b", "c"]))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[5, 6], [np.nan, np.nan], [1, 2]])


def test_without_a_table_ids_are_row_numbers(tmp_path):
    path = written(tmp_path, np.arange(1.0, 25.0).reshape(12, 2))
    found = read_vectors(path, objects(["11", "2", "12", "0", "9999999999999999999999"]))
    np.testing.assert_array_equal(found[[0, 1, 3]], [[23, 24], [5, 6], [1, 2]])
    assert np.isnan(found[[2, 4]]).all()


@pytest.mark.parametrize("nothing", [0.0, -0.0, np.nan])
def test_rows_of_nothing_are_missing(tmp_path, nothing):
    path = written(tmp_path, np.array([[nothing, nothing], [0.0, 1.0]]))
    np.testing.assert_array_equal(read_vectors(path, objects(["0", "1"])), [[np.nan, np.nan], [0, 1]])


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones(3), r"image.npy should be a matrix of floats.*Received: shape=\(3,\), dtype=float64"),
        (np.ones([3, 2, 1]), r"Received: shape=\(3, 2, 1\)"),
        (np.ones([3, 0]), r"Received: shape=\(3, 0\)"),
        (np.ones([0, 3]), r"Received: shape=\(0, 3\)"),
        (np.ones([3, 2], int), "dtype=int64"),
        (np.ones([3, 2], bool), "dtype=bool"),
        (np.ones([3, 2], complex), "dtype=complex128"),
        (np.full([3, 2], "1.0"), "dtype=<U3"),
        (np.array([[1, 1], [1, np.inf], [1, 1]]), r"finite float32.*1 other rows of 3, the first is row 1"),
        (np.array([[1, 1], [1, 1e39], [1, 1]]), "1 other rows of 3, the first is row 1"),
        (np.array([[1, 1], [1, 1], [1, np.nan]]), "all NaN where one is missing.*the first is row 2"),
        (np.ones([2, 2]), "as many rows as the items table. Received: 2 rows for 3 items"),
        (np.zeros([3, 2]), "a vector of at least one item. Received: 3 rows"),
    ],
)
def test_other_matrices_are_refused(tmp_path, matrix, message):
    with pytest.raises(ValueError, match=message):
        read_vectors(written(tmp_path, matrix), objects(["a"]), objects(["a", "b", "c"]))


def test_ids_that_are_no_row_numbers_ask_for_a_table(tmp_path):
    path = written(tmp_path, np.ones([3, 2]))
    for other in ("i1", "01", "-1", "1.0", "", "1\n", "٣"):
        with pytest.raises(ValueError, match=r"1 ids that are not, e\.g\. .*give an items table") as error:
            read_vectors(path, objects(["1", other]))
        assert repr(other) in str(error.value)


def test_ids_of_no_item_are_refused(tmp_path):
    path = written(tmp_path, np.ones([2, 2]))
    with pytest.raises(ValueError, match=r"'a' to 'b', and none for any of the 2 items, e\.g\. 'ia'"):
        read_vectors(path, objects(["ia", "ib"]), objects(["a", "b"]))
    with pytest.raises(ValueError, match="none for any of the 1 items"):
        read_vectors(path, objects(["2"]))


def test_files_of_another_kind_are_refused(tmp_path):
    np.savez(tmp_path / "two.npz", a=np.ones(2))
    with pytest.raises(ValueError, match="archive of several arrays"):
        read_vectors(tmp_path / "two.npz", objects(["0"]))
    for name, content in (("empty.npy", b""), ("text.npy", b"1,2\n")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} should be a \.npy file of floats"):
            read_vectors(tmp_path / name, objects(["0"]))
    with pytest.raises(ValueError, match=r"should be a \.npy file of floats"):
        read_vectors(written(tmp_path, np.array([[1, "a"]], object)), objects(["0"]))
    with pytest.raises(FileNotFoundError):
        read_vectors(tmp_path / "none.npy", objects(["0"]))


# Texts


def cosines(vectors):
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    return vectors @ vectors.T


@pytest.mark.parametrize("dim", [4, 64])
def test_titles_that_share_words_are_nearer(dim):
    titles = ["Red shoe, size 9", "red SHOE (size 8)", "blue shoe", "green tea 500 g", "black tea 1 kg"]
    near = cosines(text_vectors(objects(titles), dim))
    assert near[0, 1] > near[0, 2] > near[0, 3] + 0.1
    assert near[3, 4] > near[3, 2] + 0.1


def test_more_texts_than_dimensions_keep_their_topics():
    """Each topic has words of its own, far more of them than dimensions."""
    rng = np.random.default_rng(0)
    topic = rng.integers(0, 4, 400)
    titles = [" ".join(f"w{k}x{word}" for word in rng.integers(0, 60, 8)) for k in topic]
    vectors = text_vectors(objects(titles), dim=8)
    assert vectors.shape == (400, 8)
    assert vectors.dtype == np.float32
    np.fill_diagonal(near := cosines(vectors), -1)
    assert np.mean(topic[near.argmax(axis=1)] == topic) > 0.97
    np.testing.assert_array_equal(vectors, text_vectors(objects(titles), dim=8))


def test_each_value_of_a_multi_valued_column_is_one_word():
    values = [("Sci-Fi", "For kids"), ("Sci-Fi",), ("Sci", "Fi", "kids"), ("For kids", ""), ("Fi",), ()]
    vectors = text_vectors(objects(values))
    assert np.isnan(vectors[5]).all()
    near = cosines(vectors[:5])
    assert near[0, 1] > 0.5
    assert near[0, 3] > 0.5
    assert near[0, 2] == pytest.approx(0)
    # A rare value weighs more than a frequent one: only items 2 and 4 share "Fi".
    assert near[2, 4] > 0.99


@pytest.mark.parametrize("texts", [["é 1", "é 2", "x 1", "x 2"], ["a", "b", "a", "b"]])
def test_single_characters_are_words(texts):
    near = cosines(text_vectors(objects(texts)))
    assert near[0].max() > 0.3


def test_texts_that_tell_nothing_have_no_vector():
    vectors = text_vectors(objects(["red shoe", "red hat", "", "...", "unheard-of"]))
    assert np.isnan(vectors).all(axis=1).tolist() == [False, False, True, True, True]
    assert np.isfinite(vectors[:2]).all()


def test_what_the_dimensions_leave_out_is_missing_and_not_noise():
    """Ten pairs have a word of their own, a hundred items another: one dimension can hold only that."""
    texts = ["shoe"] * 100 + [f"pair{n // 2}" for n in range(20)]
    vectors = text_vectors(objects(texts), dim=1)
    assert np.isfinite(vectors[:100]).all()
    assert np.isnan(vectors[100:]).all()


def test_few_words_shrink_the_dimensions_and_lose_nothing():
    texts = objects(["a b", "a", "b c", "c", "a b c"])
    assert text_vectors(texts, dim=64).shape == (5, 3)
    np.testing.assert_allclose(cosines(text_vectors(texts, dim=3)), cosines(text_vectors(texts)), atol=1e-6)


def test_text_vectors_warn_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text_vectors(objects([("Action", "B"), ("Action",), ("B",)]))


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["", " ", "!"], "Received: 3 items and nothing but empty texts; leave this modality out"),
        ([(), ()], "Received: 2 items and nothing but empty texts"),
        (["sku1", "sku2"], "Received: 2 items and no two that share a word"),
        ([], "Received: 0 items"),
    ],
)
def test_texts_without_common_words_are_refused(texts, message):
    with pytest.raises(ValueError, match=message):
        text_vectors(objects(texts))


@pytest.mark.parametrize("dim", [0, -1, 2.0, True])
def test_dim_is_a_positive_integer(dim):
    with pytest.raises(ValueError, match=f"`dim` should be an integer >= 1. Received: dim={dim}"):
        text_vectors(objects(["a", "a"]), dim)
    with pytest.raises(ValueError, match="`dim` should be"):
        cooccurrence_vectors(np.zeros(1, int), np.zeros(1, int), 1, 1, dim)


# Events


def baskets(n_users=300, n_items=80, kinds=4, seed=0):
    """Events of users who mostly meet items of one kind."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, kinds, n_items)
    taste = np.repeat(rng.integers(0, kinds, n_users), 8)
    user = np.repeat(np.arange(n_users), 8)
    liked = np.array([rng.choice(np.flatnonzero(kind == t)) for t in taste])
    return user, np.where(rng.random(len(user)) < 0.8, liked, rng.integers(0, n_items, len(user))), kind


@pytest.mark.parametrize("dim", [8, 1000])
def test_items_of_the_same_users_are_nearer(dim):
    user, item, kind = baskets()
    vectors = cooccurrence_vectors(user, item, 300, 80, dim)
    assert vectors.dtype == np.float32
    near = cosines(vectors)
    same = kind[:, None] == kind
    assert near[same & ~np.eye(80, dtype=bool)].mean() > 4 * near[~same].mean()


def test_repeats_and_the_order_of_events_change_nothing():
    user, item, _ = baskets()
    order = np.random.default_rng(1).permutation(np.r_[np.arange(len(user)), np.arange(50)])
    vectors = cooccurrence_vectors(user, item, 300, 80, dim=8)
    np.testing.assert_array_equal(cooccurrence_vectors(user[order], item[order], 300, 80, dim=8), vectors)


def test_scaling_is_by_damped_counts():
    user, item = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 1, 2, 0, 1, 3])
    met = np.array([[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 0]])
    expected = met / np.sqrt((met.sum(1, keepdims=True) + 2) * (met.sum(0) + 6 / 4))
    expected = expected[:, :4] / np.linalg.norm(expected[:, :4], axis=0)
    vectors = cooccurrence_vectors(user, item, n_users=3, n_items=5)
    np.testing.assert_allclose(vectors[:4], expected.T, rtol=1e-6)
    assert np.isnan(vectors[4]).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), min_size=1, max_size=20), st.integers(1, 8))
def test_items_have_a_vector_where_they_have_events(pairs, dim):
    user, item = np.array(pairs).T
    vectors = cooccurrence_vectors(user, item, n_users=6, n_items=7, dim=dim)
    assert len(vectors) == 7
    assert vectors.shape[1] <= dim
    has = ~np.isnan(vectors).any(axis=1)
    np.testing.assert_array_equal(np.isnan(vectors).all(axis=1), ~has)
    assert not has[np.setdiff1d(np.arange(7), item)].any()
    if dim >= 6:
        assert has[item].all()
    cosines(vectors[has])


@pytest.mark.parametrize(
    ("user", "item", "message"),
    [
        ([], [], "`item` should be codes in 0..2 .*at least one. Received: no events"),
        ([0], [3], "Received: codes up to 3"),
        ([0], [-1], "should be codes >= 0"),
        ([2], [0], "`users` should be codes in 0..1"),
        ([0, 1], [0], "of the same length"),
    ],
)
def test_codes_out_of_range_are_refused(user, item, message):
    with pytest.raises(ValueError, match=message):
        cooccurrence_vectors(np.array(user, int), np.array(item, int), n_users=2, n_items=3)
