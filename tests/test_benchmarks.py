"""The benchmarks run and end in one line of JSON."""

import ast
import json
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
SCRIPTS = [path.stem for path in sorted(BENCHMARKS.glob("*.py"))]


@pytest.fixture
def run(monkeypatch, capsys):
    """Function of a benchmark and its arguments that gives the lines of its table, and its JSON.

    It runs in this process, as a script would in one of its own but for the seconds to import TensorFlow.
    """
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def ran(name, *arguments):
        path = BENCHMARKS / f"{name}.py"
        monkeypatch.setattr(sys, "argv", [str(path), *arguments])
        monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
        runpy.run_path(str(path), run_name="__main__")
        *table, last = capsys.readouterr().out.splitlines()
        return table, json.loads(last)

    yield ran
    # One imports another by its bare name.
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", SCRIPTS)
def test_csmf_tf_picks_keras_before_anything_imports_tensorflow(name):
    imports = []
    for statement in ast.parse((BENCHMARKS / f"{name}.py").read_text()).body:
        if isinstance(statement, ast.Import):
            imports += [alias.name.split(".")[0] for alias in statement.names]
        if isinstance(statement, ast.ImportFrom):
            imports.append(statement.module.split(".")[0])
    those = {"tensorflow", "tf_keras", "keras", "tensorflow_recommenders", "scann", "benchmarks", *SCRIPTS}
    assert next(module for module in imports if module in {"csmf_tf", *those}) in ("csmf_tf", *SCRIPTS)


def test_cold_items_prints_a_table_and_what_it_measured(run, tmp_path):
    table, report = run("cold_items", "--quick", "--shares", "0.5", "--out", str(tmp_path / "cold"))
    rows = [["simulated", "0.5", name] for name in ("view", "cart", "buy")]
    assert [row.split()[:3] for row in table[1:]] == rows
    cell = report["simulated"]["0.5"]["view"]["new among all"]
    assert 0 <= cell["interval"][0] <= cell["mean"] <= cell["interval"][1] <= 1
    assert cell["users"] > 100


def test_train_step_prints_a_table_and_its_ratios(run):
    table, report = run("train_step", "--quick", "--seed", "3")
    assert set(report) == {"ratio_to_tfrs", "ratio_1e6_to_1e4_items", "ratios", "setting"}
    assert report["ratio_to_tfrs"] > 0
    assert report["ratio_1e6_to_1e4_items"] > 0
    assert [row[: len(label)] for row, label in zip(table[1:], report["ratios"], strict=True)] == [
        *report["ratios"]
    ]
    known = {"seed", "repeats", "steps", "items", "users", "batch", "cores", "tensorflow", "csmf_tf"}
    assert known <= set(report["setting"])
    assert report["setting"]["seed"] == 3


def test_negatives_prints_a_table_and_its_ratios(run):
    table, report = run("negatives", "--quick", "--seed", "3")
    assert len(table) == 7
    assert all(report[name] > 0 for name in ("edis_to_real", "edis_of_msac_to_real", "msac_to_uniform"))
    assert report["setting"]["seed"] == 3


def test_heterrec_prints_a_table_and_its_ratios(run):
    table, report = run("heterrec", "--quick", "--seed", "3")
    assert len(table) == 2
    assert all(report["ratio_to_sasrec"][name] > 0 for name in ("sasrec", "sasrec_all_blocks"))
    assert report["setting"]["seed"] == 3


def test_evaluate_measures_the_same_as_its_peer_and_says_how_fast(run):
    table, report = run("evaluate", "--quick", "--seed", "3")
    assert any(line.startswith("FactorizedTopK, catalogue by 128") for line in table)
    assert report["speedup_over_factorized_topk"] == report["speedup_by_catalogue_batch"]["128"] > 0
    assert 0 <= report["working_memory_mb"] < report["peak_memory_mb"]
    assert report["setting"]["seed"] == 3


TAOBAO = ROOT.parent / "shared" / "data" / "taobao"


@pytest.mark.skipif(not TAOBAO.exists(), reason=f"the taobao log is not part of the project: no {TAOBAO}")
def test_taobao_leak_counts_what_leaks(run):
    _, report = run("taobao_leak", "--folder", str(TAOBAO))
    assert report["leaking"]["buy"]["in view"] == 12_650
    rule = report["rules"]["counting"]
    assert rule["new"]["hit_rate@10"] == 0 < rule["all"]["hit_rate@10"] < rule["met"]["hit_rate@10"]
    assert rule["met"]["users"] + rule["new"]["users"] == rule["all"]["users"] == 15_449


def test_retrieve_measures_all_indices_and_their_bars(run, tmp_path):
    figure = tmp_path / "frontier.png"
    table, report = run("retrieve", "--quick", "--seed", "3", "--figure", str(figure))
    for kind in ("exact", "portable", "scann", "raw scann"):
        assert any(line.startswith(kind) for line in table)
    # So few items are scanned whole.
    assert report["portable_recall"] == 1
    for ratio in ("scann_export_over_raw", "weighted_over_unweighted", "portable_speedup_over_exact"):
        assert report[ratio] > 0
    assert report["k_searches_over_fused"] > 1
    # More effort finds more, up to everything.
    for curve in report["by_items"]["3000"]["frontier"].values():
        recalls = [point["recall"] for point in curve]
        assert recalls[-1] > recalls[0]
        assert recalls[-1] > 0.9
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_refresh_measures_every_index_beside_a_full_export(run):
    table, report = run("refresh", "--quick", "--seed", "3")
    kinds = ["exact", "portable", "scann"]
    assert [line.split()[0] for line in table[-3:]] == kinds
    for ratio in ("refresh_over_export_speedup", "refresh_over_export_call_speedup"):
        assert list(report[ratio]) == kinds
        assert min(report[ratio].values()) > 0
    # So few items are scanned whole.
    assert all(found["recall_refresh"] == 1 for found in report["results"].values())
    assert report["setting"]["seed"] == 3
