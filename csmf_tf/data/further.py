"""A further behaviour for a log that is split already."""

from dataclasses import replace

import numpy as np

from csmf_tf.data.log import EventLog
from csmf_tf.data.splits import Kind, Split, tell_apart


def add_behavior(split: Split, log: EventLog, kind: Kind, seed: int = 0) -> Split:
    """Appends a behaviour to a split so that nothing held out before is learned from now.

    An event goes where its (user, item) pair is: to test, validation or training. Pairs that are new are
    drawn into the three parts, as many of a hundred as of the old ones (own choice). Under `"time"` the old
    cut holds too: a new pair is a test target when its first event comes after the last old event of training
    and validation; a later event of a pair that is known by then is a met target, unless the pair has the new
    behaviour by then, and earlier events of a test pair are left out.

    Args:
        split: the old parts.
        log: events of the one new behaviour, coded like `split`; see `read_log(users=, items=)`.
        kind: the kind of the old split.
        seed: seed of the draws, >= 0.

    Returns:
        The parts with the new events last and the new behaviour last in their funnels. Unknown users and
        items are those of the old log.

    Raises:
        ValueError: if no event is left for training, or none for a validation part that others have.

    Example:
    >>> ids = np.array(["a", "b", "c"], dtype=object)
    >>> def log(user, item, name):
    ...     return EventLog(
    ...         np.array(user), np.array(item), np.zeros(len(user), np.int8), None, ids, ids, name
    ...     )
    >>> train, test = log([0, 1], [0, 1], ("view",)), log([0, 1], [2, 2], ("view",))
    >>> old = Split(train, train.take(np.zeros(0, int)), test, test.take(np.zeros(0, int)), 0, 0, 0, 0)
    >>> new = add_behavior(old, log([0, 0], [0, 2], ("buy",)), "leave_last")
    >>> new.train.behavior.tolist(), new.test.item.tolist(), new.test.funnel
    ([0, 0, 1], [2, 2, 2], ('view', 'buy'))
    """
    parts = (split.train, split.validation, split.test)
    rng = np.random.default_rng([seed, len(split.train.funnel)])
    old, first = np.unique(np.concatenate([part.pairs for part in parts]), return_index=True)
    part_of = np.repeat(np.arange(3), [len(part) for part in parts])[first]
    new, pair = np.unique(log.pairs, return_inverse=True)
    at = np.minimum(np.searchsorted(old, new), len(old) - 1)
    is_old = old[at] == new

    shares = np.bincount(part_of, minlength=3) / len(old)
    if kind == "time":
        cut = split.train.append(split.validation).time
        assert log.time is not None
        assert cut is not None
        late = log.time > cut.max()
        done = np.bincount(pair, ~late, len(new)) > 0
        drawn = rng.random(len(new)) < shares[1] / (shares[0] + shares[1])
        part = np.where(is_old, part_of[at], np.where(done, drawn, 2))[pair]
        later = late & (part < 2)
        part = np.select([late == (part == 2), later & ~done[pair]], [part, 3], -1)
        repeated = len(np.unique(pair[later & done[pair]]))
    else:
        part = np.where(is_old, part_of[at], rng.choice(3, len(new), p=shares))[pair]
        repeated = 0

    funnel = (*split.train.funnel, *log.funnel)
    log = replace(log, behavior=np.full(len(log), len(funnel) - 1, np.int8), funnel=funnel)
    added = [log.take(part == n) for n in range(4)]
    for name, old_part, events in zip(("training", "validation"), parts, added, strict=False):
        if len(old_part) and not len(events):
            raise ValueError(
                f"Behaviour '{funnel[-1]}' should have {name} events, of users and items that are known. "
                f"Received: none among {len(log)} events; give a log with more of them"
            )
    train, validation, test, met = (
        replace(before, funnel=funnel).append(events)
        for before, events in zip((*parts, split.met), added, strict=True)
    )
    # What was met may have been done by the new events.
    _, met, done_now = tell_apart(train.append(validation), met)
    repeated += split.repeated + done_now
    return split._replace(train=train, validation=validation, test=test, met=met, repeated=repeated)
