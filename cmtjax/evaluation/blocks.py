"""Standard errors from blocks: parts of a sample that are independent of each other.

Samples of one Markov chain are correlated, so errors of averages over them come from blocks of whole chains (or long
pieces of one); independent samples are cut into blocks of equal size. What is estimated is a function of sums over
samples, so that a sum a block is all that has to be kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Blocks(NamedTuple):
    """Which block each sample is in.

    Attributes:
      labels: int32 of any shape, one a sample.
      num_blocks: labels run from 0 to num_blocks − 1.
      half: labels below ``half`` are one half of the sample, the others the second: whole chains where there are
        several, else the first and the second half of the time.
    """

    labels: Int[np.ndarray, "*samples"]
    num_blocks: int
    half: int


def chain_blocks(num_draws: int, num_chains: int, *, min_blocks: int = 16, max_blocks: int = 100) -> Blocks:
    """Blocks of Markov chains: whole chains, or pieces of time where there are too few of them.

    With at least ``min_blocks`` chains a block is one or more whole chains, whose independence needs no assumption.
    Fewer chains are each cut into pieces of equal time, which are independent only as far as they are longer than
    the autocorrelation time.

    Args:
      num_draws: draws of each chain.
      num_chains: independent chains.
      min_blocks: blocks to make at least, as far as there are samples; a standard error from B blocks has itself a
        relative error of about 1/√(2B).
      max_blocks: blocks to make at most.

    Returns:
      Labels of shape (draws, chains).

    Raises:
      ValueError: if a number is below 1, or there are fewer than two samples.
    """
    if num_draws < 1 or num_chains < 1 or num_draws * num_chains < 2:
        raise ValueError(
            "num_draws and num_chains must be at least 1 and make two samples, "
            f"got {num_draws} and {num_chains} of them."
        )
    if num_chains >= min_blocks:
        num_blocks = min(num_chains, max_blocks)
        of_chain = (np.arange(num_chains) * num_blocks // num_chains).astype(np.int32)
        return Blocks(np.broadcast_to(of_chain, (num_draws, num_chains)), num_blocks, num_blocks // 2)
    pieces = min(-(-min_blocks // num_chains), num_draws)
    of_time = (np.arange(num_draws) * pieces // num_draws).astype(np.int32)
    labels = of_time[:, None] + pieces * np.arange(num_chains, dtype=np.int32)
    half = pieces * (num_chains // 2) if num_chains > 1 else pieces // 2
    return Blocks(labels, pieces * num_chains, half)


def independent_blocks(num_samples: int, *, num_blocks: int = 100) -> Blocks:
    """Blocks of consecutive independent samples, equal in size up to one sample.

    Raises:
      ValueError: if there are fewer than two samples or blocks.
    """
    if num_samples < 2 or num_blocks < 2:
        raise ValueError(f"num_samples and num_blocks must be at least 2, got {num_samples} and {num_blocks}.")
    num_blocks = min(num_blocks, num_samples)
    labels = (np.arange(num_samples) * num_blocks // num_samples).astype(np.int32)
    return Blocks(labels, num_blocks, num_blocks // 2)


def weighted_mean(
    values: Float[np.ndarray, "*samples"], weights: Float[np.ndarray, "*samples"] | None, blocks: Blocks
) -> tuple[float, float]:
    """Weighted mean and its standard error from blocks.

    The mean is a ratio Σwv/Σw of sums over independent blocks. To first order its error is that of Σ w(v − mean)/Σw,
    whose variance is B/(B−1) times the sum of the blocks' squared shares.

    Args:
      values: one a sample; NaN is left out.
      weights: not negative, up to a constant; None for equal weights.
      blocks: labels of the shape of ``values``.

    Returns:
      The mean and its standard error; the error is NaN if there is a single block.

    Raises:
      ValueError: if shapes differ or no value is left.
    """
    values = np.asarray(values, np.float64)
    weights = np.ones(values.shape) if weights is None else np.asarray(weights, np.float64)
    if not values.shape == weights.shape == blocks.labels.shape:
        raise ValueError(
            "values, weights and blocks must share a shape, "
            f"got {values.shape}, {weights.shape} and {blocks.labels.shape}."
        )
    is_used = ~np.isnan(values) & (weights > 0)
    if not np.any(is_used):
        raise ValueError(f"values has no entry that is not NaN and has a weight, of {values.size}.")
    used_values, used_weights = values[is_used], weights[is_used]
    # Relative to one of the values, so that a large common part costs no digits.
    mean = used_values[0] + float(np.sum(used_weights * (used_values - used_values[0])) / used_weights.sum())
    shares = np.bincount(blocks.labels[is_used], used_weights * (used_values - mean)) / used_weights.sum()
    num_filled = np.unique(blocks.labels[is_used]).size
    if num_filled < 2:
        return float(mean), float("nan")
    return float(mean), float(np.sqrt(num_filled / (num_filled - 1) * np.sum(shares**2)))
