"""The files of a version: its variables as one checkpoint, and all else, which a refresh shares with it."""

import os
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

from csmf_tf._keras import tf

_PREFIX = os.path.join("variables", "variables")
_CATALOGUE, _VALUE = "catalogue/", "/.ATTRIBUTES/VARIABLE_VALUE"


def read_variables(version_dir: str | os.PathLike) -> dict[str, tf.Tensor]:
    """Returns all that the checkpoint of a SavedModel holds, by its keys, as tensors.

    Example:

    >>> import tempfile
    >>> module, path = tf.Module(), tempfile.mkdtemp()
    >>> module.catalogue = {"vectors": tf.Variable([1.0, 2.0])}
    >>> tf.saved_model.save(module, path)
    >>> catalogue_of(read_variables(path))["vectors"].numpy().tolist()
    [1.0, 2.0]
    """
    prefix = os.path.join(version_dir, _PREFIX)
    dtypes = tf.train.load_checkpoint(prefix).get_variable_to_dtype_map()
    keys = sorted(dtypes)
    # Strings stay tensors: as Python objects a million ids take longer than all else.
    tensors = tf.raw_ops.RestoreV2(
        prefix=prefix,
        tensor_names=keys,
        shape_and_slices=[""] * len(keys),
        dtypes=[dtypes[key] for key in keys],
    )
    return dict(zip(keys, tensors, strict=True))


def write_variables(version_dir: str | os.PathLike, tensors: Mapping[str, Any]) -> None:
    """Writes the checkpoint of a SavedModel, as `read_variables` returns it."""
    os.makedirs(os.path.join(version_dir, os.path.dirname(_PREFIX)), exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=os.path.join(version_dir, _PREFIX),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def catalogue_of(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the items' part of an export's variables, by the names of `Retriever.catalogue`."""
    return {
        key.removeprefix(_CATALOGUE).removesuffix(_VALUE): tensor
        for key, tensor in tensors.items()
        if key.startswith(_CATALOGUE)
    }


def with_catalogue(tensors: Mapping[str, Any], catalogue: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an export's variables with others for its items.

    Example:

    >>> with_catalogue({"catalogue/x/.ATTRIBUTES/VARIABLE_VALUE": 1, "state/0": 2}, {"x": 3})
    {'catalogue/x/.ATTRIBUTES/VARIABLE_VALUE': 3, 'state/0': 2}
    """
    return {**tensors, **{f"{_CATALOGUE}{name}{_VALUE}": value for name, value in catalogue.items()}}


def link_files(
    source: str | os.PathLike[str], target: str | os.PathLike[str], but: Iterable[str] = ()
) -> None:
    """Gives a version the files of another, by hard links where the file system has them.

    The variables are left out, and the fingerprint, which would not fit others; TensorFlow loads without.

    Args:
        source: the version that is there.
        target: folder of the new one.
        but: paths inside the version that are left out too.

    Example:

    >>> import pathlib, tempfile
    >>> old, new = (pathlib.Path(tempfile.mkdtemp()) for _ in range(2))
    >>> _ = (old / "saved_model.pb").write_text("graph"), (old / "fingerprint.pb").write_text("1")
    >>> link_files(old, new)
    >>> [path.name for path in new.iterdir()]
    ['saved_model.pb']
    """
    left_out = {"fingerprint.pb", *but}
    for folder, _, files in os.walk(os.fspath(source)):
        inside = os.path.relpath(folder, source)
        if inside == os.path.dirname(_PREFIX):
            continue
        os.makedirs(os.path.join(target, inside), exist_ok=True)
        for file in files:
            if os.path.normpath(os.path.join(inside, file)) not in left_out:
                _link(os.path.join(folder, file), os.path.join(target, inside, file))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
