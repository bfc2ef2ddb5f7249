"""`csmf-tf doctor`: what it says of a sound installation and of broken ones, which it outlives."""

import json
import os
import subprocess
import sys
from importlib import metadata

import pytest
from snippets import ROOT

from csmf_tf import doctor
from csmf_tf.cli import main

SOUND_CPU = "processor\t: 0\nflags\t\t: fpu sse2 avx avx2 fma avx512f\n"


def by_name(checks):
    return {check.name: check for check in checks}


def examined(*fakes, **environment):
    """Exit code and checks by name, with folders of other modules in front."""
    path = os.pathsep.join(map(str, [*fakes, ROOT]))
    code = "import sys; from csmf_tf.cli import main; sys.exit(main(['doctor', '--json']))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in done.stderr
    report = json.loads(done.stdout)
    return done.returncode, report["level"], {check.pop("name"): check for check in report["checks"]}


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Writes the metadata of an installed csmf-tf."""

    def install(*requirements, python=">=3.11", version=doctor.__version__):
        folder = tmp_path / f"csmf_tf-{version}.dist-info"
        folder.mkdir()
        lines = [
            "Metadata-Version: 2.1",
            "Name: csmf-tf",
            f"Version: {version}",
            f"Requires-Python: {python}",
        ]
        lines += [f"Requires-Dist: {one}" for one in requirements]
        (folder / "METADATA").write_text("\n".join(lines) + "\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_a_sound_installation_has_no_problem():
    code, level, checks = examined()
    assert code == 0, checks
    assert level != "problem"
    assert checks["ScaNN"]["sentence"] == "its op loads into TensorFlow and searches 200 vectors"
    assert checks["Keras"]["sentence"].startswith("TF_USE_LEGACY_KERAS=1: tf.keras is Keras 2.")
    assert "computes" in checks["TensorFlow"]["sentence"]


def test_packages_are_held_against_the_ranges_of_the_installed_distribution(distribution):
    distribution("numpy<99,>=2", "pyyaml<1", "no-such-package==1.2.*", 'ruff<0.0.1; extra == "dev"')
    checks = by_name(doctor.installed())
    assert list(checks) == ["python", "csmf_tf", "numpy", "pyyaml", "no-such-package"]
    assert [check.level for check in checks.values()] == ["ok", "ok", "ok", "problem", "problem"]
    assert checks["pyyaml"].sentence == f"{metadata.version('pyyaml')}, but <1 is needed"
    assert checks["pyyaml"].mend == f"{sys.executable} -m pip install 'pyyaml<1'"
    assert checks["no-such-package"].sentence == "not installed; ==1.2.* is needed"


def test_python_and_a_stale_installation(distribution):
    distribution(python=">=3.99", version="0.0.1")
    checks = by_name(doctor.installed())
    assert checks["python"].level == "problem"
    assert "Python >=3.99" in checks["python"].mend
    assert checks["csmf_tf"].level == "warning"
    assert "what is installed says 0.0.1" in checks["csmf_tf"].sentence


def test_without_packaging_ranges_are_left_open(distribution, monkeypatch):
    distribution("numpy<99")
    monkeypatch.setitem(sys.modules, "packaging.specifiers", None)
    checks = by_name(doctor.installed())
    assert (checks["python"].level, checks["numpy"].level) == ("ok", "warning")
    assert "packaging" in checks["numpy"].mend


def test_a_folder_that_is_not_installed_is_a_warning(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    checks = by_name(doctor.installed())
    assert checks["csmf_tf"].level == "warning"
    assert "not installed" in checks["csmf_tf"].sentence


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (
            "raise ImportError('lib.so: undefined symbol: _ZN3')",
            "ImportError: lib.so: undefined symbol: _ZN3",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGILL)", "it ended the process with SIGILL"),
    ],
)
def test_a_tensorflow_that_does_not_load_is_one_problem(source, said, tmp_path):
    (tmp_path / "tensorflow.py").write_text(source)
    code, level, checks = examined(tmp_path)
    assert (code, level) == (1, "problem")
    assert checks["TensorFlow"]["sentence"] == said
    assert "pip install" in checks["TensorFlow"]["mend"]
    for name in ("Keras", "ScaNN"):
        assert checks[name]["level"] == "warning"
        assert checks[name]["sentence"] == "cannot be told before TensorFlow is mended"


def test_nothing_but_python_is_needed(tmp_path):
    for name in ("tensorflow", "numpy", "tqdm", "packaging", "yaml", "pyarrow", "shtab"):
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('no {name}')")
    code, _, checks = examined(tmp_path)
    assert code == 1
    assert checks["TensorFlow"]["sentence"] == "ImportError: no tensorflow"


def test_a_probe_that_does_not_answer_is_a_problem(tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("import time; time.sleep(60)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "SECONDS", 0.2)
    checks = by_name(doctor.loads())
    assert checks["TensorFlow"].level == "problem"
    assert "gave no answer within 0.2 seconds" in checks["TensorFlow"].sentence


@pytest.mark.parametrize(
    ("flags", "level", "said"),
    [
        (SOUND_CPU, "ok", "AVX AVX2 FMA AVX512F"),
        (SOUND_CPU.replace(" avx2 fma", ""), "warning", "AVX AVX512F"),
        ("flags\t\t: fpu sse2\n", "problem", "no AVX"),
    ],
)
def test_instructions_of_the_processor(flags, level, said, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    (tmp_path / "cpuinfo").write_text(flags)
    (tmp_path / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 1048576 kB\n")
    checks = by_name(doctor.machine(tmp_path))
    assert checks["processor"].level == level
    assert checks["processor"].sentence.endswith(f"cores, {said}")
    assert (checks["memory"].level, checks["memory"].sentence) == ("warning", "1.0 of 8.0 GiB are free")


def test_a_folder_that_is_gone_and_odd_files_are_warnings(tmp_path, monkeypatch):
    def gone(path):
        raise FileNotFoundError(path)

    (tmp_path / "meminfo").write_text("no colon\nMemTotal:\n")
    monkeypatch.setattr(doctor.shutil, "disk_usage", gone)
    checks = by_name(doctor.machine(tmp_path))
    assert (checks["memory"].level, checks["disc"].level) == ("warning", "warning")


def test_other_systems_tell_less(tmp_path):
    checks = by_name(doctor.machine(tmp_path))
    assert checks["processor"].level == "ok"
    assert checks["memory"].level == "warning"


def test_text_has_a_line_for_each_check_and_what_mends_it(monkeypatch, capsys):
    found = [
        doctor.Check("numpy", "ok", "2.0"),
        doctor.Check("scann", "problem", "not installed", "install it"),
    ]
    monkeypatch.setattr(doctor, "examine", lambda: found)
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "[ok]      numpy: 2.0",
        "[problem] scann: not installed",
        "          mend: install it",
        "",
        "1 problem, 0 warnings, 1 ok",
    ]
