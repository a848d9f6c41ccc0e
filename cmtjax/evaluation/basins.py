"""Basins of the free energy over (φ, ψ): how many there are, where, and which bins belong to which."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.ndimage
from jaxtyping import Bool, Float, Int

# Widths of the Gaussian kernels in rad, each √2 of the one before: from no smoothing to speak of at 100 bins to 13°,
# the width of the narrowest basins. A bin takes the narrowest (interpolated) that holds enough samples.
_KERNEL_WIDTHS_RAD = 0.04 * np.sqrt(2) ** np.arange(6)
# Effective samples under a kernel: 40 make an error of 0.16 in the logarithm of the density.
_SAMPLES_A_KERNEL = 40.0
# A saddle must be lower than its peak by so many standard errors: over some hundreds of places to look at, noise
# reaches three to four.
_MIN_SIGNIFICANCE = 4.0
# Of whole chains: temporaries of some 80 bytes a sample stay at some 80 MB.
_SAMPLES_AT_A_TIME = 1_000_000


class Basins(NamedTuple):
    """Basins of a Ramachandran plot, the heaviest first.

    Attributes:
      labels: (bins, bins) index of the basin that each bin belongs to, φ along axis 0.
      centers_rad: (basins, 2) (φ, ψ) of the highest smoothed density, in [−π, π).
      weights: (basins,) mass of each; sums to one.
      is_core: (bins, bins) whether a bin is less than ``core_depth`` above its basin's lowest free energy. A basin
        reaches to the saddles around it, and beside a rare one that can be a wide plain.
    """

    labels: Int[np.ndarray, "bins bins"]
    centers_rad: Float[np.ndarray, "basins 2"]
    weights: Float[np.ndarray, " basins"]
    is_core: Bool[np.ndarray, "bins bins"]


def smoothed_counts(
    masses: Float[np.ndarray, "bins bins"], num_samples: float
) -> tuple[Float[np.ndarray, "bins bins"], Float[np.ndarray, "bins bins"]]:
    """Density on the torus, smoothed with a Gaussian as narrow as the number of samples allows at each place.

    A Gaussian kernel of width s averages over an effective area 4πs². As s grows, the number of samples in it grows
    too (the kernel without its normalization grows everywhere), so that there is one width with a given number;
    between the widths tried both logarithms are interpolated, which makes the density continuous. Where even the
    widest kernel has fewer, it is taken.

    Args:
      masses: (bins, bins) masses of bins, sum one.
      num_samples: effective samples behind them.

    Returns:
      (bins, bins) samples per rad², and (bins, bins) the area in rad² that each averages over.
    """
    num_bins = len(masses)
    bin_width = 2 * np.pi / num_bins
    widths = _KERNEL_WIDTHS_RAD
    areas = 4 * np.pi * widths**2
    density = masses * num_samples / bin_width**2

    def count(width: float, area: float) -> np.ndarray:
        # The kernel reaches half around the circle, so that the widest one leaves no place without a slope.
        radius = num_bins // 2
        smoothed = scipy.ndimage.gaussian_filter(density, width / bin_width, mode="wrap", radius=radius)
        return smoothed * area

    log_counts = np.log(np.maximum([count(*kernel) for kernel in zip(widths, areas, strict=True)], 1e-300))
    log_areas, wanted = np.log(areas), np.log(_SAMPLES_A_KERNEL)
    upper = np.argmax(log_counts >= wanted, axis=0)
    upper = np.where(log_counts[-1] < wanted, len(widths) - 1, upper)
    lower = np.maximum(upper - 1, 0)
    log_upper, log_lower = (np.take_along_axis(log_counts, index[None], axis=0)[0] for index in (upper, lower))
    share = np.clip((wanted - log_lower) / np.maximum(log_upper - log_lower, 1e-12), 0, 1)
    log_count = log_lower + share * (log_upper - log_lower)
    log_area = log_areas[lower] + share * (log_areas[upper] - log_areas[lower])
    return np.exp(log_count - log_area), np.exp(log_area)


def find_basins(
    masses: Float[np.ndarray, "bins bins"],
    num_samples: float,
    *,
    min_barrier: float = 1.0,
    min_weight: float = 1e-4,
    min_samples: float = 15.0,
    core_depth: float = 2.0,
) -> Basins:
    """Basins of attraction of the maxima of the density on the torus, shallow, light and doubtful ones merged.

    Bins are visited from the highest smoothed density (see ``smoothed_counts``) down; each joins the basin of its
    highest neighbor visited before (steepest ascent), and where two basins first touch is the saddle between them.
    There the one with the lower peak stays a basin of its own if

    - its free energy is at least ``min_barrier`` kT below the saddle,
    - it holds at least ``min_weight`` above the saddle's density, and at least ``min_samples`` samples,
    - peak and saddle differ by four standard errors of their counts (compared by their square roots, whose
      error is ½ whatever the count);

    otherwise it becomes part of the other.

    Args:
      masses: (bins, bins) masses of the bins of a Ramachandran plot over [−π, π)², sum one, φ along axis 0.
      num_samples: effective samples behind the masses, fewer than the samples of a Markov chain (see
        ``histogram_effective_samples``); it decides what is noise.
      min_barrier: in kT.
      min_weight: probability.
      min_samples: effective samples.
      core_depth: in kT; of ``Basins.is_core``.

    Returns:
      The basins; there is at least one.

    Raises:
      ValueError: if masses are not a square with sum one, or num_samples is not positive.
    """
    masses = np.asarray(masses, np.float64)
    if masses.ndim != 2 or masses.shape[0] != masses.shape[1] or not np.isclose(masses.sum(), 1, rtol=0, atol=1e-9):
        raise ValueError(f"masses must be a square of sum one, got shape {masses.shape} and sum {masses.sum()}.")
    if not 0 < num_samples < np.inf:
        raise ValueError(f"num_samples must be positive and finite, got {num_samples}.")
    num_bins = len(masses)
    density, area = (field.reshape(-1) for field in smoothed_counts(masses, num_samples))
    weight = masses.reshape(-1)
    weight_needed = max(min_weight, min_samples / num_samples)
    order = np.argsort(-density, kind="stable")
    root: list[int] = [-1] * density.size  # the peak whose basin a bin joined first
    parent = list(range(density.size))  # of peaks only: what each was merged into, itself if nothing
    is_basin = np.zeros(density.size, bool)  # peaks that have proved to be basins of their own
    held = np.zeros(density.size)  # mass of the component of each peak so far

    def find(peak: int) -> int:
        while parent[peak] != peak:
            parent[peak] = parent[parent[peak]]
            peak = parent[peak]
        return peak

    def is_separate(peak: int, saddle: int) -> bool:
        if density[saddle] * np.exp(min_barrier) > density[peak] or held[peak] < weight_needed:
            return False
        count, at_saddle = density[peak] * area[peak], density[saddle] * area[peak]
        error = 0.5 * np.sqrt(1 + area[peak] / area[saddle])
        return bool(np.sqrt(count) - np.sqrt(at_saddle) > _MIN_SIGNIFICANCE * error)

    touched: set[tuple[int, int]] = set()
    for index in order.tolist():
        phi, psi = divmod(index, num_bins)
        neighbors = [
            (phi + i) % num_bins * num_bins + (psi + j) % num_bins
            for i in (-1, 0, 1)
            for j in (-1, 0, 1)
            if (i, j) != (0, 0)
        ]
        visited = [neighbor for neighbor in neighbors if root[neighbor] >= 0]
        if not visited:
            root[index] = index
            held[index] = weight[index]
            continue
        root[index] = root[max(visited, key=lambda neighbor: density[neighbor])]
        held[find(root[index])] += weight[index]
        peaks = sorted({find(root[neighbor]) for neighbor in visited}, key=lambda peak: -density[peak])
        for low in peaks[1:]:
            high = find(peaks[0])
            if low == high or (high, low) in touched:
                continue
            if is_basin[low] or is_separate(low, index):
                # The first saddle is the highest: what is separate there is separate everywhere.
                is_basin[low] = True
                touched.add((high, low))
                continue
            parent[low] = high
            held[high] += held[low]

    summits, labels = np.unique([find(peak) for peak in root], return_inverse=True)
    weights = np.bincount(labels, weight)
    by_weight = np.argsort(-weights, kind="stable")
    centers = (np.stack(np.divmod(summits[by_weight], num_bins), axis=1) + 0.5) * (2 * np.pi / num_bins) - np.pi
    new_label = np.argsort(by_weight)
    is_core = density > density[summits[labels]] * np.exp(-core_depth)
    square = (num_bins, num_bins)
    return Basins(new_label[labels].reshape(square), centers, weights[by_weight], is_core.reshape(square))


def count_entries(basins: Basins, torsions_rad: Float[np.ndarray, "draws chains 2"]) -> Int[np.ndarray, " basins"]:
    """How often Markov chains enter each basin: what its weight is worth in independent visits.

    A chain has entered a basin when it reaches its core (``Basins.is_core``) and the last core it was in is another's
    (core sets, Schuette et al., J. Chem. Phys. 134, 204105, 2011), so that crossing the border to and fro counts
    once. Where a chain starts is no entry. Visits that are shorter than the distance of draws are missed; in replica
    exchange an entry may be an exchange. Where draws are independent, each is a visit of its own.

    Args:
      basins: from ``find_basins``.
      torsions_rad: (draws, chains, 2) φ and ψ of consecutive draws, of any range; one with a NaN is in no core.

    Returns:
      (basins,) entries of all chains together. A weight w from n visits has a relative error of some (1 − w) √(2/n)
      where stays inside and outside last exponentially distributed times, and more where visits come in bunches, as
      those of a walker that goes up and down a ladder of temperatures.

    Raises:
      ValueError: if torsions_rad has another shape.
    """
    torsions_rad = np.asarray(torsions_rad)
    if torsions_rad.ndim != 3 or torsions_rad.shape[2] != 2:
        raise ValueError(f"torsions_rad must have shape (draws, chains, 2), got {torsions_rad.shape}.")
    entries = np.zeros(len(basins.weights), np.int64)
    chains_at_a_time = max(1, _SAMPLES_AT_A_TIME // max(len(torsions_rad), 1))
    for start in range(0, torsions_rad.shape[1], chains_at_a_time):
        entries += _count_entries(basins, torsions_rad[:, start : start + chains_at_a_time].astype(np.float64))
    return entries


def _count_entries(basins: Basins, torsions_rad: np.ndarray) -> np.ndarray:
    num_bins = len(basins.labels)
    is_finite = np.all(np.isfinite(torsions_rad), axis=-1)
    angles = np.where(is_finite[..., None], torsions_rad, 0.0)
    phi, psi = np.moveaxis(np.floor((angles + np.pi) / (2 * np.pi) * num_bins).astype(np.int64) % num_bins, -1, 0)
    core = np.where(is_finite & basins.is_core[phi, psi], basins.labels[phi, psi], -1)
    # The last core each chain was in, −1 before the first.
    draw = np.where(core >= 0, np.arange(len(core))[:, None], 0)
    last = np.take_along_axis(core, np.maximum.accumulate(draw, axis=0), axis=0) if core.size else core
    entered = last[1:][(last[1:] != last[:-1]) & (last[:-1] >= 0)]
    return np.bincount(entered, minlength=len(basins.weights))
