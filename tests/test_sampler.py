"""The negatives of a batch: what is in it, and that each source, corrected, estimates the full softmax."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from csmf_tf.config import Edis, Msac, Negatives
from csmf_tf.data.groups import group
from csmf_tf.negatives.clusters import Clusters
from csmf_tf.negatives.sampler import NegativeSampler

ITEMS, ROWS = 24, 16
KINDS = ("in_batch", "uniform", "popularity", "funnel", "edis", "msac")
LEVEL1 = np.repeat([0, 1, 2], 8)
LEVEL2 = np.repeat(np.arange(6), 4)


def clusters():
    easy = np.array([[0, 0.7, 0.3], [0.6, 0, 0.4], [0.5, 0.5, 0]])
    centres = np.eye(3, dtype=np.float32)
    return Clusters(LEVEL1, LEVEL2, easy, centres, centres[LEVEL1])


def sampler_of(kind, **settings):
    rows = np.random.default_rng(0).integers(0, 9, ITEMS)
    pool = group(np.array([0, 0, 1]), np.array([3, 5, 3]), n_users=4)
    plan = {"uniform": 6, "popularity": 5, "funnel": 2, "clusters": 2, "anchors": 3} | settings
    return NegativeSampler(Negatives(kind=tuple(kind), **plan), rows, pool, clusters()), rows


@given(
    kind=st.sets(st.sampled_from(KINDS), min_size=1),
    hard=st.integers(0, 3),
    simple=st.booleans(),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_a_batch_holds_what_its_kinds_ask_for(kind, hard, simple, seed):
    rng = np.random.default_rng(seed)
    assume(simple or hard)
    edis = Edis(simple=simple, hard=min(hard, 2), low=0.2, cap=0.3)
    sampler, _ = sampler_of(kind, msac=Msac(hard=2), edis=edis)
    batch = sampler.draw(rng.integers(0, 4, ROWS), rng.integers(0, ITEMS, ROWS), rng)
    shared = 6 * ("uniform" in kind) + 5 * ("popularity" in kind)
    expected = {
        "negatives": ("int32", (shared,)),
        "log_q": ("float32", (ROWS + shared,)),
        "funnel_negatives": ("int32", (ROWS, 2 * ("funnel" in kind))),
    }
    if "msac" in kind:
        expected |= {"cluster_negatives": ("int32", (ROWS, 8)), "cluster_log_q": ("float32", (ROWS, 8))}
    if "edis" in kind:
        expected |= {"mixing": ("float32", (10 * simple, 6))}
        expected |= {"positive_share": ("float32", (ROWS, min(hard, 2)))}
        assert ((batch["positive_share"] >= 0.2) & (batch["positive_share"] <= 0.3)).all()
    if "edis" in kind and "msac" not in kind:
        expected |= {"anchors": ("int32", (6,)), "anchor_log_q": ("float32", (6,))}
    assert {name: (v.dtype.name, v.shape) for name, v in batch.items()} == expected
    assert all(np.isfinite(values).all() for values in batch.values())


@pytest.mark.parametrize(
    "kind",
    [
        ["uniform", "msac"],
        ["in_batch", "popularity", "msac"],
        ["in_batch", "uniform", "popularity"],
        ["msac"],
        ["uniform", "edis"],
        ["msac", "edis", "in_batch"],
    ],
)
def test_sources_estimate_the_full_softmax_in_proportion_to_their_numbers(kind):
    """The mean of sum exp(s) / Q over a source is its share of the negatives times the sum over the items."""
    rng = np.random.default_rng(1)
    sampler, rows = sampler_of(kind, msac=Msac(hard=2))
    scores, positive, repeats = np.random.default_rng(2).normal(size=ITEMS), 9, 4000
    frequency = rows / rows.sum()
    # In-batch negatives are items drawn as the positives are.
    counts = {
        "in_batch": (ROWS - 1) * ("in_batch" in kind),
        "uniform": 6 * ("uniform" in kind),
        "popularity": 5 * ("popularity" in kind),
        "msac": 8 * ("msac" in kind),
    }
    total = sum(counts.values())
    shared, clustered = [], []
    for _ in range(repeats):
        items = np.append(positive, rng.choice(ITEMS, ROWS - 1, p=frequency))
        batch = sampler.draw(np.zeros(ROWS, int), items, rng)
        codes = np.concatenate([items[1:] if "in_batch" in kind else [], batch["negatives"]]).astype(int)
        log_q = batch["log_q"][1:] if "in_batch" in kind else batch["log_q"][ROWS:]
        shared.append(np.exp(scores[codes] - log_q).sum())
        if "msac" in kind:
            drawn = batch["cluster_negatives"][0]
            clustered.append(np.exp(scores[drawn] - batch["cluster_log_q"][0])[drawn >= 0].sum())
    everything = np.exp(scores).sum()
    n_shared = counts["in_batch"] + counts["uniform"] + counts["popularity"]
    reach = everything if "uniform" in kind else np.exp(scores[rows > 0]).sum()
    # By clusters, all items but those of the positive's own level-2 cluster.
    near_duplicates = LEVEL2[positive]
    other = np.exp(scores[near_duplicates != LEVEL2]).sum()
    for found, expected in ((shared, n_shared / total * reach), (clustered, counts["msac"] / total * other)):
        if found:
            error = np.std(found) / np.sqrt(repeats)
            assert np.mean(found) == pytest.approx(expected, abs=4 * error + 1e-6)


def test_anchors_without_clusters_are_uniform_and_corrected_so():
    sampler, _ = sampler_of(["uniform", "edis"])
    rng = np.random.default_rng(3)
    batches = [sampler.draw(np.zeros(4, int), np.zeros(4, int), rng) for _ in range(2000)]
    counts = np.bincount(np.concatenate([batch["anchors"] for batch in batches]), minlength=ITEMS)
    assert stats.chisquare(counts).pvalue > 1e-3
    # 6 uniform negatives over 24 items; without them, 10 simple virtual ones and a hard one.
    np.testing.assert_allclose(batches[0]["anchor_log_q"], np.log(6 / 24), rtol=1e-6)
    alone = sampler_of(["edis"])[0].draw(np.zeros(4, int), np.zeros(4, int), rng)
    np.testing.assert_allclose(alone["anchor_log_q"], np.log(11 / 24), rtol=1e-6)


def test_popularity_negatives_are_drawn_by_a_power_of_the_counts():
    sampler, rows = sampler_of(["popularity"], popularity=50_000, popularity_power=0.5)
    drawn = sampler.draw(np.zeros(1, int), np.zeros(1, int), np.random.default_rng(0))["negatives"]
    expected = np.sqrt(rows) / np.sqrt(rows).sum()
    found = np.bincount(drawn, minlength=ITEMS)
    assert not found[rows == 0].any()
    assert stats.chisquare(found[rows > 0], 50_000 * expected[rows > 0]).pvalue > 1e-3


def test_log_q_off_is_zero_everywhere():
    for kind in (["uniform", "msac", "edis"], ["in_batch", "edis"]):
        sampler, _ = sampler_of(kind, log_q=False)
        batch = sampler.draw(np.zeros(4, int), np.zeros(4, int), np.random.default_rng(0))
        corrections = [values for name, values in batch.items() if name.endswith("log_q")]
        assert corrections
        assert not any(values.any() for values in corrections)


def test_msac_without_clusters_is_an_error():
    with pytest.raises(ValueError, match=r"`clusters` should be given for negatives of kind msac. Received"):
        NegativeSampler(Negatives(kind=("msac",)), np.ones(4, int))
