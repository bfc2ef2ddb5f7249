"""Discovery, re-engagement and baselines against plain Python on random logs."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csmf_tf.data.log import EventLog
from csmf_tf.data.users import UserFeatures
from csmf_tf.evaluation.funnel import FunnelEvaluator
from csmf_tf.evaluation.results import evaluate_model, tradeoff

FUNNEL = ("view", "cart", "buy")
N_USERS, N_ITEMS = 5, 9
USER_IDS = np.array([f"u{n}" for n in range(N_USERS)], object)
ITEM_IDS = np.array([f"i{n}" for n in range(N_ITEMS)], object)


def make_log(rows):
    user, item, behavior = (np.array(column, int) for column in zip(*rows, strict=True)) if rows else [[]] * 3
    user, item, behavior = (np.asarray(column, np.int64) for column in (user, item, behavior))
    return EventLog(user, item, behavior.astype(np.int8), None, USER_IDS, ITEM_IDS, FUNNEL)


def make(known, held, ks=(3,)):
    """An evaluator, with held-out rows told apart here by their definitions."""
    new = [row for row in held if not any(row[:2] == other[:2] for other in known)]
    done = [row for row in held if any(row[:2] == other[:2] and other[2] >= row[2] for other in known)]
    met = [row for row in held if row not in new and row not in done]
    log = make_log(known)
    users = UserFeatures({"user_id": np.arange(N_USERS)}, log)
    return FunnelEvaluator(users, log, make_log(new), make_log(met), ks), set(new), set(met)


def recalls(scores, left_out, targets, objective, k):
    """User -> recall, from its definition."""
    found = {}
    for user in range(N_USERS):
        goal = {item for who, item, behavior in targets if (who, behavior) == (user, objective)}
        order = sorted(range(N_ITEMS), key=lambda item: (-scores[user][item], item))
        shown = [i for i in order if (user, i) not in left_out and scores[user][i] > -math.inf][:k]
        if goal:
            found[user] = len(goal & set(shown)) / len(goal)
    return found


ROWS = st.lists(
    st.tuples(st.integers(0, N_USERS - 1), st.integers(0, N_ITEMS - 1), st.integers(0, 2)), max_size=25
)


@given(ROWS, ROWS, st.integers(0, 2), st.integers(0, 99))
def test_new_and_met_targets_are_measured_apart(known, held, objective, seed):
    evaluator, new, met = make(known, held)
    scores = np.random.default_rng(seed).integers(0, 4, (N_USERS, N_ITEMS)).astype(float)
    name = FUNNEL[objective]
    seen = {row[:2] for row in known}
    one = evaluator.discovery(lambda users: scores[users], name)
    expected = recalls(scores, seen, new, objective, 3)
    assert dict(zip(one.users.tolist(), one.values["recall@3"], strict=True)) == pytest.approx(expected)
    assert one.skipped == len({row[0] for row in new | met}) - len(expected)
    together = evaluator.together(lambda users: scores[users])[name]
    assert together.values["recall@3"].tolist() == one.values["recall@3"].tolist()

    if not any(row[2] == objective for row in met):
        return
    done = {row[:2] for row in known if row[2] >= objective}
    parts = evaluator.with_met(lambda users: scores[users], name)
    for part, targets in (("all", new | met), ("met", met), ("new", new)):
        got = dict(zip(parts[part].users.tolist(), parts[part].values["recall@3"], strict=True))
        assert got == pytest.approx(recalls(scores, done, targets, objective, 3))


def test_vectors_and_their_products_give_the_same():
    rng = np.random.default_rng(0)
    rows = [tuple(row) for row in rng.integers(0, [N_USERS, N_ITEMS, 3], (30, 3)).tolist()]
    evaluator, *_ = make(rows[:15], rows[15:])
    users, items = rng.integers(-2, 3, (N_USERS, 2)), rng.integers(-2, 3, (N_ITEMS, 2))
    for name in FUNNEL:
        by_vectors = evaluator.discovery((users, items), name).summary()
        assert by_vectors == evaluator.discovery(lambda who: (users @ items.T)[who], name).summary()


def test_a_summary_has_means_and_counts():
    evaluator, *_ = make([(0, 0, 0), (1, 0, 0), (2, 1, 0)], [(0, 1, 0), (1, 2, 0), (2, 0, 0)], ks=(1,))
    summary = evaluator.discovery(lambda users: np.eye(N_USERS, N_ITEMS, 1)[users], "view").summary()
    # Users 0 and 1 are shown their targets first, user 2 is shown item 3.
    assert {name: summary[name] for name in ("recall@1", "coverage@1", "users", "skipped")} == {
        "recall@1": 2 / 3,
        "coverage@1": 3 / N_ITEMS,
        "users": 3,
        "skipped": 0,
    }
    # One of the nine items is popular, item 0, which nobody is shown.
    assert summary["popular@1"] == 0


def test_a_sample_measures_some_of_the_users_as_the_whole_does():
    rng = np.random.default_rng(1)
    rows = [tuple(row) for row in rng.integers(0, [N_USERS, N_ITEMS, 3], (60, 3)).tolist()]
    evaluator, *_ = make(rows[:8], rows[8:])
    scores = rng.random((N_USERS, N_ITEMS))
    whole = evaluator.discovery(lambda users: scores[users], "view")
    some = evaluator.sample(2, seed=3).discovery(lambda users: scores[users], "view")
    assert 0 < len(some.users) <= 2 < len(whole.users)
    kept = np.isin(whole.users, some.users)
    assert whole.values["ndcg@3"][kept].tolist() == some.values["ndcg@3"].tolist()
    assert len(some.users) + some.skipped == 2
    assert evaluator.discovery(lambda users: scores[users], "view").users.tolist() == whole.users.tolist()
    with pytest.raises(ValueError, match=r"`users` should be an integer >= 1\. Received: users=0"):
        evaluator.sample(0)


class Towers:
    """Stands for a model of three finished stages with one coordinate each."""

    funnel, frozen_stages, owner = FUNNEL, 3, np.array([1, 2, 3])

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.users = rng.standard_normal((N_USERS, 3)).astype(np.float32)
        self.items = rng.standard_normal((N_ITEMS, 3)).astype(np.float32)

    def item_vectors(self):
        return self.items

    def user_vectors(self, features):
        return self.users[features["user_id"]]

    def scores(self, weights):
        """sum_k w_k s_k, with s_k the product of the first k coordinates."""
        cumulative = np.cumsum(self.users[:, None] * self.items, axis=2)
        return cumulative @ np.asarray(weights, float)


@settings(max_examples=25)
@given(ROWS, ROWS, st.integers(0, 9))
def test_results_are_those_of_the_definitions(known, held, seed):
    evaluator, new, met = make(known, held)
    model = Towers(seed)
    log = [
        {"objective": "view", "phase": "fit", "epoch": 1},
        {"objective": "view", "phase": "freeze", "measured": {"view": {"recall@3": 0.25}}},
        {
            "objective": "cart",
            "phase": "freeze",
            "measured": {"view": {"recall@3": 0.25}, "cart": {"recall@3": 0.5}},
        },
    ]
    results, tables, *_ = evaluate_model(model, evaluator, log)
    seen = {row[:2] for row in known}
    everything = np.full((N_USERS, N_ITEMS), -np.inf)
    for objective, name in enumerate(FUNNEL):
        own = model.scores(np.eye(3)[objective])
        buyers = [{row[0] for row in known if row[1:] == (item, objective)} for item in range(N_ITEMS)]
        anybody = [{row[0] for row in known if row[1] == item} for item in range(N_ITEMS)]
        means = {
            label: list(recalls(scores, seen, new, objective, 3).values())
            for label, scores in (
                ("own", own),
                ("fused", model.scores([1, 1, 1])),
                ("popularity", [[len(users) for users in buyers]] * N_USERS),
                ("popularity_any", [[len(users) for users in anybody]] * N_USERS),
            )
        }
        for label, leaf in (
            ("own", results["objectives"][name]),
            ("fused", results["fused"][name]),
            ("popularity", results["baselines"]["popularity"][name]),
            ("popularity_any", results["baselines"]["popularity_any"][name]),
        ):
            values = means[label]
            assert leaf["users"] == len(values)
            assert leaf["recall@3"] == pytest.approx(sum(values) / len(values) if values else 0, abs=1e-6)
            assert ("intervals" in leaf) == bool(values)
            low, high = leaf.get("intervals", {"recall@3": (0, 1)})["recall@3"]
            assert min([*values, 1]) - 1e-9 <= low <= high <= max([*values, 0]) + 1e-9 or not values
        of_objective = [{(u, i) for u, i, b in rows if b == objective} for rows in (new, met)]
        assert results["targets"][name] == dict(zip(("new", "met"), map(len, of_objective), strict=True))
        own_values = recalls(own, seen, new, objective, 3)
        assert tables[name, "discovery"].values["recall@3"].tolist() == pytest.approx([*own_values.values()])
        if not of_objective[1]:
            assert name not in results["met_shown"].get("objectives", {})
            continue
        done = {row[:2] for row in known if row[2] >= objective}
        upstream = {row[:2] for row in known if row[2] < objective}
        counting = everything.copy()
        for user, item in upstream:
            events = sum(row[:2] == (user, item) and row[2] < objective for row in known)
            reach = [len({r[0] for r in known if r[1:] == (item, b)}) for b in (0, objective)]
            counting[user, item] = events * (1 + reach[1]) / (1 + reach[0])
        shown = results["met_shown"]
        for scores, tree in (
            (own, shown["objectives"]),
            (model.scores([1, 1, 1]), shown["fused"]),
            (counting, shown["baselines"]["counting"]),
        ):
            values = list(recalls(scores, done, met, objective, 3).values())
            assert tree[name]["met"]["recall@3"] == pytest.approx(np.mean(values), abs=1e-6)
    assert results["metric"] == "recall@3"
    assert results["retention"] == {"view": {"view": 0.25, "cart": 0.25}, "cart": {"cart": 0.5}, "buy": {}}


def test_the_tradeoff_ends_at_each_objective_alone():
    rng = np.random.default_rng(1)
    rows = [tuple(row) for row in rng.integers(0, [N_USERS, N_ITEMS, 3], (60, 3)).tolist()]
    evaluator, *_ = make(rows[:20], rows[20:])
    model = Towers(0)
    weights, values = tradeoff(model, evaluator, np.eye(3))
    assert weights.tolist() == np.eye(3).tolist()
    alone = evaluate_model(model, evaluator, [])[0]["objectives"]
    assert values.diagonal().tolist() == [alone[name]["recall@3"] for name in FUNNEL]
