"""Numbered versions of an export, `DIR/1`, `DIR/2`, ..., as TF Serving reads them."""

import errno
import os
import shutil
import uuid
from collections.abc import Callable

LAYOUT = "shards.json"
"""The file that tells how many shards a folder holds."""


def latest_version(directory: str | os.PathLike) -> int:
    """Returns the highest version that was exported to `directory`.

    Raises:
        FileNotFoundError: when there is none.

    Example:

    >>> import tempfile
    >>> directory = tempfile.mkdtemp()
    >>> _ = [publish(directory, lambda draft: None) for _ in range(2)]
    >>> latest_version(directory)
    2
    """
    numbers = versions(directory)
    if not numbers and os.path.exists(os.path.join(directory, "saved_model.pb")):
        raise FileNotFoundError(
            "`directory` should hold exported versions. "
            f"Received: directory={os.fspath(directory)!r}, which is one; give the folder that it is in"
        )
    if not numbers:
        raise FileNotFoundError(
            f"`directory` should hold exported versions: {os.path.join(directory, '1')} and so on. "
            f"Received: directory={os.fspath(directory)!r}, which holds none; export a model to it first"
        )
    return max(numbers)


def versions(directory: str | os.PathLike) -> list[int]:
    """Returns the versions that were exported to `directory`, ascending; none when it does not exist.

    Example:

    >>> versions("no such folder")
    []
    """
    return sorted(n for n in _numbers(directory) if os.path.isdir(os.path.join(directory, str(n))))


def next_version(directory: str | os.PathLike) -> int:
    """Returns the number that the next export to `directory` takes: above all that are there.

    Example:

    >>> next_version("no such folder")
    1
    """
    return max(_numbers(directory), default=0) + 1


def publish(directory: str | os.PathLike, write: Callable[[str], None], version: int | None = None) -> str:
    """Makes what `write` leaves in an empty folder the next version, wholly or not at all.

    The folder is hidden until it is complete. What a killed process leaves behind stays hidden, and harms
    nothing.

    Args:
        directory: where the versions are; made when missing.
        write: called with the path of the empty folder.
        version: the number to take, above all that are there; default the next.

    Returns:
        The path of the version.

    Raises:
        FileExistsError: when `version` is not above all that are there once `write` is done.

    Example:

    >>> import tempfile
    >>> path = publish(tempfile.mkdtemp(), lambda draft: None)
    >>> os.path.basename(path)
    '1'
    """
    os.makedirs(directory, exist_ok=True)
    draft = os.path.join(directory, f".tmp-{uuid.uuid4().hex}")
    os.mkdir(draft)
    try:
        write(draft)
        return _rename(draft, directory, version)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename(draft: str, directory: str | os.PathLike, version: int | None) -> str:
    while True:
        number = next_version(directory)
        if version is not None and version < number:
            raise FileExistsError(
                f"`version` should be above all in {os.fspath(directory)}. Received: version={version}, "
                f"where {number - 1} is there by now; run it again"
            )
        path = os.path.join(directory, str(number if version is None else version))
        try:
            os.rename(draft, path)
            return path
        except OSError as error:
            # Another export has just taken the number.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise


def _numbers(directory: str | os.PathLike) -> list[int]:
    names = os.listdir(directory) if os.path.isdir(directory) else []
    return [int(name) for name in names if name.isascii() and name.isdecimal()]
