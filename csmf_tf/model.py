"""The retrieval model: two masked towers, a funnel of objectives and one loss."""

import dataclasses
import functools
import itertools

import numpy as np
import tensorflow_recommenders as tfrs

from csmf_tf._keras import keras, tf
from csmf_tf.losses import StageLoss
from csmf_tf.negatives.columns import columns
from csmf_tf.towers.embedder import Embedder
from csmf_tf.towers.features import CHUNK
from csmf_tf.towers.lookup import some_unknown
from csmf_tf.towers.pair import TowerPair
from csmf_tf.towers.transformer import folded


@keras.saving.register_keras_serializable(package="csmf_tf")
class CSMF(tfrs.models.Model):
    """Cascaded selective mask fine-tuning (CSMF, SIGIR 2025) of a two-tower retrieval model.

    One embedding of D coordinates serves every objective. Stage k trains the coordinates, units and weights
    that it owns, prunes those it does not need, and freezes the rest bit for bit;
    `s_k(u, i) = sum over d with owner(d) <= k of u_d v_d`.

    The stages are driven by `begin`, `prune` and `freeze` around plain `compile` and `fit`; `Cascade` does
    all of them in one call. Batches are dictionaries, see `csmf_tf.data.batches`.

    Args:
        funnel: names of the objectives, upstream first.
        user_features: `Feature` list of the user tower.
        item_features: `Feature` list of the item tower.
        embedding_dim: D, at least one coordinate an objective.
        hidden: units of the towers' hidden layers.
        granularity: `"unit"` or `"weight"`, see `Tower`.
        normalize: L2-normalise each segment of the embedding and divide its score by the temperature.
        temperature: one number, or one for each objective; used with `normalize`.
        loss: `"full"` (softmax over the catalogue) or `"sampled"` (over what the batch holds).
        in_batch_negatives: whether other rows' positives serve as negatives (`"sampled"` only).
        virtual_gradient: whether gradients flow through virtual negatives (EDIS) into their items.
        margin: `m0` of the adaptive margin (AML), from the second stage on; 0 switches it off.
        l2: strength of `l2 * noise * (sum_u |u - b|^2 + sum_i |v|^2)` beside the summed log-likelihood,
            over the coordinates of the stage in training; `noise` is that of the stage's data, see
            `StageData`, and `b` the bias of the user tower's output.
        l2_balance: factor by which the items' side is stronger than `l2` and the users' weaker. The optimum
            is the same for every balance, as one side may be scaled up and the other down, but the way there
            is not: with a strong item side users learn slowly, which regularises (own choice).
        heterrec: a `csmf_tf.config.HeterRec`, or a dict of its fields, for a user tower that reads the
            feature `history` (and `history_behavior`) by a transformer over its items' features, see
            `HistoryTransformer`. It needs granularity `"weight"`, no margin, and a catalogue in the order of
            the history's vocabulary. Its `buckets` are what runs give to `Feature.numeric`.
        one_list: whether a position's next items stand in one softmax, see `listwise_multi_step`.

    Example:

    >>> from csmf_tf.towers import Feature
    >>> model = CSMF(
    ...     ["click", "buy"],
    ...     user_features=[Feature("user_id", "id", vocabulary=("u1", "u2"))],
    ...     item_features=[Feature("item_id", "id", vocabulary=("i1", "i2", "i3"))],
    ...     embedding_dim=4,
    ... )
    >>> model.begin("click")
    >>> model.prune(share=0.5)["embedding"].kept
    2
    >>> model.freeze()
    >>> sorted(model.owner.tolist())
    [0, 0, 1, 1]
    """

    def __init__(
        self,
        funnel,
        user_features,
        item_features,
        embedding_dim=64,
        hidden=(),
        granularity="unit",
        normalize=False,
        temperature=1.0,
        loss="full",
        in_batch_negatives=True,
        virtual_gradient=True,
        margin=0.0,
        l2=0.0,
        l2_balance=1.0,
        heterrec=None,
        one_list=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if isinstance(funnel, str):
            raise ValueError(f"`funnel` should be a sequence of names. Received: funnel={funnel!r}")
        self.funnel = tuple(funnel)
        if not self.funnel or len(set(self.funnel)) != len(self.funnel):
            raise ValueError(f"`funnel` should be one or more different names. Received: {self.funnel}")
        if embedding_dim < len(self.funnel):
            raise ValueError(
                "`embedding_dim` should be at least one coordinate for each objective. "
                f"Received: embedding_dim={embedding_dim} for {len(self.funnel)} objectives"
            )
        if loss not in ("full", "sampled"):
            raise ValueError(f"`loss` should be 'full' or 'sampled'. Received: loss={loss!r}")
        self.temperatures = (*temperature,) if np.ndim(temperature) else (temperature,) * len(self.funnel)
        if len(self.temperatures) != len(self.funnel) or not all(t > 0 for t in self.temperatures):
            raise ValueError(
                "`temperature` should be one positive number or one for each objective. "
                f"Received: temperature={temperature} for {len(self.funnel)} objectives"
            )
        if l2 < 0 or l2_balance <= 0:
            raise ValueError(
                f"`l2` should be >= 0 and `l2_balance` > 0. Received: l2={l2}, l2_balance={l2_balance}"
            )
        if heterrec is not None and margin:
            raise ValueError(
                "`margin` should be 0 with `heterrec`, whose loss has several positives a position. "
                f"Received: margin={margin}"
            )
        if one_list and (loss == "sampled" or heterrec is None):
            raise ValueError(
                "`one_list` should go with `heterrec` and the full softmax. "
                f"Received: loss={loss!r}, heterrec={heterrec}; leave it out, or set `loss` to 'full'"
            )
        self.loss_kind = loss
        self.in_batch_negatives = in_batch_negatives
        self.virtual_gradient = virtual_gradient
        self.margin = margin
        self.l2 = l2
        self.l2_balance = l2_balance
        self.one_list = one_list
        self.towers = TowerPair(
            user_features,
            item_features,
            embedding_dim,
            hidden,
            granularity,
            normalize,
            heterrec,
            dtype=self.dtype_policy,
        )
        # [stage in training or 0, stages frozen]: a variable, so that checkpoints hold it.
        self.progress = tf.Variable([0, 0], trainable=False, dtype=tf.int32, name="progress")
        self._loss_mean = keras.metrics.Mean("loss")
        self.catalogue_ids = np.array([], dtype=object)
        self._catalogue = {}
        self._traced = {}

    # Stages

    @property
    def stage(self) -> int:
        """The 1-based stage in training; 0 when none is."""
        with tf.init_scope():
            return int(self.progress[0])

    @property
    def frozen_stages(self) -> int:
        """How many stages are finished."""
        with tf.init_scope():
            return int(self.progress[1])

    @property
    def objective(self) -> str | None:
        """Name of the objective in training, None when there is none."""
        return self.funnel[self.stage - 1] if self.stage else None

    @property
    def owner(self) -> np.ndarray:
        """uint8 [D]: the stage that owns each coordinate of the embedding, 0 = free."""
        return self.towers.owner

    def begin(self, objective):
        """Starts the stage of `objective`: it takes every free weight and may read all frozen ones.

        Compile the model afterwards, so that the stage starts with a fresh optimizer.

        Args:
            objective: its name; the first of the funnel that is not finished.

        Raises:
            ValueError: for an unknown objective, for one out of the funnel's order, while another stage is
                in training, and when earlier stages left no coordinate free.
        """
        if objective not in self.funnel:
            raise ValueError(f"`objective` should be one of {self.funnel}. Received: objective={objective!r}")
        if self.stage:
            raise ValueError(
                f"`begin` should come when no stage is in training. Received: objective={objective!r} while "
                f"'{self.objective}' is; call `freeze()` first"
            )
        stage = self.funnel.index(objective) + 1
        if stage != self.frozen_stages + 1:
            following = self.funnel[self.frozen_stages : self.frozen_stages + 1]
            raise ValueError(
                f"Stages should run in the order of the funnel {self.funnel}. Received: "
                f"objective={objective!r}; "
                + (f"begin '{following[0]}' first" if following else "every stage is finished")
            )
        if stage > 1 and not np.any(self.owner == 0):
            raise ValueError(
                f"Objective '{objective}' needs at least one free coordinate of the embedding. "
                "Received: none, earlier stages own all; prune them to smaller shares"
            )
        self.towers.begin(stage)
        self.progress.assign([stage, self.frozen_stages])
        self.retrace()

    def prune(self, tau=None, share=None, users=None):
        """Frees what the stage in training needs least, layer by layer.

        The coordinates of the embedding are freed in both towers at once, by the geometric mean of their
        two L1 norms (own choice: `u_d v_d` stays when one side is scaled up and the other down).

        As trained, the coordinates share the scores evenly, so that to free some costs much. Given `users`,
        they are first turned to the principal axes of these users' scores, see
        `csmf_tf.towers.axes.principal_axes`, and freed by what each axis holds in place of L1 norms (own
        choice). By itself the turn changes no score, up to rounding. A model in which other layers read
        the coordinates of an id table (hidden ones, the tokens of `heterrec`) is pruned as it is.

        Args:
            tau: in [0, 1), the share of each layer's L1 mass to free (CPP, paper); given `users`, of the
                embedding the share of the sum of what its axes hold.
            share: in (0, 1], the share of each layer that the stage may keep; the tau that meets it is
                found. Give one of the two; a coordinate is left for each objective to come either way.
            users: dict of encoded user features, or None.

        Returns:
            dict of layer name to `Pruned(kept, freed, tau)`; `"embedding"` is the coordinates.
        """
        self._check_in_training("prune")
        if (tau is None) == (share is None):
            raise ValueError(
                f"`prune` should get either `tau` or `share`. Received: tau={tau}, share={share}"
            )
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"`share` should be in (0, 1]. Received: share={share}")
        vectors = None
        if users is not None and self.towers.may_turn:
            vectors = self.user_vectors(users), self.item_vectors()
        return self.towers.prune(self.stage, tau, share, len(self.funnel) - self.stage, vectors)

    def freeze(self):
        """Ends the stage in training: what it owns never changes again.

        Raises:
            ValueError: when no stage is in training, or a weight is not finite.
        """
        self._check_in_training("freeze")
        self.towers.freeze()
        self.progress.assign([0, self.stage])
        # No vector changes: only a training step has to notice.
        self.train_function = None

    def add_objective(self, name, temperature=None):
        """Appends an objective to the funnel of a model whose earlier stages left capacity free.

        `begin(name)` then starts its stage. Earlier scores stay bit-identical.

        Args:
            name: the new objective.
            temperature: that of its stage, used with `normalize`; default that of the last objective.

        Raises:
            ValueError: when the funnel has `name` already, or `temperature` is not positive.
        """
        if name in self.funnel:
            raise ValueError(
                f"`name` should be a new objective. Received: name={name!r}, known {self.funnel}"
            )
        temperature = self.temperatures[-1] if temperature is None else temperature
        if not temperature > 0:
            raise ValueError(f"`temperature` should be positive. Received: temperature={temperature}")
        self.funnel = (*self.funnel, name)
        self.temperatures = (*self.temperatures, temperature)

    def capacity(self):
        """Share of each layer's units or weights per owner.

        Returns:
            dict of layer name to float64 [K + 1]: free first, then the objectives in funnel order;
            `"embedding"` is the coordinates.
        """
        return self.towers.capacity(len(self.funnel))

    def _check_in_training(self, call):
        if not self.stage:
            raise ValueError(
                f"`{call}` should come while a stage is in training. Received: none; "
                "call `begin(objective)` first"
            )

    def retrace(self):
        """Makes Keras trace its steps anew: a traced step holds the number of the stage."""
        self.train_function = self.test_function = self.predict_function = None
        self._traced = {}

    # Vectors

    def embed_users(self, encoded, stage=None):
        """float32 [B, D] of encoded user features; by default as the latest stage sees them."""
        return self._embed(self.towers.user, encoded, stage)

    def embed_items(self, encoded, stage=None):
        """float32 [B, D] of encoded item features; by default as the latest stage sees them."""
        return self._embed(self.towers.item, encoded, stage)

    def _embed(self, tower, encoded, stage, **options):
        stage = stage or self.stage or self.frozen_stages or 1
        return self._tempered(self.towers.embed(tower, encoded, stage, **options), tower)

    def renormalize(self, mixed, stage):
        """Brings mixtures of item vectors, float32 [..., D], to the norms of those of `stage`."""
        return self._tempered(self.towers.renormalize(mixed, stage), self.towers.item)

    def _tempered(self, vectors, tower):
        """Divides each segment by the root of its temperature."""
        if not self.towers.normalize:
            return vectors
        owner = tf.cast(tower.output_layer.owner, tf.int32)
        roots = np.sqrt([1.0, *self.temperatures])
        return vectors / tf.gather(tf.constant(roots, tf.float32), owner)

    def call(self, inputs):
        """Scores of aligned user and item features.

        Args:
            inputs: dict of raw features, those of the user and those of the item, batch first.

        Returns:
            dict of objective to float32 [B]: `s_k(u, i)`, of every objective finished or in training.

        Raises:
            ValueError: when user and item features share a name, so that the dict cannot hold both.
        """
        names = [{f.name for f in tower.features} for tower in (self.towers.user, self.towers.item)]
        if both := sorted(names[0] & names[1]):
            raise ValueError(
                "User and item features should have different names to be in one dict. "
                f"Received: {both} twice; use `embed_users` and `embed_items`"
            )
        u = self.embed_users(self.towers.user_encoder(inputs))
        v = self.embed_items(self.towers.item_encoder(inputs))
        owner = tf.cast(self.towers.user.output_layer.owner, tf.int32)
        known = self.funnel[: max(self.stage, self.frozen_stages)]
        return {
            name: tf.reduce_sum(tf.where(owner <= stage, u * v, 0.0), axis=1)
            for stage, name in enumerate(known, start=1)
        }

    def set_catalogue(self, ids, raw):
        """Sets the items that can be retrieved.

        Args:
            ids: [N] strings.
            raw: dict of raw item features, [N, ...] each.

        Raises:
            ValueError: when there are no items, a feature has another number of rows, or, with `heterrec`,
                histories have another vocabulary.
        """
        encoded = self.towers.item_encoder.encode(raw)
        rows = {name: len(values) for name, values in encoded.items()}
        if not len(ids) or {len(ids)} != set(rows.values()):
            raise ValueError(
                "`raw` should hold one row for each of one or more items. "
                f"Received: {len(ids)} ids, rows {rows}"
            )
        if sequence := self.towers.user.sequence:
            if sequence.history.vocabulary != tuple(ids):
                raise ValueError(
                    "`ids` should be the vocabulary of the feature `history`, in its order. "
                    f"Received: {len(ids)} ids, others than its {len(sequence.history.vocabulary)}"
                )
            sequence.set_items(encoded)
        self.catalogue_ids = np.asarray(ids, dtype=object)
        self._catalogue = {name: tf.constant(values) for name, values in encoded.items()}

    def item_vectors(self):
        """float32 numpy array [N, D] of the whole catalogue, as the latest stage sees it."""
        if not self._catalogue:
            raise ValueError(
                "`item_vectors` should come after `set_catalogue(ids, raw)`, also on a loaded model. "
                "Received: no catalogue"
            )
        return self._in_chunks(self.embed_items, self._catalogue, CHUNK)

    def user_vectors(self, encoded):
        """float32 numpy array [U, D] of any number of encoded users, as the latest stage sees them."""
        return self._in_chunks(self.embed_users, encoded, self.towers.user.chunk)

    def user_embedder(self):
        """A `tf.Module` from a dict of raw user features to vectors [B, D]; it holds the user side only."""
        return Embedder(self.towers.user_encoder, self.towers.user, self._embed)

    def item_embedder(self):
        """A `tf.Module` from a dict of raw item features to vectors [B, D]; it holds the item side only.

        An item outside the vocabulary has the vector of its other features and of an unknown id.
        """
        return Embedder(self.towers.item_encoder, self.towers.item, self._embed)

    def _in_chunks(self, embed, encoded, size):
        rows = len(next(iter(encoded.values())))
        if embed.__name__ not in self._traced:
            # Nothing in it branches on a tensor, and AutoGraph takes a second to find that out. A partial, as
            # TensorFlow would count the traces of all stages together and warn of them.
            plain = functools.partial(tf.autograph.experimental.do_not_convert(embed))
            self._traced[embed.__name__] = tf.function(plain, reduce_retracing=True)
        return np.concatenate(
            [
                self._traced[embed.__name__]({k: tf.constant(v[at : at + size]) for k, v in encoded.items()})
                for at in range(0, rows, size)
            ]
        )

    # Training

    @tf.autograph.experimental.do_not_convert
    def train_step(self, data):
        """One step of the stage in training; unlike the base class it scales the loss in mixed precision."""
        with tf.GradientTape() as tape:
            loss = self.compute_loss(data, training=True)
            total = tf.add_n([loss, *self.losses])
        self.optimizer.minimize(total, self.trainable_variables, tape=tape)
        self._loss_mean.update_state(loss)
        return {"loss": self._loss_mean.result()}

    def test_step(self, data):
        """Mean loss over the data, of the stage in training or else of the last one."""
        self._loss_mean.update_state(self.compute_loss(data))
        return {"loss": self._loss_mean.result()}

    def compute_loss(self, inputs, training=False):
        """Mean over the rows of the summed negative log-likelihood, plus the L2 term.

        Args:
            inputs: a batch, see the class.
            training: whether the loss is trained on, for which a stage has to be in training; else it may
                also be that of the last stage finished, and nothing is dropped or hidden.

        Returns:
            float32 scalar.
        """
        stage = self.stage or self.frozen_stages
        if not self._catalogue:
            raise ValueError("`fit` should come after `set_catalogue(ids, raw)`. Received: no catalogue")
        if training:
            self._check_in_training("fit")
        if not stage:
            raise ValueError("`evaluate` should come after `begin(objective)`. Received: no stage has begun")
        users = self._users(inputs, stage, training)
        loss = self._stage_loss(stage)
        hide = self._hiding(inputs, training)
        if self.loss_kind == "full":
            return loss.full(users, self.embed_items(hide(self._catalogue), stage), inputs)
        candidates = columns(
            inputs,
            users,
            lambda codes: self.embed_items(hide(self._encoded(codes)), stage),
            self.in_batch_negatives,
            lambda mixed: self.renormalize(mixed, stage),
            self.virtual_gradient,
        )
        return loss.sampled(users, candidates, inputs)

    def _users(self, inputs, stage, training):
        """User vectors [R, D] of a batch; of sequences [Q, D] or, for the sampled softmax, [P, D]."""
        if "query" not in inputs:
            return self.embed_users(inputs["user"], stage)
        options = {"training": training, "seed": inputs["dropout_seed"], "every_position": True}
        positions = self._embed(self.towers.user, inputs["user"], stage, **options)
        queries = inputs["query"]
        if self.loss_kind == "sampled":
            queries = tf.gather(queries, inputs["row"])
        return tf.gather(tf.reshape(positions, [-1, self.towers.embedding_dim]), queries)

    def _stage_loss(self, stage):
        output = self.towers.user.output_layer
        # Normalised vectors are no sum of a bias and a taste.
        normalize = self.towers.normalize
        return StageLoss(
            tf.cast(output.owner, tf.int32),
            stage,
            margin=self.margin,
            temperature=self.temperatures[stage - 1] if normalize else 1.0,
            l2=self.l2,
            l2_balance=self.l2_balance,
            bias=None if normalize else tf.cast(output.bias, tf.float32),
            one_list=self.one_list,
        )

    def _encoded(self, codes):
        return {name: tf.gather(values, codes) for name, values in self._catalogue.items()}

    def _hiding(self, inputs, training):
        """A function that hides some ids of encoded items, others at each call, where a batch asks for it."""
        if not training or "item_id_drop" not in inputs:
            return lambda encoded: encoded
        ids = [f for f in self.towers.item.features if f.kind == "id"]
        if not ids:
            raise ValueError(
                "`item_id_drop` should go with an item feature of kind 'id'. "
                f"Received: {[f.name for f in self.towers.item.features]}; leave it out"
            )
        name, unknown = ids[0].name, ids[0].unknown_rows
        calls = itertools.count()

        def hide(encoded):
            seed = folded(inputs["item_id_seed"], next(calls))
            return {**encoded, name: some_unknown(encoded[name], unknown, inputs["item_id_drop"], seed)}

        return hide

    def get_config(self):
        return {
            "name": self.name,
            "dtype": self.dtype_policy.name,
            "funnel": list(self.funnel),
            "user_features": [dataclasses.asdict(f) for f in self.towers.user.features],
            "item_features": [dataclasses.asdict(f) for f in self.towers.item.features],
            "embedding_dim": self.towers.embedding_dim,
            "hidden": self.towers.hidden,
            "granularity": self.towers.granularity,
            "normalize": self.towers.normalize,
            "temperature": list(self.temperatures),
            "loss": self.loss_kind,
            "in_batch_negatives": self.in_batch_negatives,
            "virtual_gradient": self.virtual_gradient,
            "margin": self.margin,
            "l2": self.l2,
            "l2_balance": self.l2_balance,
            "heterrec": self.towers.heterrec and dataclasses.asdict(self.towers.heterrec),
            "one_list": self.one_list,
        }
