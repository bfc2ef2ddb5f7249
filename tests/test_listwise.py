"""Listwise multi-step prediction against slow loops, and its gradient."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csmf_tf._keras import tf
from csmf_tf.losses import listwise_multi_step, softmax_nll


def by_loops(logits, targets, weights, one_list):
    losses = []
    for row, ahead, parts in zip(logits.astype(np.float64), targets, weights, strict=True):
        known = {int(target) for target in ahead if target >= 0}
        loss = 0.0
        for target, weight in zip(ahead, parts, strict=True):
            if target < 0:
                continue
            against = (
                range(len(row)) if one_list else [j for j in range(len(row)) if j not in known or j == target]
            )
            loss -= weight * (row[target] - np.log(sum(np.exp(row[j]) for j in against)))
        losses.append(loss)
    return np.array(losses)


@pytest.mark.parametrize("one_list", [False, True])
@settings(max_examples=30)
@given(rows=st.integers(1, 5), steps=st.integers(1, 4), seed=st.integers(0, 99))
def test_against_loops(one_list, rows, steps, seed):
    rng = np.random.default_rng(seed)
    columns = steps + int(rng.integers(0, 4))
    logits = rng.normal(0, 3, (rows, columns)).astype(np.float32)
    targets = np.stack([rng.permutation(columns)[:steps] for _ in range(rows)])
    targets[rng.random(targets.shape) < 0.3] = -1
    weights = rng.random((rows, steps)).astype(np.float32)
    found = listwise_multi_step(logits, targets, weights, one_list)
    np.testing.assert_allclose(found, by_loops(logits, targets, weights, one_list), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("one_list", [False, True])
def test_one_step_is_the_softmax_of_the_next_item(one_list):
    rng = np.random.default_rng(0)
    logits, next_item = rng.normal(0, 3, (20, 30)).astype(np.float32), rng.integers(0, 30, 20)
    found = listwise_multi_step(logits, next_item[:, None], np.ones([20, 1]), one_list)
    np.testing.assert_allclose(found, softmax_nll(logits, next_item), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("one_list", [False, True])
def test_gradient_is_that_of_the_formula(one_list):
    rng = np.random.default_rng(1)
    logits = tf.constant(rng.normal(0, 2, (4, 7)))
    targets, weights = np.array([[0, 3], [5, -1], [2, 6], [-1, -1]]), rng.random((4, 2))

    def plain(logits):
        total = 0.0
        for row, ahead in enumerate(targets):
            for step, target in enumerate(ahead):
                if target >= 0:
                    out = [] if one_list else [other for other in ahead if other not in (target, -1)]
                    seen = tf.gather(logits[row], [j for j in range(7) if j not in out])
                    total += weights[row, step] * (tf.reduce_logsumexp(seen) - logits[row, target])
        return total

    gradients = []
    for loss in (plain, lambda x: tf.reduce_sum(listwise_multi_step(x, targets, weights, one_list))):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            value = loss(logits)
        gradients.append(tape.gradient(value, logits).numpy())
    np.testing.assert_allclose(gradients[1], gradients[0], atol=1e-6)


def test_large_logits_stay_finite():
    logits = tf.constant([[1e4, -1e4, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = listwise_multi_step(logits, [[1, 2]], [[0.5, 0.5]])
    assert np.isfinite(loss.numpy()).all()
    assert np.isfinite(tape.gradient(loss, logits).numpy()).all()
