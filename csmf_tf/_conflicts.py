"""The settings of a configuration that do not go together."""

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from csmf_tf.config_sections import SEQUENCE, SEQUENCE_BEHAVIOR

if TYPE_CHECKING:
    from csmf_tf.config import Config

SPLIT_KEYS = {"at": "time", "fraction": "item_holdout"}
"""Keys of `split` that belong to one kind only."""


def is_file(source: str) -> bool:
    """Whether a modality is a file of vectors; else it is a column of the item table."""
    return source.endswith(".npy")


def conflicts(config: "Config", raw: Mapping[str, Any]) -> Iterator[str]:
    """Yields a message for each pair of settings that do not go together.

    Args:
        config: the configuration, each value of which is right by itself.
        raw: what it was read from.
    """
    log, split, model = config.log, config.split, config.model
    for key, kind in SPLIT_KEYS.items():
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
    if model.user_tower == "mlp" and not (
        model.reads_user_id or config.features.user or model.history.length
    ):
        yield (
            "The user tower should have an input. Received: model.user_id=False, features.user={}, "
            "model.history.length=0; set one of the three."
        )
    if model.item_id_drop and not config.features.item:
        yield (
            "`model.item_id_drop` needs what items are known by without their ids. Received: "
            f"item_id_drop={model.item_id_drop}, features.item={{}}; name features, or leave it out."
        )
    if model.temperature != 1.0 and not model.normalize:
        yield (
            f"`model.temperature` belongs to normalised segments. Received: model.temperature="
            f"{model.temperature}, model.normalize=False; set `normalize: true`, or leave it out."
        )
    yield from _heterrec_conflicts(config)
    yield from _negatives_conflicts(config)
    yield from _objective_conflicts(config)


def _heterrec_conflicts(config: "Config") -> Iterator[str]:
    """One message for each pair of settings that do not go with the user tower."""
    model, loss, heterrec = config.model, config.loss, config.model.heterrec
    if model.user_tower != "heterrec":
        if loss.step_weights != (1.0,) or loss.one_list:
            yield (
                "`loss.step_weights` and `loss.one_list` belong to sequences. Received: "
                f"model.user_tower={model.user_tower!r}; set it to heterrec, or leave them out."
            )
        if heterrec != type(heterrec)():
            yield (
                "`model.heterrec` belongs to another tower. Received: "
                f"model.user_tower={model.user_tower!r}; set it to heterrec, or leave the section out."
            )
        return
    if not model.history.length:
        yield (
            "`model.user_tower: heterrec` reads histories. Received: model.history.length=0; "
            "write e.g. `model: {history: {length: 50}}`."
        )
    if model.granularity == "unit":
        yield (
            "`model.granularity` should be weight with heterrec, whose layer norms and attention heads mix "
            "units. Received: model.granularity='unit'; leave it out."
        )
    if isinstance(heterrec.layers, tuple) and len(heterrec.layers) != 2:
        yield (
            "`model.heterrec.layers` should be one number, or two: token-level and item-level. "
            f"Received: {[*heterrec.layers]}."
        )
    if heterrec.dim % heterrec.heads:
        yield (
            "`model.heterrec.dim` should be a multiple of its heads. "
            f"Received: dim={heterrec.dim}, heads={heterrec.heads}."
        )
    if heterrec.buckets == 1:
        yield (
            "`model.heterrec.buckets` should be 0, which projects numbers, or at least 2. Received: 1, which "
            "would say nothing of a number."
        )
    if loss.margin:
        yield (
            "`loss.margin` belongs to `model.user_tower: mlp`. "
            f"Received: loss.margin={loss.margin}; leave it out."
        )
    if loss.one_list and loss.kind == "sampled":
        yield "`loss.one_list` belongs to the full softmax. Received: loss.kind='sampled'; leave it out."
    if loss.one_list and (drawn := [kind for kind in config.negatives.kind if kind in ("edis", "msac")]):
        yield (
            "`loss.one_list` belongs to the full softmax, which draws no negatives. Received: "
            f"negatives.kind with {drawn}; leave out one of the two."
        )
    if clash := [name for name in (SEQUENCE, SEQUENCE_BEHAVIOR) if name in config.features.user]:
        yield (
            f"`features.user` should leave {[SEQUENCE, SEQUENCE_BEHAVIOR]} to the histories of heterrec. "
            f"Received: {clash}; name the columns otherwise."
        )
    if config.training.jit_compile:
        yield (
            "`training.jit_compile` should go with batches of fixed shape, which windows of histories are "
            "not. Received: jit_compile=True with model.user_tower='heterrec'; leave it out."
        )


def _negatives_conflicts(config: "Config") -> Iterator[str]:
    """One message for each pair of settings of the negatives that do not go together."""
    negatives, kinds = config.negatives, config.negatives.kind
    edis, msac = negatives.edis, negatives.msac
    if config.loss.kind != "full" and kinds == ("funnel",):
        yield (
            "`negatives.kind` should hold another kind beside funnel, which the first objective has none of. "
            f"Received: {[*kinds]}; add e.g. in_batch, or set `loss: {{kind: full}}`."
        )
    if config.loss.kind == "full" and (drawn := [kind for kind in kinds if kind in ("edis", "msac")]):
        yield (
            "`loss.kind: full` has all items as negatives and draws none. Received: "
            f"loss.kind='full', negatives.kind={[*kinds]}; leave out {drawn}, or set "
            "`loss: {kind: sampled}`."
        )
    if edis.low >= edis.cap:
        yield (
            "`negatives.edis.low` should be below `negatives.edis.cap`. "
            f"Received: low={edis.low}, cap={edis.cap}."
        )
    if not (edis.simple or edis.hard):
        yield "`negatives.edis` should make something. Received: simple=False, hard=0; set one of the two."
    most = msac.hard if "msac" in kinds else negatives.clusters * negatives.anchors
    if "edis" in kinds and edis.hard > most:
        yield (
            f"`negatives.edis.hard` should be at most {most}, the negatives of a row that it is made from. "
            f"Received: {edis.hard}."
        )
    if "msac" in kinds and not (msac.behavioral or config.modalities):
        yield (
            "`negatives.msac` should have something to tell items by. Received: modalities={}, "
            "negatives.msac.behavioral=False; set one of the two."
        )
    if msac.recluster and not msac.behavioral:
        yield (
            "`negatives.msac.recluster` belongs to `behavioral: true`: the other vectors never change. "
            f"Received: recluster={msac.recluster}, behavioral=False."
        )
    texts = [name for name, source in config.modalities.items() if not is_file(source)]
    if texts and config.log.items is None:
        yield (
            f"`modalities` {texts} should be .npy files, or columns of an item table. Received: "
            f"{[config.modalities[name] for name in texts]} with log.items=None; "
            "write e.g. `log: {items: items.csv.gz}`."
        )
    if numbers := [name for name in texts if config.features.item.get(config.modalities[name]) == "numeric"]:
        yield (
            f"`modalities` {numbers} should be text or several strings. Received: columns that "
            "`features.item` calls numeric; leave them out."
        )
    if msac.behavioral and "behavior" in config.modalities:
        yield (
            "`modalities` should leave the name behavior to the vectors made of the events. Received: "
            f"{[*config.modalities]}; choose another name, or set `negatives.msac.behavioral` to false."
        )


def _objective_conflicts(config: "Config") -> Iterator[str]:
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
