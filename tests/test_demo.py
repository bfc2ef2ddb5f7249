"""The demo, on logs of a size that a test can afford."""

import csv

import pytest

from csmf_tf import demo
from csmf_tf._keras import tf
from csmf_tf.config import from_dict
from csmf_tf.data.simulator import simulate


@pytest.fixture(scope="module", autouse=True)
def small():
    """The demo's own settings, but for sizes and epochs."""
    few = {"training": {"epochs": 2, "recover_epochs": 1}, "model": {"embedding_dim": 8}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "USERS", 100)
        patch.setattr(demo, "ITEMS", 70)
        patch.setattr(demo, "from_dict", lambda raw: from_dict(raw | few))
        # It would hold for all later tests of the process.
        patch.setattr(tf.config.experimental, "enable_op_determinism", lambda: None)
        yield


def table(printed):
    """The cells of the table of stages, by row."""
    lines = printed.partition("after each stage")[2].splitlines()[1:]
    rows = {}
    for line in lines[1 : lines.index("upstream rows did not move: ok")]:
        label, cells = line[:14].strip(), line[14:]
        rows[label] = [cells[at : at + 16].strip() for at in range(0, len(cells), 16)]
    return lines[0].split(), rows


def check_results(folder, printed):
    report = folder / "run" / "report"
    for figure in ("tradeoff.png", "capacity.png", "learning.png"):
        assert (report / figure).read_bytes().startswith(b"\x89PNG")
    assert f"report: {report}/index.html" in printed
    assert "Re-engagement" in (report / "index.html").read_text()
    assert "all objectives ranked under equal weights" in printed
    assert "capacity: share of each layer per owner" in printed
    queries = [line for line in printed.splitlines() if line.startswith("user ")]
    assert [line.split("weights ")[1].split(":")[0] for line in queries] == [
        "view 1",
        "view 1, cart 1, buy 1",
        "buy 1",
    ]
    assert all(len(line.split(": ")[1].split()) == 8 for line in queries)
    assert len({line.split(":")[1] for line in queries}) > 1


def test_demo_simulates_trains_exports_queries_and_plots(tmp_path, capsys):
    demo.demo(tmp_path)
    printed = capsys.readouterr().out
    names, rows = table(printed)
    assert names == ["view", "cart", "buy"]
    assert list(rows) == ["after view", "after cart", "after buy", "popularity", "best possible"]
    assert rows["after view"][1:] == ["-", "-"]
    assert rows["after buy"][:2] == rows["after cart"][:2]
    assert rows["after view"][0] == rows["after buy"][0]
    assert all(cell.count(" / ") == 1 for label in rows if label != "after view" for cell in rows[label][:2])
    check_results(tmp_path, printed)
    # A second call finds everything done and shows the same.
    demo.demo(tmp_path)
    again = capsys.readouterr().out
    assert "Epoch" not in again
    assert table(again) == (names, rows)
    assert {path.name for path in (tmp_path / "export").iterdir() if path.is_dir()} == {"1", "2"}


def test_demo_takes_a_log_without_times(tmp_path, capsys):
    log = simulate(100, 70, seed=7, events_per_user=25).log
    with open(tmp_path / "mine.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["behavior", "item_id", "user_id"])
        for user, item, behavior in zip(log.user, log.item, log.behavior, strict=True):
            rows.writerow([log.funnel[behavior], log.items[item], log.users[user]])
    demo.demo(tmp_path / "out", str(tmp_path / "mine.csv"))
    printed = capsys.readouterr().out
    assert list(table(printed)[1]) == ["after view", "after cart", "after buy", "popularity"]
    check_results(tmp_path / "out", printed)
    assert not (tmp_path / "out" / "log").exists()


def test_demo_fails_when_an_earlier_objective_moved():
    metrics = {"view": {"recall@50": 0.5}}
    log = [
        {"phase": "freeze", "objective": n, "measured": m} for n, m in (("view", metrics), ("buy", metrics))
    ]
    demo._assert_nothing_moved(log)
    log[1] = log[1] | {"measured": {"view": {"recall@50": 0.4}}}
    with pytest.raises(AssertionError, match=r"should not move an earlier one. Moved: \['view'\]"):
        demo._assert_nothing_moved(log)
