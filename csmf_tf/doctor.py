"""Whether the installation works, and what mends it: what `csmf-tf doctor` prints.

Needs nothing but Python: what may be missing or broken is imported in a process of its own.
"""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

from csmf_tf import __version__

Level = Literal["ok", "warning", "problem"]

DISTRIBUTION = "csmf-tf"
SECONDS = 300
"""How long a probe may take (own choice)."""
LEAST_MEMORY, LEAST_DISC = 2.0, 1.0
"""GiB below which there is a warning (own choice)."""

# Those that TensorFlow, oneDNN and ScaNN have code for.
_FLAGS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile")
_SWITCH = "TF_USE_LEGACY_KERAS"


class Check(NamedTuple):
    """One thing that was looked at.

    Attributes:
        name: what it is called.
        level: "ok", "warning" (csmf_tf works, but not at its best) or "problem".
        sentence: what was found.
        mend: what to do about it; "" where nothing.
    """

    name: str
    level: Level
    sentence: str
    mend: str = ""


def examine() -> list[Check]:
    """Looks at Python, the packages, TensorFlow, Keras, ScaNN and the machine.

    Returns:
        the checks, in the order in which they are read; none of them raises.

    Example:

    >>> [check.name for check in machine()]
    ['processor', 'memory', 'disc']
    """
    return [*installed(), *loads(), *machine()]


def to_text(checks: Sequence[Check]) -> str:
    """The checks, one a line, with what mends them below, and how many there are of each level.

    Example:

    >>> print(to_text([Check("scann", "problem", "not installed", "pip install scann")]))
    [problem] scann: not installed
              mend: pip install scann
    <BLANKLINE>
    1 problem, 0 warnings, 0 ok
    """
    lines = []
    for check in checks:
        lines.append(f"{f'[{check.level}]':<9} {check.name}: {check.sentence}")
        lines += [f"{'':<9} mend: {check.mend}"] if check.mend else []
    count = {level: sum(check.level == level for check in checks) for level in ("problem", "warning", "ok")}
    told = [f"{count[level]} {level}{'' if count[level] == 1 else 's'}" for level in ("problem", "warning")]
    return "\n".join([*lines, "", ", ".join([*told, f"{count['ok']} ok"])])


def to_dict(checks: Sequence[Check]) -> dict[str, Any]:
    """`{"level": worst, "checks": [{"name", "level", "sentence", "mend"}]}`, ready for JSON."""
    worst = max((check.level for check in checks), key=("ok", "warning", "problem").index, default="ok")
    return {"level": worst, "checks": [check._asdict() for check in checks]}


def installed() -> list[Check]:
    """Python and each package against the ranges that the installed distribution asks for."""
    try:
        distribution = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        sentence = "imported from its folder, not installed, so that nothing tells which versions it needs"
        mend = f"{_pip()} install {shlex.quote(str(Path(__file__).parents[1]))}"
        return [_python(None), Check("csmf_tf", "warning", sentence, mend)]
    own = Check("csmf_tf", "ok", f"{__version__} in {Path(__file__).parent}")
    if distribution.version != __version__:
        sentence = f"the code is {__version__}, but what is installed says {distribution.version}"
        own = Check("csmf_tf", "warning", sentence, "install it again")
    requires_python = distribution.metadata.json.get("requires_python")
    return [_python(requires_python), own, *map(_package, _requirements(distribution))]


def machine(proc: str | os.PathLike[str] = "/proc") -> list[Check]:
    """Processor, memory and free space on the disc.

    Args:
        proc: where Linux tells of the first two.
    """
    return [_processor(Path(proc, "cpuinfo")), _memory(Path(proc, "meminfo")), _disc()]


def _requirements(distribution):
    """Name and range of each package that is always needed; markers are those of optional extras."""
    parts = [text.partition(";") for text in distribution.requires or ()]
    found = [
        re.match(r"\s*([\w.-]+)\s*(?:\[.*\])?\s*\(?([^)]*)\)?", needed)
        for needed, _, marker in parts
        if not marker
    ]
    return [(one[1], one[2].strip()) for one in found if one]


def _python(wanted):
    version = platform.python_version()
    told = f"{version}{f' ({wanted} is supported)' if wanted else ''} in {sys.prefix}"
    if wanted and _within(version, wanted) is False:
        return Check("python", "problem", told, f"make the environment with a Python {wanted}")
    return Check("python", "ok", told)


def _package(requirement):
    name, wanted = requirement
    mend = f"{_pip()} install '{name}{wanted}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, "problem", f"not installed; {wanted or 'any version'} is needed", mend)
    inside = _within(version, wanted)
    if inside is None:
        sentence = f"{version}; whether it is {wanted} cannot be told without `packaging`"
        return Check(name, "warning", sentence, f"{_pip()} install packaging")
    if not inside:
        return Check(name, "problem", f"{version}, but {wanted} is needed", mend)
    return Check(name, "ok", f"{version}{f' ({wanted})' if wanted else ''}")


def _within(version, wanted):
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return None
    return SpecifierSet(wanted).contains(version, prereleases=True)


def _probed():
    """Name of each probe to what it found, the name of the one that failed to why; and standard error."""
    # The packages that this process sees, and none that lie in the folder where it was called.
    path = os.pathsep.join([*filter(None, sys.path), str(Path(__file__).parents[1])])
    environment = os.environ | {"PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "0"}
    command = [sys.executable, "-P", str(Path(__file__).with_name("_probes.py"))]
    end = "it ended the process"
    try:
        done = subprocess.run(command, env=environment, capture_output=True, timeout=SECONDS)
        code, out, err = done.returncode, done.stdout, done.stderr
        end += f" with {signal.Signals(-code).name if code < 0 else f'exit code {code}'}"
    except subprocess.TimeoutExpired as late:
        out, err = late.stdout or b"", late.stderr or b""
        end = f"it gave no answer within {SECONDS} seconds"
    except OSError as error:
        out, err, end = b"", b"", f"no process could be started to try it: {error}"
    whole = [line for line in out.decode(errors="replace").splitlines() if re.fullmatch(r'{"probe".*}', line)]
    lines, said = [json.loads(line) for line in whole], err.decode(errors="replace")
    found = {line["probe"]: line["found"] for line in lines if "found" in line}
    failed = {line["probe"]: line["error"] for line in lines if "error" in line}
    silent = next((name for name in _JUDGES if name not in found), None)
    return found, failed or ({silent: end} if silent else {}), said


def loads() -> list[Check]:
    """TensorFlow, Keras and ScaNN; what rests on one that failed is left open."""
    found, failed, said = _probed()
    checks = []
    for probe, (name, judge, mend) in _JUDGES.items():
        if probe in found:
            checks.append(Check(name, "ok", judge(found[probe], said)))
        elif probe in failed:
            checks.append(Check(name, "problem", failed[probe], mend()))
        else:
            broken = next(_JUDGES[one][0] for one in failed)
            checks.append(Check(name, "warning", f"cannot be told before {broken} is mended"))
    return checks


def _tensorflow(found, said):
    # TensorFlow itself tells what it was not built for.
    without = re.search(r"To enable the following instructions: (.*?), in other operations", said)
    told = f"{found['version']} computes"
    told += f"; its own operations are built without {without[1]}, oneDNN's use them" if without else ""
    return f"{told}; GPUs: {', '.join(found['gpus']) or 'none'}"


def _keras(found, said):
    switch = f"{_SWITCH}={os.environ.get(_SWITCH)}"
    return f"{switch}: tf.keras is Keras {found['version']}, and TFRS {found['tfrs']} loads"


def _mend_keras():
    value = os.environ.get(_SWITCH)
    if value not in (None, "1", "true", "True"):
        return f"unset {_SWITCH}, or set it to 1. Received: {value}"
    return _reinstall("tf-keras", "tensorflow-recommenders")


def _scann(found, said):
    return f"its op loads into TensorFlow and searches {found['vectors']} vectors"


def _mend_scann():
    return f"{_reinstall('tensorflow', 'scann')}; without it, export with --index portable or exact"


# In the order in which they are probed: each rests on those before it.
_JUDGES = {
    "tensorflow": ("TensorFlow", _tensorflow, lambda: _reinstall("tensorflow")),
    "keras": ("Keras", _keras, _mend_keras),
    "scann": ("ScaNN", _scann, _mend_scann),
}


def _reinstall(*names):
    try:
        ranges = dict(_requirements(metadata.distribution(DISTRIBUTION)))
    except metadata.PackageNotFoundError:
        ranges = {}
    wanted = " ".join(f"'{name}{ranges.get(name, '')}'" for name in names)
    return f"{_pip()} install --force-reinstall --no-deps {wanted}"


def _pip():
    # The pip of this Python: that of the shell may be another one's.
    return f"{shlex.quote(sys.executable)} -m pip"


def _processor(cpuinfo):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    told = f"{platform.machine()}, {cores} cores"
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return Check("processor", "ok", told)
    known = {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}
    has = [flag.upper() for flag in _FLAGS if flag in known]
    told += f", {' '.join(has) or 'no AVX'}"
    if platform.machine() != "x86_64":
        return Check("processor", "warning", told, "scann and tensorflow are tested on x86_64 only")
    if "AVX" not in has:
        return Check("processor", "problem", told, "TensorFlow's packages need AVX: take another machine")
    if lacking := [flag for flag in ("AVX2", "FMA") if flag not in has]:
        mend = f"a machine with {' and '.join(lacking)} trains and searches faster"
        return Check("processor", "warning", told, mend)
    return Check("processor", "ok", told)


def _memory(meminfo):
    try:
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        whole, free = (int(lines[name].split()[0]) / 2**20 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError, IndexError):
        return Check("memory", "warning", "how much there is cannot be told on this system")
    low = free < LEAST_MEMORY
    mend = "end other programs: TensorFlow alone takes about one gigabyte" if low else ""
    return Check("memory", "warning" if low else "ok", f"{free:.1f} of {whole:.1f} GiB are free", mend)


def _disc():
    try:
        folder, free = Path.cwd(), shutil.disk_usage(".").free / 2**30
    except OSError:
        return Check("disc", "warning", "how much is free in the current folder cannot be told")
    low = free < LEAST_DISC
    mend = "runs and exports hold several copies of the embedding tables: make room" if low else ""
    return Check("disc", "warning" if low else "ok", f"{free:.1f} GiB are free in {folder}", mend)
