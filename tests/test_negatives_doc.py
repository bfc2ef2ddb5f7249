"""docs/negatives.md runs: its configuration and its commands, on a small log with few epochs."""

import csv

import numpy as np
import pytest
from snippets import blocks, commands

from csmf_tf._keras import tf
from csmf_tf.cli import main

DOCUMENT = "docs/negatives.md"


def test_the_commands_go_from_a_log_to_a_table_of_negatives(tmp_path, capsys):
    (config,) = blocks(DOCUMENT, "yaml")
    (tmp_path / "config.yaml").write_text(config + "\ntraining: {epochs: 1, recover_epochs: 0}\n")
    with open(tmp_path / "items.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title"])
        rows.writerows([f"i{n}", ["red lamp", "blue lamp", "red chair"][n % 3]] for n in range(150))
    np.save(tmp_path / "image.npy", np.random.default_rng(0).normal(size=(150, 12)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        # It would hold for all later tests of the process.
        patch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
        for arguments in commands(DOCUMENT):
            assert main(arguments) == 0, arguments
    kinds = [
        "in_batch",
        "uniform",
        "popularity",
        "funnel",
        "msac easy",
        "msac hard",
        "edis simple",
        "edis hard",
    ]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines if line.split("  ")[0] in kinds] == kinds
    assert {path.name for path in (tmp_path / "run" / "negatives").iterdir()} == {
        "difficulty.png",
        "clusters.png",
    }
