"""The sampled softmax with each kind of negatives, one objective, through `Run`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.quality.csmf import cascade
from benchmarks.quality.task import Ranked, Task

MIXED = ["in_batch", "uniform"]
# The first two draw as many as `mixed` has, `in_batch` two thirds; EDIS and MSAC add 29 and 14 a row.
KINDS: dict[str, dict[str, Any]] = {
    "uniform": {"kind": ["uniform"], "uniform": 1536},
    "popularity": {"kind": ["popularity"], "popularity": 1536},
    "in_batch": {"kind": ["in_batch"]},
    "mixed": {"kind": MIXED},
    "mixed_no_log_q": {"kind": MIXED, "log_q": False},
    # MixGCF (Huang et al., 2021) without its graph: a negative moved towards the positive by a random share.
    "mixgcf": {"kind": [*MIXED, "edis"], "edis": {"simple": False, "hard": 1, "low": 0.0, "cap": 0.999}},
    "edis": {"kind": [*MIXED, "edis"]},
    "edis_no_log_q": {"kind": [*MIXED, "edis"], "log_q": False},
    "msac": {"kind": [*MIXED, "msac"]},
    "msac_no_log_q": {"kind": [*MIXED, "msac"], "log_q": False},
    "esans": {"kind": [*MIXED, "msac", "edis"]},
    "esans_no_log_q": {"kind": [*MIXED, "msac", "edis"], "log_q": False},
    "esans_alone": {"kind": ["msac", "edis"]},
}
"""What negatives a method trains with; `esans` is both."""

METHODS: dict[str, Callable[[Task], Ranked]] = {
    f"negatives_{name}": partial(cascade, {"loss": {"kind": "sampled"}, "negatives": negatives})
    for name, negatives in KINDS.items()
} | {"negatives_all": partial(cascade, {"loss": {"kind": "full"}})}
"""Name -> method; `negatives_all` is the full softmax."""
