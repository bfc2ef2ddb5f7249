"""docs/heterrec.md runs: its configuration, its commands and its Python, on a small log with one epoch."""

import re

import pytest
from snippets import blocks, commands, run_here

from csmf_tf.cli import main

DOCUMENT = "docs/heterrec.md"


def test_the_document_runs(tmp_path, capsys):
    (config,) = blocks(DOCUMENT, "yaml")
    small = config.replace("dim: 64", "dim: 8").replace("layers: 2", "layers: 1")
    (tmp_path / "config.yaml").write_text(small + "\ntraining: {epochs: 1, recover_epochs: 0}\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for arguments in commands(DOCUMENT):
            arguments = [{"300": "60", "200": "80"}.get(word, word) for word in arguments]
            assert main(arguments) == 0, arguments
    # The last two commands gave five items each.
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[-10:]]
    assert [rank for rank, _, _ in lines] == [*"1234512345"]
    by_history, by_hand = blocks(DOCUMENT, "python")
    assert re.findall("b'(.*?)'", run_here(by_history, tmp_path)) == [item for _, _, item in lines[5:]]
    assert "project_item_id" in run_here(by_hand, tmp_path)
