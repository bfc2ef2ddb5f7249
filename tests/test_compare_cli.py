"""`csmf-tf compare` on folders made by hand: what it prints and writes, and what bad input gets."""

import contextlib
import io
import json
import os
import subprocess
import sys

import pytest
from compare_cases import METRICS, results

from csmf_tf.cli import main
from csmf_tf.evaluation.compare import compare, load_results
from csmf_tf.evaluation.comparison import format_comparison
from csmf_tf.evaluation.user_results import run_state, write_user_results


def csmf(*arguments):
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leave:
            code = leave.code
    return code, out.getvalue(), err.getvalue()


def make_run(folder, measured):
    """A folder that looks like that of an evaluated run."""
    folder.mkdir(parents=True)
    (folder / "state.json").write_text(json.dumps({"log": [measured.name]}))
    write_user_results(folder / "evaluation" / "users.parquet", measured._replace(state=run_state(folder)))
    return folder


@pytest.fixture
def runs(tmp_path):
    return [
        make_run(tmp_path / "base", results("base")),
        make_run(tmp_path / "better", results("better", 0.1, seed=1)),
    ]


def test_command_prints_a_table_and_writes_json(runs, tmp_path):
    code, out, err = csmf("compare", *runs, "--json", tmp_path / "new" / "compared.json")
    assert (code, err) == (0, "")
    assert out.rstrip("\n") == format_comparison(compare(load_results(runs)))
    found = json.loads((tmp_path / "new" / "compared.json").read_text())
    assert found["baseline"] == "base"
    assert found["runs"] == ["base", "better"]
    assert (found["level"], found["tests"], found["left_out"]) == (0.95, 4, [])
    first, other = found["rows"][:2]
    assert "difference" not in first
    expected = compare(load_results(runs)).rows[1]
    assert other["mean"] == expected.mean
    assert other["interval"] == [expected.low, expected.high]
    assert other["difference"] == {
        "mean": expected.difference.mean,
        "interval": [expected.difference.low, expected.difference.high],
        "p": expected.difference.p,
        "holm_p": expected.adjusted,
    }
    code, out, _ = csmf("compare", *runs, "--json", "-")
    assert code == 0
    assert json.loads(out) == found


def test_command_takes_metrics_and_targets(tmp_path):
    kinds = ("discovery", "met", "new")
    runs = [make_run(tmp_path / name, results(name, kinds=kinds)) for name in ("a", "b")]
    code, out, _ = csmf(
        "compare", *runs, "--metric", "recall@50", "--metric", "ndcg@10", "--targets", "met", "--json", "-"
    )
    assert code == 0
    rows = json.loads(out)["rows"]
    assert {row["metric"] for row in rows} == {"recall@50", "ndcg@10"}
    assert {row["targets"] for row in rows} == {"met"}
    code, out, _ = csmf("compare", *runs, "--metric", "all", "--targets", "met", "--targets", "new")
    assert code == 0
    assert all(f"view, {kind} targets, {metric}" in out for metric in METRICS for kind in ("met", "new"))


def test_command_takes_a_peer(runs, tmp_path):
    write_user_results(tmp_path / "peer.parquet", results("iALS", 0.05, seed=4, metrics=("recall@10",)))
    code, out, _ = csmf("compare", runs[0], tmp_path / "peer.parquet", runs[1])
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:5]] == ["base", "iALS", "better"]


def test_runs_are_called_by_as_much_of_their_path_as_tells_them_apart(tmp_path, monkeypatch):
    places = ["one/seed1/run", "two/seed1/run", "two/seed2/run", "other"]
    folders = [make_run(tmp_path / place, results("x")) for place in places]
    assert [one.name for one in load_results(folders)] == [*places[:2], "seed2/run", "other"]
    monkeypatch.chdir(folders[2])
    assert [one.name for one in load_results([".", folders[3]])] == ["run", "other"]


def test_a_run_that_was_not_evaluated_is_told(runs):
    (runs[1] / "evaluation" / "users.parquet").unlink()
    code, out, err = csmf("compare", *runs)
    assert (code, out) == (2, "")
    assert f"{runs[1]} should hold evaluation/users.parquet" in err
    assert f"`csmf-tf evaluate {runs[1]}` writes it" in err


@pytest.mark.parametrize("log", [None, [], [{"objective": "view", "phase": "fit", "epoch": 1}]])
def test_a_run_without_a_finished_stage_is_told_to_fit(runs, tmp_path, log):
    new = tmp_path / "new"
    new.mkdir()
    (new / "config.yaml").write_text("")
    if log is not None:
        (new / "state.json").write_text(json.dumps({"log": log}))
    code, out, err = csmf("compare", runs[0], new)
    assert (code, out) == (2, "")
    assert f"{new} should be a trained run. Received: one without a finished stage" in err
    assert f"`csmf-tf fit {new}/config.yaml --out {new}`" in err


def test_a_run_with_a_finished_stage_is_told_to_evaluate(runs, tmp_path):
    new = tmp_path / "new"
    new.mkdir()
    (new / "config.yaml").write_text("")
    (new / "state.json").write_text(json.dumps({"log": [{"objective": "view", "phase": "freeze"}]}))
    assert f"`csmf-tf evaluate {new}` writes it" in csmf("compare", runs[0], new)[2]


def test_the_same_run_twice_is_an_error(runs):
    for again in (runs[0], runs[0] / "." / "evaluation" / "users.parquet"):
        code, out, err = csmf("compare", runs[0], runs[1], again)
        assert (code, out) == (2, "")
        assert f"Received: the same twice, {runs[0]} and {again}" in err


def test_a_run_that_went_on_since_its_evaluation_is_told(runs):
    (runs[0] / "state.json").write_text("{}")
    code, out, err = csmf("compare", *runs)
    assert (code, out) == (2, "")
    assert "should measure the weights that the run has now. Received: those of another moment" in err
    assert f"`csmf-tf evaluate {runs[0]}` measures anew" in err


def test_bad_arguments_are_told_without_a_traceback(runs, tmp_path):
    (tmp_path / "log").mkdir()
    cases = [
        ([runs[0]], "the following arguments are required: RUN_B"),
        ([runs[0], tmp_path / "log"], "log should be the directory of a run"),
        ([runs[0], tmp_path / "none"], "none should be a file of user results. Received: no file"),
        (
            [runs[0], runs[1] / "state.json"],
            "state.json should be a file of user results. Received: what cannot be",
        ),
        ([*runs, "--metric", "recall@7"], "Received: recall@7; did you mean"),
        ([*runs, "--metric", "x"], "Received: x; another K has to be in `evaluate.ks` of the runs"),
        ([*runs, "--targets", "old"], "invalid choice: 'old'"),
        ([*runs, "--targets", "met"], "none with met targets; met targets: in no run"),
    ]
    for arguments, message in cases:
        code, out, err = csmf("compare", *arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert "Traceback" not in err


def test_command_does_not_load_tensorflow(runs):
    call = f"import sys; from csmf_tf.cli import main; main(['compare', *{[str(run) for run in runs]}])"
    loaded = subprocess.run(
        [sys.executable, "-c", f"{call}\nprint('tensorflow' in sys.modules)"],
        env=os.environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.splitlines()[-1] == "False"
