"""Histograms of large samples, block by block, so that every estimate from them has a standard error."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from cmtjax.evaluation.blocks import Blocks

# Samples at a time: temporaries stay at some tens of MB beside 1e7 samples.
_CHUNK_SIZE = 1_000_000


class BlockHistogram(NamedTuple):
    """Weight of each bin, by block of samples.

    Attributes:
      sums: (blocks, *bins) float64, weights in each bin; those of all blocks sum to one for each histogram (over the
        last two axes of a Ramachandran plot, the last of a marginal).
      half: the first ``half`` blocks are one half of the sample (see ``Blocks``).
      num_bin_axes: how many of the last axes are bins.
    """

    sums: Float[np.ndarray, "blocks *bins"]
    half: int
    num_bin_axes: int

    @property
    def masses(self) -> Float[np.ndarray, "*bins"]:
        """Probability of each bin."""
        return self.normalized(self.sums.sum(axis=0))

    @property
    def halves(self) -> tuple[Float[np.ndarray, "*bins"], Float[np.ndarray, "*bins"]]:
        """Probability of each bin in either half of the sample."""
        first, second = self.sums[: self.half].sum(axis=0), self.sums[self.half :].sum(axis=0)
        return self.normalized(first), self.normalized(second)

    def normalized(self, sums: Float[np.ndarray, "*bins"]) -> Float[np.ndarray, "*bins"]:
        """Sums over some of the blocks, as probabilities."""
        axes = tuple(range(-self.num_bin_axes, 0))
        return sums / sums.sum(axis=axes, keepdims=True)


def _check_samples(
    num_samples: int, weights: Float[np.ndarray, " samples"] | None, blocks: Blocks
) -> tuple[np.ndarray | None, np.ndarray]:
    labels = blocks.labels.reshape(-1)
    if labels.size != num_samples:
        raise ValueError(f"blocks must label each of the {num_samples} samples, got {labels.size} labels.")
    if weights is not None and weights.shape != (num_samples,):
        raise ValueError(f"weights must have shape ({num_samples},), one a sample, got {weights.shape}.")
    return weights, labels


def ramachandran_block_histogram(
    torsions_rad: Float[np.ndarray, "samples pairs 2"],
    weights: Float[np.ndarray, " samples"] | None,
    blocks: Blocks,
    *,
    num_bins: int = 100,
) -> BlockHistogram:
    """Ramachandran plots of all pairs in the bins of ``ramachandran_histogram``, block by block.

    Takes a chunk at a time: beside the input, memory for some 1e6 samples and the result, 0.08 MB a block and pair
    at 100 bins.

    Args:
      torsions_rad: (samples, pairs, 2) φ and ψ in rad, of any range; a sample with a NaN in a pair is left out of it.
      weights: (samples,) not negative, up to a constant; None for equal weights.
      blocks: the block of each sample.
      num_bins: bins along each angle; the papers take 100.

    Returns:
      Sums of shape (blocks, pairs, bins, bins), φ before ψ.

    Raises:
      ValueError: if shapes differ, num_bins is not positive or no sample has a weight.
    """
    if torsions_rad.ndim != 3 or torsions_rad.shape[2] != 2:
        raise ValueError(f"torsions_rad must have shape (samples, pairs, 2), got {torsions_rad.shape}.")
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
    num_samples, num_pairs, _ = torsions_rad.shape
    weights, labels = _check_samples(num_samples, weights, blocks)
    sums = np.zeros((num_pairs, blocks.num_blocks * num_bins**2))
    for start in range(0, num_samples, _CHUNK_SIZE):
        part = slice(start, start + _CHUNK_SIZE)
        for pair in range(num_pairs):
            angles = torsions_rad[part, pair].astype(np.float64)
            is_used = np.all(np.isfinite(angles), axis=1)
            # As in ramachandran_histogram: an angle that rounding puts on the last edge is in the first bin.
            index = np.floor((angles[is_used] + np.pi) / (2 * np.pi) * num_bins).astype(np.int64) % num_bins
            flat = (labels[part][is_used].astype(np.int64) * num_bins + index[:, 0]) * num_bins + index[:, 1]
            part_weights = None if weights is None else weights[part][is_used]
            sums[pair] += np.bincount(flat, part_weights, minlength=sums.shape[1])
    totals = sums.sum(axis=1)
    if not np.all(totals > 0):
        raise ValueError(f"torsions_rad: pair {int(np.argmin(totals))} has no finite sample with a weight.")
    sums = (sums / totals[:, None]).reshape(num_pairs, blocks.num_blocks, num_bins, num_bins)
    return BlockHistogram(np.ascontiguousarray(sums.transpose(1, 0, 2, 3)), blocks.half, num_bin_axes=2)


def marginal_block_histogram(
    u: Float[np.ndarray, "samples d"],
    weights: Float[np.ndarray, " samples"] | None,
    blocks: Blocks,
    is_periodic: Bool[np.ndarray, " d"],
    *,
    num_bins: int = 100,
) -> BlockHistogram:
    """Histograms over [0, 1] of each dimension of points on the box, block by block.

    Args:
      u: (samples, d); what lies outside [0, 1] is wrapped in periodic dimensions and counted in the outermost bin
        in the others. NaN is left out.
      weights: (samples,) not negative, up to a constant; None for equal weights.
      blocks: the block of each sample.
      is_periodic: (d,) see ``Domain``.
      num_bins: bins along each dimension.

    Returns:
      Sums of shape (blocks, d, bins).

    Raises:
      ValueError: if shapes differ, num_bins is not positive or a dimension has no sample with a weight.
    """
    is_periodic = np.asarray(is_periodic, bool)
    if u.ndim != 2 or is_periodic.shape != u.shape[1:]:
        raise ValueError(
            f"u and is_periodic must have shapes (samples, d) and (d,), got {u.shape} and {is_periodic.shape}."
        )
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
    num_samples, num_dims = u.shape
    weights, labels = _check_samples(num_samples, weights, blocks)
    sums = np.zeros((num_dims, blocks.num_blocks * num_bins))
    for start in range(0, num_samples, _CHUNK_SIZE):
        part = slice(start, start + _CHUNK_SIZE)
        for dim in range(num_dims):
            values = u[part, dim].astype(np.float64)
            is_used = np.isfinite(values)
            index = np.floor(values[is_used] * num_bins)
            index = index % num_bins if is_periodic[dim] else np.clip(index, 0, num_bins - 1)
            flat = labels[part][is_used].astype(np.int64) * num_bins + index.astype(np.int64)
            part_weights = None if weights is None else weights[part][is_used]
            sums[dim] += np.bincount(flat, part_weights, minlength=sums.shape[1])
    totals = sums.sum(axis=1)
    if not np.all(totals > 0):
        raise ValueError(f"u: dimension {int(np.argmin(totals))} has no finite sample with a weight.")
    sums = (sums / totals[:, None]).reshape(num_dims, blocks.num_blocks, num_bins)
    return BlockHistogram(np.ascontiguousarray(sums.transpose(1, 0, 2)), blocks.half, num_bin_axes=1)
