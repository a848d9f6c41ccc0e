"""Figure of what variants of a method end in: log-likelihood of the truth and ESS, with a mark where a mode is lost."""

from __future__ import annotations

import os
import pathlib
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from cmtjax.evaluation.figures.style import BLUE, GRAY, GREEN, VERMILION, legend_below, new_figure, padded_limits
from cmtjax.evaluation.summaries import BasinStatus
from cmtjax.evaluation.tables import Estimate

# Of each status the mark behind a label, the look of its points, and what the legend says of it.
_LOOKS: dict[BasinStatus, tuple[str, dict[str, Any], str]] = {
    "found": ("", {"marker": "o", "color": BLUE}, "all modes of the truth found in all runs"),
    "lost": ("★", {"marker": "*", "color": VERMILION, "markersize": 13}, "★ a run lost a mode: ESS not comparable"),
    "undecided": ("(★)", {"marker": "D", "color": GREEN}, "(★) a run may have lost a mode: too few samples to tell"),
    "unchecked": (
        "?",
        {"marker": "o", "color": GRAY, "markerfacecolor": "white"},
        "? not checked: a run was never compared with a truth",
    ),
}
# Width of the labels and of the whole figure; height of a line of a label, of the gap between labels, and of all that
# is above and below the points.
_LABEL_CHARACTERS, _WIDTH_INCHES, _LINE_INCHES, _GAP_LINES, _MARGIN_INCHES = 56, 13.0, 0.165, 1.2, 1.9


class Variant(NamedTuple):
    """Runs of one configuration.

    Attributes:
      label: what the figure calls them.
      log_likelihood: mean log q over the truth (−NLL) in nats, over the runs; None if no run has it.
      ess: to the target, a fraction, likewise.
      basins: what became of the modes, over the runs the worst.
    """

    label: str
    log_likelihood: Estimate | None
    ess: Estimate | None
    basins: BasinStatus


def plot_variants(variants: Sequence[Variant], path: str | os.PathLike[str], *, title: str = "") -> pathlib.Path:
    """Final log-likelihood and ESS of variants side by side (CMT, Figures 2c and 2d): means with standard errors.

    As in the paper, variants that lost a mode are marked with a star: the ESS is that of samples of the flow, which do
    not know of a mode that they never visit, so it is not comparable. Those that nobody has compared with a truth have
    a mark of their own.

    Args:
      variants: from top to bottom.
      path: where the PNG goes.
      title: of the figure.

    Returns:
      The path written.

    Raises:
      ValueError: if there is no variant or path is not a PNG.
    """
    if not variants:
        raise ValueError("variants must have at least one entry, got none.")
    labels = [textwrap.fill(_marked(variant), _LABEL_CHARACTERS, break_on_hyphens=False) for variant in variants]
    heights = np.array([_GAP_LINES + len(label.splitlines()) for label in labels])
    places = np.cumsum(heights) - 0.5 * heights
    with new_figure(path, (_WIDTH_INCHES, _MARGIN_INCHES + _LINE_INCHES * heights.sum())) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        _draw(left, [variant.log_likelihood for variant in variants], variants, places)
        _draw(right, [variant.ess for variant in variants], variants, places)
        left.set(xlabel="log-likelihood of the truth, −NLL (nats)", ylim=(heights.sum(), 0.0))
        left.set_yticks(places, labels, fontsize=9.0)
        left.ticklabel_format(axis="x", useOffset=False)
        upper = _upper_limit(variants)
        right.set(xlabel="ESS to the target (share)", xlim=(-0.03 * upper, upper))
        right.tick_params(axis="y", labelleft=False)
        figure.suptitle(f"{title}: mean over the seeds, with its standard error" if title else "")
        shown = {variant.basins for variant in variants}
        handles = {
            text: Line2D([], [], linestyle="", **look) for status, (_, look, text) in _LOOKS.items() if status in shown
        }
        legend_below(figure, handles, max_columns=2)
    return pathlib.Path(path)


def _marked(variant: Variant) -> str:
    mark = _LOOKS[variant.basins][0]
    return f"{variant.label}\u00a0{mark}" if mark else variant.label


def _upper_limit(variants: Sequence[Variant]) -> float:
    """Above every ESS with its error; all of [0, 1] if there is none."""
    highest = [value.ess.mean + (value.ess.standard_error or 0.0) for value in variants if value.ess is not None]
    return min(1.02, 1.15 * max(highest, default=1.0) + 1e-3)


def _draw(axes: Axes, estimates: Sequence[Estimate | None], variants: Sequence[Variant], places: np.ndarray) -> None:
    ends = []
    for value, variant, place in zip(estimates, variants, places, strict=True):
        if value is None:
            axes.text(
                0.02, place, "no value", transform=axes.get_yaxis_transform(), va="center", color=GRAY, fontsize=9.0
            )
            continue
        error = value.standard_error
        axes.errorbar(
            value.mean,
            place,
            xerr=error,
            linestyle="",
            capsize=3,
            zorder=3,
            **{"markersize": 7, **_LOOKS[variant.basins][1]},
        )
        ends += [value.mean - (error or 0.0), value.mean + (error or 0.0)]
    if not ends:
        axes.set_xticks([])
        return
    axes.set_xlim(padded_limits(np.array(ends), min_span=0.1))
    axes.xaxis.set_major_locator(MaxNLocator(6))
