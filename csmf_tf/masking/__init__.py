"""Weights that stages own: owner algebra, pruning and the masked Keras layers.

The layers are imported on first use, so that `csmf_tf.masking.ownership` and `csmf_tf.masking.pruning` never
import TensorFlow.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from csmf_tf.masking import ownership, pruning

if TYPE_CHECKING:
    from csmf_tf.masking.base import MaskedLayer
    from csmf_tf.masking.dense import MaskedDense
    from csmf_tf.masking.einsum_dense import MaskedEinsumDense
    from csmf_tf.masking.embedding import MaskedEmbedding
    from csmf_tf.masking.stack import propagate_owners

_MODULES = {
    "MaskedLayer": "base",
    "MaskedDense": "dense",
    "MaskedEinsumDense": "einsum_dense",
    "MaskedEmbedding": "embedding",
    "propagate_owners": "stack",
}

__all__ = [
    "MaskedDense",
    "MaskedEinsumDense",
    "MaskedEmbedding",
    "MaskedLayer",
    "ownership",
    "propagate_owners",
    "pruning",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
