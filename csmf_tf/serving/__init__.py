"""Serving: fusion of the objectives at request time, indices, export to SavedModel, refresh and queries."""

from csmf_tf.serving.export import export as export
from csmf_tf.serving.fusion import check_weights as check_weights
from csmf_tf.serving.fusion import query_scale as query_scale
from csmf_tf.serving.index import ExactIndex as ExactIndex
from csmf_tf.serving.index import PortableIndex as PortableIndex
from csmf_tf.serving.index import ScannIndex as ScannIndex
from csmf_tf.serving.query import UnknownItemWarning as UnknownItemWarning
from csmf_tf.serving.query import UnknownUserWarning as UnknownUserWarning
from csmf_tf.serving.query import load as load
from csmf_tf.serving.query import query as query
from csmf_tf.serving.refresh import refresh as refresh
from csmf_tf.serving.refresh import replace_items as replace_items
from csmf_tf.serving.retriever import Retriever as Retriever
from csmf_tf.serving.versions import latest_version as latest_version
