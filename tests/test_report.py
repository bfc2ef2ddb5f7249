"""Tables hold the right numbers; plots are real, non-empty PNGs with the right marks in them."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from csmf_tf.evaluation.report import capacity_png, format_capacity, format_table, tradeoff_png, weight_grid

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


def test_table_holds_the_numbers_of_an_evaluation():
    results = {
        "objectives": {
            "view": {"recall@50": 0.16374, "ndcg@50": 0.07, "users": 12011},
            "buy": {"recall@50": 0.2, "ndcg@50": 0.125, "users": 7},
        },
        "fused": {"view": {"recall@50": 0.15, "ndcg@50": 0.0651, "users": 12011}},
        "baselines": {"popularity": {"view": {"recall@50": 0.03, "ndcg@50": 0.01, "users": 12011}}},
        "unknown_users": 1234,
        "unknown_items": 0,
    }
    assert format_table(results).splitlines() == [
        "                 recall@50  ndcg@50   users",
        "view                0.1637   0.0700  12,011",
        "buy                 0.2000   0.1250       7",
        "fused view          0.1500   0.0651  12,011",
        "popularity view     0.0300   0.0100  12,011",
        "unknown_users: 1,234",
        "unknown_items: 0",
    ]


def test_table_of_plain_rows_and_of_rows_with_other_columns():
    rows = {"stage 1": {"recall@10": 0.5}, "best possible": {"recall@10": 0.75, "ndcg@10": np.float32(0.25)}}
    assert format_table(rows).splitlines() == [
        "               recall@10  ndcg@10",
        "stage 1           0.5000",
        "best possible     0.7500   0.2500",
    ]


def test_metrics_over_no_users_are_not_shown_as_numbers():
    line = format_table({"buy": {"recall@50": 0.0, "users": 0}}).splitlines()[1]
    assert line.split() == ["buy", "-", "0"]


def test_capacity_table_lists_objectives_in_order_and_the_free_part_last():
    assert format_capacity(CAPACITY, ["view", "buy"]).splitlines() == [
        "                view    buy   free",
        "embedding      50.0%  30.0%  20.0%",
        "user/hidden_1  75.0%  25.0%   0.0%",
    ]


@pytest.mark.parametrize("draw", [format_capacity, lambda *args: capacity_png("unused.png", *args)])
def test_capacity_of_the_wrong_length(draw):
    with pytest.raises(
        ValueError, match=r"`capacity\['embedding'\]` should have a share for each of free, view\. "
    ):
        draw(CAPACITY, ["view"])


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
    recalls = np.array([[0.2, 0.3], [0.1, 0.4], [0.25, 0.05]])
    tradeoff_png(tmp_path / "plot.png", ["view", "buy"], weights, recalls, metric="recall@20")
    assert_is_png(tmp_path / "plot.png")
    (axes,) = figures[0].axes
    lines = {line.get_label(): np.array(line.get_data()).tolist() for line in axes.get_lines()}
    assert lines == {"view": [[0, 0.25, 1], [0.25, 0.2, 0.1]], "buy": [[0, 0.25, 1], [0.05, 0.3, 0.4]]}
    assert "buy" in axes.get_xlabel()
    assert axes.get_ylabel() == "recall@20"


def test_three_objectives_are_triangles_that_mark_the_best_weights(tmp_path, figures):
    weights = weight_grid(3, steps=4)
    recalls = weights * 0.2
    tradeoff_png(tmp_path / "plot.png", ["view", "cart", "buy"], weights, recalls)
    assert_is_png(tmp_path / "plot.png")
    triangles = [axes for axes in figures[0].axes if axes.get_title()]
    assert [axes.get_title() for axes in triangles] == [
        f"recall@50 on {n} (★ 0.2000)" for n in ("view", "cart", "buy")
    ]
    corners = [(0, 0), (1, 0), (0.5, 0.75**0.5)]
    for axes, corner in zip(triangles, corners, strict=True):
        (star,) = [line for line in axes.get_lines() if line.get_marker() == "*"]
        np.testing.assert_allclose(np.ravel(star.get_data()), corner, atol=1e-12)
        assert {"weight of view", "weight of cart", "weight of buy"} <= {
            text.get_text() for text in axes.texts
        }


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
    ("objectives", "weights", "recalls", "message"),
    [
        (["a"], [[1]], [[1]], r"at least two objectives\. Received: \['a'\]"),
        (["a", "b"], [[1, 1]], [[1]], r"should be \[P, 2\]\. Received: shapes \(1, 2\) and \(1, 1\)"),
        (["a", "b"], [[0, 0]], [[1, 1]], r"should have a sum > 0\. Received: a sum of 0"),
        (list("abcd"), [[1, 1, 1, 1]], [[1, 1, 1, 1]], r"Received: none; write e\.g\. `weight_grid\(4\)`"),
    ],
)
def test_bad_trade_offs(tmp_path, objectives, weights, recalls, message):
    with pytest.raises(ValueError, match=message):
        tradeoff_png(tmp_path / "plot.png", objectives, weights, recalls)
    assert not (tmp_path / "plot.png").exists()


def test_report_does_not_import_tensorflow_or_pyplot():
    unwanted = {"tensorflow", "matplotlib.pyplot"}
    code = f"import sys, csmf_tf.evaluation.report; sys.exit(not sys.modules.keys().isdisjoint({unwanted}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
