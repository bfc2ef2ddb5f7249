"""Warm-up requests: what TF Serving asks a version before it lets the first query in.

`assets.extra/tf_serving_warmup_requests` is a TFRecord file of `PredictionLog` protos. A version whose
warm-up fails is not served at all, so every request is checked against the signature that it is for.
"""

import os
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import ArrayLike
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

from csmf_tf._keras import tf

FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
"""Where TF Serving looks for the requests, inside a version."""


def write_warmup(
    version_dir: str | os.PathLike,
    examples: Mapping[str, Mapping[str, ArrayLike]] | None = None,
    model_name: str = "model",
) -> str:
    """Writes warm-up requests for every signature of a SavedModel: one of batch 1, and one of all examples.

    Args:
        version_dir: folder of the SavedModel.
        examples: signature -> input -> array, batch first; a batch of one is repeated to the size of the
            others. What is not given is blank: empty strings, zeros, one entry wherever the size is open.
        model_name: the name that the model is served under.

    Returns:
        The path of the file.

    Raises:
        ValueError: when an example is of no signature or input, or does not fit its dtype and shape.

    Example:

    >>> import tempfile
    >>> module, path = tf.Module(), tempfile.mkdtemp()
    >>> double = tf.function(lambda x: {"y": 2.0 * x}, [tf.TensorSpec([None], tf.float32, "x")])
    >>> tf.saved_model.save(module, path, {"double": double})
    >>> file = write_warmup(path, {"double": {"x": [3.0, 4.0]}})
    >>> len(list(tf.data.TFRecordDataset(file)))
    2
    """
    signatures = signature_inputs(version_dir)
    examples = examples or {}
    unknown = sorted(examples.keys() - signatures.keys())
    if unknown:
        raise ValueError(
            f"`examples` should be of signatures among {sorted(signatures)}. Received: {unknown} as well"
        )
    records = [
        _log(model_name, name, inputs, specs).SerializeToString()
        for name, specs in signatures.items()
        for inputs in _batches(_filled(name, specs, examples.get(name, {})))
    ]
    path = os.path.join(version_dir, FILE)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tf.io.TFRecordWriter(path + ".tmp") as writer:
        for record in records:
            writer.write(record)
    os.replace(path + ".tmp", path)
    return path


def signature_inputs(version_dir: str | os.PathLike) -> dict[str, dict[str, tf.TensorSpec]]:
    """Returns the named inputs of each signature of a SavedModel, without loading it; both sorted by name."""
    with open(os.path.join(version_dir, "saved_model.pb"), "rb") as file:
        saved = saved_model_pb2.SavedModel.FromString(file.read())
    (graph,) = (graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags)
    return {
        name: {
            key: tf.TensorSpec(tf.TensorShape(info.tensor_shape), tf.as_dtype(info.dtype), key)
            for key, info in sorted(signature.inputs.items())
        }
        for name, signature in sorted(graph.signature_def.items())
        # TensorFlow keeps its initialiser among the signatures.
        if not name.startswith("__")
    }


def _filled(signature: str, specs: Mapping, given: Mapping) -> dict[str, np.ndarray]:
    unknown = sorted(given.keys() - specs.keys())
    if unknown:
        raise ValueError(
            f"`examples[{signature!r}]` should be of inputs among {list(specs)}. Received: {unknown} as well"
        )
    arrays = {
        name: _checked(f"`examples[{signature!r}][{name!r}]`", given[name], spec)
        if name in given
        else np.full([size or 1 for size in spec.shape], "" if spec.dtype == tf.string else 0)
        for name, spec in specs.items()
    }
    batch = max(map(len, arrays.values()), default=1)
    odd = {name: len(array) for name, array in arrays.items() if len(array) not in (1, batch)}
    if odd:
        raise ValueError(
            f"`examples[{signature!r}]` should be arrays of one length, here {batch}, or 1. Received: {odd}"
        )
    # Server-side batching refuses inputs of different batch sizes, also where the signature would repeat one.
    return {
        name: np.repeat(array, batch, axis=0) if len(array) < batch else array
        for name, array in arrays.items()
    }


def _checked(what: str, value: ArrayLike, spec: tf.TensorSpec) -> np.ndarray:
    try:
        array = np.asarray(value)
        fits = (array.dtype.kind in "USO") == (spec.dtype == tf.string)
        if not (fits and spec.shape.is_compatible_with(array.shape) and len(array)):
            raise ValueError(f"dtype={array.dtype}, shape={array.shape}")
    except ValueError as error:
        raise ValueError(
            f"{what} should be an array of {spec.dtype.name}, shape {spec.shape}, for at least one request. "
            f"Received: {error}"
        ) from None
    return array


def _batches(inputs: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    yield {name: array[:1] for name, array in inputs.items()}
    if any(len(array) > 1 for array in inputs.values()):
        yield inputs


def _log(
    model_name: str, signature: str, inputs: Mapping, specs: Mapping
) -> prediction_log_pb2.PredictionLog:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature
    for name, array in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(array, specs[name].dtype))
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
