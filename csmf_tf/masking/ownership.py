"""The algebra of owners: which stage owns which weight.

An owner array holds one `uint8` per weight (or per unit): 0 is free, k in 1..255 is owned by stage k. Every
function is pure: it returns a new array and never changes the one it is given.
"""

import numbers
from typing import Any

import numpy as np

FREE = 0
MAX_STAGE = 255


def check_stage(stage: Any) -> int:
    """Returns `stage` as an `int`, or raises if it cannot be a stage.

    Args:
        stage: The 1-based number of a stage.

    Raises:
        ValueError: If `stage` is not an integer in 1..255.
    """
    valid = isinstance(stage, numbers.Integral) and not isinstance(stage, bool)
    if not valid or not 1 <= stage <= MAX_STAGE:
        raise ValueError(f"`stage` should be an integer in 1..{MAX_STAGE}. Received: stage={stage!r}")
    return int(stage)


def active(owner: Any, stage: int) -> Any:
    """What the forward pass of objective `stage` may read: `1 <= owner <= stage` (paper).

    Args:
        owner: Owner array of any shape; a `uint8` tensor works as well.
        stage: The 1-based number of a stage.

    Returns:
        A bool array of the shape of `owner`.

    Raises:
        ValueError: If `stage` is not an integer in 1..255.

    >>> active(np.array([0, 1, 2, 3], np.uint8), stage=2)
    array([False,  True,  True, False])
    """
    return (owner >= 1) & (owner <= check_stage(stage))


def trainable(owner: Any, stage: int) -> Any:
    """What stage `stage` may change: `owner == stage` (paper).

    Args:
        owner: Owner array of any shape; a `uint8` tensor works as well.
        stage: The 1-based number of a stage.

    Returns:
        A bool array of the shape of `owner`.

    Raises:
        ValueError: If `stage` is not an integer in 1..255.

    >>> trainable(np.array([0, 1, 2, 3], np.uint8), stage=2)
    array([False, False,  True, False])
    """
    return owner == check_stage(stage)


def claim(owner: np.ndarray, stage: int, where: np.ndarray | None = None) -> np.ndarray:
    """Gives free weights to a new stage.

    Args:
        owner: `uint8` owner array of any shape.
        stage: The new stage; later than every stage that owns something.
        where: Bool mask of the shape of `owner`, the free weights to claim. `None` claims all that are free.

    Returns:
        The new `uint8` owner array.

    Raises:
        ValueError: If `stage` is not later than all owners, or `where` covers a weight that is not free.

    >>> claim(np.array([1, 0, 0, 1], np.uint8), stage=2)
    array([1, 2, 2, 1], dtype=uint8)
    """
    stage = check_stage(stage)
    last = int(owner.max(initial=FREE))
    if stage <= last:
        raise ValueError(
            f"`stage` should be later than every stage that owns weights (the last is {last}): "
            f"stages train in order and a finished stage stays frozen. Received: stage={stage}"
        )
    free = owner == FREE
    if where is None:
        where = free
    else:
        where = _check_mask("where", where, owner)
        if taken := int(np.count_nonzero(where & ~free)):
            raise ValueError(
                "`where` should cover free weights only (owner 0). "
                f"Received: a mask that covers {taken} weights which another stage owns."
            )
    return np.where(where, np.uint8(stage), owner)


def release(owner: np.ndarray, stage: int, freed: np.ndarray) -> np.ndarray:
    """Frees weights of the stage that owns them.

    Args:
        owner: `uint8` owner array of any shape.
        stage: The stage that gives the weights up.
        freed: Bool mask of the shape of `owner`.

    Returns:
        The new `uint8` owner array.

    Raises:
        ValueError: If `freed` covers anything that `stage` does not own.

    >>> release(np.array([1, 2, 2], np.uint8), stage=2, freed=np.array([False, True, False]))
    array([1, 0, 2], dtype=uint8)
    """
    freed = _check_mask("freed", freed, owner)
    if foreign := int(np.count_nonzero(freed & ~trainable(owner, stage))):
        raise ValueError(
            f"`freed` should cover weights of stage {stage} only. "
            f"Received: a mask that covers {foreign} weights which stage {stage} does not own."
        )
    return np.where(freed, np.uint8(FREE), owner)


def earliest(owner: np.ndarray, axis: int | tuple[int, ...]) -> np.ndarray:
    """The earliest stage that owns something along `axis`, 0 where all is free (own choice).

    A weight that several weights share (a bias and the kernel entries of its unit) goes with the earliest of
    them, so that it is frozen with the first stage that reads it.

    Args:
        owner: `uint8` owner array.
        axis: The axes to reduce.

    Returns:
        A `uint8` array without `axis`.

    >>> earliest(np.array([[0, 2, 0], [0, 1, 3]], np.uint8), axis=0)
    array([0, 1, 3], dtype=uint8)
    """
    never = MAX_STAGE + 1
    first = np.where(owner == FREE, never, owner.astype(np.int32)).min(axis=axis, initial=never)
    return np.where(first == never, FREE, first).astype(np.uint8)


def shares(owner: np.ndarray, stages: int) -> np.ndarray:
    """The capacity: the share of the weights that each owner holds.

    Args:
        owner: `uint8` owner array of any shape.
        stages: How many stages to list.

    Returns:
        A `float64` array `[stages + 1]` that sums to 1; entry 0 is the free share.

    Raises:
        ValueError: If a stage later than `stages` owns something.

    >>> shares(np.array([1, 1, 2, 0], np.uint8), stages=3)
    array([0.25, 0.5 , 0.25, 0.  ])
    """
    stages = check_stage(stages)
    last = int(owner.max(initial=FREE))
    if last > stages:
        raise ValueError(
            f"`stages` should be at least {last}, the last stage that owns weights. Received: stages={stages}"
        )
    return np.bincount(owner.ravel(), minlength=stages + 1) / max(owner.size, 1)


def check_owner(name: str, owner: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Returns `owner` as a `uint8` array, or raises if it is not an owner array of that shape.

    Args:
        name: The argument's name, for the message.
        owner: Integers in 0..255.
        shape: The shape it should have.

    Raises:
        ValueError: If the shape, the type or the range is another.
    """
    array = np.asarray(owner)
    if array.shape != tuple(shape):
        raise ValueError(f"`{name}` should have shape {tuple(shape)}. Received: shape {array.shape}")
    if array.dtype.kind not in "ui" or array.min(initial=0) < 0 or array.max(initial=0) > MAX_STAGE:
        raise ValueError(
            f"`{name}` should hold integers in 0..{MAX_STAGE} (0 is free). Received: {name}={owner!r}"
        )
    return array.astype(np.uint8)


def _check_mask(name: str, mask: Any, owner: np.ndarray) -> np.ndarray:
    array = np.asarray(mask)
    if array.dtype != bool or array.shape != owner.shape:
        raise ValueError(
            f"`{name}` should be a bool mask of shape {owner.shape}. "
            f"Received: dtype {array.dtype} and shape {array.shape}"
        )
    return array
