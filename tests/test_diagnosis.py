"""What is said about the negatives of a run, against counts over the log."""

import json

import numpy as np
import pytest

from csmf_tf.cli import main
from csmf_tf.config import from_dict, to_dict
from csmf_tf.data.simulator import simulate
from csmf_tf.diagnosis import diagnose
from csmf_tf.run import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    simulate(200, 60, seed=1, events_per_user=15).write(folder)
    columns = {"user": "user_id", "item": "item_id", "behavior": "behavior"}
    raw = {
        "log": {"path": str(folder / "events.csv.gz"), "ignore": ["cart"], **columns},
        "funnel": ["view", "buy"],
        "split": {"kind": "item_holdout", "fraction": 0.3},
        "model": {"embedding_dim": 8, "normalize": True, "temperature": 0.2},
        "negatives": {"uniform": 300, "popularity": 300},
        "training": {"epochs": 2, "recover_epochs": 0},
    }
    Run(folder / "run", from_dict(raw)).fit(verbose=0)
    return Run(folder / "run").restore()


def later_positives(run, stage):
    split = run.prepared.split
    return {
        (int(u), int(i))
        for part in (split.validation, split.test)
        for u, i, b in zip(part.user, part.item, part.behavior, strict=True)
        if b >= stage - 1
    }


@pytest.mark.parametrize(("objective", "stage"), [("view", 1), ("buy", 2)])
def test_false_negatives_and_difficulty_are_what_the_log_says(run, objective, stage):
    drawn = diagnose(run, objective, rows=2000).drawn
    train, later = run.prepared.split.train, later_positives(run, stage)
    at = np.flatnonzero(train.behavior >= stage - 1)
    pairs = {*zip(train.user[at].tolist(), train.item[at].tolist(), strict=True)}
    items = len(train.items)
    # Uniform negatives of a row: any item but the positive, which is left out.
    expected = np.mean([sum((u, i) in later for i in range(items)) / (items - 1) for u, _ in pairs])
    uniform = drawn["uniform"]
    found, n = uniform.false / len(uniform.difficulty), len(uniform.difficulty)
    # A batch of rows shares its uniform draws.
    assert n == pytest.approx(300 * min(len(pairs), 2000) * (1 - 1 / items), rel=0.02)
    # The same draws serve a batch of rows, so that the error is that of fewer.
    assert found == pytest.approx(expected, rel=0.25)
    users = run.model.user_vectors(run.model.towers.user_encoder.encode(run.raw_users()))
    scores = np.where(run.model.owner <= stage, users, 0) @ run.model.item_vectors().T
    everywhere = np.concatenate([np.delete(scores[u] - scores[u, i], i) for u, i in pairs])
    assert uniform.difficulty.mean() == pytest.approx(everywhere.mean(), abs=0.1 * float(everywhere.std()))
    assert (drawn["edis hard"].false, drawn["edis simple"].false) == (None, None)
    assert ("funnel" in drawn) == (stage > 1)
    # Made of the hardest of ten, and moved towards the positive.
    assert np.mean(drawn["edis hard"].difficulty > -1) > np.mean(uniform.difficulty > -1)


def test_command_prints_a_table_and_draws(run, capsys, tmp_path):
    assert main(["negatives", str(run.directory), "--rows", "500", "--json", str(tmp_path / "n.json")]) == 0
    text, summary = capsys.readouterr().out, json.loads((tmp_path / "n.json").read_text())
    assert text.splitlines()[0] == "negatives of buy"
    assert [line.split("  ")[0] for line in text.splitlines()[2:10]] == [*summary["kinds"]]
    for name in ("difficulty.png", "clusters.png"):
        assert (run.directory / "negatives" / name).read_bytes().startswith(b"\x89PNG")
    uniform = summary["kinds"]["uniform"]
    assert 0 < uniform["false_negatives"] < 0.5
    quantiles = [*uniform["difficulty"].values()]
    assert quantiles == sorted(quantiles)
    clusters = summary["clusters"]
    assert clusters["level1"]["least"] >= 5
    assert clusters["level2"]["clusters"] >= clusters["level1"]["clusters"]


@pytest.mark.parametrize("negatives", [{"edis": {"hard": 8}}, {"msac": {"hard": 0}}])
def test_kinds_that_a_run_has_no_numbers_for_are_left_out(run, negatives):
    raw = to_dict(run.config)
    raw["negatives"] = negatives
    run.config, before = from_dict(raw), run.config
    try:
        drawn = diagnose(run, "view", rows=200).drawn
    finally:
        run.config = before
    assert ("edis hard" in drawn) == ("msac hard" in drawn) == ("edis" in negatives)


def test_an_objective_that_is_not_finished_is_an_error(run, capsys):
    assert main(["negatives", str(run.directory), "--objective", "cart"]) == 2
    assert "`objective` should be one of the finished objectives ('view', 'buy')" in capsys.readouterr().err
