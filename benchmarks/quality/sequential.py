"""Sequential recommenders as peers: SASRec and BERT4Rec, each a small Transformer over a user's last items.

All events of a user are one sequence, whatever the behaviour, and one vector ranks for every objective.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from benchmarks.quality.task import Ranked, Task
from csmf_tf._keras import keras, tf
from csmf_tf.data.log import EventLog
from csmf_tf.data.tables import pad_lists
from csmf_tf.towers import Feature

LENGTH, BLOCKS, HEADS = 50, 2, 2
DROPOUT, RATE, EPOCHS, PATIENCE = 0.3, 2e-3, 100, 10
# Of BERT4Rec: the share of the places that it has to fill in, and of the windows where it is only the last.
MASKED, LAST_ONLY = 0.25, 0.2
# Above so many items the softmax is over so many uniform negatives and the positive.
FULL_ITEMS, NEGATIVES = 5_000, 1024
# What bounds the logits of a step: real places of a batch, on average.
PLACES = 1024
_CHUNK = 1024


class Batch(NamedTuple):
    """Windows that begin at place 0: items read `[B, L]`, how many `[B]`, items to predict or -1 `[B, L]`."""

    tokens: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray


class Sequences:
    """The items of each user, oldest first; equal times, and logs without, keep the order of the log."""

    def __init__(self, log: EventLog):
        order = np.lexsort((log.user,) if log.time is None else (log.time, log.user))
        self.items, self.mask = log.item[order], len(log.items)
        self.counts = np.bincount(log.user, minlength=len(log.users))
        self.starts = np.cumsum(self.counts) - self.counts

    def windows(self, causal: bool, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Where windows start and how long they are; long users are cut, at other places each time.

        A causal window predicts the item after each place, so that it leaves out a user's last one.
        """
        counts = np.maximum(self.counts - causal, 0)
        user = np.repeat(np.arange(len(counts)), counts)
        place = np.arange(len(user)) - np.repeat(np.cumsum(counts) - counts, counts)
        shift = np.where(counts > LENGTH, rng.integers(LENGTH, size=len(counts)), 0)
        piece = (place + shift[user]) // LENGTH
        first = np.flatnonzero((np.diff(user, prepend=-1) != 0) | (np.diff(piece, prepend=-1) != 0))
        return (self.starts[user] + place)[first], np.diff(first, append=len(user))

    def batches(self, causal: bool, rng: np.random.Generator) -> Iterator[Batch]:
        """The batches of an epoch."""
        starts, lengths = self.windows(causal, rng)
        size = int(np.clip(PLACES / lengths.mean(), 16, 512))
        order = rng.permutation(len(starts))
        for some in np.split(order, range(size, len(order), size)):
            items, real = self._read(starts[some], lengths[some])
            if causal:
                following, _ = self._read(starts[some] + 1, lengths[some])
                yield Batch(items, lengths[some], np.where(real, following, -1))
            else:
                hidden = cloze(lengths[some], rng)
                yield Batch(np.where(hidden, self.mask, items), lengths[some], np.where(hidden, items, -1))

    def latest(self, users: np.ndarray, causal: bool) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and lengths of some users' last windows, for the cloze with the mask for the next item."""
        lengths = np.minimum(self.counts[users], LENGTH - (not causal))
        starts = self.starts[users] + self.counts[users] - lengths
        # What comes after a window is the mask already.
        return self._read(starts, lengths)[0], lengths + (not causal)

    def _read(self, starts, lengths):
        real = np.arange(LENGTH) < lengths[:, np.newaxis]
        items = self.items.take(starts[:, np.newaxis] + np.arange(LENGTH), mode="clip")
        return np.where(real, items, self.mask).astype(np.int32), real


def cloze(lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Which places are hidden, bool `[B, L]`: a share of each window, or its last one only."""
    places, shape = np.arange(LENGTH), (len(lengths), LENGTH)
    drawn = (rng.random(shape) < MASKED) & (places < lengths[:, np.newaxis])
    drawn &= rng.random((len(lengths), 1)) >= LAST_ONLY
    return drawn | (~drawn.any(axis=1, keepdims=True) & (places == lengths[:, np.newaxis] - 1))


class Items(keras.layers.Layer):
    """Vectors of items as the Transformer reads them, and as its output is scored against.

    Both are the id embedding e. With features, it reads W [e, f] + c and is scored against e + V f + b: f are
    their embeddings side by side, of a multi-valued one the mean over its values. The last of `rows` is the
    mask; `encoded` has the codes or numbers of the features of the others.
    """

    def __init__(self, rows: int, dim: int, features: list[Feature], encoded: dict[str, np.ndarray]):
        super().__init__()
        self.ids, self.features = keras.layers.Embedding(rows, dim), features
        arrays = (encoded[f.name] for f in features)
        self.encoded = [tf.constant(np.append(x, np.zeros_like(x[:1]), axis=0)) for x in arrays]
        # Numbers are read as they are.
        self.tables = [
            keras.layers.Embedding(f.rows, f.dim) if x.dtype.is_integer else None
            for f, x in zip(features, self.encoded, strict=True)
        ]
        self.read, self.scored = keras.layers.Dense(dim), keras.layers.Dense(dim)

    def call(self, codes):
        ids = self.ids(codes)
        return self.read(tf.concat([ids, self._described(codes)], axis=-1)) if self.features else ids

    def outputs(self, codes):
        """What the Transformer's output is scored against."""
        ids = self.ids(codes)
        return ids + self.scored(self._described(codes)) if self.features else ids

    def _described(self, codes):
        parts = zip(self.features, self.tables, self.encoded, strict=True)
        return tf.concat([self._part(*part, codes) for part in parts], axis=-1)

    def _part(self, feature, table, encoded, codes):
        values = tf.gather(encoded, codes)
        if table is None:
            return values
        vectors = table(values)
        if not feature.padded:
            return vectors
        known = tf.cast(values > 0, tf.float32)[..., tf.newaxis]
        return tf.math.divide_no_nan(tf.reduce_sum(vectors * known, -2), tf.reduce_sum(known, -2))


class Block(keras.layers.Layer):
    """Self-attention and a feed-forward net, each after a normalisation and added to what it read."""

    def __init__(self, dim: int, causal: bool):
        super().__init__()
        self.causal = causal
        self.norms = [keras.layers.LayerNormalization(epsilon=1e-6) for _ in range(2)]
        self.attention = keras.layers.MultiHeadAttention(HEADS, dim // HEADS, dropout=DROPOUT)
        # As the papers have it.
        width, activation = (dim, "relu") if causal else (4 * dim, "gelu")
        self.inner, self.outer = keras.layers.Dense(width, activation), keras.layers.Dense(dim)
        self.dropout = keras.layers.Dropout(DROPOUT)

    def call(self, x, real):
        read = self.norms[0](x)
        mask = real[:, tf.newaxis]
        x += self.dropout(self.attention(read, read, attention_mask=mask, use_causal_mask=self.causal))
        return x + self.dropout(self.outer(self.inner(self.norms[1](x))))


class Transformer(keras.Model):
    """From a window of items to a vector at each place, and the softmax loss over the catalogue."""

    def __init__(self, items: Items, dim: int, causal: bool):
        super().__init__()
        self.items, self.causal = items, causal
        self.places, self.dropout = keras.layers.Embedding(LENGTH, dim), keras.layers.Dropout(DROPOUT)
        self.blocks = [Block(dim, causal) for _ in range(BLOCKS)]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-6)

    def call(self, tokens, lengths):
        x = self.dropout((self.items(tokens) + self.places(tf.range(LENGTH))) * self.places.output_dim**0.5)
        for block in self.blocks:
            x = block(x, tf.sequence_mask(lengths, LENGTH))
        return self.norm(x)

    def latest(self, tokens, lengths):
        """The vector at the last place of each window, float32 `[B, D]`."""
        return tf.gather(self(tokens, lengths), tf.maximum(lengths - 1, 0), batch_dims=1)

    def loss_of(self, batch: Batch, candidates: tf.Tensor, full: bool) -> tf.Tensor:
        """Mean over the labels of the softmax over all items, or over the positive and drawn negatives."""
        asked = batch.labels >= 0
        vectors = tf.boolean_mask(self(batch.tokens, batch.lengths, training=True), asked)
        positives = tf.boolean_mask(batch.labels, asked)
        own = tf.reduce_sum(vectors * self.items.outputs(positives), axis=1)
        logits = tf.matmul(vectors, self.items.outputs(candidates), transpose_b=True)
        if not full:
            logits = tf.where(positives[:, tf.newaxis] == candidates, logits.dtype.min, logits)
            logits = tf.concat([own[:, tf.newaxis], logits], axis=1)
        # Keras's cross-entropy takes half as long again.
        return tf.reduce_mean(tf.reduce_logsumexp(logits, axis=1) - own)


def vectors(model: Transformer, log: EventLog, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Float32 `[U, D]` and `[N, D]`: some users after their events in `log`, the others 0, and all items."""
    sequences, codes = Sequences(log), np.arange(len(log.items))
    items = np.concatenate([model.items.outputs(codes[at : at + _CHUNK]) for at in codes[::_CHUNK]])
    found = np.zeros((len(log.users), items.shape[1]), np.float32)
    for at in range(0, len(users), _CHUNK):
        some = users[at : at + _CHUNK]
        found[some] = model.latest(*sequences.latest(some, model.causal))
    return found, items


def train(model: Transformer, task: Task) -> list[float]:
    """Trains until the validation recall has not risen for some epochs, keeps the best; the curve."""
    rng, log = np.random.default_rng(task.seed), task.validation.known
    sequences, n_items = Sequences(log), len(log.items)
    asked = np.unique(task.run.prepared.split.validation.user)
    full, optimizer = n_items <= FULL_ITEMS, keras.optimizers.Adam(RATE)

    @tf.function(reduce_retracing=True)
    def step(batch, candidates):
        with tf.GradientTape() as tape:
            loss = model.loss_of(batch, candidates, full)
        optimizer.minimize(loss, model.trainable_variables, tape=tape)

    curve, best = [], []
    # An epoch of the cloze has but a quarter of the labels.
    patience = PATIENCE if model.causal else 2 * PATIENCE
    while len(curve) < EPOCHS and len(curve) - np.argmax([*curve, -1]) <= patience:
        for batch in sequences.batches(model.causal, rng):
            candidates = np.arange(n_items) if full else rng.choice(n_items, NEGATIVES, replace=False)
            step(Batch(*map(tf.constant, batch)), tf.constant(candidates, tf.int32))
        curve.append(task.judge(dict.fromkeys(task.funnel, vectors(model, log, asked))))
        if curve[-1] > max(curve[:-1], default=-1):
            best = model.get_weights()
    model.set_weights(best)
    return curve


def sequential(causal: bool, with_features: bool, task: Task) -> Ranked:
    """SASRec (Kang & McAuley, 2018) where causal, else BERT4Rec (Sun et al., 2019)."""
    keras.utils.set_random_seed(task.seed)
    known, tower = task.test.known, task.run.model.towers
    features = [f for f in tower.item.features if f.kind != "id"] if with_features else []
    encoded = tower.item_encoder.encode(pad_lists(task.run.prepared.items)) if features else {}
    model = Transformer(Items(len(known.items) + 1, task.dim, features, encoded), task.dim, causal)
    curve = train(model, task)
    scores = vectors(model, known, np.arange(len(known.users)))
    settings = {"length": LENGTH, "blocks": BLOCKS, "heads": HEADS, "dropout": DROPOUT, "rate": RATE}
    settings["features"] = [f.name for f in features]
    notes = {"epochs": len(curve), "curve": curve, "settings": settings}
    return Ranked(dict.fromkeys(task.funnel, scores), 1, task.dim, notes=notes)


METHODS: dict[str, Callable[[Task], Ranked]] = {
    "sasrec": partial(sequential, True, False),
    "sasrec_features": partial(sequential, True, True),
    "bert4rec": partial(sequential, False, False),
}
"""Name -> method."""
