"""The figure of depths and widths: features as tokens beside joined ones, a row of panels for each log."""

import pathlib
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from benchmarks.quality.heterrec import DEPTHS, DIMS

# Side by side, so that intervals of equal widths can be told apart.
SHIFT = 1.06
KINDS = {
    "heterrec": {"label": "tokens", "color": "#0072B2", "fmt": "o-"},
    "joined": {"label": "joined features", "color": "#D55E00", "fmt": "s--"},
}


def draw(path: pathlib.Path, reported: Mapping[str, Mapping[str, Any]], metric: str) -> None:
    """Draws a metric by width, one panel for each log and depth; what is not there is left out.

    Args:
        path: the PNG file to write.
        reported: log -> its `report.summarise`.
        metric: what to draw, of each log's first objective.
    """
    figure = Figure(figsize=(3.6 * len(DEPTHS), 3.1 * len(reported)), layout="constrained")
    rows = figure.subplots(len(reported), len(DEPTHS), sharex=True, sharey="row", squeeze=False)
    for panels, (log, summary) in zip(rows, reported.items(), strict=True):
        for panel, depth in zip(panels, DEPTHS, strict=True):
            _panel(panel, summary["methods"], depth, metric)
            panel.set_title(f"{log}, {depth} + {depth} blocks", fontsize=10)
        panels[0].set_ylabel(metric)
    for panel in rows[-1]:
        panel.set_xlabel("width, dimensions")
    rows[0][0].legend(frameon=False)
    figure.savefig(path, format="png", dpi=110)


def _panel(panel, methods, depth, metric):
    for (kind, style), shift in zip(KINDS.items(), (1 / SHIFT, SHIFT), strict=True):
        found = {dim: methods[name] for dim in DIMS if (name := f"{kind}_{depth}x{dim}") in methods}
        cells = [next(iter(one["objectives"].values()))[metric] for one in found.values()]
        means = [cell["mean"] for cell in cells]
        bounds = [sorted([cell["mean"], *cell["interval"]]) for cell in cells]
        errors = [
            [mean - low for mean, (low, _, _) in zip(means, bounds, strict=True)],
            [high - mean for mean, (_, _, high) in zip(means, bounds, strict=True)],
        ]
        panel.errorbar([dim * shift for dim in found], means, errors, capsize=3, **style)
    panel.set_xscale("log", base=2)
    panel.set_xticks(DIMS, [str(dim) for dim in DIMS])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)
