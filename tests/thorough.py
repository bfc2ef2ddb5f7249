"""Cases that `make test` leaves to `make test-thorough`: what others show, shown for further settings.

By its id such a case runs with `-m thorough` alone.
"""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def left_out(cases: Iterable[Any], further: Collection[Any]) -> list[Any]:
    """`cases` for `parametrize`, of which those in `further` are run by `make test-thorough` alone."""
    cases = [*cases]
    if unknown := [case for case in further if case not in cases]:
        raise ValueError(f"`further` should be cases. Received: {unknown}")
    marked = {True: pytest.mark.thorough, False: ()}
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=marked[case in further])
        for case in cases
    ]
