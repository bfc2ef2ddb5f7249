import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csmf_tf.data.groups import group

PAIRS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 20)), max_size=60)


@given(pairs=PAIRS, spare=st.integers(0, 3))
def test_groups_are_the_sorted_distinct_items_of_each_user(pairs, spare):
    n_users = 8 + spare
    groups = group(np.array([u for u, _ in pairs], int), np.array([i for _, i in pairs], int), n_users)
    expected = [sorted({item for user, item in pairs if user == u}) for u in range(n_users)]
    assert [groups.of(user).tolist() for user in range(n_users)] == expected
    assert groups.counts.tolist() == [len(items) for items in expected]
    assert (groups.offsets.dtype, groups.items.dtype) == (np.int64, np.int32)


@given(pairs=PAIRS, order=st.randoms(use_true_random=False))
def test_order_of_events_does_not_matter(pairs, order):
    shuffled = order.sample(pairs, len(pairs))
    one, other = (group(*np.array(p, int).reshape(-1, 2).T, 8) for p in (pairs, shuffled))
    np.testing.assert_array_equal(one.offsets, other.offsets)
    np.testing.assert_array_equal(one.items, other.items)


def test_codes_near_the_int32_limit_do_not_overflow():
    top = 2**31 - 1
    groups = group(np.array([1, 0, 1], np.int32), np.array([top, top, 0], np.int32), 2)
    assert [groups.of(0).tolist(), groups.of(1).tolist()] == [[top], [0, top]]


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [
        (
            [0, 1],
            [0],
            r"`users` and `items` should be .* of the same length. Received: shapes \(2,\) and \(1,\)",
        ),
        ([0, 3], [0, 0], r"`users` should be codes in 0..2 \(`n_users=3`\). Received: codes in 0..3"),
        ([-1, 0], [0, 0], r"`users` should be codes in 0..2 .* Received: codes in -1..0"),
        ([0, 1], [0, -4], "`items` should be codes >= 0. Received: -4"),
    ],
)
def test_errors_name_what_is_wrong(users, items, message):
    with pytest.raises(ValueError, match=message):
        group(np.array(users), np.array(items), 3)
