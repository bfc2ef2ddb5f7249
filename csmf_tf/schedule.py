"""How each stage of a cascade is trained, and how much of the capacity it keeps."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How each stage is trained and how much it keeps.

    Attributes:
        epochs: most epochs of a stage's fit.
        recover_epochs: most epochs of accuracy recovery after pruning.
        recover_share: share of the stage's data that a recovery epoch sees.
        patience: epochs without a better validation metric before a phase ends.
        shares: per objective, the share of every layer that its stage keeps; they may leave some free.
        tau: the share of each layer's L1 mass to free, one for all objectives or one for each. Give `shares`
            or `tau`; with neither, shares are proportional to 1 / k^1.5 for stage k (own choice).
        seed: seed of new weights.

    Example:

    >>> Schedule(epochs=5, shares=[0.7, 0.2]).pruning(stages=2)
    [{'share': 0.7}, {'share': 0.2}]
    """

    epochs: int = 30
    recover_epochs: int = 20
    recover_share: float = 1.0
    patience: int = 4
    shares: Sequence[float] | None = None
    tau: float | Sequence[float] | None = None
    seed: int = 0

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
    """Shares of the capacity in proportion to 1 / k^1.5 for stage k (own choice).

    Example:

    >>> [round(share, 2) for share in default_shares(3)]
    [0.65, 0.23, 0.12]
    """
    weights = [k**-1.5 for k in range(1, stages + 1)]
    return [w / sum(weights) for w in weights]
