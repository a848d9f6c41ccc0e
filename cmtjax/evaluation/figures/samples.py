"""Figures of samples: Ramachandran free energies and potential energies, plain and reweighted."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.image import AxesImage

from cmtjax.annealing.importance import effective_sample_size
from cmtjax.evaluation.figures.style import BLUE, VERMILION, new_figure, say_empty
from cmtjax.evaluation.ramachandran import free_energy_kj_mol, ramachandran_histogram
from cmtjax.evaluation.weights import normalized_weights


def draw_free_energy(axes: Axes, free_energy: np.ndarray, max_kj_mol: float) -> AxesImage:
    """One panel; empty bins keep the light background, and those beyond the scale are gray, so as not to stand out.

    Args:
      axes: the panel.
      free_energy: (bins, bins) in kJ/mol over [−π, π)², φ along axis 0; NaN where a bin is empty.
      max_kj_mol: end of the color scale.

    Returns:
      The image, for a color bar.
    """
    axes.set_facecolor("#F2F2F2")
    image = axes.imshow(
        free_energy.T,
        origin="lower",
        extent=(-180, 180, -180, 180),
        cmap=matplotlib.colormaps["viridis"].with_extremes(over="#C8C8C8"),
        vmin=0.0,
        vmax=max_kj_mol,
        interpolation="nearest",
    )
    axes.set(xticks=range(-120, 121, 60), yticks=range(-120, 121, 60), aspect="equal")
    axes.grid(False)
    return image


def plot_ramachandran(
    phi_rad: Float[np.ndarray, "samples pairs"] | Float[np.ndarray, " samples"],
    psi_rad: Float[np.ndarray, "samples pairs"] | Float[np.ndarray, " samples"],
    path: str | os.PathLike[str],
    *,
    temperature_kelvin: float,
    log_weights: Float[np.ndarray, " samples"] | None = None,
    pair_names: Sequence[str] | None = None,
    num_bins: int = 100,
    max_kj_mol: float = 25.0,
) -> pathlib.Path:
    """Free energy over (φ, ψ) of the plain samples and beside it of the reweighted ones, a row for each pair.

    Args:
      phi_rad: (samples,) or (samples, pairs) φ in rad; NaN angles are left out.
      psi_rad: ψ of the same pairs.
      path: where the PNG goes.
      temperature_kelvin: temperature of the target.
      log_weights: (samples,) unnormalized log importance weights (clipped or not), NaN for failed samples; None
        draws the plain samples alone.
      pair_names: a name for each pair, for the row's label.
      num_bins: bins along each angle.
      max_kj_mol: end of the color scale, which both columns share; at 300 K a region of weight 0.05 % lies some 15 to
        20 kJ/mol above the minimum.

    Returns:
      The path written.

    Raises:
      ValueError: if shapes differ, no sample has a weight or path is not a PNG.
    """
    phi_rad, psi_rad = (np.asarray(angle, dtype=np.float64) for angle in (phi_rad, psi_rad))
    if phi_rad.shape != psi_rad.shape or phi_rad.ndim not in (1, 2):
        raise ValueError(
            f"phi_rad and psi_rad must share a shape (samples,) or (samples, pairs), got {phi_rad.shape} and "
            f"{psi_rad.shape}."
        )
    phi_rad, psi_rad = phi_rad.reshape(len(phi_rad), -1), psi_rad.reshape(len(psi_rad), -1)
    num_pairs = phi_rad.shape[1]
    if pair_names is not None and len(pair_names) != num_pairs:
        raise ValueError(f"pair_names must have one name for each of the {num_pairs} pairs, got {list(pair_names)}.")
    is_used = np.all(np.isfinite(phi_rad) & np.isfinite(psi_rad), axis=1)
    variants: list[tuple[str, np.ndarray | None]] = [(f"samples (N = {np.sum(is_used):,})", None)]
    if log_weights is not None:
        log_weights = np.asarray(log_weights, dtype=np.float64)
        if log_weights.shape != is_used.shape:
            raise ValueError(f"log_weights must have shape {is_used.shape}, one a sample, got {log_weights.shape}.")
        used_log_weights: Any = np.where(is_used, log_weights, np.nan)
        share = 100 * float(effective_sample_size(used_log_weights))
        variants.append((f"reweighted (ESS {share:.3g} %)", log_weights))

    # "compressed" closes the gaps that axes of a fixed aspect leave under "constrained".
    size_inches = (4.3 * len(variants) + 1.6, 4.1 * num_pairs + 0.5)
    with new_figure(path, size_inches, layout="compressed") as figure:
        panels = figure.subplots(num_pairs, len(variants), squeeze=False, sharex=True, sharey=True)
        for pair in range(num_pairs):
            for panel, (title, variant) in zip(panels[pair], variants, strict=True):
                histogram = ramachandran_histogram(phi_rad[:, pair], psi_rad[:, pair], variant, num_bins)
                image = draw_free_energy(panel, free_energy_kj_mol(histogram, temperature_kelvin), max_kj_mol)
                if pair == 0:
                    panel.set_title(title)
            name = "" if pair_names is None else f"{pair_names[pair]}\n"
            panels[pair, 0].set_ylabel(f"{name}ψ (degrees)")
        for panel in panels[-1]:
            panel.set_xlabel("φ (degrees)")
        figure.colorbar(
            image,
            ax=panels,
            label="free energy (kJ/mol)",
            extend="max",
            extendfrac=0.03 / num_pairs,
            aspect=25 * num_pairs,
        )
    return pathlib.Path(path)


def _energy_range(energies: np.ndarray) -> tuple[float, float]:
    """A range around the bulk: the low side of an energy distribution is bounded, so that it gives the scale."""
    low, middle = np.quantile(energies, [1e-3, 0.5])
    scale = max(middle - low, 1e-3 * abs(middle), 1e-3)
    return low - 0.3 * scale, middle + 2.0 * scale


def plot_energy_histogram(
    energies_kj_mol: Float[np.ndarray, " samples"],
    path: str | os.PathLike[str],
    *,
    log_weights: Float[np.ndarray, " samples"] | None = None,
    num_bins: int = 120,
) -> pathlib.Path:
    """Potential energies of the plain samples and of the reweighted ones.

    Clashes reach 1e20 kJ/mol; the axis covers the bulk and the legend says how much lies above and below it.

    Args:
      energies_kj_mol: (samples,) in kJ/mol; NaN (failed) is left out, +inf counts as above the axis.
      path: where the PNG goes.
      log_weights: (samples,) unnormalized log importance weights, NaN for failed samples.
      num_bins: bins over the axis.

    Returns:
      The path written.

    Raises:
      ValueError: if shapes differ, no sample has a weight or path is not a PNG.
    """
    energies = np.asarray(energies_kj_mol, dtype=np.float64)
    is_used = ~np.isnan(energies)
    variants = [("samples", normalized_weights(None, is_used), BLUE)]
    if log_weights is not None:
        variants.append(("reweighted", normalized_weights(log_weights, is_used), VERMILION))
    with new_figure(path, (7.5, 4.6)) as figure:
        axes = figure.subplots()
        axes.set_title(f"potential energy of {np.sum(is_used):,} samples")
        if not np.any(np.isfinite(energies)):
            say_empty(axes, "no finite energy")
            return pathlib.Path(path)
        lower, upper = _energy_range(energies[np.isfinite(energies)])
        edges = np.linspace(lower, upper, num_bins + 1)
        is_shown = (energies >= lower) & (energies <= upper)
        for label, weights, color in variants:
            # Density with respect to all weight, not only what the axis shows.
            density = np.histogram(energies[is_shown], edges, weights=weights[is_shown])[0] / np.diff(edges)
            above, below = 100 * weights[energies > upper].sum(), 100 * weights[energies < lower].sum()
            text = f"{label} ({above:.3g} % above, {below:.3g} % below the axis)"
            axes.stairs(density, edges, color=color, fill=True, alpha=0.15)
            axes.stairs(density, edges, color=color, linewidth=1.5, label=text)
        axes.set(xlabel="potential energy (kJ/mol)", ylabel="probability density (mol/kJ)", xlim=(lower, upper))
        axes.set_ylim(bottom=0.0, top=1.25 * axes.get_ylim()[1])
        axes.legend(loc="upper right")
    return pathlib.Path(path)
