"""Batches: what `csmf_tf.CSMF` trains on, and what all ways to make them share.

A batch is a dictionary, as `csmf_tf.data.stages` makes it, of R rows with P positives:

| key | dtype, shape | what |
|---|---|---|
| `user` | dict, [R, ...] | encoded user features of each row |
| `user_l2` | float32 [R] | weight of the L2 term of each row's user |
| `item` | int32 [P] | catalogue index of each positive |
| `row` | int32 [P] | the row of each positive, `"full"` only; `"sampled"` has row p = positive p |
| `catalogue_l2` | float32 [N] | weight of the L2 term of each item of the catalogue, `"full"` only |
| `item_l2` | float32 [P] | weight of the L2 term of each positive's item, `"sampled"` only |
| `negatives` | int32 [M] | drawn negatives shared by all rows, `"sampled"` only |
| `log_q` | float32 [P + M] | log expected count of each candidate in a row, `"sampled"` only |
| `funnel_negatives` | int32 [R, H] | upstream-only items of the row's user, -1 pads, `"sampled"` only |
| `item_id_drop` | float32 [] | share of the candidates that are scored without ids, absent when it is 0 |
| `item_id_seed` | int32 [2] | what the choice of them follows from, alike |
| `cluster_negatives` | int32 [R, E] | easy, then hard negatives by clusters, -1 pads, MSAC only |
| `cluster_log_q` | float32 [R, E] | log expected count of each, MSAC only |
| `anchors` | int32 [m_c m_o] | what virtual negatives are mixed of, EDIS without MSAC only |
| `anchor_log_q` | float32 [m_c m_o] | log expected count of each, EDIS without MSAC only |
| `mixing` | float32 [m_c V, m_c m_o] | weights of the simple virtual negatives, EDIS only |
| `positive_share` | float32 [R, B] | share of the positive in each hard virtual negative, EDIS only |

With `heterrec` a row is a window of a user's history, and what follows is by its Q positions that are
trained (`user_l2` too), in the sampled softmax by their P next items:

| key | dtype, shape | what |
|---|---|---|
| `query` | int32 [Q] | the positions, numbered through all rows |
| `dropout_seed` | int32 [2] | what dropout follows from |
| `targets` | int32 [Q, H] | catalogue indices of the next items of each, -1 pads, `"full"` only |
| `weight` | float32 [Q, H] or [P] | weight of each |
| `row` | int32 [P] | the position of each next item, `"sampled"` only |
| `user_code` | int32 [P] | the user of each; of one user's none are in-batch negatives, `"sampled"` only |
| `future` | int32 [P, H] | all next items of its position, which are no negatives, `"sampled"` only |
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from csmf_tf.config import Negatives


@dataclasses.dataclass(frozen=True)
class Batching:
    """How positives become batches.

    Attributes:
        loss: `"full"` or `"sampled"`, as the model's.
        batch_size: rows a batch.
        history_drop: in a log without times, the share of a user's items that are an epoch's targets; the
            rest are its history, so that no target stands in its own history.
        negatives: the `Negatives` of the configuration, `"sampled"` only.
        unknown_user_rate: share of rows that train the out-of-vocabulary row of the user table, so that
            unknown users get what the average user likes (own choice).
        item_id_drop: share of the candidates of each step that are scored without their ids, so that items
            which are known by their features alone are learned too.
        l2_popularity: power of the number of its positives with which the L2 of an item grows; 0 for the
            same L2 for all (frequency-scaled regularisation, Rendle et al., 2021).
        closure: whether events of later objectives count as positives of earlier ones.
        step_weights: of sequences, the weight of each of the next items that a position predicts.
        seed: seed of every draw.
    """

    loss: str = "full"
    batch_size: int = 256
    history_drop: float = 0.5
    negatives: Negatives = dataclasses.field(default_factory=Negatives)
    unknown_user_rate: float = 0.01
    item_id_drop: float = 0.0
    l2_popularity: float = 0.0
    closure: bool = True
    step_weights: tuple[float, ...] = (1.0,)
    seed: int = 0


def shuffled(rows: np.ndarray, size: int, share: float, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Yields the shuffled rows, or a share of them, `size` at a time."""
    rows = rng.permutation(rows)[: max(round(len(rows) * share), 1)]
    for at in range(0, len(rows), size):
        yield rows[at : at + size]


def noise_of(user_rows: np.ndarray, item_rows: np.ndarray) -> float:
    """Half the largest singular value that random events with these counts would show.

    A matrix of independent counts with row sums r and column sums c has its noise below about
    sqrt(r) + sqrt(c). In units of it, one L2 strength suits dense and sparse objectives alike (own choice).
    """
    return 0.5 * sum(np.sqrt(rows[rows > 0].mean()) for rows in (user_rows, item_rows))


def item_l2_of(item_rows: np.ndarray, mean: float, power: float) -> np.ndarray:
    """The weight of each item's L2 term, float32 [N], of a given mean over the items with positives.

    Args:
        item_rows: float [N], how often each item is a positive.
        mean: the mean weight.
        power: of the number of its positives with which the L2 of an item grows.
    """
    weights = np.maximum(item_rows, 1.0) ** power
    return (mean / weights[item_rows > 0].mean() * weights).astype(np.float32)
