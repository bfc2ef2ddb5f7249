"""Code blocks of the documents, and how they are run."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of one language in a document, in order."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands(document: str) -> list[list[str]]:
    """The arguments of each `csmf-tf` line in the sh blocks of a document, in order."""
    lines = [
        shlex.split(line, comments=True) for block in blocks(document, "sh") for line in block.splitlines()
    ]
    return [line[1:] for line in lines if line[:1] == ["csmf-tf"]]


def run_fresh(code: str, folder: Path, **environment: str) -> str:
    """Standard output of `code` in a process of its own, in which nobody has picked a Keras."""
    drop = ("PYTHONPATH", "TF_USE_LEGACY_KERAS")
    inherited = {name: value for name, value in os.environ.items() if name not in drop}
    result = subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
