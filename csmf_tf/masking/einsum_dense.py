"""`keras.layers.EinsumDense` with weights that stages own."""

from typing import Any

import numpy as np

from csmf_tf._keras import keras
from csmf_tf.masking import ownership
from csmf_tf.masking.base import MaskedLayer


@keras.saving.register_keras_serializable(package="csmf_tf")
class MaskedEinsumDense(MaskedLayer, keras.layers.EinsumDense):
    """A drop-in for `keras.layers.EinsumDense` whose weights are owned by stages.

    The output units are the kernel axes that are not in the input's part of the equation, the inputs are
    the others: in `"abc,cde->abde"` a unit is a pair `(d, e)` and an input is a `c`. A bias that several
    units share goes with the earliest owner among them. See `OwnedLayer` for what is effective and
    `MaskedLayer` for the steps of a stage. While stage 1 owns everything, the outputs equal those of
    `EinsumDense` bit for bit.

    In granularity `"unit"` a stage after the first begins only when the layer was told who owns its inputs:
    by `propagate_owners(layers)` after each `prune` and `begin` of a stack, or once by
    `set_input_owner(np.ones(shape, np.uint8))` for inputs that never change,
    with the shape of `input_owner`.

    Args:
        *args: As `keras.layers.EinsumDense`.
        granularity: `"unit"`: stages own whole units, and a kernel entry is read when
            `1 <= owner(in) <= owner(out)`. `"weight"`: stages own single kernel entries.
        **kwargs: As `keras.layers.EinsumDense`.

    Call arguments:
        inputs: As `keras.layers.EinsumDense`.
        stage: The objective whose forward pass to compute, an `int`. `None` reads every owned weight.

    >>> import numpy as np
    >>> from csmf_tf import MaskedEinsumDense
    >>> layer = MaskedEinsumDense("abc,cde->abde", output_shape=(None, 4, 2), bias_axes="de")
    >>> layer(np.ones([1, 5, 3], np.float32)).shape
    TensorShape([1, 5, 4, 2])
    >>> layer.owner.shape, layer.input_owner.shape
    (TensorShape([4, 2]), TensorShape([3]))
    """

    @property
    def _specs(self) -> list[str]:
        """The letters of the input, the kernel and the output."""
        return self.equation.replace("...", "").replace("->", ",").split(",")

    @property
    def _unit_axes(self) -> tuple[int, ...]:
        inputs, kernel, _ = self._specs
        return tuple(axis for axis, letter in enumerate(kernel) if letter not in inputs)

    def _bias_layout(self, unit_owner: np.ndarray) -> np.ndarray:
        inputs, kernel, output = self._specs
        units = [letter for letter in kernel if letter not in inputs]
        shared = tuple(axis for axis, letter in enumerate(units) if letter not in self.bias_axes)
        owner = ownership.earliest(unit_owner, shared)
        owned = [letter for letter in units if letter in self.bias_axes]
        owner = owner.transpose([owned.index(letter) for letter in output if letter in owned])
        first = min(output.index(letter) for letter in self.bias_axes)
        letters = output[first:].ljust(self.bias.shape.rank)  # one blank per axis of a right-hand ellipsis
        owner = owner[tuple(slice(None) if letter in owned else None for letter in letters)]
        return np.broadcast_to(owner, self.bias.shape)

    def call(self, inputs: Any, stage: int | None = None) -> Any:
        return keras.layers.EinsumDense.call(self._presented(stage), inputs)
