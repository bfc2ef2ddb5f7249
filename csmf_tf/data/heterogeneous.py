"""A simulated log in which single features of several earlier items decide what a user takes next."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from csmf_tf.data.log import EventLog
from csmf_tf.data.simulator import as_log, view_times, write_csv, write_events
from csmf_tf.data.stream import objects
from csmf_tf.progress import bar

_CELLS = 1 << 20


class Rules(NamedTuple):
    """The truth behind a simulated log, the same for all users.

    A user with the history i_1, ..., i_n takes next an item i that is not in it with probability [own choice]

        p(i) = noise q(i) / sum_j q(j)  +  (1 - noise) q(i) e^(s m(i)) / sum_j q(j) e^(s m(j))

    where q is the popularity, s the strength, j runs over the items that are not in the history, and m(i) in
    0..3 counts the rules that i meets:

        category(i) = next_category[category(i_n), g]   for a tag g of i_(n-1)
        brand(i)    = next_brand[brand(i_a)]            a < n the latest with category(i_a) = category(i_n)
        level(i)    = level(i_b) - 1 or + 1             b < n the latest with a tag that i_n has as well

    Where there is no such earlier item, i_n stands in for it; the first item follows q alone. A feature thus
    is looked up in an item that another one points to: not the last item alone, nor a bag of them, tells it.

    Attributes:
        category: int64 `[N]`, in 0..C - 1; likewise `brand`, and `level`, which is that of the price.
        tags: bool `[N, T]`, which tags each item has, one at least.
        popularity: float64 `[N]`, q.
        next_category: int64 `[C, T]`; each column is a permutation, so that no category takes over.
        next_brand: int64 `[B]`, a cycle through all brands, so that no user keeps to few.
        noise: share of events that follow no rule.
        strength: s; at 8, what meets another rule is taken 3,000 times as often.
    """

    category: np.ndarray
    brand: np.ndarray
    level: np.ndarray
    tags: np.ndarray
    popularity: np.ndarray
    next_category: np.ndarray
    next_brand: np.ndarray
    noise: float
    strength: float = 8.0

    def rules_met(self, history: np.ndarray) -> np.ndarray:
        """Returns m of every item after each history: int64 `[B, n]`, rows of items, to int8 `[B, N]`."""
        if not history.shape[1]:
            return np.zeros((len(history), len(self.category)), np.int8)
        last = history[:, -1]
        # The last item has its own category and tags: put first, it is what is found where nothing else is.
        earlier = np.roll(history, 1, axis=1)
        same = self.category[earlier] == self.category[last, None]
        shares = np.einsum("bnt,bt->bn", self.tags[earlier], self.tags[last])
        allowed = np.zeros((len(history), len(self.next_category)), bool)
        row, tag = np.nonzero(self.tags[earlier[:, -1]])
        allowed[row, self.next_category[self.category[last[row]], tag]] = True
        met = allowed[:, self.category].astype(np.int8)
        met += self.brand == self.next_brand[self.brand[_latest(earlier, same)]]
        met += np.abs(self.level - self.level[_latest(earlier, shares)]) == 1
        return met

    def probability(self, history: np.ndarray) -> np.ndarray:
        """Returns p of every item after each history: int64 `[B, n]`, rows of items, to float64 `[B, N]`."""
        noise = np.repeat(self.popularity[None], len(history), axis=0)
        np.put_along_axis(noise, history, 0, axis=1)
        ruled = noise * np.exp(self.strength * np.arange(4)).take(self.rules_met(history))
        noise *= self.noise / noise.sum(axis=1, keepdims=True)
        ruled *= (1 - self.noise) / ruled.sum(axis=1, keepdims=True)
        return noise + ruled


@dataclass(frozen=True, eq=False)
class HeterogeneousSimulation:
    """A simulated log, the features of its items and the rules behind it.

    Attributes:
        rules: the truth; its row `r` is the item `i<r>`, see `csmf_tf.data.simulator.rows_of`.
        log: the events in order of time, a user has no two at one, each a `view`; coded as by `read_log`.
        features: as by `read_table`, one row an item: `item_id`, `category`, `brand` object `[N]` of `str`,
            `price` float32 `[N]`, `tags` object `[N]` of tuples of `str`.
    """

    rules: Rules
    log: EventLog
    features: dict[str, np.ndarray]

    def log_probability(self, history: np.ndarray) -> np.ndarray:
        """Log of the probability that an item is the next one, see `Rules`; no ranking beats the one by it.

        Args:
            history: int `[n]` or `[B, n]`, rows of `rules`, all that a user has taken so far, oldest first.

        Returns:
            float64 `[N]` or `[B, N]`; minus infinity for the items of the history.

        Raises:
            ValueError: if the history is of another shape or type, holds no rows, or leaves no item.
        """
        history, items = np.asarray(history), len(self.rules.category)
        shaped = history.ndim in (1, 2) and history.shape[-1] < items
        numbers = history.dtype.kind in "iu" or not history.size
        if not (shaped and numbers and np.all((history >= 0) & (history < items))):
            raise ValueError(
                f"`history` should hold integers in 0..{items - 1}, [n] or [B, n] with n < {items}. "
                f"Received: {str(history.tolist())[:60]} ({history.dtype} {list(history.shape)})."
            )
        with np.errstate(divide="ignore"):
            result = np.log(self.rules.probability(np.atleast_2d(history).astype(np.int64)))
        return result.reshape(*history.shape[:-1], items)

    def write(self, directory: str | os.PathLike) -> None:
        """Writes events.csv.gz and items.csv.gz into a directory, which is made if need be.

        Columns: `user_id`, `item_id`, `behavior`, `timestamp` (unix seconds); `item_id`, `category`, `brand`,
        `price`, `tags` (`a|b`). The rules are not written: the same arguments give them again.
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_events(directory / "events.csv.gz", self.log)
        price = [f"{price:.2f}" for price in self.features["price"]]
        tags = ["|".join(tags) for tags in self.features["tags"]]
        write_csv(directory / "items.csv.gz", pa.table(self.features | {"price": price, "tags": tags}))


def simulate_heterogeneous(
    users: int,
    items: int,
    seed: int = 0,
    length: int = 40,
    categories: int = 8,
    brands: int = 16,
    levels: int = 6,
    tags: int = 12,
    noise: float = 0.1,
) -> HeterogeneousSimulation:
    """Simulates a log in which features of several earlier items decide what comes next, see `Rules`.

    Category, brand, level of price and 1 to 3 tags of an item are drawn evenly and independently, its price
    is 10 * 2^(level + e), e even in -0.3..0.3 [own choice]. `users x items` is never held.

    Args:
        users: number of users, >= 1.
        items: number of items, >= 1; the more, the more meet all the rules.
        seed: seed of everything that is drawn, >= 0.
        length: number of events of each user, of distinct items, 1 to `items`.
        categories: number of categories, >= 1; the more, the longer ago is the last item of the same one.
        brands: number of brands, >= 1.
        levels: number of levels of price, >= 1; with 1 the price plays no part.
        tags: number of tags, >= 1.
        noise: share of events that follow no rule, 0 to 1.

    Returns:
        The simulation; the same arguments give the same one.

    Raises:
        ValueError: if an argument is out of range.

    Example:
    >>> simulation = simulate_heterogeneous(users=20, items=50, length=10)
    >>> probability = np.exp(simulation.log_probability(np.array([3, 41, 5])))
    >>> len(simulation.log), probability.shape, float(probability.sum().round(6)), float(probability[41])
    (200, (50,), 1.0, 0.0)
    """
    sizes = {"users": users, "items": items, "seed": seed, "length": length}
    sizes |= {"categories": categories, "brands": brands, "levels": levels, "tags": tags}
    for name, value in sizes.items():
        least = int(name != "seed")
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"`{name}` should be an integer >= {least}. Received: {name}={value!r}.")
    for name, number, low, high in (("length", length, 1, items), ("noise", noise, 0, 1)):
        if not low <= number <= high:
            raise ValueError(f"`{name}` should be in {low}..{high}. Received: {name}={number!r}.")
    rng = np.random.default_rng(seed)
    cycle = rng.permutation(brands)
    rules = Rules(
        category=rng.integers(0, categories, items),
        brand=rng.integers(0, brands, items),
        level=rng.integers(0, levels, items),
        tags=rng.random((items, tags)).argsort(axis=1) < rng.integers(1, 4, (items, 1)),
        popularity=rng.lognormal(size=items),
        next_category=rng.random((categories, tags)).argsort(axis=0),
        next_brand=np.roll(cycle, -1)[cycle.argsort()],
        noise=noise,
    )
    user = np.repeat(np.arange(users, dtype=np.int32), length)
    seconds = view_times(user, rng) + np.tile(np.arange(length), users)
    names = {"item_id": np.arange(items), "category": rules.category, "brand": rules.brand}
    texts = {name: objects([f"{name[0]}{code}" for code in codes]) for name, codes in names.items()}
    features = texts | {
        "price": np.round(10 * 2 ** (rules.level + rng.uniform(-0.3, 0.3, items)), 2).astype(np.float32),
        "tags": objects([tuple(f"t{tag}" for tag in np.flatnonzero(row)) for row in rules.tags]),
    }
    log = as_log([(user, _draw(rules, rng.random((users, length))), seconds)], ("view",))
    return HeterogeneousSimulation(rules, log, features)


def _draw(rules: Rules, chance: np.ndarray) -> np.ndarray:
    """Draws the items of each user, int64 `[U * length]`, from even draws in 0..1, float64 `[U, length]`."""
    items = np.zeros_like(chance, np.int64)
    at_once = max(1, _CELLS // len(rules.category))
    blocks = -(-len(items) // at_once)
    steps = bar(np.ndindex(blocks, items.shape[1]), "drawing events", blocks * items.shape[1])
    for start, step in steps:
        rows = slice(start * at_once, (start + 1) * at_once)
        total = rules.probability(items[rows, :step]).cumsum(axis=1)
        items[rows, step] = (total > chance[rows, step, None] * total[:, -1:]).argmax(axis=1)
    return items.ravel()


def _latest(items: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    position = wanted.shape[1] - 1 - wanted[:, ::-1].argmax(axis=1)
    return np.take_along_axis(items, position[:, None], axis=1)
