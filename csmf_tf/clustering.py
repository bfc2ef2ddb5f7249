"""The clusters of a run's items: what the items are told by, made once, kept, and made anew on request."""

import hashlib
import json
import pathlib
from typing import Any

import numpy as np

from csmf_tf._conflicts import is_file
from csmf_tf._keras import keras
from csmf_tf.config import Config, to_dict
from csmf_tf.data.stages import StageData
from csmf_tf.data.store import Prepared
from csmf_tf.data.tables import align as align_rows
from csmf_tf.data.tables import read_table
from csmf_tf.model import CSMF
from csmf_tf.negatives.alignment import align
from csmf_tf.negatives.clusters import Clusters, cluster_items, load_clusters, save_clusters
from csmf_tf.negatives.modalities import cooccurrence_vectors, read_vectors, text_vectors
from csmf_tf.progress import step

BEHAVIOR = "behavior"
"""Name of the modality that is made of the training events, or of the model's own vectors."""

PHASES = ("fit", "recover")
"""The phases of a stage in which negatives are drawn."""


def item_modalities(config: Config, prepared: Prepared) -> dict[str, np.ndarray]:
    """Reads the modalities of the configuration, and makes the behavioural one of the training events.

    Args:
        config: the `Config`; `modalities` names `.npy` files, a row an item, and columns of `log.items`: of
            text, or of what `features.item` calls vectors.
        prepared: the data of the run.

    Returns:
        name -> float32 [N, d] in the order of the catalogue, NaN rows where an item has none.
    """
    log, train = config.log, prepared.split.train
    found: dict[str, np.ndarray] = {}
    for name, source in config.modalities.items():
        if is_file(source):
            rows = read_table(log.items, log.item, {})[log.item] if log.items else None
            found[name] = read_vectors(source, train.items, rows)
        elif log.items:
            kind = config.features.item.get(source, "categorical")
            table = align_rows(read_table(log.items, log.item, {source: kind}), log.item, train.items)
            values = table[source]
            found[name] = values if kind == "vector" else text_vectors(values, seed=config.training.seed)
    if config.negatives.msac.behavioral:
        sizes = len(train.users), len(train.items)
        # As wide as the others, with which they may be clustered as they are.
        dim = next((vectors.shape[1] for vectors in found.values()), config.model.embedding_dim)
        found[BEHAVIOR] = cooccurrence_vectors(
            train.user, train.item, *sizes, dim=dim, seed=config.training.seed
        )
    return found


class RunClusters:
    """The clusters of a run, as files in a folder of its own.

    Args:
        config: the `Config`, with negatives of kind msac.
        prepared: the data of the run.
        folder: where modalities and clusters are kept.
        inputs: fingerprints of the files that the run has read; with others the clusters are made anew.
    """

    def __init__(self, config: Config, prepared: Prepared, folder: pathlib.Path, inputs: str = ""):
        self._config, self._prepared, self._folder = config, prepared, folder
        raw = to_dict(config)
        # What clusters depend on: a key that a later version adds elsewhere leaves them alone.
        about = [
            raw[key] for key in ("log", "funnel", "split", "validation_users", "modalities", "negatives")
        ]
        about += [config.model.embedding_dim, config.training.seed]
        setting = json.dumps([about, inputs, prepared.split.train.items.tolist()])
        self._fingerprint = hashlib.sha256(setting.encode()).hexdigest()

    def initial(self) -> Clusters:
        """The clusters before training."""
        return self._kept("initial", {})

    def of_model(self, objective: str, phase: str, epoch: int, model: CSMF) -> Clusters:
        """The clusters of an epoch, with the vectors of the model as it then is as behavioural ones.

        Those of earlier epochs of the objective are removed: no run goes on from before.
        """
        clusters = self._kept(f"{objective}-{phase}-{epoch}", {BEHAVIOR: model})
        for path in self._of(objective):
            if path.stem != f"{objective}-{phase}-{epoch}":
                path.unlink()
        return clusters

    def latest(self, objective: str) -> Clusters:
        """The clusters that an objective has last drawn from."""
        return self._kept(next((path.stem for path in self._of(objective)), "initial"), {})

    def _of(self, objective):
        names = tuple(f"{objective}-{phase}-" for phase in PHASES)
        return [path for path in self._folder.glob("*.npz") if path.name.startswith(names)]

    def _kept(self, name, models):
        path = self._folder / f"{name}.npz"
        clusters = load_clusters(path, self._fingerprint)
        if clusters is None:
            own = {key: model.item_vectors() for key, model in models.items()}
            clusters = self._make(self._modalities() | own)
            save_clusters(path, clusters, self._fingerprint)
        return clusters

    def _modalities(self) -> dict[str, np.ndarray]:
        # Kept, as the files that they were read from may be gone when a run goes on.
        path = self._folder / f"modalities-{self._fingerprint[:8]}.npz"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            beside = path.with_suffix(".tmp.npz")
            found: dict[str, Any] = item_modalities(self._config, self._prepared)
            # The names are the user's: by themselves they might be arguments of `savez`.
            np.savez(beside, **{f"of {name}": vectors for name, vectors in found.items()})
            beside.replace(path)
        with np.load(path, allow_pickle=False) as arrays:
            return {name.removeprefix("of "): vectors for name, vectors in arrays.items()}

    def _make(self, modalities):
        config = self._config
        msac, seed = config.negatives.msac, config.training.seed
        widths = {name: vectors.shape[1] for name, vectors in modalities.items()}
        if not msac.align and msac.recluster:
            widths["the model's"] = config.model.embedding_dim
        if not msac.align and len({*widths.values()}) > 1:
            raise ValueError(
                "With `negatives.msac.align: false` all vectors of items should be of one width. Received: "
                f"{widths}; set `align: true`, or `behavioral: false` and give vectors of one width"
            )
        with step("clustering items"):
            if msac.align:
                modalities = align(modalities, dim=config.model.embedding_dim, seed=seed)
            return cluster_items(
                modalities,
                level1=msac.level1,
                level2=msac.level2,
                min_size=config.negatives.anchors,
                temperature=msac.temperature,
                seed=seed,
            )


class Recluster(keras.callbacks.Callback):
    """Gives a stage the clusters of each epoch: those of the model, made anew every so many epochs.

    The first fit of a run begins with the clusters made before training.

    Args:
        clusters: the `RunClusters`.
        data: the `StageData` in training.
        phase: "fit" or "recover".
        every: epochs between two clusterings.
    """

    def __init__(self, clusters: RunClusters, data: StageData, phase: str, every: int):
        super().__init__()
        self._clusters, self._data, self._phase, self._every = clusters, data, phase, every

    def on_epoch_begin(self, epoch, logs=None):
        since = epoch - epoch % self._every
        if since or self._data.stage > 1 or self._phase != "fit":
            self._data.clusters = self._clusters.of_model(
                self._data.objective, self._phase, since, self.model
            )
