"""Numbered versions of an export, `DIR/1`, `DIR/2`, ..., as TF Serving reads them."""

import errno
import os
import shutil
import uuid
from collections.abc import Callable


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
    numbers = [n for n in _numbers(directory) if os.path.isdir(os.path.join(directory, str(n)))]
    if not numbers:
        raise FileNotFoundError(
            f"`directory` should hold exported versions: {os.path.join(directory, '1')} and so on. "
            f"Received: directory={os.fspath(directory)!r}, which holds none; export a model to it first"
        )
    return max(numbers)


def publish(directory: str | os.PathLike, write: Callable[[str], None]) -> str:
    """Makes what `write` leaves in an empty folder the next version, wholly or not at all.

    The folder is hidden until it is complete. What a killed process leaves behind stays hidden, and harms
    nothing.

    Args:
        directory: where the versions are; made when missing.
        write: called with the path of the empty folder.

    Returns:
        The path of the version.

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
        return _rename_to_next(draft, directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _rename_to_next(draft: str, directory: str | os.PathLike) -> str:
    while True:
        path = os.path.join(directory, str(max(_numbers(directory), default=0) + 1))
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
