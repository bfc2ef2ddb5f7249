"""What `csmf_tf.doctor` tries in a process of its own, as a wrong library may end it.

Run by its path. Prints a line of JSON for each probe in turn: its name, and what it `found` or the `error`,
which is then the last line.
"""

import json
import re
import traceback
from importlib import import_module
from typing import Any


def tensorflow() -> dict[str, Any]:
    """TensorFlow computes, and sees these GPUs."""
    import tensorflow as tf

    assert float(tf.reduce_sum(tf.ones([64, 64]) @ tf.ones([64, 64]))) == 64**3
    details = [
        tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")
    ]
    gpus = [one.get("device_name", "unnamed") for one in details]
    return {"version": tf.__version__, "gpus": gpus}


def keras() -> dict[str, Any]:
    """`tf.keras` is Keras 2, and TFRS finds it."""
    # In this order: the first one tells what is wrong with Keras.
    _, keras, tfrs = map(import_module, ("csmf_tf._keras", "tf_keras", "tensorflow_recommenders"))
    return {"version": keras.__version__, "tfrs": tfrs.__version__}


def scann() -> dict[str, Any]:
    """ScaNN's op loads into TensorFlow and finds the best of a few vectors, by partitions and quantised."""
    import numpy as np

    from csmf_tf.serving.scann import ScannIndex

    vectors = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    vectors[7] *= 10
    found, scores = ScannIndex(vectors, k=3, leaves=4).search(vectors[7:8])
    best, score = int(found[0, 0]), float(scores[0, 0])
    if best != 7 or not np.isclose(score, vectors[7] @ vectors[7], rtol=1e-3):
        raise ValueError(f"The best vector should be 7. Received: {best}, score {score}")
    return {"vectors": len(vectors)}


def last_error(error: Exception) -> str:
    r"""The last line of an error that names one: TensorFlow puts a whole traceback into a message.

    Example:

    >>> last_error(ImportError("Traceback:\n...\nImportError: lib.so: undefined symbol\n\nSee https://..."))
    'ImportError: lib.so: undefined symbol'
    """
    lines = "".join(traceback.format_exception_only(error)).splitlines()
    return next((line for line in reversed(lines) if re.match(r"[\w.]*(Error|Exception)\b", line)), lines[0])


def main() -> None:
    """Runs all probes until one fails."""
    for probe in (tensorflow, keras, scann):
        try:
            print(json.dumps({"probe": probe.__name__, "found": probe()}), flush=True)
        except Exception as error:
            print(json.dumps({"probe": probe.__name__, "error": last_error(error)}), flush=True)
            return


if __name__ == "__main__":
    main()
