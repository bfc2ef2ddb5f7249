"""Versions of an export: each appears whole or not at all, under a number of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from csmf_tf.serving import versions
from csmf_tf.serving.versions import latest_version, publish


def test_killed_process_leaves_nothing_visible(tmp_path):
    code = (
        "import os, runpy, signal\n"
        f"publish = runpy.run_path({versions.__file__!r})['publish']\n"
        "def die(draft):\n"
        "    open(os.path.join(draft, 'saved_model.pb'), 'w').close()\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        f"publish({str(tmp_path)!r}, die)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert [name[:5] for name in os.listdir(tmp_path)] == [".tmp-"]
    with pytest.raises(FileNotFoundError, match="`directory` should hold exported versions"):
        latest_version(tmp_path)
    assert publish(tmp_path, lambda draft: None) == str(tmp_path / "1")


def test_version_taken_meanwhile_is_left_alone(tmp_path):
    def write_both(draft):
        Path(draft, "mine").touch()
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "theirs").touch()

    assert publish(tmp_path, write_both) == str(tmp_path / "2")
    assert os.listdir(tmp_path / "1") == ["theirs"]
    assert os.listdir(tmp_path / "2") == ["mine"]


def test_given_version_is_taken_or_an_error(tmp_path):
    assert publish(tmp_path, lambda draft: None, version=4) == str(tmp_path / "4")
    for version in (3, 4):
        with pytest.raises(FileExistsError, match=f"Received: version={version}, where 4 is there by now"):
            publish(tmp_path, lambda draft: None, version)

    def write_late(draft):
        (tmp_path / "5").mkdir()

    with pytest.raises(FileExistsError, match="Received: version=5, where 5 is there by now; run it again"):
        publish(tmp_path, write_late, version=5)
    assert sorted(os.listdir(tmp_path)) == ["4", "5"]


def test_other_names_are_no_versions(tmp_path):
    for name in ("007x", "latest", "²"):
        (tmp_path / name).mkdir()
    (tmp_path / "9").touch()
    with pytest.raises(FileNotFoundError):
        latest_version(tmp_path)
    assert publish(tmp_path, lambda draft: None) == str(tmp_path / "10")
    assert latest_version(tmp_path) == 10


def test_version_is_readable_as_any_new_folder(tmp_path):
    (tmp_path / "other").mkdir()
    mode = os.stat(publish(tmp_path, lambda draft: None)).st_mode
    assert mode == os.stat(tmp_path / "other").st_mode


def test_a_version_in_place_of_its_folder_is_named(tmp_path):
    publish(tmp_path, lambda draft: Path(draft, "saved_model.pb").touch())
    with pytest.raises(FileNotFoundError, match="which is one; give the folder that it is in"):
        latest_version(tmp_path / "1")
