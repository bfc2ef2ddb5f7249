"""docs/datasets.md runs: every import, on the samples of the tests and a made log, and its Python."""

import pathlib

from public_cases import CASES
from snippets import ROOT, blocks, commands, run_fresh
from test_public import aliexpress

from csmf_tf.cli import main
from csmf_tf.data.simulator import simulate

DOCUMENT = "docs/datasets.md"
ACTIONS = ["pv", "cart", "buy"]
FIRST_SECOND = 1511539200  # of 25 November 2017 in Beijing


def write_samples(folder):
    """The files that the document names, in the columns of the real ones."""
    for case in CASES.values():
        for name, text in case.files.items():
            (folder / name.removesuffix(".gz")).write_text(text, encoding="latin-1")
    aliexpress(folder)
    # Enough events to be split.
    log = simulate(200, 120, seed=0).log
    rows = zip(log.user, log.item, log.behavior, range(len(log)), strict=True)
    (folder / "UserBehavior.csv").write_text(
        "".join(
            f"{user},{item},{item % 9},{ACTIONS[b]},{FIRST_SECOND + 30 * n}\n" for user, item, b, n in rows
        )
    )


def test_the_document_runs(tmp_path, monkeypatch, capsys):
    write_samples(tmp_path)
    monkeypatch.chdir(tmp_path)
    for arguments in commands(DOCUMENT):
        assert main(arguments) == 0, arguments
    written = {path.parent.name for path in pathlib.Path("build").glob("*/events.parquet")}
    assert written == {"taobao", "tmall", "nl", "aliccp", "kuairand", "movielens"}
    (code,) = blocks(DOCUMENT, "python")
    assert "UserBehavior.csv" in run_fresh(code, tmp_path, PYTHONPATH=str(ROOT))
