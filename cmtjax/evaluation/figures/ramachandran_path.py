"""Figures of the conformations along a run: where on the annealing path a basin is found or lost."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence

import matplotlib
import numpy as np
from jaxtyping import Int
from matplotlib.ticker import MaxNLocator

from cmtjax.evaluation.basins import Basins
from cmtjax.evaluation.figures.samples import draw_free_energy
from cmtjax.evaluation.figures.style import new_figure, padded_limits, say_empty
from cmtjax.evaluation.ramachandran import free_energy_kj_mol
from cmtjax.evaluation.ramachandran_path import BasinPath


def plot_ramachandran_path(
    steps: Int[np.ndarray, " steps"],
    counts: Int[np.ndarray, "steps pairs bins bins"],
    path: str | os.PathLike[str],
    *,
    temperature_kelvin: float,
    pair_names: Sequence[str] | None = None,
    num_columns: int = 8,
    max_kj_mol: float = 25.0,
) -> pathlib.Path:
    """Free energies over (φ, ψ) of the samples that annealing steps began with, some steps of a run.

    Args:
      steps: (steps,) annealing steps; those shown reach from the first to the last, evenly spaced.
      counts: (steps, pairs, bins, bins) samples in each bin, φ along axis 2 (``ramachandran_path_arrays``).
      path: where the PNG goes.
      temperature_kelvin: whose kT the logarithms are multiplied with.
      pair_names: a name for each pair, for the row's label.
      num_columns: steps shown, at most.
      max_kj_mol: end of the color scale.

    Returns:
      The path written.

    Raises:
      ValueError: if shapes or names disagree, there is no step or no pair, num_columns is below 2 or path is not a PNG.
    """
    steps, counts = np.asarray(steps), np.asarray(counts)
    if counts.ndim != 4 or counts.shape[:1] != steps.shape or 0 in counts.shape:
        raise ValueError(
            f"counts must have shape (steps, pairs, bins, bins), at least one of each and as many steps as steps has, "
            f"got {counts.shape} and steps of shape {steps.shape}."
        )
    if num_columns < 2:
        raise ValueError(f"num_columns must be at least 2, got {num_columns}.")
    num_pairs = counts.shape[1]
    _check_names(pair_names, num_pairs)
    shown = np.unique(np.round(np.linspace(0, steps.size - 1, num_columns)).astype(int))
    # A bin of 3.6° has less than one of 10⁵ samples where the free energy is 25 kJ/mol: twice as wide ones show more.
    factor = 2 if counts.shape[-1] % 2 == 0 else 1
    num_bins = counts.shape[-1] // factor
    coarse = counts.reshape(*counts.shape[:2], num_bins, factor, num_bins, factor).sum((3, 5))
    image = None
    with new_figure(path, (2.1 * len(shown) + 1.8, 2.1 * num_pairs + 0.7), layout="compressed") as figure:
        panels = figure.subplots(num_pairs, len(shown), squeeze=False, sharex=True, sharey=True)
        for column, index in enumerate(shown):
            panels[0, column].set_title(f"step {steps[index]}")
            panels[-1, column].set_xlabel("φ (degrees)")
            for pair in range(num_pairs):
                if np.any(coarse[index, pair]):
                    free_energy = free_energy_kj_mol(coarse[index, pair], temperature_kelvin)
                    image = draw_free_energy(panels[pair, column], free_energy, max_kj_mol)
                else:
                    say_empty(panels[pair, column], "no samples")
        for pair in range(num_pairs):
            name = "" if pair_names is None else f"{pair_names[pair]}\n"
            panels[pair, 0].set_ylabel(f"{name}ψ (degrees)")
        for panel in panels.ravel():
            panel.set(xticks=(-120, 0, 120), yticks=(-120, 0, 120))
        if image is not None:
            figure.colorbar(image, ax=panels, label="free energy (kJ/mol)", extend="max", aspect=12 * num_pairs)
    return pathlib.Path(path)


def plot_basin_path(
    steps: Int[np.ndarray, " steps"],
    basin_paths: Sequence[BasinPath],
    basins: Sequence[Basins],
    path: str | os.PathLike[str],
    *,
    pair_names: Sequence[str] | None = None,
) -> pathlib.Path:
    """Weights of the truth's basins along a run, beside the truth's; a panel for each (φ, ψ) pair.

    Solid: share of the samples that a step began with; dotted: what the step asked the flow for; dashed: the truth.
    What a solid line loses and a dotted one has not, the fit has lost.

    Args:
      steps: (steps,) annealing steps.
      basin_paths: for each pair (``basin_path``).
      basins: for each pair, the truth's; numbered from 1, as in ``basin_verdict``.
      path: where the PNG goes.
      pair_names: a name for each pair.

    Returns:
      The path written.

    Raises:
      ValueError: if there is no pair, lengths disagree or path is not a PNG.
    """
    steps = np.asarray(steps)
    if not basin_paths or len(basins) != len(basin_paths):
        raise ValueError(f"basins must have one entry for each of one or more pairs, got {len(basins)}.")
    _check_names(pair_names, len(basin_paths))
    if any(len(along.weights) != steps.size for along in basin_paths):
        raise ValueError(f"basin_paths must have one entry for each of the {steps.size} steps.")
    with new_figure(path, (8.5, 3.4 * len(basin_paths) + 0.3)) as figure:
        panels = figure.subplots(len(basin_paths), 1, squeeze=False, sharex=True)[:, 0]
        for pair, (panel, along, places) in enumerate(zip(panels, basin_paths, basins, strict=True)):
            panel.set_title("basins" if pair_names is None else pair_names[pair])
            colors = matplotlib.colormaps["tab10"].colors  # type: ignore[attr-defined]
            for basin, (phi, psi) in enumerate(np.rad2deg(places.centers_rad)):
                color = colors[basin % len(colors)]
                label = f"{basin + 1} ({phi:.0f}°, {psi:.0f}°)".replace("-", "−")
                for values, style, name in (
                    (along.weights[:, basin], "-", label),
                    (along.next_weights[:, basin], ":", None),
                ):
                    panel.plot(steps, np.where(values > 0, values, np.nan), style, color=color, label=name)
                panel.axhline(along.truth[basin], color=color, linestyle="--", linewidth=0.9)
            panel.set(
                yscale="log", ylabel="weight", ylim=(_lower_limit(along), 1.5), xlim=padded_limits(steps, min_span=2)
            )
            panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="basin (φ, ψ)")
        panels[-1].set_xlabel("annealing step (solid: its samples, dotted: asked for, dashed: truth)")
        panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    return pathlib.Path(path)


def _lower_limit(along: BasinPath) -> float:
    values = np.concatenate([along.weights.ravel(), along.truth])
    return float(0.5 * np.min(values[values > 0], initial=0.1))


def _check_names(pair_names: Sequence[str] | None, num_pairs: int) -> None:
    if pair_names is not None and len(pair_names) != num_pairs:
        raise ValueError(f"pair_names must have one name for each of the {num_pairs} pairs, got {list(pair_names)}.")
