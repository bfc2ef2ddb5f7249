"""The quality benchmark's paired differences, by loops over all signs."""

import itertools
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

from benchmarks.quality.report import Result, paired, summarise, table

METRICS = ["recall@5", "ndcg@5"]
RNG = np.random.default_rng(0)
USERS = 9
EASE = RNG.normal(0, 5, USERS)


def results_of(above):
    """Two seeds of one method, whose users are above others on average."""
    summary = {
        "metrics": {"view": {}},
        "indexes": 1,
        "dims": 4,
        "seconds": 1.0,
        "fused": None,
        "notes": {},
        "met": None,
    }
    return [
        Result(summary, {f"view/{name}": EASE + above + RNG.normal(0, 0.3, USERS) for name in METRICS})
        for _ in "ab"
    ]


RESULTS = {"popularity": results_of(0.0), "heterrec": results_of(0.7), "sasrec": results_of(0.6)}


def p_by_loops(difference):
    sums = [abs(np.dot(signs, difference)) for signs in itertools.product([-1, 1], repeat=USERS)]
    return np.mean([one >= abs(difference.sum()) - 1e-9 for one in sums])


def test_differences_are_paired_by_user_and_their_p_values_adjusted_for_all():
    found = paired(RESULTS, "heterrec", METRICS)
    assert list(found) == ["popularity", "sasrec"]
    differences = {}
    for method, name in itertools.product(found, METRICS):
        means = [
            np.mean([seed.users[f"view/{name}"] for seed in RESULTS[m]], 0) for m in (method, "heterrec")
        ]
        differences[method, f"view/{name}"] = means[1] - means[0]
    plain = {key: p_by_loops(one) for key, one in differences.items()}
    least = 0.0
    for place, key in enumerate(sorted(plain, key=plain.get)):
        # Holm: the smallest of m counts m times, and none less than those before it.
        least = max(least, min(1.0, plain[key] * (len(plain) - place)))
        row = found[key[0]][key[1]]
        np.testing.assert_allclose(row["mean"], differences[key].mean(), atol=1e-5)
        np.testing.assert_allclose(row["p"], least, atol=1e-5)
        assert row["interval"][0] < row["mean"] < row["interval"][1]
    assert found["popularity"]["view/recall@5"]["p"] < 0.05


def test_the_table_has_them_where_there_is_a_sequential_model():
    text = table(summarise(RESULTS, METRICS), METRICS)
    assert "heterrec less popularity: view/recall@5 +" in text
    others = {name: RESULTS[name] for name in ("popularity", "sasrec")}
    assert "less" not in table(summarise(others, METRICS), METRICS)
