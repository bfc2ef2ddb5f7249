"""Leak checks: what of a log's test part stands in its training part, and what else makes measuring wrong."""

from collections.abc import Mapping

import numpy as np

from csmf_tf.data import log_checks
from csmf_tf.data.findings import Finding, Report, Value, count, share
from csmf_tf.data.groups import flags
from csmf_tf.data.log import EventLog
from csmf_tf.data.log_checks import Pairs


def check(
    log: EventLog,
    test: np.ndarray,
    training: np.ndarray,
    *,
    met_apart: bool = False,
    split: Mapping[str, Value] | None = None,
) -> Report:
    """Looks for leaks of a split, and for faults of its log.

    A target is a distinct (user, item) pair with a test event of an objective. It is *repeated* when the pair
    has a training event of the objective or of a later one, *met* when of earlier ones only, else *new*.

    Args:
        log: all events.
        test: bool `[n]`, the events to be predicted.
        training: bool `[n]`, the events that are known by then; what is in neither part is ignored.
        met_apart: whether the evaluation that follows leaves repeated targets out and reports met ones apart,
            as that of `csmf_tf` does; where it does not, such targets are a problem.
        split: what to call the split in the report, its kind and its settings, as in
            `{"kind": "time", "at": 0.9}`.

    Returns:
        A `Report` with the findings "split", "counts", "overlap", "targets", "unknown", "duplicates",
        "single-item users" and "times"; with more than one behaviour also "shortcut" and "funnel gaps"; with
        times also "future" and "file order".

    Raises:
        ValueError: if a mask does not fit the log, the masks share events, or `test` is empty.

    Example:
    >>> ids, user = np.array(["a", "b"], dtype=object), np.array([0, 0, 1, 1])
    >>> item, behavior = np.array([0, 0, 0, 1]), np.array([0, 1, 0, 0], np.int8)
    >>> log = EventLog(user, item, behavior, None, ids, ids, ("view", "buy"))
    >>> bought = log.behavior == 1
    >>> report = check(log, test=bought, training=~bought)
    >>> report["targets"].level, report["targets"].numbers["buy"]["in view"]
    ('problem', 1)
    >>> report["shortcut"].sentence
    "A rule that ranks what the user has 'view' but not yet 'buy' of would find 1 of 1 (100.0%) 'buy' targets,
    among 1 candidates a user."
    """
    _check_masks(log, test, training)
    pairs = Pairs.of(log)
    known, held = pairs.done(log, training), pairs.done(log, test)
    many = len(log.funnel) > 1
    findings = [parts(log, test, training, split or {})]
    findings += [log_checks.counts(log, pairs), log_checks.overlap(log, pairs)]
    findings += [targets(log, known, held, met_apart)]
    findings += [shortcut(log, pairs, known, held, met_apart)] if many else []
    findings += [unknown(log, pairs, known, held)]
    findings += [future(log, test, training)] if log.time is not None else []
    findings += [log_checks.duplicates(log, pairs)]
    findings += [log_checks.gaps(log, pairs)] if many else []
    findings += [log_checks.single_item_users(log, pairs), log_checks.times(log)]
    findings += [log_checks.file_order(log)] if log.time is not None else []
    return Report(tuple(findings))


def parts(log: EventLog, test: np.ndarray, training: np.ndarray, split: Mapping[str, Value]) -> Finding:
    """Which split it is, how large its parts are, and whether each objective has training events.

    Args:
        log: the events.
        test: bool `[n]`.
        training: bool `[n]`.
        split: see `check`.
    """
    numbers = dict(split)
    if split.get("kind") == "time" and log.time is not None:
        numbers["cut"] = log_checks.shown_time(log.time[test].min())
    settings = ", ".join(f"{name} {value}" for name, value in numbers.items() if name != "kind")
    sizes = {"training events": count(training), "test events": count(test)}
    if neither := len(log) - sum(sizes.values()):
        sizes["events in neither part"] = neither
    sentence = f"{split['kind']}{f' ({settings})' if settings else ''}: " if "kind" in split else ""
    sentence += ", ".join(f"{size:,} {name}" for name, size in sizes.items()) + "."
    trained = np.bincount(log.behavior[training], minlength=len(log.funnel))
    absent = [f"'{name}'" for name, n in zip(log.funnel, trained, strict=True) if not n]
    if absent:
        which = f"of {', '.join(absent)} " if training.any() else ""
        sentence += f" No event {which}is left to train on: hold out less"
        sentence += ", or leave it out of the funnel." if which else ", or take another kind of split."
    return Finding("split", "problem" if absent else "ok", sentence, numbers | sizes)


def targets(log: EventLog, known: np.ndarray, held: np.ndarray, met_apart: bool) -> Finding:
    """How many targets of each objective also stand in training, under each behaviour.

    Args:
        log: the events.
        known: bool `[P, K]`, what each pair has in training.
        held: bool `[P, K]`, what it has in the test part.
        met_apart: see `check`.
    """
    rows = {}
    for k, objective in enumerate(log.funnel):
        if not held[:, k].any():
            continue
        had = known[held[:, k]]
        repeated = had[:, k:].any(axis=1)
        rows[objective] = {
            "targets": len(had),
            **{f"in {name}": count(had[:, b]) for b, name in enumerate(log.funnel)},
            "new": count(~had.any(axis=1)),
            "met": count(had.any(axis=1) & ~repeated),
            "repeated": count(repeated),
        }
    total, new, met, repeated = (
        sum(row[column] for row in rows.values()) for column in ("targets", "new", "met", "repeated")
    )
    sentence = f"{share(total - new, total)} test targets also stand in training."
    if new == total:
        sentence += " Every one has to be discovered." if known.any() else " There is no training."
        return Finding("targets", "ok", sentence, rows)
    if met_apart:
        sentence += (
            f" The {repeated:,} repeated ones are no targets of the evaluator, the {met:,} met upstream are "
            "reported apart, and the headline is measured on the new ones: this does not leak."
        )
        return Finding("targets", "note", sentence, rows)
    sentence += (
        " What finds them remembers and does not discover: figures on this split are not those of retrieval. "
        "Hold out every event with a target's item (--split item_holdout) or, where there are times, cut by "
        "time (--split time), where met targets are reported apart."
    )
    return Finding("targets", "problem", sentence, rows)


def shortcut(log: EventLog, pairs: Pairs, known: np.ndarray, held: np.ndarray, met_apart: bool) -> Finding:
    """What the plainest rule finds of each later objective: items that the user met upstream, but no further.

    Args:
        log: the events.
        pairs: its P pairs.
        known: bool `[P, K]`, what each pair has in training.
        held: bool `[P, K]`, what it has in the test part.
        met_apart: see `check`.
    """
    rules, rows = {}, {}
    for k, objective in enumerate(log.funnel):
        is_target = held[:, k]
        if not k or not is_target.any():
            continue
        candidates = known[:, :k] & ~known[:, k:].any(axis=1, keepdims=True)
        found = (candidates & is_target[:, None]).sum(axis=0).tolist()
        best = int(np.argmax(found))
        asked = flags(pairs.user[is_target], len(log.users))
        shown = count(asked[pairs.user[candidates[:, best]]])
        rules[objective] = log.funnel[best]
        rows[objective] = {
            "targets": count(is_target),
            "found": found[best],
            "candidates a user": round(shown / count(asked)),
        }
    numbers = {name: {"ranks": f"{rules[name]}, no {name}", **row} for name, row in rows.items()}
    if not any(row["found"] for row in rows.values()):
        sentence = "No rule that ranks what the user met upstream finds a target."
        return Finding("shortcut", "ok", sentence, numbers)
    objective, row = max(rows.items(), key=lambda named: named[1]["found"] / named[1]["targets"])
    sentence = (
        f"A rule that ranks what the user has '{rules[objective]}' but not yet '{objective}' of would find "
        f"{share(row['found'], row['targets'])} '{objective}' targets, among "
        f"{row['candidates a user']:,} candidates a user."
    )
    return Finding("shortcut", "note" if met_apart else "problem", sentence, numbers)


def unknown(log: EventLog, pairs: Pairs, known: np.ndarray, held: np.ndarray) -> Finding:
    """Users and items of the test part that have no training event.

    Args:
        log: the events.
        pairs: its P pairs.
        known: bool `[P, K]`, what each pair has in training.
        held: bool `[P, K]`, what it has in the test part.
    """
    trained, tested = known.any(axis=1), held.any(axis=1)
    reach, absent = np.ones(len(held), bool), []
    for codes, size in ((pairs.user, len(log.users)), (pairs.item, len(log.items))):
        has_training, has_test = flags(codes[trained], size), flags(codes[tested], size)
        reach &= has_training[codes]
        absent.append((count(has_test & ~has_training), count(has_test)))
    (users, of_users), (items, of_items) = absent
    lost, whole = count(held[~reach]), count(held)
    sentence = (
        f"{share(users, of_users)} test users and {share(items, of_items)} test items have no training event."
    )
    if lost:
        sentence += (
            f" {share(lost, whole)} targets are theirs, out of reach of a model of ids: say whether a figure "
            "leaves them out, as that of `csmf-tf evaluate` does."
        )
    if most := 2 * lost > whole:
        sentence += (
            " So most targets cannot be measured, and the rest are those of the few who stay: hold out less, "
            "or hold out of each user (--split leave_last or item_holdout)."
        )
    numbers = {"users": users, "items": items, "targets": lost}
    return Finding("unknown", "problem" if most else "note" if lost else "ok", sentence, numbers)


def future(log: EventLog, test: np.ndarray, training: np.ndarray) -> Finding:
    """Test events that are followed by training events.

    Args:
        log: the events, with times.
        test: bool `[n]`.
        training: bool `[n]`.
    """
    assert log.time is not None
    last = np.full(len(log.users), np.iinfo(np.int64).min)
    np.maximum.at(last, log.user[training], log.time[training])
    followed = test & (log.time < last[log.user])
    numbers = {
        "test events": count(test),
        "followed": count(followed),
        "users": count(flags(log.user[followed], len(log.users))),
        "training events after the first test event": count(log.time[training] > log.time[test].min()),
    }
    of_events = share(numbers["followed"], numbers["test events"])
    later = numbers["training events after the first test event"]
    sentence = f"{of_events} test events come before training events of the same user."
    if numbers["followed"]:
        sentence += " The model learns from what came after the question; only --split time rules that out."
        return Finding("future", "problem", sentence, numbers)
    if later:
        sentence += (
            f" But {share(later, count(training))} training events, of other users, come after "
            "the first test event: what gets popular later is known too soon. --split time rules that out."
        )
    return Finding("future", "note" if later else "ok", sentence, numbers)


def _check_masks(log: EventLog, test: np.ndarray, training: np.ndarray) -> None:
    for name, mask in (("test", test), ("training", training)):
        if mask.dtype != bool or mask.shape != (len(log),):
            raise ValueError(
                f"`{name}` should be a bool array with one entry for each of the {len(log)} events. "
                f"Received: dtype {mask.dtype}, shape {mask.shape}."
            )
    if (test & training).any():
        raise ValueError(
            "`test` and `training` should have no event in common. "
            f"Received: {count(test & training)} events in both."
        )
    if not test.any():
        raise ValueError(
            "`test` should hold at least one event. Received: none; hold out more, or take another kind of "
            "split: users with a single item are not tested by those of items."
        )
