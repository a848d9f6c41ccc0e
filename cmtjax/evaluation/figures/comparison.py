"""Figures that compare groups of runs: training curves, ESS of the steps, quality against cost."""

from __future__ import annotations

import itertools
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, MaxNLocator

from cmtjax.evaluation.figures.style import (
    BLUE,
    GRAY,
    GREEN,
    VERMILION,
    legend_below,
    new_figure,
    padded_limits,
    say_empty,
)
from cmtjax.evaluation.tables import TableRow, row_label

#: Columns of a run's metrics.csv, each (steps,).
Metrics = Mapping[str, np.ndarray]

# The rest of Okabe and Ito's palette; yellow is left out, which is too light for lines on white.
_COLORS = (BLUE, VERMILION, GREEN, "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINE_STYLES = ("-", "--", ":", "-.")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_AXIS_TITLES = {"annealing_step": "annealing step", "target_evaluations": "target evaluations"}


class StepEss(NamedTuple):
    """Runs of one configuration, for the ESS between successive densities.

    Attributes:
      trust_region_bound: ε_tr in nats; infinite if the bound is off.
      metrics: columns of each run; ``annealing_step`` and ``ess_next`` are used.
    """

    trust_region_bound: float
    metrics: Sequence[Metrics]


class _Band(NamedTuple):
    x: np.ndarray
    mean: np.ndarray
    lowest: np.ndarray
    highest: np.ndarray


def _band(runs: Sequence[Metrics], x_axis: str, column: str) -> _Band | None:
    """Mean and range over the runs that have a finite value at an annealing step; None if there is no value."""
    usable = [run for run in runs if {"annealing_step", x_axis, column} <= run.keys()]
    if not usable:
        return None
    step, x, y = (
        np.concatenate([np.asarray(run[name], np.float64) for run in usable])
        for name in ("annealing_step", x_axis, column)
    )
    is_finite = np.isfinite(y)
    if not np.any(is_finite):
        return None
    _, index = np.unique(step[is_finite], return_inverse=True)
    x, y, size = x[is_finite], y[is_finite], int(index.max()) + 1
    count = np.bincount(index)
    lowest, highest = np.full(size, np.inf), np.full(size, -np.inf)
    np.minimum.at(lowest, index, y)
    np.maximum.at(highest, index, y)
    return _Band(np.bincount(index, x) / count, np.bincount(index, y) / count, lowest, highest)


def _draw_band(axes: Axes, band: _Band, color: str, style: str = "-") -> Line2D:
    (line,) = axes.plot(band.x, band.mean, style, color=color, marker="o" if band.x.size == 1 else None)
    axes.fill_between(band.x, band.lowest, band.highest, color=color, alpha=0.2, linewidth=0)
    return line


def _set_share(axes: Axes, bands: Sequence[_Band]) -> None:
    axes.set_ylim(-0.02, 1.02)


def _set_multiplier(axes: Axes, bands: Sequence[_Band]) -> None:
    axes.set_yscale("symlog", linthresh=1e-2)
    axes.set_ylim(-2e-3, 3 * max(0.1, *(band.highest.max() for band in bands)))


def _set_last_third(axes: Axes, bands: Sequence[_Band]) -> None:
    # Before that, log Z is often orders of magnitude away.
    axes.set_ylim(padded_limits(*(band.mean[2 * band.mean.size // 3 :] for band in bands), min_span=0.1))
    axes.ticklabel_format(axis="y", useOffset=False)


def _set_logarithmic(axes: Axes, bands: Sequence[_Band]) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2.0, 0.5)))
    axes.yaxis.set_major_formatter(LogFormatter())


_CURVES: tuple[tuple[str, str, Callable[[Axes, Sequence[_Band]], None] | None], ...] = (
    ("entropy", "entropy of the flow (nats)", None),
    ("ess_next", "ESS to the next density (share)", _set_share),
    ("ess_target", "ESS to the target (share)", _set_share),
    ("trust_region_multiplier", "λ, trust region (linear below 0.01)", _set_multiplier),
    ("entropy_multiplier", "η, entropy bound (linear below 0.01)", _set_multiplier),
    ("log_z", "log Z (scaled to the last third)", _set_last_third),
    ("kl_reached", "KL to the previous density reached (nats)", None),
    ("entropy_decay_reached", "entropy decay a step reached (nats)", None),
    ("gradient_norm", "gradient norm before clipping", _set_logarithmic),
)


def plot_curves(
    groups: Mapping[str, Sequence[Metrics]],
    path: str | os.PathLike[str],
    *,
    x_axis: Literal["annealing_step", "target_evaluations"] = "annealing_step",
    title: str = "",
) -> pathlib.Path:
    """Training curves of groups of runs (CMT, Figures 2a, 2b and 5 among them): mean over the seeds, and their range.

    Args:
      groups: label to the runs' columns; a run without a column is left out of that panel.
      path: where the PNG goes.
      x_axis: column along the horizontal axis; evaluations make methods comparable whose steps differ in cost.
      title: of the figure.

    Returns:
      The path written.

    Raises:
      ValueError: if there is no group, x_axis is unknown or path is not a PNG.
    """
    if x_axis not in _AXIS_TITLES:
        raise ValueError(f"x_axis must be one of {list(_AXIS_TITLES)}, got {x_axis!r}.")
    if not groups:
        raise ValueError("groups must have at least one entry, got none.")
    with new_figure(path, (13.5, 10.0)) as figure:
        handles: dict[str, Any] = {}
        for axes, (column, panel_title, adjust) in zip(figure.subplots(3, 3).ravel(), _CURVES, strict=True):
            axes.set_title(panel_title)
            bands = []
            looks = itertools.cycle(itertools.product(_LINE_STYLES, _COLORS))
            for (label, runs), (style, color) in zip(groups.items(), looks, strict=False):
                band = _band(runs, x_axis, column)
                if band is not None:
                    handles[label] = _draw_band(axes, band, color, style)
                    bands.append(band)
            if not bands:
                say_empty(axes)
                continue
            axes.set_xlabel(_AXIS_TITLES[x_axis])
            if adjust is not None:
                adjust(axes, bands)
        figure.suptitle(f"{title}: mean over the seeds, with their range" if title else "")
        legend_below(figure, handles, max_columns=4)
    return pathlib.Path(path)


def plot_step_ess(systems: Mapping[str, Sequence[StepEss]], path: str | os.PathLike[str]) -> pathlib.Path:
    """ESS between successive densities for different trust-region bounds (CMT, Figure 6), a panel for each system.

    The dashed lines are the bounds' approximate lower limit 1/(1 + 2 ε_tr) of the ESS (CMT, equation 21).

    Args:
      systems: name to its groups of runs; groups with the same bound share a color.
      path: where the PNG goes.

    Returns:
      The path written.

    Raises:
      ValueError: if there is no system or path is not a PNG.
    """
    if not systems:
        raise ValueError("systems must have at least one entry, got none.")
    bounds = sorted({group.trust_region_bound for groups in systems.values() for group in groups})
    colors = dict(zip(bounds, itertools.cycle(_COLORS), strict=False))
    with new_figure(path, (max(5.2 * len(systems), 6.5), 4.4)) as figure:
        handles: dict[str, Any] = {}
        panels = figure.subplots(1, len(systems), squeeze=False, sharey=True)[0]
        for axes, (system, groups) in zip(panels, systems.items(), strict=True):
            axes.set_title(system)
            for group in groups:
                band = _band(group.metrics, "annealing_step", "ess_next")
                if band is None:
                    continue
                bound, color = group.trust_region_bound, colors[group.trust_region_bound]
                name = f"ε_tr = {bound:g}" if np.isfinite(bound) else "no trust region"
                handles[name] = _draw_band(axes, band, color)
                if np.isfinite(bound):
                    axes.axhline(1 / (1 + 2 * bound), color=color, linestyle="--", linewidth=1.0)
            if not axes.lines:
                say_empty(axes)
                continue
            axes.set(xlabel="annealing step", ylim=(-0.02, 1.02))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_ylabel("ESS to the next density (share)")
        handles["1/(1 + 2 ε_tr)"] = Line2D([], [], color=GRAY, linestyle="--", linewidth=1.0)
        legend_below(figure, handles, max_columns=2 * len(systems) + 1)
    return pathlib.Path(path)


def plot_cost(
    rows: Sequence[TableRow], published: Sequence[TableRow], path: str | os.PathLike[str], *, title: str = ""
) -> pathlib.Path:
    """ESS against what it cost, target evaluations and wall clock: runs in color, published results open and gray.

    Args:
      rows: of the runs; those without an ESS or a cost are left out of a panel.
      published: of the papers; the shape of a marker tells the method, also for runs.
      path: where the PNG goes.
      title: of the figure.

    Returns:
      The path written.

    Raises:
      ValueError: if path is not a PNG.
    """
    methods = list(dict.fromkeys(row.method for row in [*rows, *published]))
    panels = (("target_evaluations", "target evaluations"), ("wall_clock_hours", "wall clock (h), different hardware"))
    with new_figure(path, (12.5, 5.0)) as figure:
        handles: dict[str, Any] = {}
        published_handles: dict[str, Any] = {}
        for axes, (cost, name) in zip(figure.subplots(1, 2), panels, strict=True):

            def draw(row: TableRow, axes: Axes = axes, cost: str = cost, **style: Any) -> Any:
                ess, spent = row.estimates["ess"], row.estimates[cost]
                marker = _MARKERS[methods.index(row.method) % len(_MARKERS)]
                style |= {"fmt": marker, "markersize": 7}
                return axes.errorbar(spent.mean, ess.mean, ess.standard_error, spent.standard_error, **style)

            for row, color in zip(rows, itertools.cycle(_COLORS), strict=False):
                if {"ess", cost} <= row.estimates.keys():
                    handles[row_label(row)] = draw(row, color=color, zorder=3)
            for row in published:
                if {"ess", cost} <= row.estimates.keys():
                    published_handles[row.method] = draw(row, color=GRAY, markerfacecolor="white")
            if not axes.containers:
                say_empty(axes)
                continue
            ess = [row.estimates["ess"].mean for row in [*rows, *published] if {"ess", cost} <= row.estimates.keys()]
            lower, upper = padded_limits(np.array(ess), min_span=0.2) or (0.0, 1.0)
            axes.set(xscale="log", xlabel=name, ylabel="ESS (share)", ylim=(max(lower, -0.02), min(upper, 1.02)))
        figure.suptitle(title)
        legend_below(figure, handles, max_columns=3)
        if published_handles:
            names = list(published_handles)
            figure.legend(list(published_handles.values()), names, loc="outside right center", title="published")
    return pathlib.Path(path)
