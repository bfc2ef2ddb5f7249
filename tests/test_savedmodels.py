"""The shipped exports: each answers as its example says, without csmf_tf, and is what its card says."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tensorflow.core.protobuf import saved_model_pb2

from csmf_tf._keras import tf

SHIPPED = Path(__file__).parents[1] / "savedmodels"
INDEXES = ["portable", "scann"]
SIGNATURES = [
    "embed_item",
    "embed_user",
    "retrieve",
    "retrieve_among",
    "retrieve_excluding",
    "score",
    "serving_default",
]

# Plain TensorFlow, in which the portable export has answered before ScaNN's operations are there.
FRESH = r"""
import json
import os
import re
import sys

sys.modules["csmf_tf"] = None
import tensorflow as tf

shipped, answers = sys.argv[1], {}
for index in ("portable", "scann"):
    assert "scann" not in sys.modules
    if index == "scann":
        import scann
    served = tf.saved_model.load(f"{shipped}/{index}/1").signatures
    answers[index] = []
    for example in json.load(open(f"{shipped}/{index}/example.json", encoding="utf-8")):
        request = example["request"]
        signature = served[request["signature_name"]]
        specs = signature.structured_input_signature[1]
        inputs = {key: tf.constant(value, specs[key].dtype) for key, value in request["inputs"].items()}
        outputs = {key: value.numpy().tolist() for key, value in signature(**inputs).items()}
        outputs["ids"] = [[item.decode() for item in row] for row in outputs.get("ids", [])]
        answers[index].append(outputs)
os.chdir(f"{shipped}/..")
for page in ("README.md", "portable/README.md", "scann/README.md"):
    with open(f"{shipped}/{page}", encoding="utf-8") as file:
        (code,) = re.findall(r"^```python\n(.*?)^```$", file.read(), re.DOTALL | re.MULTILINE)
    exec(code, {})
print(json.dumps(answers))
"""


def examples(index):
    return json.loads((SHIPPED / index / "example.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def answers():
    """What both exports answer to their examples' requests, asked in a process without csmf_tf."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", FRESH, str(SHIPPED)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("index", INDEXES)
def test_answers_are_those_of_the_examples(index, answers):
    expected = examples(index)
    assert sorted(one["request"]["signature_name"] for one in expected) == SIGNATURES
    for example, outputs in zip(expected, answers[index], strict=True):
        assert outputs.pop("ids") == example["outputs"].pop("ids", [])
        assert outputs.keys() == example["outputs"].keys()
        for name, values in example["outputs"].items():
            np.testing.assert_allclose(outputs[name], values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("index", INDEXES)
def test_weights_change_the_ranking(index):
    (example,) = (one for one in examples(index) if one["request"]["signature_name"] == "retrieve")
    view, buy = example["outputs"]["ids"]
    assert len(set(view)) == len(set(buy)) == 50
    assert view[:10] != buy[:10]


def test_both_exports_hold_one_model():
    """The vectors are those of one run; only what an index misses differs."""
    portable, scann = (
        {one["request"]["signature_name"]: one for one in examples(index)} for index in INDEXES
    )
    assert portable["embed_user"] == scann["embed_user"]
    found = [one["retrieve"]["outputs"]["ids"] for one in (portable, scann)]
    for one, other in zip(*found, strict=True):
        assert len(set(one) & set(other)) >= 45


def test_only_the_scann_export_holds_operations_of_scann():
    holds = {index: b"Scann>" in (SHIPPED / index / "1" / "saved_model.pb").read_bytes() for index in INDEXES}
    assert holds == {"portable": False, "scann": True}


@pytest.mark.parametrize("index", INDEXES)
def test_card_lists_the_files_as_they_are(index):
    folder = SHIPPED / index
    card = (folder / "README.md").read_text(encoding="utf-8")
    rows = [
        f"| {path.relative_to(folder).as_posix()} | {path.stat().st_size:,} | "
        f"`{hashlib.sha256(path.read_bytes()).hexdigest()}` |"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "README.md"
    ]
    assert card.split("## Files\n")[1].strip().splitlines()[2:] == rows


@pytest.mark.parametrize("index", INDEXES)
def test_card_says_what_the_export_is(index):
    folder = SHIPPED / index
    text = (folder / "README.md").read_text(encoding="utf-8")
    saved = saved_model_pb2.SavedModel.FromString((folder / "1" / "saved_model.pb").read_bytes())
    card = json.loads((folder / "1" / "assets.extra" / "csmf.json").read_text())
    assert f"| tensorflow | {saved.meta_graphs[0].meta_info_def.tensorflow_version} |" in text
    assert f"`{index}` with " + ", ".join(f"{key} {value}" for key, value in card["settings"].items()) in text
    assert " | ".join(f"{value:.4f}" for value in card["recall"].values()) in text
    (example,) = (one for one in examples(index) if one["request"]["signature_name"] == "retrieve")
    for ids in example["outputs"]["ids"]:
        assert f"| {', '.join(ids[:5])} |" in text
    assert "license: apache-2.0" in text


def test_rebuild_makes_what_is_shipped(tmp_path, monkeypatch):
    """The command that rebuilds them, on little data: the same files, and cards of the same sections."""
    spec = importlib.util.spec_from_file_location("build", SHIPPED / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    small = {"epochs": 1, "recover_epochs": 0, "seed": 0}
    monkeypatch.setattr(build, "SIMULATED", {"users": 150, "items": 120, "seed": 0})
    monkeypatch.setattr(build, "CONFIG", build.CONFIG | {"model": {"embedding_dim": 8}, "training": small})
    settings = {"scann": {"leaves": 4, "leaves_to_search": 4}, "portable": {"cells": 4, "candidates": 120}}
    monkeypatch.setattr(build, "SETTINGS", settings)
    monkeypatch.setattr(build, "LEAST_GAP", 0.0)
    monkeypatch.setattr(sys, "argv", ["build.py", "--out", str(tmp_path)])
    # It would hold for all later tests of the process.
    monkeypatch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
    build.main()
    for index in INDEXES:
        cards = [(folder / index / "README.md").read_text() for folder in (SHIPPED, tmp_path)]
        sections = [re.findall("^## .*", card, flags=re.MULTILINE) for card in cards]
        assert sections[0] == sections[1]
        files = [re.findall(r"^\| (\S+) \| [\d,]+ \| `", card, flags=re.MULTILINE) for card in cards]
        assert files[0] == files[1]
        assert "simulate(users=150, items=120, seed=0)" in cards[1]
        asked = json.loads((tmp_path / index / "example.json").read_text())
        assert sorted(one["request"]["signature_name"] for one in asked) == SIGNATURES


def test_both_together_take_ten_megabytes_at_most():
    sizes = [path.stat().st_size for path in SHIPPED.rglob("*") if path.is_file()]
    assert 1_000_000 < sum(sizes) <= 10_000_000
