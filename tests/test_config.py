"""The configuration: what is accepted, what it becomes, and the text of every refusal."""

import dataclasses
import re
import subprocess
import sys
import typing

import pytest
import yaml

from csmf_tf.config import Config, from_dict, load_config, to_dict

LEAST = """
log: {path: events.csv.gz, user: u, item: i, behavior: b, timestamp: t}
funnel: [view, cart, buy]
split: {kind: time, at: 0.8}
model: {embedding_dim: 32}
"""

FULL = """
log: {path: e, user: u, item: i, behavior: b, timestamp: t, ignore: [refund], users: u.csv, items: i.pq}
funnel: [view, cart, buy]
closure: false
split: {kind: item_holdout, fraction: 0.2, seed: 7}
validation_users: 0.3
features: {user: {country: categorical}, item: {tags: multi, price: numeric}}
model:
  user_tower: mlp
  embedding_dim: 48
  hidden: [128, 96]
  granularity: weight
  user_id: false
  history: {length: 20, drop: 0.25}
  feature_dim: 8
  item_id_drop: 0.2
  oov_buckets: 4
  normalize: true
  temperature: [0.1, 0.2, 0.3]
  heterrec: {layers: 2, heads: 2, dim: 64, intermediate_dim: null, dropout: 0.2, mask: block, pooling: mean,
             flatten: true, share_embeddings: true, buckets: 0, list_length: 16}
modalities: {image: /data/image.npy, text: title}
loss: {kind: sampled, margin: -0.5, l2: 0.0, l2_balance: 4.0, l2_popularity: 0.5, step_weights: [1.0],
       one_list: false}
negatives:
  kind: [uniform, popularity, edis, msac]
  uniform: 64
  popularity: 32
  popularity_power: 0.5
  funnel: 2
  clusters: 3
  anchors: 4
  log_q: false
  edis: {simple: false, hard: 2, low: 0.2, cap: 0.4, concentration: 2.0, gradient: false}
  msac: {level1: 9, level2: 3, hard: 2, temperature: 0.5, behavioral: true, align: false, recluster: 2}
capacity: {shares: [0.6, 0.3, 0.1], tau: null, principal_axes: false}
training: {epochs: 3, recover_epochs: 0, recover_share: 0.5, patience: 2, batch_size: 256, optimizer: adagrad,
           learning_rate: 0.05, decay: false, seed: 3, mixed_precision: true, jit_compile: true}
evaluate: {ks: [10, 50], memory_mb: 32.0}
"""


@pytest.fixture
def load(tmp_path):
    """Loads the least config with some overrides."""
    path = tmp_path / "config.yaml"
    path.write_text(LEAST)
    return lambda *overrides: load_config(path, overrides)


def test_least_config_takes_the_documented_defaults(load):
    config = load()
    log, split, model, loss, training = config.log, config.split, config.model, config.loss, config.training
    assert (log.timestamp, log.ignore, log.users, log.items) == ("t", (), None, None)
    assert (config.funnel, config.closure, config.validation_users) == (("view", "cart", "buy"), True, None)
    assert (split.kind, split.at, split.seed) == ("time", 0.8, 0)
    assert (model.embedding_dim, model.hidden, model.by_weight, model.feature_dim) == (32, (), False, 16)
    assert (model.reads_user_id, model.history.length, model.history.drop, model.temperature) == (
        True,
        0,
        0.5,
        1.0,
    )
    assert (loss.kind, config.l2, loss.margin) == ("auto", 0.4, 0.0)
    negatives = config.negatives
    assert negatives.kind == ("in_batch", "uniform", "funnel")
    assert (negatives.uniform, negatives.funnel, negatives.log_q) == (512, 4, True)
    assert (negatives.clusters, negatives.anchors, config.modalities) == (2, 5, {})
    assert (config.capacity.shares, config.capacity.tau) == (None, None)
    assert (training.epochs, training.recover_epochs, training.patience, training.seed) == (24, 12, 6, 0)
    assert (training.batch_size, training.optimizer, training.learning_rate) == (None, "auto", None)
    assert config.evaluate.ks == (50,)


def test_to_dict_holds_every_value_that_was_given():
    assert to_dict(from_dict(yaml.safe_load(FULL))) == yaml.safe_load(FULL)


@pytest.mark.parametrize("split", ["{}", "{kind: item_holdout}", "{kind: leave_last, seed: 3}"])
def test_to_dict_comes_back_equal_through_yaml(load, split):
    config = load(f"split={split}", "evaluate.ks=[5, 7]", "model={normalize: true, temperature: 0.05}")
    assert from_dict(yaml.safe_load(yaml.safe_dump(to_dict(config)))) == config


def test_overrides_are_read_as_yaml_and_the_last_one_wins(load):
    config = load(
        "model.embedding_dim=16", "loss={kind: full}", "model.embedding_dim=8", "training.learning_rate=1e-3"
    )
    assert (config.model.embedding_dim, config.loss.kind, config.training.learning_rate) == (8, "full", 0.001)


def test_empty_sections_and_integers_for_floats_are_fine(load):
    config = load("loss=", "training.learning_rate=1", "model={normalize: true, temperature: 2}")
    assert config.l2 == 0.4
    assert type(config.training.learning_rate) is type(config.model.temperature) is float


def test_shares_that_sum_to_one_in_decimals_are_fine(load):
    assert load("capacity.shares=[0.7, 0.2, 0.1]").capacity.shares == (0.7, 0.2, 0.1)


# Overrides of the least config (several joined by " & "); below them, indented, a part of the error's text.
REFUSED = r"""
model.embeding_dim=3
  Unknown key `model.embeding_dim`. Did you mean `model.embedding_dim`?
modle={}
  Unknown key `modle`. Did you mean `model`?
embedding_dim=64
  Unknown key `embedding_dim`. Did you mean `model.embedding_dim`?
model.history.lenght=3
  Unknown key `model.history.lenght`. Did you mean `model.history.length`?
loss={7: 1}
  Unknown key `loss.7`. `loss` has the keys kind, margin,
features={cat: categorical}
  Unknown key `features.cat`. `features` has the keys user, item.
loss.temperature=2
  Unknown key `loss.temperature`. Did you mean `model.temperature`?
model.user_tower=transformer
  Received: model.user_tower='transformer'; write e.g. `user_tower: heterrec`.
loss=3
  `loss` should be a mapping (keys: kind, margin, l2, l2_balance,
log=
  `log.path` is missing. It should be a non-empty string; write e.g. `path: events.csv.gz`.
log={path: e.csv}
  `log.user` is missing. It should be a non-empty string; write e.g. `user: user_id`.
log.path=''
  `log.path` should be a non-empty string. Received: log.path=''; write e.g.
log.ignore=[buy, refund]
  `log.ignore` should not name behaviours of the funnel. Received: ['buy']; list them
funnel=[]
  `funnel` should be a list of non-empty strings, at least one, all different. Received: funnel=[]; write
  e.g. `funnel: [view, cart, buy]`.
funnel=[view, view]
  `funnel` should be a list of non-empty strings, at least one, all different. Received: funnel=['view',
  'view'];
funnel=view
  `funnel` should be a list of non-empty strings, at least one, all different. Received: funnel='view';
funnel=[1, 2]
  `funnel` should be a list of non-empty strings, at least one, all different. Received: funnel=[1, 2];
closure=maybe
  `closure` should be true or false. Received: closure='maybe'; write e.g. `closure: true`.
split.kind=random
  `split.kind` should be one of time, item_holdout, leave_last. Received: split.kind='random';
split.kind=leave_last
  `split.at` belongs to kind time. Received: split.kind='leave_last'; leave it out.
split.fraction=0.2
  `split.fraction` belongs to kind item_holdout. Received: split.kind='time'; leave it out.
split.at=1.0
  `split.at` should be a number in (0, 1). Received: split.at=1.0; write e.g. `at: 0.9`.
log.timestamp=
  `split.kind: time` should come with a timestamp column. Received: log.timestamp=None; name the column in
  `log.timestamp`, or set `split.kind` to item_holdout or leave_last.
validation_users=1
  `validation_users` should be a number in [0, 1) or null. Received: validation_users=1;
features.item.price=float
  `features.item` should be a mapping with each value one of categorical, multi, numeric, vector. Received:
  features.item={'price': 'float'};
features.item.price=numeric
  `features.item` should come with a feature table. Received: log.items=None; write e.g. `log: {items:
  items.csv.gz}`.
log.items=i.csv & features.item.i=multi
  `features.item` should not name the id column. Received: 'i'; leave it
model.embedding_dim='64'
  `model.embedding_dim` should be an integer >= 1. Received: model.embedding_dim='64'; write e.g.
  `embedding_dim: 64`.
model.embedding_dim=true
  `model.embedding_dim` should be an integer >= 1. Received: model.embedding_dim=True;
model.embedding_dim=2
  `model.embedding_dim` should hold a coordinate for each of the 3 objectives. Received:
model.hidden=128
  `model.hidden` should be a list of integers >= 1. Received: model.hidden=128; write e.g. `hidden: [128]`.
model.granularity=neuron
  `model.granularity` should be one of unit, weight or null. Received:
model.user_id=false
  The user tower should have an input. Received: model.user_id=False, features.user={},
  model.history.length=0; set one of the three.
model.item_id_drop=1
  `model.item_id_drop` should be a number in [0, 1). Received: model.item_id_drop=1; write e.g.
model.item_id_drop=0.2
  `model.item_id_drop` needs what items are known by without their ids. Received: item_id_drop=0.2,
  features.item={}; name features, or leave it out.
model.temperature=0
  `model.temperature` should be a number > 0 or a list of numbers > 0. Received:
model.temperature=0.5
  `model.temperature` belongs to normalised segments. Received: model.temperature=0.5, model.normalize=False;
model.temperature=[1, 2]
  `model.temperature` should have one entry for each of the 3 objectives of the funnel. Received:
  model.temperature=[1.0, 2.0].
negatives.kind=[funnel]
  `negatives.kind` should hold another kind beside funnel, which the first objective has none of. Received:
  ['funnel']; add e.g. in_batch, or set `loss: {kind: full}`.
negatives.kind=[easy]
  `negatives.kind` should be a list of one of in_batch, uniform, popularity, funnel, edis, msac, at least one,
negatives.kind=[edis] & loss.kind=full
  `loss.kind: full` has all items as negatives and draws none. Received: loss.kind='full',
  negatives.kind=['edis']; leave out ['edis'], or set `loss: {kind: sampled}`.
negatives.anchors=1
  `negatives.anchors` should be an integer >= 2. Received: negatives.anchors=1; write e.g. `anchors: 5`.
negatives.edis={low: 0.5, cap: 0.5}
  `negatives.edis.low` should be below `negatives.edis.cap`. Received: low=0.5, cap=0.5.
negatives.edis={simple: false, hard: 0}
  `negatives.edis` should make something. Received: simple=False, hard=0; set one of the two.
negatives={kind: [edis, msac], edis: {hard: 5}}
  `negatives.edis.hard` should be at most 4, the negatives of a row that it is made from. Received: 5.
negatives={kind: [msac], msac: {behavioral: false}}
  `negatives.msac` should have something to tell items by. Received: modalities={},
  negatives.msac.behavioral=False; set one of the two.
negatives.msac={recluster: 2, behavioral: false}
  `negatives.msac.recluster` belongs to `behavioral: true`: the other vectors never change. Received:
  recluster=2, behavioral=False.
modalities={text: title}
  `modalities` ['text'] should be .npy files, or columns of an item table. Received: ['title'] with
  log.items=None; write e.g. `log: {items: items.csv.gz}`.
modalities={cost: price} & log.items=i.csv & features.item={price: numeric}
  `modalities` ['cost'] should be text or several strings. Received: columns that `features.item` calls
  numeric; leave them out.
modalities={behavior: b.npy}
  `modalities` should leave the name behavior to the vectors made of the events. Received: ['behavior'];
loss.l2=-1.0
  `loss.l2` should be a number >= 0 or null. Received: loss.l2=-1.0; write e.g. `l2: 0.4`.
capacity.tau=1.2
  `capacity.tau` should be a number in [0, 1) or a list of numbers in [0, 1) or null. Received:
  capacity.tau=1.2; write e.g. `tau: 0.3`.
capacity.shares=[0.5, 0.5]
  `capacity.shares` should have one entry for each of the 3 objectives of the funnel.
capacity.shares=[0.5, 0.5, 0.2]
  `capacity.shares` should sum to at most 1. Received: [0.5, 0.5, 0.2], which sum to 1.2.
capacity.shares=[0.5, 0.4, 0.03]
  `capacity.shares` should give each objective at least one of the 32 coordinates. Received: [0.5, 0.4,
  0.03]; raise the smallest share or `model.embedding_dim`.
capacity={shares: [0.5, 0.3, 0.2], tau: 0.3}
  `capacity` should have shares or tau, not both. Received:
training.epochs=1.5
  `training.epochs` should be an integer >= 1. Received: training.epochs=1.5;
training.learning_rate=.inf
  `training.learning_rate` should be a number > 0 or null. Received:
training.optimizer=lion
  `training.optimizer` should be one of auto, adam, adagrad, sgd, adamw. Received:
evaluate.ks=[]
  `evaluate.ks` should be a list of integers >= 1, at least one, all different. Received:
evaluate.ks=[0, 50]
  Received: evaluate.ks=[0, 50]; write e.g. `ks: [50]`.
model.embedding_dim
  `--set` should be key=value, e.g. model.embedding_dim=64. Received: 'model.embedding_dim'.
model..embedding_dim=3
  `--set` should be key=value
funnel.first=view
  `--set funnel.first=view`: `funnel` has no keys of its own. Received: funnel=['view',
evaluate.ks=[5
  --set evaluate.ks=[5 should be valid YAML. Received:
"""


def cases(text):
    overrides: list[list[str]] = []
    messages: list[list[str]] = []
    for line in text.strip().splitlines():
        if line.startswith("  "):
            messages[-1].append(line.strip())
        else:
            overrides.append(line.split(" & "))
            messages.append([])
    return zip(overrides, map(" ".join, messages), strict=True)


@pytest.mark.parametrize(("overrides", "message"), list(cases(REFUSED)))
def test_bad_config_is_refused(load, overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load(*overrides)


def test_all_conflicts_are_told_at_once(load):
    with pytest.raises(ValueError, match=r"(?s)timestamp column.*`log.ignore`.*`model.embedding_dim`"):
        load("log.timestamp=", "log.ignore=[buy]", "model.embedding_dim=1")


def keys_of(cls, prefix=""):
    keys: list[str] = []
    for name, hint in typing.get_type_hints(cls).items():
        keys += keys_of(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else [prefix + name]
    return keys


@pytest.mark.parametrize("key", keys_of(Config))
def test_every_key_is_checked_and_named_in_full(key):
    raw = yaml.safe_load(LEAST)
    *sections, leaf = key.split(".")
    place = raw
    for section in sections:
        place = place.setdefault(section, {})
    place[leaf] = object()
    with pytest.raises(
        ValueError, match=rf"^`{re.escape(key)}` should be .* Received: .* write e\.g\. `{leaf}: "
    ):
        from_dict(raw)


def test_paths_are_relative_to_the_file(tmp_path, load, monkeypatch):
    monkeypatch.chdir("/")
    log = load("log.items=features/items.csv", "log.users=/data/users.csv").log
    assert log.path == str(tmp_path / "events.csv.gz")
    assert log.items == str(tmp_path / "features" / "items.csv")
    assert log.users == "/data/users.csv"
    assert load("log.path=gs://bucket/events.parquet").log.path == "gs://bucket/events.parquet"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "should hold a mapping with at least `log` and `funnel`. Received: None."),
        ("- view\n- buy\n", "Received: ['view', 'buy']."),
        ("log: {path: [}", "config.yaml should be valid YAML. Received: "),
        ("funnel: [a]\nmodel: {}\nmodel: {hidden: [3]}\n", "key `model` stands twice"),
    ],
)
def test_bad_files(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(tmp_path / "config.yaml")


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_config(tmp_path / "nowhere")


def test_config_does_not_import_tensorflow():
    code = "import sys, csmf_tf.config; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
