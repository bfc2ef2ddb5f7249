"""MSAC's clusters: large enough whatever the items, nested, and those that were planted."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from csmf_tf.negatives import kmeans as kmeans_module
from csmf_tf.negatives.clusters import Clusters, cluster_items, load_clusters, save_clusters
from csmf_tf.negatives.kmeans import kmeans

# What always holds


@st.composite
def catalogues(draw):
    """Modalities with rows that are missing and rows that are the same, and the fewest items of a cluster."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    min_size = draw(st.integers(1, 6))
    n = draw(st.integers(2 * min_size, 60))
    places, dim = draw(st.sampled_from([1, 2, 5, 100])), draw(st.integers(1, 3))
    spread, missing = draw(st.sampled_from([1, 50])), draw(st.sampled_from([0.0, 0.3, 0.9]))
    modalities = {}
    for name in ("image", "text", "behavior")[: draw(st.integers(1, 3))]:
        at = rng.normal(size=[places, dim]) * spread ** rng.random([places, 1])
        rows = at[rng.integers(places, size=n)].astype(np.float32)
        # As many as are needed have an image, and one at least has each.
        at_least = 1 if modalities else 2 * min_size
        rows[at_least:][rng.random(n - at_least) < missing] = np.nan
        modalities[name] = rows
    return modalities, min_size


def means(modalities):
    """The mean of each item's modalities in loops."""
    rows = []
    for item in zip(*modalities.values(), strict=True):
        has = [row for row in item if not np.isnan(row[0])]
        rows.append(np.mean(has, axis=0, dtype=np.float64) if has else np.full(len(item[0]), np.nan))
    return np.array(rows)


def easy_reference(centres, temperature):
    rows = []
    for a in centres.tolist():
        weights = [math.exp(-math.dist(a, b) / temperature) for b in centres.tolist()]
        weights[len(rows)] = 0.0
        rows.append([weight / math.fsum(weights) for weight in weights])
    return np.array(rows)


@settings(max_examples=150)
@given(
    catalogues(),
    st.none() | st.integers(2, 12),
    st.integers(1, 6),
    st.sampled_from([0.5, 1.0, 10.0]),
)
def test_clusters_of_any_catalogue(catalogue, level1, level2, temperature):
    modalities, min_size = catalogue
    n = len(modalities["image"])
    got = cluster_items(modalities, level1, level2, min_size, temperature, seed=1)

    for level, labels in ((1, got.level1), (2, got.level2)):
        assert labels.shape == (n,), level
        assert labels.dtype == np.int32
        assert np.bincount(labels).min() >= min_size
    clusters = got.level1.max() + 1
    assert 2 <= clusters <= (level1 or max(2, round(math.sqrt(n) / 4)))
    # Numbered from 0 without a gap, and each of level 2 within one of level 1.
    assert len(np.unique(got.level2)) == got.level2.max() + 1
    nested = np.unique(np.stack([got.level1, got.level2]), axis=1)
    assert nested.shape[1] == got.level2.max() + 1
    assert np.bincount(nested[0]).max() <= level2

    np.testing.assert_allclose(got.vectors, means(modalities), rtol=1e-5, atol=1e-5)
    assert got.vectors.dtype == got.centres.dtype == np.float32
    known = ~np.isnan(got.vectors[:, 0])
    for c, centre in enumerate(got.centres):
        mine = got.vectors[known & (got.level1 == c)].astype(np.float64)
        np.testing.assert_allclose(centre, mine.mean(axis=0), rtol=1e-4, atol=1e-5)

    assert got.easy.dtype == np.float64
    np.testing.assert_allclose(got.easy.sum(axis=1), 1.0, rtol=1e-12)
    assert not np.diag(got.easy).any()
    if np.ptp(got.centres) < 100 * temperature:
        np.testing.assert_allclose(got.easy, easy_reference(got.centres, temperature), rtol=1e-6)


def test_a_seed_gives_the_same_clusters():
    rng = np.random.default_rng(0)
    modalities = {name: rng.normal(size=[500, 6]).astype(np.float32) for name in ("a", "b")}
    modalities["a"][::3] = modalities["b"][::6] = np.nan
    before = {name: rows.copy() for name, rows in modalities.items()}
    one, same, other = (cluster_items(modalities, level1=6, seed=seed) for seed in (1, 1, 2))
    for field, again in zip(one, same, strict=True):
        np.testing.assert_array_equal(field, again)
    assert not np.array_equal(one.level2, other.level2)
    for name, rows in before.items():
        np.testing.assert_array_equal(modalities[name], rows)


def test_far_clusters_get_nothing_and_no_nan():
    places = np.repeat([[0.0], [1.0], [1e4]], 5, axis=0) + 1
    got = cluster_items({"image": places}, level1=3, temperature=0.1)
    near = math.exp(-10) / (1 + math.exp(-10))
    expected = [[0, 0, 1], [0, 0, 1], [0, near, 1 - near]]
    np.testing.assert_allclose(np.sort(got.easy, axis=1), expected, rtol=1e-6)


# What was planted


def planted(n=600, outer=6, inner=4, modalities=("image", "text"), seed=0):
    """Two levels: clusters of level 2 differ in each modality, but their means over modalities agree."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(outer, size=n), rng.integers(inner, size=n)
    centres, shifts = rng.normal(size=[outer, 16]), 0.5 * rng.normal(size=[inner, 16])
    sign = np.resize([1, -1], len(modalities))
    rows = {
        name: (centres[first] + s * shifts[second] + 0.1 * rng.normal(size=[n, 16])).astype(np.float32)
        for name, s in zip(modalities, sign, strict=True)
    }
    return rows, first, first * inner + second


@pytest.mark.parametrize("mini_batches_from", [50_000, 300])
def test_planted_clusters_are_found(monkeypatch, mini_batches_from):
    monkeypatch.setattr(kmeans_module, "_MINI_BATCHES_FROM", mini_batches_from)
    modalities, first, second = planted()
    got = cluster_items(modalities, level1=6, level2=4)
    assert adjusted_rand_score(first, got.level1) > 0.97
    assert adjusted_rand_score(second, got.level2) > 0.97
    # The mean alone cannot tell them apart.
    blind = cluster_items({"mean": np.mean([*modalities.values()], axis=0)}, level1=6, level2=4)
    assert adjusted_rand_score(second, blind.level2) < 0.7


def test_an_item_that_lacks_a_modality_stays_with_its_like():
    modalities, first, _ = planted(modalities=("image", "text", "behavior"))
    rng = np.random.default_rng(1)
    for rows in modalities.values():
        rows[rng.random(len(rows)) < 0.2] = np.nan
    got = cluster_items(modalities, level1=6)
    known = ~np.isnan(got.vectors[:, 0])
    assert adjusted_rand_score(first[known], got.level1[known]) > 0.9


def test_default_number_of_clusters_grows_with_the_root():
    rng = np.random.default_rng(0)
    got = cluster_items({"image": rng.normal(size=[1600, 4]).astype(np.float32)})
    assert got.level1.max() + 1 == 10


def test_near_duplicates_are_in_one_cluster():
    """They are the likely false negatives, so no hard negative may be among them."""
    rng = np.random.default_rng(0)
    places = np.repeat(rng.normal(size=[40, 8]), 5, axis=0)
    got = cluster_items({"image": places + 1e-3 * rng.normal(size=places.shape)}, level1=4, level2=10)
    for pack in got.level2.reshape(40, 5):
        assert len(set(pack.tolist())) == 1


# Items without any modality


def test_items_without_a_modality_change_no_other():
    modalities, _, _ = planted(n=200)
    unknown = np.random.default_rng(0).random(200) < 0.4
    known = {name: rows[~unknown] for name, rows in modalities.items()}
    for rows in modalities.values():
        rows[unknown] = 0.0
    alone, together = cluster_items(known, level1=6), cluster_items(modalities, level1=6)
    np.testing.assert_array_equal(together.level1[~unknown], alone.level1)
    np.testing.assert_array_equal(together.level2[~unknown], alone.level2)
    np.testing.assert_array_equal(together.centres, alone.centres)
    np.testing.assert_array_equal(np.isnan(together.vectors).all(axis=1), unknown)


def test_items_without_a_modality_spread_as_the_others_do():
    modalities, _, _ = planted(n=300)
    more = {name: np.pad(rows, [[0, 30_000], [0, 0]]) for name, rows in modalities.items()}
    got = cluster_items(more, level1=6, level2=4)
    known, unknown = np.bincount(got.level2[:300]), np.bincount(got.level2[300:])
    expected = known / 300 * 30_000
    # With at most 23 degrees of freedom, 58 would be exceeded once in 10,000 times.
    assert np.sum((unknown - expected) ** 2 / expected) < 58


# Sizes


def partition(labels):
    return sorted(np.flatnonzero(labels == c).tolist() for c in np.unique(labels))


def points(*values):
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize(
    ("values", "count", "min_size", "expected"),
    [
        # An outlier goes to the nearest cluster.
        ([0, 1, 2, 50, 51, 52, 90], 3, 2, [[0, 1, 2], [3, 4, 5, 6]]),
        ([-30, 0, 1, 2, 50, 51, 52, 90], 4, 2, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        # Two small clusters: the smallest goes to the other, which then is large enough.
        ([0, 1, 2, 50, 60, 61], 3, 3, [[0, 1, 2], [3, 4, 5]]),
        # Fewer places than clusters.
        ([5, 5, 5, 7, 7, 7], 3, 1, [[0, 1, 2], [3, 4, 5]]),
        ([5, 5, 5, 5], 3, 1, [[0, 1, 2, 3]]),
        # More clusters than can be large enough.
        ([0, 1, 10, 11], 4, 2, [[0, 1], [2, 3]]),
        ([0, 1, 10, 11], 4, 3, [[0, 1, 2, 3]]),
        ([3], 4, 1, [[0]]),
    ],
)
def test_small_clusters_go_to_the_nearest(values, count, min_size, expected):
    assert partition(kmeans(points(*values), count, min_size)) == expected


@pytest.mark.parametrize(
    ("values", "min_size", "expected"),
    [
        # k-means would cut off the outlier: the widest gap that leaves enough on both sides is taken.
        ([0, 1, 2, 3, 9, 10, 11, 12, 1000], 3, [[0, 1, 2, 3], [4, 5, 6, 7, 8]]),
        ([1000, 0, 9, 1, 10, 2, 11, 3, 12], 3, [[0, 2, 4, 6, 8], [1, 3, 5, 7]]),
        ([0, 5, 6, 7, 8, 9, 10, 11, 1000], 3, [[0, 1, 2, 3], [4, 5, 6, 7, 8]]),
        # All the same: in the middle.
        ([4] * 7, 2, [[0, 1, 2], [3, 4, 5, 6]]),
        ([4] * 6, 3, [[0, 1, 2], [3, 4, 5]]),
        ([4] * 9 + [5], 4, [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]),
    ],
)
def test_where_one_cluster_would_be_left_it_is_cut_in_two(values, min_size, expected):
    got = partition(kmeans(points(*values), 2, min_size, least=2))
    assert sorted(map(len, got)) == sorted(map(len, expected))
    if len(set(values)) > 2:
        assert got == expected


def test_two_halves_follow_the_longest_axis():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=[5, 5]))[0]
    side = np.repeat([-1.0, 1.0], 20)
    cloud = np.c_[10 * side + rng.normal(size=40), rng.normal(size=[40, 4])] @ turn
    outlier = np.vstack([cloud, 1e4 * turn[:1]]).astype(np.float32)
    labels = kmeans(outlier, 2, min_size=15, least=2)
    assert partition(labels) == [[*range(20)], [*range(20, 41)]]


def test_too_few_points_are_refused():
    with pytest.raises(ValueError, match=r"at least 6, 3 for each of 2 clusters\. Received: 5 points"):
        kmeans(points(1, 2, 3, 4, 5), 2, min_size=3, least=2)
    with pytest.raises(ValueError, match=r"at least 1, 1 for each of 1 clusters\. Received: 0 points"):
        kmeans(points(), 2)


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("min_size", [1, 2, 5])
def test_the_fewest_items_make_two_clusters(min_size, same):
    rows = np.ones([2 * min_size, 3]) if same else np.random.default_rng(0).normal(size=[2 * min_size, 3])
    got = cluster_items({"image": rows}, level1=9, min_size=min_size)
    assert np.bincount(got.level1).tolist() == [min_size] * 2 or min_size == 1
    assert got.level1.max() >= 1


# What is refused

ROWS = np.arange(1.0, 41.0).reshape(20, 2)


@pytest.mark.parametrize(
    ("modalities", "message"),
    [
        ({}, "`modalities` should hold at least one matrix. Received: none"),
        ({"a": ROWS, "b": ROWS[1:]}, "one row for each item. Received: rows={'a': 20, 'b': 19}"),
        (
            {"a": ROWS, "b": ROWS[:, :1]},
            "same number of columns. Received: columns={'a': 2, 'b': 1}; align them first, see `align`",
        ),
        ({"a": ROWS[:, 0]}, r"`a` should be a matrix of floats.*shape=\(20,\)"),
        ({"a": ROWS.astype(int)}, "dtype=int"),
        ({"a": np.where(ROWS == 4, np.nan, ROWS)}, "`a` should hold rows of finite.*first is row 1 "),
        ({"a": np.where(ROWS == 4, np.inf, ROWS)}, "`a` should hold rows of finite.*first is row 1 "),
        ({"a": ROWS, "b": ROWS * 0}, "`b` should have a vector of at least one item. Received: 20 rows, all"),
        ({"a": ROWS[:9]}, "at least 2 \\* min_size = 10 items. Received: 9 of 9 items with a vector; lower"),
        ({"a": np.where(ROWS > 18, ROWS * 0, ROWS)}, "Received: 9 of 20 items with a vector"),
    ],
)
def test_modalities_that_cannot_be_clustered_are_refused(modalities, message):
    with pytest.raises(ValueError, match=message):
        cluster_items(modalities)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("level1", 1, "`level1` should be an integer >= 2. Received: level1=1"),
        ("level1", 2.5, "`level1` should be an integer >= 2. Received: level1=2.5"),
        ("level2", 0, "`level2` should be an integer >= 1. Received: level2=0"),
        ("min_size", 0, "`min_size` should be an integer >= 1. Received: min_size=0"),
        ("min_size", True, "`min_size` should be an integer >= 1. Received: min_size=True"),
        ("temperature", 0.0, "`temperature` should be a positive number. Received: temperature=0.0"),
        ("temperature", math.nan, "`temperature` should be a positive number. Received: temperature=nan"),
        ("temperature", math.inf, "`temperature` should be a positive number. Received: temperature=inf"),
    ],
)
def test_arguments_out_of_range_are_refused(argument, value, message):
    with pytest.raises(ValueError, match=message):
        cluster_items({"image": ROWS}, **{argument: value})


# On disk


@pytest.fixture
def clusters():
    modalities, _, _ = planted(n=100)
    modalities["image"][:10] = modalities["text"][:10] = np.nan
    return cluster_items(modalities, level1=3)


def assert_same(one, other):
    assert isinstance(other, Clusters)
    for mine, its in zip(one, other, strict=True):
        assert mine.dtype == its.dtype
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize("fingerprint", ["", "seed 0", '{"é": [1, "\\n"]}'])
def test_loaded_is_saved(tmp_path, clusters, fingerprint):
    path = tmp_path / "clusters.npz"
    save_clusters(path, clusters, fingerprint)
    assert_same(clusters, load_clusters(path, fingerprint))
    assert_same(clusters, load_clusters(str(path), fingerprint))
    assert [file.name for file in tmp_path.iterdir()] == ["clusters.npz"]


def test_another_fingerprint_and_no_file_give_none(tmp_path, clusters):
    assert load_clusters(tmp_path / "clusters.npz", "seed 0") is None
    save_clusters(tmp_path / "clusters.npz", clusters, "seed 0")
    for other in ("seed 1", "", "seed 0 "):
        assert load_clusters(tmp_path / "clusters.npz", other) is None


def test_a_second_save_replaces_the_first(tmp_path, clusters):
    path = tmp_path / "clusters.npz"
    save_clusters(path, cluster_items({"image": np.eye(20)}), "seed 0")
    save_clusters(path, clusters, "seed 1")
    assert load_clusters(path, "seed 0") is None
    assert_same(clusters, load_clusters(path, "seed 1"))


def test_a_killed_save_leaves_the_old_file(tmp_path, monkeypatch, clusters):
    path, savez = tmp_path / "clusters.npz", np.savez
    save_clusters(path, clusters, "seed 0")

    def killed(file, *args, **arrays):
        file.write(b"half")
        file.flush()
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", killed)
    with pytest.raises(KeyboardInterrupt):
        save_clusters(path, cluster_items({"image": np.eye(20)}), "seed 1")
    assert_same(clusters, load_clusters(path, "seed 0"))
    # What is left behind does no harm to the next save.
    monkeypatch.setattr(np, "savez", savez)
    save_clusters(path, clusters, "seed 1")
    assert_same(clusters, load_clusters(path, "seed 1"))
    assert [file.name for file in tmp_path.iterdir()] == ["clusters.npz"]
