"""`csmf-tf check`: where its settings come from, what it writes, its exit codes, what bad input gets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import public_cases
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from csmf_tf.cli import main

START = 1_430_000_000
ROWS = [
    # User, item, behaviour, seconds: each buys the item that was viewed first, and views two more.
    *((f"u{n}", "i0", "view", START + n) for n in range(5)),
    *((f"u{n}", "i1", "view", START + 10 + n) for n in range(5)),
    *((f"u{n}", "i0", "buy", START + 20 + n) for n in range(5)),
    *((f"u{n}", "i2", "view", START + 30 + n) for n in range(5)),
]
COLUMNS = ["user_id", "item_id", "behavior", "timestamp"]


def write(path, rows, columns):
    path.write_text("\n".join(",".join(map(str, row)) for row in [columns, *rows]) + "\n")
    return path


def unwrapped(text):
    return " ".join(text.split())


@pytest.fixture
def log(tmp_path):
    return write(tmp_path / "log.csv", ROWS, COLUMNS)


@pytest.fixture
def untimed(tmp_path):
    return write(tmp_path / "untimed.csv", [row[:3] for row in ROWS], COLUMNS[:3])


@pytest.fixture
def held(tmp_path):
    """A published split of purchases that were viewed in training."""
    rows = [("u0", "i0", "test"), ("u1", "i0", "test"), ("u2", "i0", "valid")]
    return write(tmp_path / "held.csv", rows, ["user_id", "item_id", "split"])


@pytest.fixture
def csmf(capsys):
    """Runs a command; gives exit code, standard output and standard error."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as leave:
            code = leave.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def findings(csmf):
    """Runs a check; gives the findings of its JSON."""

    def run(*arguments):
        code, out, err = csmf("check", *arguments, "--json", "-")
        assert code == 0, err
        return json.loads(out)["findings"]

    return run


def test_a_log_alone_is_enough(csmf, log):
    code, out, err = csmf("check", log)
    assert code == 0
    assert "the funnel is taken to be view, buy, from the most to the least frequent" in err
    assert "20 events of 5 users with 3 items" in out
    # The last tenth of the events is the test part.
    assert "2 test events come before" in out
    assert out.splitlines()[-1] == "0 problems, 0 notes, 12 ok"


def test_without_times_items_are_held_out(findings, untimed):
    found = findings(untimed)
    assert "future" not in found
    # One item of each user, with all events.
    assert found["targets"]["numbers"]["view"] == {
        "targets": 5,
        "in view": 0,
        "in buy": 0,
        "new": 5,
        "met": 0,
        "repeated": 0,
    }
    assert findings(untimed) == found
    assert findings(untimed, "--seed", 1) != found


def test_columns_funnel_and_behaviours_to_skip_are_options(csmf, tmp_path):
    rows = [(did, item, user) for user, item, did, _ in ROWS] + [("refund", "i0", "u0")]
    log = write(tmp_path / "other.csv", rows, ["did", "what", "who"])
    columns = ["--user", "who", "--item", "what", "--behavior", "did"]
    code, out, err = csmf("check", log, *columns, "--funnel", "buy, view", "--ignore", "refund")
    assert (code, err) == (0, "")
    # Against the current.
    assert "'view' has more pairs than 'buy', which comes before it: is the funnel in order?" in unwrapped(
        out
    )
    code, _, err = csmf("check", log, *columns)
    assert "the funnel is taken to be view, buy, refund," in err
    code, _, err = csmf("check", log, *columns, "--ignore", "refund")
    assert "the funnel is taken to be view, buy, from" in err


def test_the_kind_of_split_is_an_option(findings, log):
    assert findings(log, "--at", "0.5")["future"]["numbers"]["test events"] == 10
    assert findings(log, "--split", "leave_last")["future"]["numbers"]["test events"] == 5
    # Two of three items, thus all their events.
    found = findings(log, "--split", "item_holdout", "--fraction", "0.67")
    assert found["targets"]["numbers"]["view"]["targets"] == 10


@pytest.fixture
def described(tmp_path, log):
    """Writes a table of items and gives the configuration that reads it."""

    def make(*rows, **kinds):
        items = write(tmp_path / "items.csv", rows, ["item_id", *kinds])
        columns = dict(zip(("user", "item", "behavior", "timestamp"), COLUMNS, strict=True))
        raw = {"log": {"path": str(log), "items": str(items), **columns}, "funnel": ["view", "buy"]}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(raw | {"features": {"item": kinds}}))
        return path

    return make


KINDS = {"color": "categorical", "tags": "multi", "price": "numeric"}


def test_feature_tables_are_looked_at(csmf, findings, described):
    tagged = [("i0", "red", "a|b", 1), ("i1", "blue", "", ""), ("i2", "red", "b", 1.0), ("other", "", "", 5)]
    found = findings(described(*tagged, **KINDS))["features of items"]
    assert found["numbers"] == {
        "color": {"kind": "categorical", "items with a value": 1.0, "values": 2},
        "tags": {"kind": "multi", "items with a value": pytest.approx(2 / 3), "values": 2},
        "price": {"kind": "numeric", "items with a value": pytest.approx(2 / 3), "values": 1},
    }
    assert found["level"] == "note"
    assert found["sentence"].startswith("3 of 3 (100.0%) items have a row in ")
    assert found["sentence"].endswith(
        "items.csv. `price` with one value only, which tells none from another."
    )
    found = findings(described(("i0", "0|1"), ("i1", ""), ("i2", "0|1.0"), image="vector"))[
        "features of items"
    ]
    numbers = {"kind": "vector", "items with a value": pytest.approx(2 / 3), "values": 1}
    assert (found["numbers"]["image"], found["level"]) == (numbers, "ok")
    some = findings(described(("i0", "sale"), ("i1", ""), ("i2", ""), flag="categorical"))[
        "features of items"
    ]
    assert (some["level"], some["numbers"]["flag"]["values"]) == ("ok", 1)  # it tells i0 from the others
    found = findings(described(("i1", "red"), ("i2", "blue"), color="categorical"))["features of items"]
    assert "2 of 3 (66.7%) items have a row" in found["sentence"]
    assert "The others are known by their ids alone." in found["sentence"]
    assert found["level"] == "note"
    code, out, _ = csmf("check", described(*tagged[:3], **KINDS | {"price": "categorical"}), "--strict")
    assert (code, "[ok]      features of items" in out) == (0, True)


def test_a_feature_without_a_value_is_a_problem(csmf, described):
    config = described(("i0", "", "a"), ("i1", "", "b"), ("i2", "", ""), color="categorical", tags="multi")
    code, out, _ = csmf("check", config, "--strict")
    assert code == 1
    assert "`color` without any value: mend the column, or leave the feature out." in unwrapped(out)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("7", "red"), ("8", "blue")], "should hold ids of the log. Received: none of them"),
        ([("i0", "red"), ("i0", "blue")], "should hold each id once. Received: 'i0'"),
        (None, "items.csv. Give the path of a .csv, .csv.gz or .parquet file. 1 problem"),
    ],
)
def test_a_table_that_cannot_be_used_is_a_problem_beside_the_others(csmf, described, rows, message):
    config = described(*(rows or []), color="categorical")
    if rows is None:
        config.with_name("items.csv").unlink()
    code, out, _ = csmf("check", config, "--strict")
    assert code == 1
    assert message in unwrapped(out)
    assert "20 events of 5 users with 3 items" in out


@pytest.mark.parametrize(
    ("options", "split", "said"),
    [
        (["--at", "0.5"], {"kind": "time", "at": 0.5}, "time (at 0.5, cut 2015-04-25T22:13:40): 10 train"),
        (["--split", "leave_last"], {"kind": "leave_last"}, "leave_last: 15 training events, 5 test events."),
        (
            ["--split", "item_holdout", "--seed", "1"],
            {"kind": "item_holdout", "fraction": 0.1, "seed": 1},
            "item_holdout (fraction 0.1, seed 1): ",
        ),
    ],
)
def test_the_split_is_said_first(findings, log, options, split, said):
    found = findings(log, *options)
    assert next(iter(found)) == "split"
    assert found["split"]["numbers"].items() >= split.items()
    assert found["split"]["sentence"].startswith(said)


def test_a_split_that_leaves_no_training_is_a_problem(csmf, tmp_path):
    rows = [("u0", "i0", "view", START), ("u0", "i0", "buy", START), ("u1", "i1", "view", START)]
    log = write(tmp_path / "log.csv", rows, COLUMNS)
    code, out, _ = csmf("check", log, "--strict")
    assert code == 1
    assert "[problem] split: time (at 0.9" in out
    assert "0 training events, 3 test events. No event is left to train on" in unwrapped(out)


def test_users_who_come_after_the_cut_are_a_problem(csmf, tmp_path):
    """Each user is there for a moment, as in MovieLens."""
    rows = [(f"u{n}", f"i{(n + m) % 3}", "view", START + 10 * n + m) for n in range(10) for m in range(3)]
    log = write(tmp_path / "log.csv", rows, COLUMNS)
    code, out, _ = csmf("check", log, "--strict")
    assert code == 1
    assert "So most targets cannot be measured" in unwrapped(out)
    assert csmf("check", log, "--strict", "--split", "leave_last")[0] == 0


def test_names_of_behaviours_that_are_one_name_are_a_problem(csmf, tmp_path):
    rows = [*ROWS, ("u0", "i1", "View", START + 40), ("u0", "i1", "buy ", START + 41)]
    code, out, _ = csmf("check", write(tmp_path / "log.csv", rows, COLUMNS), "--strict")
    assert code == 1
    assert "'view' and 'View' differ by case or blanks only" in unwrapped(out)
    assert "'buy' and 'buy ' differ" in unwrapped(out)


def test_a_parquet_folder_with_a_column_of_times_under_another_name(findings, tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    names = [*COLUMNS[:3], "at"]
    table = pa.table(dict(zip(names, zip(*ROWS, strict=True), strict=True)))
    pq.write_table(table.slice(0, 12), folder / "a.parquet")
    pq.write_table(table.slice(12), folder / "b.parquet")
    assert "future" not in findings(folder)
    assert findings(folder, "--timestamp", "at")["future"]["numbers"]["test events"] == 2


def test_a_published_split(csmf, findings, log, held):
    found = findings(log, "--held", held)
    assert list(found)[:2] == ["split", "held out"]
    named = {"kind": "published", "file": str(held), "objective": "buy"}
    sizes = {"training events": 17, "test events": 2, "events in neither part": 1}
    assert found["split"]["numbers"] == named | sizes
    assert found["held out"]["numbers"]["other"]["pairs held out"] == 1
    row = found["targets"]["numbers"]["buy"]
    assert (row["targets"], row["in view"], row["in buy"], row["met"]) == (2, 2, 0, 2)
    assert found["targets"]["level"] == found["shortcut"]["level"] == "problem"
    # Both view another item later on.
    assert found["future"]["numbers"]["followed"] == 2
    code, out, _ = csmf("check", log, "--held", held)
    assert code == 0
    assert "would find 2 of 2 (100.0%) 'buy' targets" in unwrapped(out)
    assert out.splitlines()[-1].startswith("3 problems")


def test_the_objective_of_a_published_split_is_an_option(findings, log, held):
    found = findings(log, "--held", held, "--objective", "view")
    assert list(found["targets"]["numbers"]) == ["view"]
    assert found["targets"]["numbers"]["view"]["in buy"] == 2


def test_strict_tells_problems_by_the_exit_code(csmf, log, held):
    assert csmf("check", log, "--strict")[0] == 0
    assert csmf("check", log, "--held", held)[0] == 0
    code, out, _ = csmf("check", log, "--held", held, "--strict")
    assert code == 1
    assert "[problem] targets" in out


def test_json_goes_to_a_file_or_to_standard_output_alone(csmf, log, tmp_path):
    file = tmp_path / "new" / "report.json"
    code, out, _ = csmf("check", log, "--json", file)
    assert code == 0
    assert out.startswith(
        "[ok]      split: time (at 0.9, cut 2015-04-25T22:13:53): 18 training events, 2 test"
    )
    written = json.loads(file.read_text())
    assert [path.name for path in file.parent.iterdir()] == ["report.json"]
    assert written["level"] == "ok"
    assert written["findings"]["counts"]["numbers"]["view"]["events"] == 15
    _, out, err = csmf("check", log, "--json", "-")
    assert json.loads(out) == written
    assert "the funnel is taken to be" in err


def configuration(folder, **split):
    raw = {
        "log": {
            "path": "log.csv",
            "user": "user_id",
            "item": "item_id",
            "behavior": "behavior",
            "timestamp": "timestamp",
        },
        "funnel": ["view", "buy"],
        "split": split,
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def test_a_configuration_tells_log_funnel_and_split(csmf, findings, log, held, tmp_path):
    config = configuration(tmp_path, kind="time", at=0.5)
    code, out, err = csmf("check", config)
    assert (code, err) == (0, "")
    assert "10 test events come before" in out
    configuration(tmp_path, kind="leave_last")
    assert findings(config)["future"]["numbers"]["test events"] == 5
    assert findings(config, "--held", held)["targets"]["numbers"]["buy"]["met"] == 2


def test_an_option_goes_before_the_split_of_the_configuration(findings, log, tmp_path):
    config = configuration(tmp_path, kind="item_holdout", fraction=0.2, seed=3)
    assert findings(config, "--split", "leave_last")["split"]["numbers"]["kind"] == "leave_last"
    holdout = {"kind": "item_holdout", "fraction": 0.2, "seed": 5}
    assert findings(config, "--seed", "5")["split"]["numbers"].items() >= holdout.items()
    found = findings(config, "--split", "time", "--at", "0.5")["split"]["numbers"]
    assert (found["kind"], found["at"], found["test events"]) == ("time", 0.5, 10)


def test_the_folder_of_a_run_is_checked_by_its_configuration(csmf, log, tmp_path):
    config = configuration(tmp_path, kind="leave_last")
    code, out, err = csmf("check", tmp_path)
    assert code == 0
    assert err == f"csmf-tf: note: {tmp_path} is checked by its configuration, {config}\n"
    assert out == csmf("check", config)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--user", "user"], "should have the columns `user`, `item_id`"),
        (
            ["--funnel", "view"],
            "`behavior` should be a behaviour of the funnel (view); name others in `ignore`",
        ),
        (["--user", "who", "--timestamp", "at"], "lack `who`, `at`; name yours with --user, --timestamp."),
        (["--funnel", "view,buy,gift"], "no event of gift"),
        (["--objective", "buy"], "--objective should be left out, as it belongs to --held"),
        (
            ["--split", "leave_last", "--at", "0.5"],
            "`--at` belongs to --split time. Received: --split leave_last",
        ),
        (["--fraction", "0.5"], "`--fraction` belongs to --split item_holdout. Received: --split time"),
        (["--at", "1.5"], "`at` should be between 0 and 1"),
        (
            ["--held", "HELD", "--split", "time", "--seed", "1"],
            "--seed, --split should be left out, as --held is",
        ),
        (["--held", "HELD", "--objective", "gift"], "(view, buy). Received: objective='gift'"),
        (["--held", "absent.csv"], "There is no file absent.csv"),
    ],
)
def test_what_cannot_be_checked_is_an_error(csmf, log, held, options, message):
    code, out, err = csmf("check", log, *(str(held) if option == "HELD" else option for option in options))
    assert (code, out) == (2, "")
    assert message in err


def test_beside_a_configuration_other_settings_are_an_error(csmf, log, tmp_path):
    config = configuration(tmp_path, kind="time")
    code, _, err = csmf("check", config, "--funnel", "view,buy", "--user", "who", "--at", "0.5")
    assert code == 2
    assert f"--funnel, --user should be left out, as {config} tells them" in err
    code, _, err = csmf("check", config, "--fraction", "0.5")
    assert code == 2
    assert "`--fraction` belongs to --split item_holdout. Received: --split time" in err


def test_all_missing_columns_are_named_at_once(csmf, tmp_path):
    log = write(tmp_path / "log.csv", [("u0", "i0", "view")], ["who", "what", "did"])
    code, _, err = csmf("check", log)
    assert code == 2
    assert "Received: `who`, `what`, `did`, which lack `user_id`, `item_id`, `behavior`" in err
    assert "name yours with --user, --item, --behavior.\n" in err


@pytest.mark.parametrize("name", ["retailrocket", "tmall", "taobao"])
def test_a_known_public_set_is_pointed_to_its_import(csmf, name, tmp_path):
    file = public_cases.write(public_cases.CASES[name], tmp_path)[-1]
    code, _, err = csmf("check", file)
    assert code == 2
    assert f"It looks like the set {name}: `csmf-tf import {name} {file} --out DIR` reads it." in err


def test_times_without_a_column_are_an_error(csmf, untimed):
    code, _, err = csmf("check", untimed, "--split", "time")
    assert code == 2
    assert "A time split should have a log with times" in err


def test_an_empty_test_part_is_an_error(csmf, tmp_path):
    log = write(tmp_path / "log.csv", [(f"u{n}", "i0", "view") for n in range(3)], COLUMNS[:3])
    code, _, err = csmf("check", log)
    assert code == 2
    assert "`test` should hold at least one event. Received: none; hold out more, or" in err


def test_it_runs_without_tensorflow(log):
    code = (
        f"from csmf_tf.cli import main\nassert main(['check', {str(log)!r}]) == 0\n"
        "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    loaded = set(result.stdout.splitlines()[-1].split())
    assert "numpy" in loaded
    assert not loaded & {"tensorflow", "tf_keras", "scann", "matplotlib"}
