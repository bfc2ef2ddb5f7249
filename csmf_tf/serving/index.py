"""Indices for maximum inner product search that live inside a SavedModel.

An index answers every query with `k` results: where fewer are found, index -1 and score -inf fill the rest.
"""

from csmf_tf.serving.exact import ExactIndex
from csmf_tf.serving.portable import PortableIndex
from csmf_tf.serving.scann import ScannIndex
from csmf_tf.serving.scann import scann_ops as scann_ops
from csmf_tf.serving.vectors import checked_vectors as checked_vectors
from csmf_tf.serving.vectors import padded as padded
from csmf_tf.serving.vectors import positive as positive
from csmf_tf.serving.vectors import usable as usable

INDICES = {"exact": ExactIndex, "portable": PortableIndex, "scann": ScannIndex}
"""Index classes by the names that `export` takes."""
