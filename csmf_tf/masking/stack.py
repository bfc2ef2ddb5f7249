"""Owners along a stack of masked layers: the units of one layer are the inputs of the next."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from csmf_tf.masking.base import MaskedLayer


def propagate_owners(layers: Iterable[MaskedLayer], inputs: Any = None) -> None:
    """Tells each layer of a plain stack who owns its inputs: the stages that own the units before it.

    Call it after each `prune` and `begin` and before `freeze`. Then no frozen unit reads an input that a
    later stage takes over and changes (own choice).

    Args:
        layers: Masked layers in the order of the data flow, each with weights. What lies between two of them
            is left out; it must keep units apart, as activations and dropout do, and their order.
        inputs: Integers in 0..254, the owners of the inputs of the first layer. `None`: they never change,
            so that every stage may read them.

    Raises:
        ValueError: If a layer is not masked or has no weights yet, the units of a layer are not laid out as
            the inputs of the next, or frozen units would read other inputs than before.

    >>> from csmf_tf import MaskedDense, propagate_owners
    >>> from csmf_tf._keras import tf
    >>> layers = [MaskedDense(3, "relu"), MaskedDense(2)]
    >>> _ = tf.keras.Sequential(layers)(np.ones([1, 4], np.float32))
    >>> layers[0].release(np.array([False, True, False]))
    >>> propagate_owners(layers)
    >>> layers[1].input_owner.numpy()
    array([1, 0, 1], dtype=uint8)
    """
    owner = inputs
    for layer in layers:
        if not isinstance(layer, MaskedLayer):
            raise ValueError(
                "`layers` should hold masked layers only; leave out those that keep units apart, such as "
                f"activations and dropout. Received: {layer!r}"
            )
        if layer.input_owner is not None:
            fixed = np.ones(layer.input_owner.shape, np.uint8)
            layer.set_input_owner(fixed if owner is None else owner)
        owner = layer.unit_owner
