"""The README runs: configuration, commands and Python, in its order, on a smaller log with fewer epochs."""

import re

import pytest
from snippets import ROOT, blocks, commands, run_fresh

from csmf_tf._keras import tf
from csmf_tf.cli import main

README = "README.md"
FEWER_EPOCHS = "\ntraining: {epochs: 1, recover_epochs: 0}\n"
SMALLER = {"2000": "200", "1000": "120"}
WITHOUT_CSMF_TF = "import sys; sys.modules['csmf_tf'] = None\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the README's commands have run, one after the other."""
    folder = tmp_path_factory.mktemp("readme")
    (config,) = blocks(README, "yaml")
    (folder / "config.yaml").write_text(config + FEWER_EPOCHS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # It would hold for all later tests of the process.
        patch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
        for arguments in commands(README):
            assert main([SMALLER.get(argument, argument) for argument in arguments]) == 0, arguments
    return folder


def test_the_commands_go_from_a_log_to_an_answer():
    names = [arguments[0] for arguments in commands(README)]
    assert names == ["simulate", "check", "fit", "evaluate", "export", "query"]


def test_the_export_answers_without_csmf_tf(folder):
    _, served = blocks(README, "python")
    shown = "print(*answer['ids'].shape, *answer['scores'].shape, answer['ids'][0, 0].numpy())"
    assert re.fullmatch(r"1 100 1 100 b'i\d+'\n", run_fresh(WITHOUT_CSMF_TF + served + shown, folder))


def test_twenty_lines_go_from_a_log_to_answers(tmp_path):
    code, _ = blocks(README, "python")
    smaller = {"users=2000": "users=200", "items=1000": "items=120", '"epochs": 12': '"epochs": 1'}
    for written, instead in smaller.items():
        assert code.count(written) == 1
        code = code.replace(written, instead)
    printed = run_fresh(code, tmp_path, PYTHONPATH=str(ROOT)).splitlines()
    measured = [line.split() for line in printed if re.fullmatch(r"(view|cart|buy) [\d.]+", line)]
    assert [name for name, _ in measured] == ["view", "cart", "buy"]
    assert all(0 < float(recall) <= 1 for _, recall in measured)
    for weights, line in zip(["{'view': 1}", "{'view': 1, 'buy': 3}"], printed[-2:], strict=True):
        assert line.startswith(weights)
        assert len(re.findall(r"'i\d+'", line)) == 5
