"""Standard errors of distances between histograms, from blocks and the derivative of the distance (delta method).

To first order a function of masses P changes by Σ f δP with its derivative f, so its variance is that of a sum over
independent blocks. Resampling blocks does not work here: every replicate is noisier than the sample, by an amount that
all bins share, and a bin of few samples empties in many of them, which makes errors up to three times too large.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.special
from jaxtyping import Float

from cmtjax.evaluation.divergences import KL_OFFSET_PER_RAD2
from cmtjax.evaluation.histograms import BlockHistogram


class DivergenceErrors(NamedTuple):
    """Standard errors of a distance.

    Attributes:
      of_pairs: (pairs,) for each pair.
      of_mean: of the mean over the pairs, whose correlation it takes into account.
    """

    of_pairs: Float[np.ndarray, " pairs"]
    of_mean: float


def bin_variances(histogram: BlockHistogram) -> Float[np.ndarray, "*bins"]:
    """Variance of the mass of each bin, from the blocks.

    A mass is a ratio of sums over blocks, Σ_k s_k/Σ_k t_k; its variance is B/(B−1) Σ_k (s_k − p t_k)² for sums t_k of
    all bins that add up to one.
    """
    sums, num_blocks = histogram.sums, len(histogram.sums)
    of_block = sums.sum(axis=tuple(range(-histogram.num_bin_axes, 0)), keepdims=True)
    masses = histogram.masses
    # A block at a time: no temporaries of the size of all.
    squares = np.zeros(masses.shape)
    for block, total in zip(sums, of_block, strict=True):
        squares += (block - total * masses) ** 2
    return num_blocks / (num_blocks - 1) * squares


def _errors(sides: list[tuple[BlockHistogram, np.ndarray]]) -> DivergenceErrors:
    """From each sample's histogram and the derivative of the distance by its masses."""
    of_pairs, of_mean = 0.0, 0.0
    for histogram, derivative in sides:
        sums, num_blocks = histogram.sums, len(histogram.sums)
        projected = np.einsum("kpij,pij->kp", sums, derivative)
        residuals = projected - sums.sum(axis=(2, 3)) * projected.sum(axis=0)
        of_pairs += num_blocks / (num_blocks - 1) * np.sum(residuals**2, axis=0)
        of_mean += num_blocks / (num_blocks - 1) * np.sum(residuals.mean(axis=1) ** 2)
    return DivergenceErrors(np.sqrt(of_pairs), float(np.sqrt(of_mean)))


def kl_errors(truth: BlockHistogram, model: BlockHistogram) -> DivergenceErrors:
    """Standard errors of ``ramachandran_kl``.

    Of second order, and so not in it, is the noise of the noise floor itself: where the divergence is not much more
    than that, the error is some 30 % too small.

    Args:
      truth: Ramachandran plots of the truth.
      model: those of the model, in the same bins.
    """
    p, q = truth.masses, model.masses
    offset = KL_OFFSET_PER_RAD2 * (2 * np.pi / p.shape[-1]) ** 2
    by_truth = np.log((p + offset) / (q + offset)) + p / (p + offset)
    return _errors([(truth, by_truth), (model, -p / (q + offset))])


def total_variation_errors(truth: BlockHistogram, model: BlockHistogram) -> DivergenceErrors:
    """Standard errors of ``ramachandran_total_variation``.

    The derivative of |P − Q| is its sign. For a difference δ that may be noise of standard deviation σ the error
    function of δ/σ√2, the mean sign of what it may be, takes its place: for pure noise the mean of its square
    is 1/3, close to the 1 − 2/π that the variance of |δ| is of σ².

    Args:
      truth: Ramachandran plots of the truth.
      model: those of the model, in the same bins.
    """
    difference = truth.masses - model.masses
    deviation = np.sqrt(2 * (bin_variances(truth) + bin_variances(model)))
    ratio = np.divide(difference, deviation, out=np.zeros_like(difference), where=deviation > 0)
    derivative = 0.5 * scipy.special.erf(ratio)
    return _errors([(truth, derivative), (model, -derivative)])
