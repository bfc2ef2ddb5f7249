"""Evaluation of a model: each objective by its own score, and all of them under fusion weights."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from csmf_tf.data.groups import Groups
from csmf_tf.data.users import UserFeatures
from csmf_tf.evaluation.metrics import evaluate, evaluate_static, popularity_scores
from csmf_tf.model import CSMF
from csmf_tf.serving.fusion import query_scale


class Vectors(NamedTuple):
    """Embeddings of a moment: users [U, D] (rows without targets are 0), items [N, D], owner [D]."""

    users: np.ndarray
    items: np.ndarray
    owner: np.ndarray


class FunnelEvaluator:
    """Measures a model on held-out targets, over the full catalogue.

    Args:
        users: features of the users at the moment of the question.
        targets: dict of objective to the held-out items of each user.
        seen: items of each user that are left out of the ranking.
        ks: cut-offs; the first one's recall judges epochs.
    """

    def __init__(
        self, users: UserFeatures, targets: Mapping[str, Groups], seen: Groups, ks: Sequence[int] = (50,)
    ):
        self._users = users
        self.targets = dict(targets)
        self.seen = seen
        self._ks = tuple(ks)

    def vectors(self, model: CSMF, objectives: Sequence[str] | None = None) -> Vectors:
        """Embeds the catalogue and all users with a target of one of the objectives (by default any)."""
        chosen = self.targets.values() if objectives is None else [self.targets[n] for n in objectives]
        who = np.flatnonzero(np.sum([t.counts for t in chosen], axis=0))
        items = model.item_vectors()
        vectors = np.zeros((len(self.seen.counts), items.shape[1]), np.float32)
        if len(who):
            vectors[who] = model.user_vectors(self._users.latest(who))
        return Vectors(vectors, items, model.owner)

    def measure(self, vectors: Vectors, objective: str, weights: np.ndarray) -> dict[str, float]:
        """Metrics on one objective's targets when ranked under fusion weights, numeric [K]."""
        scale = query_scale(vectors.owner, np.asarray(weights, np.float32)).numpy()
        targets = self.targets[objective]
        return evaluate((vectors.users * scale, vectors.items), targets, self.seen, self._ks)

    def objectives(self, model: CSMF) -> dict[str, dict[str, float]]:
        """Metrics of every finished objective with targets by its own score `s_k`."""
        vectors = self.vectors(model)
        weights = np.eye(len(model.funnel), dtype=np.float32)
        done = model.funnel[: model.frozen_stages]
        return {
            name: self.measure(vectors, name, weights[k])
            for k, name in enumerate(done)
            if name in self.targets
        }

    def fused(self, model: CSMF, weights: np.ndarray) -> dict[str, dict[str, float]]:
        """Metrics of every objective's targets under one weighing of all objectives."""
        vectors = self.vectors(model)
        return {name: self.measure(vectors, name, weights) for name in self.targets}

    def judge(self, model: CSMF, objective: str) -> dict[str, float]:
        """Recall and NDCG of one objective, for the choice of epochs; empty targets are an error."""
        self.check_targets([objective])
        weights = np.zeros(len(model.funnel), np.float32)
        weights[model.funnel.index(objective)] = 1
        metrics = self.measure(self.vectors(model, [objective]), objective, weights)
        return {name: value for name, value in metrics.items() if name != "users"}

    def check_targets(self, objectives: Iterable[str]) -> None:
        """Raises a ValueError when an objective has no target by which epochs could be judged."""
        for name in objectives:
            if name not in self.targets or not self.targets[name].counts.any():
                raise ValueError(
                    f"Objective '{name}' should have validation targets. Received: none; raise "
                    "`validation_users`, or hold out more"
                )

    def popularity(self, train: Mapping[str, Groups], n_items: int) -> dict[str, dict[str, float]]:
        """Metrics of ranking by the number of training users with that behaviour."""
        return {
            name: evaluate_static(popularity_scores(train[name], n_items), targets, self.seen, self._ks)
            for name, targets in self.targets.items()
        }
