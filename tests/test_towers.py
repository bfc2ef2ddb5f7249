"""Features and towers against numpy, and what survives configs, saving and stages."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csmf_tf._keras import keras, tf
from csmf_tf.towers import Feature, FeatureEncoder, Tower
from csmf_tf.towers import features as features_module
from csmf_tf.towers.pair import TowerPair

DIM, ROWS = 7, 7
USER = [
    Feature("user", "id", vocabulary=("u0", "u1", "u2"), oov_buckets=2),
    Feature("country", "categorical", vocabulary=("de", "fr"), dim=3),
    Feature("tags", "multi", vocabulary=("a", "b", "c"), dim=2, oov_buckets=3),
    Feature("age", "numeric", mean=40.0, std=10.0),
    Feature("history", "history", vocabulary=("i0", "i1", "i2"), dim=4, length=3),
]
ITEM = [
    Feature("item", "id", vocabulary=("i0", "i1", "i2")),
    Feature("price", "numeric", mean=1.0, std=2.0),
]
RAW = {
    "user": np.array(["u0", "u2", "new", "", "u1", "newer", "u0"], object),
    "country": np.array(["fr", "", "de", "it", "fr", "fr", "de"], object),
    "tags": np.array(
        [[tag.strip() for tag in pair] for pair in ("a ", "  ", "bc", "xy", " a", "aa", "cx")], object
    ),
    "age": np.array([50, np.nan, 20, np.inf, 40, 41, -np.inf], np.float32),
    "history": np.array([["", "i0", "i2"]] * 3 + [["", "", ""]] * 2 + [["i1", "i1", "gone"]] * 2, object),
    "item": np.array(["i0", "i1", "i2", "?", "i0", "i1", "i2"], object),
    "price": np.linspace(-3, 3, ROWS, dtype=np.float32),
}
both_granularities = pytest.mark.parametrize("granularity", ["unit", "weight"])


def scatter(layers, rng):
    """Gives the live weights random values, as training would."""
    for variable in {id(v): v for layer in layers for v in layer.trainable_weights}.values():
        variable.assign(rng.normal(size=variable.shape))


def make_tower(features=USER, **kwargs):
    keras.utils.set_random_seed(0)
    tower, encoder = Tower(features, DIM, **kwargs), FeatureEncoder(features)
    encoded = encoder(RAW)
    tower(encoded)
    scatter([tower], np.random.default_rng(0))
    return tower, encoded


def make_pair(stages=0, **kwargs):
    """A pair after some finished stages of random training, with free capacity left."""
    keras.utils.set_random_seed(0)
    pair, rng = (
        TowerPair(USER, ITEM, **{"embedding_dim": DIM, "hidden": (9, 8), **kwargs}),
        np.random.default_rng(0),
    )
    for stage in range(1, stages + 1):
        run_stage(pair, stage, rng)
    return pair


def run_stage(pair, stage, rng):
    pair.begin(stage)
    scatter([pair], rng)
    pair.prune(stage, share=0.3)
    scatter([pair], rng)
    pair.freeze()


def encoded_by(pair):
    return pair.user_encoder(RAW), pair.item_encoder(RAW)


def embeddings(pair, stage):
    sides = zip((pair.user, pair.item), encoded_by(pair), strict=True)
    return [pair.embed(tower, encoded, stage).numpy() for tower, encoded in sides]


# Features


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "text"}, "`kind` of feature 'f' should be one of .* Received: kind='text'"),
        ({"kind": "id"}, "`vocabulary` of feature 'f' should hold at least one string. Received: none"),
        ({"kind": "categorical", "vocabulary": "de"}, "`vocabulary` of feature 'f' .* Received: 'de'"),
        ({"kind": "numeric", "std": 0.0}, "`std` of feature 'f' should be positive. Received: std=0.0"),
        ({"kind": "numeric", "std": np.nan}, "`std` of feature 'f' should be positive. Received: std=nan"),
        ({"kind": "id", "vocabulary": ("a",), "oov_buckets": 0}, "`oov_buckets` .* >= 1. Received: 0"),
    ],
)
def test_wrong_features_are_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Feature("f", **arguments)


@pytest.mark.parametrize(
    ("values", "mean", "std"),
    [
        ([1.0, 3.0, np.nan, np.inf], 2.0, 1.0),
        ([5.0, 5.0], 5.0, 1.0),
        ([np.nan], 0.0, 1.0),
        ([], 0.0, 1.0),
        # Half precision would lose the sum of these.
        (np.full(3, 60_000, np.float16), np.float64(np.float16(60_000)), 1.0),
    ],
)
def test_numeric_features_are_standardised_by_what_is_known(values, mean, std):
    assert Feature.numeric("f", values) == Feature("f", "numeric", mean=mean, std=std)


@pytest.mark.parametrize("feature", [*USER, *ITEM], ids=lambda feature: feature.name)
def test_features_survive_json(feature):
    plain = json.loads(json.dumps(FeatureEncoder([feature]).get_config()["features"]))
    assert FeatureEncoder(plain).features == (feature,)


# FeatureEncoder


def test_encoder_pads_hashes_and_standardises():
    encoded = {name: value.numpy() for name, value in FeatureEncoder(USER)(RAW).items()}
    # Two buckets, then the vocabulary; an empty id is as unknown as any other.
    assert encoded["user"][[0, 1, 4, 6]].tolist() == [2, 4, 3, 2]
    assert set(encoded["user"][[2, 3, 5]]) <= {0, 1}
    assert encoded["country"].tolist() == [2, 0, 1, 0, 2, 2, 1]
    # Pads, three buckets, the vocabulary.
    known = [[4, 0], [0, 0], [5, 6], [-1, -1], [0, 4], [4, 4], [6, -1]]
    assert np.where(np.isin(encoded["tags"], [1, 2, 3]), -1, encoded["tags"]).tolist() == known
    np.testing.assert_allclose(encoded["age"], [[1.0], [0.0], [-2.0], [0.0], [0.0], [0.1], [0.0]], atol=1e-6)
    assert encoded["history"].tolist() == [[0, 2, 4]] * 3 + [[0, 0, 0]] * 2 + [[3, 3, 1]] * 2
    assert {name: value.dtype.name for name, value in encoded.items()} == {
        name: "float32" if name == "age" else "int32" for name in encoded
    }


@given(st.lists(st.text(), min_size=1, max_size=6), st.integers(1, 4), st.booleans())
def test_every_code_has_a_row_of_its_table(strings, buckets, padded):
    kind = "multi" if padded else "categorical"
    feature = Feature("f", kind, vocabulary=("x", "yy"), oov_buckets=buckets)
    codes = FeatureEncoder([feature])({"f": tf.constant([strings] if padded else strings)})["f"].numpy()
    assert codes.min() >= 0
    assert codes.max() < feature.rows
    for code, string in zip(codes.reshape(-1), strings, strict=True):
        known = feature.vocabulary.index(string) if string in feature.vocabulary else None
        first = int(padded) + buckets
        if padded and not string:
            assert code == 0
        elif known is not None:
            assert code == first + known
        else:
            assert padded <= code < first


def test_encode_is_the_call_in_chunks(monkeypatch):
    encoder = FeatureEncoder(USER)
    whole = {name: value.numpy() for name, value in encoder(RAW).items()}
    monkeypatch.setattr(features_module, "CHUNK", 3)
    tf.nest.map_structure(np.testing.assert_array_equal, encoder.encode(RAW), whole)
    assert [*encoder.encode(RAW, skip="history")] == ["user", "country", "tags", "age"]
    without = {name: value for name, value in RAW.items() if name != "history"}
    assert "history" not in encoder.encode(without, skip="history")
    np.testing.assert_array_equal(encoder.codes("history", RAW["history"]), whole["history"])


def test_mixed_precision_does_not_round_raw_numbers():
    # Rounded to bfloat16 before they are standardised, all these years would be one.
    feature = Feature("year", "numeric", mean=2020.0, std=1.0)
    encoder = FeatureEncoder([feature], dtype="mixed_bfloat16")
    raw = {"year": np.array([2018, 2019, 2021], np.float32)}
    np.testing.assert_array_equal(encoder(raw)["year"], [[-2.0], [-1.0], [1.0]])
    np.testing.assert_array_equal(encoder.encode(raw)["year"], [[-2.0], [-1.0], [1.0]])


def test_blank_is_a_row_of_which_nothing_is_known():
    encoder = FeatureEncoder(USER)
    blank = encoder.blank()
    for feature in USER:
        assert feature.signature.is_compatible_with(blank[feature.name])
    encoded = encoder(blank)
    assert {name: value.shape.as_list() for name, value in encoded.items()} == {
        "user": [1],
        "country": [1],
        "tags": [1, 1],
        "age": [1, 1],
        "history": [1, 3],
    }
    assert not any(encoded[name].numpy().any() for name in ("country", "tags", "age", "history"))


@pytest.mark.parametrize("method", ["__call__", "encode"])
def test_a_missing_feature_is_an_error_that_names_it(method):
    raw = {name: value for name, value in RAW.items() if name not in ("tags", "age")}
    with pytest.raises(ValueError, match=r"Raw features should hold .* without \['tags', 'age'\]"):
        getattr(FeatureEncoder(USER), method)(raw)


# Tower


def slow_tower(tower, encoded, stage=None):
    """The docstring's formula, a row at a time."""
    encoded = {name: value.numpy() for name, value in encoded.items()}
    weights = {layer.name: layer.merged_weights(stage) for layer in tower.masked_layers}
    rows = []
    for row in range(ROWS):
        parts = {}
        for feature in tower.features:
            value = encoded[feature.name][row]
            if feature.kind == "numeric":
                parts[feature.name] = value
                continue
            (table,) = weights[f"table_{feature.name}"]
            codes = [code for code in np.atleast_1d(value) if code or feature.kind in ("id", "categorical")]
            vectors = [table[code].astype(np.float64) for code in codes]
            parts[feature.name] = np.mean(vectors, axis=0) if vectors else np.zeros(feature.dim)
        x = np.concatenate([*parts.values()])
        for n in range(len(tower.hidden)):
            kernel, bias = weights[f"hidden_{n}"]
            x = np.maximum(x @ kernel + bias, 0)
        kernel, bias = weights["output"]
        rows.append(x @ kernel + bias + (parts[tower.id_name] if tower.id_name else 0))
    return np.array(rows)


@pytest.mark.parametrize("features", [USER, USER[1:], USER[:1], USER[3:4]], ids=["all", "no id", "id", "age"])
@pytest.mark.parametrize("hidden", [(), (5, 4)])
@both_granularities
def test_tower_is_its_formula(features, hidden, granularity):
    tower, encoded = make_tower(features, hidden=hidden, granularity=granularity)
    np.testing.assert_allclose(tower(encoded), slow_tower(tower, encoded), rtol=1e-4, atol=1e-5)


@both_granularities
def test_tower_in_the_middle_of_its_stages_is_its_formula(granularity):
    pair = make_pair(2, granularity=granularity)
    pair.begin(3)
    scatter([pair], np.random.default_rng(5))
    encoded, _ = encoded_by(pair)
    for stage in (1, 2, 3, None):
        expected = slow_tower(pair.user, encoded, stage)
        np.testing.assert_allclose(pair.user(encoded, stage=stage), expected, rtol=1e-4, atol=1e-4)


def test_pads_do_not_count_and_unknown_strings_do():
    tower, _ = make_tower(USER[2:3])
    encode = FeatureEncoder(USER[2:3])
    one, padded, unknown = (
        tower(encode({"tags": [tags]})).numpy() for tags in (["a"], ["", "a", "", ""], ["a", "x"])
    )
    np.testing.assert_allclose(padded, one, rtol=1e-6)
    assert np.abs(unknown - one).max() > 0.1


def test_tower_in_mixed_precision_is_close():
    tower, encoded = make_tower(hidden=(5,))
    half = Tower.from_config(tower.get_config() | {"dtype": "mixed_bfloat16"})
    half(encoded)
    half.set_weights(tower.get_weights())
    output = half(encoded)
    assert output.dtype == tf.bfloat16
    np.testing.assert_allclose(tf.cast(output, tf.float32), tower(encoded), rtol=0.1, atol=0.2)


def test_a_pair_hands_its_precision_to_both_towers():
    pair = make_pair(1, dtype="mixed_bfloat16")
    layers = (*pair.user.masked_layers, *pair.item.masked_layers)
    assert {layer.compute_dtype for layer in layers} == {"bfloat16"}
    for half, vectors in zip(embeddings(pair, 1), embeddings(make_pair(1), 1), strict=True):
        assert half.dtype == np.float32
        np.testing.assert_allclose(half, vectors, rtol=0.2, atol=0.5)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([USER[0], ITEM[0]], r"at most one feature of kind 'id'. Received: \['user', 'item'\]"),
        ([USER[3], USER[1], USER[3]], r"all of different names. Received: \['age', 'country', 'age'\]"),
        ([], r"at least one feature, .* Received: \[\]"),
    ],
)
def test_towers_of_wrong_features_are_errors(features, message):
    with pytest.raises(ValueError, match=message):
        Tower(features, DIM)


# TowerPair


@pytest.mark.parametrize("normalize", [False, True])
@both_granularities
def test_embed_is_each_segment_by_its_own_pass(granularity, normalize):
    pair = make_pair(3, granularity=granularity, normalize=normalize)
    owner = pair.owner
    assert set(owner) == {0, 1, 2, 3}
    for tower, encoded in zip((pair.user, pair.item), encoded_by(pair), strict=True):
        np.testing.assert_array_equal(tower.output_layer.owner, owner)
        for stage in (1, 2, 3):
            expected = np.zeros((ROWS, DIM))
            for k in range(1, stage + 1):
                segment = tower(encoded, stage=k).numpy()[:, owner == k].astype(np.float64)
                norm = np.linalg.norm(segment, axis=1, keepdims=True) if normalize else 1.0
                expected[:, owner == k] = segment / norm
            vectors = pair.embed(tower, encoded, stage)
            assert vectors.dtype == tf.float32
            np.testing.assert_allclose(vectors, expected, rtol=1e-5)


def test_one_pass_by_unit_equals_a_pass_for_each_stage_bit_for_bit():
    pair = make_pair(3)
    for tower, encoded in zip((pair.user, pair.item), encoded_by(pair), strict=True):
        everything = tower(encoded).numpy()
        for k in (1, 2, 3):
            for later in range(k, 4):
                mine = tower(encoded, stage=later).numpy()[:, pair.owner == k]
                np.testing.assert_array_equal(mine, everything[:, pair.owner == k])
                assert mine.any()


@pytest.mark.parametrize("normalize", [False, True])
@both_granularities
def test_later_stages_leave_earlier_embeddings_as_they_are(granularity, normalize):
    pair = make_pair(1, embedding_dim=40, granularity=granularity, normalize=normalize)
    first, rng = embeddings(pair, 1), np.random.default_rng(7)
    run_stage(pair, 2, rng)
    second = embeddings(pair, 2)
    run_stage(pair, 3, rng)
    for now, before in ((embeddings(pair, 1), first), (embeddings(pair, 2), second)):
        for vectors, old in zip(now, before, strict=True):
            np.testing.assert_array_equal(vectors, old)
    owned = np.isin(pair.owner, [1, 2])
    for later, old in zip(embeddings(pair, 3), second, strict=True):
        if granularity == "unit":
            np.testing.assert_array_equal(later[:, owned], old[:, owned])


def test_an_empty_segment_normalises_to_zero():
    pair = make_pair(1, normalize=True)
    pair.begin(2)
    for tower in (pair.user, pair.item):
        for layer in tower.segment_layers:
            for weight in layer.trainable_weights:
                weight.assign(tf.zeros_like(weight))
    for vectors in embeddings(pair, 2):
        assert np.isfinite(vectors).all()
        assert not vectors[:, pair.owner == 2].any()


def test_coordinates_are_freed_by_the_geometric_mean_of_both_sides():
    pair = make_pair(hidden=())
    scatter([pair], np.random.default_rng(3))
    # One side scaled up and the other down gives the same scores, so it must free the same coordinates.
    scale = np.array([1e-3, 1e3, 1, 1, 1, 1, 1], np.float32)
    expected = 1.0
    for tower in (pair.user, pair.item):
        (table,), (kernel, bias) = (layer.merged_weights() for layer in tower.segment_layers)
        # The bias is part of what every id reads.
        expected = expected * (np.abs(table + bias).sum(axis=0) + np.abs(kernel).sum(axis=0))
    for tower, factor in ((pair.user, scale), (pair.item, 1 / scale)):
        for layer in tower.segment_layers:
            for weight in layer.trainable_weights:
                weight.assign(weight * factor)
    report = pair.prune(1, share=0.5)["embedding"]
    assert (report.kept, report.freed) == (4, 3)
    np.testing.assert_array_equal(np.flatnonzero(pair.owner), np.sort(np.argsort(expected)[3:]))


@pytest.mark.parametrize("share", [0.001, 0.5, 1.0])
@both_granularities
def test_every_layer_keeps_its_share_and_at_least_one(share, granularity):
    pair = make_pair(granularity=granularity)
    for name, pruned in pair.prune(1, share=share).items():
        total = pruned.kept + pruned.freed
        assert pruned.kept == max(round(share * total), 1), name
        assert pair.capacity(1)[name][1] == pytest.approx(pruned.kept / total)


# Configs


def as_json(layer):
    return json.loads(json.dumps(layer.get_config()))


def test_encoder_config_round_trip_keeps_the_outputs():
    encoder = FeatureEncoder(USER, name="mine")
    same = FeatureEncoder.from_config(as_json(encoder))
    assert same.name == "mine"
    tf.nest.map_structure(np.testing.assert_array_equal, same(RAW), encoder(RAW))


@both_granularities
def test_tower_config_and_weights_round_trip_keeps_the_outputs(granularity, tmp_path):
    tower, encoded = make_tower(hidden=(5, 4), granularity=granularity, name="mine")
    tower.output_layer.prune(keep=4)
    tower.propagate_owners()
    same = Tower.from_config(as_json(tower))
    assert same.name == "mine"
    same(encoded)
    checkpoint = tf.train.Checkpoint(tower).write(str(tmp_path / "tower"))
    tf.train.Checkpoint(same).read(checkpoint).assert_consumed()
    for stage in (None, 1):
        np.testing.assert_array_equal(same(encoded, stage=stage), tower(encoded, stage=stage))


@pytest.mark.parametrize("normalize", [False, True])
@both_granularities
def test_pair_config_and_weights_round_trip_keeps_the_outputs(granularity, normalize, tmp_path):
    pair = make_pair(2, granularity=granularity, normalize=normalize, name="mine")
    pair.begin(3)
    scatter([pair], np.random.default_rng(1))
    same = TowerPair.from_config(as_json(pair))
    assert same.name == "mine"
    same.set_weights(pair.get_weights())
    for stage in (1, 2, 3):
        tf.nest.map_structure(np.testing.assert_array_equal, embeddings(same, stage), embeddings(pair, stage))
    # The copy trains on: what is frozen stays frozen in it.
    before = embeddings(same, 2)
    scatter([same], np.random.default_rng(2))
    tf.nest.map_structure(np.testing.assert_array_equal, embeddings(same, 2), before)


def test_pair_of_unknown_granularity_is_an_error():
    with pytest.raises(ValueError, match=r"`granularity` should be 'unit' or 'weight'. Received: .*='row'"):
        TowerPair(USER, ITEM, DIM, granularity="row")


@pytest.mark.parametrize("width", [2, 4])
def test_vectors_of_another_length_are_an_error(width):
    encoder = FeatureEncoder([Feature("image", "vector", length=3)])
    with pytest.raises(ValueError, match=r"'image' should hold vectors of 3 numbers. Received: .* \(5, "):
        encoder.encode({"image": np.zeros((5, width), np.float32)})
