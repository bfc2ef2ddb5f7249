"""Signatures of an export: what each computes, over every index, beside numpy on the same vectors."""

import numpy as np
import pytest
from serving_cases import (
    DEFAULT,
    ITEMS,
    OWNER,
    USERS,
    WEIGHTS,
    WHOLE,
    D,
    K,
    N,
    asked,
    check_ranking,
    fused,
    log_probabilities,
    mixed,
    scores_of,
    write,
)

from csmf_tf._keras import tf


@pytest.fixture(scope="module", params=list(WHOLE))
def index(request):
    return request.param


@pytest.fixture(scope="module")
def model(index, tmp_path_factory):
    return write(tmp_path_factory.mktemp(index), index, WHOLE[index])


@pytest.fixture(scope="module")
def linear(index, tmp_path_factory):
    # 4k reaches the whole catalogue.
    return write(tmp_path_factory.mktemp(index), index, WHOLE[index], fusion="linear", k=100)


@pytest.fixture(scope="module")
def exact(tmp_path_factory):
    return write(tmp_path_factory.mktemp("exact"))


# The batch


@pytest.mark.parametrize("batch", [1, 3])
def test_first_dimension_is_the_batch(model, batch):
    users, weights = USERS[:batch], WEIGHTS[:batch]
    names = np.full([batch, 2], ITEMS[0], object)
    asked(model, "serving_default", user=users)
    asked(model, "embed_user", user=users)
    asked(model, "score", user=users, item_ids=names)
    asked(model, "embed_item", user=np.zeros(batch), tags=names)
    for signature, lists in [
        ("retrieve", {}),
        ("retrieve_excluding", {"exclude": names}),
        ("retrieve_among", {"among": names}),
    ]:
        asked(model, signature, user=users, weights=weights, **lists)
        asked(model, signature, user=users, weights=WEIGHTS[:1], **lists)


@pytest.mark.parametrize("signature", ["retrieve", "retrieve_excluding", "retrieve_among", "score"])
def test_batch_of_one_is_repeated_to_the_size_of_the_others(model, signature):
    names = np.array([["möbel 1", "möbel 2", "möbel 3"], ["möbel 4", "", "x"], ["möbel 1", "", ""]])
    inputs = {"user": USERS, "weights": WEIGHTS}
    inputs |= {"retrieve_excluding": {"exclude": names}, "retrieve_among": {"among": names}}.get(
        signature, {}
    )
    if signature == "score":
        inputs = {"user": USERS, "item_ids": names}
    for name, value in inputs.items():
        once = asked(model, signature, **inputs | {name: value[1:2]})
        thrice = asked(model, signature, **inputs | {name: np.repeat(value[1:2], 3, axis=0)})
        for output in once:
            np.testing.assert_array_equal(once[output], thrice[output])


def test_batches_that_do_not_fit_are_an_error(exact):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"[Ii]ncompatible shapes"):
        asked(exact, "retrieve", user=USERS, weights=WEIGHTS[:2])


# Weights


def test_retrieve_ranks_by_the_weighted_sum_of_scores(model):
    check_ranking(asked(model, "serving_default", user=USERS), fused(USERS, DEFAULT), 10)
    check_ranking(asked(model, "retrieve", user=USERS, weights=WEIGHTS), fused(USERS, WEIGHTS), 10)
    for one_hot in np.eye(K):
        answer = asked(model, "retrieve", user=USERS, weights=[one_hot])
        check_ranking(answer, fused(USERS, one_hot), 10)


@pytest.mark.parametrize("scale", [1e-30, 1e30, 1e37])
def test_large_and_small_weights_rank_as_their_ratios(model, scale):
    plain = asked(model, "retrieve", user=USERS, weights=WEIGHTS)
    scaled = asked(model, "retrieve", user=USERS, weights=WEIGHTS * np.float32(scale))
    np.testing.assert_array_equal(scaled["ids"], plain["ids"])
    np.testing.assert_allclose(scaled["scores"], plain["scores"].astype(np.float64) * scale, rtol=1e-5)


def test_scores_stay_within_float32_whatever_the_weights(model, linear):
    largest = np.finfo(np.float32).max
    for served in (model, linear):
        plain = asked(served, "retrieve", user=USERS * 10, weights=[[1, 1, 1]])
        answer = asked(served, "retrieve", user=USERS * 10, weights=[[largest] * 3])
        np.testing.assert_array_equal(answer["ids"], plain["ids"])
        assert np.isfinite(answer["scores"][answer["ids"] != ""]).all()
    assert asked(model, "retrieve", user=USERS * 10, weights=[[largest] * 3])["scores"].max() == largest


@pytest.mark.parametrize("none", [0.0, -0.0, 1e-45])
def test_rows_without_weight_take_the_default(model, linear, none):
    for served in (model, linear):
        answer = asked(served, "retrieve", user=USERS, weights=[[none] * 3, *WEIGHTS[1:]])
        by_default = asked(served, "serving_default", user=USERS)
        np.testing.assert_array_equal(answer["ids"][0], by_default["ids"][0])
        assert (answer["ids"][1] != by_default["ids"][1]).any()


@pytest.mark.parametrize("bad", [-1e-3, np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("signature", ["retrieve", "retrieve_excluding", "retrieve_among"])
def test_unfit_weights_are_an_error_everywhere(exact, linear, signature, bad):
    weights = WEIGHTS.copy()
    weights[1, 2] = bad
    lists = {"retrieve_excluding": "exclude", "retrieve_among": "among"}
    lists = {lists[signature]: [["möbel 1"]]} if signature in lists else {}
    for served in (exact, linear):
        with pytest.raises(tf.errors.InvalidArgumentError, match="finite and not negative"):
            asked(served, signature, user=USERS, weights=weights, **lists)


# Scores and embeddings


def test_score_is_the_softmax_of_the_whole_catalogue(model):
    everything = asked(model, "score", user=USERS, item_ids=[ITEMS])
    expected = log_probabilities(USERS)
    np.testing.assert_allclose(everything["log_scores"], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(everything["probabilities"], np.exp(expected), rtol=1e-4)
    np.testing.assert_allclose(everything["probabilities"].sum(axis=1), 1.0, rtol=1e-5)
    sums = scores_of(USERS).max(axis=1) - log_probabilities(USERS).max(axis=1)
    np.testing.assert_allclose(everything["log_partitions"], sums, rtol=1e-5)
    some = asked(model, "score", user=USERS, item_ids=[["möbel 7", "", "stranger", "möbel 7"]])
    np.testing.assert_array_equal(some["log_partitions"], everything["log_partitions"])
    np.testing.assert_allclose(some["log_scores"][:, [0, 3]], expected[:, [7, 7]], rtol=1e-5, atol=1e-5)
    assert (some["log_scores"][:, 1:3] == -np.inf).all()
    assert (some["probabilities"][:, 1:3] == 0.0).all()


def test_ranking_is_that_of_the_weighted_log_scores(exact):
    answer = asked(exact, "retrieve", user=USERS, weights=WEIGHTS)
    scored = asked(exact, "score", user=USERS, item_ids=answer["ids"])["log_scores"]
    sums = np.einsum("bak,bk->ba", scored, WEIGHTS)
    differences = (answer["scores"] - sums).std(axis=1)
    np.testing.assert_allclose(differences, 0.0, atol=1e-5)


def test_embeddings_are_those_of_the_towers_where_an_objective_owns_them(exact):
    owned = OWNER > 0
    embedding = asked(exact, "embed_user", user=USERS)["embedding"]
    np.testing.assert_array_equal(embedding, np.where(owned, USERS, 0.0))
    features = {"user": [1.5, -2.0], "tags": [["a", ""], ["a", "b"]]}
    embedding = asked(exact, "embed_item", **features)["embedding"]
    np.testing.assert_array_equal(embedding[:, owned][:, :-1], [[1.5] * 6, [-2.0] * 6])
    np.testing.assert_array_equal(embedding[:, [2, D - 1]], [[0.0, 1.0], [0.0, 2.0]])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e10])
def test_unusable_user_has_no_results_and_leaves_the_others_alone(model, linear, bad):
    users = USERS.copy()
    users[1, 0] = bad
    for served in (model, linear):
        for signature, lists in [
            ("retrieve", {}),
            ("retrieve_excluding", {"exclude": [ITEMS[:3]]}),
            ("retrieve_among", {"among": [ITEMS[:30]]}),
        ]:
            plain = asked(served, signature, user=USERS, weights=WEIGHTS, **lists)
            answer = asked(served, signature, user=users, weights=WEIGHTS, **lists)
            assert (answer["ids"][1] == "").all()
            np.testing.assert_array_equal(answer["ids"][[0, 2]], plain["ids"][[0, 2]])
    scored = asked(model, "score", user=users, item_ids=[ITEMS[:4]])
    assert (scored["log_scores"][1] == -np.inf).all()
    assert (scored["probabilities"][1] == 0.0).all()
    np.testing.assert_allclose(scored["log_partitions"][1], np.log(N), rtol=1e-6)
    np.testing.assert_allclose(scored["log_scores"][[0, 2]], log_probabilities(USERS)[[0, 2], :4], atol=1e-5)


def test_what_no_objective_owns_harms_nothing(exact):
    users = USERS.copy()
    users[:, 2] = np.nan
    answer = asked(exact, "retrieve", user=users, weights=WEIGHTS)
    check_ranking(answer, fused(USERS, WEIGHTS), 10)


# Linear fusion


def test_linear_fusion_ranks_by_the_weighted_sum_of_probabilities(linear):
    answer = asked(linear, "retrieve", user=USERS, weights=WEIGHTS)
    check_ranking(answer, mixed(USERS, WEIGHTS), 100)
    by_log = -np.sort(-fused(USERS, WEIGHTS), axis=1)[:, :100]
    assert not np.allclose(answer["scores"], by_log)
    check_ranking(asked(linear, "serving_default", user=USERS), mixed(USERS, DEFAULT), 100)


def test_linear_fusion_ranks_the_shortlist_of_log_fusion(tmp_path):
    served = write(tmp_path, fusion="linear", k=5)
    users = USERS * 3
    answer = asked(served, "retrieve", user=users, weights=WEIGHTS)
    by_log = fused(users, WEIGHTS)
    shortlist = np.zeros_like(by_log, bool)
    np.put_along_axis(shortlist, np.argsort(-by_log, axis=1)[:, :20], True, axis=1)
    check_ranking(answer, mixed(users, WEIGHTS), 5, hidden=~shortlist)


def test_linear_fusion_tells_apart_what_underflows(linear):
    users = USERS * 300
    among = [["möbel 11", "möbel 12", "möbel 13", "möbel 14"]]
    answer = asked(linear, "retrieve_among", user=users, weights=WEIGHTS, among=among)
    log_p = log_probabilities(users)[:, 11:15]
    with np.errstate(divide="ignore"):
        log_mixture = np.logaddexp.reduce(log_p + np.log(WEIGHTS)[:, np.newaxis], axis=2)
    assert (answer["scores"][:, :4] < 1e-38).any()
    np.testing.assert_array_equal(
        answer["ids"][:, :4], np.array(ITEMS[11:15], object)[np.argsort(-log_mixture, axis=1)]
    )
