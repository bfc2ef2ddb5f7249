"""The two towers and the segmentation of the embedding that they share."""

import dataclasses
from typing import NamedTuple

import numpy as np

from csmf_tf._keras import keras, tf
from csmf_tf.config_sections import SEQUENCE, SEQUENCE_BEHAVIOR
from csmf_tf.masking.pruning import cumulative_percentile_prune, prune_to_count
from csmf_tf.towers.axes import principal_axes
from csmf_tf.towers.features import FeatureEncoder
from csmf_tf.towers.heterrec import HistoryTransformer, settings_of
from csmf_tf.towers.tower import Tower


class Pruned(NamedTuple):
    """What pruning did to a layer: units or weights kept and freed, and the share of L1 mass freed."""

    kept: int
    freed: int
    tau: float


class TowerPair(keras.layers.Layer):
    """A user tower and an item tower whose output coordinates have the same owners.

    Stages are numbers here, 1 is the furthest upstream; `CSMF` gives them names and an order.

    Args:
        user_features: `Feature` list of the user tower.
        item_features: `Feature` list of the item tower.
        embedding_dim: D.
        hidden: units of the hidden layers of both towers.
        granularity: `"unit"` or `"weight"`, see `Tower`.
        normalize: whether each segment is L2-normalised, in both towers.
        heterrec: a `csmf_tf.config.HeterRec`, for a user tower that reads the features `history` and
            `history_behavior` by a transformer over the features of their items; None for means.

    Example:

    >>> from csmf_tf.towers import Feature
    >>> pair = TowerPair([Feature("user", "id", ("u1", "u2"))], [Feature("item", "id", ("i1", "i2"))], 4)
    >>> pair.prune(stage=1, share=0.5)["embedding"].kept
    2
    >>> pair.freeze()
    >>> pair.begin(stage=2)
    >>> sorted(pair.owner.tolist())
    [1, 1, 2, 2]
    >>> users = pair.user_encoder({"user": tf.constant(["u2", "stranger"])})
    >>> pair.embed(pair.user, users, stage=1).shape
    TensorShape([2, 4])
    """

    def __init__(
        self,
        user_features,
        item_features,
        embedding_dim,
        hidden=(),
        granularity="unit",
        normalize=False,
        heterrec=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if granularity not in ("unit", "weight"):
            raise ValueError(
                f"`granularity` should be 'unit' or 'weight'. Received: granularity={granularity!r}"
            )
        self.embedding_dim = embedding_dim
        self.hidden = tuple(hidden)
        self.granularity = granularity
        self.normalize = normalize
        self.heterrec = None if heterrec is None else settings_of(heterrec)
        self.user_encoder = FeatureEncoder(user_features, name="user_encoder")
        self.item_encoder = FeatureEncoder(item_features, name="item_encoder")
        shared = {
            "embedding_dim": embedding_dim,
            "hidden": hidden,
            "granularity": granularity,
            "dtype": self.dtype_policy,
        }
        # A user bias from the start gives the items' popularity a direction to grow in (own choice).
        bias, sequence = embedding_dim**-0.5, self._sequence() if self.heterrec else None
        self.user = Tower(user_features, bias=bias, sequence=sequence, name="user_tower", **shared)
        self.item = Tower(item_features, name="item_tower", **shared)
        if sequence and sequence.settings.share_embeddings:
            sequence.flatten.share(self.item.tables)
        for encoder, tower in ((self.user_encoder, self.user), (self.item_encoder, self.item)):
            tower(encoder(encoder.blank()))
        self._propagate_owners()

    @property
    def owner(self) -> np.ndarray:
        """uint8 [D]: the stage that owns each coordinate of the embedding, 0 = free."""
        with tf.init_scope():
            return self.user.output_layer.owner.numpy()

    def _sequence(self):
        """What reads the histories of the user tower in place of means."""
        if self.granularity != "weight":
            raise ValueError(
                "`granularity` should be 'weight' with `heterrec`, whose layer norms and attention heads mix "
                f"units, so that single ones cannot be frozen. Received: granularity={self.granularity!r}"
            )
        found = {f.name: f for f in self.user_encoder.features}
        if SEQUENCE not in found:
            raise ValueError(
                f"`user_features` should hold one named '{SEQUENCE}' with `heterrec`. Received: {[*found]}"
            )
        if found[SEQUENCE].kind != "history" or not found[SEQUENCE].length:
            raise ValueError(
                f"Feature '{SEQUENCE}' should be of kind 'history' and of a `length` >= 1 with `heterrec`. "
                f"Received: kind={found[SEQUENCE].kind!r}, length={found[SEQUENCE].length}"
            )
        return HistoryTransformer(
            found[SEQUENCE],
            found.get(SEQUENCE_BEHAVIOR),
            self.item_encoder.features,
            self.heterrec,
            name="sequence",
            dtype=self.dtype_policy,
        )

    def embed(self, tower, encoded, stage, training=False, **options):
        """Vectors of one tower as the first `stage` stages see them.

        Args:
            tower: `pair.user` or `pair.item`.
            encoded: dict of tensors as the tower's encoder gives them.
            stage: int >= 1; coordinates of later stages and free ones are 0.
            training: as in `Tower`; earlier stages never drop.
            **options: as in `Tower`.

        Returns:
            float32 tensor [B, D], or [B, L, D].
        """

        def embedded(k):
            return tf.cast(tower(encoded, stage=k, training=training and k == stage, **options), tf.float32)

        owner = tf.cast(tower.output_layer.owner, tf.int32)
        if self.granularity == "unit" or stage == 1:
            vectors = embedded(stage)
        else:
            segments = [tf.where(owner == k, embedded(k), 0.0) for k in range(1, stage + 1)]
            # Earlier stages are frozen: to follow their gradients would only cost time.
            vectors = tf.add_n([*map(tf.stop_gradient, segments[:-1]), segments[-1]])
        return _normalize_segments(vectors, owner, stage) if self.normalize else vectors

    def renormalize(self, mixed, stage):
        """Brings mixtures of item vectors, float32 [..., D], to the norms of the first `stage` stages'."""
        owner = tf.cast(self.item.output_layer.owner, tf.int32)
        return _normalize_segments(mixed, owner, stage) if self.normalize else mixed

    def begin(self, stage):
        """Hands every free unit and weight to `stage`."""
        # Freshly built layers are already owned by stage 1.
        if stage > 1:
            for layer in self._masked_layers():
                layer.begin(stage)
            self._propagate_owners()

    def prune(self, stage, tau=None, share=None, leave=0, vectors=None):
        """Frees what `stage` needs least, and at least `leave` coordinates; see `CSMF.prune`.

        `vectors` are those of some users and of the items, whose scores choose the principal axes.
        """
        groups = {name: [layer] for name, layer in self._inner_layers()}
        importance = {name: layers[0].importance() for name, layers in groups.items()}
        groups["embedding"] = [*self.user.segment_layers, *self.item.segment_layers]
        importance["embedding"] = np.sqrt(
            self.user.coordinate_importance() * self.item.coordinate_importance()
        )
        axes = None if vectors is None or not self.may_turn else self._axes(stage, *vectors)
        if axes:
            importance["embedding"][self.owner == stage] = axes.held
        # All is chosen before the first is freed, so that an error leaves everything as it was.
        chosen = {}
        for name, layers in groups.items():
            owned = layers[0].owner.numpy() == stage
            freed, found = _select(importance[name], owned, tau, share, leave if name == "embedding" else 0)
            chosen[name] = freed, Pruned(int(np.sum(owned & ~freed)), int(np.sum(freed)), found)
        if axes and chosen["embedding"][0].any():
            self._turn(stage, axes)
        for name, (freed, _) in chosen.items():
            for layer in groups[name]:
                layer.release(freed)
        self._propagate_owners()
        return {name: pruned for name, (_, pruned) in chosen.items()}

    @property
    def may_turn(self):
        """Whether the coordinates may be turned to principal axes."""
        # Whatever else reads the coordinates of an id would see others.
        read = self.hidden or (self.heterrec and self.heterrec.share_embeddings)
        return not read or not any(tower.id_name for tower in (self.user, self.item))

    def _axes(self, stage, users, items):
        own = self.owner == stage
        return principal_axes(users[:, own], items[:, own], orthogonal=self.normalize)

    def _turn(self, stage, axes):
        own = np.flatnonzero(self.owner == stage)
        for tower, change in ((self.user, axes.users), (self.item, axes.items)):
            for layer in tower.segment_layers:
                for variable in layer.trainable_variables:
                    values = variable.numpy()
                    values[..., own] = values[..., own] @ change.astype(values.dtype)
                    variable.assign(values)

    def freeze(self):
        """Moves what the stage in training owns to the frozen weights, in all layers or on an error none."""
        for layer in self._masked_layers():
            layer.check_freeze()
        # A stage that was never pruned has not been told yet.
        self._propagate_owners()
        for layer in self._masked_layers():
            layer.freeze()

    def capacity(self, stages):
        """Dict of layer name to float64 [stages + 1], the share of each owner, free first."""
        table = {"embedding": self.user.output_layer.capacity(stages)}
        return table | {name: layer.capacity(stages) for name, layer in self._inner_layers()}

    def get_config(self):
        return {
            **super().get_config(),
            "user_features": [dataclasses.asdict(f) for f in self.user.features],
            "item_features": [dataclasses.asdict(f) for f in self.item.features],
            "embedding_dim": self.embedding_dim,
            "hidden": self.hidden,
            "granularity": self.granularity,
            "normalize": self.normalize,
            "heterrec": self.heterrec and dataclasses.asdict(self.heterrec),
        }

    def _masked_layers(self):
        return [*self.user.masked_layers, *self.item.masked_layers]

    def _inner_layers(self):
        return [
            (f"{tower.name}/{layer.name}", layer)
            for tower in (self.user, self.item)
            for layer in tower.inner_layers
        ]

    def _propagate_owners(self):
        self.user.propagate_owners()
        self.item.propagate_owners()


def _select(importance, owned, tau, share, leave=0):
    if share is None:
        freed = cumulative_percentile_prune(importance, owned, tau)
        if np.sum(freed) >= leave:
            return freed, tau
        return prune_to_count(importance, owned, max(int(owned.sum()) - leave, 1))
    # At least one stays: a stage that kept nothing of a layer could not be read through it.
    keep = min(max(min(round(share * owned.size), int(owned.sum()) - leave), 1), int(owned.sum()))
    return prune_to_count(importance, owned, keep)


def _normalize_segments(vectors, owner, stage):
    """Divides each segment by its L2 norm."""
    norms = tf.ones_like(vectors)
    for k in range(1, stage + 1):
        member = owner == k
        squared = tf.reduce_sum(tf.where(member, tf.square(vectors), 0.0), axis=-1, keepdims=True)
        norms = tf.where(member, tf.maximum(squared, 1e-12), norms)
    # The last bit of `rsqrt` depends on where in a tensor a number stands, and stages to come would move it.
    return vectors / tf.sqrt(norms)
