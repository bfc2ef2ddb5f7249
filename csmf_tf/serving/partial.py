"""One signature of a SavedModel, loaded without the rest."""

import os
import tempfile
from typing import Any

from tensorflow.core.protobuf import saved_model_pb2

from csmf_tf._keras import tf


def load_signature(version_dir: str | os.PathLike, name: str) -> Any:
    """Loads a SavedModel with one of its signatures, and of its variables and tables what that reads.

    The other signatures may need millions of vectors, and operations that are not there.

    Args:
        version_dir: folder of the SavedModel.
        name: of the signature.

    Returns:
        The loaded object, as of `tf.saved_model.load`, with one entry in `signatures`.

    Raises:
        KeyError: when there is no such signature.

    Example:

    >>> module, path = tf.Module(), tempfile.mkdtemp()
    >>> module.factor, module.huge = tf.Variable(2.0), tf.Variable(tf.zeros([9]))
    >>> spec = tf.TensorSpec([], tf.float32, "x")
    >>> double = tf.function(lambda x: {"y": module.factor * x}, [spec])
    >>> total = tf.function(lambda: {"y": tf.reduce_sum(module.huge)}, [])
    >>> tf.saved_model.save(module, path, {"double": double, "total": total})
    >>> model = load_signature(path, "double")
    >>> model.signatures["double"](x=tf.constant(4.0))["y"].numpy().item()
    8.0
    """
    with open(os.path.join(version_dir, "saved_model.pb"), "rb") as file:
        saved = saved_model_pb2.SavedModel.FromString(file.read())
    (graph,) = saved.meta_graphs
    functions = _keep_signature(graph.object_graph_def, name)
    _keep_functions(graph.graph_def.library, functions)
    with tempfile.TemporaryDirectory() as folder:
        with open(os.path.join(folder, "saved_model.pb"), "wb") as file:
            file.write(saved.SerializeToString())
        for part in ("variables", "assets"):
            os.symlink(os.path.abspath(os.path.join(version_dir, part)), os.path.join(folder, part))
        # The checkpoint holds more than is left to restore.
        options = tf.saved_model.LoadOptions(allow_partial_checkpoint=True)
        return tf.saved_model.load(folder, options=options)


def _keep_signature(objects: Any, name: str) -> set[str]:
    """Blanks every object that a signature does not need; returns the functions that it does."""
    nodes = objects.nodes
    signatures = _children(nodes[0])["signatures"]
    kept: set[int] = set()
    functions: set[str] = set()
    waiting = [_children(nodes[signatures])[name]]
    while waiting:
        node_id = waiting.pop()
        if node_id in kept:
            continue
        kept.add(node_id)
        node = nodes[node_id]
        waiting += [child.node_id for child in (*node.children, *node.dependencies)]
        waiting += [
            each for s in node.saveable_objects.values() for each in (s.save_function, s.restore_function)
        ]
        for function in _functions(node):
            functions.add(function)
            waiting += objects.concrete_functions[function].bound_inputs
    for node_id, node in enumerate(nodes):
        if node_id not in kept | {signatures}:
            children = list(node.children)
            node.Clear()
            node.children.extend(children)
            node.user_object.identifier = "_generic_user_object"
            node.user_object.version.producer = node.user_object.version.min_consumer = 1
    chosen = [child for child in nodes[signatures].children if child.node_id in kept]
    del nodes[signatures].children[:]
    nodes[signatures].children.extend(chosen)
    for function in set(objects.concrete_functions) - functions:
        del objects.concrete_functions[function]
    return functions


def _functions(node: Any) -> list[str]:
    if node.HasField("bare_concrete_function"):
        return [node.bare_concrete_function.concrete_function_name]
    if node.HasField("captured_tensor"):
        return [node.captured_tensor.concrete_function]
    return list(node.function.concrete_functions)


def _keep_functions(library: Any, names: set[str]) -> None:
    """Drops the functions that those named do not call."""
    known = {function.signature.name: function for function in library.function}
    kept, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name in kept or name not in known:
            continue
        kept.add(name)
        for node in known[name].node_def:
            called = [value.func.name for value in node.attr.values()]
            called += [each.name for value in node.attr.values() for each in value.list.func]
            waiting += [node.op, *called]
    functions = [known[name] for name in known if name in kept]
    del library.function[:]
    library.function.extend(functions)


def _children(node: Any) -> dict[str, int]:
    return {child.local_name: child.node_id for child in node.children}
