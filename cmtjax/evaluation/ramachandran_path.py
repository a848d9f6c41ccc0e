"""Ramachandran histograms of the flow along a run, counted on the device while it trains."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cmtjax.coordinates.internal import InternalCoordinates


def ramachandran_counts(
    u: Float[Array, "samples d"], coordinates: InternalCoordinates, num_bins: int = 36
) -> Int[Array, "pairs bins bins"]:
    """How many samples each bin of each (φ, ψ) pair has; traceable, with the bins of ``ramachandran_histogram``.

    Args:
      u: (samples, d) points of the unit box; those whose φ or ψ is NaN are left out.
      coordinates: of the molecule.
      num_bins: bins along each angle, from −π to π.

    Returns:
      (pairs, bins, bins) int32, φ along axis 1, ψ along axis 2.

    Raises:
      ValueError: if num_bins is not positive, or, when traced, u is not (samples, d).
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
    u = jnp.asarray(u)
    if u.ndim != 2 or u.shape[1] != coordinates.domain.num_dims:
        raise ValueError(f"u must have shape (samples, {coordinates.domain.num_dims}), got {u.shape}.")
    pairs = coordinates.ramachandran_pairs
    center, width = (
        jnp.asarray(array[pairs], u.dtype) for array in (coordinates.window_center, coordinates.window_width)
    )
    angles = center + width * (u[:, pairs] - 0.5)  # (samples, pairs, 2)
    bins = jnp.floor((angles + np.pi) / (2 * np.pi) * num_bins) % num_bins
    is_used = jnp.all(jnp.isfinite(angles), axis=-1)
    # Bins that no sample can have are dropped by the scatter; NaN has no integer.
    index = jnp.where(is_used[..., None], bins, num_bins).astype(jnp.int32)
    pair = jnp.broadcast_to(jnp.arange(len(pairs)), is_used.shape)
    empty = jnp.zeros((len(pairs), num_bins, num_bins), jnp.int32)
    return empty.at[pair, index[..., 0], index[..., 1]].add(1, mode="drop")
