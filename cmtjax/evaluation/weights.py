"""Self-normalized importance weights on the host, which histograms and averages share."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float


def normalized_weights(
    log_weights: Float[np.ndarray, " samples"] | None, is_used: Bool[np.ndarray, " samples"]
) -> Float[np.ndarray, " samples"]:
    """Weights that sum to one over the samples in use.

    Args:
      log_weights: (samples,) unnormalized log importance weights; NaN marks a failed sample, −inf a weight of zero.
        None gives every sample the same weight.
      is_used: (samples,) which samples count at all.

    Returns:
      (samples,) float64; zero where a sample is not in use or failed.

    Raises:
      ValueError: if the shapes differ, a log-weight is +inf, or no weight is left.
    """
    if log_weights is None:
        log_weights = np.zeros(is_used.shape)
    log_weights = np.asarray(log_weights, dtype=np.float64)
    if log_weights.shape != is_used.shape:
        raise ValueError(f"log_weights must have shape {is_used.shape}, one a sample, got {log_weights.shape}.")
    if np.any(np.isposinf(log_weights)):
        raise ValueError("log_weights must be finite, −inf (weight zero) or NaN (failed), but some are +inf.")
    is_used = is_used & (log_weights > -np.inf)  # False for NaN too
    if not np.any(is_used):
        raise ValueError(f"None of the {is_used.size} samples has a usable value and a weight above zero.")
    weights = np.zeros(is_used.shape)
    weights[is_used] = np.exp(log_weights[is_used] - log_weights[is_used].max())
    return weights / weights.sum()
