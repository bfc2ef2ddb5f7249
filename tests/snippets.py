"""Code blocks of the documents, and how they are run."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def blocks(document: str, language: str) -> list[str]:
    """The code blocks of one language in a document, in order."""
    text = (ROOT / document).read_text()
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def commands(document: str) -> list[list[str]]:
    """The arguments of each `csmf-tf` line in the sh blocks of a document, in order."""
    return [arguments for block in blocks(document, "sh") for arguments in _csmf_tf(block)]


def shell_lines(block: str) -> list[list[str]]:
    """The words of each line of an sh block; a line that ends in a backslash goes on."""
    lines = block.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def _csmf_tf(block: str) -> list[list[str]]:
    return [arguments for command, *arguments in shell_lines(block) if command == "csmf-tf"]


def run_fresh(code: str, folder: Path, **environment: str) -> str:
    """Standard output of `code` in a process of its own, in which nobody has picked a Keras."""
    drop = ("PYTHONPATH", "TF_USE_LEGACY_KERAS")
    inherited = {name: value for name, value in os.environ.items() if name not in drop}
    result = subprocess.run(
        [sys.executable, "-c", code], env=inherited | environment, cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def run_here(code: str, folder: Path) -> str:
    """Standard output of `code` in this process, run in `folder`; faster than `run_fresh` by an import."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        exec(compile(code, "<document>", "exec"), {"__name__": "__main__"})
    return printed.getvalue()


def run_document(document: str, folder: Path, smaller: dict[str, str] | None = None) -> None:
    """Runs the yaml, sh and python blocks of a document in their order, in `folder` and in this process.

    A yaml block is the file that its first line names. Of sh blocks the `csmf-tf` lines are run. `smaller`
    holds texts and what stands in for them, for speed; each has to occur.
    """
    # Late, so that tests of documents alone need no TensorFlow.
    from csmf_tf._keras import tf
    from csmf_tf.cli import main

    text = (ROOT / document).read_text()
    for written, instead in (smaller or {}).items():
        assert written in text, written
        text = text.replace(written, instead)
    names: dict[str, object] = {"__name__": "__main__"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # It would hold for all later tests of the process.
        patch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
        for found in re.finditer(r"^```(yaml|sh|python)\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE):
            language, code = found.groups()
            if language == "yaml":
                (folder / code.split(maxsplit=2)[1]).write_text(code)
            elif language == "sh":
                for arguments in _csmf_tf(code):
                    assert main(arguments) == 0, arguments
            else:
                lines_above = "\n" * text.count("\n", 0, found.start(2))
                exec(compile(lines_above + code, str(ROOT / document), "exec"), names)
