"""HeterRec as a sequential recommender, and its backbone on joined features, through `Run`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.quality.csmf import cascade
from benchmarks.quality.task import Ranked, Task

LENGTH = 50


def overrides(joined: bool = False, **heterrec: Any) -> dict[str, Any]:
    """What differs from the default configuration; `joined` features are one token an item."""
    heterrec = {"flatten": not joined, "buckets": 20} | heterrec
    return {"model": {"user_tower": "heterrec", "history": {"length": LENGTH}, "heterrec": heterrec}}


def of_size(joined: bool, depth: int, dim: int) -> dict[str, Any]:
    """The same with `depth` blocks of each level, all of it `dim` wide, the embedding too."""
    model = overrides(joined, layers=depth, dim=dim)["model"]
    return {"model": model | {"embedding_dim": dim, "feature_dim": dim}}


DEPTHS, DIMS = (1, 2, 4), (32, 64, 128)

SCALING: dict[str, Callable[[Task], Ranked]] = {
    f"{name}_{depth}x{dim}": partial(cascade, of_size(joined, depth, dim))
    for name, joined in (("heterrec", False), ("joined", True))
    for depth in DEPTHS
    for dim in DIMS
}
"""The same by depth, of each level, and by width."""

METHODS: dict[str, Callable[[Task], Ranked]] = {
    "heterrec": partial(cascade, overrides()),
    "heterrec_joined": partial(cascade, overrides(joined=True)),
    **SCALING,
}
"""Name -> method."""
