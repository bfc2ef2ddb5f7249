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
    served, _ = blocks(README, "python")
    shown = "print(*answer['ids'].shape, *answer['scores'].shape, answer['ids'][0, 0].numpy())"
    assert re.fullmatch(r"1 100 1 100 b'i\d+'\n", run_fresh(WITHOUT_CSMF_TF + served + shown, folder))


def test_the_stages_run_by_hand(folder):
    _, by_hand = blocks(README, "python")
    # The one change, for speed: every `fit` stops after one epoch.
    code, fits = re.subn(r"epochs=\d+", "epochs=1", by_hand)
    assert fits == by_hand.count(".fit(")
    printed = run_fresh(code, folder, PYTHONPATH=str(ROOT)).splitlines()[-1]
    assert re.findall(r"'(view|cart|buy)': {", printed) == ["view", "cart", "buy"]
