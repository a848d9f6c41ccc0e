"""Figures over groups of runs: what the axes hold, and that every combination of gaps can be drawn."""

import itertools

import numpy as np
import pytest
from matplotlib.image import imread
from matplotlib.text import Text

from cmtjax.evaluation.figures import comparison
from cmtjax.evaluation.figures.ramachandran_comparison import RamachandranPlots, plot_ramachandran_comparison
from cmtjax.evaluation.published import published_rows
from cmtjax.evaluation.tables import Estimate, TableRow


def run_metrics(num_steps=20, buffer_size=1000, shift=0.0):
    step = np.arange(1, num_steps + 1)
    return {
        "annealing_step": step,
        "target_evaluations": step * buffer_size,
        "entropy": -100.0 - step + shift,
        "ess_next": np.full(num_steps, 0.6 + 0.1 * shift),
        "ess_target": step / 40,
        "trust_region_multiplier": 1e3 * np.exp(-step.astype(float)),
        "entropy_multiplier": np.zeros(num_steps),
        "log_z": -175.0 + np.where(step < 5, -1e5, 0.01 * shift),
        "gradient_norm": 5.0 + step,
    }


def panel(figure, title):
    return next(axes for axes in figure.axes if axes.get_title(loc="left").startswith(title))


def test_curves_are_mean_and_range_over_seeds(tmp_path, drawn):
    runs = [run_metrics(shift=0.0), run_metrics(shift=1.0), run_metrics(num_steps=10, shift=5.0)]
    runs[1]["entropy"][3] = np.nan
    groups = {"one": runs, "other": [run_metrics(buffer_size=3000)]}
    path = comparison.plot_curves(groups, tmp_path / "curves.png", x_axis="target_evaluations", title="system")
    assert imread(path).std() > 0.01
    axes = panel(drawn[0], "entropy of the flow")
    first, second = axes.lines
    steps = np.arange(1, 21)
    np.testing.assert_array_equal(first.get_xdata(), 1000 * steps)
    np.testing.assert_array_equal(second.get_xdata(), 3000 * steps)
    shifts = np.where(steps <= 10, 2.0, 0.5)  # means of 0, 1 and 5; then of 0 and 1
    shifts[3] = 2.5  # of 0 and 5
    np.testing.assert_allclose(first.get_ydata(), -100.0 - steps + shifts, rtol=1e-12)
    corners = axes.collections[0].get_paths()[0].vertices
    # The range of the first step: −101 to −96.
    assert set(corners[corners[:, 0] == 1000][:, 1]) == {-101.0, -96.0}
    # log Z is scaled to the end, where all is within 0.05 (minimum height 0.1, and margins).
    low, high = panel(drawn[0], "log Z").get_ylim()
    assert -175.2 < low < -175.0 < high < -174.8
    # Columns that no run has leave a note.
    assert "no values" in panel(drawn[0], "KL to the previous").texts[0].get_text()
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == ["one", "other"]


def settings(first):
    """A label of many settings, as of a group of runs that differ in all of them."""
    return f"CMT ({', '.join(f'name_of_setting_{i}={first + i / 1000}' for i in range(14))})"


def is_within(outer, inner):
    return outer.x0 <= inner.x0 and inner.x1 <= outer.x1 and outer.y0 <= inner.y0 and inner.y1 <= outer.y1


def test_long_labels_stay_on_the_page(tmp_path, drawn):
    labels = [settings(0), settings(1), "CMT"]
    comparison.plot_curves({label: [run_metrics()] for label in labels}, tmp_path / "curves.png", title="system")
    rows = [
        TableRow("system", label, "", 1, {"ess": Estimate(0.5, None, 1), "target_evaluations": Estimate(1e6, None, 1)})
        for label in labels
    ]
    comparison.plot_cost(rows, [], tmp_path / "cost.png", title="system")
    for figure in drawn:
        for legend in figure.legends:
            assert is_within(figure.bbox, legend.get_window_extent())
            assert {" ".join(text.get_text().split()) for text in legend.get_texts()} <= set(labels)
    masses = np.full((10, 10), 0.01)
    plots = [RamachandranPlots(label, masses, None) for label in labels]
    plot_ramachandran_comparison(masses, plots, tmp_path / "plots.png", temperature_kelvin=300.0)
    titles = [
        text.get_window_extent()
        for axes in drawn[-1].axes
        for text in axes.findobj(Text)
        if text.get_text() and text.get_text() == axes.get_title(loc="left")
    ]
    assert len(titles) == 4
    for left, right in itertools.pairwise(sorted(titles, key=lambda extent: extent.x0)):
        assert left.x1 < right.x0


def test_step_ess_shows_the_bound_of_each_trust_region(tmp_path, drawn):
    systems = {
        "dipeptide": [
            comparison.StepEss(0.3, [run_metrics(), run_metrics(shift=1.0)]),
            comparison.StepEss(0.1, [run_metrics()]),
            comparison.StepEss(np.inf, [run_metrics(shift=-2.0)]),
        ],
        "hexapeptide": [comparison.StepEss(0.3, [{"annealing_step": np.arange(3)}])],
    }
    comparison.plot_step_ess(systems, tmp_path / "ess.png")
    axes = drawn[0].axes[0]
    dashed = sorted(line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(dashed, [1 / 1.6, 1 / 1.2])
    solid = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "-"]
    np.testing.assert_allclose(solid, [0.65, 0.6, 0.4])
    assert "no values" in drawn[0].axes[1].texts[0].get_text()


def test_cost_shows_runs_and_published_results(tmp_path, drawn):
    rows = [
        TableRow("s", "CMT", "x=1", 2, {"ess": Estimate(0.7, 0.01, 2), "target_evaluations": Estimate(1e7, None, 2)}),
        TableRow("s", "CMT", "x=2", 1, {"target_evaluations": Estimate(1e7, None, 1)}),
    ]
    comparison.plot_cost(rows, published_rows("alanine_dipeptide"), tmp_path / "cost.png", title="s")
    evaluations, hours = drawn[0].axes
    # One of the runs has an ESS; of the papers' rows 5 + 4, and 3 with hours.
    assert len(evaluations.containers) == 1 + 9
    assert len(hours.containers) == 3
    own, published = drawn[0].legends
    assert [text.get_text() for text in own.get_texts()] == ["CMT (x=1)"]
    assert {text.get_text() for text in published.get_texts()} == {"CMT", "TA-BG", "FAB", "forward KL", "reverse KL"}
    comparison.plot_cost(rows[1:], [], tmp_path / "empty.png")
    assert "no values" in drawn[1].axes[0].texts[0].get_text()


def test_ramachandran_plots_share_a_scale_and_leave_gaps(tmp_path, drawn):
    masses = np.random.default_rng(0).dirichlet(np.ones(400), size=3).reshape(3, 20, 20)
    plots = [
        RamachandranPlots(
            "CMT (a long list of settings, which has to be broken into lines)", masses[1], masses[2], "KL 1"
        ),
        RamachandranPlots("TA-BG", masses[2], None),
    ]
    path = plot_ramachandran_comparison(masses[0], plots, tmp_path / "a.png", temperature_kelvin=300.0, title="ALA 2")
    assert imread(path).std() > 0.01
    images = [axes.images[0] for axes in drawn[0].axes if axes.images]
    assert len(images) == 5  # truth twice, two of the first run, one of the second
    assert {image.get_clim() for image in images} == {(0.0, 25.0)}
    reference = -2.494339 * np.log(masses[1] / masses[1].max())  # kT at 300 K in kJ/mol
    np.testing.assert_allclose(images[1].get_array(), reference.T, rtol=1e-6, atol=1e-9)
    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert titles[1].endswith("\nKL 1")
    assert max(map(len, titles[1].splitlines())) <= 34

    plot_ramachandran_comparison(None, [plots[1]], tmp_path / "b.png", temperature_kelvin=300.0)
    assert sum(bool(axes.images) for axes in drawn[1].axes) == 1


def test_nothing_to_draw_is_an_error(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ValueError, match="groups must have at least one entry"):
        comparison.plot_curves({}, path)
    with pytest.raises(ValueError, match="x_axis must be one of"):
        comparison.plot_curves({"a": [run_metrics()]}, path, x_axis="time")
    with pytest.raises(ValueError, match="systems must have"):
        comparison.plot_step_ess({}, path)
    with pytest.raises(ValueError, match="at least one Ramachandran plot"):
        plot_ramachandran_comparison(None, [RamachandranPlots("a", None, None)], path, temperature_kelvin=300.0)
    assert not path.exists()
