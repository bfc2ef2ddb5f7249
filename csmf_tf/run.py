"""A run: a configuration and a log in, a directory with a trained cascade out.

The directory holds `config.yaml` (every default written out), `data/` (the coded, split log and feature
tables), `state.json` and `checkpoints/` (where training stands) and `tensorboard/`.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

from csmf_tf._keras import keras, tf
from csmf_tf.cascade import Cascade, Schedule
from csmf_tf.config import Config, from_dict, to_dict
from csmf_tf.data.groups import Groups, group
from csmf_tf.data.log import EventLog, read_log
from csmf_tf.data.splits import split_log
from csmf_tf.data.stages import Batching, StageData
from csmf_tf.data.store import Prepared, load, save
from csmf_tf.data.tables import align, read_table
from csmf_tf.data.users import HISTORY, UserFeatures
from csmf_tf.evaluation.funnel import FunnelEvaluator
from csmf_tf.model import CSMF
from csmf_tf.serving.export import export
from csmf_tf.towers import Feature

# Up to this many items the softmax over the whole catalogue is affordable, and better.
FULL_SOFTMAX_ITEMS = 50_000


def prepare(config: Config) -> Prepared:
    """Reads and splits the log and the feature tables of a configuration."""
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
    split = split_log(events, validation_users=config.validation_users, **to_dict(config)["split"])
    return Prepared(
        split,
        _table(log.users, log.user, config.features.user, split.train.users),
        _table(log.items, log.item, config.features.item, split.train.items),
    )


def _table(path, id_column, kinds, ids):
    table = read_table(path, id_column, kinds) if kinds else {id_column: ids}
    return align(table, id_column, ids)


class Run:
    """A training run in a directory; a new one when given a configuration, else the one that is there.

    Args:
        directory: where the run is or will be.
        config: the `Config` of a new run, or of a run to go on with, when it has to be the same.

    Raises:
        FileNotFoundError: when there is no run in `directory` and no `config` is given.
        ValueError: when the run in `directory` has another configuration.
    """

    def __init__(self, directory: str | os.PathLike[str], config: Config | None = None):
        self.directory = pathlib.Path(directory)
        path = self.directory / "config.yaml"
        if path.exists():
            self.config = from_dict(yaml.safe_load(path.read_text()))
            _check_same(self.directory, self.config, config)
            self.prepared = load(self.directory / "data")
        elif config is None:
            raise FileNotFoundError(
                f"{self.directory} should be the directory of a run. Received: one without config.yaml; "
                f"make it with `csmf-tf fit CONFIG --out {self.directory}`"
            )
        else:
            self.config = config
            self.prepared = prepare(config)
            if not (self.directory / "data").exists():
                save(self.prepared, self.directory / "data")
            # The configuration comes last: with it the run exists.
            beside = path.with_suffix(".tmp")
            beside.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
            beside.replace(path)
        self.model = self._build()

    def fit(
        self,
        callbacks: Callable[[str, str], list[Any]] | None = None,
        verbose: int | str = "auto",
    ) -> list[dict[str, Any]]:
        """Trains all stages, or what a killed run left of them; returns the cascade's log.

        Whenever a stage ends, the log gets the test metrics of every finished objective; nothing is chosen
        by them.
        """
        train = self.prepared.split.train
        users = self._user_features(train)
        plan = self._batching()
        stages = {name: StageData(train, k, users, plan) for k, name in enumerate(self.config.funnel, start=1)}
        held = self.prepared.split.validation
        validation = FunnelEvaluator(users, _targets(held), _seen(train), self.config.evaluate.ks)
        return self._cascade(stages, validation, callbacks, verbose).run()

    def _cascade(self, stages, validation, callbacks, verbose):
        training, capacity = self.config.training, self.config.capacity
        tau = capacity.tau
        return Cascade(
            self.model,
            stages,
            self.directory,
            optimizer=self._optimizer,
            schedule=Schedule(
                epochs=training.epochs,
                recover_epochs=training.recover_epochs,
                recover_share=training.recover_share,
                patience=training.patience,
                shares=capacity.shares,
                tau=[tau] * len(self.config.funnel) if isinstance(tau, float) else tau,
                seed=training.seed,
            ),
            validate=validation.judge if validation else None,
            compile_options={"jit_compile": training.jit_compile},
            callbacks=callbacks,
            measure=self.evaluator().objectives,
            verbose=verbose,
        )

    def restore(self) -> "Run":
        """Reads the newest weights; a run that is still in training serves what it has so far."""
        self._cascade({}, None, None, 0).restore()
        return self

    def evaluate(self) -> dict[str, Any]:
        """Test metrics: each finished objective, all under equal weights, popularity, and what was left out."""
        self._check_finished()
        evaluator, split = self.evaluator(), self.prepared.split
        known = _targets(_concatenate(split.train, split.validation))
        done = self.model.frozen_stages
        equal = [1.0] * done + [0.0] * (len(self.model.funnel) - done)
        return {
            "objectives": evaluator.objectives(self.model),
            "fused": evaluator.fused(self.model, equal),
            "baselines": {"popularity": evaluator.popularity(known, len(split.train.items))},
            "unknown_users": split.unknown_users,
            "unknown_items": split.unknown_items,
            "met_pairs": split.met_pairs,
        }

    def _check_finished(self):
        if not self.model.frozen_stages:
            raise ValueError(
                f"{self.directory} should have a finished stage. Received: none; `csmf-tf fit` goes on with it"
            )

    def evaluator(self) -> "FunnelEvaluator":
        """The evaluator of the test part: users act on all they did before it."""
        split = self.prepared.split
        known = _concatenate(split.train, split.validation)
        return FunnelEvaluator(
            self._user_features(known), _targets(split.test), _seen(known), self.config.evaluate.ks
        )

    def export(self, directory: str | os.PathLike[str], index: str = "scann", k: int = 100) -> str:
        """Writes the next version of a SavedModel with an index of all items; returns its path."""
        self._check_finished()
        model = self.model
        return export(
            model.user_embedder(),
            {f.name: f.signature for f in model.towers.user.features},
            model.catalogue_ids,
            model.item_vectors(),
            model.owner,
            model.funnel[: model.frozen_stages],
            directory,
            index=index,
            k=k,
            users=self.raw_users(),
            user_id=self.config.log.user,
        )

    def raw_users(self) -> dict[str, np.ndarray]:
        """Raw features of all known users as of now, as the exported model takes them."""
        split = self.prepared.split
        known = _concatenate(split.train, split.validation)
        raw = _padded(self.prepared.users)
        length = self.config.model.history.length
        ids = np.append(known.items, "")
        everyone = np.arange(len(known.users))
        if length:
            users = self._user_features(known)
            raw |= {name: ids[h.latest(everyone, length)] for name, h in users.histories.items()}
        return raw

    @property
    def full_softmax(self) -> bool:
        """Whether the loss is the softmax over the whole catalogue."""
        kind = self.config.loss.kind
        return kind == "full" or (
            kind == "auto" and len(self.prepared.split.train.items) <= FULL_SOFTMAX_ITEMS
        )

    def _build(self) -> CSMF:
        config, train = self.config, self.prepared.split.train
        keras.utils.set_random_seed(config.training.seed)
        keras.mixed_precision.set_global_policy(
            "mixed_bfloat16" if config.training.mixed_precision else "float32"
        )
        model = CSMF(
            config.funnel,
            self._features("user"),
            self._features("item"),
            embedding_dim=config.model.embedding_dim,
            hidden=config.model.hidden,
            granularity=config.model.granularity,
            normalize=config.model.normalize,
            temperature=config.model.temperature,
            loss="full" if self.full_softmax else "sampled",
            in_batch_negatives=config.loss.in_batch,
            margin=config.loss.margin,
            l2=config.loss.l2,
        )
        model.set_catalogue(train.items, _padded(self.prepared.items))
        return model

    def _features(self, side: str) -> list[Feature]:
        settings = self.config.model
        raw = self.prepared.users if side == "user" else self.prepared.items
        id_column, *_ = raw
        features = []
        if side == "item" or settings.user_id:
            features.append(
                Feature(id_column, "id", tuple(raw[id_column]), oov_buckets=settings.oov_buckets)
            )
        for name, kind in getattr(self.config.features, side).items():
            if kind == "numeric":
                features.append(Feature.numeric(name, raw[name]))
                continue
            values = raw[name] if kind == "categorical" else [v for values in raw[name] for v in values]
            vocabulary = tuple(sorted({*values} - {""}))
            features.append(
                Feature(name, kind, vocabulary, settings.feature_dim, oov_buckets=settings.oov_buckets)
            )
        if side == "user" and settings.history.length:
            items = tuple(self.prepared.split.train.items)
            features += [
                Feature(
                    HISTORY.format(name),
                    "history",
                    items,
                    settings.embedding_dim,
                    length=settings.history.length,
                )
                for name in self.config.funnel
            ]
        return features

    def _user_features(self, log: EventLog) -> UserFeatures:
        encoder = self.model.towers.user_encoder
        history = self.config.model.history.length
        return UserFeatures(
            encoder.encode(_padded(self.prepared.users), skip="history"),
            log,
            history,
            encoder.codes(HISTORY.format(log.funnel[0]), log.items) if history else None,
            self.config.log.user if self.config.model.user_id else None,
            self.config.model.oov_buckets,
        )

    def _batching(self) -> Batching:
        config, full = self.config, self.full_softmax
        rows_are_users = full and not (
            config.model.history.length and self.prepared.split.train.time is not None
        )
        return Batching(
            loss="full" if full else "sampled",
            batch_size=config.training.batch_size or (256 if rows_are_users else 1024),
            history_drop=config.model.history.drop,
            uniform_negatives=config.loss.uniform_negatives,
            in_batch=config.loss.in_batch,
            funnel_negatives=config.loss.funnel_negatives,
            log_q=config.loss.log_q,
            closure=config.closure,
            seed=config.training.seed,
        )

    def _optimizer(self) -> Any:
        training = self.config.training
        # Adagrad touches only the rows of a table that a batch reads; the full softmax reads all of them.
        name = ("adam" if self.full_softmax else "adagrad") if training.optimizer == "auto" else training.optimizer
        optimizer = keras.optimizers.get({"class_name": name, "config": {}})
        optimizer.learning_rate = training.learning_rate or {"adagrad": 0.1, "sgd": 0.1}.get(name, 0.01)
        return optimizer


def _check_same(directory, existing, config):
    if config is None or config == existing:
        return
    old, new = _flat(to_dict(existing)), _flat(to_dict(config))
    changed = [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in {**old, **new} if old.get(k) != new.get(k)]
    raise ValueError(
        f"The configuration should be that of the run in {directory}, which is resumed. "
        f"Received changes: {'; '.join(changed)}; change them back, or give another --out"
    )


def _flat(nested, prefix=""):
    if not isinstance(nested, dict):
        return {prefix: nested}
    return {
        k: v for name, value in nested.items() for k, v in _flat(value, f"{prefix}.{name}".strip(".")).items()
    }


def _concatenate(first: EventLog, second: EventLog) -> EventLog:
    """Both logs, which share their vocabularies, as one."""
    return EventLog(
        *(np.concatenate([getattr(first, k), getattr(second, k)]) for k in ("user", "item", "behavior")),
        time=None if first.time is None else np.concatenate([first.time, second.time]),
        users=first.users,
        items=first.items,
        funnel=first.funnel,
    )


def _targets(log: EventLog) -> dict[str, Groups]:
    """Each objective's targets: the user's items with that behaviour as logged."""
    return {
        name: group(log.user[log.behavior == b], log.item[log.behavior == b], len(log.users))
        for b, name in enumerate(log.funnel)
    }


def _seen(log: EventLog) -> Groups:
    return group(log.user, log.item, len(log.users))


def _padded(table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The table with its lists of strings as [N, L] arrays, "" behind."""
    return {name: _pad(values) if isinstance(values[0], tuple) else values for name, values in table.items()}


def _pad(lists):
    width = max(1, *(len(values) for values in lists))
    return np.array([[*values, *[""] * (width - len(values))] for values in lists], dtype=object)
