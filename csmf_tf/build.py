"""From a configuration and prepared data to the parts of a run: model, user features, batches, optimizer."""

import hashlib
import os
import pathlib
from dataclasses import replace
from typing import Any

import numpy as np

from csmf_tf._conflicts import is_file
from csmf_tf._keras import keras
from csmf_tf.config import Config, to_dict
from csmf_tf.config_sections import SEQUENCE, SEQUENCE_BEHAVIOR
from csmf_tf.data.batches import Batching
from csmf_tf.data.further import add_behavior
from csmf_tf.data.history import History
from csmf_tf.data.log import EventLog, read_log
from csmf_tf.data.sequences import Targets
from csmf_tf.data.splits import Split, split_log
from csmf_tf.data.store import Prepared
from csmf_tf.data.tables import align, pad_lists, read_table
from csmf_tf.data.users import HISTORY, UserFeatures
from csmf_tf.model import CSMF
from csmf_tf.towers import Feature

FULL_SOFTMAX_ITEMS = 50_000
"""Up to so many items `loss: {kind: auto}` is the softmax over the whole catalogue (own choice)."""

FULL_SOFTMAX_ITEMS_OF_SEQUENCES = 5_000
"""The same where positions of sequences are the rows (own choice)."""

DENSE_OPTIMIZER_ROWS = 50_000
"""Up to so many rows `optimizer: auto` may be Adam, which updates every row of a table at each step: of
users and, where they are read in histories too, of items."""

POSITIONS = 1600
"""So many positions are in a batch of sequences, on average, where `batch_size` is not given (own choice)."""

FEWEST_WINDOWS = 8
"""With in-batch negatives, which are those of other windows, a batch that is bounded by the memory of its
attention, or has long histories, still has so many (own choice)."""

VALIDATION_USERS = 1000
"""So many users validate where `validation_users` is not given, within 15 to 50 % of all (own choice)."""

OPTIMIZERS = {
    "adam": (keras.optimizers.Adam, {"learning_rate": 0.02}),
    "adamw": (keras.optimizers.AdamW, {"learning_rate": 0.02}),
    "sgd": (keras.optimizers.SGD, {"learning_rate": 0.1}),
    # Keras starts the accumulator at 0.1, far above the squares of a mean loss's gradients.
    "adagrad": (keras.optimizers.Adagrad, {"learning_rate": 0.1, "initial_accumulator_value": 1e-7}),
}

SEQUENCE_RATES = {"adam": 0.003, "adamw": 0.003, "sgd": 0.1, "adagrad": 0.02}
"""Learning rates of a user tower of transformer blocks (own choice)."""


def prepare(config: Config) -> Prepared:
    """Reads and splits the log, and aligns the feature tables with its users and items."""
    log = config.log
    events = read_log(
        log.path,
        user=log.user,
        item=log.item,
        behavior=log.behavior,
        timestamp=log.timestamp,
        funnel=config.funnel,
        ignore=log.ignore,
    )
    if config.model.user_tower == "heterrec" and events.time is None:
        events = _numbered(events)
    share = config.validation_users
    if share is None:
        share = float(np.clip(VALIDATION_USERS / len(events.users), 0.15, 0.5))
    split = split_log(events, validation_users=share, **to_dict(config)["split"])
    users, items = split.train.users, split.train.items
    return Prepared(
        split,
        _table(log.users, log.user, config.features.user, users),
        _table(log.items, log.item, config.features.item, items),
    )


def further_split(
    config: Config, split: Split, name: str, path: str | os.PathLike[str] | None = None
) -> Split:
    """The split with one behaviour more, read from a log like the configuration's."""
    log, known = config.log, split.train
    events = read_log(
        log.path if path is None else path,
        user=log.user,
        item=log.item,
        behavior=log.behavior,
        timestamp=log.timestamp,
        funnel=[name],
        ignore=[other for other in (*known.funnel, *log.ignore) if other != name],
        users=known.users,
        items=known.items,
    )
    if known.time is not None and events.time is None:
        times = np.concatenate([part.time for part in (known, split.validation, split.test)])
        events = _numbered(events, 1 + int(times.max()))
    return add_behavior(split, events, config.split.kind, config.split.seed)


def _numbered(events, first=0):
    """The events, numbered in their order by times: parts of a split that are joined again keep it."""
    return replace(events, time=np.arange(first, first + len(events)))


def _table(path, id_column, kinds, ids):
    table = read_table(path, id_column, kinds) if kinds else {id_column: ids}
    return align(table, id_column, ids)


def fingerprints(config: Config) -> dict[str, str]:
    """SHA-256 of the files that a configuration names, by path; those that are gone are left out."""
    log, vectors = config.log, []
    if "msac" in config.negatives.kind:
        vectors = [source for source in config.modalities.values() if is_file(source)]
    paths = [pathlib.Path(path) for path in (log.path, log.users, log.items, *vectors) if path]
    return {str(path): _digest(path) for path in paths if path.exists()}


def _digest(path):
    digest = hashlib.sha256()
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        with open(file, "rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def build_model(config: Config, prepared: Prepared) -> CSMF:
    """The untrained model of a configuration, with its catalogue; the same for the same seed."""
    settings, loss = config.model, config.loss
    keras.utils.set_random_seed(config.training.seed)
    model = CSMF(
        config.funnel,
        _user_features(config, prepared),
        _features(config, prepared.items, config.features.item, with_id=True),
        embedding_dim=settings.embedding_dim,
        hidden=settings.hidden,
        granularity="weight" if settings.by_weight else "unit",
        normalize=settings.normalize,
        temperature=settings.temperature,
        loss=loss_kind(config, prepared),
        in_batch_negatives="in_batch" in config.negatives.kind,
        virtual_gradient=config.negatives.edis.gradient,
        margin=loss.margin,
        l2=config.l2,
        l2_balance=loss.l2_balance,
        heterrec=settings.heterrec if settings.user_tower == "heterrec" else None,
        one_list=loss.one_list,
        dtype="mixed_bfloat16" if config.training.mixed_precision else "float32",
    )
    model.set_catalogue(prepared.split.train.items, pad_lists(prepared.items))
    return model


def _user_features(config, prepared):
    settings, length = config.model, config.model.history.length
    features = _features(config, prepared.users, config.features.user, with_id=settings.reads_user_id)
    if not length:
        return features
    items, dim = tuple(prepared.split.train.items), settings.embedding_dim
    if settings.user_tower == "heterrec":
        behaviors = {SEQUENCE_BEHAVIOR: config.funnel} if len(config.funnel) > 1 else {}
        positions = _trained_positions(prepared.split.train, config.funnel, length)
        return features + [
            Feature(name, "history", vocabulary, length=length, positions=positions)
            for name, vocabulary in ({SEQUENCE: items} | behaviors).items()
        ]
    return features + [
        Feature(HISTORY.format(name), "history", items, dim, length=length) for name in config.funnel
    ]


def _trained_positions(train, funnel, length):
    """How many positions of histories of `length` have something to predict in training, one at least."""
    # What came later than the first funnel is not read.
    train = train.take(train.behavior < len(funnel))
    every = np.ones(len(train), bool)
    targets = Targets.of(History.of(train), every, np.unique(train.pairs), len(train.items))
    return int(np.clip(targets.last.max(initial=0), 1, length))


def _features(config, raw, kinds, with_id):
    settings = config.model
    id_column = next(iter(raw))
    features = []
    if with_id:
        features.append(Feature(id_column, "id", tuple(raw[id_column]), oov_buckets=settings.oov_buckets))
    for name, kind in kinds.items():
        if kind == "numeric":
            features.append(Feature.numeric(name, raw[name], settings.heterrec.buckets))
            continue
        if kind == "vector":
            features.append(Feature(name, kind, length=raw[name].shape[1]))
            continue
        values = raw[name] if kind == "categorical" else [value for values in raw[name] for value in values]
        vocabulary = tuple(sorted({*values} - {""}))
        features.append(Feature(name, kind, vocabulary, settings.feature_dim, settings.oov_buckets))
    return features


def user_features(config: Config, prepared: Prepared, model: CSMF, log: EventLog) -> UserFeatures:
    """What the user tower reads of each user, with histories made of `log`."""
    encoder, length = model.towers.user_encoder, config.model.history.length
    # The towers read no history of objectives that came later.
    log = replace(log.take(log.behavior < len(config.funnel)), funnel=config.funnel)
    sequence = config.model.user_tower == "heterrec"
    items = SEQUENCE if sequence else HISTORY.format(log.funnel[0])
    several = sequence and len(log.funnel) > 1
    return UserFeatures(
        encoder.encode(pad_lists(prepared.users), skip="history"),
        log,
        length,
        encoder.codes(items, log.items) if length else None,
        config.log.user if config.model.reads_user_id else None,
        config.model.oov_buckets,
        sequence,
        encoder.codes(SEQUENCE_BEHAVIOR, np.array(log.funnel, object)) if several else None,
        model.towers.user.sequence.positions if sequence else None,
    )


def loss_kind(config: Config, prepared: Prepared) -> str:
    """`"full"` or `"sampled"`; `auto` goes by the kinds of negatives and the number of items."""
    if config.loss.kind != "auto":
        return config.loss.kind
    # Who asks for virtual or semantic negatives wants them drawn.
    if {"edis", "msac"} & {*config.negatives.kind}:
        return "sampled"
    # A batch of windows has some ten times the rows of one of users.
    most = FULL_SOFTMAX_ITEMS if config.model.user_tower == "mlp" else FULL_SOFTMAX_ITEMS_OF_SEQUENCES
    items = len(prepared.split.train.items)
    if config.loss.one_list and items > most:
        raise ValueError(
            f"`loss.one_list` needs the full softmax, which `auto` takes up to {most:,} items. Received: "
            f"{items:,} items; set `loss.kind: full`, of which a batch holds its positions x items logits, "
            "or leave out `loss.one_list`"
        )
    return "full" if items <= most else "sampled"


def batching(config: Config, prepared: Prepared, model: CSMF) -> Batching:
    """How positives become the batches of a model."""
    train, loss, kind = prepared.split.train, config.loss, loss_kind(config, prepared)
    length, sequence = config.model.history.length, config.model.user_tower == "heterrec"
    rows_are_users = kind == "full" and not sequence and not (length and train.time is not None)
    if rows_are_users and config.training.jit_compile:
        raise ValueError(
            "`training.jit_compile` should go with batches of fixed shape. Received: jit_compile=True with "
            "the full softmax by users, where XLA compiles every batch anew; write `loss: {kind: sampled}`"
        )
    # Some 60 steps an epoch, so that epochs of small logs learn too.
    rows = int(np.clip(len(train.users) // 60, 32, 256)) if rows_are_users else 1024
    if sequence:
        events = np.bincount(train.user)
        rows = int(np.clip(POSITIONS * (-(-events // length)).sum() // events.sum(), 1, 1024))
        # Few long histories among short ones make wide batches of pads.
        read = model.towers.user.sequence
        fewest = FEWEST_WINDOWS if kind == "sampled" and "in_batch" in config.negatives.kind else 1
        rows = max(min(rows, read.most_rows(read.positions)), fewest)
    return Batching(
        loss=kind,
        batch_size=config.training.batch_size or rows,
        history_drop=config.model.history.drop,
        negatives=config.negatives,
        item_id_drop=config.model.item_id_drop,
        l2_popularity=loss.l2_popularity,
        closure=config.closure,
        step_weights=tuple(weight / sum(loss.step_weights) for weight in loss.step_weights),
        seed=config.training.seed,
    )


def optimizer(config: Config, prepared: Prepared) -> Any:
    """A fresh Keras optimizer."""
    training = config.training
    # Adagrad touches only the rows that a batch reads; the full softmax reads all items, but not all users.
    train, sequence = prepared.split.train, config.model.user_tower == "heterrec"
    rows = [len(train.items)] if sequence else []
    rows += [len(train.users)] if config.model.reads_user_id else []
    few = max(rows, default=0) <= DENSE_OPTIMIZER_ROWS
    auto = "adam" if few and (sequence or loss_kind(config, prepared) == "full") else "adagrad"
    name = auto if training.optimizer == "auto" else training.optimizer
    make, defaults = OPTIMIZERS[name]
    # Deep towers take smaller steps than tables.
    defaults = defaults | ({"learning_rate": SEQUENCE_RATES[name]} if sequence else {})
    given = {"learning_rate": training.learning_rate} if training.learning_rate else {}
    return make(**(defaults | given))
