"""Queries by a history, of exports whose user tower tells what it was given."""

import re
import warnings

import numpy as np
import pytest

from csmf_tf._keras import tf
from csmf_tf.serving import export, query
from csmf_tf.serving.query import UnknownItemWarning, UnknownUserWarning
from csmf_tf.serving.shards import export_shards

ITEMS = [f"i{n}" for n in range(5)]


def write(directory, names, width=3, **options):
    """An export whose best item is the one that a history ends with, by the last of `names`."""

    def embed_user(features):
        joined = "--" + tf.strings.reduce_join(features[names[-1]], axis=1)
        return tf.constant([ITEMS]) == tf.strings.substr(joined, -2, 2)[:, tf.newaxis]

    def vectors(features):
        return tf.cast(embed_user(features), tf.float32)

    signature = {name: tf.TensorSpec([None, width], tf.string) for name in names}
    if options.get("users"):
        signature["country"] = tf.TensorSpec([None], tf.string)
    to = export_shards if "shards" in options else export
    to(vectors, signature, ITEMS, np.eye(5), [1] * 5, ["view"], directory, index="exact", k=5, **options)


@pytest.mark.parametrize("width", [3, None])
def test_the_last_items_are_read_of_any_width(tmp_path, width):
    write(tmp_path, ["history"], width)
    for history in (["i2"], ["i4", "i2"], ["i4", "i3", "i1", "i0", "i2"]):
        assert query(tmp_path, history=history, k=1)[0][0] == "i2"


def test_behaviours_are_those_of_the_tower_and_not_of_the_objectives(tmp_path):
    write(tmp_path, ["history_behavior", "history"], behaviors=["view", "cart"])
    assert query(tmp_path, history=[("i1", "cart"), ("i3", "view")], k=1)[0][0] == "i3"
    message = (
        "pairs of item id and behaviour, one of ['view', 'cart'], one at least. Received: [('i1', 'buy')]"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        query(tmp_path, history=[("i1", "buy")], k=1)


def test_an_unknown_user_is_told_where_the_model_reads_more_than_the_history(tmp_path):
    users = {"id": ["a"], "country": ["de"], "history": [["i1"]]}
    write(tmp_path, ["history"], users=users)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert query(tmp_path, "a", k=1)[0][0] == "i1"
        assert query(tmp_path, "a", history=["i4"], k=1)[0][0] == "i4"
    with pytest.warns(UnknownUserWarning, match="no `user` is given: the answer is that of an unknown user$"):
        assert query(tmp_path, history=["i4"], k=1)[0][0] == "i4"
    with pytest.warns(UnknownUserWarning, match="'b' is not known"):
        assert query(tmp_path, "b", history=["i4"], k=1)[0][0] == "i4"
    with pytest.warns(UnknownUserWarning, match="give a `history`"):
        query(tmp_path, "b", k=1)


@pytest.mark.parametrize("options", [{}, {"shards": 2}])
def test_items_that_no_shard_holds_are_told(tmp_path, options):
    write(tmp_path, ["history"], **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        query(tmp_path, history=["i0", "i3", "i1"], k=1)
    with pytest.warns(UnknownItemWarning, match=r"\['i-1', 'x'\], 2 of 3"):
        assert query(tmp_path, history=["i-1", "x", "i3"], k=1)[0][0] == "i3"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # What is not read is not looked up.
        query(tmp_path, history=["x", "i0", "i3", "i1"], k=1)


@pytest.mark.parametrize(
    ("names", "history", "message"),
    [
        (["history"], "i1", "`history` should hold item ids, one at least. Received: 'i1'"),
        (["history"], [("i1", "view")], "`history` should hold item ids"),
        (["history"], [3], "`history` should hold item ids"),
        (
            ["history_behavior"],
            ["i1"],
            "`history` should go with a model that reads `history`, of a HeterRec user tower. Received: one "
            "that reads ['history_behavior']; leave it out",
        ),
    ],
)
def test_histories_that_do_not_fit_are_errors(tmp_path, names, history, message):
    write(tmp_path, names)
    with pytest.raises(ValueError, match=re.escape(message)):
        query(tmp_path, history=history, k=1)
