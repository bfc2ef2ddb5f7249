"""What every masked layer shares: the steps of a stage."""

from typing import Any

import numpy as np

from csmf_tf._keras import keras, tf
from csmf_tf.masking import ownership, pruning
from csmf_tf.masking.effective import NOT_TOLD
from csmf_tf.masking.owned import OwnedLayer


class MaskedLayer(OwnedLayer):
    """The steps of a stage, mixed into a Keras layer in front of its namesake.

    A stage is driven by `begin`, training, `prune` (or `release`), more training and `freeze`. They only
    assign variables, so nothing is traced again. See `OwnedLayer` for the variables, and `propagate_owners`
    for how the layers of a stack learn who owns their inputs.
    """

    def begin(self, stage: int, claim: np.ndarray | None = None) -> np.ndarray:
        """Starts stage `stage`: it claims free weights and trains them from now on.

        Claimed weights start at zero in granularity `"weight"`, and from their initialiser in granularity
        `"unit"`, where zero would have no gradient (own choice). An initialiser with a seed draws other
        values for each stage; one without follows `keras.utils.set_random_seed`.

        Args:
            stage: The number of the stage, later than every stage that owns weights of this layer.
            claim: Bool mask of the shape of `owner`, the free weights to claim. `None` claims all.

        Returns:
            The bool mask of what was claimed.

        Raises:
            ValueError: If a stage is still in training, `stage` is not later than all owners, `claim` covers
                a weight that is not free, or `stage` is not the first and nobody has told the layer who owns
                its inputs (`propagate_owners`, `set_input_owner`).
        """
        if training := self._training():
            raise ValueError(
                f"`begin({stage})` needs a layer with no stage in training: call `freeze()` first. "
                f"Layer {self.name!r} still trains stage {training}."
            )
        owner = ownership.claim(self.owner.numpy(), stage, claim)
        if stage > 1:
            self._check_told(stage)
        self._set_owner(owner)
        self.stage.assign(stage)
        for name in self._names():
            live = getattr(self, name)
            if self.granularity == "weight":
                live.assign(tf.zeros_like(live))
            else:
                fresh = _fresh(getattr(self, f"{name}_initializer"), live, stage)
                live.assign(tf.where(self._mine(name), fresh, tf.zeros_like(live)))
        return ownership.trainable(owner, stage)

    def prune(self, tau: float | None = None, keep: int | None = None) -> np.ndarray:
        """Frees the least important weights (or units) of the stage in training.

        A weight counts by `|w|`, a unit by the L1 norm of its incoming weights; see
        `csmf_tf.masking.pruning.cumulative_percentile_prune`.

        Args:
            tau: Share of the L1 mass to free, in [0, 1).
            keep: Instead of `tau`: how many weights (units) the stage keeps.

        Returns:
            The bool mask of what was freed, of the shape of `owner`.

        Raises:
            ValueError: If not exactly one of `tau` and `keep` is given, it is out of range, no stage is in
                training or a weight is not finite.
        """
        owned = ownership.trainable(self.owner.numpy(), self._training("prune"))
        if tau is not None and keep is None:
            freed = pruning.cumulative_percentile_prune(self.importance(), owned, tau)
        elif keep is not None and tau is None:
            freed, _ = pruning.prune_to_count(self.importance(), owned, keep)
        else:
            raise ValueError(
                f"`prune` should be given exactly one of `tau` and `keep`. Received: tau={tau}, keep={keep}"
            )
        self.release(freed)
        return freed

    def release(self, freed: np.ndarray) -> None:
        """Frees the given weights (or units) of the stage in training: they read as zero from now on.

        Args:
            freed: Bool mask of the shape of `owner`.

        Raises:
            ValueError: If no stage is in training, or `freed` covers anything that it does not own.
        """
        training = self._training("release")
        self._set_owner(ownership.release(self.owner.numpy(), training, freed))
        for name in self._names():
            live = getattr(self, name)
            live.assign(tf.where(self._mine(name), live, tf.zeros_like(live)))

    def freeze(self) -> None:
        """Ends the stage in training: its weights move to where no optimiser reaches them.

        Raises:
            ValueError: If no stage is in training, or a weight is not finite.
        """
        self.check_freeze()
        for name in self._names():
            live = getattr(self, name)
            getattr(self, f"{name}_frozen").assign(self._merged(name))
            live.assign(tf.zeros_like(live))
        self.stage.assign(0)

    def check_freeze(self) -> None:
        """Raises what `freeze` would raise and changes nothing, so that many layers freeze all or none.

        Raises:
            ValueError: If no stage is in training, or a weight is not finite.
        """
        training = self._training("freeze")
        for name in self._names():
            if bad := int(np.count_nonzero(~np.isfinite(self._merged(name).numpy()))):
                raise ValueError(
                    f"`{name}` should be finite. Received: {bad} values that are NaN or infinite in layer "
                    f"{self.name!r}. Stage {training} has diverged: train it again, say with a lower "
                    "learning rate."
                )

    def set_input_owner(self, owner: Any) -> None:
        """Tells which stage owns each input: as a rule the `unit_owner` of the layer before.

        `propagate_owners` does it for the layers of a stack.

        Args:
            owner: Integers in 0..254 of the shape of `input_owner`; 0 for inputs that nobody may read, 1 for
                inputs that never change.

        Raises:
            ValueError: If the layer has no `input_owner`, the shape or the range is wrong, or a finished
                stage would read other inputs than before.
        """
        self._check_built()
        if self.input_owner is None:
            raise ValueError(
                "`set_input_owner` needs a kernel with `granularity='unit'`. "
                f"Received: {type(self).__name__} with granularity={self.granularity!r}"
            )
        new = ownership.check_owner("owner", owner, self.input_owner.shape)
        if np.any(new == NOT_TOLD):
            raise ValueError(
                f"`owner` should hold integers in 0..{NOT_TOLD - 1}: {NOT_TOLD} marks inputs whose owner "
                f"nobody has told. Received: owner={new}"
            )
        before, after = (self._reads(None, inputs) for inputs in (self.input_owner, new))
        if np.any((before ^ after) & ~self._mine(self._weight)):
            raise ValueError(
                f"`owner` should leave the inputs of finished stages as they are: frozen units of layer "
                f"{self.name!r} would read other inputs. Set the owners of the inputs before `freeze()`. "
                f"Received: owner={new}, in place of {self.input_owner.numpy()}"
            )
        self.input_owner.assign(new)

    def _training(self, step: str | None = None) -> int:
        """The stage in training, 0 for none; an error for none if it is a `step` that needs one."""
        self._check_built()
        training = int(self.stage.numpy())
        if step and not training:
            raise ValueError(
                f"`{step}` needs a stage in training. Received: layer {self.name!r} without one; "
                "call `begin(stage)` first."
            )
        return training

    def _check_told(self, stage: int) -> None:
        if self.input_owner is not None and np.any(self.input_owner == NOT_TOLD):
            raise ValueError(
                f"`begin({stage})` needs to know who owns the inputs of layer {self.name!r}, as frozen units "
                "must not read what a later stage changes. Call `propagate_owners(layers)` for the layers of "
                "a stack, after `prune` and before `freeze`, or for inputs that never change "
                f"`set_input_owner(np.ones({tuple(self.input_owner.shape)}, np.uint8))`. "
                "Received: a layer that was never told."
            )

    def _set_owner(self, owner: np.ndarray) -> None:
        self.owner.assign(owner)
        if self.bias_owner is not None:
            self.bias_owner.assign(self._bias_layout(self.unit_owner))


def _fresh(initializer: Any, variable: Any, stage: int) -> Any:
    """New values for a variable. Keras initialisers repeat their first draw, so a copy of it draws."""
    if isinstance(initializer, keras.initializers.Initializer):
        config = initializer.get_config()
        if config.get("seed") is not None:
            config["seed"] += stage - 1
        initializer = type(initializer).from_config(config)
    return initializer(variable.shape, dtype=variable.dtype)
