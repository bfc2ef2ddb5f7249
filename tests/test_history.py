"""Histories against a loop over the events, on random logs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from csmf_tf.data.history import History
from csmf_tf.data.log import EventLog

USERS, ITEMS = 5, 7
SECOND = 1_000_000


def make_log(events, timed=True, n_users=USERS):
    """A log of (user, item, behaviour, time) rows."""
    user, item, behavior, times = np.array(events, np.int64).reshape(-1, 4).T
    return EventLog(
        user=user.astype(np.int32),
        item=item.astype(np.int32),
        behavior=behavior.astype(np.int8),
        time=times if timed else None,
        users=np.array([f"u{code}" for code in range(n_users)], object),
        items=np.array([f"i{code}" for code in range(ITEMS)], object),
        funnel=("view", "buy"),
    )


EVENTS = st.lists(
    st.tuples(st.integers(0, USERS - 1), st.integers(0, ITEMS - 1), st.integers(0, 1), st.integers(-9, 9)),
    max_size=40,
)
ASKED = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(-12, 12)), min_size=1, max_size=8)
LENGTHS = st.integers(1, 6)


def done_by(user, events, behavior, timed=True):
    """(item, time) of a user's events of one behaviour, oldest first; equal times in the order of the log."""
    mine = [(item, time) for u, item, b, time in events if (u, b) == (user, behavior)]
    return sorted(mine, key=lambda event: event[1]) if timed else mine


def padded(items, length):
    last = items[-length:]
    return [-1] * (length - len(last)) + last


@given(events=EVENTS, asked=ASKED, length=LENGTHS, timed=st.booleans())
def test_latest_are_the_last_items_with_pads_in_front(events, asked, length, timed):
    history = History.of(make_log(events, timed), behavior=1)
    users = np.array([user for user, _ in asked])
    expected = [padded([item for item, _ in done_by(user, events, 1, timed)], length) for user, _ in asked]
    window = history.latest(users, length)
    assert window.tolist() == expected
    assert window.dtype == np.int32


@given(events=EVENTS, asked=ASKED, length=LENGTHS, unit=st.sampled_from([1, SECOND]))
def test_before_holds_what_happened_strictly_before(events, asked, length, unit):
    log = make_log([(u, i, b, time * unit) for u, i, b, time in events])
    users, times = np.array(asked).T
    expected = [
        padded([item for item, at in done_by(user, events, 1) if at < time], length) for user, time in asked
    ]
    window = History.of(log, behavior=1).before(users, times * unit, length)
    assert window.tolist() == expected
    assert window.dtype == np.int32


@given(events=EVENTS, asked=ASKED, length=LENGTHS, timed=st.booleans(), data=st.data())
def test_keep_is_the_history_of_the_kept_events(events, asked, length, timed, data):
    whole = History.of(make_log(events, timed), behavior=0)
    mask = data.draw(arrays(bool, len(whole.items)))
    kept = whole.keep(mask)
    users, times = np.array(asked).T
    entries = list(zip(whole.users, range(len(whole.items)), mask, strict=True))
    for row, (user, time) in enumerate(asked):
        left = [int(whole.items[n]) for owner, n, keep in entries if keep and owner == user]
        assert kept.latest(users, length)[row].tolist() == padded(left, length)
        if timed:
            left = [
                int(whole.items[n])
                for owner, n, keep in entries
                if keep and owner == user and whole.times[n] < time
            ]
            assert kept.before(users, times, length)[row].tolist() == padded(left, length)


def test_many_users_over_many_years_do_not_overflow():
    # Two million users times ten years of microseconds is beyond 64 bits.
    years, n_users = 10 * 365 * 86_400 * SECOND, 2_000_000
    users = np.arange(0, n_users, n_users // 16)
    events = [(user, item, 0, time) for user in users for item, time in ((1, 0), (2, years // 2), (3, years))]
    history = History.of(make_log(events, n_users=n_users), behavior=0)
    assert history.before(users, np.full(16, years), 4).tolist() == [[-1, -1, 1, 2]] * 16
    assert history.before(users, np.full(16, 1), 4).tolist() == [[-1, -1, -1, 1]] * 16


def test_int32_user_codes_do_not_overflow():
    log = make_log([(4, 1, 0, 0), (4, 2, 0, 2**40)])
    window = History.of(log, behavior=0).before(np.array([4], np.int32), np.array([2**40]), 1)
    assert window.tolist() == [[1]]


def test_before_without_times_is_an_error_that_names_latest():
    history = History.of(make_log([(0, 1, 0, 0)], timed=False), behavior=0)
    with pytest.raises(ValueError, match=r"`before` needs a log with times. Received: one without; use `lat"):
        history.before(np.array([0]), np.array([1]), 2)
