"""Ramachandran plots of the truth, of a model and of where they differ."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
import scipy.ndimage
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patheffects import withStroke

from cmtjax.evaluation.basins import Basins
from cmtjax.evaluation.figures.samples import draw_free_energy
from cmtjax.evaluation.figures.style import new_figure
from cmtjax.evaluation.histograms import BlockHistogram
from cmtjax.evaluation.ramachandran import free_energy_kj_mol
from cmtjax.units import thermal_energy_kj_mol

# Histograms are smoothed with a Gaussian of this width before they are compared, which averages over some 50 bins of
# 100: else noise hides all but the largest differences.
_KERNEL_WIDTH_RAD = 0.126
_SIGNIFICANCE = 3.0


def _smoothed(histogram: BlockHistogram, pair: int) -> tuple[np.ndarray, np.ndarray]:
    """Smoothed masses of bins, and their variances from the blocks."""
    sums = histogram.sums[:, pair]
    num_blocks, num_bins, _ = sums.shape
    width = _KERNEL_WIDTH_RAD / (2 * np.pi) * num_bins
    smoothed = scipy.ndimage.gaussian_filter(sums, (0.0, width, width), mode="wrap")
    masses, of_block = smoothed.sum(axis=0), sums.sum(axis=(1, 2))
    residuals = smoothed - of_block[:, None, None] * masses
    return masses, num_blocks / (num_blocks - 1) * np.sum(residuals**2, axis=0)


def free_energy_difference(
    truth: BlockHistogram, model: BlockHistogram, pair: int, temperature_kelvin: float
) -> Float[np.ndarray, "bins bins"]:
    """−kT ln(Q/P) of smoothed densities where model and truth differ by more than three standard errors.

    Args:
      truth: Ramachandran plots of the truth.
      model: of the model, in the same bins.
      pair: which pair.
      temperature_kelvin: of both.

    Returns:
      In kJ/mol, above zero where the model has too little; ±inf where one of them has nothing; NaN where the
      difference may be noise.
    """
    (true_masses, true_variances), (masses, variances) = _smoothed(truth, pair), _smoothed(model, pair)
    is_significant = np.abs(masses - true_masses) > _SIGNIFICANCE * np.sqrt(variances + true_variances)
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = -thermal_energy_kj_mol(temperature_kelvin) * np.log(masses / true_masses)
    return np.where(is_significant, difference, np.nan)


def _draw_difference(axes: Axes, difference: np.ndarray, max_kj_mol: float) -> AxesImage:
    image = draw_free_energy(axes, np.clip(difference, -max_kj_mol, max_kj_mol), max_kj_mol)
    image.set_cmap(matplotlib.colormaps["PuOr"])  # safe for all common kinds of color blindness
    image.set_clim(-max_kj_mol, max_kj_mol)
    return image


def _mark_basins(axes: Axes, basins: Basins) -> None:
    for number, (phi, psi) in enumerate(np.rad2deg(basins.centers_rad), 1):
        axes.text(
            phi,
            psi,
            str(number),
            ha="center",
            va="center",
            fontweight="bold",
            color="black",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )


def plot_ramachandran_differences(
    truth: BlockHistogram,
    variants: Mapping[str, BlockHistogram],
    path: str | os.PathLike[str],
    *,
    temperature_kelvin: float,
    pair_names: Sequence[str] | None = None,
    basins: Sequence[Basins] | None = None,
    max_kj_mol: float = 25.0,
    max_difference_kj_mol: float = 5.0,
) -> pathlib.Path:
    """Free energies over (φ, ψ): truth, model, and where the model differs; a row for each pair.

    Differences are those of densities smoothed over 7°, shown only where they exceed three standard errors: a
    blank panel means that no difference can be told from noise.

    Args:
      truth: Ramachandran plots of the truth (``compare``).
      variants: those of the model by title, such as "plain" and "reweighted".
      path: where the PNG goes.
      temperature_kelvin: of the target.
      pair_names: a name for each pair, for the row's label.
      basins: of the truth for each pair; numbered in its panel from 1, as in ``basin_verdict``.
      max_kj_mol: end of the color scale of free energies.
      max_difference_kj_mol: end of the color scale of differences; what is beyond, to infinity, has the last color.

    Returns:
      The path written.

    Raises:
      ValueError: if the numbers of pairs disagree or path is not a PNG.
    """
    num_pairs = truth.sums.shape[1]
    for name, value in (("pair_names", pair_names), ("basins", basins)):
        if value is not None and len(value) != num_pairs:
            raise ValueError(f"{name} must have one entry for each of the {num_pairs} pairs, got {len(value)}.")
    if any(histogram.sums.shape[1:] != truth.sums.shape[1:] for histogram in variants.values()):
        raise ValueError(f"variants must have the pairs and bins of truth, {truth.sums.shape[1:]}.")
    num_free, num_columns = 1 + len(variants), 1 + 2 * len(variants)
    # "compressed" closes the gaps that axes of a fixed aspect leave under "constrained".
    size_inches = (3.1 * num_columns + 1.6, 3.05 * num_pairs + 0.6)
    with new_figure(path, size_inches, layout="compressed") as figure:
        panels = figure.subplots(num_pairs, num_columns, squeeze=False, sharex=True, sharey=True)
        for pair, row in enumerate(panels):
            for panel, histogram in zip(row, (truth, *variants.values()), strict=False):
                free_energy = draw_free_energy(
                    panel, free_energy_kj_mol(histogram.masses[pair], temperature_kelvin), max_kj_mol
                )
            for panel, histogram in zip(row[num_free:], variants.values(), strict=True):
                values = free_energy_difference(truth, histogram, pair, temperature_kelvin)
                difference = _draw_difference(panel, values, max_difference_kj_mol)
            if basins is not None:
                _mark_basins(row[0], basins[pair])
            row[0].set_ylabel(("" if pair_names is None else f"{pair_names[pair]}\n") + "ψ (degrees)")
        titles = ["truth", *variants, *(f"{title} − truth" for title in variants)]
        for panel, title in zip(panels[0], titles, strict=True):
            panel.set_title(title)
        for panel in panels[-1]:
            panel.set_xlabel("φ (degrees)")
        shape = {"extendfrac": 0.03 / num_pairs, "aspect": 25 * num_pairs}
        figure.colorbar(free_energy, ax=panels[:, :num_free], label="free energy (kJ/mol)", extend="max", **shape)
        if variants:
            figure.colorbar(
                difference,
                ax=panels[:, num_free:],
                label="free energy − truth (kJ/mol)\n← too much weight    too little →",
                extend="both",
                **shape,
            )
    return pathlib.Path(path)
