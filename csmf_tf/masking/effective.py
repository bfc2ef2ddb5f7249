"""The weights that a forward pass sees, as TensorFlow ops on owners, live and frozen values."""

from typing import Any

from csmf_tf._keras import tf
from csmf_tf.masking import ownership

# The owner of an input before anyone has told it; no input may have stage 255 for an owner.
NOT_TOLD = ownership.MAX_STAGE


def along(values: Any, axes: tuple[int, ...], rank: int) -> Any:
    """Lays `values` along some axes of a kernel.

    Args:
        values: Tensor or array with one axis for each of `axes`.
        axes: Axes of the kernel, ascending.
        rank: The rank of the kernel.

    Returns:
        `values` with an axis of size one for each other axis, so that it broadcasts against the kernel.

    >>> along(tf.constant([1, 2]), axes=(0,), rank=2).numpy()
    array([[1],
           [2]], dtype=int32)
    """
    return values[tuple(slice(None) if axis in axes else None for axis in range(rank))]


def reads(owner: Any, stage: int | None, input_owner: Any = None) -> Any:
    """What the forward pass of an objective reads: `1 <= owner <= stage` and `1 <= owner(in) <= owner`.

    The first is the paper's, the second an own choice: with it a unit never depends on a later stage, and one
    forward pass yields the units of all stages.

    Args:
        owner: `uint8` tensor.
        stage: The objective, an `int`. `None` reads every owned weight.
        input_owner: `uint8` tensor that broadcasts against `owner`; what is `NOT_TOLD` every unit reads.
            `None` where inputs have no owner.

    Returns:
        A bool tensor.

    Raises:
        ValueError: If `stage` is not an integer in 1..255.

    >>> reads(tf.constant([0, 1, 2], tf.uint8), stage=1).numpy()
    array([False,  True, False])
    """
    active = owner >= 1 if stage is None else ownership.active(owner, stage)
    if input_owner is None:
        return active
    readable = (input_owner <= owner) | (input_owner == NOT_TOLD)
    return active & (input_owner >= 1) & readable


def select(live: Any, frozen: Any, read: Any, training: Any) -> Any:
    """The effective weight `where(read & training, live, where(read, frozen, 0))` (own choice).

    Args:
        live: Float tensor, the values of the stage in training.
        frozen: Float tensor of that shape and dtype, the values of the finished stages.
        read: Bool tensor that broadcasts against them, what is read.
        training: Bool tensor like `read`, what belongs to the stage in training.

    Returns:
        A tensor like `live`; gradients reach `live` alone.

    >>> training, read = tf.constant([True, False, False]), tf.constant([True, True, False])
    >>> select(tf.constant([1.0, 1.0, 1.0]), tf.constant([2.0, 2.0, 2.0]), read, training).numpy()
    array([1., 2., 0.], dtype=float32)
    """
    return tf.where(read & training, live, tf.where(read, frozen, tf.zeros([], frozen.dtype)))


class Presented:
    """A view of an object with some attributes replaced; the object itself is not touched.

    It lets the `call` of a Keras layer run on other weights than the layer's variables.

    >>> class Point:
    ...     x, y = 1, 2
    >>> view = Presented(Point(), y=5)
    >>> view.x, view.y
    (1, 5)
    """

    def __init__(self, target: Any, **replaced: Any):
        self.__dict__.update(replaced, _target=target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)
