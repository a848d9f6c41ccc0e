"""Figures of a training run: curves over the annealing steps and the annealing path."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter, MaxNLocator

from cmtjax.evaluation.figures.style import (
    BLUE,
    GRAY,
    GREEN,
    VERMILION,
    new_figure,
    padded_limits,
    plot_series,
    say_empty,
)


def _columns(metrics: Mapping[str, np.ndarray]) -> Callable[[str], np.ndarray]:
    """Look-up of a column as float64; NaN where the run does not record it."""
    if "annealing_step" not in metrics:
        raise ValueError(f"metrics must have the column 'annealing_step', got {sorted(metrics)}.")
    arrays = {name: np.atleast_1d(np.asarray(values, dtype=np.float64)) for name, values in metrics.items()}
    length = arrays["annealing_step"].size
    wrong = {name: array.shape for name, array in arrays.items() if array.shape != (length,)}
    if length == 0 or wrong:
        raise ValueError(
            f"All columns of metrics must have the length of 'annealing_step' ({length}) > 0, got {wrong}."
        )
    return lambda name: arrays.get(name, np.full(length, np.nan))


def _recent(values: np.ndarray) -> np.ndarray:
    """The last third of the finite values: before it, log Z is often orders of magnitude away."""
    finite = values[np.isfinite(values)]
    return finite[2 * finite.size // 3 :]


def _draw_panel(axes: Axes, title: str, steps: np.ndarray, series: Mapping[str, tuple[np.ndarray, str, str]]) -> bool:
    """One panel of curves label -> (values, color, line style); False and a note if there is nothing to draw."""
    axes.set_title(title)
    drawn = [plot_series(axes, steps, values, color, label, style) for label, (values, color, style) in series.items()]
    if not any(drawn):
        say_empty(axes)
        return False
    if len(series) > 1:
        axes.legend()
    axes.set(xlabel="annealing step", xlim=padded_limits(steps, min_span=2.0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return True


def _draw_log_z(axes: Axes, column: Callable[[str], np.ndarray], reference: float | None) -> None:
    steps, log_z, error = column("annealing_step"), column("log_z"), column("log_z_standard_error")
    log_z = np.where(np.isfinite(log_z), log_z, np.nan)
    if not _draw_panel(axes, "log Z (scaled to the last third of the run)", steps, {"estimate": (log_z, BLUE, "-")}):
        return
    axes.fill_between(
        steps, log_z - error, log_z + error, color=BLUE, alpha=0.25, linewidth=0, label="± standard error"
    )
    limits = padded_limits(_recent(log_z), np.array([]) if reference is None else np.array([reference]), min_span=0.1)
    if reference is not None:
        axes.axhline(reference, color=VERMILION, linestyle="--", label=f"reference {reference:.3f}".replace("-", "−"))
    axes.set_ylim(limits)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.legend()


def plot_training_curves(
    metrics: Mapping[str, np.ndarray],
    path: str | os.PathLike[str],
    *,
    reference_log_z: float | None = None,
) -> pathlib.Path:
    """Nine panels that show whether a run went well.

    Args:
      metrics: columns of a run's metrics.csv, each (annealing steps,); ``annealing_step`` must be there, a panel
        whose columns are missing or not finite says so. NaN and ±inf leave gaps.
      path: where the PNG goes.
      reference_log_z: a known log Z to compare with.

    Returns:
      The path written.

    Raises:
      ValueError: if columns differ in length, ``annealing_step`` is missing or path is not a PNG.
    """
    column = _columns(metrics)
    steps = column("annealing_step")
    with new_figure(path, (13.5, 10.0)) as figure:
        panels = figure.subplots(3, 3).ravel()

        _draw_panel(panels[0], "entropy of the flow (nats)", steps, {"entropy": (column("entropy"), BLUE, "-")})

        series = {
            "to the next density": (column("ess_next"), BLUE, "-"),
            "to the target": (column("ess_target"), VERMILION, "-"),
        }
        if _draw_panel(panels[1], "effective sample size (share)", steps, series):
            panels[1].set_ylim(-0.02, 1.02)

        series = {
            "λ (trust region)": (column("trust_region_multiplier"), BLUE, "-"),
            "η (entropy)": (column("entropy_multiplier"), VERMILION, "-"),
        }
        if _draw_panel(panels[2], "Lagrange multipliers (linear below 0.01)", steps, series):
            panels[2].set_yscale("symlog", linthresh=1e-2)
            multipliers = np.concatenate([values for values, _, _ in series.values()])
            largest = np.max(multipliers, where=np.isfinite(multipliers), initial=0.1)
            panels[2].set_ylim(-2e-3, 3 * largest)

        _draw_log_z(panels[3], column, reference_log_z)

        series = {
            "training": (column("training_loss"), BLUE, "-"),
            "held out": (column("held_out_loss"), VERMILION, "--"),
        }
        _draw_panel(panels[4], "weighted forward-KL loss (nats)", steps, series)

        gap = column("held_out_loss") - column("training_loss")
        if _draw_panel(panels[5], "held-out minus training loss (nats)", steps, {"gap": (gap, GREEN, "-")}):
            panels[5].axhline(0.0, color=GRAY, linewidth=0.8)

        series = {"asked for": (column("kl"), BLUE, "-"), "reached": (column("kl_reached"), VERMILION, "-")}
        _draw_panel(panels[6], "KL to the previous density (nats)", steps, series)

        series = {
            "asked for": (column("entropy_decay"), BLUE, "-"),
            "reached": (column("entropy_decay_reached"), VERMILION, "-"),
        }
        _draw_panel(panels[7], "entropy decay a step (nats)", steps, series)

        norm = column("gradient_norm")
        if _draw_panel(panels[8], "gradient norm", steps, {"norm": (np.where(norm > 0, norm, np.nan), BLUE, "-")}):
            panels[8].set_yscale("log")
            panels[8].yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2.0, 0.5)))
            panels[8].yaxis.set_major_formatter(LogFormatter())
    return pathlib.Path(path)


def plot_path(metrics: Mapping[str, np.ndarray], path: str | os.PathLike[str]) -> pathlib.Path:
    """The annealing path q_i ∝ q_0^(1−β_i) p̃^(α_i β_i) (CMT, Theorem 2.4): from q_0 (β = 0) to p (α = β = 1).

    Args:
      metrics: columns of a run's metrics.csv; ``annealing_step``, ``alpha`` and ``beta`` are used.
      path: where the PNG goes.

    Returns:
      The path written.

    Raises:
      ValueError: if columns differ in length, ``annealing_step`` is missing or path is not a PNG.
    """
    column = _columns(metrics)
    steps, alpha, beta = column("annealing_step"), column("alpha"), column("beta")
    with new_figure(path, (13.5, 4.2)) as figure:
        over_steps, log_scale, plane = figure.subplots(1, 3)
        series = {
            "α (tempering)": (alpha, VERMILION, "-"),
            "β (from the base)": (beta, BLUE, "-"),
            "αβ (exponent of the target)": (alpha * beta, GREEN, "--"),
        }
        if _draw_panel(over_steps, "path over the annealing steps", steps, series):
            over_steps.set_ylim(-0.02, 1.05)

        positive = {
            label: (np.where(values > 0, values, np.nan), color, style)
            for label, (values, color, style) in series.items()
        }
        if _draw_panel(log_scale, "the same, logarithmic", steps, positive):
            log_scale.set_yscale("log")

        is_known = np.isfinite(alpha) & np.isfinite(beta)
        plane.set_title("path in the (β, α) plane")
        if not np.any(is_known):
            say_empty(plane)
            return pathlib.Path(path)
        plane.plot(beta[is_known], alpha[is_known], color=GRAY, linewidth=1.0, zorder=1)
        dots = plane.scatter(beta[is_known], alpha[is_known], c=steps[is_known], cmap="viridis", s=18, zorder=2)
        dots.set_clim(steps.min(), max(steps.max(), steps.min() + 1))
        figure.colorbar(dots, ax=plane, label="annealing step")
        plane.plot(1.0, 1.0, "*", color=VERMILION, markersize=13, zorder=3, label="target", clip_on=False)
        plane.legend(loc="best")
        plane.set(xlabel="β", ylabel="α", xlim=(-0.03, 1.05), ylim=(-0.03, 1.05))
    return pathlib.Path(path)
