"""Metrics of samples of a flow against its target, computed on the host."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from cmtjax.annealing.importance import (
    clip_top_fraction,
    effective_sample_size,
    estimate_log_z,
    evidence_lower_bound,
)


def sample_metrics(
    log_q: Float[np.ndarray, " samples"],
    log_p: Float[np.ndarray, " samples"],
    *,
    clip_fraction: float = 1e-4,
) -> dict[str, float]:
    """Metrics of the importance weights p̃/q of samples of q (CMT, D.3.1), under the flat names of a run's summary.

    Everything is computed in float64: the log-densities of clashes are some −1e8 and their sums would lose the
    digits that matter. A NaN in either density marks a failed sample; it is left out of every mean, and counts in
    log Z only, where it has weight zero.

    Args:
      log_q: (samples,) log-density of the flow at its own samples.
      log_p: (samples,) unnormalized log-density of the target there, in the same measure.
      clip_fraction: share of the samples whose extreme weights are clipped; the papers take 1e-4.

    Returns:
      - ``ess``: reverse effective sample size as a fraction in [0, 1], the largest weights clipped to the smallest of
        them; ``ess_raw`` without clipping.
      - ``log_z``, ``log_z_standard_error``: log-mean-exp of the log-weights, never clipped.
      - ``elbo``: mean log-weight, the lowest ones clamped to the highest of them; ``elbo_raw`` without clamping.
      - ``entropy``: −mean log q.
      - ``num_samples``, ``num_failed``: how many there are, and how many of them are NaN.

    Raises:
      ValueError: if the shapes are not the same vector, or every sample failed.
    """
    log_q, log_p = np.asarray(log_q, dtype=np.float64), np.asarray(log_p, dtype=np.float64)
    if log_q.ndim != 1 or log_q.shape != log_p.shape:
        raise ValueError(f"log_q and log_p must be vectors of one length, got shapes {log_q.shape} and {log_p.shape}.")
    log_weights = log_p - log_q
    is_valid = ~np.isnan(log_weights)
    if not np.any(is_valid):
        raise ValueError(f"All {log_q.size} samples failed: each has a NaN in log_q or log_p.")
    log_z, log_z_standard_error = estimate_log_z(log_weights)
    return {
        "ess": float(effective_sample_size(clip_top_fraction(log_weights, clip_fraction))),
        "ess_raw": float(effective_sample_size(log_weights)),
        "log_z": float(log_z),
        "log_z_standard_error": float(log_z_standard_error),
        "elbo": float(evidence_lower_bound(log_weights, clip_fraction)),
        "elbo_raw": float(evidence_lower_bound(log_weights)),
        "entropy": float(-log_q[is_valid].mean()),
        "num_samples": log_q.size,
        "num_failed": int(np.sum(~is_valid)),
    }
