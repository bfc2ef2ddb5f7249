"""The configuration of a run: dataclasses whose type hints are the checks.

A YAML file or a plain dict becomes a `Config`; what is not given takes the default written below. An unknown
key, a wrong type or range, and keys that do not go together are errors that name the key and what mends it.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from csmf_tf import _schema, _yaml
from csmf_tf._schema import Rule

SOME = Rule(", at least one", bool)
DISTINCT = Rule(", all different", lambda entries: len(set(entries)) == len(entries))
Count = Annotated[int, Rule(" >= 0", lambda n: n >= 0)]
Size = Annotated[int, Rule(" >= 1", lambda n: n >= 1)]
Positive = Annotated[float, Rule(" > 0", lambda x: x > 0)]
NotNegative = Annotated[float, Rule(" >= 0", lambda x: x >= 0)]
Inside = Annotated[float, Rule(" in (0, 1)", lambda x: 0 < x < 1)]
Share = Annotated[float, Rule(" in (0, 1]", lambda x: 0 < x <= 1)]
BelowOne = Annotated[float, Rule(" in [0, 1)", lambda x: 0 <= x < 1)]
Seed = Annotated[int, Rule(" in [0, 2^31)", lambda n: 0 <= n < 2**31)]
FeatureKind = Literal["categorical", "multi", "numeric"]


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
class Model:
    """The two towers; `temperature` is one number, or one per objective."""

    embedding_dim: Size = 64
    hidden: tuple[Size, ...] = ()
    granularity: Literal["unit", "weight"] = "unit"
    user_id: bool = True
    history: History = field(default_factory=History)
    feature_dim: Size = 16
    oov_buckets: Size = 1
    normalize: bool = False
    temperature: Positive | tuple[Positive, ...] = 1.0


@dataclass(frozen=True)
class Loss:
    """The retrieval softmax, its negatives and its L2; `margin` is m0 of the adaptive margin (AML)."""

    kind: Literal["auto", "full", "sampled"] = "auto"
    uniform_negatives: Count = 512
    in_batch: bool = True
    funnel_negatives: Count = 4
    log_q: bool = True
    margin: float = 0.0
    l2: NotNegative = 0.4
    l2_balance: Positive = 16.0
    l2_popularity: NotNegative = 0.75


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
    model: Model = field(default_factory=Model)
    loss: Loss = field(default_factory=Loss)
    capacity: Capacity = field(default_factory=Capacity)
    training: Training = field(default_factory=Training)
    evaluate: Evaluate = field(default_factory=Evaluate)


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
    "model.hidden": [128],
    "capacity.shares": [0.5, 0.3, 0.2],
    "capacity.tau": 0.3,
    "training.batch_size": 1024,
    "training.learning_rate": 0.01,
}
_SPLIT_KEYS = {"at": "time", "fraction": "item_holdout"}


def load_config(path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Config:
    """Reads a YAML file and checks it.

    Args:
        path: the YAML file. `log.path`, `log.users` and `log.items` are resolved relative to its directory.
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
    return replace(config, log=replace(config.log, **paths))


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
    problems = list(_conflicts(config, raw))
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
    for key, kind in _SPLIT_KEYS.items():
        if config.split.kind != kind:
            del plain["split"][key]
    return plain


def _conflicts(config: Config, raw: Mapping[str, Any]) -> Iterator[str]:
    """One message for each pair of settings that do not go together."""
    log, split, model, loss = config.log, config.split, config.model, config.loss
    for key, kind in _SPLIT_KEYS.items():
        if split.kind != kind and key in (raw.get("split") or {}):
            yield f"`split.{key}` belongs to kind {kind}. Received: split.kind='{split.kind}'; leave it out."
    if split.kind == "time" and log.timestamp is None:
        yield (
            "`split.kind: time` should come with a timestamp column. Received: log.timestamp=None; "
            "name the column in `log.timestamp`, or set `split.kind` to item_holdout or leave_last."
        )
    if both := [name for name in log.ignore if name in config.funnel]:
        yield f"`log.ignore` should not name behaviours of the funnel. Received: {both}; list them once."
    for side, table, id_column in (("user", log.users, log.user), ("item", log.items, log.item)):
        columns = getattr(config.features, side)
        if columns and table is None:
            yield (
                f"`features.{side}` should come with a feature table. Received: log.{side}s=None; "
                f"write e.g. `log: {{{side}s: {side}s.csv.gz}}`."
            )
        if id_column in columns:
            yield f"`features.{side}` should not name the id column. Received: {id_column!r}; leave it out."
    if not (model.user_id or config.features.user or model.history.length):
        yield (
            "The user tower should have an input. Received: model.user_id=False, features.user={}, "
            "model.history.length=0; set one of the three."
        )
    if model.temperature != 1.0 and not model.normalize:
        yield (
            f"`model.temperature` belongs to normalised segments. Received: model.temperature="
            f"{model.temperature}, model.normalize=False; set `normalize: true`, or leave it out."
        )
    if loss.kind != "full" and not (loss.in_batch or loss.uniform_negatives):
        yield (
            f"`loss` should have negatives. Received: loss.kind='{loss.kind}', loss.in_batch=False, "
            "loss.uniform_negatives=0; set one of the two, or `loss: {kind: full}`."
        )
    yield from _objective_conflicts(config)


def _objective_conflicts(config: Config) -> Iterator[str]:
    """One message for each setting that does not suit the number of objectives."""
    objectives, dim = len(config.funnel), config.model.embedding_dim
    shares, tau = config.capacity.shares, config.capacity.tau
    lists = {"model.temperature": config.model.temperature, "capacity.shares": shares, "capacity.tau": tau}
    for key, values in lists.items():
        if isinstance(values, tuple) and len(values) != objectives:
            yield (
                f"`{key}` should have one entry for each of the {objectives} objectives of the funnel. "
                f"Received: {key}={list(values)}."
            )
    if dim < objectives:
        yield (
            f"`model.embedding_dim` should hold a coordinate for each of the {objectives} objectives. "
            f"Received: model.embedding_dim={dim}."
        )
    if shares is not None and tau is not None:
        yield f"`capacity` should have shares or tau, not both. Received: shares={list(shares)}, tau={tau}."
    if shares and (total := math.fsum(shares)) > 1 + 1e-9:
        yield f"`capacity.shares` should sum to at most 1. Received: {list(shares)}, which sum to {total:g}."
    if shares and min(shares) * dim < 1 - 1e-9:
        yield (
            f"`capacity.shares` should give each objective at least one of the {dim} coordinates. "
            f"Received: {list(shares)}; raise the smallest share or `model.embedding_dim`."
        )


def _resolve(path: Any, directory: str) -> Any:
    if path is None or "://" in path:
        return path
    return os.path.normpath(os.path.join(directory, os.path.expanduser(path)))
