"""docs/evaluation.md runs: its Python and its commands, in its order, on a small log with few epochs."""

import csv
import gzip

import pytest
from snippets import blocks, commands, run_here

from csmf_tf.cli import main
from csmf_tf.config import load_config
from csmf_tf.data.simulator import simulate
from csmf_tf.run import Run

DOCUMENT = "docs/evaluation.md"
CONFIG = """
log: {path: events.csv.gz, user: user_id, item: item_id, behavior: behavior}
funnel: [view, buy]
split: {kind: item_holdout}
training: {epochs: 1, recover_epochs: 0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log, a configuration, and two runs, as the document has them."""
    folder = tmp_path_factory.mktemp("docs")
    log = simulate(200, 120, seed=0, behaviors=("view", "buy")).log
    with gzip.open(folder / "events.csv.gz", "wt", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "behavior"])
        rows.writerows(
            zip(log.users[log.user], log.items[log.item], [log.funnel[b] for b in log.behavior], strict=True)
        )
    (folder / "config.yaml").write_text(CONFIG)
    for dim in (16, 48):
        run = Run(
            folder / f"build/dim{dim}", load_config(folder / "config.yaml", [f"model.embedding_dim={dim}"])
        )
        run.fit(verbose=0)
        assert main(["evaluate", str(run.directory)]) == 0
    return folder


def test_python_and_commands_run(folder, capsys, monkeypatch):
    check, peer, measure, callback = blocks(DOCUMENT, "python")
    assert "'in view': 0" in run_here(check, folder)
    run_here(peer, folder)
    monkeypatch.chdir(folder)
    *checks, compare = commands(DOCUMENT)
    with gzip.open(folder / "events.csv.gz", "rt") as file:
        user, item, _ = next(line.split(",") for line in file if line.strip().endswith(",buy"))
    (folder / "split.csv.gz").write_bytes(gzip.compress(f"user_id,item_id\n{user},{item}\n".encode()))
    for arguments in checks:
        # With --strict 1 means that there is a problem.
        assert main(arguments) <= ("--strict" in arguments), arguments
    assert (folder / "report.json").exists()
    capsys.readouterr()
    assert main(compare) == 0
    assert "buy, recall@50" in capsys.readouterr().out
    assert "'map@50'" in run_here(measure, folder)
    history = run_here(callback, folder).splitlines()[-1]
    assert len(history.strip("[]").split(",")) == 2
