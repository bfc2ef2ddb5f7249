"""Plots of negatives: how difficult each kind is, and the clusters that they are drawn from."""

import os
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from sklearn.manifold import TSNE

from csmf_tf.negatives.clusters import Clusters

SHOWN = 2000
"""So many items are shown (own choice)."""


def difficulty_png(path: str | os.PathLike[str], difficulty: Mapping[str, np.ndarray]) -> None:
    """Draws a histogram for each kind of negatives.

    Args:
        path: the PNG file to write.
        difficulty: kind -> float [n], the score of each negative less that of its row's positive.
    """
    figure = Figure(figsize=(7, 0.9 * len(difficulty) + 1), layout="constrained")
    axes = np.atleast_1d(figure.subplots(len(difficulty), sharex=True))
    low = min(np.quantile(values, 0.001) for values in difficulty.values())
    high = max(np.quantile(values, 0.999) for values in difficulty.values())
    edges = np.linspace(min(low, -1e-3), max(high, 1e-3), 80)
    for one, (name, values) in zip(axes, difficulty.items(), strict=True):
        one.hist(values, edges, density=True, color="#0072B2")
        one.axvline(0, color="#D55E00", linewidth=1)
        one.set_yticks([])
        one.spines[["top", "left", "right"]].set_visible(False)
        one.set_ylabel(name, rotation=0, ha="right", va="center")
    axes[-1].set_xlabel("score of the negative less that of the positive (line: the positive)")
    figure.savefig(path, dpi=120)


def clusters_png(path: str | os.PathLike[str], clusters: Clusters, seed: int = 0) -> None:
    """Draws items by t-SNE of their vectors, coloured by level-1 cluster, with the numbers of the largest.

    Args:
        path: the PNG file to write.
        clusters: the `Clusters`; items without a vector are left out, and of many `SHOWN` are drawn.
        seed: of what is shown.
    """
    known = np.flatnonzero(np.isfinite(clusters.vectors).all(axis=1))
    shown = np.sort(np.random.default_rng(seed).permutation(known)[:SHOWN])
    perplexity = min(30.0, max((len(shown) - 1) / 3, 1.0))
    places = TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(
        clusters.vectors[shown]
    )
    label = clusters.level1[shown]
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(places[:, 0], places[:, 1], c=label, cmap="turbo", s=6, linewidths=0)
    for cluster in np.argsort(-np.bincount(label))[:40]:
        if (label == cluster).any():
            x, y = np.median(places[label == cluster], axis=0)
            axes.text(x, y, str(cluster), fontsize=8, weight="bold")
    axes.set_axis_off()
    count = len(np.unique(clusters.level1))
    axes.set_title(f"{len(shown)} of {len(clusters.level1)} items, {count} level-1 clusters (t-SNE)")
    figure.savefig(path, dpi=120)
