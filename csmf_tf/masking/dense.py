"""`keras.layers.Dense` with weights that stages own."""

from typing import Any

from csmf_tf._keras import keras
from csmf_tf.masking.base import MaskedLayer


@keras.saving.register_keras_serializable(package="csmf_tf")
class MaskedDense(MaskedLayer, keras.layers.Dense):
    """A drop-in for `keras.layers.Dense` whose weights are owned by stages.

    `output = activation(dot(input, effective_kernel) + effective_bias)`; see `OwnedLayer` for what is
    effective and `MaskedLayer` for the steps of a stage. While stage 1 owns everything,
    the outputs equal those of `Dense` bit for bit.

    In granularity `"unit"` a stage after the first begins only when the layer was told who owns its inputs:
    by `propagate_owners(layers)` after each `prune` and `begin` of a stack, or once by
    `set_input_owner(np.ones(inputs, np.uint8))` for inputs that never change.

    Args:
        *args: As `keras.layers.Dense`.
        granularity: `"unit"`: stages own whole neurons, and a kernel entry is read when
            `1 <= owner(in) <= owner(out)`, so that one forward pass yields the units of every stage.
            `"weight"`: stages own single kernel entries, as in the paper.
        **kwargs: As `keras.layers.Dense`.

    Call arguments:
        inputs: As `keras.layers.Dense`: dense `[batch, ..., inputs]`, ragged or sparse.
        stage: The objective whose forward pass to compute, an `int`. `None` reads every owned weight.

    >>> import numpy as np
    >>> from csmf_tf import MaskedDense
    >>> layer = MaskedDense(2, kernel_initializer="ones")
    >>> layer(np.ones([1, 3], np.float32)).numpy()
    array([[3., 3.]], dtype=float32)
    >>> layer.prune(keep=1)
    array([ True, False])
    >>> layer.set_input_owner(np.ones(3, np.uint8))
    >>> layer.freeze()
    >>> layer.begin(2)
    array([ True, False])
    >>> layer.owner.numpy()
    array([2, 1], dtype=uint8)
    >>> layer(np.ones([1, 3], np.float32), stage=1).numpy()
    array([[0., 3.]], dtype=float32)
    """

    def call(self, inputs: Any, stage: int | None = None) -> Any:
        return keras.layers.Dense.call(self._presented(stage), inputs)
