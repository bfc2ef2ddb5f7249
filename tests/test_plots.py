"""Plots are real, non-empty PNGs with the right marks in them."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from csmf_tf.evaluation.curves import learning_curves
from csmf_tf.evaluation.plots import capacity_png, learning_png, retention_png, tradeoff_png, weight_grid

CAPACITY = {"embedding": np.array([0.2, 0.5, 0.3]), "user/hidden_1": np.array([0.0, 0.75, 0.25])}


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved in a test."""
    saved = []
    save = Figure.savefig

    def remember(figure, *args, **kwargs):
        saved.append(figure)
        return save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", remember)
    return saved


def assert_is_png(path):
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(path)
    assert min(pixels.shape[:2]) > 100
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 50


def test_capacity_of_the_wrong_length(tmp_path):
    with pytest.raises(
        ValueError, match=r"`capacity\['embedding'\]` should have a share for each of free, view"
    ):
        capacity_png(tmp_path / "capacity.png", CAPACITY, ["view"])


def test_capacity_plot_has_a_bar_of_the_right_length_for_each_owner(tmp_path, figures):
    capacity_png(tmp_path / "capacity.png", CAPACITY, ["view", "buy"])
    assert_is_png(tmp_path / "capacity.png")
    (axes,) = figures[0].axes
    widths = {bars.get_label(): [bar.get_width() for bar in bars] for bars in axes.containers}
    assert list(widths) == ["view", "buy", "free"]
    np.testing.assert_allclose(list(widths.values()), [[0.5, 0.75], [0.3, 0.25], [0.2, 0.0]], atol=1e-12)
    assert [label.get_text() for label in axes.get_yticklabels()] == list(CAPACITY)
    assert axes.get_xlabel()
    assert axes.get_ylabel()


@pytest.mark.parametrize(("objectives", "points"), [(1, 1), (2, 5), (3, 15), (4, 5), (6, 5)])
def test_weight_grid_is_on_the_simplex_and_holds_its_ends(objectives, points):
    grid = weight_grid(objectives, steps=4)
    assert grid.shape == (points, objectives)
    assert len(np.unique(grid, axis=0)) == points
    np.testing.assert_allclose(grid.sum(axis=1), 1)
    assert (grid >= 0).all()
    for corner in np.eye(objectives)[[0, -1]]:
        assert corner.tolist() in grid.tolist()


def test_two_objectives_are_lines_over_the_weight_of_the_second(tmp_path, figures):
    weights = np.array([[3.0, 1.0], [0.0, 2.0], [1.0, 0.0]])
    values = np.array([[0.2, 0.3], [0.1, 0.4], [0.25, 0.05]])
    tradeoff_png(tmp_path / "plot.png", ["view", "buy"], weights, values, metric="recall@20")
    assert_is_png(tmp_path / "plot.png")
    (axes,) = figures[0].axes
    lines = {line.get_label(): np.array(line.get_data()).tolist() for line in axes.get_lines()}
    assert lines == {"view": [[0, 0.25, 1], [0.25, 0.2, 0.1]], "buy": [[0, 0.25, 1], [0.05, 0.3, 0.4]]}
    assert "buy" in axes.get_xlabel()
    assert axes.get_ylabel() == "recall@20"


def test_three_objectives_are_triangles_that_mark_the_best_weights(tmp_path, figures):
    weights = weight_grid(3, steps=4)
    values = weights * 0.2
    tradeoff_png(tmp_path / "plot.png", ["view", "cart", "buy"], weights, values)
    assert_is_png(tmp_path / "plot.png")
    triangles = [axes for axes in figures[0].axes if axes.get_title()]
    assert [axes.get_title() for axes in triangles] == [
        f"recall@50 on {n}\n★ 0.2000" for n in ("view", "cart", "buy")
    ]
    corners = [(0, 0), (1, 0), (0.5, 0.75**0.5)]
    for axes, corner in zip(triangles, corners, strict=True):
        (star,) = [line for line in axes.get_lines() if line.get_marker() == "*"]
        np.testing.assert_allclose(np.ravel(star.get_data()), corner, atol=1e-12)
        assert {"weight of view", "weight of cart", "weight of buy"} <= {
            text.get_text() for text in axes.texts
        }


def test_what_may_be_noise_is_not_marked_and_does_not_take_all_colours(tmp_path, figures):
    weights = weight_grid(3, steps=4)
    values = 0.2 + 0.01 * weights
    halves = [0.009, 0.011, np.inf]
    tradeoff_png(tmp_path / "plot.png", list("abc"), weights, values, half_widths=halves, note="A note.")
    told, noise, unknown = [axes for axes in figures[0].axes if axes.get_title()]
    assert told.get_title().endswith("★ 0.2100")
    stars = [[line for line in axes.get_lines() if line.get_marker() == "*"] for axes in (noise, unknown)]
    assert stars == [[], []]
    assert noise.get_title().endswith("0.2000 to 0.2100")
    spans = [np.ptp(axes.collections[0].get_clim()) for axes in (told, noise, unknown)]
    assert spans[0] == pytest.approx(0.01)
    assert min(spans[1:]) > 0.019
    assert figures[0].get_supxlabel() == "A note."


def test_equal_recall_everywhere_can_be_drawn(tmp_path):
    for objectives in (2, 3):
        weights = weight_grid(objectives)
        tradeoff_png(tmp_path / "plot.png", list("abc")[:objectives], weights, np.zeros_like(weights))
        assert_is_png(tmp_path / "plot.png")


def test_more_objectives_are_lines_from_the_first_to_the_last(tmp_path, figures):
    weights = np.concatenate([weight_grid(4, steps=2), [[0.25] * 4]])
    tradeoff_png(tmp_path / "plot.png", list("abcd"), weights, np.arange(16.0).reshape(4, 4))
    (axes,) = figures[0].axes
    assert [line.get_label() for line in axes.get_lines()] == list("abcd")
    assert axes.get_lines()[3].get_data()[0].tolist() == [0, 0.5, 1]
    assert "d" in axes.get_xlabel()


@pytest.mark.parametrize(
    ("objectives", "weights", "values", "message"),
    [
        (["a"], [[1]], [[1]], r"at least two objectives\. Received: \['a'\]"),
        (["a", "b"], [[1, 1]], [[1]], r"should be \[P, 2\]\. Received: shapes \(1, 2\) and \(1, 1\)"),
        (["a", "b"], [[0, 0]], [[1, 1]], r"should have a sum > 0\. Received: a sum of 0"),
        (list("abcd"), [[1, 1, 1, 1]], [[1, 1, 1, 1]], r"Received: none; write e\.g\. `weight_grid\(4\)`"),
    ],
)
def test_bad_trade_offs(tmp_path, objectives, weights, values, message):
    with pytest.raises(ValueError, match=message):
        tradeoff_png(tmp_path / "plot.png", objectives, weights, values)
    assert not (tmp_path / "plot.png").exists()


def test_plots_do_not_import_tensorflow_or_pyplot():
    unwanted = {"tensorflow", "matplotlib.pyplot"}
    code = f"import sys, csmf_tf.evaluation.plots; sys.exit(not sys.modules.keys().isdisjoint({unwanted}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_colours_of_a_tie_are_flat_and_nothing_is_marked_as_best(tmp_path, figures):
    weights = weight_grid(3, steps=4)
    noise = np.random.default_rng(0).uniform(0, 1e-9, weights.shape)
    for tied in (np.zeros_like(weights), np.full_like(weights, 0.2), 0.2 + noise):
        tradeoff_png(tmp_path / "plot.png", ["view", "cart", "buy"], weights, tied)
        triangles = [axes for axes in figures.pop().axes if axes.get_title()]
        assert [axes.get_title() for axes in triangles] == [
            f"recall@50 on {name}\n{tied[0, 0]:.4f} throughout" for name in ("view", "cart", "buy")
        ]
        for axes in triangles:
            (surface,) = axes.collections
            low, high = surface.get_clim()
            assert 0 <= low <= tied.min() <= tied.max() < high
            assert high - low > 1000 * np.ptp(tied)
            assert not [line for line in axes.get_lines() if line.get_marker() == "*"]


def test_names_are_text_and_not_mathematics(tmp_path, figures):
    names = ["$view_{$", r"$\frac", "<b>"]
    weights = weight_grid(3, steps=2)
    tradeoff_png(tmp_path / "plot.png", names, weights, weights)
    capacity_png(tmp_path / "plot.png", {r"$\layer$": [0.1, 0.2, 0.3, 0.4]}, names)
    retention_png(tmp_path / "plot.png", {"$view_{$": {"$view_{$": 0.1}})
    learning_png(tmp_path / "plot.png", [{"objective": r"$\frac$", "phase": "fit", "epoch": 1, "loss": 1.0}])
    assert figures[-1].axes[0].get_title() == r"$\frac$"


def entry(objective, phase, epoch, loss=None, recall=None):
    logged = {"objective": objective, "phase": phase, "epoch": epoch}
    logged |= {} if loss is None else {"loss": loss}
    return logged | ({} if recall is None else {"val_recall@20": recall, "val_ndcg@20": 1 - recall})


LOG = [
    entry("view", "fit", 0, None, 0.1),
    entry("view", "fit", 1, 9.0, 0.3),
    entry("view", "fit", 2, 8.0, 0.3),
    {"objective": "view", "phase": "prune", "layers": {"embedding": {"kept": 3, "freed": 1, "tau": 0.1}}},
    entry("view", "recover", 0, None, 0.2),
    entry("view", "recover", 1, 7.0, 0.25),
    {"objective": "view", "phase": "freeze", "measured": {"view": {"recall@20": 0.2, "users": 3}}},
    entry("buy", "fit", 0, None, 0.4),
    entry("buy", "fit", 1, 5.0, 0.2),
]


def test_curves_hold_each_fit_and_its_first_best_epoch():
    curves = learning_curves(LOG)
    assert [curve[:2] for curve in curves] == [("view", "fit"), ("view", "recover"), ("buy", "fit")]
    assert [curve.metric for curve in curves] == ["recall@20"] * 3
    assert [curve.best for curve in curves] == [1, 1, 0]
    np.testing.assert_array_equal(curves[0].loss, [np.nan, 9, 8])
    assert curves[0].at_best() == (9.0, 0.3)
    assert np.isnan(curves[2].at_best()[0])


def test_without_validation_the_last_epoch_is_the_one_kept(tmp_path, figures):
    log = [entry("view", "fit", epoch, 5.0 - epoch) for epoch in (1, 2, 3)]
    (curve,) = learning_curves(log)
    assert (curve.metric, curve.best) == (None, 3)
    learning_png(tmp_path / "learning.png", log)
    assert_is_png(tmp_path / "learning.png")
    (axes,) = figures[0].axes
    assert axes.get_ylabel() == "loss"
    assert [line.get_data()[1].tolist() for line in axes.get_lines()] == [[4, 3, 2]]


def test_learning_plot_has_metric_and_loss_of_each_stage_with_fit_and_recovery_apart(tmp_path, figures):
    learning_png(tmp_path / "learning.png", LOG)
    assert_is_png(tmp_path / "learning.png")
    panels = figures[0].axes
    assert [axes.get_title() for axes in panels] == ["view", "view", "buy", "buy"]
    assert {axes.get_ylabel() for axes in panels} == {"validation recall@20", "loss"}
    (metric,) = [axes for axes in panels if axes.get_title() == "view" and "recall" in axes.get_ylabel()]
    lines = {line.get_label(): line for line in metric.get_lines()}
    assert lines["fit"].get_data()[1].tolist() == [0.1, 0.3, 0.3]
    assert lines["recover"].get_data()[1].tolist() == [0.2, 0.25]
    assert lines["recover"].get_data()[0].min() > lines["fit"].get_data()[0].max()
    assert lines["fit"].get_color() != lines["recover"].get_color()
    assert lines["fit"].get_linestyle() != lines["recover"].get_linestyle()
    assert [value.tolist() for value in lines["best epoch of fit"].get_data()] == [[1], [0.3]]
    labels = dict(zip(metric.get_xticks(), [t.get_text() for t in metric.get_xticklabels()], strict=True))
    assert [labels[x] for x in lines["recover"].get_data()[0]] == ["0", "1"]
    assert {text.get_text() for text in figures[0].legends[0].get_texts()} >= {"fit", "recover"}


@pytest.mark.parametrize("log", [[], [{"objective": "view", "phase": "freeze", "measured": None}]])
def test_log_without_epochs_cannot_be_drawn(tmp_path, log):
    with pytest.raises(ValueError, match=r"at least one epoch\. Received: none"):
        learning_png(tmp_path / "learning.png", log)


def test_retention_plot_has_a_line_for_each_objective_from_its_own_stage_on(tmp_path, figures):
    retention = {
        "view": {"view": 0.1, "cart": 0.1, "buy": 0.1},
        "cart": {"cart": 0.3, "buy": 0.25},
        "buy": {"buy": 0.2},
    }
    retention_png(tmp_path / "retention.png", retention, "hit_rate@5")
    assert_is_png(tmp_path / "retention.png")
    (axes,) = figures[0].axes
    lines = {line.get_label(): np.array(line.get_data()).tolist() for line in axes.get_lines()}
    assert lines == {"view": [[0, 1, 2], [0.1] * 3], "cart": [[1, 2], [0.3, 0.25]], "buy": [[2], [0.2]]}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["after view", "after cart", "after buy"]
    assert axes.get_ylabel() == "hit_rate@5"
    assert axes.get_ylim()[0] == 0
    assert axes.get_ylim()[1] > 0.3


def test_nothing_retained_cannot_be_drawn(tmp_path):
    with pytest.raises(ValueError, match=r"at least one value\. Received: none"):
        retention_png(tmp_path / "retention.png", {"view": {}})


def test_long_names_leave_room_for_the_plot(tmp_path, figures):
    names = [letter * 70 for letter in "abc"]
    weights = weight_grid(3, steps=2)
    with warnings.catch_warnings(action="error"):
        tradeoff_png(tmp_path / "plot.png", names, weights, weights)
        capacity_png(tmp_path / "plot.png", {"embedding": [0.1, 0.2, 0.3, 0.4]}, names)
        retention_png(tmp_path / "plot.png", {names[0]: {names[0]: 0.1}})
        learning_png(tmp_path / "plot.png", [entry(names[0], "fit", 1, 1.0)])
    assert figures[-1].axes[0].get_title() == "a" * 23 + "…"
