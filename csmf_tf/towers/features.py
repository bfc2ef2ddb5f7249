"""Raw features: what they are, and how they become integers and floats that a tower reads."""

import dataclasses
import re
from collections.abc import Collection, Iterable

import numpy as np

from csmf_tf._keras import keras, tf

KINDS = ("id", "categorical", "multi", "history", "numeric", "vector")
"""What a feature can be.

`id`: the key of the user or item. `categorical`: one string. `multi`: any number of strings, "" pads.
`history`: up to `length` item ids, latest last, "" pads. `numeric`: one float, NaN when unknown. `vector`:
`length` floats, all NaN or 0 when unknown.
"""

FLOATS = ("numeric", "vector")
"""Kinds without a vocabulary."""


CHUNK = 16_384
"""Rows encoded or embedded at a time outside training, to bound memory."""


@dataclasses.dataclass(frozen=True)
class Feature:
    """One raw feature of a user or of an item.

    Attributes:
        name: the feature's key in the dictionary of raw features.
        kind: one of `id`, `categorical`, `multi`, `history`, `numeric`, `vector`.
        vocabulary: the known strings, in the order of their codes; empty for `numeric` and `vector`.
        dim: width of the feature's embedding; `id` features take the tower's embedding dimension.
        oov_buckets: strings outside the vocabulary are hashed into so many buckets of their own.
        length: static width of a `history` or `vector`.
        positions: how many items of a `history` HeterRec reads, the last ones that are there: as many as its
            training has; 0 for `length`.
        mean, std: statistics by which a `numeric` feature is standardised.
        boundaries: ascending borders of the buckets of a `numeric` feature, in its own unit. The tokens of
            HeterRec embed the bucket then; an MLP tower reads the number all the same.

    Example:

    >>> Feature("country", "categorical", vocabulary=("de", "fr"), dim=4).rows
    3
    """

    name: str
    kind: str
    vocabulary: tuple[str, ...] = ()
    dim: int = 16
    oov_buckets: int = 1
    length: int = 0
    positions: int = 0
    mean: float = 0.0
    std: float = 1.0
    boundaries: tuple[float, ...] = ()

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(
                f"`kind` of feature '{self.name}' should be one of {KINDS}. Received: kind={self.kind!r}"
            )
        if isinstance(self.vocabulary, str):
            raise ValueError(
                f"`vocabulary` of feature '{self.name}' should be a sequence of strings. "
                f"Received: {self.vocabulary!r}"
            )
        # A list comes from JSON; features are compared and hashed.
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        if self.boundaries and (self.kind != "numeric" or not np.all(np.diff(self.boundaries) > 0)):
            raise ValueError(
                f"`boundaries` of feature '{self.name}' should be ascending, and belong to kind numeric. "
                f"Received: {self.boundaries}, kind={self.kind!r}"
            )
        if self.kind == "vector" and self.length < 1:
            raise ValueError(
                f"`length` of feature '{self.name}' should be >= 1, the width of its vectors. "
                f"Received: length={self.length}"
            )
        if not 0 <= self.positions <= (self.length if self.kind == "history" else 0):
            raise ValueError(
                f"`positions` of feature '{self.name}' should be in [0, `length`], of kind history. "
                f"Received: positions={self.positions}, length={self.length}, kind={self.kind!r}"
            )
        if self.kind in FLOATS:
            if not self.std > 0:
                raise ValueError(
                    f"`std` of feature '{self.name}' should be positive. Received: std={self.std}"
                )
        elif not self.vocabulary:
            raise ValueError(
                f"`vocabulary` of feature '{self.name}' should hold at least one string. Received: none"
            )
        if self.oov_buckets < 1:
            raise ValueError(
                f"`oov_buckets` of feature '{self.name}' should be >= 1. Received: {self.oov_buckets}"
            )

    @property
    def padded(self) -> bool:
        """Whether a value is a padded list, whose code 0 means 'nothing here'."""
        return self.kind in ("multi", "history")

    @property
    def rows(self) -> int:
        """Rows of the table that a vocabulary needs."""
        return len(self.vocabulary) + self.unknown_rows

    @property
    def unknown_rows(self) -> int:
        """How many of the rows come before the vocabulary's, for the pad and for what is unknown."""
        return 0 if self.kind in FLOATS else self.oov_buckets + self.padded

    @property
    def table_rows(self) -> int:
        """Rows of the table that its token is looked up in: of strings or buckets; 0 when it is projected."""
        if self.kind in FLOATS:
            return len(self.boundaries) + bool(self.boundaries)
        return self.rows

    @property
    def signature(self) -> tf.TensorSpec:
        """The raw value's shape and dtype, batch first."""
        if self.kind == "numeric":
            return tf.TensorSpec([None], tf.float32, self.name)
        if self.kind == "vector":
            return tf.TensorSpec([None, self.length], tf.float32, self.name)
        width: list[int | None] = [self.length or None] if self.padded else []
        return tf.TensorSpec([None, *width], tf.string, self.name)

    @classmethod
    def numeric(cls, name: str, values: np.ndarray, buckets: int = 0) -> "Feature":
        """A numeric feature standardised by the mean and deviation of `values` (NaN left out).

        Args:
            name: of the feature.
            values: float [N].
            buckets: into how many of equal counts the tokens of HeterRec put it; 0 for none.

        Example:

        >>> price = Feature.numeric("price", np.array([1.0, np.nan, 5.0]))
        >>> price.mean, price.std
        (3.0, 2.0)
        """
        known = np.asarray(values, np.float64)
        known = known[np.isfinite(known)]
        if not len(known):
            return cls(name, "numeric")
        quantiles = np.quantile(known, np.arange(1, max(buckets, 1)) / max(buckets, 1))
        distinct = np.unique(known)
        # Halfway between two values, so that rounding puts none on the other side.
        halves = (distinct[:-1] + distinct[1:]) / 2
        places = np.unique(np.clip(np.searchsorted(distinct, quantiles) - 1, 0, None))
        edges = tuple(float(edge) for edge in halves[places[places < len(halves)]])
        return cls(name, "numeric", mean=float(known.mean()), std=float(known.std()) or 1.0, boundaries=edges)


def identifiers(names: Iterable[str], reserved: Collection[str] = ()) -> dict[str, str]:
    """Plain names for feature names of any characters, as TensorFlow wants them for layers and signatures.

    Args:
        names: different strings.
        reserved: plain names to avoid.

    Returns:
        dict of name to identifier, all different; names that are identifiers already stay as they are.

    Example:

    >>> identifiers(["user_id", "home city", "home-city", "weights"], reserved=["weights"])
    {'user_id': 'user_id', 'home city': 'home_city', 'home-city': 'home_city_', 'weights': 'weights_'}
    """
    plain: dict[str, str] = {}
    for name in names:
        found = re.sub("[^A-Za-z0-9_]", "_", name)
        found = found if found[:1].isalpha() else f"f_{found}"
        while found in plain.values() or found in reserved:
            found += "_"
        plain[name] = found
    return plain


class FeatureEncoder(keras.layers.Layer):
    """Turns a dictionary of raw features into what the towers read.

    Strings become int32 codes: padding 0 (`multi` and `history` only), then the out-of-vocabulary
    buckets, then the vocabulary. Numbers are standardised, unknown ones become 0 (the mean). Vectors stay as
    they are, but for NaN, which becomes 0.

    Args:
        features: the `Feature` list.

    Call arguments:
        raw: dict of feature name to string or float tensor, batch first.

    Returns:
        dict of feature name to int32 [B] (`id`, `categorical`), int32 [B, L] (`multi`, `history`),
        float32 [B, 1] (`numeric`) or float32 [B, L] (`vector`).

    Raises:
        ValueError: when a feature is missing from `raw`; the message names it.

    Example:

    >>> encode = FeatureEncoder([Feature("country", "categorical", vocabulary=("de", "fr"))])
    >>> encode({"country": tf.constant(["fr", "it"])})["country"].numpy().tolist()
    [2, 0]
    """

    def __init__(self, features, **kwargs):
        # Mixed precision must not round raw numbers before they are standardised.
        super().__init__(autocast=False, **kwargs)
        self.features = tuple(f if isinstance(f, Feature) else Feature(**f) for f in features)
        self._lookups = {
            f.name: keras.layers.StringLookup(
                vocabulary=list(f.vocabulary),
                num_oov_indices=f.oov_buckets,
                mask_token="" if f.padded else None,
            )
            for f in self.features
            if f.kind not in FLOATS
        }

    def call(self, raw):
        self._check(self.features, raw)
        return {f.name: self._encode(f, raw[f.name]) for f in self.features}

    def encode(self, raw, skip=None):
        """Encodes numpy features of any number of rows, a chunk at a time.

        Args:
            raw: dict of feature name to array [N, ...]; entries of other names are passed over.
            skip: kind of features to leave out.

        Returns:
            dict of feature name to numpy array [N, ...].
        """
        features = [f for f in self.features if f.kind != skip]
        self._check(features, raw)
        return {
            f.name: np.concatenate(
                [
                    self._encode(f, tf.constant(raw[f.name][at : at + CHUNK])).numpy()
                    for at in range(0, len(raw[f.name]), CHUNK)
                ]
            )
            for f in features
        }

    def codes(self, name, strings):
        """int32 numpy codes of an array of strings as the feature `name` reads them."""
        return self._lookups[name](tf.constant(strings)).numpy().astype(np.int32)

    def blank(self):
        """One row of raw features of which nothing is known; shapes and dtypes as at serving."""
        return {
            f.name: tf.fill([1, *(d or 1 for d in f.signature.shape[1:])], np.nan if f.kind in FLOATS else "")
            for f in self.features
        }

    @staticmethod
    def _check(features, raw):
        missing = [f.name for f in features if f.name not in raw]
        if missing:
            raise ValueError(
                f"Raw features should hold {[f.name for f in features]}. Received: {sorted(raw)}, "
                f"without {missing}"
            )

    def _encode(self, feature, value):
        if feature.kind not in FLOATS:
            return tf.cast(self._lookups[feature.name](value), tf.int32)
        if feature.kind == "vector":
            if value.shape[1:] != (feature.length,):
                raise ValueError(
                    f"Feature '{feature.name}' should hold vectors of {feature.length} numbers. "
                    f"Received: values of shape {(*value.shape,)}"
                )
            value = tf.cast(value, tf.float32)
            return tf.where(tf.math.is_finite(value), value, 0.0)
        value = (tf.cast(value, tf.float32) - feature.mean) / feature.std
        return tf.where(tf.math.is_finite(value), value, 0.0)[:, tf.newaxis]

    def get_config(self):
        features = [dataclasses.asdict(f) for f in self.features]
        return {**super().get_config(), "features": features}
