"""The loss of one stage, from the vectors of users and items."""

from typing import Any, NamedTuple

from csmf_tf._keras import tf
from csmf_tf.losses.adaptive_margin import adaptive_margin
from csmf_tf.losses.listwise import listwise_multi_step
from csmf_tf.losses.retrieval import softmax_nll


class Candidates(NamedTuple):
    """Columns of the sampled softmax.

    Attributes:
        vectors: float32 [C, D], the same for all rows, or [R, C, D].
        log_q: float32 [C] or [R, C], subtracted from their scores.
        excluded: bool [R, C], which take no part in a row.
    """

    vectors: Any
    log_q: Any
    excluded: Any


class StageLoss:
    """Mean over the rows of the summed negative log-likelihood, plus the L2 term.

    `L = mean_r [nll_r + l2 / balance * user_l2_r * |u_r - b|^2] + l2 * balance * sum_i item_l2_i |v_i|^2`,
    the norms over the coordinates that the stage owns (own choice); batches hold the weights `user_l2`,
    `item_l2` and `catalogue_l2`, see `csmf_tf.data.batches`.

    Args:
        owner: int tensor [D], the owner of each coordinate.
        stage: the stage in training.
        margin: `m0` of the adaptive margin, 0 for none; used from the second stage on.
        temperature: by which the scores were divided.
        l2: strength of the L2 term.
        l2_balance: factor by which the items' side is stronger than `l2` and the users' weaker.
        bias: float tensor [D], `b`: what all users have in common, free of L2; None for nothing.
        one_list: of sequences, see `listwise_multi_step`.
    """

    def __init__(
        self,
        owner,
        stage,
        margin=0.0,
        temperature=1.0,
        l2=0.0,
        l2_balance=1.0,
        bias=None,
        one_list=False,
    ):
        self._own = owner == stage
        self._upstream = owner < stage
        self._margin = margin if stage > 1 else 0.0
        self._temperature = temperature
        self._l2_users, self._l2_items = l2 / l2_balance, l2 * l2_balance
        self._bias = bias
        self._one_list = one_list

    def full(self, users, items, batch):
        """The softmax over the whole catalogue.

        Args:
            users: float32 [R, D].
            items: float32 [N, D], all items.
            batch: dict with `user_l2` and `catalogue_l2`, and with `row` and `item` or, of sequences,
                `targets` and `weight`.

        Returns:
            float32 scalar.
        """
        logits = tf.matmul(users, items, transpose_b=True)
        if "targets" in batch:
            nll = listwise_multi_step(logits, batch["targets"], batch["weight"], self._one_list)
        else:
            nll = self._full_nll(logits, users, items, batch["row"], batch["item"])
        return (
            tf.reduce_sum(nll) / tf.cast(tf.shape(users)[0], tf.float32)
            + self._l2_users * tf.reduce_mean(self._user_norm(users) * batch["user_l2"])
            + self._l2_items * tf.reduce_sum(self._norm(items) * batch["catalogue_l2"])
        )

    def _full_nll(self, logits, users, items, row, positive):
        if self._margin:
            upstream = tf.matmul(self._upstream_part(users), items, transpose_b=True)
            logits = tf.gather(logits, row) + self._margins(tf.gather(upstream, row), positive)
            return softmax_nll(logits, positive)
        return softmax_nll(logits, positive, row)

    def sampled(self, users, candidates, batch):
        """The softmax over the positives and negatives of the batch; row r has positive r.

        Args:
            users: float32 [R, D].
            candidates: one or more `Candidates`. The first R of the first are the positives of the rows, in
                which row r has its own corrected by nothing and not excluded.
            batch: dict with `user_l2` and `item_l2`; of sequences with `weight`.

        Returns:
            float32 scalar.
        """
        shared = [some for some in candidates if len(some.vectors.shape) == 2]
        own = [some for some in candidates if len(some.vectors.shape) == 3]
        rows = tf.shape(users)[0]
        positive = tf.range(rows)
        logits = _logits(users, shared, own)
        logits = tf.tensor_scatter_nd_add(
            logits, tf.stack([positive, positive], axis=1), candidates[0].log_q[:rows]
        )
        if self._margin:
            free = [some._replace(log_q=tf.zeros_like(some.log_q)) for some in shared + own]
            upstream = _logits(self._upstream_part(users), free[: len(shared)], free[len(shared) :])
            logits += self._margins(upstream, positive)
        nll = softmax_nll(logits, positive, excluded=_beside([some.excluded for some in shared + own], 1))
        if "weight" in batch:
            nll *= batch["weight"]
        if not self._l2_users:
            return tf.reduce_mean(nll)
        user_term = self._l2_users * self._user_norm(users) * batch["user_l2"]
        item_term = self._l2_items * self._norm(candidates[0].vectors[:rows]) * batch["item_l2"]
        return tf.reduce_mean(nll + user_term + item_term)

    def _upstream_part(self, users):
        return tf.where(self._upstream, users, 0.0)

    def _margins(self, upstream, positive):
        return adaptive_margin(upstream, positive, self._margin, self._temperature)

    def _user_norm(self, users):
        # Like any bias, that of the users is free of L2: popularity costs nothing, taste does.
        return self._norm(users if self._bias is None else users - self._bias)

    def _norm(self, vectors):
        return tf.reduce_sum(tf.square(tf.where(self._own, vectors, 0.0)), axis=1)


def _logits(users, shared, own):
    """Corrected scores, float32 [R, C]: of candidates that all rows share, then of those of each row."""
    vectors, log_q = (_beside(values, 0) for values in list(zip(*shared, strict=True))[:2])
    if not own:
        return tf.nn.bias_add(tf.matmul(users, vectors, transpose_b=True), -log_q)
    scores = _beside([tf.einsum("rd,rcd->rc", users, some.vectors) - some.log_q for some in own], 1)
    # To join the two would copy all scores: the rows' own are added to columns of zeros.
    width = tf.shape(scores)[1]
    logits = tf.matmul(users, tf.pad(vectors, [[0, width], [0, 0]]), transpose_b=True)
    logits = tf.nn.bias_add(logits, -tf.pad(log_q, [[0, width]]))
    rows, columns = tf.meshgrid(
        tf.range(tf.shape(users)[0]), tf.shape(vectors)[0] + tf.range(width), indexing="ij"
    )
    return tf.tensor_scatter_nd_add(logits, tf.stack([rows, columns], axis=2), scores)


def _beside(blocks, axis):
    # To join one would still copy it.
    return blocks[0] if len(blocks) == 1 else tf.concat(blocks, axis=axis)
