"""Splits of an event log into training, validation and test events."""

from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from csmf_tf.data.groups import flags
from csmf_tf.data.log import EventLog

Kind = Literal["time", "item_holdout", "leave_last"]
KINDS: tuple[Kind, ...] = ("time", "item_holdout", "leave_last")


class Split(NamedTuple):
    """The parts of a log with one vocabulary: the users and items of `train`.

    Known are the events of `train` and `validation`.

    Attributes:
        train: the events to learn from.
        validation: events of some users, held out of training by the same kind of split; may be empty.
        test: the events to be predicted, with items of which the user has no known event.
        met: further events to be predicted, with items of which the user has known events, but of earlier
            behaviours only; empty but in a time split.
        repeated: number of distinct (user, item, behaviour) test targets that are left out, since the user
            has a known event with the item of that behaviour or of a later one.
        unknown_targets: number of distinct (user, item, behaviour) test targets that are left out, since the
            user or the item has no training event.
        unknown_users: number of users of the test part without a training event; their events are left out.
        unknown_items: number of items of the test part without a training event; their events are left out.
    """

    train: EventLog
    validation: EventLog
    test: EventLog
    met: EventLog
    repeated: int
    unknown_targets: int
    unknown_users: int
    unknown_items: int


def split_log(
    log: EventLog,
    kind: Kind,
    *,
    at: float = 0.9,
    fraction: float = 0.1,
    seed: int = 0,
    validation_users: float = 0.15,
) -> Split:
    """Splits a log so that no test or validation target is known of its user from training.

    - `"time"`: one cut for everyone, at the `at` quantile of the event times; the test part begins at it.
    - `"item_holdout"`: for each user, `fraction` of the distinct items over all behaviours is drawn (rounded
      to nearest, at least one, and one item stays), and every event with them is the test part.
    - `"leave_last"`: for each user, every event with the item of the latest event (of equal times, the later
      one in the file; without times, the last one in the file).

    Under the last two, users with one item keep it in training. The validation part is the same split of the
    rest once more [own choice], for a drawn share of the users so that little is lost to training. An event
    stays in training where its user or its item has no other training event, or the (user, item) pair is
    there already: so every validation target can be predicted.

    The result is exact under the seed. The events of each part keep the order of the log.

    Args:
        log: the events.
        kind: the kind of split.
        at: share of the events before the cut, in (0, 1); for `"time"`.
        fraction: share of each user's items to hold out, in (0, 1); for `"item_holdout"`.
        seed: seed of everything that is drawn, >= 0.
        validation_users: share of the users that validate, in [0, 1); 0 for no validation part.

    Returns:
        The parts, with users and items coded anew, since ids outside of training have no place in a model.

    Raises:
        ValueError: if an argument is out of range, a time split is asked of a log without times, or no
            training events (of some behaviour) or no test events are left.

    Example:
    >>> ids = np.array(["a", "b"], dtype=object)
    >>> user, item = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 1, 0], np.int32)
    >>> log = EventLog(user, item, np.zeros(4, np.int8), None, ids, ids, ("view",))
    >>> split = split_log(log, "leave_last", validation_users=0)
    >>> split.train.item.tolist(), split.test.item.tolist()
    ([0, 1], [1, 0])
    """
    _check(log, kind, at=at, fraction=fraction, seed=seed)
    if not 0 <= validation_users < 1:
        raise ValueError(
            f"`validation_users` should be in [0, 1). Received: validation_users={validation_users}."
        )
    draws, validation_draws, user_draws = _generators(seed)
    pair, pair_user = _code_pairs(log)
    held = _hold_out(log, pair, pair_user, kind, at, fraction, draws)
    rest, rest_pair = log.take(~held), pair[~held]
    test = log.take(held)
    if len(rest) and validation_users:
        held = _hold_out(rest, rest_pair, pair_user, kind, at, fraction, validation_draws)
        held &= _sampled_users(rest, validation_users, user_draws)[rest.user]
        held = _predictable(rest, rest_pair, held)
    else:
        held = np.zeros(len(rest), bool)
    train, validation = rest.take(~held), rest.take(held)

    known_users, known_items = flags(train.user, len(log.users)), flags(train.item, len(log.items))
    known_user, known_item = known_users[test.user], known_items[test.item]
    known = known_user & known_item
    new, met, repeated = tell_apart(rest, test.take(known))
    _check_parts(train, new, kind)
    return Split(
        train=_recode(train, known_users, known_items),
        validation=_recode(validation, known_users, known_items),
        test=_recode(new, known_users, known_items),
        met=_recode(met, known_users, known_items),
        repeated=repeated,
        unknown_targets=_count_targets(test.take(~known)),
        unknown_users=len(np.unique(test.user[~known_user])),
        unknown_items=len(np.unique(test.item[~known_item])),
    )


def held_out(
    log: EventLog, kind: Kind, *, at: float = 0.9, fraction: float = 0.1, seed: int = 0
) -> np.ndarray:
    """Which events `split_log` holds out for testing, before it leaves out what cannot be predicted.

    Args:
        log: the events.
        kind: as in `split_log`.
        at: as in `split_log`.
        fraction: as in `split_log`.
        seed: as in `split_log`.

    Returns:
        bool `[n]`, in the order of the log.

    Raises:
        ValueError: as `split_log`, for its arguments.

    Example:
    >>> ids = np.array(["a", "b"], dtype=object)
    >>> user, item = np.array([0, 0, 1, 1], np.int32), np.array([0, 1, 1, 0], np.int32)
    >>> log = EventLog(user, item, np.zeros(4, np.int8), None, ids, ids, ("view",))
    >>> held_out(log, "leave_last").tolist()
    [False, True, False, True]
    """
    _check(log, kind, at=at, fraction=fraction, seed=seed)
    return _hold_out(log, *_code_pairs(log), kind, at, fraction, _generators(seed)[0])


def tell_apart(known: EventLog, held: EventLog) -> tuple[EventLog, EventLog, int]:
    """Tells held-out events apart by what their users did before.

    Args:
        known: the known events.
        held: events of the same users and items.

    Returns:
        The new ones, whose user has no known event with the item; the met ones, whose user has some, but of
        earlier behaviours only; and the number of distinct (user, item, behaviour) of the rest, which only
        repeat what the user has done.

    Example:
    >>> ids = np.array(["a", "b"], dtype=object)
    >>> user, item = np.zeros(3, np.int32), np.array([0, 1, 0], np.int32)
    >>> log = EventLog(user, item, np.array([0, 1, 1], np.int8), None, ids, ids, ("view", "buy"))
    >>> new, met, repeated = tell_apart(log.take([0]), log.take([0, 1, 2]))
    >>> new.item.tolist(), met.item.tolist(), repeated
    ([1], [0], 1)
    """
    pairs, at = np.unique(known.pairs, return_inverse=True)
    # A last entry for pairs without a known event.
    furthest = np.full(len(pairs) + 1, -1, np.int8)
    np.maximum.at(furthest, at, known.behavior)
    keys = held.pairs
    place = np.searchsorted(pairs, keys)
    place[(place < len(pairs)) & (np.append(pairs, -1)[place] != keys)] = len(pairs)
    reached = furthest[place]
    repeated = _count_targets(held.take(reached >= held.behavior))
    return held.take(reached < 0), held.take((reached >= 0) & (reached < held.behavior)), repeated


def _count_targets(log: EventLog) -> int:
    return len(np.unique(log.pairs * len(log.funnel) + log.behavior))


def _generators(seed: int) -> list[np.random.Generator]:
    """For the test part, the validation part, and the users of the latter."""
    return [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]


def _hold_out(
    log: EventLog,
    pair: np.ndarray,
    pair_user: np.ndarray,
    kind: Kind,
    at: float,
    fraction: float,
    rng: np.random.Generator,
) -> np.ndarray:
    if kind == "time":
        return _after_cut(log, at)
    if kind == "leave_last":
        return _last_items(log, pair, pair_user)
    return _drawn_items(pair, pair_user, fraction, rng)


def _after_cut(log: EventLog, at: float) -> np.ndarray:
    assert log.time is not None
    position = int(at * len(log))
    return log.time >= np.partition(log.time, position)[position]


def _drawn_items(
    pair: np.ndarray, pair_user: np.ndarray, fraction: float, rng: np.random.Generator
) -> np.ndarray:
    present = np.flatnonzero(flags(pair, len(pair_user)))
    owner = pair_user[present]
    counts = np.bincount(owner, minlength=pair_user[-1] + 1)
    drawn = np.minimum(np.maximum(np.floor(fraction * counts + 0.5), 1), counts - 1)
    shuffled = np.lexsort((rng.random(len(owner)), owner))
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    held = np.zeros(len(pair_user), bool)
    held[present[shuffled]] = place < drawn[owner]
    return held[pair]


def _last_items(log: EventLog, pair: np.ndarray, pair_user: np.ndarray) -> np.ndarray:
    by_time = np.arange(len(log)) if log.time is None else np.argsort(log.time, kind="stable")
    last = np.full(len(log.users), -1)
    # Of repeated indices numpy keeps the last assignment, here the latest event.
    last[log.user[by_time]] = pair[by_time]
    counts = np.bincount(pair_user[flags(pair, len(pair_user))], minlength=len(log.users))
    return (pair == last[log.user]) & (counts[log.user] > 1)


def _sampled_users(log: EventLog, share: float, rng: np.random.Generator) -> np.ndarray:
    users = np.flatnonzero(flags(log.user, len(log.users)))
    return flags(rng.permutation(users)[: int(np.ceil(share * len(users)))], len(log.users))


def _predictable(log: EventLog, pair: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Narrows a held-out mask to users and items that stay known in training, and pairs not met there."""
    known_users = flags(log.user[~held], len(log.users))
    known_items = flags(log.item[~held], len(log.items))
    held = held & known_users[log.user] & known_items[log.item]
    return held & ~flags(pair[~held], pair.max() + 1)[pair]


def _code_pairs(log: EventLog) -> tuple[np.ndarray, np.ndarray]:
    """Codes the distinct (user, item) pairs by user; returns each event's pair and each pair's user."""
    pairs, pair = np.unique(log.pairs, return_inverse=True)
    return pair, pairs // len(log.items)


def _recode(log: EventLog, known_users: np.ndarray, known_items: np.ndarray) -> EventLog:
    return replace(
        log,
        user=(np.cumsum(known_users, dtype=np.int32) - 1)[log.user],
        item=(np.cumsum(known_items, dtype=np.int32) - 1)[log.item],
        users=log.users[known_users],
        items=log.items[known_items],
    )


def _check(log: EventLog, kind: str, *, at: float, fraction: float, seed: int) -> None:
    if kind not in KINDS:
        raise ValueError(f"`kind` should be one of {', '.join(KINDS)}. Received: kind={kind!r}.")
    for name, share in (("at", at), ("fraction", fraction)):
        if not 0 < share < 1:
            raise ValueError(f"`{name}` should be between 0 and 1 (both excluded). Received: {name}={share}.")
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"`seed` should be an integer >= 0. Received: seed={seed!r}.")
    if kind == "time" and log.time is None:
        raise ValueError(
            "A time split should have a log with times. Received: a log without; "
            "name its `timestamp` column, or take the split `item_holdout`."
        )
    if not len(log):
        raise ValueError("`log` should hold events. Received: an empty log.")


def _check_parts(train: EventLog, test: EventLog, kind: str) -> None:
    counts = np.bincount(train.behavior, minlength=len(train.funnel))
    absent = [name for name, count in zip(train.funnel, counts, strict=True) if not count]
    if absent:
        raise ValueError(
            f"The {kind} split should leave training events of every behaviour. "
            f"Received: none of {', '.join(absent)}; hold out less, or shorten the funnel."
        )
    if not len(test):
        raise ValueError(
            f"The {kind} split should leave test events whose users and items are known from training "
            "and not met there. Received: none; hold out more, or take another kind of split."
        )
