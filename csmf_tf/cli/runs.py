"""What the commands about a run begin with."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from csmf_tf.run import Run


def check_run(directory: str | os.PathLike[str]) -> None:
    """Raises a FileNotFoundError where there is no run, before TensorFlow's long start."""
    from csmf_tf.config import config_of_run

    config_of_run(directory)


def open_run(directory: str | os.PathLike[str]) -> "Run":
    """The run in a folder, restored."""
    check_run(directory)

    from csmf_tf.run import Run

    return Run(directory).restore()
