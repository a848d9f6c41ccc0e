"""The figure of what variants end in: what became of their modes, what the axes hold, that nothing overlaps."""

import itertools

import numpy as np
import pytest
from matplotlib.image import imread

from cmtjax.evaluation.figures.variants import Variant, plot_variants
from cmtjax.evaluation.summaries import basin_status
from cmtjax.evaluation.tables import Estimate

STATUSES = ("found", "lost", "undecided", "unchecked")
MARKERS = {"found": "o", "lost": "*", "undecided": "D", "unchecked": "o"}


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({}, "found"),
        ({"num_basins_wrong": 2}, "found"),
        ({"num_basins_lost": 1, "num_basins_undecided": 1}, "lost"),
        ({"num_basins_lost_reweighted": 1}, "lost"),
        ({"num_basins_undecided": 1}, "undecided"),
        ({"num_basins_undecided_reweighted": 2}, "undecided"),
        # Weights that are not clipped are not those of the ESS that is shown.
        ({"num_basins_lost_reweighted_raw": 1}, "found"),
        ({"num_basins": 0}, "unchecked"),
    ],
)
def test_what_became_of_the_modes(counts, expected):
    evaluated = {f"num_basins_{name}{suffix}": 0 for name in ("lost", "undecided") for suffix in ("", "_reweighted")}
    assert basin_status({"num_basins": 5, **evaluated, **counts}) == expected


def test_runs_that_nobody_compared_with_a_truth_do_not_look_clean():
    assert basin_status({"ess": 0.9}) == "unchecked"


def variant(index, label="CMT", **changes):
    values = {
        "log_likelihood": Estimate(-214.0 - 0.1 * index, 0.02, 3),
        "ess": Estimate(0.1 + 0.1 * index, 0.01, 3),
        "basins": STATUSES[index % 4],
    }
    return Variant(f"{label} {index}", **values | changes)


def points(axes):
    """(x, y, standard error or None) of each, from top to bottom."""
    found = []
    for container in axes.containers:
        (line, _, bars) = container.lines
        error = np.ptp(bars[0].get_segments()[0][:, 0]) / 2 if bars else None
        found.append((line.get_xdata()[0], line.get_ydata()[0], error, line.get_marker()))
    return found


def test_means_errors_and_marks(tmp_path, drawn):
    shown = [variant(0), variant(1), variant(2, ess=None), variant(3, log_likelihood=None)]
    shown.append(variant(4, ess=Estimate(0.02, None, 1), log_likelihood=Estimate(-215.0, None, 1)))
    path = plot_variants(shown, tmp_path / "variants.png", title="system")
    assert imread(path).std() > 0.01
    left, right = drawn[0].axes
    for axes, name, missing in ((left, "log_likelihood", 3), (right, "ess", 2)):
        expected = [one for index, one in enumerate(shown) if index != missing]
        assert len(points(axes)) == 4
        for (x, _, error, marker), one in zip(points(axes), expected, strict=True):
            value = getattr(one, name)
            assert x == value.mean
            assert error is value.standard_error is None or error == pytest.approx(value.standard_error)
            assert marker == MARKERS[one.basins]
            assert axes.get_xlim()[0] < x < axes.get_xlim()[1]
        (text,) = axes.texts
        assert text.get_text() == "no value"
        assert text.get_position()[1] == left.get_yticks()[missing]
    assert left.yaxis_inverted()  # the first variant is on top
    labels = [label.get_text() for label in left.get_yticklabels()]
    assert [" ".join(label.split()) for label in labels] == ["CMT 0", "CMT 1 ★", "CMT 2 (★)", "CMT 3 ?", "CMT 4"]
    (legend,) = drawn[0].legends
    lost, unchecked = (next(text for text in legend.get_texts() if text.get_text()[0] == mark) for mark in "★?")
    assert "ESS not comparable" in lost.get_text()
    assert "not checked" in unchecked.get_text()
    plot_variants([variant(0)], tmp_path / "clean.png")
    assert [text.get_text() for text in drawn[1].legends[0].get_texts()] == ["all modes of the truth found in all runs"]


def texts(figure):
    """Extents of everything that is written."""
    figure.draw_without_rendering()  # at the figure's own resolution, not that of the file
    found = [*(text for axes in figure.axes for text in axes.texts), *figure.legends[0].get_texts(), figure._suptitle]
    for axes in figure.axes:
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, sorted(axes.get_ylim()))):
            ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)  # the second has no labels
            found += [label for place, label in ticks if low <= place <= high]
            found.append(axis.label)
    return [text.get_window_extent() for text in found if text.get_visible() and text.get_text()]


@pytest.mark.parametrize("num_variants", [1, 4, 8])
@pytest.mark.parametrize("num_settings", [1, 14])
def test_labels_stay_on_the_page_and_apart(num_variants, num_settings, tmp_path, drawn):
    label = f"CMT ({', '.join(f'name_of_setting_{i}=0.0{i}' for i in range(num_settings))})"
    shown = [variant(index, label) for index in range(num_variants)]
    if num_variants > 4:
        shown[4] = variant(4, log_likelihood=None, ess=None)
    plot_variants(shown, tmp_path / "variants.png", title="alanine_hexapeptide at 300 K")
    (figure,) = drawn
    extents = texts(figure)
    assert len(extents) > num_variants + 8
    for extent in extents:
        assert figure.bbox.x0 <= extent.x0 < extent.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= extent.y0 < extent.y1 <= figure.bbox.y1
    for a, b in itertools.combinations(extents, 2):
        assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0


def test_nothing_to_draw_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="variants must have at least one entry"):
        plot_variants([], tmp_path / "variants.png")
