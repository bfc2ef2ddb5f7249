"""The README runs: configuration, commands and Python, in its order, on a smaller log with fewer epochs."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from csmf_tf._keras import tf
from csmf_tf.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FEWER_EPOCHS = "\ntraining: {epochs: 1, recover_epochs: 0}\n"
SMALLER = {"2000": "200", "1000": "120"}
WITHOUT_CSMF_TF = "import sys; sys.modules['csmf_tf'] = None\n"


def blocks(language: str) -> list[str]:
    """The code blocks of one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    """The arguments of each `csmf-tf` line, in order."""
    lines = [shlex.split(line, comments=True) for block in blocks("sh") for line in block.splitlines()]
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's commands have run, one after the other."""
    folder = tmp_path_factory.mktemp("readme")
    (config,) = blocks("yaml")
    (folder / "config.yaml").write_text(config + FEWER_EPOCHS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # It would hold for all later tests of the process.
        patch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
        for arguments in commands():
            assert main([SMALLER.get(argument, argument) for argument in arguments]) == 0, arguments
    return folder


def test_the_commands_go_from_a_log_to_an_answer():
    assert [arguments[0] for arguments in commands()] == ["simulate", "fit", "evaluate", "export", "query"]


def test_the_export_answers_without_csmf_tf(folder):
    served, _ = blocks("python")
    shown = "print(*answer['ids'].shape, *answer['scores'].shape, answer['ids'][0, 0].numpy())"
    assert re.fullmatch(r"1 100 1 100 b'i\d+'\n", run_fresh(WITHOUT_CSMF_TF + served + shown, folder))


def test_the_stages_run_by_hand(folder):
    _, by_hand = blocks("python")
    # The one change, for speed: every `fit` stops after one epoch.
    code, fits = re.subn(r"epochs=\d+", "epochs=1", by_hand)
    assert fits == by_hand.count(".fit(")
    printed = run_fresh(code, folder, PYTHONPATH=str(ROOT)).splitlines()[-1]
    assert re.findall(r"'(view|cart|buy)': {", printed) == ["view", "cart", "buy"]
