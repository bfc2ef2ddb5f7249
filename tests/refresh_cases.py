"""Shared by the tests of refreshes: copies of exports, and what their checkpoints hold."""

import shutil
from pathlib import Path

from csmf_tf._keras import tf

VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def copied(folder, to):
    return Path(shutil.copytree(folder, to / "shop"))


def saved(version, name):
    """What a variable of the items holds, read by TensorFlow's checkpoint reader."""
    reader = tf.train.load_checkpoint(str(Path(version) / "variables" / "variables"))
    return reader.get_tensor(f"catalogue/{name}{VALUE}")


def vectors_by_id(version):
    ids = [item.decode() for item in saved(version, "item_ids")]
    assert len(set(ids)) == len(ids)
    return dict(zip(ids, saved(version, "vectors"), strict=True))
