"""Cis peptide bonds: a flow may sample them, a simulation started in trans hardly ever crosses."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from cmtjax.evaluation.blocks import Blocks, weighted_mean


def cis_weights(
    omegas_rad: Float[np.ndarray, "*samples bonds"],
    weights: Float[np.ndarray, "*samples"] | None,
    blocks: Blocks,
) -> list[tuple[float, float]]:
    """Probability of cis, |ω| < 90°, of each peptide bond, with standard errors from blocks.

    Args:
      omegas_rad: ω = CA-C-N-CA in rad, of any range: 0 is cis, π is trans. NaN is left out.
      weights: not negative, up to a constant; None for equal weights.
      blocks: labels of the samples' shape.

    Returns:
      (weight, standard error) for each bond. An error of zero with a weight of zero means that none was seen.
    """
    is_cis = np.where(np.isfinite(omegas_rad), np.cos(omegas_rad) > 0, np.nan)
    return [weighted_mean(is_cis[..., bond], weights, blocks) for bond in range(is_cis.shape[-1])]
