"""The `csmf-tf` command: what each sub-command writes and prints, and what bad input gets."""

import contextlib
import io
import json
import logging.handlers
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import snippets
import yaml

from csmf_tf import progress
from csmf_tf import run as run_module
from csmf_tf._keras import tf
from csmf_tf.cli import data as cli_data
from csmf_tf.cli import main, make_parser
from csmf_tf.cli.output import error_text
from csmf_tf.data import simulator
from csmf_tf.data.public import SETS
from csmf_tf.data.simulator import simulate

FUNNEL = ["view", "cart", "buy"]
LEAST = {
    "log": {
        "path": "log/events.csv.gz",
        "user": "user_id",
        "item": "item_id",
        "behavior": "behavior",
        "timestamp": "timestamp",
    },
    "funnel": FUNNEL,
    "split": {"kind": "time", "at": 0.8},
    "model": {"embedding_dim": 64},
}
SMALL = ["--set", "model.embedding_dim=8", "--set", "training={epochs: 1, recover_epochs: 1}"]


class Terminal(io.StringIO):
    """Stands in for a stream of a terminal."""

    def isatty(self):
        return True


def csmf(*arguments, stream=io.StringIO):
    """Exit code, standard output and standard error of a command."""
    out, err = stream(), stream()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leave:
            code = leave.code
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def determinism():
    """Calls of `enable_op_determinism`, which would hold for all later tests of the process."""
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tf.config.experimental, "enable_op_determinism", lambda: calls.append(True))
        yield calls


@pytest.fixture(scope="module")
def work(determinism, tmp_path_factory):
    """A folder with a simulated log, a configuration, a fitted run and an export; and what was printed."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "config.yaml").write_text(yaml.safe_dump(LEAST))
    warnings = logging.handlers.BufferingHandler(1000)
    tf.get_logger().addHandler(warnings)
    printed = {
        "warnings": warnings,
        "simulate": csmf("simulate", "--users", 100, "--items", 60, "--seed", 5, "--out", folder / "log"),
        "fit": csmf("fit", folder / "config.yaml", "--out", folder / "run", "--quiet", *SMALL),
        "export": csmf("export", folder / "run", "--out", folder / "export", "--index", "exact", "-k", 20),
    }
    return folder, printed


def test_simulate_writes_log_items_and_truth(work):
    folder, printed = work
    code, out, err = printed["simulate"]
    assert (code, err) == (0, "")
    assert re.fullmatch(r"wrote events\.csv\.gz \([\d,]+ events\), items\.csv\.gz and .* to .*\n", out)
    assert {file.name for file in (folder / "log").iterdir()} == {
        "events.csv.gz",
        "items.csv.gz",
        "truth.npz",
    }


def test_fit_makes_a_run_and_prints_the_capacity(work, determinism):
    folder, printed = work
    code, out, _ = printed["fit"]
    assert code == 0
    assert determinism
    names = {path.name for path in (folder / "run").iterdir()}
    assert names >= {"config.yaml", "data", "state.json", "checkpoints", "tensorboard", "capacity.png"}
    assert "val_recall@50" in out
    assert "capacity: share of each layer per owner" in out
    assert f"measure it with `csmf-tf evaluate {folder / 'run'}`" in out
    written = yaml.safe_load((folder / "run" / "config.yaml").read_text())
    assert written["model"]["embedding_dim"] == 8
    assert written["log"]["path"] == str(folder / "log" / "events.csv.gz")


def test_fit_does_not_warn_of_what_it_does_on_purpose(work):
    _, printed = work
    assert [record.getMessage() for record in printed["warnings"].buffer] == []


def test_fit_on_a_finished_run_trains_no_more(work):
    folder, _ = work
    before = (folder / "run" / "state.json").read_text()
    code, out, err = csmf("fit", folder / "config.yaml", "--out", folder / "run", *SMALL)
    assert (code, err) == (0, "")
    assert "Epoch" not in out
    assert (folder / "run" / "state.json").read_text() == before


def test_evaluate_prints_a_table_and_writes_json(work, tmp_path):
    folder, _ = work
    code, out, err = csmf("evaluate", folder / "run", "--json", tmp_path / "new" / "metrics.json")
    assert (code, err) == (0, "")
    for word in [*FUNNEL, "popularity", "@50", "recall", "ndcg", "coverage"]:
        assert word.lower() in out.lower()
    results = json.loads((tmp_path / "new" / "metrics.json").read_text())
    assert list(results["objectives"]) == list(results["fused"]) == FUNNEL
    assert list(results["baselines"]["popularity"]) == FUNNEL
    for metrics in results["objectives"].values():
        assert set(metrics) >= {"recall@50", "ndcg@50", "users"}
    assert {"unknown_users", "unknown_items"} <= set(results)
    assert f"report: {folder / 'run' / 'report' / 'index.html'}" in out
    assert (folder / "run" / "report" / "index.html").read_text().startswith("<!doctype html>")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["metrics.json"]
    code, out, _ = csmf("evaluate", folder / "run", "--json", "-")
    assert code == 0
    assert json.loads(out) == results


def test_export_writes_one_version_after_the_other(work, tmp_path):
    folder, printed = work
    assert printed["export"][:2] == (0, f"wrote {folder / 'export' / '1'}\n")
    command = ["export", folder / "run", "--out", tmp_path / "export", "--index"]
    for version, index in enumerate(["exact", "scann"], start=1):
        code, out, err = csmf(*command, index)
        assert (code, out, err) == (0, f"wrote {tmp_path / 'export' / str(version)}\n", "")
    code, out, err = csmf(*command, "portable", "--fusion", "linear", "--json", "-")
    assert (code, err) == (0, "")
    exported = json.loads(out)
    assert exported["path"] == str(tmp_path / "export" / "3")
    assert {*exported["recall"]} >= {"equal", *FUNNEL}
    code, out, err = csmf("query", tmp_path / "export", "--user", "u17", "--json")
    assert (code, err) == (0, "")
    # Linear fusion of the last version: sums of three probabilities.
    assert len(json.loads(out)) == 10
    assert all(0 < row["score"] < 3 for row in json.loads(out))


def test_settings_of_the_index_are_options(work, tmp_path):
    folder, _ = work
    command = ["export", folder / "run", "--out", tmp_path / "export", "--index", "portable"]
    code, _, err = csmf(*command, "--set", "cells=6", "--set", "candidates=80", "--min-recall", 0)
    assert (code, err) == (0, "")
    card = json.loads((tmp_path / "export" / "1" / "assets.extra" / "csmf.json").read_text())
    assert card["settings"] == {"cells": 6, "candidates": 80}
    for setting, message in [
        ("cells", "`--set` should look like candidates=32000. Received: 'cells'"),
        ("cells=x", "`--set` should look like candidates=32000. Received: 'cells=x'"),
        ("leaves=3", "Settings of the portable index should be of ['cells', 'candidates']"),
    ]:
        code, out, err = csmf(*command, "--set", setting)
        assert (code, out) == (2, "")
        assert message in err


def test_command_exports_shards_and_asks_them_all(work, tmp_path):
    folder, _ = work
    code, out, err = csmf(
        "export", folder / "run", "--out", tmp_path / "shop", "--index", "exact", "--shards", 4
    )
    assert (code, out, err) == (0, f"wrote 4 shards to {tmp_path / 'shop'}\n", "")
    asked = ["--user", "u17", "--weights", "view=1,buy=2", "-k", 20, "--json"]
    answers = [csmf("query", path, *asked) for path in (tmp_path / "shop", folder / "export")]
    assert [(code, err) for code, _, err in answers] == [(0, "")] * 2
    found, expected = (json.loads(out) for _, out, _ in answers)
    assert [row["item"] for row in found] == [row["item"] for row in expected]
    assert [row["score"] for row in found] == pytest.approx([row["score"] for row in expected], rel=1e-5)
    for arguments, message in [
        (["--shards", 3], "`shards` should be as many as `directory` holds. Received: shards=3"),
        (["--shards", 0], "`shards` should be a positive integer. Received: shards=0"),
        (["--shards", 4, "--fusion", "linear"], 'Shards should have `fusion="log"`'),
    ]:
        code, out, err = csmf(
            "export", folder / "run", "--out", tmp_path / "shop", "--index", "exact", *arguments
        )
        assert (code, out) == (2, "")
        assert message in err


def test_query_ranks_items_under_the_weights(work):
    folder, _ = work

    def answer(*arguments):
        code, out, err = csmf("query", folder / "export", "--user", "u17", "--json", *arguments)
        assert (code, err) == (0, "")
        return json.loads(out)

    ten = answer()
    assert len(ten) == len({row["item"] for row in ten}) == 10
    assert [row["score"] for row in ten] == sorted((row["score"] for row in ten), reverse=True)
    assert answer("--weights", "view=1,cart=1,buy=1") == ten
    once, twice = answer("--weights", "view=1,buy=3"), answer("--weights", "view=2, buy=6")
    assert [row["item"] for row in once] == [row["item"] for row in twice]
    assert [row["score"] * 2 for row in once] == pytest.approx([row["score"] for row in twice])
    assert once != ten
    code, out, _ = csmf("query", folder / "export", "--user", "u17", "-k", 3)
    assert code == 0
    shown = [line.split() for line in out.splitlines()]
    assert [(int(rank), item) for rank, _, item in shown] == [
        (n, row["item"]) for n, row in enumerate(ten[:3], start=1)
    ]


def test_query_for_a_stranger_answers_with_a_note(work):
    folder, _ = work
    code, out, err = csmf("query", folder / "export", "--user", "nobody", "-k", 4)
    assert code == 0
    assert len(out.splitlines()) == 4
    assert err.startswith("csmf-tf: note: user 'nobody' is not known")


# Arguments, and what standard error says; {work} is the folder, {config} a copy of the configuration in it.
BAD = {
    "no such configuration": ("fit {work}/none.yaml --out {new}", "none.yaml"),
    "unknown key": (
        "fit {config} --out {new} --set model.embeding_dim=8",
        "Unknown key `model.embeding_dim`. Did you mean `model.embedding_dim`?",
    ),
    "wrong type": (
        "fit {config} --out {new} --set training.epochs=many",
        "`training.epochs` should be an integer >= 1. Received: training.epochs='many'",
    ),
    "override without a value": (
        "fit {config} --out {new} --set training.epochs",
        "`--set` should be key=value, e.g. model.embedding_dim=64. Received: 'training.epochs'.",
    ),
    "no such log": ("fit {config} --out {new} --set log.path=none.csv", "There is no file {work}/none.csv"),
    "no such column": (
        "fit {config} --out {new} --set log.user=userid",
        "which lack `userid`. Did you mean `user_id`?",
    ),
    "unknown behaviour": (
        "fit {config} --out {new} --set funnel=[view,cart]",
        "be a behaviour of the funnel (view, cart); name others in `ignore` to skip them. Received: 'buy'.",
    ),
    "behaviour without events": (
        "fit {config} --out {new} --set funnel=[view,cart,buy,review]",
        "Received: no event of review.",
    ),
    "time split without times": (
        "fit {config} --out {new} --set log.timestamp=null",
        "`split.kind: time` should come with a timestamp column.",
    ),
    "another configuration": (
        "fit {config} --out {work}/run --set model.embedding_dim=16",
        "Received changes: model.embedding_dim: 8 -> 16",
    ),
    "no run to evaluate": ("evaluate {work}/log", "{work}/log should be the directory of a run."),
    "no run to export": ("export {new} --out {new}", "{new} should be the directory of a run."),
    "unfinished run": ("evaluate {unfinished}", "should have a finished stage. Received: none"),
    "lost checkpoint": ("evaluate {lost}", "should be a checkpoint of this run. Received:"),
    "a folder for the JSON file": ("evaluate {work}/run --json={work}/log", "log.tmp: Is a directory"),
    "export of no results": (
        "export {work}/run --out {new} --index exact -k 0",
        "`k` should be a positive integer. Received: k=0",
    ),
    "unknown index": ("export {work}/run --out {new} --index tree", "invalid choice: 'tree'"),
    "nothing exported": ("query {work}/run --user u1", "`directory` should hold exported versions"),
    "too many results": (
        "query {work}/export --user u1 -k 21",
        "`k` should be at most 20, the results that this export returns for a query. Received: k=21",
    ),
    "weights of another form": (
        "query {work}/export --user u1 --weights view:1",
        "`--weights` should look like view=1,buy=3, each name once. Received: 'view:1' in 'view:1'",
    ),
    "weights that name an objective twice": (
        "query {work}/export --user u1 --weights view=1,view=2",
        "`--weights` should look like view=1,buy=3, each name once. Received: 'view=2' in",
    ),
    "weights of nothing": ("query {work}/export --user u1 --weights=", "Received: '' in ''"),
    "no configuration": ("fit {new}.yaml --out {new}", "{new}.yaml: No such file or directory"),
    "weights of an unknown objective": (
        "query {work}/export --user u1 --weights view=1,like=2",
        "should name objectives of ['view', 'cart', 'buy']. Unknown: ['like'].",
    ),
    "negative weights": ("query {work}/export --user u1 --weights view=-1", "`weights` should be"),
    "weights that are all zero": ("query {work}/export --user u1 --weights view=0", "`weights` should"),
    "no user": ("query {work}/export", "A query should have a `user` or a `history`. Received: neither"),
    "no users to simulate": (
        "simulate --users 0 --items 9 --out {new}",
        "`users` should be an integer >= 1. Received: users=0.",
    ),
    "users that are no number": ("simulate --users few --items 9 --out {new}", "invalid int value: 'few'"),
    "no such demo log": ("demo --out {new} --data {work}/none.csv", "There is no file {work}/none.csv"),
    "no command": ("", "the following arguments are required: COMMAND"),
    "unknown command": ("train", "invalid choice: 'train'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_told_without_a_traceback(case, work, tmp_path):
    folder, _ = work
    config = folder / "small.yaml"
    config.write_text(yaml.safe_dump(LEAST | {"model": {"embedding_dim": 8}, "training": {"epochs": 1}}))
    places = {"work": folder, "new": tmp_path / "new", "config": config}
    for name in ("unfinished", "lost"):
        if f"{{{name}}}" in BAD[case][0]:
            places[name] = tmp_path / name
            shutil.copytree(folder / "run", places[name])
            gone = {"unfinished": "state.json", "lost": "checkpoints"}[name]
            path = places[name] / gone
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    command, message = (text.format(**places) for text in BAD[case])
    if case == "another configuration":
        command += " --set training.recover_epochs=1"
    code, out, err = csmf(*command.split())
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    # What was measured is told, even if its file cannot be written.
    assert ("recall@50" in out) if case == "a folder for the JSON file" else not out
    assert len(err.splitlines()) == 1 or err.startswith("usage: ")


@pytest.mark.parametrize("arguments", [["evaluate", "none", "--debug"], ["--debug", "evaluate", "none"]])
def test_debug_shows_the_traceback(arguments):
    with pytest.raises(FileNotFoundError):
        main(arguments)


def test_what_nobody_expects_is_a_line_with_an_exit_code_of_its_own(work, tmp_path):
    folder, _ = work
    shutil.copytree(folder / "export", tmp_path / "export")
    with open(tmp_path / "export" / "1" / "saved_model.pb", "r+b") as file:
        file.truncate(2000)
    code, out, err = csmf("query", tmp_path / "export", "--user", "u17")
    assert (code, out) == (70, "")
    assert re.fullmatch(r"csmf-tf: error: \w+: .*--debug shows where\n", err)


@pytest.mark.parametrize(("name", "told"), [("fit", "; the same command goes on"), ("evaluate", "")])
def test_ctrl_c_ends_a_command_without_a_traceback(work, monkeypatch, name, told):
    folder, _ = work

    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "Run", interrupted)
    command = {
        "fit": ["fit", folder / "config.yaml", "--out", folder / "new"],
        "evaluate": ["evaluate", folder],
    }
    assert csmf(*command[name]) == (130, "", f"\ncsmf-tf: interrupted{told}\n")


def test_json_of_training_and_of_files(work, tmp_path):
    folder, _ = work
    code, out, err = csmf("fit", folder / "config.yaml", "--out", folder / "run", *SMALL, "--json")
    assert (code, err) == (0, "")
    trained = json.loads(out)
    assert (trained["path"], trained["objectives"]) == (str(folder / "run"), FUNNEL)
    assert sum(trained["capacity"]["embedding"].values()) == pytest.approx(1)
    assert list(trained["capacity"]["embedding"]) == ["free", *FUNNEL]
    assert trained["log"] == json.loads((folder / "run" / "state.json").read_text())["log"]
    code, out, _ = csmf("simulate", "--json", "--users", 20, "--items", 30, "--out", tmp_path / "log")
    assert code == 0
    made = json.loads(out)
    assert {file.name for file in (tmp_path / "log").iterdir()} == {*made["files"]}
    assert made["events"] > 20


def test_json_takes_no_other_argument_for_its_file(work, tmp_path, monkeypatch):
    folder, _ = work
    monkeypatch.chdir(tmp_path)
    log = folder / "log" / "events.csv.gz"
    before = log.read_bytes()
    for option in ("--json", "--js"):
        code, out, _ = csmf("check", option, log)
        assert code == 0
        found = json.loads(out)
        assert "findings" in found
    assert log.read_bytes() == before
    code, out, _ = csmf("check", log, "--json=report.txt")
    assert (code, json.loads((tmp_path / "report.txt").read_text())) == (0, found)
    assert out.startswith("[ok]")


def test_json_has_null_where_a_number_is_none(capsys):
    from csmf_tf.cli.output import Answer, show

    show(Answer({"p": [float("nan"), 0.5], "most": {"a": float("inf")}}, ""), "-")
    assert json.loads(capsys.readouterr().out) == {"p": [None, 0.5], "most": {"a": None}}


def test_fit_shows_one_bar_with_the_time_left_on_a_terminal(work, tmp_path):
    folder, _ = work
    only_views = ["--set", "funnel=[view]", "--set", "log.ignore=[cart,buy]"]
    command = ["fit", folder / "config.yaml", "--out", tmp_path / "run", *SMALL, *only_views]
    code, out, err = csmf(*command, stream=Terminal)
    assert code == 0
    bars = [line.strip() for line in re.split(r"[\r\n]+", err) if line.strip()]
    assert bars
    assert all(re.search(r"\d+% \|.*\| \d+:\d+, about .* left$", line) for line in bars)
    # A stage of one epoch keeps all: nothing is left to recover, and the bar ends early.
    assert bars[-1].startswith("view (1 of 1), freeze 100%")
    (line,) = (line for line in out.splitlines() if ", epoch " in line)
    assert line.startswith("view (1 of 1), fit, epoch 1 of 1: loss")
    assert "val_recall@50" in line
    # Keras's own lines do not come between.
    assert "ms/step" not in out


@pytest.mark.parametrize(
    ("stream", "options", "seen"),
    [
        (Terminal, [], True),
        (Terminal, ["--json"], True),
        (Terminal, ["--quiet"], False),
        (io.StringIO, [], False),
    ],
)
def test_bars_are_for_terminals(stream, options, seen, monkeypatch, tmp_path):
    def counted(users, items, seed):
        print("a line about what is going on")
        return simulate(users, len([*progress.bar(range(items), "counting items", delay=0)]), seed=seed)

    monkeypatch.setattr(simulator, "simulate", counted)
    code, out, err = csmf("simulate", "--users", 9, "--items", 9, "--out", tmp_path, *options, stream=stream)
    assert code == 0
    assert ("counting items   0% |" in err) == seen
    if "--json" in options:
        assert "a line" in err
        assert json.loads(out)["events"]
    else:
        assert out.startswith("a line")


@pytest.mark.parametrize(
    ("before", "command", "code"),
    [
        ("simulator.simulate = lambda *a, **k: print('reading', flush=True)", ["simulate"], 141),
        ("", ["check", "log.csv", "--strict", "--at", "0.5"], 1),
    ],
)
def test_reader_that_has_gone(before, command, code, tmp_path):
    """What was done keeps its exit code, and what was not has another than 0."""
    rows = ["user_id,item_id,behavior,timestamp", *(f"u{n},i1,view,{n}" for n in range(8))]
    (tmp_path / "log.csv").write_text("\n".join(rows))
    options = ["--users", "9", "--items", "9", "--out", "log"] if command == ["simulate"] else []
    call = f"from csmf_tf.cli import main\nfrom csmf_tf.data import simulator\n{before}\n"
    call += f"import sys\nsys.exit(main({[*command, *options]}))"
    reader, writer = os.pipe()
    os.close(reader)
    try:
        environment = os.environ | {"PYTHONPATH": str(snippets.ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", call],
            cwd=tmp_path,
            env=environment,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        os.close(writer)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


def test_error_of_an_operation_is_its_last_line():
    def said(message):
        return error_text(tf.errors.InvalidArgumentError(None, None, message))

    assert said("Detected at node x\nbad weights\n\t [[{{node y}}]]") == "bad weights"
    assert "node y" in said("\n\t [[{{node y}}]]")


def test_sets_of_the_command_are_those_of_the_package():
    assert set(cli_data.SETS) == set(SETS)


def test_a_folder_without_a_run_is_told_before_tensorflow_is_loaded(tmp_path):
    further = {"evaluate": [], "negatives": [], "export": ["--out", "y"], "extend": ["--behavior", "b"]}
    calls = [[name, "x", *arguments] for name, arguments in further.items()]
    code = f"import sys; from csmf_tf.cli import main; codes = [main(call) for call in {calls}]\n"
    code += "print(codes, 'tensorflow' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(pathlib.Path(__file__).parents[1])}
    given = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": True}
    result = subprocess.run([sys.executable, "-c", code], **given)
    assert result.stdout == "[2, 2, 2, 2] False\n"
    assert result.stderr.count("x should be the directory of a run. Received: no such folder") == 4


def commands():
    return next(iter(make_parser()._subparsers._group_actions)).choices


@pytest.mark.parametrize("name", commands())
def test_help_shows_examples_that_parse(name):
    code, out, _ = csmf(name, "--help")
    assert code == 0
    examples = [line for line in out.partition("examples:")[2].splitlines() if line]
    assert 1 <= len(examples) <= 3
    for example in examples:
        program, *arguments = shlex.split(example.partition(" > ")[0], comments=True)
        assert (program, arguments[0]) == ("csmf-tf", name)
        assert make_parser().parse_args(arguments).run
    assert f"    {name} " in csmf("--help")[1].replace("\n", " \n")


def test_document_names_every_command():
    named = {arguments[0] for arguments in snippets.commands("docs/cli.md")}
    text = (snippets.ROOT / "docs/cli.md").read_text()
    assert [name for name in commands() if f"| `{name}` |" not in text] == []
    assert named >= {*commands()} - {"doctor", "demo", "import", "completion"}


COMPLETE = """
source "$1"
COMP_WORDS=(csmf-tf "${@:2}"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_csmf_tf "" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["ev"], {"evaluate"}),
        (["export", "run", "--index", ""], {"exact", "portable", "scann"}),
        (["export", "run", "--ind"], {"--index"}),
        (["import", "ta"], {"taobao"}),
        (["fit", "con"], {"config.yaml"}),
        (["evaluate", "r"], {"run"}),
    ],
)
def test_bash_completes(words, found, work, tmp_path):
    folder, _ = work
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("needs bash")
    code, script, _ = csmf("completion", "bash")
    assert code == 0
    (tmp_path / "script").write_text(script)
    call = [bash, "-c", COMPLETE, "bash", str(tmp_path / "script"), *words]
    done = subprocess.run(call, cwd=folder, capture_output=True, text=True, check=True)
    assert {line.strip() for line in done.stdout.split()} == found


def test_zsh_script_is_sound(tmp_path):
    code, script, _ = csmf("completion", "zsh")
    assert code == 0
    assert script.startswith("#compdef csmf-tf")
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("needs zsh")
    (tmp_path / "_csmf-tf").write_text(script)
    subprocess.run([zsh, "-n", tmp_path / "_csmf-tf"], check=True)


def test_version_is_that_of_the_package():
    import csmf_tf

    assert csmf("--version")[:2] == (0, f"csmf-tf {csmf_tf.__version__}\n")
