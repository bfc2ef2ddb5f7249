"""The benchmarks run and end in one line of JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_train_step_prints_a_table_and_its_ratios():
    result = subprocess.run(
        [sys.executable, "benchmarks/train_step.py", "--quick", "--seed", "3"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    *table, last = result.stdout.splitlines()
    report = json.loads(last)
    assert set(report) == {"ratio_to_tfrs", "ratio_1e6_to_1e4_items", "ratios", "setting"}
    assert report["ratio_to_tfrs"] > 0
    assert report["ratio_1e6_to_1e4_items"] > 0
    assert [row[: len(label)] for row, label in zip(table[1:], report["ratios"], strict=True)] == [
        *report["ratios"]
    ]
    known = {"seed", "repeats", "steps", "items", "users", "batch", "cores", "tensorflow", "csmf_tf"}
    assert known <= set(report["setting"])
    assert report["setting"]["seed"] == 3
