"""How each stage of a cascade is trained, and how much of the capacity it keeps."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Fit:
    """How long one fit lasts, and its learning rate.

    Attributes:
        epochs: most epochs.
        patience: epochs without a better validation metric before it ends.
        decay: whether the learning rate falls: to a fifth after 3/4 of the epochs, to a 25th in the last
            tenth (own choice). As most is gained then, patience is not counted before.
        fine_tuning: whether it starts at the fifth, from what another fit has reached at the lower rates.

    Example:

    >>> fit = Fit(epochs=20, patience=2)
    >>> [fit.learning_rate_factor(epoch) for epoch in (0, 14, 15, 17, 18, 19)]
    [1.0, 1.0, 0.2, 0.2, 0.04, 0.04]
    >>> fit.goes_on(epoch=9, best_epoch=5), Fit(20, 2, fine_tuning=True).goes_on(epoch=9, best_epoch=5)
    (True, False)
    """

    epochs: int
    patience: int
    decay: bool = True
    fine_tuning: bool = False

    def learning_rate_factor(self, epoch: int) -> float:
        """By what the learning rate is multiplied in an epoch, the first of which is 0."""
        if not self.decay:
            return 1.0
        if 10 * epoch >= 9 * self.epochs:
            return 0.04
        return 0.2 if self.fine_tuning or epoch >= self._first_drop else 1.0

    def goes_on(self, epoch: int, best_epoch: int) -> bool:
        """Whether there should be a further epoch after so many, the best of which was `best_epoch`."""
        judged_from = self._first_drop if self.decay and not self.fine_tuning else 0
        return epoch < self.epochs and epoch - max(best_epoch, judged_from) < self.patience

    @property
    def _first_drop(self):
        return -(-3 * self.epochs // 4)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How each stage is trained and how much it keeps.

    Attributes:
        epochs: most epochs of a stage's fit.
        recover_epochs: most epochs of accuracy recovery after pruning.
        recover_share: share of the stage's data that a recovery epoch sees.
        patience: epochs without a better validation metric before a phase ends, see `Fit`.
        shares: per objective, the share of every layer that its stage keeps; they may leave some free.
        tau: the share of each layer's mass to free, see `CSMF.prune`, one for all objectives or one for each.
            Give `shares` or `tau`; with neither, see `default_shares`.
        decay: whether the learning rate falls near the end of a fit, see `Fit`. All that follows the first
            fit is fine-tuning.
        principal_axes: whether a stage's coordinates are turned to their principal axes before it is pruned.
        seed: seed of new weights.

    Example:

    >>> Schedule(epochs=5, shares=[0.7, 0.2]).pruning(stages=2)
    [{'share': 0.7}, {'share': 0.2}]
    """

    epochs: int = 24
    recover_epochs: int = 12
    recover_share: float = 1.0
    patience: int = 6
    decay: bool = True
    shares: Sequence[float] | None = None
    tau: float | Sequence[float] | None = None
    principal_axes: bool = True
    seed: int = 0

    def fit(self, phase: str, first: bool) -> Fit:
        """The fit of a phase, "fit" or "recover", of the first stage or of a later one."""
        epochs = self.epochs if phase == "fit" else self.recover_epochs
        return Fit(epochs, self.patience, self.decay, fine_tuning=phase != "fit" or not first)

    def pruning(self, stages: int) -> list[dict[str, float]]:
        """The arguments of `CSMF.prune` for each stage."""
        if self.shares is not None and self.tau is not None:
            raise ValueError(
                f"Either `shares` or `tau` should be given. Received: shares={self.shares}, tau={self.tau}"
            )
        shares = default_shares(stages) if self.shares is None else self.shares
        tau = [self.tau] * stages if isinstance(self.tau, int | float) else self.tau
        for name, given in (("shares", shares), ("tau", tau)):
            if given is not None and len(given) != stages:
                raise ValueError(
                    f"`{name}` should hold one number for each of the {stages} objectives. Received: {given}"
                )
        if tau is not None:
            if not all(0 <= value < 1 for value in tau):
                raise ValueError(f"`tau` should be in [0, 1). Received: tau={self.tau}")
            return [{"tau": value} for value in tau]
        if not all(share > 0 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError(
                f"`shares` should be positive and sum to at most 1. Received: {shares}, sum {sum(shares):g}"
            )
        return [{"share": share} for share in shares]


def default_shares(stages: int) -> list[float]:
    """A 24th of the capacity for each stage after the first, which keeps the rest (own choice).

    Later stages read all earlier coordinates, so that few of their own are enough. The first keeps half at
    least.

    Example:

    >>> [round(share, 3) for share in default_shares(3)]
    [0.917, 0.042, 0.042]
    """
    later = 1 / max(24, 2 * stages)
    return [1 - (stages - 1) * later, *[later] * (stages - 1)]
