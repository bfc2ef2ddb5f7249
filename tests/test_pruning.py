"""Cumulative percentile pruning, against the definition in exact fractions."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from csmf_tf.masking.pruning import cumulative_percentile_prune, prune_to_count


def by_definition(values, owned, tau):
    """Walks through the owned weights by size, freeing while the sum stays within `tau` of the total."""
    ranked = sorted((abs(Fraction(float(v))), n) for n, v in enumerate(values.flat) if owned.flat[n])
    total, passed, freed = sum(size for size, _ in ranked), Fraction(0), np.zeros(values.shape, bool)
    for size, n in ranked:
        passed += size
        freed.flat[n] = passed <= Fraction(tau) * total
    return freed


@st.composite
def layers(draw, elements):
    values = draw(hnp.arrays(np.float64, hnp.array_shapes(max_dims=3, max_side=6), elements=elements))
    return values, draw(hnp.arrays(bool, values.shape))


# Small integers and dyadic taus: every sum and product is exact in float64.
exact_layers = layers(st.integers(-20, 20).map(float))
exact_taus = st.integers(0, 63).map(lambda n: n / 64)
float_layers = layers(st.floats(-1e6, 1e6, width=32))


@given(exact_layers, exact_taus)
def test_frees_what_the_definition_frees(layer, tau):
    values, owned = layer
    np.testing.assert_array_equal(
        cumulative_percentile_prune(values, owned, tau), by_definition(values, owned, tau)
    )


@given(float_layers, st.floats(0, 1, exclude_max=True))
def test_frees_at_most_its_share_of_the_mass_and_not_one_weight_less(layer, tau):
    values, owned = layer
    freed = cumulative_percentile_prune(values, owned, tau)
    kept, sizes = owned & ~freed, np.abs(values)
    budget, slack = tau * sizes[owned].sum(), 1e-9 * sizes[owned].sum()
    assert not np.any(freed & ~owned)
    assert sizes[freed].sum() <= budget + slack
    if kept.any():
        assert sizes[freed].max(initial=0) <= sizes[kept].min()
        assert sizes[freed].sum() + sizes[kept].min() >= budget - slack


@given(float_layers, st.floats(0, 0.99), st.floats(0, 0.99))
def test_a_larger_tau_frees_more(layer, one, other):
    values, owned = layer
    few, many = (cumulative_percentile_prune(values, owned, tau) for tau in sorted((one, other)))
    assert not np.any(few & ~many)


@given(float_layers, st.floats(0, 0.99), st.data())
def test_weights_of_others_make_no_difference(layer, tau, data):
    values, owned = layer
    noise = data.draw(
        hnp.arrays(np.float64, values.shape, elements=st.sampled_from([0.0, 1e9, np.nan, np.inf]))
    )
    np.testing.assert_array_equal(
        cumulative_percentile_prune(np.where(owned, values, noise), owned, tau),
        cumulative_percentile_prune(values, owned, tau),
    )


@pytest.mark.parametrize(("tau", "count"), [(0.2, 0.496), (0.3, 0.602), (0.5, 0.761)])
def test_share_of_the_count_for_gaussian_weights(tau, count):
    # With density 2 phi(t) of |w|, the mass below t is 1 - exp(-t^2 / 2) and the count is erf(t / sqrt 2).
    values = np.random.default_rng(0).normal(size=(400, 500)).astype(np.float32)
    freed = cumulative_percentile_prune(values, np.full(values.shape, True), tau)
    assert freed.mean() == pytest.approx(count, abs=0.005)


def test_equal_weights_are_freed_in_index_order():
    owned = np.array([True, True, False, True, True])
    freed = cumulative_percentile_prune(np.array([2.0, -2.0, 2.0, 2.0, -2.0]), owned, tau=0.5)
    assert freed.tolist() == [True, True, False, False, False]


@given(float_layers, st.data())
def test_count_keeps_the_largest(layer, data):
    values, owned = layer
    keep = data.draw(st.integers(0, int(owned.sum())))
    freed, tau = prune_to_count(values, owned, keep)
    kept, sizes = owned & ~freed, np.abs(values)
    assert not np.any(freed & ~owned)
    assert kept.sum() == keep
    assert sizes[freed].max(initial=0) <= sizes[kept].min(initial=np.inf)
    assert tau * sizes[owned].sum() == pytest.approx(sizes[freed].sum(), rel=1e-9, abs=1e-300)


@given(layers(st.floats(2**-10, 2**10, width=32)), st.data())
def test_the_tau_that_a_count_amounts_to_frees_the_same(layer, data):
    values, owned = layer
    keep = data.draw(st.integers(min(1, int(owned.sum())), int(owned.sum())))
    freed, tau = prune_to_count(values, owned, keep)
    assert 0 <= tau < 1
    np.testing.assert_array_equal(cumulative_percentile_prune(values, owned, tau), freed)


VALUES, OWNED = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cumulative_percentile_prune(VALUES, OWNED, 1.2), r"`tau` should be in \[0, 1\).* tau=1\.2"),
        (lambda: cumulative_percentile_prune(VALUES, OWNED, 1), r"`tau` should be in \[0, 1\).* tau=1"),
        (
            lambda: cumulative_percentile_prune(VALUES, OWNED, -0.1),
            r"`tau` should be in \[0, 1\).* tau=-0\.1",
        ),
        (
            lambda: cumulative_percentile_prune(VALUES, OWNED, np.nan),
            r"`tau` should be in \[0, 1\).* tau=nan",
        ),
        (lambda: cumulative_percentile_prune(VALUES, OWNED[:2], 0.5), r"`owned` .* \(3,\).* shape \(2,\)"),
        (
            lambda: cumulative_percentile_prune(VALUES, VALUES, 0.5),
            r"`owned` should be a bool mask.* float64",
        ),
        (
            lambda: cumulative_percentile_prune(VALUES / 0 * 0, OWNED, 0.5),
            r"`values` .* 2 values .* diverged",
        ),
        (lambda: prune_to_count(VALUES, OWNED, 3), r"`keep` should be an integer in 0\.\.2, .* keep=3"),
        (lambda: prune_to_count(VALUES, OWNED, -1), r"`keep` should be an integer in 0\.\.2, .* keep=-1"),
        (
            lambda: prune_to_count(VALUES, OWNED, 0.5),  # type: ignore[arg-type]
            r"`keep` should be an integer in 0\.\.2, .* keep=0\.5",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in")
def test_errors_say_what_was_wrong_and_what_was_received(call, message):
    with pytest.raises(ValueError, match=message):
        call()
