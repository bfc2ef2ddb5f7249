"""The configuration of a run: dataclasses whose type hints are the checks.

A YAML file or a plain dict becomes a `Config`; what is not given takes the default written below. An unknown
key, a wrong type or range, and keys that do not go together are errors that name the key and what mends it.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from csmf_tf import _schema, _yaml
from csmf_tf._conflicts import SPLIT_KEYS, conflicts, is_file
from csmf_tf._schema import Rule

SOME = Rule(", at least one", bool)
DISTINCT = Rule(", all different", lambda entries: len(set(entries)) == len(entries))
Count = Annotated[int, Rule(" >= 0", lambda n: n >= 0)]
Size = Annotated[int, Rule(" >= 1", lambda n: n >= 1)]
Several = Annotated[int, Rule(" >= 2", lambda n: n >= 2)]
Positive = Annotated[float, Rule(" > 0", lambda x: x > 0)]
NotNegative = Annotated[float, Rule(" >= 0", lambda x: x >= 0)]
Inside = Annotated[float, Rule(" in (0, 1)", lambda x: 0 < x < 1)]
Share = Annotated[float, Rule(" in (0, 1]", lambda x: 0 < x <= 1)]
BelowOne = Annotated[float, Rule(" in [0, 1)", lambda x: 0 <= x < 1)]
Seed = Annotated[int, Rule(" in [0, 2^31)", lambda n: 0 <= n < 2**31)]
FeatureKind = Literal["categorical", "multi", "numeric"]
NegativeKind = Literal["in_batch", "uniform", "popularity", "funnel", "edis", "msac"]


@dataclass(frozen=True)
class Log:
    """The event log, its columns, the behaviours to skip, and feature tables (id columns as in the log)."""

    path: str
    user: str
    item: str
    behavior: str
    timestamp: str | None = None
    ignore: Annotated[tuple[str, ...], DISTINCT] = ()
    users: str | None = None
    items: str | None = None


@dataclass(frozen=True)
class Split:
    """How test events are held out; `at` belongs to kind time only, `fraction` to kind item_holdout only."""

    kind: Literal["time", "item_holdout", "leave_last"] = "time"
    at: Inside = 0.9
    fraction: Inside = 0.1
    seed: Seed = 0


@dataclass(frozen=True)
class Features:
    """Columns of the feature tables that the towers read: name -> kind."""

    user: dict[str, FeatureKind] = field(default_factory=dict)
    item: dict[str, FeatureKind] = field(default_factory=dict)


@dataclass(frozen=True)
class History:
    """The user's last `length` items per behaviour (0 = off); training drops a share of them, `drop`."""

    length: Count = 0
    drop: Inside = 0.5


@dataclass(frozen=True)
class HeterRec:
    """A transformer over the tokens of a history's items, `dim` wide; `layers` token-level and item-level.

    `flatten: false` joins an item's features to one token. `buckets` n > 0 puts numbers into n of them, and
    `list_length` strings of a list count.
    """

    layers: Count | tuple[Count, ...] = 2
    heads: Size = 2
    dim: Size = 64
    intermediate_dim: Size | None = None
    dropout: BelowOne = 0.2
    mask: Literal["block", "causal"] = "block"
    pooling: Literal["mean", "last", "attention"] = "mean"
    flatten: bool = True
    share_embeddings: bool = True
    buckets: Count = 0
    list_length: Size = 16


@dataclass(frozen=True)
class Model:
    """The two towers; `temperature` is one number, or one per objective.

    What is None goes by `user_tower`: mlp is by unit and reads the user's id, heterrec neither.
    """

    user_tower: Literal["mlp", "heterrec"] = "mlp"
    embedding_dim: Size = 64
    hidden: tuple[Size, ...] = ()
    granularity: Literal["unit", "weight"] | None = None
    user_id: bool | None = None
    history: History = field(default_factory=History)
    feature_dim: Size = 16
    oov_buckets: Size = 1
    normalize: bool = False
    temperature: Positive | tuple[Positive, ...] = 1.0
    heterrec: HeterRec = field(default_factory=HeterRec)

    @property
    def by_weight(self) -> bool:
        """Whether single weights of hidden layers are owned."""
        return (self.granularity or ("weight" if self.user_tower == "heterrec" else "unit")) == "weight"

    @property
    def reads_user_id(self) -> bool:
        """Whether the user tower reads the id."""
        return self.user_tower == "mlp" if self.user_id is None else self.user_id


@dataclass(frozen=True)
class Loss:
    """The retrieval softmax and its L2; `margin` is m0 of the adaptive margin (AML).

    `l2` None is 0.4, with heterrec 0. For heterrec: `step_weights` of the next items that a position
    predicts, in `one_list` or one by one.
    """

    kind: Literal["auto", "full", "sampled"] = "auto"
    margin: float = 0.0
    l2: NotNegative | None = None
    l2_balance: Positive = 16.0
    l2_popularity: NotNegative = 0.75
    step_weights: Annotated[tuple[Positive, ...], SOME] = (1.0,)
    one_list: bool = False


@dataclass(frozen=True)
class Edis:
    """Virtual negatives: `simple` ones, and `hard` a row; `low` and `cap` bound the positive's share."""

    simple: bool = True
    hard: Count = 1
    low: NotNegative = 0.1
    cap: Inside = 0.5
    concentration: Positive = 1.0
    gradient: bool = True


@dataclass(frozen=True)
class Msac:
    """Negatives by item clusters: their number, `hard` negatives a row, and what the items are told by.

    `level1` None is chosen from the number of items. `temperature` divides the distances of centres.
    `recluster` n > 0 clusters anew every n epochs, with the model's own vectors as behavioural ones.
    """

    level1: Several | None = None
    level2: Size = 8
    hard: Count = 4
    temperature: Positive = 1.0
    behavioral: bool = True
    align: bool = True
    recluster: Count = 0


@dataclass(frozen=True)
class Negatives:
    """The negatives of the sampled loss; `clusters` of `anchors` items each are for `edis` and `msac`."""

    kind: Annotated[tuple[NegativeKind, ...], SOME, DISTINCT] = ("in_batch", "uniform", "funnel")
    uniform: Size = 512
    popularity: Size = 512
    popularity_power: Positive = 0.75
    funnel: Size = 4
    clusters: Size = 2
    anchors: Several = 5
    log_q: bool = True
    edis: Edis = field(default_factory=Edis)
    msac: Msac = field(default_factory=Msac)


@dataclass(frozen=True)
class Capacity:
    """What a stage keeps: shares of the coordinates per objective, or `tau`, the L1 share that it frees.

    `principal_axes` turns the coordinates before, so that few hold most of the scores.
    """

    shares: tuple[Share, ...] | None = None
    tau: BelowOne | tuple[BelowOne, ...] | None = None
    principal_axes: bool = True


@dataclass(frozen=True)
class Training:
    """The fit of each stage; what is None is chosen by the fit."""

    epochs: Size = 24
    recover_epochs: Count = 12
    recover_share: Share = 1.0
    patience: Size = 6
    batch_size: Size | None = None
    optimizer: Literal["auto", "adam", "adagrad", "sgd", "adamw"] = "auto"
    learning_rate: Positive | None = None
    decay: bool = True
    seed: Seed = 0
    mixed_precision: bool = False
    jit_compile: bool = False


@dataclass(frozen=True)
class Evaluate:
    """The cut-offs K of all metrics, and the working memory of a ranking in megabytes."""

    ks: Annotated[tuple[Size, ...], SOME, DISTINCT] = (50,)
    memory_mb: Positive = 64.0


@dataclass(frozen=True)
class Config:
    """A whole run. Build it with `load_config` or `from_dict`: the constructor itself checks nothing."""

    log: Log
    funnel: Annotated[tuple[str, ...], SOME, DISTINCT]
    closure: bool = True
    split: Split = field(default_factory=Split)
    validation_users: BelowOne | None = None
    features: Features = field(default_factory=Features)
    modalities: dict[str, str] = field(default_factory=dict)
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
    "model.hidden": [128],
    "loss.l2": 0.4,
    "negatives.msac.level1": 32,
    "capacity.shares": [0.5, 0.3, 0.2],
    "capacity.tau": 0.3,
    "training.batch_size": 1024,
    "training.learning_rate": 0.01,
}


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
