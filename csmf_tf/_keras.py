"""The one place that picks Keras.

TensorFlow Recommenders 0.7 needs `tf.keras` to be Keras 2 (the `tf-keras` package), which TensorFlow
decides at its first import from the environment variable `TF_USE_LEGACY_KERAS`. `csmf_tf/__init__.py`
sets it.
"""

import os
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf

# The file behind `tensorflow.keras` tells what TensorFlow decided, even when the variable was set later.
_spec = find_spec("tensorflow.keras")
if _spec is None or "tf_keras" not in Path(str(_spec.origin)).parts:
    raise ImportError(
        "csmf_tf needs `tf.keras` to be Keras 2, but TensorFlow was imported with Keras 3. "
        "Put `import csmf_tf` before the first `import tensorflow`, "
        'or set `os.environ["TF_USE_LEGACY_KERAS"] = "1"` before it.'
    )

keras = tf.keras

__all__ = ["keras", "tf"]
