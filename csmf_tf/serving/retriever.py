"""What each signature of an export computes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from csmf_tf._keras import tf
from csmf_tf.serving.filters import search_among, search_without
from csmf_tf.serving.fusion import (
    log_mixture,
    log_partition,
    objective_queries,
    query_scale,
    request_weights,
    split_weights,
)
from csmf_tf.serving.ids import ItemIds
from csmf_tf.serving.vectors import usable

RESERVED = ("weights", "exclude", "among", "item_ids")
"""Inputs of the signatures that are no features."""

OVERFETCH = 4
"""Linear fusion ranks so many times k candidates of log fusion (own choice)."""


class Retriever(tf.Module):
    """Answers requests: embeds the user, scales the embedding by the fusion weights, searches the index.

    In all methods a batch of one, of features, weights or ids, is repeated to the size of the others. Scores
    are `sum_k w_k s_k` under log fusion and `sum_k w_k p_k` under linear fusion, within the range of float32;
    the ranking depends on the weights' ratios only, so that no weights are too large for it. A user whose
    vector has an entry that is NaN or of 1e9 and more has no results.

    Args:
        embed_user: maps a dict of raw feature tensors to user vectors, float [B, D].
        index: one of `INDICES`, of the item vectors.
        item_ids: strings [N], unique, none empty.
        owner: integer [D], the objective that owns each coordinate, 0 = free.
        weights: float32 [K], the fusion weights of requests that give none.
        fusion: "log" or "linear".
        embed_item: maps a dict of raw feature tensors to item vectors, float [B, D].

    Example:

    >>> from csmf_tf.serving.index import ExactIndex
    >>> index = ExactIndex([[1.0, 0.0], [0.0, 2.0]], k=1)
    >>> retriever = Retriever(lambda features: features["user"], index, ["i1", "i2"], [1, 2], [1.0, 1.0])
    >>> answer = retriever.retrieve({"user": [[3.0, 2.0]]}, weights=[[1.0, 0.0], [0.0, 1.0]])
    >>> answer["ids"].numpy().tolist()
    [[b'i1'], [b'i2']]
    """

    def __init__(
        self,
        embed_user: Callable,
        index: Any,
        item_ids: Sequence[str],
        owner: ArrayLike,
        weights: ArrayLike,
        *,
        fusion: str = "log",
        embed_item: Callable | None = None,
    ):
        super().__init__()
        self._embed_user = embed_user
        self._embed_item = embed_item
        self._index = index
        self._ids = ItemIds(item_ids)
        self._owner = np.asarray(owner, np.int32)
        self._weights = np.asarray(weights, np.float32)
        self._linear = fusion == "linear"

    @property
    def catalogue(self) -> dict[str, tf.Variable]:
        """The variables that hold the items, by name; nothing else in an export depends on its items."""
        return self._index.state | dict(self._ids.state)

    def embed_user(self, features):
        """Returns `embedding`, float32 [B, D]: the user's vector, 0 where no objective owns a coordinate."""
        return {"embedding": self._embed("embed_user", self._embed_user, features)}

    def embed_item(self, features):
        """Returns `embedding`, float32 [B, D]: the item's vector, 0 where no objective owns a coordinate."""
        return {"embedding": self._embed("embed_item", self._embed_item, features)}

    def retrieve(self, features, weights=None, exclude=None):
        """Returns the best items of each request.

        Args:
            features: dict of raw feature tensors, batch B first.
            weights: float32 [B, K], not negative. A row of zeros takes the default weights, and `None` does
                for all.
            exclude: string [B, E], ids of items to leave out; "" pads, unknown ids and repeats do no harm.

        Returns:
            Dict of `ids`, string [B, k], and `scores`, float32 [B, k], descending. Where fewer than k items
            were found, "" and -inf fill the rest.

        Raises:
            tf.errors.InvalidArgumentError: when a weight is negative, infinite or NaN.
        """
        if exclude is None:
            users, weights = self._request(features, weights)
        else:
            users, weights, exclude = self._request(features, weights, exclude)
        query, k = self._query(users, weights), self._index.k
        width = OVERFETCH * k if self._linear else k
        if exclude is None:
            found = self._index.search(query, width if self._linear else None)
        else:
            found = search_without(self._index, query, self._ids.find(exclude), width, least=k)
        return self._answer(users, weights, *found)

    def retrieve_among(self, features, weights, among):
        """Returns the best of the items that a request names, ranked exactly.

        Args:
            features: dict of raw feature tensors, batch B first.
            weights: as in `retrieve`.
            among: string [B, A], ids of the items; "" pads, unknown ids never come back, repeats come once.
                Reads B * A item vectors.

        Returns:
            As `retrieve`.
        """
        users, weights, among = self._request(features, weights, among)
        k = self._index.k
        width = tf.maximum(tf.shape(among)[1], k) if self._linear else k
        found = search_among(self._index.vectors, self._query(users, weights), self._ids.find(among), width)
        return self._answer(users, weights, *found)

    def score(self, features, item_ids):
        """Returns each objective's probability of given items: its softmax over the whole catalogue.

        Args:
            features: dict of raw feature tensors, batch B first.
            item_ids: string [B, A].

        Returns:
            Dict of `log_scores`, `log p_k(i|u) = s_k(u, i) - log Z_k(u)`, and `probabilities`, both float32
            [B, A, K]: -inf and 0 for unknown ids, "", and users without results; and of `log_partitions`,
            the `log Z_k(u)`, float32 [B, K]: `log N` for users without results, so that they stay finite.
            Scores every item K times for the `Z_k`.
        """
        users, item_ids = _same_batch(self._embed("embed_user", self._embed_user, features), item_ids)
        log_scores, log_z = self._log_probabilities(users, self._ids.find(item_ids))
        log_z = tf.ensure_shape(log_z, [None, len(self._weights)])
        return {"log_scores": log_scores, "probabilities": tf.exp(log_scores), "log_partitions": log_z}

    def signatures(self, user_signature: Mapping, item_signature: Mapping | None = None) -> dict[str, Any]:
        """Returns the concrete functions of an export by name.

        Args:
            user_signature: `tf.TensorSpec` of each raw user feature, with batch size `None`.
            item_signature: the same of items; without it there is no `embed_item`.
        """
        weights = {"weights": tf.TensorSpec([None, len(self._weights)], tf.float32, "weights")}
        lists = {name: tf.TensorSpec([None, None], tf.string, name) for name in RESERVED if name != "weights"}

        def traced(answer, features, *given):
            def call(**inputs):
                raw = {name: inputs.pop(name) for name in features}
                return answer(raw, **inputs)

            extra = {name: (weights | lists)[name] for name in given}
            return tf.function(call).get_concrete_function(**features, **extra)

        signatures = {
            "serving_default": traced(self.retrieve, user_signature),
            "retrieve": traced(self.retrieve, user_signature, "weights"),
            "retrieve_excluding": traced(self.retrieve, user_signature, "weights", "exclude"),
            "retrieve_among": traced(self.retrieve_among, user_signature, "weights", "among"),
            "embed_user": traced(self.embed_user, user_signature),
            "score": traced(self.score, user_signature, "item_ids"),
        }
        if item_signature is not None:
            signatures["embed_item"] = traced(self.embed_item, item_signature)
        return signatures

    def _embed(self, name, embed, features):
        vectors = tf.cast(embed(features), tf.float32)
        if not vectors.shape.is_compatible_with([None, len(self._owner)]):
            raise ValueError(
                f"`{name}` should return vectors [B, {len(self._owner)}], as wide as `item_vectors`. "
                f"Received: shape={vectors.shape}"
            )
        return tf.where(self._owner > 0, tf.ensure_shape(vectors, [None, len(self._owner)]), 0.0)

    def _request(self, features, weights, *ids):
        weights = self._weights[np.newaxis] if weights is None else request_weights(weights, self._weights)
        return _same_batch(self._embed("embed_user", self._embed_user, features), weights, *ids)

    def _query(self, users, weights):
        return users * query_scale(self._owner, split_weights(weights)[0])

    def _log_probabilities(self, users, indices):
        """float32 [B, A, K] of the items at `indices`, -inf where the index is -1 or the user not usable.

        Also returns the `log Z_k`, float32 [B, K].
        """
        users, fit = usable(users)
        queries = objective_queries(users, self._owner, len(self._weights))
        # Gathering from a variable itself would make every later read copy the whole of it.
        catalogue = tf.convert_to_tensor(self._index.vectors)
        vectors = tf.gather(catalogue, tf.maximum(indices, 0))
        log_z = log_partition(queries, catalogue)
        log_p = tf.einsum("bkd,bad->bak", queries, vectors) - log_z[:, tf.newaxis, :]
        return tf.where((fit & (indices >= 0))[:, :, tf.newaxis], log_p, -math.inf), log_z

    def _answer(self, users, weights, indices, scores):
        shares, largest = split_weights(weights)
        if self._linear:
            mixture = log_mixture(self._log_probabilities(users, indices)[0], shares)
            mixture, best = tf.math.top_k(mixture, self._index.k)
            scores, indices = tf.exp(mixture), tf.gather(indices, best, batch_dims=1)
        limit = tf.float32.max
        scores = tf.where(indices < 0, -math.inf, tf.clip_by_value(scores * largest, -limit, limit))
        return {"ids": self._ids.strings(indices), "scores": scores}


def _same_batch(*tensors):
    """Returns the tensors with batches of one repeated to the size of the others."""
    given = [tf.convert_to_tensor(tensor) for tensor in tensors]
    batch = tf.shape(given[0])[:1]
    for tensor in given[1:]:
        batch = tf.broadcast_dynamic_shape(batch, tf.shape(tensor)[:1])
    shapes = [tf.concat([batch, tf.shape(tensor)[1:]], axis=0) for tensor in given]
    return [
        tf.ensure_shape(tf.broadcast_to(tensor, shape), [None, *tensor.shape[1:]])
        for tensor, shape in zip(given, shapes, strict=True)
    ]
