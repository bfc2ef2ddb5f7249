"""What a log tells about itself, whatever is held out of it: pure functions, each to one `Finding`."""

from typing import NamedTuple

import numpy as np

from csmf_tf.data.findings import Finding, Level, Value, count, share
from csmf_tf.data.groups import flags
from csmf_tf.data.log import EventLog

_EARLIEST, _LATEST = (np.datetime64(date, "us").astype(np.int64) for date in ("1990", "2101"))


class Pairs(NamedTuple):
    """The distinct (user, item) pairs of a log.

    Attributes:
        of_event: int64 `[n]`, which pair each event is of.
        user: int64 `[P]`, the user of each pair; ascending.
        item: int64 `[P]`, the item of each pair; ascending within a user.
    """

    of_event: np.ndarray
    user: np.ndarray
    item: np.ndarray

    @classmethod
    def of(cls, log: EventLog) -> "Pairs":
        """The pairs of a log."""
        keys, of_event = np.unique(log.pairs, return_inverse=True)
        return cls(of_event, *np.divmod(keys, len(log.items)))

    def done(self, log: EventLog, chosen: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Bool `[P, K]`: which behaviours a pair has among the chosen events of the log."""
        done = np.zeros((len(self.user), len(log.funnel)), bool)
        done[self.of_event[chosen], log.behavior[chosen]] = True
        return done


def counts(log: EventLog, pairs: Pairs) -> Finding:
    """Events, distinct pairs, users and items of each behaviour."""
    done = pairs.done(log)
    rows = {name: _size(log, pairs, done[:, b]) for b, name in enumerate(log.funnel)}
    events = np.bincount(log.behavior, minlength=len(log.funnel)).tolist()
    whole = _size(log, pairs, np.ones(len(done), bool))
    sentence = (
        f"{len(log):,} events of {whole['users']:,} users with {whole['items']:,} items, "
        f"{whole['pairs']:,} distinct pairs."
    )
    steps = zip(log.funnel, log.funnel[1:], strict=False)
    widening = [(one, other) for one, other in steps if rows[other]["pairs"] > rows[one]["pairs"]]
    for one, other in widening:
        sentence += f" '{other}' has more pairs than '{one}', which comes before it: is the funnel in order?"
    alike = _alike(log.funnel)
    for names in alike:
        quoted = " and ".join(f"'{name}'" for name in names)
        sentence += (
            f" {quoted} differ by case or blanks only and count as different behaviours: write them "
            "alike in the log."
        )
    numbers = {name: {"events": n, **rows[name]} for name, n in zip(log.funnel, events, strict=True)}
    return Finding("counts", "problem" if alike else "note" if widening else "ok", sentence, numbers)


def _alike(names: tuple[str, ...]) -> list[list[str]]:
    """The groups of names that are one name but for case and blanks."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault("".join(name.split()).casefold(), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _size(log, pairs, chosen):
    users = count(flags(pairs.user[chosen], len(log.users)))
    items = count(flags(pairs.item[chosen], len(log.items)))
    return {"pairs": count(chosen), "users": users, "items": items}


def overlap(log: EventLog, pairs: Pairs) -> Finding:
    """Of the distinct pairs with behaviour A (row), the share that also has behaviour B (column)."""
    done, names = pairs.done(log), log.funnel
    rows = {}
    for a, name in enumerate(names):
        also = done[done[:, a]]
        shares = also.mean(axis=0) if len(also) else np.zeros(len(names))
        rows[name] = dict(zip(names, shares.tolist(), strict=True))
    sentence = "There is one behaviour, so nothing overlaps."
    if len(names) > 1:
        sentence = (
            f"Of the pairs with '{names[-1]}', {rows[names[-1]][names[0]]:.1%} also have '{names[0]}'. "
            f"A split that held out '{names[-1]}' events alone would leave these pairs visible in training."
        )
    return Finding("overlap", "ok", sentence, rows)


def duplicates(log: EventLog, pairs: Pairs) -> Finding:
    """Events that repeat an earlier one: same user, item and behaviour, and time where there is one."""
    repeats = 0
    for b in range(len(log.funnel)):
        at = np.flatnonzero(log.behavior == b)
        of_event = pairs.of_event[at]
        if log.time is None:
            repeats += len(at) - count(flags(of_event, len(pairs.user)))
            continue
        at = at[np.bincount(of_event)[of_event] > 1]
        order = at[np.lexsort((log.time[at], pairs.of_event[at]))]
        repeats += count((np.diff(pairs.of_event[order]) == 0) & (np.diff(log.time[order]) == 0))
    same = "user, item and behaviour" if log.time is None else "user, item, behaviour and time"
    sentence = f"{share(repeats, len(log))} events repeat another one of the same {same}."
    if repeats:
        sentence += (
            " Targets and positives count once, but histories hold the repeats; drop them from the log."
        )
    return Finding("duplicates", "note" if repeats else "ok", sentence, {"events": repeats})


def single_item_users(log: EventLog, pairs: Pairs) -> Finding:
    """Users all of whose events have the same item."""
    items = np.bincount(pairs.user, minlength=len(log.users))
    users, single = count(items), count(items == 1)
    sentence = f"{share(single, users)} users have a single item."
    if single:
        sentence += " Splits by items keep it in training, so that these users are never tested."
    return Finding("single-item users", "note" if single else "ok", sentence, {"users": single, "of": users})


def gaps(log: EventLog, pairs: Pairs) -> Finding:
    """Downstream events of pairs without an upstream one, or, in a log with times, before the first one."""
    upstream = np.zeros(len(pairs.user), bool)
    first = np.full(len(pairs.user), np.iinfo(np.int64).max)
    rows: dict[str, dict[str, int]] = {}
    for b, name in enumerate(log.funnel):
        of_event = pairs.of_event[at := log.behavior == b]
        met = upstream[of_event]
        if b:
            rows[name] = {"events": len(met), "without upstream": count(~met)}
            if log.time is not None:
                rows[name]["before upstream"] = count(met & (log.time[at] < first[of_event]))
        upstream[of_event] = True
        if log.time is not None:
            np.minimum.at(first, of_event, log.time[at])
    total = {column: sum(row.get(column, 0) for row in rows.values()) for column in _GAPS}
    most = 2 * total["without upstream"] > total["events"]
    sentence = (
        f"{share(total['without upstream'], total['events'])} downstream events are of pairs without any "
        "earlier behaviour"
    )
    sentence += (
        "; `closure: true` counts them as upstream positives too." if total["without upstream"] else "."
    )
    if log.time is not None:
        sentence += f" {total['before upstream']:,} come before their pair's first upstream event"
        sentence += (
            ": coarse times, or a log with the last event of each pair alone."
            if total["before upstream"]
            else "."
        )
    if most:
        sentence += " That is most of them: is the funnel in the right order (upstream first)?"
    found = total["without upstream"] or total["before upstream"]
    return Finding("funnel gaps", "problem" if most else "note" if found else "ok", sentence, rows)


_GAPS = ("events", "without upstream", "before upstream")


def shown_time(micros: int) -> str:
    """A time, in microseconds since 1970, as people and machines read it.

    >>> shown_time(1_430_000_000_000_000)
    '2015-04-25T22:13:20'
    """
    return str(np.datetime64(int(micros), "us").astype("datetime64[s]"))


def times(log: EventLog) -> Finding:
    """Whether the times can be times: after 1990, before 2101, not all equal; and how many tie."""
    if log.time is None:
        sentence = (
            "The log has no times: no split by time and no histories as of the event; what users did is "
            "a set, or to `user_tower: heterrec` a sequence in the order of the file. Name a column with "
            "--timestamp, in a configuration in `log.timestamp`, if there is one."
        )
        return Finding("times", "note", sentence, {})
    first, last = log.time.min(), log.time.max()
    early, late = count(log.time < _EARLIEST), count(log.time >= _LATEST)
    earliest, latest = shown_time(first), shown_time(last)
    sentence = f"Events from {earliest} to {latest} (UTC)."
    if early or late:
        sentence += (
            f" {share(early + late, len(log))} lie before 1990 or after 2100, as if in another unit or by "
            "default: times should be unix seconds, milliseconds or ISO 8601."
        )
    if first == last and len(log) > 1:
        sentence += " All times are equal, so they order nothing: leave the column out."
    tied = _tied(log)
    if tied and first < last:
        sentence += (
            f" {share(tied, len(log))} have the time of another event of their user: `user_tower: heterrec` "
            "is trained on them in the order of the file."
        )
    level: Level = "problem" if early or late or (first == last and len(log) > 1) else "ok"
    numbers: dict[str, Value] = {
        "earliest": earliest,
        "latest": latest,
        "before 1990": early,
        "after 2100": late,
        "tied": tied,
    }
    return Finding("times", level, sentence, numbers)


def _tied(log):
    """How many events have the time of another event of their user."""
    order = np.lexsort((log.time, log.user))
    equal = (np.diff(log.user[order]) == 0) & (np.diff(log.time[order]) == 0)
    return count(np.append(equal, False) | np.append(False, equal))


def file_order(log: EventLog) -> Finding:
    """Rows of a log with times that are earlier than the row above them."""
    assert log.time is not None
    rows = count(np.diff(log.time) < 0)
    sentence = f"{share(rows, len(log))} rows are earlier than the row above."
    if rows:
        sentence += (
            " Nothing here minds, as events are sorted by time; tools that trust the file's order would."
        )
    return Finding("file order", "note" if rows else "ok", sentence, {"rows": rows})
