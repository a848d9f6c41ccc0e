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
      - ``log_z``: log-mean-exp of the log-weights, never clipped.
      - ``elbo``: mean log-weight, the lowest ones clamped to the highest of them; ``elbo_raw`` without clamping.
      - ``entropy``: −mean log q.
      - ``<metric>_standard_error`` of each of these for independent samples (delta method), infinite where they do not
        tell, such as for an infinite log-weight. Those of clipped metrics contain the noise of the threshold, and tell
        nothing of how far clipping has moved the metric; with less than ten samples clipped they are somewhat too
        large. Those of ``log_z`` and ``ess_raw`` come from sums of w² and w⁴ over the same samples: where few weights
        dominate they know nothing of the larger ones that no sample has, and are too small, of ``ess_raw`` the first.
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
        "ess_standard_error": _ess_error(log_weights, clip_fraction),
        "ess_raw": float(effective_sample_size(log_weights)),
        "ess_raw_standard_error": _ess_error(log_weights, 0.0),
        "log_z": float(log_z),
        "log_z_standard_error": float(log_z_standard_error),
        "elbo": float(evidence_lower_bound(log_weights, clip_fraction)),
        "elbo_standard_error": _elbo_error(log_weights, clip_fraction),
        "elbo_raw": float(evidence_lower_bound(log_weights)),
        "elbo_raw_standard_error": _elbo_error(log_weights, 0.0),
        "entropy": float(-log_q[is_valid].mean()),
        "entropy_standard_error": _mean_error(log_q[is_valid]),
        "num_samples": log_q.size,
        "num_failed": int(np.sum(~is_valid)),
    }


def _mean_error(values: Float[np.ndarray, " samples"]) -> float:
    """Standard error of a mean over independent samples; infinite where they do not tell."""
    if values.size < 2 or not np.all(np.isfinite(values)):
        return float("inf")
    return float(np.std(values, ddof=1) / np.sqrt(values.size))


def _clip(values: Float[np.ndarray, " samples"], num_clipped: int) -> tuple[np.ndarray, np.ndarray]:
    """Values clipped to the ``num_clipped``-th largest, and what each adds to that threshold.

    The threshold's noise is to first order the mean of the second over the samples, its influence function: one more
    value above moves it up by one rank. How far that is tell the order statistics √k ranks above and below rank k, as
    much as the number of values above a fixed point scatters.
    """
    if num_clipped < 2:
        return values, np.zeros_like(values)
    reach = min(round(np.sqrt(num_clipped)), num_clipped - 1, values.size - num_clipped)
    upper, rank, lower = num_clipped - reach, num_clipped, num_clipped + reach
    ordered = np.partition(values, (-lower, -rank, -upper))
    slope = (ordered[-upper] - ordered[-lower]) / (2 * reach)
    is_above = values >= ordered[-rank]
    return np.minimum(values, ordered[-rank]), slope * (values.size * is_above - num_clipped)


@np.errstate(invalid="ignore")  # infinite log-weights, of which the error is infinite
def _ess_error(log_weights: Float[np.ndarray, " samples"], clip_fraction: float) -> float:
    """Standard error of the effective sample size: to first order that of a mean of each sample's influence."""
    valid, num_clipped = log_weights[~np.isnan(log_weights)], round(clip_fraction * log_weights.size)
    if num_clipped >= valid.size:
        return float("inf")
    clipped, of_threshold = _clip(valid, num_clipped)
    weights = np.exp(clipped - clipped.max())
    mean, square = weights.mean(), np.mean(weights**2)
    influence = 2 * (weights / mean - 1) - (weights**2 / square - 1)
    if num_clipped >= 2:  # whose weights are all one
        influence += 2 * num_clipped / valid.size * (1 / mean - 1 / square) * of_threshold
    return _mean_error(mean**2 / square * influence)


@np.errstate(invalid="ignore")
def _elbo_error(log_weights: Float[np.ndarray, " samples"], clip_fraction: float) -> float:
    """Standard error of the mean log-weight, whose lowest values are raised to the highest of them."""
    valid, num_clipped = log_weights[~np.isnan(log_weights)], round(clip_fraction * log_weights.size)
    if num_clipped >= valid.size:
        return float("inf")
    clipped, of_threshold = _clip(-valid, num_clipped)
    return _mean_error(clipped + num_clipped / valid.size * of_threshold)
