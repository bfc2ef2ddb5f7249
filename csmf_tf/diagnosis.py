"""What the negatives of a trained run are: how many are false, how difficult they are, and its clusters."""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from csmf_tf import build
from csmf_tf._keras import tf
from csmf_tf.config import NegativeKind
from csmf_tf.data.stages import StageData
from csmf_tf.negatives.clusters import Clusters
from csmf_tf.negatives.columns import columns
from csmf_tf.progress import bar
from csmf_tf.run import Run

ALL_KINDS: tuple[NegativeKind, ...] = ("in_batch", "uniform", "popularity", "funnel", "edis", "msac")
_BATCH = 1024
_QUANTILES = (0.1, 0.5, 0.9)


class Drawn(NamedTuple):
    """Negatives of one kind, drawn for some training events.

    Attributes:
        false: how many of them are positives of the same user in the validation or the test part; None for
            virtual ones, which are no items, and for funnel negatives of a log without times.
        difficulty: float32 [n], the score of each less that of its row's positive.
    """

    false: int | None
    difficulty: np.ndarray


class Diagnosis(NamedTuple):
    """What `diagnose` finds: the objective, the negatives by kind, and the clusters of MSAC."""

    objective: str
    drawn: dict[str, Drawn]
    clusters: Clusters

    def summary(self) -> dict[str, Any]:
        """Plain numbers: of each kind how many, the shares false and above the positive, and quantiles."""
        kinds = {}
        for name, one in self.drawn.items():
            n = len(one.difficulty)
            kinds[name] = {
                "drawn": n,
                "false_negatives": None if one.false is None else one.false / n,
                "above_positive": float(np.mean(one.difficulty > 0)),
                "difficulty": dict(
                    zip(map(str, _QUANTILES), np.quantile(one.difficulty, _QUANTILES).tolist(), strict=True)
                ),
            }
        sizes = {}
        for level in ("level1", "level2"):
            counts = np.bincount(getattr(self.clusters, level))
            sizes[level] = {
                "clusters": len(counts),
                "least": int(counts.min()),
                "median": float(np.median(counts)),
                "most": int(counts.max()),
            }
        return {"objective": self.objective, "kinds": kinds, "clusters": sizes}


def diagnose(run: Run, objective: str | None = None, rows: int = 4000) -> Diagnosis:
    """Draws negatives of every kind for training events of a run, and looks at them.

    All kinds are drawn with the counts of the configuration, whether it trains on them or not. A false
    negative is one that the user took later: a positive of the validation or the test part. Difficulty is the
    score of a negative less that of the positive, by the trained model.

    Args:
        run: the `Run`, restored, with a finished stage.
        objective: one of the finished; default the last.
        rows: about how many events.

    Returns:
        a `Diagnosis`.

    Raises:
        ValueError: when no stage is finished, or `objective` is none of the finished.
    """
    model, config, split = run.model, run.config, run.prepared.split
    done = model.funnel[: model.frozen_stages]
    objective = objective or "".join(done[-1:])
    if objective not in done:
        raise ValueError(
            f"`objective` should be one of the finished objectives {done}. Received: {objective!r}; "
            "finish it first with `csmf-tf fit`"
        )
    stage, train = model.funnel.index(objective) + 1, split.train
    users = build.user_features(config, run.prepared, model, train)
    settings = config.negatives
    # A row may have fewer hard negatives than the virtual ones asked for where MSAC is not trained on.
    edis = dataclasses.replace(settings.edis, simple=True, hard=min(settings.edis.hard, settings.msac.hard))
    plan = dataclasses.replace(
        build.batching(config, run.prepared, model),
        loss="sampled",
        negatives=dataclasses.replace(settings, kind=ALL_KINDS, edis=edis),
    )
    clusters = run.clusters.latest(objective)
    data = StageData(train, stage, users, plan, clusters)
    rng = np.random.default_rng(config.training.seed)
    later = np.unique(
        np.concatenate(
            [part.pairs[part.behavior >= stage - 1] for part in (split.validation, split.test) if len(part)]
        )
    )
    found: dict[str, list[tuple[int | None, np.ndarray]]] = {}
    items = np.where(model.owner <= stage, model.item_vectors(), 0)
    who, what = data.positives
    chosen = rng.permutation(data.predicted)[: max(rows, 1)]
    sampler = data.sampler()
    for at in bar(range(0, len(chosen), _BATCH), "drawing negatives"):
        part = chosen[at : at + _BATCH]
        pair = who[part], what[part]
        vectors = np.where(model.owner <= stage, model.user_vectors(data.asking(part)), 0)
        batch = {"item": pair[1], **sampler.draw(*pair, rng)}
        for name, codes, difficulty in _columns(batch, vectors, items, plan.negatives, model, stage):
            false = None
            if codes is not None:
                keys = np.broadcast_to(pair[0][:, np.newaxis], codes.shape) * len(items) + codes
                false = int(np.isin(keys[codes >= 0], later).sum())
                # Without times an item is held out whole, and no funnel negative can be taken later.
                false = None if name == "funnel" and config.split.kind != "time" else false
            found.setdefault(name, []).append((false, difficulty))
    drawn = {
        name: Drawn(
            None if parts[0][0] is None else sum(false or 0 for false, _ in parts),
            np.concatenate([difficulty for _, difficulty in parts]),
        )
        for name, parts in found.items()
    }
    return Diagnosis(objective, {name: one for name, one in drawn.items() if len(one.difficulty)}, clusters)


def _columns(batch, users, items, negatives, model, stage):
    """Name, item codes [R, C] (None for virtual ones) and difficulties of the kinds of a batch."""
    rows, easy = len(users), negatives.clusters * negatives.anchors
    blocks = columns(
        batch,
        tf.constant(users),
        lambda codes: tf.gather(items, codes),
        normalize=lambda mixed: model.renormalize(mixed, stage),
    )
    positive = np.sum(users * items[batch["item"]], axis=1, keepdims=True)
    shared = np.concatenate([batch["item"], batch["negatives"]])
    funnel, clustered = batch["funnel_negatives"], batch["cluster_negatives"]
    codes: list[Any] = [np.broadcast_to(shared, (rows, len(shared)))]
    names = [{"in_batch": slice(rows), "uniform": slice(rows, rows + negatives.uniform)}]
    names[0]["popularity"] = slice(rows + negatives.uniform, None)
    if funnel.shape[1]:
        codes.append(funnel)
        names.append({"funnel": slice(None)})
    codes += [clustered, None, None]
    names += [{"msac easy": slice(easy), "msac hard": slice(easy, None)}]
    names += [{"edis simple": slice(None)}, {"edis hard": slice(None)}]
    for block, of, parts in zip(blocks, codes, names, strict=False):
        if len(block.vectors.shape) == 2:
            scores = users @ np.asarray(block.vectors).T
        else:
            scores = np.einsum("rd,rcd->rc", users, np.asarray(block.vectors))
        counted = ~np.asarray(block.excluded)
        if of is codes[0]:
            # A row's own positive is none of its negatives.
            counted[np.arange(rows), np.arange(rows)] = False
        for name, part in parts.items():
            kept = counted[:, part]
            here = None if of is None else np.where(kept, of[:, part], -1)
            yield name, here, (scores - positive)[:, part][kept].astype(np.float32)
