"""A run: a configuration and a log in, a directory with a trained cascade out.

The directory holds `config.yaml` (every default written out), `inputs.json` (what was read), `data/` (the
coded, split log and the feature tables), `state.json` and `checkpoints/` (where training stands) and
`tensorboard/`; with negatives of kind msac, `clusters/`.
"""

import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import yaml

from csmf_tf import build
from csmf_tf._keras import tf
from csmf_tf.cascade import Cascade
from csmf_tf.clustering import Recluster, RunClusters
from csmf_tf.config import Config, config_of_run, to_dict
from csmf_tf.config_sections import SEQUENCE_BEHAVIOR
from csmf_tf.data.stages import StageData
from csmf_tf.data.store import load, save, save_split
from csmf_tf.data.tables import pad_lists
from csmf_tf.evaluation.funnel import FunnelEvaluator
from csmf_tf.evaluation.results import Evaluation, evaluate_model
from csmf_tf.evaluation.user_results import run_state
from csmf_tf.model import CSMF
from csmf_tf.schedule import Schedule
from csmf_tf.serving.export import export
from csmf_tf.serving.retriever import RESERVED
from csmf_tf.serving.shards import export_shards
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

    Example:

    >>> import tempfile
    >>> from csmf_tf.config import from_dict
    >>> from csmf_tf.data.simulator import simulate
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     simulate(users=60, items=40).write(folder)
    ...     columns = {"user": "user_id", "item": "item_id", "behavior": "behavior"}
    ...     raw = {
    ...         "log": {"path": f"{folder}/events.csv.gz", "ignore": ["cart"], **columns},
    ...         "funnel": ["view", "buy"],
    ...         "split": {"kind": "item_holdout"},
    ...         "model": {"embedding_dim": 8},
    ...         "training": {"epochs": 1, "recover_epochs": 0},
    ...     }
    ...     log = Run(f"{folder}/run", from_dict(raw)).fit(verbose=0)
    ...     list(Run(f"{folder}/run").restore().evaluate()["objectives"])
    ['view', 'buy']
    """

    def __init__(self, directory: str | os.PathLike[str], config: Config | None = None):
        self.directory = pathlib.Path(directory)
        path = self.directory / "config.yaml"
        # A run that never trained may be given another configuration.
        exists = path.exists() and (config is None or (self.directory / "state.json").exists())
        if exists or config is None:
            self.config = config_of_run(self.directory)
            if config is not None:
                _check_same(self.directory, self.config, config)
                self._check_unchanged()
            self.prepared = load(self.directory / "data")
        else:
            self.config = config
            self.prepared = build.prepare(config)
        self.model: CSMF = build.build_model(self.config, self.prepared)
        if not exists:
            save(self.prepared, self.directory / "data")
            (self.directory / "inputs.json").write_text(json.dumps(build.fingerprints(self.config)))
            # The configuration comes last: with it the run exists.
            beside = path.with_suffix(".tmp")
            beside.write_text(yaml.safe_dump(to_dict(self.config), sort_keys=False))
            beside.replace(path)

    def _check_unchanged(self):
        read = json.loads((self.directory / "inputs.json").read_text())
        changed = [
            path
            for path, digest in build.fingerprints(self.config).items()
            if read.get(path, digest) != digest
        ]
        if changed:
            raise ValueError(
                f"The files that the run in {self.directory} has read should not change. Received: other "
                f"contents in {changed}; put them back, or give another --out"
            )

    def stages(self) -> dict[str, StageData]:
        """The training data of each objective, for driving the stages by hand."""
        train = self.prepared.split.train
        users = build.user_features(self.config, self.prepared, self.model, train)
        batching = build.batching(self.config, self.prepared, self.model)
        clusters = self.clusters.initial() if self._draws_by_clusters else None
        return {
            name: StageData(train, k, users, batching, clusters)
            for k, name in enumerate(train.funnel, start=1)
        }

    @property
    def clusters(self) -> RunClusters:
        """The clusters of the items, which negatives of kind msac are drawn from."""
        inputs = (self.directory / "inputs.json").read_text()
        return RunClusters(self.config, self.prepared, self.directory / "clusters", inputs)

    @property
    def _draws_by_clusters(self):
        sampled = build.loss_kind(self.config, self.prepared) == "sampled"
        return sampled and "msac" in self.config.negatives.kind

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
            verbose: as in `model.fit`; "auto" is a bar in terminals and notebooks, else a line an epoch.

        Returns:
            the `log` of the `Cascade`.

        Raises:
            ValueError: when an objective has no training or no validation event, or a stage diverges.
        """
        if len(self.prepared.split.validation):
            self.validation().check_targets(self.model.funnel)
        stages = self.stages()
        return self._cascade(stages, self._reclustering(stages, callbacks), verbose).run()

    def _reclustering(self, stages, callbacks):
        every = self.config.negatives.msac.recluster
        if not (every and self._draws_by_clusters):
            return callbacks
        return lambda objective, phase: [
            Recluster(self.clusters, stages[objective], phase, every),
            *(callbacks(objective, phase) if callbacks else []),
        ]

    def add_objective(
        self,
        name: str,
        path: str | os.PathLike[str] | None = None,
        share: float | None = None,
        callbacks: Callable[[str, str], list[Any]] | None = None,
        verbose: int | str = "auto",
    ) -> list[dict[str, Any]]:
        """Appends an objective to a finished run with free capacity, and trains its stage.

        The scores of all earlier objectives stay bit-identical. A test or validation item of a user stays
        one for the new behaviour too, see `add_behavior`. Killed, it goes on when called again.

        Args:
            name: the behaviour that the new objective is, as the log names it.
            path: a log with the columns of `config.log` in which it occurs; default `config.log.path`. Its
                other behaviours are skipped, and users and items that the run does not know.
            share: in (0, 1], the share of every layer that the stage may keep; default the configuration's
                last `tau` or, without one, all that is free.
            callbacks: as in `fit`.
            verbose: as in `fit`.

        Returns:
            the `log` of the `Cascade`.

        Raises:
            ValueError: when the run has `name` already, an earlier stage is unfinished, no capacity is free,
                or the log is at fault or without training or validation events of `name`.
        """
        self.restore()
        left, split = self.model.funnel[self.model.frozen_stages :], self.prepared.split
        if name in self.config.funnel or (name in self.model.funnel and name not in left):
            raise ValueError(
                f"`name` should be a new objective. Received: name={name!r}, known {self.model.funnel}"
            )
        if name not in split.train.funnel:
            split = build.further_split(self.config, split, name, path)
        # Before the events, so that what it refuses leaves the run as it was.
        if name not in left:
            self._cascade({}, None, 0).add_objective(name, share)
        if split is not self.prepared.split:
            save_split(split, self.directory / "data")
            self.prepared = self.prepared._replace(split=split)
        return self.fit(callbacks, verbose)

    @property
    def log(self) -> list[dict[str, Any]]:
        """What happened in training so far, see `Cascade`; empty when the stages were driven by hand."""
        return self._cascade({}, None, 0).log

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
                decay=training.decay,
                shares=capacity.shares,
                tau=capacity.tau,
                principal_axes=capacity.principal_axes,
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
        return self._evaluator(known=split.train, new=split.validation)

    def evaluator(self) -> FunnelEvaluator:
        """The evaluator of the test part, for users who did what is in the training and validation parts."""
        split = self.prepared.split
        return self._evaluator(split.train.append(split.validation), split.test, split.met)

    def _evaluator(self, known, new, met=None):
        return FunnelEvaluator(
            build.user_features(self.config, self.prepared, self.model, known),
            known,
            new,
            met,
            self.config.evaluate.ks,
            memory_mb=self.config.evaluate.memory_mb,
        )

    def evaluate(self) -> dict[str, Any]:
        """Test metrics of each finished objective, of all under equal weights, and of baselines.

        Returns:
            nested dicts of plain numbers, see docs/evaluation.md.
        """
        return self.evaluation().results

    def evaluation(self) -> Evaluation:
        """What `evaluate` gives, with the metrics of each user."""
        self._check_finished()
        split = self.prepared.split
        # Before it takes its time, in which the run may train on.
        state = run_state(self.directory) if (self.directory / "state.json").exists() else ""
        evaluation = evaluate_model(self.model, self.evaluator(), self.log)
        left_out = ("repeated", "unknown_targets", "unknown_users", "unknown_items")
        counts = {name: getattr(split, name) for name in left_out}
        return evaluation._replace(results=evaluation.results | counts, state=state)

    def export(
        self,
        directory: str | os.PathLike[str],
        index: str = "scann",
        k: int = 100,
        fusion: str = "log",
        min_recall: float = 0.9,
        settings: Mapping[str, int] | None = None,
        shards: int | None = None,
    ) -> str:
        """Writes the next version of a SavedModel with an index of all items; returns its path.

        It serves the finished objectives. Its inputs have the names of the features, with `_` in place of
        what may not stand in an identifier. See `csmf_tf.serving.export` for its signatures, `fusion`, the
        index's `settings` and `min_recall`, which is measured on users of the test part. Given a number of
        `shards`, it writes so many exports in `directory`, and returns that; see `csmf_tf.serving.shards`.
        """
        self._check_finished()
        model, done, users = self.model, self.model.frozen_stages, self.raw_users()
        names = identifiers(users, reserved=RESERVED)
        embed_user, user_signature = _served(model.user_embedder(), model.towers.user.features, names)
        users = {names[name]: values for name, values in users.items()}
        tested = np.unique(self.prepared.split.test.user)
        arguments = (
            embed_user,
            user_signature,
            model.catalogue_ids,
            model.item_vectors(),
            np.where(model.owner <= done, model.owner, 0),
            model.funnel[:done],
            directory,
        )
        options: dict[str, Any] = {
            "index": index,
            "k": k,
            "users": users,
            "user_id": names[self.config.log.user],
            "fusion": fusion,
            "probe": {name: values[tested] for name, values in users.items()},
            "min_recall": min_recall,
            "settings": settings,
            "behaviors": self.config.funnel,
        }
        if shards is not None:
            export_shards(*arguments, shards=shards, **options)
            return os.fspath(directory)
        items = model.towers.item.features
        item_names = identifiers([f.name for f in items], reserved=RESERVED)
        embed_item, item_signature = _served(model.item_embedder(), items, item_names)
        return export(
            *arguments,
            embed_item=embed_item,
            item_signature=item_signature,
            item_id=item_names[self.config.log.item],
            item_features={f.name: {"input": item_names[f.name], "kind": f.kind} for f in items},
            **options,
        )

    def raw_users(self) -> dict[str, np.ndarray]:
        """Raw features of all known users as of now, as the exported model takes them."""
        split = self.prepared.split
        known = split.train.append(split.validation)
        users = build.user_features(self.config, self.prepared, self.model, known)
        everyone = np.arange(len(known.users))
        # The last one is what the pad -1 reads.
        names = {name: np.append(known.items, "") for name in users.histories}
        if users.sequence and SEQUENCE_BEHAVIOR in names:
            names[SEQUENCE_BEHAVIOR] = np.array([*self.config.funnel, ""], object)
        return pad_lists(self.prepared.users) | {
            name: names[name][h.latest(everyone, users.length)] for name, h in users.histories.items()
        }

    def _check_finished(self):
        if not self.model.frozen_stages:
            raise ValueError(
                f"{self.directory} should have a finished stage. Received: none; go on with `csmf-tf fit`"
            )


def _served(embed, features, names):
    """Returns an embedder and its signature with features under other names."""
    given = {f.name: names[f.name] for f in features}
    return _Renamed(embed, given), {given[f.name]: f.signature for f in features}


class _Renamed(tf.Module):
    """An embedder whose features come under other names."""

    def __init__(self, embed, names):
        super().__init__()
        self._embed, self._names = embed, names

    # Traced once for all signatures of an export, which deep towers would make large.
    @tf.function(reduce_retracing=True)
    def __call__(self, raw):
        return self._embed({name: raw[given] for name, given in self._names.items()})


def _check_same(directory, existing, config):
    if config == existing:
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
