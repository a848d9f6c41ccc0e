"""Distances between histograms: KL divergence and total variation of the papers, and how much of them is noise."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from cmtjax.evaluation.ramachandran import RamachandranHistogram

#: Added to both densities, in 1/rad², so that an empty bin of the model does not make the divergence infinite.
KL_OFFSET_PER_RAD2 = 1e-10


def _masses(histogram: RamachandranHistogram | Float[np.ndarray, "*batch bins bins"], name: str) -> np.ndarray:
    masses = histogram.masses if isinstance(histogram, RamachandranHistogram) else np.asarray(histogram, np.float64)
    if masses.ndim < 2 or masses.shape[-1] != masses.shape[-2]:
        raise ValueError(f"{name} must have as many bins for φ as for ψ, got shape {masses.shape}.")
    totals = masses.sum(axis=(-2, -1))
    # Sums of up to 1e4 float64 masses.
    if np.any(masses < 0) or not np.allclose(totals, 1, rtol=0, atol=1e-9):
        raise ValueError(f"{name} must hold masses of bins that are not negative and sum to one, got sums {totals}.")
    return masses


def _two_masses(true: object, model: object) -> tuple[np.ndarray, np.ndarray]:
    true_masses, model_masses = _masses(true, "true_histogram"), _masses(model, "model_histogram")  # type: ignore[arg-type]
    if true_masses.shape != model_masses.shape:
        raise ValueError(
            f"true_histogram and model_histogram must share a shape, got {true_masses.shape} and {model_masses.shape}."
        )
    return true_masses, model_masses


def ramachandran_kl(
    true_histogram: RamachandranHistogram | Float[np.ndarray, "*batch bins bins"],
    model_histogram: RamachandranHistogram | Float[np.ndarray, "*batch bins bins"],
) -> Float[np.ndarray, "*batch"]:
    """Forward KL divergence of Ramachandran plots, Σ P log((P + 1e-10)/(Q + 1e-10)) Δ² (CMT, D.3.2; TA-BG, E).

    P and Q are densities per rad² and Δ the bin width in rad, as in the evaluation of Midgley et al. 2022 (FAB),
    which both papers follow: P Δ² is the mass of a bin, and the offset 1e-10 is one per rad². In a bin that the model
    never fills, each unit of mass costs log(P/1e-10), 12 nats at the density of one sample of 1e7: with few samples
    such bins make up much of the value, so compare it with the noise floor. Axes from −π or from 0 make no difference.

    Args:
      true_histogram: a histogram, or masses of bins (sum one) over [−π, π)² or [0, 2π)², of any batch shape.
      model_histogram: likewise, with the same bins.

    Returns:
      Nats, of the batch's shape.

    Raises:
      ValueError: if shapes differ or masses do not sum to one.
    """
    true_masses, model_masses = _two_masses(true_histogram, model_histogram)
    bin_area = (2 * np.pi / true_masses.shape[-1]) ** 2
    log_ratio = np.log((true_masses / bin_area + KL_OFFSET_PER_RAD2) / (model_masses / bin_area + KL_OFFSET_PER_RAD2))
    return np.sum(true_masses * log_ratio, axis=(-2, -1))


def ramachandran_total_variation(
    true_histogram: RamachandranHistogram | Float[np.ndarray, "*batch bins bins"],
    model_histogram: RamachandranHistogram | Float[np.ndarray, "*batch bins bins"],
) -> Float[np.ndarray, "*batch"]:
    """Total variation distance of Ramachandran plots, ½ Σ|P − Q| over bin masses (CMT, D.3.2).

    Args:
      true_histogram: a histogram, or masses of bins (sum one), of any batch shape.
      model_histogram: likewise, with the same bins.

    Returns:
      A fraction in [0, 1] (the paper's tables print percent), of the batch's shape.

    Raises:
      ValueError: if shapes differ or masses do not sum to one.
    """
    true_masses, model_masses = _two_masses(true_histogram, model_histogram)
    return 0.5 * np.sum(np.abs(true_masses - model_masses), axis=(-2, -1))


def expected_total_variation(
    masses: Float[np.ndarray, "*bins"], num_samples_a: float, num_samples_b: float = np.inf
) -> float:
    """Total variation to expect between histograms of two independent samples of the same distribution.

    A bin of mass p differs by a normal variable of variance p(1 − p)(1/n + 1/m), with a mean absolute value of
    √(2/π) standard deviations. In a bin of few counts that is too much, and 2p, the mean of the sum of both, a bound.

    Args:
      masses: of the bins, of any shape; sum one.
      num_samples_a: n, independent (or effective) samples of the first histogram.
      num_samples_b: m, of the second; infinite for an exact one.

    Returns:
      A fraction in [0, 1].

    Raises:
      ValueError: if a number of samples is not positive.
    """
    if not (num_samples_a > 0 and num_samples_b > 0):
        raise ValueError(f"num_samples_a and num_samples_b must be positive, got {num_samples_a} and {num_samples_b}.")
    masses = np.asarray(masses, np.float64)
    deviation = np.sqrt(masses * (1 - masses) * (1 / num_samples_a + 1 / num_samples_b))
    return float(0.5 * np.sum(np.minimum(np.sqrt(2 / np.pi) * deviation, 2 * masses)))


def histogram_effective_samples(block_sums: Float[np.ndarray, "blocks *bins"]) -> float:
    """How many independent, equally weighted samples have a histogram of the same noise.

    The variance of each bin's mass p is estimated from the blocks; independent samples have p(1 − p)/n. The ratio of
    their sums over the bins is n. It accounts for the autocorrelation of Markov chains and for unequal weights alike.

    Args:
      block_sums: (blocks, *bins) weight of each bin in each block.

    Returns:
      The number; infinite if the blocks show no noise at all.

    Raises:
      ValueError: if there are fewer than two blocks.
    """
    num_blocks = len(block_sums)
    if num_blocks < 2:
        raise ValueError(f"block_sums must have at least 2 blocks, got {num_blocks}.")
    sums = np.reshape(block_sums, (num_blocks, -1))
    total = sums.sum()
    masses = sums.sum(axis=0) / total
    of_block = sums.sum(axis=1) / total
    # Σ_k (s_k − p t_k)², multiplied out so that no array of the size of block_sums is made.
    squares = np.einsum("kb,kb->b", sums, sums) / total**2 - 2 * masses * (of_block @ sums) / total
    squares += masses**2 * np.sum(of_block**2)
    variance = num_blocks / (num_blocks - 1) * squares.sum()
    return float(np.sum(masses * (1 - masses)) / variance) if variance > 0 else float("inf")
