"""Indices for maximum inner product search that live inside a SavedModel.

An index answers every query with `k` results: where fewer are found, index -1 and score -inf fill the rest.
"""

import inspect
from collections.abc import Mapping

from csmf_tf.serving.exact import ExactIndex
from csmf_tf.serving.portable import PortableIndex
from csmf_tf.serving.scann import ScannIndex
from csmf_tf.serving.scann import scann_ops as scann_ops
from csmf_tf.serving.vectors import checked_vectors as checked_vectors
from csmf_tf.serving.vectors import padded as padded
from csmf_tf.serving.vectors import positive as positive
from csmf_tf.serving.vectors import usable as usable

INDICES: dict[str, type] = {"exact": ExactIndex, "portable": PortableIndex, "scann": ScannIndex}
"""Index classes by the names that `export` takes."""


def checked_settings(index: str, settings: Mapping[str, int]) -> dict[str, int]:
    """Returns the settings of an index.

    Args:
        index: a key of `INDICES`.
        settings: name to number.

    Raises:
        ValueError: when the index has no such setting.

    Example:

    >>> checked_settings("portable", {"candidates": 4000})
    {'candidates': 4000}
    """
    parameters = inspect.signature(INDICES[index]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    if unknown := [name for name in settings if name not in known]:
        raise ValueError(
            f"Settings of the {index} index should be of {known}. Received: {unknown} as well"
            if known
            else f"The {index} index should have no settings. Received: {unknown}"
        )
    return dict(settings)
