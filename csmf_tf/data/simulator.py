"""A simulated funnel log whose preferences are known, so that the best possible ranking is known too."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.csv

from csmf_tf.data.log import EventLog, check_funnel, in_order
from csmf_tf.data.stream import objects
from csmf_tf.progress import bar

# Own choices that make a log as skewed and as sparse downstream as public funnel logs are.
_UTILITY_SPREAD, _TURN = 2.0, 0.8
_GO_ON = (0.25, 0.35)
_START, _DAYS, _WAIT_SECONDS = 1_700_000_000, 60, 600.0
_CELLS = 1 << 22


class Truth(NamedTuple):
    """The preferences behind a simulated log.

    User `u` finds for objective `k` in item `i` the utility [own choice]

        x_k(u, i) = <z_u, A_k q_i> + b_k(i) + c_k

    where `A_0` is the identity (`c_0 = 0`) and each later `A_k` turns `q_i` only part of the way, so that the
    objectives agree in part. The next item that `u` views is `i` with probability softmax(x_0(u, .))(i), and
    from there it goes on to objective `k` with probability sigmoid(x_k(u, i)), step by step.

    Attributes:
        users: float32 `[U, d]`, z.
        items: float32 `[N, d]`, q.
        maps: float32 `[K, d, d]`, A.
        bias: float32 `[K, N]`, b.
        intercept: float32 `[K]`, c.
    """

    users: np.ndarray
    items: np.ndarray
    maps: np.ndarray
    bias: np.ndarray
    intercept: np.ndarray

    def utility(self, objective: int, user_rows: np.ndarray) -> np.ndarray:
        """Returns x_k of some users and every item, float32 `[B, N]`; `objective` counts from 0."""
        items = self.items @ self.maps[objective].T
        return self.users[user_rows] @ items.T + (self.bias[objective] + self.intercept[objective])

    def log_probability(self, objective: int, user_rows: np.ndarray) -> np.ndarray:
        """Log of the probability that the next item of a user is `i` and gets as far as the objective.

        log softmax(x_0(u, .))(i) + sum over k = 1..objective of log sigmoid(x_k(u, i)). Of the items that a
        user has not met, no ranking hits the next one more often than the ranking by it.

        Args:
            objective: its place in the funnel, from 0.
            user_rows: int `[B]`, rows of `users`.

        Returns:
            float32 `[B, N]`.

        Raises:
            ValueError: if there is no such objective.
        """
        if not 0 <= objective < len(self.maps):
            raise ValueError(f"`objective` should be in 0..{len(self.maps) - 1}. Received: {objective}.")
        views = self.utility(0, user_rows)
        total = views - views.max(axis=1, keepdims=True)
        total -= np.log(np.exp(total).sum(axis=1, keepdims=True))
        for step in range(1, objective + 1):
            total -= np.logaddexp(0, -self.utility(step, user_rows))
        return total

    def scores_of(self, known: EventLog, objective: int) -> Callable[[np.ndarray], np.ndarray]:
        """The best possible ranking, which no model betters in expectation, as an evaluator takes it.

        Args:
            known: the events whose users and items are to be scored, e.g. `FunnelEvaluator.known`.
            objective: its place in the funnel, from 0.

        Returns:
            function of codes of users, int `[B]`, that gives their `log_probability`, float32 `[B, N]`.

        Example:
            >>> simulation = simulate(users=20, items=50)
            >>> simulation.truth.scores_of(simulation.log, objective=2)(np.array([3, 4])).shape
            (2, 50)
        """
        users, items = rows_of(known.users), rows_of(known.items)
        return lambda who: self.log_probability(objective, users[who])[:, items]


@dataclass(frozen=True, eq=False)
class Simulation:
    """A simulated log and what is behind it.

    Attributes:
        truth: the preferences; its row `r` is the user `u<r>` or the item `i<r>`.
        log: the events in order of time, coded as `read_log` codes what `write` has written.
        category: object `[N]` of `str`, the direction in which the latent vector of the item is longest.
        price: float32 `[N]`; what is dear is less often taken to the later objectives.
    """

    truth: Truth
    log: EventLog
    category: np.ndarray
    price: np.ndarray

    def log_probability(self, objective: int, user_rows: np.ndarray) -> np.ndarray:
        """Returns `Truth.log_probability`, float32 `[B, N]`."""
        return self.truth.log_probability(objective, user_rows)

    def write(self, directory: str | os.PathLike) -> None:
        """Writes events.csv.gz, items.csv.gz and truth.npz into a directory, which is made if need be.

        Columns: `user_id`, `item_id`, `behavior`, `timestamp` (unix seconds); `item_id`, `category`, `price`.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_events(directory / "events.csv.gz", self.log)
        ids = [f"i{row}" for row in range(len(self.price))]
        price = [f"{price:.2f}" for price in self.price]
        table = pa.table({"item_id": ids, "category": pa.array(self.category, pa.string()), "price": price})
        write_csv(directory / "items.csv.gz", table)
        np.savez(directory / "truth.npz", **self.truth._asdict())


def simulate(
    users: int,
    items: int,
    seed: int = 0,
    dim: int = 8,
    behaviors: Sequence[str] = ("view", "cart", "buy"),
    events_per_user: float = 40,
) -> Simulation:
    """Simulates a funnel log from known preferences, see `Truth`.

    A user views distinct items, drawn without replacement in the order of their views; about 25 % of the
    views go on to the second behaviour, and about 35 % of those to the third and so on. Memory is bounded by
    the events and the latent vectors; `users x items` is never held.

    Args:
        users: number of users, >= 1.
        items: number of items, >= 2.
        seed: seed of everything that is drawn, >= 0.
        dim: length of the latent vectors.
        behaviors: the funnel, upstream first.
        events_per_user: mean number of events of a user, over all behaviours; fewer where items are few, as
            no user views more than half of them.

    Returns:
        The simulation; the same arguments give the same one.

    Raises:
        ValueError: if an argument is out of range.

    Example:
    >>> simulation = simulate(users=30, items=50, events_per_user=10)
    >>> simulation.log.funnel, simulation.log_probability(2, np.arange(4)).shape
    (('view', 'cart', 'buy'), (4, 50))
    """
    funnel = check_funnel(behaviors)
    for name, value, least in (("users", users, 1), ("items", items, 2), ("dim", dim, 1), ("seed", seed, 0)):
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"`{name}` should be an integer >= {least}. Received: {name}={value!r}.")
    if not events_per_user > 0:
        raise ValueError(f"`events_per_user` should be > 0. Received: events_per_user={events_per_user}.")
    rng = np.random.default_rng(seed)
    dearness = rng.standard_normal(items)
    truth = _draw_truth(users, items, dim, len(funnel), dearness, rng)
    go_on = np.array([_GO_ON[min(step, len(_GO_ON) - 1)] for step in range(len(funnel) - 1)])
    views_per_user = events_per_user / (1 + np.cumprod(go_on).sum())
    user, item = _draw_views(truth, views_per_user, rng)
    parts = [(user, item, view_times(user, rng))]
    for step, rate in enumerate(go_on, start=1):
        user, item, time = parts[-1]
        utility = _pair_utility(truth, step, user, item)
        truth.intercept[step] = _intercept(utility, rate)
        kept = np.log(rng.random(len(user))) < -np.logaddexp(0, -(utility + truth.intercept[step]))
        waited = np.floor(rng.exponential(_WAIT_SECONDS, int(kept.sum()))).astype(np.int64)
        parts.append((user[kept], item[kept], time[kept] + 1 + waited))
    return Simulation(
        truth=truth,
        log=as_log(parts, funnel),
        category=objects([f"c{code}" for code in np.hstack([truth.items, -truth.items]).argmax(axis=1)]),
        price=np.round(np.exp(3 + 0.5 * dearness), 2).astype(np.float32),
    )


def load_truth(directory: str | os.PathLike) -> Truth:
    """Reads the preferences that `Simulation.write` has written.

    Raises:
        FileNotFoundError: if the directory has no truth.npz.
    """
    path = Path(directory) / "truth.npz"
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}. Only simulated logs (`csmf-tf simulate`) have one.")
    with np.load(path, allow_pickle=False) as arrays:
        return Truth(**arrays)


def rows_of(ids: np.ndarray) -> np.ndarray:
    """Returns the rows of `Truth` that ids of simulated users or items stand for, int64.

    >>> rows_of(np.array(["u17", "u3"], dtype=object)).tolist()
    [17, 3]
    """
    return np.array([int(text[1:]) for text in ids], np.int64)


def _draw_truth(
    users: int, items: int, dim: int, objectives: int, dearness: np.ndarray, rng: np.random.Generator
) -> Truth:
    scale = np.sqrt(_UTILITY_SPREAD) / dim**0.25
    rotations = np.linalg.qr(rng.standard_normal((objectives, dim, dim))).Q
    maps = np.sqrt(1 - _TURN**2) * np.eye(dim) + _TURN * rotations
    maps[0] = np.eye(dim)
    bias = 0.5 * rng.standard_normal((objectives, items)) - 0.7 * dearness
    bias[0] = rng.standard_normal(items)
    latents = scale * rng.standard_normal((users, dim)), scale * rng.standard_normal((items, dim))
    return Truth(*(array.astype(np.float32) for array in (*latents, maps, bias, np.zeros(objectives))))


def _draw_views(truth: Truth, mean: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws items without replacement: each item arrives after an exponential time at the rate exp(x_0)."""
    users, items = len(truth.users), len(truth.items)
    counts = np.rint(rng.lognormal(np.log(mean) - 0.6**2 / 2, 0.6, users))
    counts = np.clip(counts, 1, max(1, items // 2)).astype(np.int64)
    at_once = max(1, _CELLS // items)
    drawn = []
    for start in bar(range(0, users, at_once), "drawing what users view"):
        rows = np.arange(start, min(start + at_once, users))
        waits = rng.standard_exponential((len(rows), items), dtype=np.float32)
        arrival = np.log(np.maximum(waits, np.finfo(np.float32).tiny)) - truth.utility(0, rows)
        most = counts[rows].max()
        earliest = np.argpartition(arrival, most - 1, axis=1)[:, :most]
        order = np.argsort(np.take_along_axis(arrival, earliest, axis=1), axis=1)
        in_time = np.take_along_axis(earliest, order, axis=1)
        drawn.append(in_time[np.arange(most) < counts[rows, None]].astype(np.int32))
    return np.repeat(np.arange(users, dtype=np.int32), counts), np.concatenate(drawn)


def view_times(user: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws the unix seconds of views, int64 `[n]`, ascending for each user; `user`, int `[n]`, ascends."""
    seconds = rng.integers(_START, _START + _DAYS * 86_400, len(user))
    return seconds[np.lexsort((seconds, user))]


def _pair_utility(truth: Truth, objective: int, user: np.ndarray, item: np.ndarray) -> np.ndarray:
    items = truth.items @ truth.maps[objective].T
    return np.einsum("nd,nd->n", truth.users[user], items[item]) + truth.bias[objective, item]


def _intercept(utility: np.ndarray, rate: float) -> float:
    """Finds by bisection the c for which the mean of sigmoid(utility + c) is `rate`."""
    low, high = -50.0, 50.0
    sample = utility[:: max(1, len(utility) // 100_000)]
    for _ in range(40):
        middle = (low + high) / 2
        if np.exp(-np.logaddexp(0, -(sample + middle))).mean() < rate:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def as_log(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], funnel: tuple[str, ...]) -> EventLog:
    """Returns the log, in order of time, of the (rows of users, rows of items, seconds) of each behaviour."""
    user, item, seconds = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    behavior = np.repeat(np.arange(len(funnel), dtype=np.int8), [len(part[0]) for part in parts])
    order = np.lexsort((behavior, user, seconds))
    users, user_codes = _code(user[order], "u")
    items, item_codes = _code(item[order], "i")
    return EventLog(
        user=user_codes,
        item=item_codes,
        behavior=behavior[order],
        time=seconds[order] * 1_000_000,
        users=users,
        items=items,
        funnel=funnel,
    )


def _code(rows: np.ndarray, prefix: str) -> tuple[np.ndarray, np.ndarray]:
    present, position = np.unique(rows, return_inverse=True)
    ids, rank = in_order([f"{prefix}{row}" for row in present])
    return ids, rank[position]


def write_events(path: Path, log: EventLog) -> None:
    """Writes a log with times as `user_id`, `item_id`, `behavior` and `timestamp` (unix seconds)."""
    assert log.time is not None
    coded = ((log.user, log.users), (log.item, log.items), (log.behavior, objects(log.funnel)))
    columns = [
        pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(ids, pa.string())) for codes, ids in coded
    ]
    columns.append(pa.array(log.time // 1_000_000))
    write_csv(path, pa.table(columns, ["user_id", "item_id", "behavior", "timestamp"]))


def write_csv(path: Path, table: pa.Table) -> None:
    """Writes a table as gzipped CSV without quotes, every value as text."""
    plain = pa.schema([(name, pa.string()) for name in table.column_names])
    unquoted = pa.csv.WriteOptions(quoting_style="none", quoting_header="none")
    with (
        pa.CompressedOutputStream(str(path), "gzip") as file,
        pa.csv.CSVWriter(file, plain, write_options=unquoted) as writer,
    ):
        for batch in bar(table.to_batches(max_chunksize=1 << 20), f"writing {path.name}"):
            writer.write(batch.cast(plain))
