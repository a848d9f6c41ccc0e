"""Histograms, free energies and region weights of backbone torsions (φ, ψ), one pair of torsions at a time."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from cmtjax.annealing.importance import clip_top_fraction
from cmtjax.evaluation.weights import normalized_weights
from cmtjax.units import thermal_energy_kj_mol

#: (phi_range_rad, psi_range_rad) of the region of positive φ that training loses first: the whole of it, and its two
#: islands (near (45°, 70°) and (55°, −110°) for alanine dipeptide). All three are rare (some 0.1 % in all) and apart
#: from the rest, so that ESS and log Z look the same with and without them.
PHI_POSITIVE_REGIONS: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "phi_positive": ((0.0, 2.5), (-math.pi, math.pi)),
    "phi_positive_psi_positive": ((0.0, 2.5), (0.0, math.pi)),
    "phi_positive_psi_negative": ((0.0, 2.5), (-math.pi, 0.0)),
}


class RamachandranHistogram(NamedTuple):
    """Histogram over the torus of one (φ, ψ) pair.

    Attributes:
      masses: (bins, bins) probability of each bin, φ along axis 0, ψ along axis 1; sums to one. The density per
        rad² is the mass over the squared bin width.
      edges_rad: (bins + 1,) edges, the same for φ and ψ, from −π to π.
    """

    masses: Float[np.ndarray, "bins bins"]
    edges_rad: Float[np.ndarray, " edges"]


class RegionWeight(NamedTuple):
    """Probability of a region, estimated by self-normalized importance sampling.

    Attributes:
      weight: share of the total weight, in [0, 1].
      standard_error: of ``weight`` by the delta method; zero and meaningless if no sample is in the region.
      effective_samples: (Σw)²/Σw² over the samples in the region: how many equally weighted ones they are worth.
    """

    weight: float
    standard_error: float
    effective_samples: float


def _angle_pair(phi_rad: np.ndarray, psi_rad: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both angles in float64 and which samples have both (not NaN)."""
    phi_rad, psi_rad = np.asarray(phi_rad, dtype=np.float64), np.asarray(psi_rad, dtype=np.float64)
    if phi_rad.ndim != 1 or phi_rad.shape != psi_rad.shape:
        raise ValueError(
            f"phi_rad and psi_rad must be vectors of one length, got shapes {phi_rad.shape} and {psi_rad.shape}."
        )
    return phi_rad, psi_rad, np.isfinite(phi_rad) & np.isfinite(psi_rad)


def ramachandran_histogram(
    phi_rad: Float[np.ndarray, " samples"],
    psi_rad: Float[np.ndarray, " samples"],
    log_weights: Float[np.ndarray, " samples"] | None = None,
    num_bins: int = 100,
) -> RamachandranHistogram:
    """Probability of each bin of a Ramachandran plot, plain or reweighted.

    The bins cover [−π, π)²; angles of any range are wrapped into it. The papers bin [0, 2π)² (CMT, D.3.2): for an
    even number of bins these are the same bins, rolled by half of them.

    Args:
      phi_rad: (samples,) φ in rad; samples with a NaN angle are left out.
      psi_rad: (samples,) ψ in rad.
      log_weights: (samples,) unnormalized log importance weights, NaN for failed samples; None for plain samples.
      num_bins: bins along each angle; the papers take 100.

    Returns:
      Bin masses and edges.

    Raises:
      ValueError: if shapes differ, num_bins is not positive or no sample has a weight.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
    phi_rad, psi_rad, is_used = _angle_pair(phi_rad, psi_rad)
    weights = normalized_weights(log_weights, is_used)[is_used]

    def bin_index(angle_rad: np.ndarray) -> np.ndarray:
        # Rounding may put an angle just below π, or a wrapped one, on the last edge: that is the first bin again.
        return np.floor((angle_rad[is_used] + np.pi) / (2 * np.pi) * num_bins).astype(np.int64) % num_bins

    flat_index = bin_index(phi_rad) * num_bins + bin_index(psi_rad)
    masses = np.bincount(flat_index, weights=weights, minlength=num_bins**2).reshape(num_bins, num_bins)
    return RamachandranHistogram(masses, np.linspace(-np.pi, np.pi, num_bins + 1))


def free_energy_kj_mol(
    histogram: RamachandranHistogram | Float[np.ndarray, "bins bins"], temperature_kelvin: float
) -> Float[np.ndarray, "bins bins"]:
    """Free energy F = −kT ln P of each bin, its lowest value zero.

    Args:
      histogram: a histogram or its bin masses (or densities: the constant drops out).
      temperature_kelvin: temperature of the distribution.

    Returns:
      (bins, bins) in kJ/mol; NaN where a bin is empty.

    Raises:
      ValueError: if the temperature is not positive or all bins are empty.
    """
    masses = histogram.masses if isinstance(histogram, RamachandranHistogram) else np.asarray(histogram, np.float64)
    is_filled = masses > 0
    if not np.any(is_filled):
        raise ValueError("histogram must have at least one bin with a mass above zero.")
    free_energy = np.full(masses.shape, np.nan)
    free_energy[is_filled] = -thermal_energy_kj_mol(temperature_kelvin) * np.log(masses[is_filled] / masses.max())
    return free_energy


def _is_in_range(angle_rad: np.ndarray, range_rad: tuple[float, float], name: str) -> Bool[np.ndarray, " samples"]:
    """Whether the angle lies on the arc from lower (included) up to upper, which may pass through ±π."""
    lower, upper = range_rad
    width = upper - lower
    if width < 0:
        width += 2 * np.pi
    if not 0 < width <= 2 * np.pi * (1 + 1e-12):
        raise ValueError(f"{name} must be an arc (lower, upper) in rad, above 0 and up to 2π wide, got {range_rad}.")
    return (width >= 2 * np.pi) | (np.mod(angle_rad - lower, 2 * np.pi) < width)


def region_weight(
    phi_rad: Float[np.ndarray, " samples"],
    psi_rad: Float[np.ndarray, " samples"],
    log_weights: Float[np.ndarray, " samples"] | None,
    phi_range_rad: tuple[float, float],
    psi_range_rad: tuple[float, float],
) -> RegionWeight:
    """Probability of a rectangle on the torus.

    With normalized weights w the estimate is p = Σ_R w, and its variance, to first order in 1/n, Σ w² (1_R − p)²
    (the delta method for a ratio of means).

    Args:
      phi_rad: (samples,) φ in rad, of any range; samples with a NaN angle are left out.
      psi_rad: (samples,) ψ in rad.
      log_weights: (samples,) unnormalized log importance weights, NaN for failed samples; None for plain samples.
      phi_range_rad: (lower, upper): the arc from lower to upper in the direction of growing angle, so (3, −3) passes
        through π and (−π, π) is the whole circle.
      psi_range_rad: likewise for ψ.

    Returns:
      The weight, its standard error and the number of effective samples in the region.

    Raises:
      ValueError: if shapes differ, a range is empty or wider than 2π, or no sample has a weight.
    """
    phi_rad, psi_rad, is_used = _angle_pair(phi_rad, psi_rad)
    weights = normalized_weights(log_weights, is_used)[is_used]
    is_inside = _is_in_range(phi_rad[is_used], phi_range_rad, "phi_range_rad")
    is_inside &= _is_in_range(psi_rad[is_used], psi_range_rad, "psi_range_rad")
    weight = float(weights[is_inside].sum())
    sum_of_squares = float(np.sum(weights[is_inside] ** 2))
    return RegionWeight(
        weight=weight,
        standard_error=float(np.sqrt(np.sum(weights**2 * (is_inside - weight) ** 2))),
        effective_samples=weight**2 / sum_of_squares if sum_of_squares > 0 else 0.0,
    )


def phi_positive_metrics(
    phi_rad: Float[np.ndarray, " samples"],
    psi_rad: Float[np.ndarray, " samples"],
    log_weights: Float[np.ndarray, " samples"] | None = None,
    clip_fraction: float = 1e-4,
) -> dict[str, float]:
    """Weights of the rare regions 0 < φ < 2.5 rad under flat names, for a run's summary.

    Clipping the largest weights, as the papers do, takes weight from where the flow has too little of it: from rare
    regions first. The unclipped estimate has no such bias, but a larger standard error, which itself rests on the few
    largest weights.

    Args:
      phi_rad: (samples,) φ of one pair in rad.
      psi_rad: (samples,) ψ of the same pair in rad.
      log_weights: (samples,) unnormalized log importance weights, not clipped; None gives the plain values alone.
      clip_fraction: share of the samples whose largest weights are clipped; the papers take 1e-4.

    Returns:
      For each region of ``PHI_POSITIVE_REGIONS``: ``<region>_weight``, ``<region>_weight_standard_error`` and
      ``<region>_effective_samples`` of the plain samples; with log-weights the same names with ``_reweighted`` for
      clipped weights, and with ``_reweighted_raw`` for unclipped ones.
    """
    variants: dict[str, np.ndarray | None] = {"": None}
    if log_weights is not None:
        variants["_reweighted"] = np.asarray(clip_top_fraction(log_weights, clip_fraction))  # type: ignore[arg-type]
        variants["_reweighted_raw"] = log_weights
    metrics = {}
    for suffix, variant in variants.items():
        for region, (phi_range_rad, psi_range_rad) in PHI_POSITIVE_REGIONS.items():
            result = region_weight(phi_rad, psi_rad, variant, phi_range_rad, psi_range_rad)
            metrics[f"{region}_weight{suffix}"] = result.weight
            metrics[f"{region}_weight_standard_error{suffix}"] = result.standard_error
            metrics[f"{region}_effective_samples{suffix}"] = result.effective_samples
    return metrics
