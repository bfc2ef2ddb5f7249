"""A run: a configuration and a log in, a directory with a trained cascade out.

The directory holds `config.yaml` (every default written out), `data/` (the coded, split log and the feature
tables), `state.json` and `checkpoints/` (where training stands) and `tensorboard/`.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import yaml

from csmf_tf import build
from csmf_tf._keras import tf
from csmf_tf.cascade import Cascade, Schedule
from csmf_tf.config import Config, from_dict, to_dict
from csmf_tf.data.groups import Groups
from csmf_tf.data.log import EventLog
from csmf_tf.data.stages import StageData
from csmf_tf.data.store import load, save
from csmf_tf.data.tables import pad_lists
from csmf_tf.evaluation.funnel import FunnelEvaluator
from csmf_tf.model import CSMF
from csmf_tf.serving.export import export
from csmf_tf.towers.features import identifiers


class Run:
    """A training run in a directory; a new one when given a configuration, else the one that is there.

    Args:
        directory: where the run is or will be.
        config: the `Config` of a new run, or of a run to go on with, when it has to be the same.

    Attributes:
        config: the `Config`.
        prepared: the split log and the feature tables.
        model: the `CSMF`, untrained until `fit` or `restore`.

    Raises:
        FileNotFoundError: when there is no run in `directory` and no `config` is given.
        ValueError: when the run in `directory` has another configuration, or the log is at fault.
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
                f"make it with `csmf-tf fit CONFIG.yaml --out {self.directory}`"
            )
        else:
            self.config = config
            self.prepared = build.prepare(config)
            save(self.prepared, self.directory / "data")
            # The configuration comes last: with it the run exists.
            beside = path.with_suffix(".tmp")
            beside.write_text(yaml.safe_dump(to_dict(config), sort_keys=False))
            beside.replace(path)
        self.model: CSMF = build.build_model(self.config, self.prepared)

    def stages(self) -> dict[str, StageData]:
        """The training data of each objective, for driving the stages by hand."""
        train = self.prepared.split.train
        users = build.user_features(self.config, self.prepared, self.model, train)
        batching = build.batching(self.config, self.prepared)
        return {name: StageData(train, k, users, batching) for k, name in enumerate(train.funnel, start=1)}

    def fit(
        self,
        callbacks: Callable[[str, str], list[Any]] | None = None,
        verbose: int | str = "auto",
    ) -> list[dict[str, Any]]:
        """Trains all stages, or what a killed run left of them.

        Whenever a stage ends, the log gets the test metrics of every finished objective; nothing is chosen
        by them.

        Args:
            callbacks: function of objective and phase that gives Keras callbacks.
            verbose: as in `model.fit`.

        Returns:
            the `log` of the `Cascade`.

        Raises:
            ValueError: when an objective has no training or no validation event, or a stage diverges.
        """
        if len(self.prepared.split.validation):
            self.validation().check_targets(self.model.funnel)
        return self._cascade(self.stages(), callbacks, verbose).run()

    def restore(self) -> "Run":
        """Reads the newest weights; a run still in training has what it learned so far. Returns itself."""
        self._cascade({}, None, 0).restore()
        return self

    def _cascade(self, stages, callbacks, verbose):
        training, capacity = self.config.training, self.config.capacity
        has_validation = len(self.prepared.split.validation) > 0
        return Cascade(
            self.model,
            stages,
            self.directory,
            optimizer=lambda: build.optimizer(self.config, self.prepared),
            schedule=Schedule(
                epochs=training.epochs,
                recover_epochs=training.recover_epochs,
                recover_share=training.recover_share,
                patience=training.patience,
                shares=capacity.shares,
                tau=capacity.tau,
                seed=training.seed,
            ),
            validate=self.validation().judge if has_validation else None,
            measure=lambda model: self.evaluator().objectives(model),
            compile_options={"jit_compile": training.jit_compile},
            callbacks=callbacks,
            verbose=verbose,
        )

    def validation(self) -> FunnelEvaluator:
        """The evaluator of the validation part, for users who did what is in the training part."""
        split = self.prepared.split
        return self._evaluator(known=split.train, held=split.validation)

    def evaluator(self) -> FunnelEvaluator:
        """The evaluator of the test part, for users who did what is in the training and validation parts."""
        split = self.prepared.split
        return self._evaluator(known=split.train.append(split.validation), held=split.test)

    def _evaluator(self, known: EventLog, held: EventLog) -> FunnelEvaluator:
        users = build.user_features(self.config, self.prepared, self.model, known)
        return FunnelEvaluator(users, _by_objective(held), known.items_of_users(), self.config.evaluate.ks)

    def evaluate(self) -> dict[str, Any]:
        """Test metrics of each finished objective, of all under equal weights, and of popularity."""
        self._check_finished()
        evaluator, split = self.evaluator(), self.prepared.split
        done = self.model.frozen_stages
        equal = np.arange(len(self.model.funnel)) < done
        known = _by_objective(split.train.append(split.validation))
        return {
            "objectives": evaluator.objectives(self.model),
            "fused": evaluator.fused(self.model, equal),
            "baselines": {"popularity": evaluator.popularity(known, len(split.train.items))},
            "unknown_users": split.unknown_users,
            "unknown_items": split.unknown_items,
            "met_pairs": split.met_pairs,
        }

    def export(self, directory: str | os.PathLike[str], index: str = "scann", k: int = 100) -> str:
        """Writes the next version of a SavedModel with an index of all items; returns its path.

        It serves the finished objectives. Its inputs have the names of the user features, with `_` in place
        of what may not stand in an identifier.
        """
        self._check_finished()
        model, done, users = self.model, self.model.frozen_stages, self.raw_users()
        names = identifiers(users, reserved=["weights"])
        return export(
            _Renamed(model.user_embedder(), {f.name: names[f.name] for f in model.towers.user.features}),
            {names[f.name]: f.signature for f in model.towers.user.features},
            model.catalogue_ids,
            model.item_vectors(),
            np.where(model.owner <= done, model.owner, 0),
            model.funnel[:done],
            directory,
            index=index,
            k=k,
            users={names[name]: values for name, values in users.items()},
            user_id=names[self.config.log.user],
        )

    def raw_users(self) -> dict[str, np.ndarray]:
        """Raw features of all known users as of now, as the exported model takes them."""
        split = self.prepared.split
        known = split.train.append(split.validation)
        users = build.user_features(self.config, self.prepared, self.model, known)
        ids = np.append(known.items, "")
        everyone = np.arange(len(known.users))
        histories = {name: ids[h.latest(everyone, users.length)] for name, h in users.histories.items()}
        return pad_lists(self.prepared.users) | histories

    def _check_finished(self):
        if not self.model.frozen_stages:
            raise ValueError(
                f"{self.directory} should have a finished stage. Received: none; go on with `csmf-tf fit`"
            )


class _Renamed(tf.Module):
    """An embedder whose features come under other names."""

    def __init__(self, embed, names):
        super().__init__()
        self._embed, self._names = embed, names

    def __call__(self, raw):
        return self._embed({name: raw[given] for name, given in self._names.items()})


def _by_objective(log: EventLog) -> dict[str, Groups]:
    return {name: log.items_of_users(behavior) for behavior, name in enumerate(log.funnel)}


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
        key: leaf
        for name, value in nested.items()
        for key, leaf in _flat(value, f"{prefix}.{name}".strip(".")).items()
    }
