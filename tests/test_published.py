"""Published splits: which events they hold out, and the leak of one."""

import numpy as np
import pytest

from csmf_tf.data.check import check
from csmf_tf.data.log import EventLog, read_log
from csmf_tf.data.published import read_published


def make_log(events):
    """A log of (user, item, behaviour) rows."""
    user, item, behavior = np.array(events, np.int32).T
    users, items = (np.array([f"{kind}{code}" for code in range(3)], object) for kind in "ui")
    return EventLog(user, item, behavior.astype(np.int8), None, users, items, ("view", "cart", "buy"))


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_published_split_holds_out_events_of_the_objective_alone(tmp_path):
    log = make_log([(0, 0, 0), (0, 0, 2), (0, 0, 2), (1, 1, 2), (1, 1, 1), (2, 2, 2)])
    file = write(
        tmp_path / "held.csv", "item,who,split", "i0,u0,test", "i1,u1,valid", "i1,u1,test", "i2,u2,valid"
    )
    published = read_published(file, log, user="who", item="item", objective="buy")
    # A pair that is listed twice is to be predicted.
    assert published.test.tolist() == [False, True, True, True, False, False]
    assert published.training.tolist() == [True, False, False, False, True, False]
    assert published.finding.level == "ok"
    held = {"rows": 2, "unknown ids": 0, "without buy": 0, "pairs held out": 2}
    assert published.finding.numbers == {"test": held, "other": held}


def test_listed_pairs_that_the_log_does_not_have_are_counted_and_said(tmp_path):
    log = make_log([(0, 0, 0), (0, 1, 2)])
    file = write(tmp_path / "held.csv", "user_id,item_id", "u0,i1", "u0,i0", "u0,i0", "u9,i0", "u0,i9")
    published = read_published(file, log, user="user_id", item="item_id", objective="buy")
    assert published.test.tolist() == [False, True]
    assert published.finding.level == "note"
    assert published.finding.numbers["test"] == {
        "rows": 5,
        "unknown ids": 2,
        "without buy": 1,
        "pairs held out": 1,
    }
    assert "2 rows name users or items that the log does not have" in published.finding.sentence
    assert "1 pairs have no 'buy' event there: they are not checked" in published.finding.sentence


@pytest.mark.parametrize(
    ("lines", "objective", "message"),
    [
        (["user_id,item_id", "u0,i1"], "gift", r"a behaviour of the funnel \(view, cart, buy\).*'gift'"),
        (["user_id,item", "u0,i1"], "buy", r"lack `item_id`. Did you mean `item`\?"),
        (["user_id,item_id", "u0,"], "buy", r"data row 1 .*`item_id` should hold an id"),
        (["user_id,item_id,split", "u0,i1,valid"], "buy", r"the value `test` in its column `split`"),
        (
            ["user_id,item_id", "u0,i0", "u8,i0"],
            "buy",
            r"^The log should hold 'buy' events of the test pairs in .*. Received: a log without any, "
            r"which seems to be the training part alone. Append a row for each pair \(user, item and 'buy'\) "
            r".*--objective. In detail: 0 test pairs .*1 rows name ",
        ),
    ],
)
def test_published_splits_that_cannot_be_checked_are_errors(tmp_path, lines, objective, message):
    log = make_log([(0, 0, 0), (0, 1, 2)])
    file = write(tmp_path / "held.csv", *lines)
    with pytest.raises(ValueError, match=message):
        read_published(file, log, user="user_id", item="item_id", objective=objective)


def test_the_leak_of_the_published_taobao_split(shared_data):
    """The numbers are those of shared/data/README.md and of a count over Python sets."""
    columns = {"user": "user_id", "item": "item_id"}
    log = read_log(
        shared_data("taobao/events.csv.gz"), **columns, behavior="behavior", funnel=["view", "cart", "buy"]
    )
    published = read_published(shared_data("taobao/published_split.csv.gz"), log, **columns, objective="buy")
    held = {"rows": 15_449, "unknown ids": 0, "without buy": 0, "pairs held out": 15_449}
    assert published.finding.numbers == {"test": held, "other": held}
    report = check(log, published.test, published.training)
    row = report["targets"].numbers["buy"]
    assert (row["targets"], row["in view"], row["in cart"], row["in buy"]) == (15_449, 12_650, 3_381, 0)
    assert report["targets"].level == "problem"
    assert report["shortcut"].sentence.startswith(
        "A rule that ranks what the user has 'view' but not yet 'buy' of would find 12,650 of 15,449 (81.9%)"
    )
    pairs = {name: row["pairs"] for name, row in report["counts"].numbers.items()}
    assert pairs == {"view": 873_954, "cart": 195_476, "buy": 107_629}
