"""docs/config.md holds every key as the code has it."""

import re
from dataclasses import dataclass

import pytest
import yaml
from snippets import ROOT

from csmf_tf import config_reference
from csmf_tf._schema import describe
from csmf_tf.config import Config, from_dict, to_dict

DOCUMENT = ROOT / "docs" / "config.md"
LEAST = {
    "log": {"path": "e", "user": "u", "item": "i", "behavior": "b", "timestamp": "t"},
    "funnel": ["view"],
}


def leaves(tree, name=""):
    """Full name -> value of all that is no section; what users name themselves is a value."""
    for key, value in tree.items():
        known = f"{name}{key}"
        if isinstance(value, dict) and known not in ("modalities", "features.user", "features.item"):
            yield from leaves(value, f"{known}.")
        else:
            yield known, value


def rows():
    cells = (line.split(" | ") for line in DOCUMENT.read_text().splitlines() if line.startswith("| `"))
    return {row[0].strip("| `"): [cell.strip("` |") for cell in row[1:]] for row in cells}


def test_the_file_is_what_the_command_writes():
    text = DOCUMENT.read_text()
    assert config_reference.rewrite(text) == text, "run: python -m csmf_tf.config_reference docs/config.md"


def test_every_key_is_there_once_with_its_default():
    defaults = dict(leaves(to_dict(from_dict(LEAST))))
    # The split of kind time has no fraction.
    defaults["split.fraction"] = 0.1
    table = rows()
    assert table.keys() == defaults.keys()
    for name, (_, default, _) in table.items():
        if default != "required":
            given = defaults[name] if name != "log.timestamp" else None
            assert yaml.safe_load(default) == given, name
    required = {name for name, row in table.items() if row[1] == "required"}
    assert required == {"log.path", "log.user", "log.item", "log.behavior", "funnel"}


def test_every_key_is_described_in_a_sentence():
    texts = [key.text for section in describe(Config) for key in section.keys]
    assert len(texts) > 70
    assert [text for text in texts if not re.fullmatch(r"[A-Z`0-9].{8,}\.", text)] == []


def test_a_key_without_a_text_is_an_error():
    @dataclass
    class Oven:
        degrees: int = 180
        """How hot it is."""
        minutes: int = 10

    with pytest.raises(ValueError, match=re.escape("`Oven.minutes` should have a string below it")):
        list(describe(Oven))


def test_the_command_prints_and_rewrites(tmp_path, capsys):
    config_reference.main([])
    printed = capsys.readouterr().out
    assert "| `split.at` | a number in (0, 1) | `0.9` |" in printed
    path = tmp_path / "config.md"
    path.write_text(DOCUMENT.read_text().replace("| `0.9` |", "| `0.8` |").replace("# The conf", "# A conf"))
    config_reference.main([str(path)])
    assert path.read_text() == DOCUMENT.read_text().replace("# The conf", "# A conf")
    assert [file.name for file in tmp_path.iterdir()] == ["config.md"]


def test_a_file_without_markers_is_left_alone(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text("mine")
    with pytest.raises(ValueError, match="The file should hold a line '<!-- keys"):
        config_reference.main([str(path)])
    assert path.read_text() == "mine"
