"""What a layer with owners stores, and what a forward pass reads of it."""

from typing import Any

import numpy as np

from csmf_tf._keras import keras, tf
from csmf_tf.masking import ownership
from csmf_tf.masking.effective import NOT_TOLD, Presented, along, reads, select

GRANULARITIES = ("unit", "weight")


class OwnedLayer(keras.layers.Layer):
    """The variables of a Keras layer whose weights are owned by stages.

    Every float weight `w` of the namesake is stored twice: `w`, which is trainable and holds the values
    of the stage in training, and `w_frozen`, which is not and holds those of the finished stages. The
    namesake computes with the effective weight

        where(read & (owner == training), w, where(read, w_frozen, 0)),    read = 1 <= owner <= stage

    so that the variable an optimiser sees never holds a frozen value: whatever the optimiser does to it,
    a finished stage keeps its weights bit for bit (own choice). At first stage 1 owns everything and is
    in training: the layer then is its namesake. Regularisers and constraints see `w`, the live values.

    Attributes:
        owner: `uint8` variable. Granularity `"weight"`: of the shape of the kernel or table. Granularity
            `"unit"`: of the shape of its output units.
        stage: `uint8` scalar variable, the stage in training; 0 if there is none.
        input_owner: `uint8` variable, the owners of the inputs in granularity `"unit"`: a kernel entry is
            read when `1 <= owner(in) <= owner(out)`. 255 until they are told: such inputs are read by every
            unit, and no stage but the first can begin. `None` in granularity `"weight"` and for tables.
        bias_owner: `uint8` variable of the shape of the bias, `None` without one. A bias goes with the
            earliest owner of the weights of its unit.
    """

    # The attribute of the namesake that holds the weights which are owned.
    _weight = "kernel"

    owner: Any = None
    stage: Any = None
    input_owner: Any = None
    bias_owner: Any = None

    def __init__(self, *args: Any, granularity: str = "unit", **kwargs: Any):
        super().__init__(*args, **kwargs)
        if granularity not in GRANULARITIES:
            raise ValueError(
                f"`granularity` should be one of {GRANULARITIES}. Received: granularity={granularity!r}"
            )
        self.granularity = granularity

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "granularity": self.granularity}

    def build(self, input_shape: Any) -> None:
        super().build(input_shape)
        for name in self._names():
            frozen = self.add_weight(
                f"{name}_frozen",
                shape=getattr(self, name).shape,
                initializer="zeros",
                trainable=False,
                experimental_autocast=self._autocast,
            )
            setattr(self, f"{name}_frozen", frozen)
        shape = getattr(self, self._weight).shape
        by_unit = self.granularity == "unit"
        self.owner = self._add_owner("owner", [shape[n] for n in self._unit_axes] if by_unit else shape)
        self.stage = self._add_owner("stage", [])
        if by_unit and self._weight == "kernel":
            self.input_owner = self._add_owner("input_owner", [shape[n] for n in self._input_axes], NOT_TOLD)
        if "bias" in self._names():
            self.bias_owner = self._add_owner("bias_owner", self.bias.shape)

    def active(self, stage: int) -> np.ndarray:
        """What the forward pass of objective `stage` reads, a bool array of the kernel's shape."""
        self._check_built()
        return self._full(self._reads(stage, self.input_owner))

    def trainable_mask(self) -> np.ndarray:
        """What training changes, a bool array of the kernel's shape; all false between stages."""
        self._check_built()
        return self._full(self._reads(None, self.input_owner) & self._mine(self._weight))

    @property
    def unit_owner(self) -> np.ndarray:
        """The earliest owner of each output unit, `uint8`."""
        self._check_built()
        owner = self.owner.numpy()
        return owner if self.granularity == "unit" else ownership.earliest(owner, self._input_axes)

    def importance(self) -> np.ndarray:
        """What pruning goes by: `|w|`, or per unit the L1 norm of the incoming weights that are read.

        Returns:
            A `float64` array of the shape of `owner`.
        """
        self._check_built()
        sizes = np.abs(self._merged(self._weight).numpy())
        axes = self._input_axes if self.granularity == "unit" else ()
        return np.asarray(np.sum(sizes, axis=axes, dtype=np.float64))

    def capacity(self, stages: int) -> np.ndarray:
        """The share of the weights (of the units, if they are owned) that each owner holds.

        Args:
            stages: How many stages to list.

        Returns:
            A `float64` array `[stages + 1]` that sums to 1; entry 0 is the free share.
        """
        self._check_built()
        return ownership.shares(self.owner.numpy(), stages)

    def merged_weights(self, stage: int | None = None) -> list[np.ndarray]:
        """The effective weights, as `set_weights` of the plain namesake takes them.

        Args:
            stage: The objective whose forward pass to merge. `None` takes every owned weight.
        """
        self._check_built()
        return [self._merged(name, stage).numpy() for name in self._names()]

    @property
    def _unit_axes(self) -> tuple[int, ...]:
        """The axes of the kernel or table that are output units."""
        return (1,)

    @property
    def _input_axes(self) -> tuple[int, ...]:
        return tuple(axis for axis in range(self._rank) if axis not in self._unit_axes)

    @property
    def _rank(self) -> int:
        return getattr(self, self._weight).shape.rank

    def _names(self) -> list[str]:
        """The attributes of the namesake that hold float weights, in the order of its `get_weights`."""
        return [name for name in (self._weight, "bias") if getattr(self, name, None) is not None]

    def _add_owner(self, name: str, shape: Any, owner: int = 1) -> Any:
        initializer = keras.initializers.Constant(owner)
        return self.add_weight(name, shape=shape, dtype="uint8", initializer=initializer, trainable=False)

    def _check_built(self) -> None:
        if self.owner is None:
            raise ValueError(f"Layer {self.name!r} has no weights yet: call it on data or `build` it first.")

    def _bias_layout(self, unit_owner: np.ndarray) -> np.ndarray:
        """The owners of the bias, given those of the units."""
        return unit_owner

    def _owner_of(self, name: str) -> Any:
        """The owners of a weight, so shaped that they broadcast against it."""
        if name == "bias":
            return self.bias_owner
        return self.owner if self.granularity == "weight" else along(self.owner, self._unit_axes, self._rank)

    def _mine(self, name: str) -> Any:
        """Which entries of a weight belong to the stage in training: a bool tensor, to be broadcast."""
        owner = self._owner_of(name)
        return (owner >= 1) & tf.equal(owner, self.stage)

    def _reads(self, stage: int | None, input_owner: Any) -> Any:
        """Which entries of the kernel or table objective `stage` reads: a bool tensor, to be broadcast."""
        if input_owner is not None:
            input_owner = along(input_owner, self._input_axes, self._rank)
        return reads(self._owner_of(self._weight), stage, input_owner)

    def _full(self, mask: Any) -> np.ndarray:
        return np.broadcast_to(mask.numpy(), getattr(self, self._weight).shape)

    def _merged(self, name: str, stage: int | None = None) -> Any:
        """The effective weight, a tensor of the shape of the variable `name`."""
        owner = self._owner_of(name)
        read = self._reads(stage, self.input_owner) if name == self._weight else reads(owner, stage)
        training = tf.equal(owner, self.stage)
        return select(getattr(self, name), getattr(self, f"{name}_frozen"), read, training)

    def _presented(self, stage: int | None) -> Any:
        """The layer as its namesake's `call` is to see it: with the effective weights of a stage."""
        return Presented(self, **{name: self._merged(name, stage) for name in self._names()})
