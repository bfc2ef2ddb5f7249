"""Items as tokens: what each kind of feature becomes, positions, pads, ragged histories, shared tables."""

import itertools

import numpy as np
import pytest

from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedEmbedding
from csmf_tf.towers import Feature, FeatureEncoder, HistoryTransformer
from csmf_tf.towers.tokens import HeterogeneousTokenFlattening

DIM, LENGTH = 4, 3
FEATURES = [
    Feature("item", "id", ("a", "b")),
    Feature("color", "categorical", ("red", "blue")),
    Feature("tags", "multi", ("x", "y")),
    Feature("price", "numeric", mean=10.0, std=2.0),
    Feature("year", "numeric", mean=2000.0, std=10.0, boundaries=(1990.0, 2005.0)),
    Feature("image", "vector", length=2),
]
PRESENT = np.array([[True, True, False], [False, True, True]])
ENCODED = {
    "item": np.array([[1, 2, 0], [0, 1, 1]], np.int32),
    "color": np.array([[2, 1, 0], [0, 0, 2]], np.int32),
    "tags": np.array([[[2, 3], [0, 0], [0, 0]], [[0, 0], [3, 0], [2, 2]]], np.int32),
    "price": np.array([[[0.5], [-1.0], [0.0]], [[0.0], [2.0], [1.0]]], np.float32),
    "year": np.array([[[-1.5], [-1.0], [0.0]], [[0.0], [0.4], [0.5]]], np.float32),
    "image": np.array(
        [[[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 3.0], [1.0, 0.0]]], np.float32
    ),
}

RAGGED = tf.ragged.constant([[1, 2], [1, 1]])


def make(**arguments):
    keras.utils.set_random_seed(0)
    layer = HeterogeneousTokenFlattening(FEATURES, DIM, LENGTH, **arguments)
    layer(ENCODED, PRESENT)
    rng = np.random.default_rng(0)
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    return layer


def vector_of(layer, name, b, at):
    """What the feature of one item becomes before positions and types, by hand."""
    value = ENCODED[name][b, at]
    if name == "year":
        # 1990 and 2005 are -1 and .5 when standardised; a border belongs to the bucket above it.
        bucket = sum(float(value[0]) >= edge for edge in (-1.0, 0.5))
        return layer.tables["year"].embeddings.numpy()[bucket]
    if name in ("price", "image"):
        dense = layer.projections[name]
        return value @ dense.kernel.numpy() + dense.bias.numpy()
    rows = layer.tables[name].embeddings.numpy()
    if name == "tags":
        some = [rows[code] for code in value if code]
        return np.mean(some, axis=0) if some else np.zeros(DIM)
    return rows[value]


def test_tokens_by_hand():
    layer = make()
    tokens, said = layer(ENCODED, PRESENT)
    assert tokens.shape == (2, LENGTH, len(FEATURES), DIM)
    types, positions = layer.types.embeddings.numpy(), layer.positions.embeddings.numpy()
    for b, row in enumerate(PRESENT):
        for rank, at in enumerate(np.flatnonzero(row)):
            for f, feature in enumerate(FEATURES):
                expected = 2.0 * (vector_of(layer, feature.name, b, at) + types[f] + positions[rank])
                np.testing.assert_allclose(tokens[b, at, f], expected, rtol=1e-5, atol=1e-6)
    says = np.repeat(PRESENT[..., None], len(FEATURES), axis=2)
    says[0, 1, [2, 5]] = False
    np.testing.assert_array_equal(said, says)


def test_without_tokens_of_their_own_the_features_are_joined():
    layer = make(flatten=False)
    tokens, said = layer(ENCODED, PRESENT)
    assert tokens.shape == (2, LENGTH, 1, DIM)
    np.testing.assert_array_equal(said[..., 0], PRESENT)
    joined = layer.joined
    positions = layer.positions.embeddings.numpy()
    for b, row in enumerate(PRESENT):
        for rank, at in enumerate(np.flatnonzero(row)):
            parts = [
                ENCODED[f.name][b, at] if f.name in ("price", "image") else vector_of(layer, f.name, b, at)
                for f in FEATURES
            ]
            expected = np.concatenate(parts) @ joined.kernel.numpy() + joined.bias.numpy() + positions[rank]
            np.testing.assert_allclose(tokens[b, at, 0], 2.0 * expected, rtol=1e-5, atol=1e-6)


def test_ragged_histories_give_what_padded_ones_give():
    layer = make()
    rows = {name: [values[b][PRESENT[b]] for b in range(2)] for name, values in ENCODED.items()}
    ragged = {
        name: tf.RaggedTensor.from_row_lengths(np.concatenate(parts), [len(part) for part in parts])
        for name, parts in rows.items()
    }
    tokens, said = layer(ragged)
    dense, dense_said = layer(ENCODED, PRESENT)
    for b, row in enumerate(PRESENT):
        np.testing.assert_array_equal(tokens[b, : row.sum()], dense.numpy()[b, row])
        np.testing.assert_array_equal(said[b, : row.sum()], dense_said.numpy()[b, row])


def test_saved_and_loaded_it_gives_the_same(tmp_path):
    layer = make()
    inputs = {name: keras.Input(values.shape[1:], dtype=values.dtype) for name, values in ENCODED.items()}
    present = keras.Input(PRESENT.shape[1:], dtype="bool")
    model = keras.Model([inputs, present], layer(inputs, present))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for one, other in zip(model([ENCODED, PRESENT]), loaded([ENCODED, PRESENT]), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_shared_table_is_read_projected_and_stays_the_other_towers():
    keras.utils.set_random_seed(0)
    table = MaskedEmbedding(3, 6)
    layer = HeterogeneousTokenFlattening(FEATURES[:1], DIM, LENGTH)
    layer.share({"item": table, "other": MaskedEmbedding(2, 2)})
    encoded = {"item": ENCODED["item"]}
    before = layer(encoded, PRESENT)[0].numpy()
    assert table not in layer.masked_layers
    assert [one.name for one in layer.masked_layers] == ["project_item", "positions", "types"]
    table.embeddings.assign_add(tf.ones([3, 6]))
    moved = 2.0 * layer.projections["item"].kernel.numpy().sum(axis=0)
    np.testing.assert_allclose((layer(encoded, PRESENT)[0] - before)[0, 0, 0], moved, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="`share` should come before the first call"):
        layer.share({"item": table})


@pytest.mark.parametrize(
    ("change", "present", "message"),
    [
        (lambda e: e.pop("color"), PRESENT, r"`encoded` should hold \['item', 'color'.*without \['color'\]"),
        (lambda e: None, None, "`present` should be given with dense histories"),
        (lambda e: e.update(color=RAGGED), PRESENT, r"ragged in all features.*Received: \['color'\] of"),
        (lambda e: e.update(item=RAGGED), None, r"or in none. Received: \['item'\] of"),
    ],
)
def test_errors(change, present, message):
    encoded = dict(ENCODED)
    change(encoded)
    with pytest.raises(ValueError, match=message):
        make()(encoded, present)


def test_ragged_features_should_have_the_same_items():
    color = Feature("color", "categorical", ("red", "blue"))
    layer = HeterogeneousTokenFlattening([Feature("item", "id", ("a", "b")), color], DIM, LENGTH)
    encoded = {"item": tf.ragged.constant([[1, 2], [1]]), "color": tf.ragged.constant([[1], [1, 2]])}
    with pytest.raises(tf.errors.InvalidArgumentError, match="Ragged features should have as many items"):
        layer(encoded)


def test_too_long_a_history_is_an_error():
    wide = {name: np.concatenate([values, values], axis=1) for name, values in ENCODED.items()}
    with pytest.raises(
        tf.errors.InvalidArgumentError,
        match=r"A history should hold at most `length=3` items\. Received more",
    ):
        make()(wide, np.ones((2, 6), bool))


@pytest.mark.parametrize(
    "behaviors", [None, Feature("history_behavior", "history", ("view", "buy"), length=3)]
)
def test_a_history_transformer_comes_back_from_its_config(behaviors):
    keras.utils.set_random_seed(0)
    history = Feature("history", "history", ("a", "b"), length=LENGTH)
    settings = {"layers": [1, 0], "dim": DIM, "pooling": "last", "flatten": False, "list_length": 2}
    one = HistoryTransformer(history, behaviors, FEATURES, settings)
    encoded = {
        "history": np.array([[0, 2, 3]], np.int32),
        "history_behavior": np.array([[0, 2, 3]], np.int32),
    }
    one(encoded)
    one.set_items({name: values[0, :2] for name, values in ENCODED.items()})
    other = HistoryTransformer.from_config(one.get_config())
    other(encoded)
    other.set_weights(one.get_weights())
    np.testing.assert_array_equal(other(encoded), one(encoded))
    assert np.any(one(encoded))


@pytest.mark.parametrize("features", [[], [FEATURES[0], FEATURES[0]]])
def test_features_should_have_different_names(features):
    with pytest.raises(ValueError, match="at least one feature, all of different names"):
        HeterogeneousTokenFlattening(features, DIM, LENGTH)


def test_buckets_of_equal_counts():
    values = np.array([1.0, 2.0, 3.0, 4.0, np.nan, 5.0, 6.0])
    feature = Feature.numeric("price", values, buckets=3)
    known = values[np.isfinite(values)]
    counts = np.bincount(np.searchsorted(feature.boundaries, known, side="right"))
    assert counts.tolist() == [2, 2, 2]


@pytest.mark.parametrize("values", [[0.1, 0.2, 0.3, 0.7, 0.9], [1990, 1994, 1995, 2003], [3.3, 3.3]])
def test_values_that_repeat_have_buckets_of_their_own_whatever_is_rounded(values):
    """As many buckets as values: each value has one, with all of its repeats."""
    price = np.repeat(np.array(values, np.float64), 7)
    feature = Feature.numeric("price", price, buckets=50)
    layer = HeterogeneousTokenFlattening([feature], DIM, length=len(price))
    encoded = FeatureEncoder([feature])({"price": tf.constant(price, tf.float32)})["price"]
    tokens, _ = layer({"price": encoded[tf.newaxis]}, np.ones((1, len(price)), bool))
    layer.positions.embeddings.assign(tf.zeros_like(layer.positions.embeddings))
    tokens, _ = layer({"price": encoded[tf.newaxis]}, np.ones((1, len(price)), bool))
    for one, other in itertools.product(range(len(price)), repeat=2):
        same = np.array_equal(tokens[0, one], tokens[0, other])
        assert same == (price[one] == price[other])


HISTORY = {"kind": "history", "vocabulary": ("a",), "length": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "vector"}, "`length` of feature 'f' should be >= 1"),
        ({"kind": "numeric", "boundaries": (2.0, 1.0)}, "`boundaries` of feature 'f' should be ascending"),
        ({"kind": "id", "vocabulary": ("a",), "boundaries": (1.0,)}, "belong to kind numeric"),
        (HISTORY | {"positions": 4}, r"in \[0, `length`\], .* Received: positions=4, length=3"),
        (HISTORY | {"positions": -1}, "`positions` of feature 'f' should be .* Received: positions=-1"),
        ({"kind": "id", "vocabulary": ("a",), "positions": 1}, "`positions` .* of kind history"),
    ],
)
def test_errors_of_features(arguments, message):
    with pytest.raises(ValueError, match=message):
        Feature("f", **arguments)
