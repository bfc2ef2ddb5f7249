"""Progress bars with the time left: commands turn them on, and they appear on terminals only."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_SHOWN: ContextVar[bool] = ContextVar("csmf_tf.progress", default=False)
_FORMAT = "{desc} {percentage:3.0f}% |{bar:24}| {elapsed}, about {remaining} left"


@contextmanager
def shown(on: bool = True) -> Iterator[None]:
    """Within it bars are shown, if standard error is a terminal; by default they are not.

    Args:
        on: False hides them again.

    Example:

    >>> with shown():
    ...     total = sum(bar([1, 2, 3], "adding"))  # a bar on standard error, where that is a terminal
    >>> total
    6
    """
    token = _SHOWN.set(on)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def bar(
    items: Any = None,
    about: str = "",
    total: int | None = None,
    *,
    delay: float = 1.0,
    beside_lines: bool = False,
    **options: Any,
) -> "tqdm":
    """A bar on standard error, which goes when it is done; disabled unless bars are `shown`.

    Args:
        items: what to iterate over; without it, call `update` of the bar.
        about: what is being done.
        total: number of steps, if it is not that of `items`.
        delay: seconds before it appears, so that what is quick does not flicker.
        beside_lines: whether lines are printed meanwhile (by `say`): then there is a bar only if
            standard output is a terminal too.
        options: further arguments of `tqdm`.
    """
    # Here, so that the command line starts without it.
    from tqdm import tqdm

    wanted = _SHOWN.get() and (sys.stdout.isatty() or not beside_lines)
    settings: dict[str, Any] = {
        "bar_format": _FORMAT,
        "leave": False,
        "dynamic_ncols": True,
        "smoothing": 0.1,
    }
    # None: tqdm looks whether there is a terminal.
    return tqdm(items, about, total, delay=delay, disable=None if wanted else True, **(settings | options))


def step(about: str) -> "tqdm":
    """A line on standard error, within `with`, for what cannot tell how far it is.

    Args:
        about: what is being done.
    """
    return bar(about=about, delay=0, bar_format="{desc} ...")


def say(line: str) -> None:
    """Prints a line, above the bars that are there."""
    from tqdm import tqdm

    tqdm.write(line)
