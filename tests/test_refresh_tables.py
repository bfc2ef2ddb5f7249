"""`csmf-tf refresh` on the export of a run: tables of items, and what is wrong with them."""

import contextlib
import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refresh_cases import copied, saved, vectors_by_id
from serving_cases import asked

import csmf_tf
from csmf_tf._keras import tf
from csmf_tf.cli import main
from csmf_tf.config import from_dict
from csmf_tf.data.simulator import simulate
from csmf_tf.serving import latest_version


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run whose items have features of every kind, and its table of items."""
    folder = tmp_path_factory.mktemp("run")
    log = simulate(users=60, items=50, seed=4)
    log.write(folder)
    items = list(log.log.items)
    table = {
        "item_id": items,
        "home category": [f"c{i % 4}" for i in range(len(items))],
        "tags": [[f"t{i % 3}", f"t{i % 5}"] for i in range(len(items))],
        "price": np.linspace(1, 9, len(items)),
    }
    pq.write_table(pa.table(table), folder / "items.parquet")
    columns = {"user": "user_id", "item": "item_id", "behavior": "behavior"}
    raw = {
        "log": {"path": str(folder / "events.csv.gz"), "ignore": ["cart"], **columns},
        "funnel": ["view", "buy"],
        "split": {"kind": "item_holdout"},
        "features": {"item": {"home category": "categorical", "tags": "multi", "price": "numeric"}},
        "model": {"embedding_dim": 8},
        "training": {"epochs": 2, "recover_epochs": 0},
    }
    raw["log"]["items"] = str(folder / "items.parquet")
    run = csmf_tf.Run(folder / "run", from_dict(raw))
    run.fit(verbose=0)
    run.export(folder / "shop", index="exact", k=5)
    return folder


def csmf(*arguments):
    """Exit code, standard output and standard error of a command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return code, out.getvalue(), err.getvalue()


def test_items_of_a_run_are_refreshed_from_a_table(trained, tmp_path):
    shop, table = copied(trained / "shop", tmp_path), tmp_path / "items.csv"
    known = [item.decode() for item in saved(shop / "1", "item_ids")]
    table.write_text(
        "item_id,home category,price,tags,remove,more\n"
        "kalt,c1,5.5,t1|t4,,x\n"
        f"{known[0]},c3,,t0,false,x\n"
        "leer,,,,0,x\n"
        f"{known[1]},,none,,1,x\n"
        "fremd,,,,true,x\n"
    )
    code, out, err = csmf("refresh", shop, "--items", table)
    assert code == 0, err
    assert out == f"wrote {shop / '2'}: 2 added, 1 changed, 1 removed; {len(known) + 1} items\n"
    assert err == "csmf-tf: note: 1 of the items to remove are not in the export\n"
    model = tf.saved_model.load(str(shop / "2"))
    given = {
        "item_id": ["kalt", known[0], "leer"],
        "home_category": ["c1", "c3", ""],
        "price": [5.5, np.nan, np.nan],
        "tags": [["t1", "t4"], ["t0", ""], ["", ""]],
    }
    vectors = asked(model, "embed_item", **given)["embedding"]
    assert not np.allclose(vectors[0], vectors[2])
    user = asked(model, "embed_user", user_id=["u1"])["embedding"]
    answer = asked(model, "retrieve_among", user_id=["u1"], weights=[[1, 3]], among=[given["item_id"]])
    scale = np.array([4.0, 3.0])[owner_of(trained) - 1]
    expected = dict(zip(given["item_id"], vectors @ (user[0] * scale), strict=True))
    for item, score in zip(answer["ids"][0][:3], answer["scores"][0], strict=False):
        assert score == pytest.approx(expected[item], rel=1e-5, abs=1e-6)
    code, out, _ = csmf("refresh", shop, "--items", table, "--json")
    assert code == 0
    assert json.loads(out) == {
        "path": str(shop / "3"),
        "items": len(known) + 1,
        "added": 0,
        "changed": 3,
        "removed": 0,
        "unknown": 2,
        "recall": {},
    }


def owner_of(folder):
    run = csmf_tf.Run(folder / "run").restore()
    return np.maximum(run.model.owner, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id,tags,price\nx,t1,2\n", "should have the columns .*which lack `home category`"),
        ("item,home category,tags,price\nx,c1,t1,2\n", "which lack `item_id`"),
        ("item_id,remove\n", "should hold at least one data row"),
        ("", "should start with a header row"),
        (
            "item_id,home category,tags,price\nx,c1,t1,2\nx,c1,t1,2\n",
            "should hold each id once. Received: 'x'",
        ),
        ("item_id,home category,tags,price\nx,c1,t1,dear\n", "data row 1 .*`price` should .*'dear'"),
        ("item_id,remove\nx,1\ny,yes\n", "data row 2 .*`remove` should be 1 or true .*Received: 'yes'"),
        ("item_id,Removed\nx,1\n", "should be named `remove`. Received: `Removed`; rename it"),
        ("item_id,home category,tags,price\nx,c1,t1,1e40\n", "`price` should hold a finite number"),
    ],
)
def test_tables_at_fault_are_refused(trained, tmp_path, text, message):
    (tmp_path / "items.csv").write_text(text)
    code, _, err = csmf("refresh", trained / "shop", "--items", tmp_path / "items.csv")
    assert code == 2
    assert re.search(message, err)
    assert latest_version(trained / "shop") == 1


def test_table_of_removals_needs_ids_only(trained, tmp_path):
    shop = copied(trained / "shop", tmp_path)
    known = [item.decode() for item in saved(shop / "1", "item_ids")]
    (tmp_path / "items.csv").write_text("item_id,remove\n" + "".join(f"{item},1\n" for item in known[2:]))
    assert csmf_tf.refresh(shop, tmp_path / "items.csv").items == 2
    assert set(vectors_by_id(shop / "2")) == set(known[:2])
