"""The sections of a configuration: dataclasses whose type hints are the checks.

The string below a field is its text in docs/config.md, which `python -m csmf_tf.config_reference` writes.
"""

from dataclasses import dataclass, field
from typing import Annotated, Literal

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
FeatureKind = Literal["categorical", "multi", "numeric", "vector"]
NegativeKind = Literal["in_batch", "uniform", "popularity", "funnel", "edis", "msac"]


@dataclass(frozen=True)
class Log:
    """The event log, its columns, and feature tables."""

    path: str
    """Event log: CSV, CSV.gz or Parquet (a file or a folder), one row an event."""
    user: str
    """Name of its column of users."""
    item: str
    """Name of its column of items."""
    behavior: str
    """Name of its column of behaviours."""
    timestamp: str | None = None
    """Column of times: unix seconds or milliseconds, or ISO 8601."""
    ignore: Annotated[tuple[str, ...], DISTINCT] = ()
    """Behaviours to skip; any other behaviour outside `funnel` is an error."""
    users: str | None = None
    """Feature table of the users, with the same id column."""
    items: str | None = None
    """Feature table of the items, with the same id column."""


@dataclass(frozen=True)
class Split:
    """How test events are held out."""

    kind: Literal["time", "item_holdout", "leave_last"] = "time"
    """Cut in time, a share of each user's items, or each user's last item; see docs/evaluation.md."""
    at: Inside = 0.9
    """`time` only: the quantile of the event times at which the test part begins."""
    fraction: Inside = 0.1
    """`item_holdout` only: share of each user's items to hold out."""
    seed: Seed = 0
    """Seed of the split."""


@dataclass(frozen=True)
class Features:
    """Columns of the feature tables that the towers read: name -> kind."""

    user: dict[str, FeatureKind] = field(default_factory=dict)
    """Columns of `log.users` that the user tower reads."""
    item: dict[str, FeatureKind] = field(default_factory=dict)
    """Columns of `log.items` that the item tower reads."""


SEQUENCE = "history"
"""Name of the feature that holds a user's items of all behaviours."""

SEQUENCE_BEHAVIOR = "history_behavior"
"""Name of the feature that holds what the user did with each of them; only of funnels of several."""


@dataclass(frozen=True)
class History:
    """What a user tower reads of what the user did before."""

    length: Count = 0
    """The user's last items as features, of each behaviour or, with heterrec, of all; 0 is off."""
    drop: Inside = 0.5
    """Without times: share of a user's items that are targets, not history, in an epoch."""


@dataclass(frozen=True)
class HeterRec:
    """The transformer over the tokens of a history's items, with `user_tower: heterrec`."""

    layers: Count | tuple[Count, ...] = 2
    """Token-level and item-level blocks: one number for both, or two."""
    heads: Size = 2
    """Attention heads, which share the width of tokens."""
    dim: Size = 64
    """Width of tokens."""
    intermediate_dim: Size | None = None
    """Units of the feed-forward layers; by default twice the width."""
    dropout: BelowOne = 0.2
    """Dropout of tokens, attention weights and the outputs of blocks, in training."""
    mask: Literal["block", "causal"] = "block"
    """`block`: a token attends to its own item and earlier ones; `causal`: to itself and earlier tokens."""
    pooling: Literal["mean", "last", "attention"] = "mean"
    """How an item's tokens become one vector."""
    flatten: bool = True
    """A token for each feature; false joins the features of an item to one."""
    share_embeddings: bool = True
    """Tokens read the item tower's tables, projected."""
    buckets: Count = 0
    """Numbers in so many buckets of equal counts; 0 projects them."""
    list_length: Size = 16
    """Strings of a `multi` feature that count."""


@dataclass(frozen=True)
class Model:
    """The two towers."""

    user_tower: Literal["mlp", "heterrec"] = "mlp"
    """`heterrec` is a transformer over the user's last items; see docs/heterrec.md."""
    embedding_dim: Size = 64
    """D, the coordinates of the embedding."""
    hidden: tuple[Size, ...] = ()
    """Units of the hidden ReLU layers of both towers."""
    granularity: Literal["unit", "weight"] | None = None
    """What stages own of hidden layers, neurons or single weights; by default `weight` with heterrec, else
    `unit`."""
    user_id: bool | None = None
    """Whether the user tower reads the id; by default not with heterrec."""
    history: History = field(default_factory=History)
    feature_dim: Size = 16
    """Width of a categorical or multi feature's embedding."""
    item_id_drop: BelowOne = 0.0
    """Share of the items that are scored without their ids at each step of training, so that new ones, which
    have but their features, are learned too; see docs/own_data.md."""
    oov_buckets: Size = 1
    """Out-of-vocabulary rows of each lookup."""
    normalize: bool = False
    """L2-normalise each segment."""
    temperature: Positive | tuple[Positive, ...] = 1.0
    """With `normalize`: one number, or one for each objective."""
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
    """The retrieval softmax, its margin and its L2."""

    kind: Literal["auto", "full", "sampled"] = "auto"
    """Softmax over the whole catalogue, or over drawn items; `auto` is full up to 50,000 items (5,000 with
    heterrec), unless `negatives.kind` has edis or msac."""
    margin: float = 0.0
    """The m0 of the cross-stage adaptive margin; 0 is off."""
    l2: NotNegative | None = None
    """L2 strength, in units of the noise of the stage's data; by default 0.4, with heterrec 0."""
    l2_balance: Positive = 16.0
    """How much stronger than `l2` the items' side is, and how much weaker the users'."""
    l2_popularity: NotNegative = 0.75
    """Power of the number of its positives with which an item's L2 grows; 0 is none."""
    step_weights: Annotated[tuple[Positive, ...], SOME] = (1.0,)
    """Heterrec: weights of the next items that each position predicts, which are divided by their sum."""
    one_list: bool = False
    """Heterrec: all of them in one softmax, a full one; else each against what is none of them."""


@dataclass(frozen=True)
class Edis:
    """Virtual negatives, of kind `edis`."""

    simple: bool = True
    """Whether there are simple virtual negatives."""
    hard: Count = 1
    """Hard virtual negatives a row."""
    low: NotNegative = 0.1
    """Least share of the positive in a hard one."""
    cap: Inside = 0.5
    """Largest share of the positive in a hard one."""
    concentration: Positive = 1.0
    """Concentration of the Dirichlet weights of simple ones."""
    gradient: bool = True
    """Whether gradients flow through virtual negatives."""


@dataclass(frozen=True)
class Msac:
    """Negatives by clusters of the items, of kind `msac`."""

    level1: Several | None = None
    """Clusters of level 1; by default sqrt(items) / 4."""
    level2: Size = 8
    """Clusters of level 2, within each of level 1."""
    hard: Count = 4
    """Most hard negatives a row."""
    temperature: Positive = 1.0
    """What the distances of level-1 centres are divided by."""
    behavioral: bool = True
    """Also tell items by what users did."""
    align: bool = True
    """Train projections that bring an item's modalities together."""
    recluster: Count = 0
    """Cluster anew every n epochs, with the model's vectors; 0 is never."""


@dataclass(frozen=True)
class Negatives:
    """The negatives of the sampled softmax."""

    kind: Annotated[tuple[NegativeKind, ...], SOME, DISTINCT] = ("in_batch", "uniform", "funnel")
    """Sources of the sampled softmax's negatives; see docs/negatives.md."""
    uniform: Size = 512
    """Uniform items a batch."""
    popularity: Size = 512
    """Items a batch, drawn by popularity."""
    popularity_power: Positive = 0.75
    """Power of the number of positives by which popularity negatives are drawn."""
    funnel: Size = 4
    """Upstream-only items of the user, from the second stage on."""
    clusters: Size = 2
    """Edis and msac: clusters that a row's easy negatives come from."""
    anchors: Several = 5
    """Edis and msac: items of each of these clusters."""
    log_q: bool = True
    """Correct the sampled softmax for the sampling probabilities."""
    edis: Edis = field(default_factory=Edis)
    msac: Msac = field(default_factory=Msac)


@dataclass(frozen=True)
class Capacity:
    """What a stage keeps: `shares` or `tau`, not both."""

    shares: tuple[Share, ...] | None = None
    """Share of every layer that each stage keeps; may sum to less than 1."""
    tau: BelowOne | tuple[BelowOne, ...] | None = None
    """Instead of shares: share of the L1 mass (of the embedding: of what its principal axes hold) that
    pruning frees, one number or one for each objective."""
    principal_axes: bool = True
    """Turn the coordinates before pruning, so that few hold most of the scores; not where hidden layers or,
    with heterrec, tokens read an id's coordinates."""


@dataclass(frozen=True)
class Training:
    """The fit of each stage."""

    epochs: Size = 24
    """Most epochs of a stage's fit."""
    recover_epochs: Count = 12
    """Most epochs of accuracy recovery after pruning; 0 is none."""
    recover_share: Share = 1.0
    """Share of the data that a recovery epoch sees."""
    patience: Size = 6
    """Epochs without a better validation recall before a fit ends; with `decay`, not counted in the first fit
    before the rate has fallen."""
    batch_size: Size | None = None
    """Rows a batch; by default chosen from the size of the data."""
    optimizer: Literal["auto", "adam", "adagrad", "sgd", "adamw"] = "auto"
    """`auto` is Adam for the full softmax and for heterrec, else Adagrad; above 50,000 users whose ids are
    read, or items that heterrec reads, always Adagrad."""
    learning_rate: Positive | None = None
    """By default 0.02 for Adam and AdamW, 0.1 for Adagrad and SGD; with heterrec 0.003 for Adam and AdamW,
    0.02 for Adagrad."""
    decay: bool = True
    """Learning rate: a fifth after 3/4 of the epochs of a fit, a 25th in the last tenth; from a fifth on in
    all that follows the first fit."""
    seed: Seed = 0
    """Seed of everything that is drawn."""
    mixed_precision: bool = False
    """Compute in bfloat16."""
    jit_compile: bool = False
    """Compile the train step with XLA."""


@dataclass(frozen=True)
class Evaluate:
    """What is measured, and in how much memory."""

    ks: Annotated[tuple[Size, ...], SOME, DISTINCT] = (50,)
    """Cut-offs K of all metrics; Recall at the first one picks epochs."""
    memory_mb: Positive = 64.0
    """Bound of a ranking's working memory in megabytes."""
