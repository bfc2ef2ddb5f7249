"""The package as a whole: what importing it does, its public names, its version, its pinned dependencies."""

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from thorough import left_out

import csmf_tf

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MENDING_LINE = "Put `import csmf_tf` before the first `import tensorflow`"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs `code` in a fresh interpreter in which nobody has picked a Keras yet."""
    inherited = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    path = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=inherited | path | environment, capture_output=True, text=True
    )


def loaded(code: str) -> set[str]:
    """The top-level modules that `code` loads."""
    result = run(f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})")
    assert result.returncode == 0, result.stderr
    return set(result.stdout.splitlines()[-1].split())


def test_import_loads_nothing_heavy():
    assert not loaded("import csmf_tf") & {"tensorflow", "scann", "numpy", "pyarrow", "matplotlib"}


@pytest.mark.parametrize(
    "names",
    [
        "load_config",
        "EventLog, read_log, split_log, simulate, simulate_heterogeneous, check, import_set, evaluate",
    ],
)
def test_names_that_need_no_tensorflow_do_not_load_it(names):
    assert "tensorflow" not in loaded(f"from csmf_tf import {names}")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["fit", "--help"], ["compare", "a", "b"], ["check", "no.csv"]]
)
def test_commands_without_a_model_do_not_load_tensorflow(arguments):
    call = f"from csmf_tf.cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
    assert not loaded(call) & {"tensorflow", "scann"}


LEGACY = "import os; os.environ['TF_USE_LEGACY_KERAS'] = '1'; from tensorflow.keras import layers"


@pytest.mark.parametrize("first", ["import csmf_tf", LEGACY])
def test_keras_2_is_picked(first):
    use = "import tf_keras, csmf_tf\nassert issubclass(csmf_tf.MaskedDense, tf_keras.layers.Layer)"
    result = run(f"{first}\n{use}")
    assert result.returncode == 0, result.stderr


KERAS_3_FIRST = [
    "import tensorflow, os; os.environ['TF_USE_LEGACY_KERAS'] = '1'",
    "import tensorflow",
    "from tensorflow.keras import layers",
]


@pytest.mark.parametrize("first", left_out(KERAS_3_FIRST, KERAS_3_FIRST[1:]))
def test_keras_3_first_is_an_error_that_says_how_to_mend_it(first):
    result = run(f"{first}\nimport csmf_tf")
    assert result.returncode == 1
    assert MENDING_LINE in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(("value", "kept"), [(None, "1"), ("1", "1"), ("0", "0")])
def test_switch_set_by_the_user_is_kept(value, kept):
    environment = {} if value is None else {"TF_USE_LEGACY_KERAS": value}
    result = run("import os, csmf_tf; print(os.environ['TF_USE_LEGACY_KERAS'])", **environment)
    assert result.stdout.strip() == kept


def test_keras_3_asked_for_by_the_user_is_an_error_at_the_first_use():
    result = run("import csmf_tf; csmf_tf.MaskedDense", TF_USE_LEGACY_KERAS="0")
    assert result.returncode == 1
    assert MENDING_LINE in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", [name for name in csmf_tf.__all__ if name != "__version__"])
def test_public_name_resolves_and_has_a_docstring(name):
    value = getattr(csmf_tf, name)
    assert value.__name__ == name
    assert inspect.getdoc(value)
    assert name in dir(csmf_tf)
    own = vars(value) if inspect.isclass(value) else {}
    methods = [method for method in own if inspect.isfunction(own[method]) and not method.startswith("_")]
    assert [method for method in methods if not inspect.getdoc(getattr(value, method))] == []


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'csmf_tf' has no attribute 'Csmf'"):
        _ = csmf_tf.Csmf


def test_type_checkers_see_the_public_names_where_they_are_loaded_from():
    tree = ast.parse(inspect.getsource(csmf_tf))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {a.name: node.module for node in imports for a in node.names if a.asname}
    assert seen == csmf_tf._MODULES


def test_version_is_written_once():
    assert "version" not in PROJECT
    assert re.fullmatch(r"\d+\.\d+\.\d+", csmf_tf.__version__)
    assert f"## [{csmf_tf.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_lock_pins_every_dependency_in_its_range():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pins = {canonicalize_name(name): version for name, version in pins.items()}
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), text
