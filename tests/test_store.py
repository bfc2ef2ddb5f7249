"""Prepared data on disk: what is loaded is what was saved, whole or not at all."""

from dataclasses import fields

import numpy as np
import pyarrow.parquet as pq
import pytest

from csmf_tf.data.log import EventLog
from csmf_tf.data.splits import Split
from csmf_tf.data.store import Prepared, load, save
from csmf_tf.data.stream import objects
from csmf_tf.data.tables import align

USERS = objects(["b", "a,|\n", "ü"])
ITEMS = objects(["1", "02"])


def make_log(n, timed=True, seed=0):
    rng = np.random.default_rng(seed)
    return EventLog(
        user=rng.integers(0, 3, n, np.int32),
        item=rng.integers(0, 2, n, np.int32),
        behavior=rng.integers(0, 2, n).astype(np.int8),
        time=rng.integers(-(10**15), 10**15, n) if timed else None,
        users=USERS,
        items=ITEMS,
        funnel=("view", "buy"),
    )


def make(timed=True, sizes=(5, 3, 4, 2), users=None):
    parts = [make_log(n, timed, seed) for seed, n in enumerate(sizes)]
    users = {"user_id": USERS} | (users or {})
    return Prepared(
        Split(*parts, repeated=9, unknown_targets=6, unknown_users=7, unknown_items=8),
        users,
        {"item_id": ITEMS},
    )


def assert_equal_columns(one, other):
    assert [*one] == [*other]
    for name, values in one.items():
        assert (other[name].dtype, other[name].shape) == (values.dtype, values.shape)
        np.testing.assert_array_equal(other[name], values)
        assert [type(value) for value in other[name]] == [type(value) for value in values]


def assert_equal(one, other):
    for log, same in zip(one.split[:4], other.split[:4], strict=True):
        for field in fields(EventLog):
            mine, its = getattr(log, field.name), getattr(same, field.name)
            np.testing.assert_array_equal(its, mine)
            assert getattr(its, "dtype", None) == getattr(mine, "dtype", None)
            assert type(its) is type(mine)
    assert one.split[4:] == other.split[4:]
    assert_equal_columns(one.users, other.users)
    assert_equal_columns(one.items, other.items)


@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("sizes", [(5, 3, 4, 2), (5, 0, 4, 0)])
def test_loaded_is_saved(tmp_path, timed, sizes):
    prepared = make(timed, sizes)
    save(prepared, tmp_path / "run" / "data")
    assert_equal(prepared, load(tmp_path / "run" / "data"))


@pytest.mark.parametrize(
    "column",
    [
        objects(["x", "", "y"]),
        objects(["", "", ""]),
        np.array([0.1, np.nan, 1e30], np.float32),
        np.full(3, np.nan, np.float32),
        np.array([1, 2, 3], np.float32),
        np.array([[0.1, 2], [np.nan, np.nan], [1e30, -1]], np.float32),
        objects([("x", "y"), (), ("z",)]),
        objects([("x",), ("y",), ("z",)]),
        objects([(), (), ()]),
        objects([("1", ""), ("nan",), ("a|b",)]),
    ],
    ids=str,
)
def test_features_are_kept(tmp_path, column):
    prepared = make(users={"feature": column})
    save(prepared, tmp_path / "data")
    assert_equal(prepared, load(tmp_path / "data"))


def test_aligned_tables_are_kept(tmp_path):
    table = {
        "user_id": objects(["ü"]),
        "tags": objects([("x", "y")]),
        "age": np.array([3], np.float32),
        "sex": objects(["f"]),
    }
    prepared = make()._replace(users=align(table, "user_id", USERS))
    save(prepared, tmp_path / "data")
    assert_equal(prepared, load(tmp_path / "data"))


@pytest.mark.parametrize("fails_at", [1, 2, 3])
def test_a_killed_save_leaves_nothing_that_looks_whole(tmp_path, monkeypatch, fails_at):
    calls, write = [], pq.write_table

    def killed(*args):
        calls.append(args)
        if len(calls) == fails_at:
            raise KeyboardInterrupt
        write(*args)

    monkeypatch.setattr(pq, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        save(make(), tmp_path / "data")
    assert not (tmp_path / "data").exists()
    # What is left behind does no harm to the next save.
    (tmp_path / "data.tmp" / "stale").touch()
    save(make(), tmp_path / "data")
    assert_equal(make(), load(tmp_path / "data"))
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert not (tmp_path / "data" / "stale").exists()


def test_a_second_save_replaces_the_first(tmp_path):
    save(make(timed=False), tmp_path / "data")
    save(make(sizes=(1, 2, 3, 1)), tmp_path / "data")
    assert_equal(make(sizes=(1, 2, 3, 1)), load(tmp_path / "data"))
