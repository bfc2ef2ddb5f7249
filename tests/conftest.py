"""What all tests share: Keras 2, a deterministic hypothesis profile, the path of the shared event logs."""

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

import csmf_tf  # noqa: F401  (before any test module imports TensorFlow)

# To compile ranx takes longer than all that it is asked.
os.environ.setdefault("NUMBA_DISABLE_JIT", "1")

# TensorFlow leaves hundreds of thousands of objects, most for good: to look through all of them each time
# that their number has grown by a quarter took a twentieth of the tests' time.
gc.set_threshold(20_000, 20, 20)

settings.register_profile("fixed", derandomize=True, deadline=None)
settings.register_profile("search", deadline=None, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# Files of over ten seconds, the longest first: they are begun first, so that workers end together.
LONGEST = """
    notebooks docs_site savedmodels run model_stages export extend cascade quality heterrec benchmarks
    heterrec_run frozen shards refresh heterrec_doc model_loss clustering masked_saving house negatives_doc
    cli without_python demo filters readme report evaluation_doc towers signatures masked_layers serving_doc
    transformer portable diagnosis plots tf_serving
"""

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Has xdist keep the order of the files: by itself it begins with those of the most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Moves the longest files to the front."""
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST.split())}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """`shared_data("taobao/events.csv.gz")` is that file's path; without the file the test is skipped."""

    def path(name: str) -> Path:
        found = SHARED_DATA / name
        if not found.exists():
            pytest.skip(f"needs {found}, which is not part of the repository")
        return found

    return path
