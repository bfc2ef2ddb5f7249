"""Pages of docs/ that need nothing but their own blocks run: configurations, commands, Python, in order.

Smaller logs and fewer epochs stand in for what they say.
"""

import pytest
from snippets import run_document

SIMULATED = {"--users 2000 --items 1000": "--users 200 --items 120"}
ONE_EPOCH = "\ntraining: {epochs: 1, recover_epochs: 0}\n"
PAGES = {
    "docs/concepts.md": {},
    "docs/scale.md": {},
    "docs/reliability.md": {},
    "docs/own_towers.md": {},
    "docs/by_hand.md": SIMULATED | {"epochs=5": "epochs=1", "epochs=2": "epochs=1", "epochs=4": "epochs=1"},
    "docs/own_data.md": SIMULATED | {"range(1000)": "range(120)"},
    "docs/cli.md": SIMULATED
    | {
        "split: {kind: time, at: 0.8}": "split: {kind: time, at: 0.8}" + ONE_EPOCH,
        " --set training.epochs=8": "",
    },
    "docs/add_objective.md": SIMULATED
    | {"split: {kind: item_holdout}": "split: {kind: item_holdout}" + ONE_EPOCH},
}


@pytest.mark.parametrize("page", PAGES)
def test_the_page_runs(page, tmp_path):
    run_document(page, tmp_path, PAGES[page])
