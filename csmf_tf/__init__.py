"""Multi-objective embedding-based retrieval for TensorFlow.

One two-tower model learns the objectives of a funnel one after the other, each with its own share of the
weights, and one index serves any weighing of them. `import csmf_tf` before `import tensorflow`, so that
`tf.keras` is Keras 2. A name is loaded when it is first used: what needs no TensorFlow does not import it.
"""

import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
if "tensorflow" in sys.modules:  # it has already picked its Keras: fail here, not at the first use
    import_module("csmf_tf._keras")

if TYPE_CHECKING:
    from csmf_tf.cascade import Cascade as Cascade
    from csmf_tf.config import load_config as load_config
    from csmf_tf.data.check import check as check
    from csmf_tf.data.heterogeneous import simulate_heterogeneous as simulate_heterogeneous
    from csmf_tf.data.log import EventLog as EventLog
    from csmf_tf.data.log import read_log as read_log
    from csmf_tf.data.public import import_set as import_set
    from csmf_tf.data.simulator import simulate as simulate
    from csmf_tf.data.splits import split_log as split_log
    from csmf_tf.evaluation.callback import EvaluationCallback as EvaluationCallback
    from csmf_tf.evaluation.metrics import evaluate as evaluate
    from csmf_tf.masking import MaskedDense as MaskedDense
    from csmf_tf.masking import MaskedEinsumDense as MaskedEinsumDense
    from csmf_tf.masking import MaskedEmbedding as MaskedEmbedding
    from csmf_tf.masking import propagate_owners as propagate_owners
    from csmf_tf.model import CSMF as CSMF
    from csmf_tf.run import Run as Run
    from csmf_tf.serving.export import export as export
    from csmf_tf.serving.query import query as query
    from csmf_tf.serving.refresh import refresh as refresh

__version__ = "0.1.0"

_MODULES = {
    "CSMF": "csmf_tf.model",
    "Cascade": "csmf_tf.cascade",
    "EvaluationCallback": "csmf_tf.evaluation.callback",
    "EventLog": "csmf_tf.data.log",
    "MaskedDense": "csmf_tf.masking",
    "MaskedEinsumDense": "csmf_tf.masking",
    "MaskedEmbedding": "csmf_tf.masking",
    "Run": "csmf_tf.run",
    "check": "csmf_tf.data.check",
    "evaluate": "csmf_tf.evaluation.metrics",
    "export": "csmf_tf.serving.export",
    "import_set": "csmf_tf.data.public",
    "load_config": "csmf_tf.config",
    "propagate_owners": "csmf_tf.masking",
    "query": "csmf_tf.serving.query",
    "read_log": "csmf_tf.data.log",
    "refresh": "csmf_tf.serving.refresh",
    "simulate": "csmf_tf.data.simulator",
    "simulate_heterogeneous": "csmf_tf.data.heterogeneous",
    "split_log": "csmf_tf.data.splits",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'csmf_tf' has no attribute '{name}'")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
