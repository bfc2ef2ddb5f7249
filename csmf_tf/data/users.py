"""What the user tower reads of each user."""

from dataclasses import replace

import numpy as np

from csmf_tf.config_sections import SEQUENCE, SEQUENCE_BEHAVIOR
from csmf_tf.data.history import History
from csmf_tf.data.log import EventLog

HISTORY = "history_{}"
"""Name of the history feature of a behaviour."""


class UserFeatures:
    """Encoded features of known users: fixed ones, and histories that depend on the moment.

    There is a history of each behaviour or, as a `sequence`, one of all, with one of what was done beside it
    where there are several behaviours.

    Args:
        fixed: dict of encoded features without histories, [U, ...] each.
        log: the events that histories are made of.
        length: width of a history; 0 for none.
        item_codes: int32 [N], what the encoder of a history makes of each item code.
        id_feature: key of the user id in `fixed`, None when the tower reads none.
        id_buckets: out-of-vocabulary buckets of the id.
        sequence: whether there is one history of all behaviours.
        behavior_codes: int32 [K], what the encoder makes of each behaviour code, for a `sequence`.
        positions: how many items of a `sequence` are read, the last ones; None for `length`.

    Example:

    >>> ids = np.array(["a", "b"], dtype=object)
    >>> log = EventLog(np.array([0, 1]), np.array([1, 1]), np.zeros(2, np.int8), None, ids, ids, ("view",))
    >>> users = UserFeatures({"user_id": np.array([1, 2])}, log, length=2, item_codes=np.array([2, 3]))
    >>> {name: values.tolist() for name, values in users.latest(np.array([1])).items()}
    {'user_id': [2], 'history_view': [[0, 3]]}
    """

    def __init__(
        self,
        fixed: dict[str, np.ndarray],
        log: EventLog,
        length: int = 0,
        item_codes: np.ndarray | None = None,
        id_feature: str | None = None,
        id_buckets: int = 1,
        sequence: bool = False,
        behavior_codes: np.ndarray | None = None,
        positions: int | None = None,
    ):
        self.fixed = fixed
        self.length = length
        self.positions = length if positions is None else positions
        self.id_feature = id_feature
        self.id_buckets = id_buckets
        self.sequence = sequence
        self.behaviors = len(log.funnel)
        self.histories: dict[str, History] = {}
        codes = {}
        assert not length or item_codes is not None
        if sequence:
            self.histories[SEQUENCE], codes[SEQUENCE] = History.of(log), item_codes
            if len(log.funnel) > 1:
                self.histories[SEQUENCE_BEHAVIOR] = History.of(replace(log, item=log.behavior))
                codes[SEQUENCE_BEHAVIOR] = behavior_codes
        elif length:
            self.histories = {HISTORY.format(n): History.of(log, b) for b, n in enumerate(log.funnel)}
            codes = dict.fromkeys(self.histories, item_codes)
        # Codes are shifted by one so that the pad -1 reads 0.
        self._codes = {name: np.concatenate([[0], of]).astype(np.int32) for name, of in codes.items()}

    def rows(self, users: np.ndarray, windows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Features of some users with the given histories (int32 [R, L] codes of the log, -1 pads)."""
        fixed = {name: values[users] for name, values in self.fixed.items()}
        return fixed | {name: self._codes[name][window + 1] for name, window in windows.items()}

    def latest(self, users: np.ndarray) -> dict[str, np.ndarray]:
        """Features of some users as of now, with everything they did."""
        return self.rows(users, {name: h.latest(users, self.length) for name, h in self.histories.items()})

    def without_id(self, rows: dict[str, np.ndarray], rate: float, rng: np.random.Generator) -> dict:
        """The same rows, `rate` of them under an out-of-vocabulary user id."""
        if self.id_feature is None:
            return rows
        ids = rows[self.id_feature]
        unknown = rng.random(len(ids)) < rate
        buckets = rng.integers(0, self.id_buckets, len(ids), np.int32)
        return rows | {self.id_feature: np.where(unknown, buckets, ids)}
