"""The one look: every method its own colour, line and marker; figures byte-stable; bad input named."""

import io

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from pso_lib import plots


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plots.use_style()
        yield
    plt.close("all")


@pytest.mark.parametrize("table", [plots.METHODS, plots.TRAINERS], ids=["starts", "ways to train"])
def test_methods_differ_in_colour_and_in_line_and_marker_together(table):
    styles = [plots.method_style(name) for name in table]
    assert len({s["color"] for s in styles}) == len(styles)
    assert len({(str(s["linestyle"]), s["marker"]) for s in styles}) == len(styles)


def test_every_recorded_way_to_train_has_a_style_and_no_name_means_two_things():
    from pso_lib.experiments import experiment

    assert not set(plots.METHODS) & set(plots.TRAINERS)
    for name in ("stable_learning_rate", "pss_controls", "pss_triggers"):
        assert {method.name for method in experiment(name).methods} <= set(plots.TRAINERS)


def test_unknown_method():
    with pytest.raises(ValueError, match="Did you mean 'shared'"):
        plots.method_style("shard")


def test_band_spans_minimum_to_maximum_around_the_mean():
    _, ax = plt.subplots()
    values = torch.tensor([[0.0, 1.0], [1.0, 5.0]])
    plots.band(ax, [5, 20], values, "he")
    np.testing.assert_allclose(ax.get_lines()[0].get_ydata(), [0.5, 3.0])
    corners = ax.collections[0].get_paths()[0].vertices
    assert {(5.0, 0.0), (5.0, 1.0), (20.0, 1.0), (20.0, 5.0)} <= {tuple(c) for c in corners}
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(runs, 2\)"):
        plots.band(ax, [5, 20], torch.zeros(2, 3))


def test_labels_at_the_ends_do_not_overlap():
    _, ax = plt.subplots()
    for height, name in ((0.50, "he"), (0.51, "xavier"), (0.505, "orthogonal")):
        ax.plot([0, 1], [0, height], **plots.method_style(name))
    plots.label_ends(ax, gap=0.05)
    heights = sorted(text.xy[1] for text in ax.texts)
    assert len(heights) == 3 and np.diff(heights).min() > 0.049


def test_crowded_labels_at_the_top_leave_the_others_alone():
    _, ax = plt.subplots()
    for height, name in ((0.99, "he"), (0.995, "xavier"), (1.0, "orthogonal"), (0.5, "shared")):
        ax.plot([0, 1], [0, height], **plots.method_style(name))
    ax.set_ylim(0, 1)
    plots.label_ends(ax, gap=0.05)
    heights = sorted(text.xy[1] for text in ax.texts)
    assert heights == pytest.approx([0.5, 0.9, 0.95, 1.0])


def test_depth_axis_and_chance():
    _, ax = plt.subplots()
    plots.depth_axis(ax)
    plots.chance_line(ax, 10)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["5", "20", "50", "100", "200"]
    assert ax.get_ylim() == (0, 1) and ax.get_lines()[0].get_ydata()[0] == 0.1


def test_fan_draws_all_values_and_floors_the_rounding():
    _, ax = plt.subplots()
    plots.spectrum_fan(ax, [1, 2], torch.tensor([[1.0, 0.1, 1e-30], [2.0, 0.2, 0.0]]), floor=1e-16)
    assert len(ax.get_lines()) == 3 and ax.get_yscale() == "log"
    np.testing.assert_allclose(ax.get_lines()[1].get_ydata(), [1e-16, 2e-16])
    with pytest.raises(ValueError, match="one row a depth"):
        plots.spectrum_fan(ax, [1, 2, 3], torch.ones(2, 3))


def test_creases_lie_on_their_lines():
    _, ax = plt.subplots()
    plots.creases(ax, torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([5.0, 9.0]), radius=2)
    (line,) = ax.get_lines()  # the second one misses the disc
    for p in line.get_xydata():
        assert p @ [3, 4] + 5 == pytest.approx(0) and np.linalg.norm(p) == pytest.approx(2)


def test_the_same_figure_gives_the_same_bytes():
    def draw() -> bytes:
        fig, ax = plt.subplots()
        plots.band(ax, [5, 20], torch.tensor([[0.0, 1.0], [1.0, 5.0]]), "he")
        plots.polygons(ax, [[(0, 0), (1, 0), (0, 1)]])
        out = io.BytesIO()
        fig.savefig(out, format="svg", metadata={"Date": None})
        return out.getvalue()

    assert draw() == draw()


def test_runs_become_a_band_over_depth():
    runs = [{"depth": d, "seed": s, "test_accuracy": d / 100 + s} for d in (50, 5) for s in (0, 1)]
    fig, ax = plt.subplots()
    plots.runs_band(ax, runs, "shared_residual")
    line = ax.get_lines()[0]
    assert line.get_xdata().tolist() == [5, 50] and line.get_ydata().tolist() == pytest.approx([0.55, 1.0])
    assert line.get_label() == plots.method_style("shared")["label"]
    with pytest.raises(ValueError, match="one for each seed"):
        plots.runs_band(ax, runs[:-1])
    plt.close(fig)
