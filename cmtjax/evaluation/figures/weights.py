"""Energies beside the truth's, and the importance weights of a model."""

from __future__ import annotations

import os
import pathlib

import numpy as np
from jaxtyping import Float

from cmtjax.annealing.importance import clip_top_fraction, effective_sample_size, estimate_log_z
from cmtjax.evaluation.figures.samples import _energy_range
from cmtjax.evaluation.figures.style import BLUE, GRAY, VERMILION, new_figure
from cmtjax.evaluation.weights import normalized_weights


def plot_energy_comparison(
    true_energies_kj_mol: Float[np.ndarray, "*true_samples"],
    energies_kj_mol: Float[np.ndarray, " samples"],
    path: str | os.PathLike[str],
    *,
    log_weights: Float[np.ndarray, " samples"] | None = None,
    num_bins: int = 120,
) -> pathlib.Path:
    """Potential energies of the truth, of the model's plain samples and of the reweighted ones.

    Args:
      true_energies_kj_mol: of the truth, of any shape; NaN is left out.
      energies_kj_mol: (samples,) of the model; NaN (failed) is left out, +inf counts as above the axis.
      path: where the PNG goes.
      log_weights: (samples,) unnormalized log importance weights, NaN for failed samples.
      num_bins: bins over the axis, which covers the bulk of the truth.

    Returns:
      The path written.

    Raises:
      ValueError: if shapes differ, no sample has a weight or path is not a PNG.
    """
    true_energies = np.asarray(true_energies_kj_mol, np.float64).reshape(-1)
    energies = np.asarray(energies_kj_mol, np.float64)
    is_used = ~np.isnan(energies)
    variants = [
        ("truth", true_energies, normalized_weights(None, ~np.isnan(true_energies)), GRAY),
        ("plain", energies, normalized_weights(None, is_used), BLUE),
    ]
    if log_weights is not None:
        variants.append(("reweighted", energies, normalized_weights(log_weights, is_used), VERMILION))
    lower, upper = _energy_range(true_energies[np.isfinite(true_energies)])
    edges = np.linspace(lower, upper, num_bins + 1)
    with new_figure(path, (7.5, 4.6)) as figure:
        axes = figure.subplots()
        axes.set_title("potential energy")
        for label, values, weights, color in variants:
            # Density with respect to all weight, not only what the axis shows.
            is_shown = (values >= lower) & (values <= upper)
            density = np.histogram(values[is_shown], edges, weights=weights[is_shown])[0] / np.diff(edges)
            text = f"{label} ({100 * weights[values > upper].sum():.2g} % above the axis)"
            if label == "truth":
                axes.stairs(density, edges, color=color, fill=True, alpha=0.35, label=text)
            else:
                axes.stairs(density, edges, color=color, linewidth=1.5, label=text)
        axes.set(xlabel="potential energy (kJ/mol)", ylabel="probability density (mol/kJ)", xlim=(lower, upper))
        axes.set_ylim(bottom=0.0, top=1.3 * axes.get_ylim()[1])
        axes.legend(loc="upper right")
    return pathlib.Path(path)


def plot_log_weights(
    log_weights: Float[np.ndarray, " samples"],
    path: str | os.PathLike[str],
    *,
    clip_fraction: float = 1e-4,
    num_bins: int = 120,
) -> pathlib.Path:
    """Distribution of log w − log Z, zero for a perfect model, over the samples and over the weight.

    Where the curve of the weight runs far to the right of the samples', few samples hold much of it, and all that is
    reweighted rests on them.

    Args:
      log_weights: (samples,) log p̃/q, unnormalized and unclipped; NaN (failed) is left out.
      path: where the PNG goes.
      clip_fraction: share of the samples whose weights the papers clip; the threshold is marked.
      num_bins: bins over the axis.

    Returns:
      The path written.

    Raises:
      ValueError: if no sample has a weight or path is not a PNG.
    """
    log_weights = np.asarray(log_weights, np.float64)
    is_used = ~np.isnan(log_weights)
    weights = normalized_weights(log_weights, is_used)[is_used]
    clipped = np.asarray(clip_top_fraction(log_weights, clip_fraction))  # type: ignore[arg-type]
    log_z = float(estimate_log_z(log_weights)[0])  # type: ignore[arg-type]
    centered, threshold = log_weights[is_used] - log_z, float(np.nanmax(clipped) - log_z)
    shares = [100 * float(effective_sample_size(values)) for values in (log_weights, clipped)]  # type: ignore[arg-type]
    # The low tail reaches −1e8 (clashes): the axis is as long there as it is on the side of the large weights.
    upper = max(float(centered.max()), 1.0)
    lower = -max(1.5 * upper, 5.0)
    edges = np.linspace(lower, 1.05 * upper, num_bins + 1)
    with new_figure(path, (7.5, 4.6)) as figure:
        axes = figure.subplots()
        axes.set_title(
            f"importance weights: ESS {shares[0]:.3g} % raw, {shares[1]:.3g} % with the top "
            f"{100 * clip_fraction:.2g} % clipped"
        )
        below = 100 * np.mean(centered < lower)
        for values, color, label in (
            (np.full(centered.shape, 1 / centered.size), BLUE, f"samples ({below:.2g} % below the axis)"),
            (weights, VERMILION, "weight"),
        ):
            density = np.histogram(centered, edges, weights=values)[0] / np.diff(edges)
            axes.stairs(density, edges, color=color, linewidth=1.5, label=label)
        axes.axvline(threshold, color=GRAY, linestyle="--", label=f"clipped above {threshold:.2f}")
        axes.set_yscale("log")
        # One sample in a bin is the lowest that there is.
        axes.set_ylim(bottom=0.5 / centered.size / np.diff(edges)[0])
        axes.set(xlabel="log w − log Z", ylabel="probability density", xlim=(edges[0], edges[-1]))
        axes.legend(loc="upper left")
    return pathlib.Path(path)
