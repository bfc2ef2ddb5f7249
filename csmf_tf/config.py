"""The configuration of a run: dataclasses whose type hints are the checks.

A YAML file or a plain dict becomes a `Config`; what is not given takes the default written below. An unknown
key, a wrong type or range, and keys that do not go together are errors that name the key and what mends it.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any

from csmf_tf import _schema, _yaml
from csmf_tf._conflicts import SPLIT_KEYS, conflicts, is_file
from csmf_tf.config_sections import DISTINCT, SOME, BelowOne
from csmf_tf.config_sections import Capacity as Capacity
from csmf_tf.config_sections import Edis as Edis
from csmf_tf.config_sections import Evaluate as Evaluate
from csmf_tf.config_sections import FeatureKind as FeatureKind
from csmf_tf.config_sections import Features as Features
from csmf_tf.config_sections import HeterRec as HeterRec
from csmf_tf.config_sections import History as History
from csmf_tf.config_sections import Log as Log
from csmf_tf.config_sections import Loss as Loss
from csmf_tf.config_sections import Model as Model
from csmf_tf.config_sections import Msac as Msac
from csmf_tf.config_sections import NegativeKind as NegativeKind
from csmf_tf.config_sections import Negatives as Negatives
from csmf_tf.config_sections import Split as Split
from csmf_tf.config_sections import Training as Training


@dataclass(frozen=True)
class Config:
    """A whole run. Build it with `load_config` or `from_dict`: the constructor itself checks nothing."""

    log: Log
    funnel: Annotated[tuple[str, ...], SOME, DISTINCT]
    """Names of the objectives, upstream first; one or more."""
    closure: bool = True
    """An event also counts as a positive of every earlier objective."""
    split: Split = field(default_factory=Split)
    validation_users: BelowOne | None = None
    """Share of the users whose events are split once more, to pick epochs; by default 1,000 users, within 15
    to 50 %; 0 trains all epochs."""
    features: Features = field(default_factory=Features)
    modalities: dict[str, str] = field(default_factory=dict)
    """What msac tells items by: name -> a `.npy` file, or a column of `log.items`: text or vectors."""
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    negatives: Negatives = field(default_factory=Negatives)
    capacity: Capacity = field(default_factory=Capacity)
    training: Training = field(default_factory=Training)
    evaluate: Evaluate = field(default_factory=Evaluate)

    @property
    def l2(self) -> float:
        """Strength of the L2 term."""
        # Dropout keeps a transformer from learning by heart, and L2 only slows it.
        default = 0.4 if self.model.user_tower == "mlp" else 0.0
        return default if self.loss.l2 is None else self.loss.l2


# What an error proposes to write where the default would not teach it.
_EXAMPLES = {
    "log.path": "events.csv.gz",
    "log.user": "user_id",
    "log.item": "item_id",
    "log.behavior": "behavior",
    "log.timestamp": "timestamp",
    "log.ignore": ["refund"],
    "log.users": "users.csv.gz",
    "log.items": "items.csv.gz",
    "funnel": ["view", "cart", "buy"],
    "features.user": {"country": "categorical"},
    "features.item": {"category": "categorical", "tags": "multi", "price": "numeric"},
    "modalities": {"image": "image_feat.npy", "text": "title"},
    "model.user_tower": "heterrec",
    "model.hidden": [128],
    "loss.l2": 0.4,
    "negatives.msac.level1": 32,
    "capacity.shares": [0.5, 0.3, 0.2],
    "capacity.tau": 0.3,
    "training.batch_size": 1024,
    "training.learning_rate": 0.01,
}


def config_of_run(directory: str | os.PathLike[str]) -> Config:
    """Reads the configuration of a run.

    Raises:
        FileNotFoundError: when there is no run in `directory`.

    Example:
        >>> config_of_run("no/such/folder")
        Traceback (most recent call last):
        FileNotFoundError: no/such/folder should be the directory of a run. Received: no such folder; ...
    """
    path = os.path.join(directory, "config.yaml")
    if not os.path.exists(path):
        received = "one without config.yaml" if os.path.isdir(directory) else "no such folder"
        raise FileNotFoundError(
            f"{directory} should be the directory of a run. Received: {received}; "
            f"make it with `csmf-tf fit CONFIG.yaml --out {directory}`"
        )
    with open(path, encoding="utf-8") as file:
        return from_dict(_yaml.parse(file.read(), path))


def load_config(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Config:
    """Reads a YAML file and checks it.

    Args:
        path: the YAML file. `log.path`, `log.users`, `log.items` and the `.npy` files of `modalities` are
            resolved relative to its directory.
        overrides: `"a.b=value"` strings that replace or add keys; the value is read as YAML.

    Returns:
        The checked `Config`, its paths absolute.

    Raises:
        ValueError: for text that is not YAML, repeated or unknown keys, wrong types or ranges, or a conflict.
        OSError: if the file cannot be read.

    Example:
        >>> import pathlib, tempfile
        >>> text = "{log: {path: log.csv, user: u, item: i, behavior: b, timestamp: t}, funnel: [view, buy]}"
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder, "config.yaml")
        ...     _ = path.write_text(text)
        ...     config = load_config(path, overrides=["model.embedding_dim=8"])
        >>> config.funnel, config.model.embedding_dim, config.split.kind
        (('view', 'buy'), 8, 'time')
    """
    with open(path, encoding="utf-8") as file:
        raw = _yaml.parse(file.read(), str(path))
    if type(raw) is not dict:
        raise ValueError(f"{path} should hold a mapping with at least `log` and `funnel`. Received: {raw!r}.")
    for assignment in overrides:
        _yaml.override(raw, assignment)
    config = from_dict(raw)
    directory = os.path.dirname(os.path.abspath(path))
    paths = {name: _resolve(getattr(config.log, name), directory) for name in ("path", "users", "items")}
    modalities = {
        name: _resolve(source, directory) if is_file(source) else source
        for name, source in config.modalities.items()
    }
    return replace(config, log=replace(config.log, **paths), modalities=modalities)


def from_dict(raw: Mapping[str, Any]) -> Config:
    """Checks nested plain values and fills in the defaults; paths stay as they are.

    Args:
        raw: what YAML or JSON gives: mappings, lists, strings, numbers, booleans and None.

    Returns:
        The checked `Config`.

    Raises:
        ValueError: for unknown keys, wrong types or ranges, or a conflict between keys.

    Example:
        >>> log = {"path": "events.csv", "user": "user_id", "item": "item_id", "behavior": "event"}
        >>> config = from_dict({"log": log, "funnel": ["view", "buy"], "split": {"kind": "leave_last"}})
        >>> config.split.kind, config.model.embedding_dim, config.evaluate.ks
        ('leave_last', 64, (50,))
    """
    config = _schema.read(Config, raw, _EXAMPLES)
    problems = list(conflicts(config, raw))
    if problems:
        raise ValueError("\n".join(problems))
    return config


def to_dict(config: Config) -> dict[str, Any]:
    """The inverse of `from_dict`: nested dicts and lists of plain values with every default written out.

    Args:
        config: a checked `Config`.

    Returns:
        A dict that YAML and JSON can write and that `from_dict` turns into an equal `Config`.
    """
    plain = json.loads(json.dumps(asdict(config)))
    for key, kind in SPLIT_KEYS.items():
        if config.split.kind != kind:
            del plain["split"][key]
    return plain


def _resolve(path: Any, directory: str) -> Any:
    if path is None or "://" in path:
        return path
    return os.path.normpath(os.path.join(directory, os.path.expanduser(path)))
