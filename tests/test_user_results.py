"""Metrics of each user on disk: what comes back, the fingerprints, and what a bad file gets."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csmf_tf.data.groups import group
from csmf_tf.data.stream import objects
from csmf_tf.evaluation.user_results import (
    UserResults,
    UserTable,
    read_user_results,
    run_state,
    targets_digest,
    write_user_results,
)

NAMES = st.text(alphabet="ab:\u00e9,", min_size=1, max_size=3)
TARGETS = st.dictionaries(NAMES, st.sets(NAMES, min_size=1, max_size=4), max_size=6)


def table(users, digest="d", **values):
    values = {name.replace("_at_", "@"): np.array(value, float) for name, value in values.items()}
    return UserTable(objects(users), values, digest)


def some_results():
    return UserResults(
        "run",
        {
            ("view", "discovery"): table(
                ["u2", "ü/1"], "a1", recall_at_50=[0.25, 1 / 3], ndcg_at_50=[0.5, 0.1]
            ),
            ("view/late", "met"): table(["u2"], "b2", recall_at_50=[1], ndcg_at_50=[0.125]),
            ("buy", "discovery"): table([], "c3", recall_at_50=[], ndcg_at_50=[]),
        },
        state="5e",
        split={"kind": "time", "at": 0.9},
    )


def assert_same(one, other):
    assert (one.name, one.state, one.split) == (other.name, other.state, other.split)
    assert list(one.tables) == list(other.tables)
    for key, expected in one.tables.items():
        found = other.tables[key]
        assert found.users.tolist() == expected.users.tolist()
        assert found.digest == expected.digest
        assert list(found.values) == list(expected.values)
        for metric, value in expected.values.items():
            assert found.values[metric].dtype == np.float64
            assert found.values[metric].tolist() == value.tolist()


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "users.parquet"
    write_user_results(path, some_results())
    assert_same(some_results(), read_user_results(path))
    assert [file.name for file in path.parent.iterdir()] == ["users.parquet"]


def test_any_parquet_reader_finds_a_row_for_each_user(tmp_path):
    write_user_results(tmp_path / "users.parquet", some_results())
    found = pq.read_table(tmp_path / "users.parquet")
    assert found.select(["user_id", "objective", "targets", "recall@50"]).to_pylist()[1:] == [
        {"user_id": "ü/1", "objective": "view", "targets": "discovery", "recall@50": 1 / 3},
        {"user_id": "u2", "objective": "view/late", "targets": "met", "recall@50": 1.0},
    ]
    about = json.loads(found.schema.metadata[b"csmf_tf.user_results"])
    assert about["targets_digest"] == {"view/discovery": "a1", "view/late/met": "b2", "buy/discovery": "c3"}
    assert (about["metrics"], about["name"]) == (["recall@50", "ndcg@50"], "run")


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "users.parquet"
    write_user_results(path, some_results())

    def fail(_, where):
        where.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(OSError, match="no space"):
        write_user_results(path, some_results()._replace(name="other"))
    assert_same(some_results(), read_user_results(path))


def digest_of(targets, users, items):
    """The digest of {user id: item ids} when users and items are coded in the given orders."""
    pairs = [(users.index(user), items.index(item)) for user, held in targets.items() for item in held]
    row, column = np.array(pairs, np.int64).reshape(-1, 2).T
    return targets_digest(
        objects(users),
        objects(items),
        group(row, column, len(users)),
        np.array([users.index(u) for u in targets]),
    )


@given(TARGETS, st.randoms(use_true_random=False), st.sets(NAMES))
def test_the_digest_does_not_depend_on_codes_and_order(targets, random, others):
    users, items = sorted({*targets, *others}), sorted({*others}.union(*targets.values()))
    one = digest_of(targets, users, items)
    for ids in (users, items):
        random.shuffle(ids)
    shuffled = dict(random.sample(list(targets.items()), len(targets)))
    assert digest_of(shuffled, [*users, "zz"], ["zz", *items]) == one


@given(TARGETS, TARGETS)
def test_the_digest_of_other_targets_is_another(one, other):
    users = sorted({*one, *other})
    items = sorted(set().union(*one.values(), *other.values()))
    assert (digest_of(one, users, items) == digest_of(other, users, items)) == (one == other)


def test_users_without_a_target_do_not_count_in_the_digest():
    users, items, targets = objects(["a", "b", "c"]), objects(["x"]), group([0, 2], [0, 0], 3)
    some = targets_digest(users, items, targets, np.array([0, 2]))
    assert targets_digest(users, items, targets, np.arange(3)) == some
    assert targets_digest(users, items, targets, np.array([0])) != some


def test_the_digest_needs_codes_of_the_ids():
    users, items, targets = objects(["a"]), objects(["x"]), group([0], [1], 1)
    with pytest.raises(ValueError, match=r"`groups.items` should be codes in 0..0. Received: codes in 1..1"):
        targets_digest(users, items, targets, np.array([0]))
    with pytest.raises(ValueError, match=r"`users` should be codes in 0..0. Received: codes in -1..0"):
        targets_digest(users, items, targets, np.array([0, -1]))


def test_the_state_of_a_run_is_that_of_its_state_file(tmp_path):
    (tmp_path / "state.json").write_bytes(b'{"log": []}')
    assert run_state(tmp_path) == hashlib.sha256(b'{"log": []}').hexdigest()
    with pytest.raises(FileNotFoundError, match=r"should be the directory of a run.*without state.json"):
        run_state(tmp_path / "none")


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "at least one table with a metric"),
        ({("buy", "some"): table(["u"], m=[1])}, "Targets should be one of discovery, .* Received: 'some'"),
        ({("buy", "new"): table(["u", "u"], m=[1, 2])}, "of objective 'buy', new targets, should be ids"),
        ({("buy", "new"): table([7], m=[1])}, "ids of type str, each once"),
        ({("buy", "new"): table(["u"], m=[np.nan])}, "should be a finite number for each of 1 users"),
        ({("buy", "new"): table(["u"], m=[1, 2])}, r"Received: m of shape \(2,\)"),
        ({("buy", "new"): table(["u"], user_id=[1])}, "should not be called one of user_id"),
        (
            {("buy", "new"): table(["u"], m=[1]), ("buy", "met"): table(["u"], n=[1])},
            r"should have the metrics \['m'\]. Received: \['n'\] of objective 'buy', met targets",
        ),
    ],
)
def test_results_that_could_not_be_compared_are_not_written(tables, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        write_user_results(tmp_path / "users.parquet", UserResults("run", tables))
    assert not list(tmp_path.iterdir())


def test_no_file_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.parquet should be .*`csmf-tf evaluate RUN` writes"):
        read_user_results(tmp_path / "none.parquet")


def spoil(path, how):
    """Makes the file of user results at `path` a bad one."""
    found = pq.read_table(path)
    about = json.loads(found.schema.metadata[b"csmf_tf.user_results"])
    if how == "cut short":
        path.write_bytes(path.read_bytes()[:-20])
        return
    if how == "another format":
        path.write_text("user_id,recall@50\nu1,0.5\n")
        return
    if how == "foreign":
        pq.write_table(pa.table({"user_id": ["u1"], "recall@50": [0.5]}), path)
        return
    if how == "no names":
        about = []
    elif how == "a lost column":
        found = found.drop_columns(["ndcg@50"])
    elif how == "a lost value":
        found = found.set_column(3, "recall@50", pa.array([None, 0.5, 0.5]))
    elif how == "text for a metric":
        found = found.set_column(3, "recall@50", pa.array(["a", "b", "c"]))
    elif how == "a user twice":
        found = pa.concat_tables([found, found.slice(0, 1)])
    elif how == "rows of no table":
        del about["targets_digest"]["view/late/met"]
    elif how == "no JSON":
        about = None
    text = "{" if about is None else json.dumps(about)
    pq.write_table(found.replace_schema_metadata({b"csmf_tf.user_results": text}), path)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("cut short", "Received: what cannot be read as Parquet; write it"),
        ("another format", "Received: what cannot be read as Parquet; write it"),
        ("foreign", "a Parquet file of something else"),
        ("no names", "contradict each other"),
        ("no JSON", "contradict each other"),
        ("a lost column", "contradict each other"),
        ("a lost value", "finite number"),
        ("text for a metric", "contradict each other"),
        ("a user twice", "each once"),
        ("rows of no table", "1 rows of no known objective"),
    ],
)
def test_a_bad_file_is_told(how, message, tmp_path):
    path = tmp_path / "users.parquet"
    write_user_results(path, some_results())
    spoil(path, how)
    with pytest.raises(ValueError, match=rf"users.parquet should be a file of user results.*{message}.*anew"):
        read_user_results(path)
