"""Readers of known public sets, from files that the user has."""

from csmf_tf.data.public.sets import SETS, import_set

__all__ = ["SETS", "import_set"]
