"""Causal transformer blocks whose weights stages own, and two levels of them (HCT of HeterRec)."""

import numpy as np

from csmf_tf._keras import keras, tf
from csmf_tf.masking import MaskedDense

TOKEN_MASKS = ("block", "causal")
POOLINGS = ("mean", "last", "attention")
_UNSEEN = -1e9


def token_mask(length, tokens, kind="block"):
    """Which tokens of a flattened history a token may attend to (own choice).

    Args:
        length: L, items; an int or a scalar tensor.
        tokens: F, tokens of an item, likewise.
        kind: `"block"`: all those of its own item and of earlier ones. `"causal"`: itself and all those
            before it, in the order of the items and, within one, of the features.

    Returns:
        bool tensor [L F, L F], attending tokens first.

    Raises:
        ValueError: for another `kind`.

    Example:

    >>> token_mask(2, 2).numpy().astype(int)
    array([[1, 1, 0, 0],
           [1, 1, 0, 0],
           [1, 1, 1, 1],
           [1, 1, 1, 1]])
    """
    if kind not in TOKEN_MASKS:
        raise ValueError(f"`kind` should be one of {TOKEN_MASKS}. Received: kind={kind!r}")
    place = tf.range(length * tokens) // (tokens if kind == "block" else 1)
    return place[:, tf.newaxis] >= place


def standardized(x):
    """Layer normalisation without learned scale and shift: mean 0 and deviation 1 along the last axis.

    The layer after it has them in its weights, which are masked; here they would mix what stages own.
    """
    x = tf.convert_to_tensor(x)
    wide = tf.cast(x, tf.float32)
    centered = wide - tf.reduce_mean(wide, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True)
    # The last bit of `rsqrt` depends on where in a tensor a number stands, and frozen outputs are exact.
    return tf.cast(centered / tf.sqrt(variance + 1e-6), x.dtype)


def dropped(x, rate, training, seed=None, noise_shape=None):
    """Dropout that follows from a seed, so that a killed run goes on with the same draws.

    Args:
        x: float tensor.
        rate: share to drop, in [0, 1).
        training: whether to drop at all.
        seed: int32 tensor [2]; None draws anew each time.
        noise_shape: shape of the draws, which broadcasts to that of `x`; None for one of its own each.
    """
    if not training or not rate:
        return x
    if seed is None:
        return tf.nn.dropout(x, rate, noise_shape)
    # Of the algorithms Philox is by far the fastest on CPUs.
    return tf.nn.experimental.stateless_dropout(x, rate, seed, rng_alg="philox", noise_shape=noise_shape)


def folded(seed, number):
    """Another seed for each number; None for None."""
    return None if seed is None else tf.random.experimental.stateless_fold_in(seed, number)


class CausalBlock(keras.layers.Layer):
    """A pre-norm transformer block: `x + attention(norm(x))`, then `x + feed_forward(norm(x))`.

    Attention is that of `keras.layers.MultiHeadAttention`, whose projections cannot be replaced by masked
    ones; the norm is `standardized`.

    Args:
        dim: width of the vectors.
        heads: attention heads, which share `dim`.
        intermediate_dim: units of the feed-forward layer, with ReLU.
        dropout: share of attention weights, the same in all rows of a batch, and of outputs dropped in
            training.

    Call arguments:
        x: float [B, T, dim].
        bias: float32 that broadcasts to [B, heads, T, T], added to attention logits; see `attention_bias`.
        stage: as in `MaskedDense`.
        training: whether to drop.
        seed: int32 tensor [2] that all of dropout follows from; None draws anew each time.

    Returns:
        float [B, T, dim].
    """

    def __init__(self, dim, heads, intermediate_dim, dropout=0.0, **kwargs):
        super().__init__(**kwargs)
        if dim % heads:
            raise ValueError(f"`dim` should be a multiple of `heads`. Received: dim={dim}, heads={heads}")
        self.heads = heads
        self.dim = dim

        def dense(part, units, **further):
            own = {"name": f"{self.name}_{part}", "granularity": "weight", "dtype": self.dtype_policy}
            return MaskedDense(units, **own, **further)

        self.projections = [dense(part, dim) for part in ("query", "key", "value")]
        self.attended = dense("attended", dim)
        self.inner = dense("inner", intermediate_dim, activation="relu")
        self.outer = dense("outer", dim)
        self.dropout = dropout

    @property
    def masked_layers(self):
        """Every masked layer, inputs first."""
        return [*self.projections, self.attended, self.inner, self.outer]

    def call(self, x, bias, stage=None, training=False, seed=None):
        y = standardized(x)
        query, key, value = (self._heads(project(y, stage=stage)) for project in self.projections)
        query *= (self.dim // self.heads) ** -0.5
        logits = tf.cast(tf.matmul(query, key, transpose_b=True), tf.float32)
        # One draw for all rows of a batch: a draw for each weight would cost more than the attention.
        weights = tf.cast(tf.nn.softmax(logits + bias), x.dtype)
        weights = self._dropped(weights, 0, training, seed, [1, *tf.unstack(tf.shape(weights))[1:]])
        y = tf.transpose(tf.matmul(weights, value), [0, 2, 1, 3])
        y = self.attended(tf.reshape(y, tf.shape(x)), stage=stage)
        x += self._dropped(y, 1, training, seed)
        y = self.outer(self.inner(standardized(x), stage=stage), stage=stage)
        return x + self._dropped(y, 2, training, seed)

    def _dropped(self, x, place, training, seed, noise_shape=None):
        return dropped(x, self.dropout, training, folded(seed, place), noise_shape)

    def _heads(self, x):
        """[B, T, dim] to [B, heads, T, dim / heads]."""
        shape = tf.shape(x)
        x = tf.reshape(x, [shape[0], shape[1], self.heads, self.dim // self.heads])
        return tf.transpose(x, [0, 2, 1, 3])


def attention_bias(allowed, present):
    """What is added to attention logits so that only some tokens are attended to.

    Args:
        allowed: bool [T, T], attending tokens first.
        present: bool [B, T], which tokens say something.

    Returns:
        float32 [B, 1, T, T]: 0 where a token may attend, elsewhere so low that its weight is exactly 0.
    """
    attend = allowed & present[:, tf.newaxis, :]
    return tf.where(attend, 0.0, _UNSEEN)[:, tf.newaxis]


@keras.saving.register_keras_serializable(package="csmf_tf")
class HierarchicalCausalTransformer(keras.layers.Layer):
    """From the tokens of a history's items to a vector for each position (HCT of HeterRec).

    Token-level blocks over all L F tokens, the pooling of each item's F tokens, item-level blocks over the L
    items and a last norm. The vector of a position depends on its own item and on earlier ones only, exactly.
    Stages own single weights of it: norms and attention heads mix units.

    Args:
        dim: width d of the tokens.
        layers: number of token-level and of item-level blocks; one number for both alike.
        heads: attention heads.
        intermediate_dim: units of the feed-forward layers, default 2 d.
        dropout: share dropped in training, of tokens and in the blocks.
        mask: `"block"` or `"causal"`, see `token_mask`.
        pooling: of the tokens that say something: their `"mean"`, the `"last"`, or a sum weighed by learned
            `"attention"`.

    Call arguments:
        tokens: float [B, L, F, d].
        said: bool [B, L, F], which tokens say something.
        present: bool [B, L], which positions hold an item.
        stage: as in `MaskedDense`.
        training: whether to drop.
        seed: int32 tensor [2] that all of dropout follows from; None draws anew each time.

    Returns:
        float [B, L, d], exactly 0 where there is no item.

    Example:

    >>> transform = HierarchicalCausalTransformer(dim=4, layers=1, heads=2)
    >>> said = tf.ones([1, 3, 2], tf.bool)
    >>> transform(tf.random.normal([1, 3, 2, 4]), said, present=tf.constant([[False, True, True]])).shape
    TensorShape([1, 3, 4])
    """

    def __init__(
        self,
        dim,
        layers=(2, 2),
        heads=2,
        intermediate_dim=None,
        dropout=0.0,
        mask="block",
        pooling="mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` should be one of {POOLINGS}. Received: pooling={pooling!r}")
        token_mask(1, 1, mask)
        self.dim = dim
        self.layers = (*layers,) if np.ndim(layers) else (layers, layers)
        if len(self.layers) != 2:
            raise ValueError(
                f"`layers` should be one number, or two: token-level and item-level. Received: {self.layers}"
            )
        if min(self.layers) < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "`layers` should be >= 0 and `dropout` in [0, 1). "
                f"Received: layers={self.layers}, dropout={dropout}"
            )
        self.heads = heads
        self.intermediate_dim = intermediate_dim or 2 * dim
        self.dropout = dropout
        self.mask = mask
        self.pooling = pooling
        self._levels = [
            [
                CausalBlock(
                    dim,
                    heads,
                    self.intermediate_dim,
                    dropout,
                    name=f"{level}_{n}",
                    dtype=self.dtype_policy,
                )
                for n in range(count)
            ]
            for level, count in zip(("token", "item"), self.layers, strict=True)
        ]
        self._attention = (
            [MaskedDense(1, granularity="weight", name="pooling", dtype=self.dtype_policy)]
            if pooling == "attention"
            else []
        )

    @property
    def masked_layers(self):
        """Every masked layer, inputs first."""
        tokens, items = ([layer for b in level for layer in b.masked_layers] for level in self._levels)
        return [*tokens, *self._attention, *items]

    def call(self, tokens, said, present, stage=None, training=False, seed=None):
        batch, length, count = tf.unstack(tf.shape(tokens)[:3])
        token_level, item_level = self._levels
        x = dropped(tokens, self.dropout, training, folded(seed, 0))
        seeds = iter(range(1, 1 + sum(self.layers)))
        if token_level:
            bias = attention_bias(token_mask(length, count, self.mask), tf.reshape(said, [batch, -1]))
            x = tf.reshape(x, [batch, -1, self.dim])
            for block in token_level:
                x = block(x, bias, stage=stage, training=training, seed=folded(seed, next(seeds)))
            x = tf.reshape(x, [batch, length, count, self.dim])
        x = self._pooled(x, said, stage)
        bias = attention_bias(token_mask(length, 1), present)
        for block in item_level:
            x = block(x, bias, stage=stage, training=training, seed=folded(seed, next(seeds)))
        return tf.where(present[..., tf.newaxis], standardized(x), 0.0)

    def _pooled(self, x, said, stage):
        """[B, L, F, d] to [B, L, d]; 0 where no token says something."""
        if self.pooling == "last":
            place = tf.range(1, tf.shape(said)[2] + 1) * tf.cast(said, tf.int32)
            weights = tf.cast(place == tf.reduce_max(place, axis=2, keepdims=True), x.dtype)
        elif self.pooling == "attention":
            logits = tf.cast(self._attention[0](standardized(x), stage=stage)[..., 0], tf.float32)
            weights = tf.cast(tf.nn.softmax(tf.where(said, logits, _UNSEEN)), x.dtype)
        else:
            weights = tf.cast(said, x.dtype)
            weights /= tf.maximum(tf.reduce_sum(weights, axis=2, keepdims=True), 1.0)
        return tf.einsum("blfd,blf->bld", x, weights * tf.cast(said, x.dtype))

    def get_config(self):
        return {
            **super().get_config(),
            "dim": self.dim,
            "layers": self.layers,
            "heads": self.heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "mask": self.mask,
            "pooling": self.pooling,
        }
