"""From a log to the training batches of each stage."""

import functools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from csmf_tf._keras import tf
from csmf_tf.data.batches import Batching, item_l2_of, noise_of, shuffled
from csmf_tf.data.groups import group
from csmf_tf.data.history import History
from csmf_tf.data.log import EventLog
from csmf_tf.data.sequences import Targets, Windows, windows
from csmf_tf.data.users import UserFeatures
from csmf_tf.negatives.clusters import Clusters
from csmf_tf.negatives.funnel import upstream_only
from csmf_tf.negatives.sampler import NegativeSampler


class StageData:
    """The training data of one objective.

    A row of the full softmax is a user with all positives, unless the user's features change from event to
    event (histories in a log with times); then, and in the sampled softmax, a row is one event. Where the
    users' features are a sequence, a row is a window of it, each event of which predicts the next positives.

    Args:
        log: training events.
        stage: the 1-based stage.
        users: the `UserFeatures` of the same log.
        batching: a `Batching`.
        clusters: the `Clusters` of the items, for negatives of kind msac.

    Attributes:
        clusters: as given; an epoch draws from those that are there when it begins.

    Raises:
        ValueError: when the log has no event of the objective, or for a sequence none that follows another.

    Example:

    >>> ids = np.array(["a", "b"], dtype=object)
    >>> user, item = np.array([0, 0, 1]), np.array([0, 1, 1])
    >>> log = EventLog(user, item, np.array([0, 0, 1], np.int8), None, ids, ids, ("view", "buy"))
    >>> users = UserFeatures({"user_id": np.array([1, 2], np.int32)}, log)
    >>> data = StageData(log, 1, users, Batching(batch_size=2))
    >>> data.objective, len(data), sorted(next(data.batches(epoch=0))["item"].tolist())
    ('view', 3, [0, 1, 1])
    """

    def __init__(
        self,
        log: EventLog,
        stage: int,
        users: UserFeatures,
        batching: Batching,
        clusters: Clusters | None = None,
    ):
        self.stage = stage
        self.clusters = clusters
        self.objective = log.funnel[stage - 1]
        self.batching = batching
        self._features = users
        self._timed = log.time is not None
        self._n_users, self._n_items = len(log.users), len(log.items)
        keys = log.pairs
        is_positive = log.behavior >= stage - 1 if batching.closure else log.behavior == stage - 1
        at = np.flatnonzero(is_positive)
        if not len(at):
            raise ValueError(
                f"Objective '{self.objective}' should have at least one training event. Received: none; "
                "check the log and the split"
            )
        if log.time is not None:
            # The event of a pair is its first one.
            at = at[np.argsort(log.time[at], kind="stable")]
        self._keys, first = np.unique(keys[at], return_index=True)
        self._times = log.time[at][first] if log.time is not None else None
        self._users = self._keys // self._n_items
        self._items = (self._keys % self._n_items).astype(np.int32)
        upstream = log.take(log.behavior < stage - 1)
        self._funnel_pool = upstream_only(
            group(upstream.user, upstream.item, self._n_users),
            group(self._users, self._items, self._n_users),
            self._n_items,
        )
        self._met_keys = np.unique(keys)
        if users.sequence:
            done = History.of(replace(log, item=log.behavior)).items
            read = done < users.behaviors
            self._next = Targets.of(History.of(log), read, self._keys, self._n_items)
            self._check_followed()
            # What is beyond would be pads, or not read.
            self._columns = min(users.positions, int(self._next.last.max()))

    def __len__(self) -> int:
        return len(self._keys)

    def users(self, most: int) -> dict[str, np.ndarray]:
        """Encoded features of users with a positive, at most so many drawn at random, as of now."""
        everyone = np.unique(self._users)
        drawn = np.random.default_rng(self.batching.seed).permutation(everyone)[:most]
        return self._features.latest(drawn)

    @property
    def rows_are_users(self) -> bool:
        """Whether a row is a user with all positives (else it is one event, or a window of a sequence)."""
        if self._features.sequence:
            return False
        return self.batching.loss == "full" and not (self._features.length and self._timed)

    def dataset(self, first_epoch: int = 0, share: float = 1.0) -> tf.data.Dataset:
        """The batches; every pass over the dataset is a new epoch, the same for the same seed and number.

        Args:
            first_epoch: number of the epoch that the first pass gives; passes count up from there.
            share: in (0, 1], the share of each epoch to give (accuracy recovery on a subset).

        Returns:
            dataset of batches, see `csmf_tf.data.batches`.
        """
        epochs = iter(range(first_epoch, 2**31))
        example = next(self.batches(0))
        signature = tf.nest.map_structure(
            lambda x: tf.TensorSpec([None, *x.shape[1:]][: x.ndim], x.dtype), example
        )
        dataset = tf.data.Dataset.from_generator(
            lambda: self.batches(next(epochs), share), output_signature=signature
        )
        counted = tf.data.experimental.assert_cardinality(self.steps(share))
        return dataset.apply(counted).prefetch(2)

    def steps(self, share: float = 1.0) -> int:
        """The number of batches of an epoch, or of a share of it."""
        return -(-max(round(self._rows_an_epoch * share), 1) // self.batching.batch_size)

    @property
    def _rows_an_epoch(self) -> int:
        if self._features.sequence:
            return int(np.sum(-(-self._next.last // self._columns)))
        return len(np.unique(self._users)) if self.rows_are_users else self._targets_an_epoch

    @property
    def _history_is_drawn(self) -> bool:
        return bool(self._features.length) and not self._timed and not self._features.sequence

    @property
    def _targets_an_epoch(self) -> int:
        # As many in every epoch: Keras ends a fit at the first that has fewer batches than the one before.
        drop = self.batching.history_drop
        return max(round(len(self) * drop), 1) if self._history_is_drawn else len(self)

    def batches(self, epoch: int, share: float = 1.0) -> Iterator[dict]:
        """Yields the batches of one epoch as numpy arrays."""
        rng = np.random.default_rng([self.batching.seed, self.stage, epoch])
        histories = self._features.histories
        chosen = np.arange(len(self))
        if self._history_is_drawn:
            chosen = rng.choice(chosen, self._targets_an_epoch, replace=False)
            is_target = rng.random(len(self._met_keys)) < self.batching.history_drop
            is_target[np.searchsorted(self._met_keys, self._keys)] = False
            is_target[np.searchsorted(self._met_keys, self._keys[chosen])] = True
            histories = {
                name: h.keep(~is_target[np.searchsorted(self._met_keys, h.users * self._n_items + h.items)])
                for name, h in histories.items()
            }
        make = self._user_batches if self.rows_are_users else self._event_batches
        if self._features.sequence:
            make = self._sequence_batches
        for batch in make(chosen, histories, share, rng):
            rate, drop = self.batching.unknown_user_rate, self.batching.item_id_drop
            batch |= {"user": self._features.without_id(batch["user"], rate, rng)}
            if drop:
                batch["item_id_drop"] = np.float32(drop)
                batch["item_id_seed"] = rng.integers(0, 2**31, 2, np.int32)
            yield batch

    @property
    def positives(self) -> tuple[np.ndarray, np.ndarray]:
        """The user codes and the item codes of all positives."""
        return self._users, self._items

    @functools.cached_property
    def _met(self) -> np.ndarray:
        """int64 [P]: after how many of the user's events the item of each positive was met, in a sequence."""
        targets = self._next
        users = np.repeat(np.arange(self._n_users), np.diff(targets.offsets))
        return targets.met[np.argsort(users * self._n_items + targets.items)]

    @property
    def predicted(self) -> np.ndarray:
        """Which positives training predicts, int64: in a sequence not what a user met first."""
        return np.flatnonzero(self._met) if self._features.sequence else np.arange(len(self))

    def asking(self, chosen: np.ndarray) -> dict[str, np.ndarray]:
        """Encoded features of the users of some positives as of now; a sequence ends before the item."""
        users, features = self._users[chosen], self._features
        if not features.sequence:
            return features.latest(users)
        read = {n: h.first(users, self._met[chosen], features.length) for n, h in features.histories.items()}
        return features.rows(users, read)

    def sampler(self, item_rows: np.ndarray | None = None) -> NegativeSampler:
        """Draws the negatives of rows, where each item is a positive `item_rows` times: by default in all."""
        rows = np.bincount(self._items, minlength=self._n_items) if item_rows is None else item_rows
        pool = self._funnel_pool if self.stage > 1 else None
        return NegativeSampler(self.batching.negatives, rows, pool, self.clusters)

    def _user_batches(self, chosen, histories, share, rng):
        positives = group(self._users[chosen], self._items[chosen], self._n_users)
        everyone = np.unique(self._users)
        length = self._features.length
        item_rows = np.bincount(positives.items, minlength=self._n_items)
        noise = noise_of(positives.counts, item_rows)
        catalogue_l2 = item_l2_of(item_rows, noise / len(everyone), self.batching.l2_popularity)
        for users in shuffled(everyone, self.batching.batch_size, share, rng):
            counts = positives.counts[users]
            within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
            windows = {name: h.latest(users, length) for name, h in histories.items()}
            yield {
                "user": self._features.rows(users, windows),
                "user_l2": np.full(len(users), noise, np.float32),
                "catalogue_l2": catalogue_l2,
                "row": np.repeat(np.arange(len(users), dtype=np.int32), counts),
                "item": positives.items[np.repeat(positives.offsets[users], counts) + within],
            }

    def _event_batches(self, chosen, histories, share, rng):
        negatives = None
        user_rows = np.bincount(self._users[chosen], minlength=self._n_users)
        item_rows = np.bincount(self._items[chosen], minlength=self._n_items)
        noise = noise_of(user_rows, item_rows)
        catalogue_l2 = item_l2_of(item_rows, noise / len(chosen), self.batching.l2_popularity)
        if self.batching.loss == "sampled":
            negatives = self.sampler(item_rows)
        for events in shuffled(chosen, self.batching.batch_size, share, rng):
            users, items = self._users[events], self._items[events]
            batch = {
                "user": self._features.rows(users, self._windows(events, histories)),
                "user_l2": (noise / user_rows[users]).astype(np.float32),
                "item": items,
            }
            if negatives is None:
                row = np.arange(len(users), dtype=np.int32)
                yield batch | {"row": row, "catalogue_l2": catalogue_l2}
            else:
                item_l2 = catalogue_l2[items] * (len(chosen) / item_rows[items]).astype(np.float32)
                yield batch | {"item_l2": item_l2, **negatives.draw(users, items, rng)}

    def _check_followed(self):
        if not self._next.last.any():
            raise ValueError(
                f"Objective '{self.objective}' should have at least one training event with an item that a "
                "user met after another one. Received: none; check the log and the split"
            )

    def _next_items(self, users, events):
        return self._next.after(users, events, len(self.batching.step_weights))

    def _sequence_batches(self, chosen, histories, share, rng):
        length, steps = self._columns, np.array(self.batching.step_weights, np.float32)
        cut = windows(self._next.last, length, rng)
        positions = cut.positions(length)
        targets = self._next_items(positions.user, positions.event)
        user_rows = np.bincount(positions.user, minlength=self._n_users)
        at = np.nonzero(targets >= 0)
        item_rows = np.bincount(targets[at], steps[at[1]] / steps.sum(), self._n_items)
        noise = noise_of(user_rows, item_rows)
        catalogue_l2 = item_l2_of(item_rows, noise / len(positions.user), self.batching.l2_popularity)
        counts = np.bincount(targets[at], minlength=self._n_items)
        negatives = self.sampler(counts) if self.batching.loss == "sampled" else None
        for rows in shuffled(np.arange(len(cut.user)), self.batching.batch_size, share, rng):
            part = Windows(*(values[rows] for values in cut))
            positions = part.positions(length)
            targets = self._next_items(positions.user, positions.event)
            read = {name: h.first(part.user, part.end, length) for name, h in histories.items()}
            batch = {
                "user": self._features.rows(part.user, read),
                "query": positions.flat,
                "dropout_seed": rng.integers(0, 2**31, 2, np.int32),
                "user_l2": (noise / user_rows[positions.user]).astype(np.float32),
            }
            if negatives is None:
                weights = np.where(targets >= 0, steps, 0).astype(np.float32)
                yield batch | {"targets": targets, "weight": weights, "catalogue_l2": catalogue_l2}
                continue
            row, step = np.nonzero(targets >= 0)
            items = targets[row, step]
            # The mean over the next items is then that over the positions.
            weight = steps[step] * np.float32(len(row) / len(targets))
            item_l2 = catalogue_l2[items] * (counts.sum() / counts[items]).astype(np.float32)
            users = positions.user[row]
            others = float(np.mean(len(row) - np.bincount(users)[users]))
            yield batch | {
                "user_code": users.astype(np.int32),
                "row": row.astype(np.int32),
                "item": items,
                "future": targets[row],
                "weight": weight,
                "user_l2": batch["user_l2"][row] * weight,
                "item_l2": item_l2,
                **negatives.draw(users, items, rng, others=others),
            }

    def _windows(self, events, histories):
        users, length = self._users[events], self._features.length
        times = None if self._times is None else self._times[events]
        windows = {
            name: h.latest(users, length) if times is None else h.before(users, times, length)
            for name, h in histories.items()
        }
        # An earlier event with the target itself is left out too.
        target = self._items[events][:, None]
        return {name: np.where(window == target, -1, window) for name, window in windows.items()}
