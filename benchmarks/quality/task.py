"""What a method gets and what it gives."""

import copy
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from benchmarks.quality.movielens import with_times, with_words
from csmf_tf.config import Config, load_config
from csmf_tf.data.heterogeneous import simulate_heterogeneous
from csmf_tf.evaluation.funnel import FunnelEvaluator
from csmf_tf.evaluation.ranking import Scores
from csmf_tf.run import Run

# Where a log differs from the default configuration. `l2` was chosen by validation on views (of
# `retailrocket-published` for both its splits), and is that of CSMF and of every alternative.
LOGS: dict[str, dict[str, Any]] = {
    "taobao": {"split": {"kind": "item_holdout", "fraction": 0.1, "seed": 0}},
    "retailrocket": {"split": {"kind": "time", "at": 0.9}, "loss": {"l2": 0.1}},
    # SSLRec's test file: a buy for each user, without what else the user did with the item.
    "retailrocket-published": {"loss": {"l2": 0.1}, "evaluate": {"ks": [10]}},
}

# Those of the comparison of negatives: one objective each.
NEGATIVES_LOGS: dict[str, dict[str, Any]] = {
    "tiktok": {"funnel": ["play"], "modalities": {"image": "image_feat.npy", "audio": "audio_feat.npy"}},
    "taobao-cart": {"funnel": ["cart"], "log": {"ignore": ["view", "buy"]}},
    "movielens-small": {
        "funnel": ["rated"],
        "log": {"items": "items.csv.gz"},
        "modalities": {"title": "title", "genres": "genres"},
    },
}

_MOVIES: dict[str, Any] = {
    "funnel": ["rated"],
    "features": {"item": {"genres": "multi", "words": "multi", "year": "numeric"}},
    "evaluate": {"ks": [50, 10]},
}

# Those of the comparison of sequential recommenders: one objective each, with times.
SEQUENCE_LOGS: dict[str, dict[str, Any]] = {
    "movielens-last": {"split": {"kind": "leave_last"}, **_MOVIES},
    "movielens-time": {"split": {"kind": "time", "at": 0.9}, **_MOVIES},
    "retailrocket-view": {
        "funnel": ["view"],
        "log": {"ignore": ["cart", "buy"]},
        "split": {"kind": "time", "at": 0.9},
        "evaluate": {"ks": [50, 10]},
    },
}

# The other log of the comparison of depths and widths, simulated.
SIMULATED_LOGS: dict[str, dict[str, Any]] = {
    "simulated-features": {
        "funnel": ["view"],
        "split": {"kind": "leave_last"},
        "features": {
            "item": {"category": "categorical", "brand": "categorical", "price": "numeric", "tags": "multi"}
        },
        "log": {"timestamp": "timestamp"},
        "evaluate": {"ks": [10, 50]},
    },
}

ALL_LOGS = LOGS | NEGATIVES_LOGS | SEQUENCE_LOGS | SIMULATED_LOGS


class Task(NamedTuple):
    """One log, split once, and one seed.

    Attributes:
        run: an untrained `Run` of the default configuration; its split and its encoders serve all methods.
        validation: the evaluator that chooses epochs and settings.
        test: the evaluator of the figures.
        seed: seed of all that a method draws.
        folder: where a method may leave what it needs to go on after a kill.
    """

    run: Run
    validation: FunnelEvaluator
    test: FunnelEvaluator
    seed: int
    folder: pathlib.Path

    @property
    def dim(self) -> int:
        """Dimensions of the vector that serves an objective."""
        return self.run.config.model.embedding_dim

    @property
    def funnel(self) -> Sequence[str]:
        """Names of the objectives, upstream first."""
        return self.run.config.funnel

    def judge(self, scores: Mapping[str, Scores]) -> float:
        """Mean over some objectives of their validation recall."""
        found = [self.validation.discovery(of, name).values for name, of in scores.items()]
        return float(np.mean([values[self.validation.metric].mean() for values in found]))


class Ranked(NamedTuple):
    """What a method gives.

    Attributes:
        scores: objective -> what ranks for it.
        indexes: how many indices of vectors serve all objectives; 0 where none can.
        dims: dimensions of a vector in them.
        fused: function of weights, float `[K]`, that gives the scores of one search for all objectives; None
            where the results of several are to be merged, or one ranking serves all.
        notes: further plain numbers to report.
    """

    scores: dict[str, Scores]
    indexes: int
    dims: int
    fused: Callable[[np.ndarray], Scores] | None = None
    notes: Mapping[str, Any] = {}


def configuration(log: str, data: pathlib.Path, out: pathlib.Path, overrides: Sequence[str] = ()) -> Config:
    """The default configuration of a known log; overrides as in `csmf-tf fit --set`."""
    out.mkdir(parents=True, exist_ok=True)
    raw = {"funnel": ["view", "cart", "buy"], "split": {"kind": "item_holdout"}}
    raw |= copy.deepcopy(ALL_LOGS[log])
    raw["log"] = {"user": "user_id", "item": "item_id", "behavior": "behavior"} | raw.get("log", {})
    if log in SIMULATED_LOGS:
        simulate_heterogeneous(users=2000, items=1000).write(out / log)
        data, raw["log"]["items"] = out, "items.csv.gz"
    events = files_of(log, data)[0].absolute()
    if "items" in raw["log"]:
        raw["log"]["items"] = str(events.with_name(raw["log"]["items"]))
    for name, source in raw.get("modalities", {}).items():
        if source.endswith(".npy"):
            raw["modalities"][name] = str(events.with_name(source))
    if raw["funnel"] == ["rated"] and log in SEQUENCE_LOGS:
        items = with_words(events.with_name("items.csv.gz"), (out / f"{log}-items.csv").absolute())
        raw["log"] |= {"items": str(items), "timestamp": "timestamp"}
        events = with_times(events, (out / f"{log}.csv").absolute())
    if log == "retailrocket-published":
        events, raw["split"] = with_published(events, (out / f"{log}.csv").absolute())
    if events.name not in ("events.csv.gz", f"{log}.csv"):
        events = with_behavior(events, (out / f"{log}.csv").absolute(), raw["funnel"][0])
    raw["log"]["path"] = str(events)
    if raw["split"]["kind"] == "time":
        raw["log"]["timestamp"] = "timestamp"
    written = out / f"{log}.yaml"
    written.write_text(json.dumps(raw))
    return load_config(written, overrides)


def files_of(log: str, data: pathlib.Path) -> list[pathlib.Path]:
    """The files that a log is read from."""
    published = log.endswith("-published")
    folder = data / log
    for name in ("taobao", "retailrocket"):
        if log.startswith(name):
            folder = data / name
    if log.startswith("movielens"):
        return [data / "movielens-small" / "ratings.csv.gz"]
    if log == "tiktok":
        return [folder / "interactions.csv.gz"]
    return [folder / "events.csv.gz", *([folder / "published_test.csv.gz"] if published else [])]


def with_behavior(pairs: pathlib.Path, written: pathlib.Path, behavior: str) -> pathlib.Path:
    """Writes a log of one behaviour, which it does not name, with its name; gives its path."""
    table = pa.csv.read_csv(pairs).select(["user_id", "item_id"])
    pa.csv.write_csv(table.append_column("behavior", pa.array([behavior] * len(table))), written)
    return written


def with_published(events: pathlib.Path, joined: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """Writes events and the published test file as one log, and gives the split that tells them apart.

    In place of the time stands the part: 2 is the test file; 1 is a tenth of the (user, item) pairs of the
    others, drawn at random, with which some users validate; 0 is the rest.
    """
    parts = [pa.csv.read_csv(path) for path in (events, events.with_name("published_test.csv.gz"))]
    known, test = (part.select(["user_id", "item_id", "behavior"]) for part in parts)
    pair = pc.binary_join_element_wise(
        *(known[name].cast(pa.string()) for name in known.column_names[:2]), " "
    )
    codes = pair.combine_chunks().dictionary_encode()
    drawn = np.random.default_rng(0).random(len(codes.dictionary)) < 0.1
    known = known.append_column("timestamp", pa.array(drawn[codes.indices.to_numpy()].astype(np.int64)))
    test = test.append_column("timestamp", pa.array(np.full(len(test), 2)))
    pa.csv.write_csv(pa.concat_tables([known, test]), joined)
    return joined, {"kind": "time", "at": (len(known) + 0.5) / (len(known) + len(test))}
