"""What all tests share: Keras 2, a deterministic hypothesis profile, the path of the shared event logs."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

import csmf_tf  # noqa: F401  (before any test module imports TensorFlow)

# To compile ranx takes longer than all that it is asked.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("taobao/events.csv.gz")` is that file's path; without the file the test is skipped."""

    def path(name: str) -> Path:
        found = SHARED_DATA / name
        if not found.exists():
            pytest.skip(f"needs {found}, which is not part of the repository")
        return found

    return path
