"""Metrics of users as runs would have left them, for the tests of comparisons."""

import numpy as np

from csmf_tf.data.stream import objects
from csmf_tf.evaluation.user_results import UserResults, UserTable

METRICS = ("recall@10", "ndcg@10", "recall@50")
USERS = {"view": 120, "buy": 40}


def results(name, shift=0.0, objectives=("view", "buy"), kinds=("discovery",), metrics=METRICS, seed=0):
    """Results in which `shift` makes users better; runs of another seed have their users in another order."""
    tables = {}
    for objective in objectives:
        for kind in kinds:
            n = USERS[objective]
            rng = np.random.default_rng(n)
            base = {metric: rng.beta(0.5, 2, size=n) for metric in METRICS}
            noise = np.random.default_rng(seed).normal(shift, 0.05 if seed else 0, size=n)
            order = np.random.default_rng(seed).permutation(n)
            values = {metric: np.clip(base[metric] + noise, 0, 1)[order] for metric in metrics}
            users = objects([f"u{i}" for i in range(n)])[order]
            tables[objective, kind] = UserTable(users, values, f"{objective} {kind}")
    return UserResults(name, tables, split={"kind": "time"})
