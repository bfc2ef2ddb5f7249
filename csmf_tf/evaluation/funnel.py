"""Evaluation on a funnel: each objective by a score of its own, on what is new to a user and what was met."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from csmf_tf.data.groups import Groups, group
from csmf_tf.data.log import EventLog
from csmf_tf.data.users import UserFeatures
from csmf_tf.evaluation.baselines import popularity_scores
from csmf_tf.evaluation.metrics import means, shown_metrics, user_metrics
from csmf_tf.evaluation.ranking import MEMORY_MB, Scores, rank
from csmf_tf.model import CSMF
from csmf_tf.serving.fusion import query_scale


class Vectors(NamedTuple):
    """Embeddings of a moment: users [U, D] (rows without targets are 0), items [N, D], owner [D]."""

    users: np.ndarray
    items: np.ndarray
    owner: np.ndarray

    def weighed(self, weights: np.ndarray) -> Scores:
        """The vectors under fusion weights, numeric [K]."""
        return self.users * query_scale(self.owner, np.asarray(weights, np.float32)).numpy(), self.items


class Measured(NamedTuple):
    """What one ranking gave.

    Attributes:
        users: int64 `[n]`, codes of the users with a target.
        targets: the items to be found for each user code.
        values: metrics of each of them, float64 `[n]`, see `user_metrics`.
        shown: metrics of what they were shown, see `shown_metrics`.
        skipped: number of users without a target here, but with one of another objective or kind.
    """

    users: np.ndarray
    targets: Groups
    values: dict[str, np.ndarray]
    shown: dict[str, float]
    skipped: int

    def summary(self) -> dict[str, Any]:
        """Means over the users, what they were shown, and counts of users."""
        summary = means(self.values)
        users = summary.pop("users")
        return summary | self.shown | {"users": users, "skipped": self.skipped}


class FunnelEvaluator:
    """Measures rankings of the full catalogue on held-out events.

    A *known* event is one before the cut. A target is *new* when its user has no known event with the item,
    and *met* when there are some, but of behaviours upstream of the target's only.

    Args:
        users: features of the users at the moment of the question.
        known: the known events.
        new: the held-out events whose targets are new.
        met: the held-out events whose targets were met; None for none.
        ks: cut-offs; the first one's recall judges epochs.
        memory_mb: bound in megabytes of a ranking's working memory.
    """

    def __init__(
        self,
        users: UserFeatures,
        known: EventLog,
        new: EventLog,
        met: EventLog | None = None,
        ks: Sequence[int] = (50,),
        *,
        memory_mb: float = MEMORY_MB,
    ):
        met = new.take(np.zeros(0, np.int64)) if met is None else met
        self.known = known
        self.targets = _by_objective(new)
        self.met_targets = _by_objective(met)
        self.seen = known.items_of_users()
        self.metric = f"recall@{ks[0]}"
        self._users = users
        self._either = _by_objective(new.append(met))
        # A later behaviour implies the earlier ones.
        self._done = {
            name: known.take(known.behavior >= behavior).items_of_users()
            for behavior, name in enumerate(known.funnel)
            if self.met_targets[name].counts.any()
        }
        self._asked = len(self._users_asked())
        self._popularity = popularity_scores(self.seen, len(known.items))
        self._ks = tuple(ks)
        self._memory_mb = memory_mb

    def sample(self, users: int, seed: int = 0) -> "FunnelEvaluator":
        """An evaluator of at most so many users with a target, drawn at random."""
        if users < 1:
            raise ValueError(f"`users` should be an integer >= 1. Received: users={users}.")
        some = object.__new__(FunnelEvaluator)
        some.__dict__ |= self.__dict__
        drawn = np.random.default_rng(seed).permutation(self._users_asked())[:users]
        some._asked = len(drawn)
        for name in ("targets", "met_targets", "_either"):
            setattr(some, name, {k: _only(targets, drawn) for k, targets in getattr(self, name).items()})
        return some

    def vectors(self, model: CSMF, objectives: Sequence[str] | None = None) -> Vectors:
        """Embeds the catalogue and all users with a target of one of the objectives (by default any)."""
        names = self.targets if objectives is None else objectives
        who = np.flatnonzero(np.sum([self._either[name].counts for name in names], axis=0))
        items = model.item_vectors()
        vectors = np.zeros((len(self.known.users), items.shape[1]), np.float32)
        if len(who):
            vectors[who] = model.user_vectors(self._users.latest(who))
        return Vectors(vectors, items, model.owner)

    def discovery(self, scores: Scores, objective: str) -> Measured:
        """Ranks without anything a user has a known event with; targets are the new ones."""
        targets = self.targets[objective]
        users = np.flatnonzero(targets.counts)
        return self._measured(self._rank(scores, users, self.seen), users, targets)

    def together(self, scores: Scores) -> dict[str, Measured]:
        """As `discovery`, of all objectives by one ranking."""
        users = np.flatnonzero(np.sum([targets.counts for targets in self.targets.values()], axis=0))
        ranked = self._rank(scores, users, self.seen)
        return {name: self._measured(ranked, users, targets) for name, targets in self.targets.items()}

    def with_met(self, scores: Scores, objective: str) -> dict[str, Measured]:
        """Ranks without what a user has done under the objective or a later one, but with what was met.

        Args:
            scores: what ranks.
            objective: one of those with a met target.

        Returns:
            the metrics of "all" targets, and by the same ranking of the "met" and the "new" ones alone.
        """
        parts = {"all": self._either, "met": self.met_targets, "new": self.targets}
        users = np.flatnonzero(parts["all"][objective].counts)
        ranked = self._rank(scores, users, self._done[objective])
        return {name: self._measured(ranked, users, part[objective]) for name, part in parts.items()}

    def objectives(self, model: CSMF) -> dict[str, dict[str, Any]]:
        """Discovery metrics of every finished objective with targets by its own score `s_k`."""
        vectors, own = self.vectors(model), np.eye(len(model.funnel))
        done = model.funnel[: model.frozen_stages]
        return {
            name: self.discovery(vectors.weighed(own[k]), name).summary()
            for k, name in enumerate(done)
            if name in self.targets
        }

    def judge(self, model: CSMF, objective: str) -> dict[str, float]:
        """Recall and NDCG of one objective, for the choice of epochs; empty targets are an error."""
        if objective not in model.funnel:
            raise ValueError(
                f"`objective` should be one of {list(model.funnel)}. Received: objective={objective!r}"
            )
        self.check_targets([objective])
        own = np.eye(len(model.funnel))[model.funnel.index(objective)]
        scores = self.vectors(model, [objective]).weighed(own)
        metrics = self.discovery(scores, objective).summary()
        return {name: value for name, value in metrics.items() if name.startswith(("recall@", "ndcg@"))}

    def check_targets(self, objectives: Iterable[str]) -> None:
        """Raises a ValueError when an objective has no target by which epochs could be judged."""
        for name in objectives:
            if name not in self.targets or not self.targets[name].counts.any():
                raise ValueError(
                    f"Objective '{name}' should have validation targets. Received: none; raise "
                    "`validation_users`, or hold out more"
                )

    def _users_asked(self) -> np.ndarray:
        """Users with a target of some objective."""
        return np.flatnonzero(np.sum([targets.counts for targets in self._either.values()], axis=0))

    def _rank(self, scores: Scores, users: np.ndarray, left_out: Groups) -> np.ndarray:
        return rank(scores, left_out, users, max(self._ks), memory_mb=self._memory_mb)

    def _measured(self, ranked: np.ndarray, users: np.ndarray, targets: Groups) -> Measured:
        measured = np.flatnonzero(targets.counts[users])
        ranked, users = ranked[measured], users[measured]
        return Measured(
            users,
            targets,
            user_metrics(ranked, targets, users, self._ks),
            shown_metrics(ranked, self._ks, len(self.known.items), self._popularity),
            self._asked - len(users),
        )


def _by_objective(log: EventLog) -> dict[str, Groups]:
    return {name: log.items_of_users(behavior) for behavior, name in enumerate(log.funnel)}


def _only(groups: Groups, users: np.ndarray) -> Groups:
    """The same groups, empty but for some users."""
    who = np.repeat(np.arange(len(groups.counts)), groups.counts)
    kept = np.isin(who, users)
    return group(who[kept], groups.items[kept], len(groups.counts))
