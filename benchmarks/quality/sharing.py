"""Ways to share one pair of towers among objectives, as Keras layers on top of it, and their training.

Towers, loss, optimizer, batches and the choice of epochs by validation recall are CSMF's own; what differs is
what stands between the towers and the vectors of each objective, and how the losses become one step.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality.task import Task
from csmf_tf import build
from csmf_tf._keras import keras, tf
from csmf_tf.data.tables import pad_lists
from csmf_tf.losses import StageLoss
from csmf_tf.schedule import Fit, default_shares
from csmf_tf.towers.tower import Tower

EXPERTS = 4
_CHUNK = 8192


class Linear(keras.layers.Layer):
    """A head or an expert, linear as the towers are: x + (W x + c) / 10.

    Divided so, it learns a tenth as fast: at the rate of the tables it unsettles all vectors at each step.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.dense = keras.layers.Dense(dim, kernel_initializer=keras.initializers.RandomNormal(stddev=0.5))

    def call(self, x):
        return x + self.dense(x) / 10


class Mixture(keras.layers.Layer):
    """sum_j softmax(W x + c)_j expert_j(x), of MMoE (Ma et al., 2018) and PLE (Tang et al., 2020)."""

    def __init__(self, experts: Sequence[keras.layers.Layer]):
        super().__init__()
        self.experts = list(experts)
        self.gate = keras.layers.Dense(len(self.experts), "softmax", kernel_initializer="zeros")

    def call(self, x):
        experts = tf.stack([expert(x) for expert in self.experts], axis=1)
        return tf.einsum("bj,bjd->bd", self.gate(x), experts)


def tops(combine: str, objectives: int, dim: int) -> list[Callable[[tf.Tensor], tf.Tensor]]:
    """What makes the vector of each objective from a tower's output.

    Args:
        combine: "one" or "segments": nothing; "heads": a head each; "mmoe": a gate each over the same
            experts; "ple": a gate each over half as many shared experts and as many of its own.
        objectives: how many.
        dim: D.
    """
    if combine in ("one", "segments"):
        return [tf.identity] * objectives
    if combine == "heads":
        return [Linear(dim) for _ in range(objectives)]
    shared = [Linear(dim) for _ in range(EXPERTS if combine == "mmoe" else EXPERTS // 2)]
    own = 0 if combine == "mmoe" else EXPERTS // 2
    return [Mixture([*shared, *(Linear(dim) for _ in range(own))]) for _ in range(objectives)]


class Objective(NamedTuple):
    """The training data of one objective: its positives by user, and the weights of its L2 terms."""

    positives: Any
    user_l2: float
    catalogue_l2: np.ndarray


class Data:
    """Batches of users with all their positives of some objectives, and what the towers read.

    Args:
        task: what to train on.
        names: the objectives to learn.
    """

    def __init__(self, task: Task, names: Sequence[str]):
        run, train = task.run, task.run.prepared.split.train
        stages, self.objectives = run.stages(), []
        for name in names:
            if not stages[name].rows_are_users:
                raise ValueError(
                    "The alternatives should train by the full softmax by users. Received: others"
                )
            later = train.funnel.index(name)
            chosen = train.behavior >= later if run.config.closure else train.behavior == later
            batch = next(stages[name].batches(0))
            weights = float(batch["user_l2"][0]), batch["catalogue_l2"]
            self.objectives.append(Objective(train.take(chosen).items_of_users(), *weights))
        everyone = np.arange(len(train.users))
        self.features = build.user_features(run.config, run.prepared, run.model, train)
        self.users = self.features.latest(everyone)
        encoded = run.model.towers.item_encoder.encode(pad_lists(run.prepared.items))
        self.items = {name: tf.constant(values) for name, values in encoded.items()}
        self._batching = build.batching(run.config, run.prepared, run.model)
        self._seed = task.seed

    def batches(self, epoch: int) -> Iterator[dict[str, Any]]:
        """Yields the batches of one epoch.

        Each holds `user`, the features of R users, and a list over the objectives of `present`, the rows of
        `user` with a positive, and of the `row` (of `present`) and the `item` of each positive.
        """
        rng = np.random.default_rng([self._seed, len(self.objectives), epoch])
        counts = [one.positives.counts for one in self.objectives]
        order = rng.permutation(np.flatnonzero(np.sum(counts, axis=0)))
        for start in range(0, len(order), self._batching.batch_size):
            users = order[start : start + self._batching.batch_size]
            rows = {name: values[users] for name, values in self.users.items()}
            batch = {"user": self.features.without_id(rows, self._batching.unknown_user_rate, rng)}
            batch |= {"present": [], "row": [], "item": []}
            for one in self.objectives:
                present = np.flatnonzero(one.positives.counts[users]).astype(np.int32)
                # Nobody has a positive: some user without one leaves the L2 term, and no mean of nothing.
                present = present if len(present) else np.zeros(1, np.int32)
                items = [one.positives.of(user) for user in users[present]]
                row = np.repeat(np.arange(len(items), dtype=np.int32), [len(some) for some in items])
                batch["present"].append(present)
                batch["row"].append(row)
                batch["item"].append(np.concatenate([*items, np.zeros(0, np.int32)]).astype(np.int32))
            yield batch


class MultiTask(keras.Model):
    """One pair of CSMF's towers, and the vectors of several objectives on top of it.

    Args:
        task: gives the features, D, and the L2 strengths.
        data: the `Data` to be learned.
        combine: see `tops`; "segments" are ESMM's products down the funnel (Ma et al., 2018): log p_k is up
            to a constant s_1 + s_(2 | 1) + ... + s_(k | k - 1), each the score of a segment of the vectors.
        balance: "sum" of the losses; "uncertainty": sum_k e^-a_k L_k + a_k with learned a (Kendall et al.,
            2018); "pcgrad": see `project`, on the gradients of the towers (Yu et al., 2020).
    """

    def __init__(self, task: Task, data: Data, combine: str = "one", balance: str = "sum"):
        super().__init__()
        objectives, settings = len(data.objectives), task.run.config.model
        shares = default_shares(objectives) if combine == "segments" else [1.0]
        later = np.maximum(np.diff(np.round(np.cumsum(shares) * task.dim)), 1).astype(int)
        sizes = [task.dim - later.sum(), *later]
        self.owner = np.repeat(np.arange(1, len(sizes) + 1, dtype=np.int32), sizes)
        self.data, self.combine, self.balance = data, combine, balance
        self.l2, self.l2_balance = task.run.config.l2, task.run.config.loss.l2_balance
        features = task.run.model.towers
        self.user = Tower(features.user.features, task.dim, settings.hidden, bias=task.dim**-0.5)
        self.item = Tower(features.item.features, task.dim, settings.hidden)
        self.user_tops = tops(combine, objectives, task.dim)
        self.item_tops = tops(combine, objectives, task.dim)
        self.log_variance = tf.Variable(tf.zeros([objectives]), trainable=balance == "uncertainty")
        for k in range(objectives):
            self.embed_users({name: values[:1] for name, values in data.users.items()}, k)
            self.embed_items({name: values[:1] for name, values in data.items.items()}, k)
        for tower in (self.user, self.item):
            tower.propagate_owners()

    def embed_users(self, encoded: dict[str, Any], k: int) -> tf.Tensor:
        """Float32 `[B, D]`: the vectors of users for objective number k."""
        return self._user_top(self.user(encoded), k)

    def embed_items(self, encoded: dict[str, Any], k: int) -> tf.Tensor:
        """Float32 `[B, D]`: the vectors of items for objective number k."""
        return self.item_tops[k](self.item(encoded))

    def _user_top(self, x, k):
        x = self.user_tops[k](x)
        return tf.where(self.owner <= k + 1, x, 0.0) if self.combine == "segments" else x

    def losses_of(self, batch: dict[str, Any]) -> list[tf.Tensor]:
        """The loss of each objective, float32 scalars."""
        users, items = self.user(batch["user"]), self.item(self.data.items)
        return [self._loss(k, users, items, batch) for k in range(len(self.data.objectives))]

    def _loss(self, k, users, items, batch):
        one, present = self.data.objectives[k], batch["present"][k]
        bias = self._user_top(self.user.output_layer.bias[tf.newaxis], k)[0]
        stage = k + 1 if self.combine == "segments" else 1
        l2 = {"l2": self.l2, "l2_balance": self.l2_balance}
        loss = StageLoss(self.owner, stage, bias=bias, **l2)
        labels = {
            "row": batch["row"][k],
            "item": batch["item"][k],
            "user_l2": tf.fill([tf.size(present)], one.user_l2),
            "catalogue_l2": one.catalogue_l2,
        }
        vectors = self._user_top(tf.gather(users, present), k), self.item_tops[k](items)
        return loss.full(*vectors, labels)

    def step(self, batch: dict[str, Any]) -> tf.Tensor:
        """One step of the optimizer; returns the losses `[K]`."""
        with tf.GradientTape(persistent=self.balance == "pcgrad") as tape:
            losses = self.losses_of(batch)
            total = tf.add_n(losses)
            if self.balance == "uncertainty":
                total = tf.reduce_sum(tf.exp(-self.log_variance) * tf.stack(losses) + self.log_variance)
        variables = self.trainable_variables
        if self.balance != "pcgrad":
            self.optimizer.minimize(total, variables, tape=tape)
            return tf.stack(losses)
        shared = [*self.user.trainable_variables, *self.item.trainable_variables]
        gradients = {v.ref(): g for v, g in zip(variables, tape.gradient(total, variables), strict=True)}
        zero = tf.UnconnectedGradients.ZERO
        flat = [_flat(tape.gradient(loss, shared, unconnected_gradients=zero)) for loss in losses]
        projected = project(flat, _orders(len(losses)))
        sizes = [v.shape.num_elements() for v in shared]
        for v, part in zip(shared, tf.split(projected, sizes), strict=True):
            gradients[v.ref()] = tf.reshape(part, v.shape)
        self.optimizer.apply_gradients([(gradients[v.ref()], v) for v in variables])
        return tf.stack(losses)


def project(gradients: Sequence[tf.Tensor], orders: Sequence[Any]) -> tf.Tensor:
    """PCGrad: each objective's gradient loses what points against another's; the sum of them.

    g_i <- g_i - (g_i . h_j) / |h_j|^2 h_j for each j in turn where g_i . h_j < 0; h are the gradients given.

    Args:
        gradients: float `[P]` of each objective.
        orders: for each objective a permutation of all of them, int `[K]`.
    """
    all_of_them, total = tf.stack(gradients), tf.zeros_like(gradients[0])
    for i, order in enumerate(orders):
        own = gradients[i]
        for place in range(len(gradients)):
            other = all_of_them[order[place]]
            # An objective never points against itself.
            along = tf.minimum(tf.tensordot(own, other, 1), 0.0)
            own -= tf.math.divide_no_nan(along, tf.tensordot(other, other, 1)) * other
        total += own
    return total


def _orders(objectives):
    return [tf.random.shuffle(tf.range(objectives)) for _ in range(objectives)]


def _flat(gradients):
    return tf.concat([tf.reshape(tf.convert_to_tensor(g), [-1]) for g in gradients], axis=0)


def train(model: MultiTask, data: Data, judge: Callable[[], float], optimizer: Any, how: Fit) -> list[float]:
    """Trains as a stage of CSMF is trained, and keeps the weights of the best epoch.

    Args:
        model: the `MultiTask`.
        data: the `Data`.
        judge: gives the validation metric of the weights as they are.
        optimizer: a fresh Keras optimizer.
        how: epochs, patience and learning rate.

    Returns:
        the metric before the first epoch and after each.
    """
    model.data, model.optimizer = data, optimizer
    optimizer.build(model.trainable_variables)
    example = next(data.batches(0))
    signature = tf.nest.map_structure(lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), example)
    step = tf.function(model.step, input_signature=[signature])
    values, kept = [judge()], [v.numpy() for v in model.trainable_variables]
    rate, best = float(optimizer.learning_rate), 0
    while how.goes_on(len(values) - 1, best):
        epoch = len(values) - 1
        optimizer.learning_rate.assign(rate * how.learning_rate_factor(epoch))
        for batch in data.batches(epoch):
            step(tf.nest.map_structure(tf.constant, batch))
        values.append(judge())
        if values[-1] > values[best]:
            best, kept = epoch + 1, [v.numpy() for v in model.trainable_variables]
    for variable, value in zip(model.trainable_variables, kept, strict=True):
        variable.assign(value)
    return values


def vectors(model: MultiTask, data: Data, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Float32 `[U, D]` and `[N, D]`: all users and items as objective number k sees them."""
    return _in_chunks(model.embed_users, data.users, k), _in_chunks(model.embed_items, data.items, k)


def _in_chunks(embed, encoded, k):
    rows = len(next(iter(encoded.values())))
    chunks = [slice(at, at + _CHUNK) for at in range(0, rows, _CHUNK)]
    return np.concatenate([embed({n: v[at] for n, v in encoded.items()}, k).numpy() for at in chunks])
