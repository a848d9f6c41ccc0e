"""The dual of one annealing step on a buffer of samples: its value, gradient and curvature in float32.

With b = log q_i, r = log p̃ − log q_i, s = 1 + λ + η and t = (r − η b)/s, the next density has the weights
q_{i+1}/q_i = exp(t)/Z with Z = mean exp(t) (CMT Equation 16), and the dual and its derivatives are

    g = −s log Z − λ ε_tr + η (H(q_i) − ε_ent)        (CMT Equation 11 with the sign of η that follows from Equation 18)
    ∂g/∂λ = KL(q_{i+1} ‖ q_i) − ε_tr
    ∂g/∂η = H(q_i) − H(q_{i+1}) − ε_ent
    ∂²g = −Cov(t, t + b)/s, the 2×2 covariance under q_{i+1}

What makes this work in float32, where r may spread over 1e8:

- r is taken relative to its largest value and b to its mean, which shifts g by a constant. Differences to the largest r
  are exact for the samples that matter when λ is small, and relative to 1 + λ when it is large.
- t is taken relative to an estimate of log Z: its mean where its spread is small, else a log-mean-exp. Sums of expm1
  and log1p then keep the digits of a KL ≈ Var(t)/2 far below 1, also where few samples lie far off.
- Sums run over a (rows, lanes) layout, one partial sum a lane, so that rounding grows with the rows only.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

_LANES = 1024
# The log-ratio of a sample without weight: finite, so that 0 · u stays 0, and beyond every exp even after the
# division by the largest 1 + λ + η.
_NO_WEIGHT = -1e30


class CenteredBuffer(NamedTuple):
    """A buffer prepared for the dual, padded to (rows, lanes).

    Attributes:
      log_ratio: (rows, lanes) log p̃ − log q_i relative to its largest value; -1e30 for samples without weight.
      log_q: (rows, lanes) log q_i relative to its mean; 0 for masked samples.
      valid: (rows, lanes) 1 for samples that num_valid, 0 for masked ones and padding.
      num_valid: () number of valid samples, at least 1 to divide by.
      log_ratio_mean: () mean of `log_ratio` over valid samples.
      log_ratio_span: () largest deviation of a valid `log_ratio` from their mean.
      log_q_span: () largest |log_q|.
      log_ratio_shift: () what was subtracted from the log-ratio.
      log_q_shift: () mean of log q_i over valid samples: −H(q_i).
      num_weighted: () number of valid samples with weight: not masked, log p̃ > −inf.
    """

    log_ratio: Float[Array, "rows lanes"]
    log_q: Float[Array, "rows lanes"]
    valid: Float[Array, "rows lanes"]
    num_valid: Float[Array, ""]
    log_ratio_mean: Float[Array, ""]
    log_ratio_span: Float[Array, ""]
    log_q_span: Float[Array, ""]
    log_ratio_shift: Float[Array, ""]
    log_q_shift: Float[Array, ""]
    num_weighted: Float[Array, ""]


class Moments(NamedTuple):
    """Moments of q_{i+1} on the buffer.

    Attributes:
      log_normalizer: () log Z of the centered quantities.
      kl: () KL(q_{i+1} ‖ q_i) in nats.
      entropy_decay: () H(q_i) − H(q_{i+1}) in nats.
      covariance: (2, 2) covariance of t and t + b under q_{i+1}.
    """

    log_normalizer: Float[Array, ""]
    kl: Float[Array, ""]
    entropy_decay: Float[Array, ""]
    covariance: Float[Array, "2 2"]


def _total(values: Float[Array, "rows lanes"]) -> Float[Array, ""]:
    return jnp.sum(jnp.sum(values, axis=0))


def center_buffer(log_q: Float[Array, " samples"], log_p: Float[Array, " samples"]) -> CenteredBuffer:
    """Centers and pads a buffer; see `CenteredBuffer`.

    Args:
      log_q: (samples,) log q_i. A sample with a non-finite value is masked.
      log_p: (samples,) log p̃. NaN (a failed evaluation) and +inf mask the sample, −inf gives it weight zero.

    Returns:
      The prepared buffer.
    """
    rows = -(-log_q.shape[0] // _LANES)
    padding = rows * _LANES - log_q.shape[0]
    log_q = jnp.pad(log_q, (0, padding), constant_values=jnp.nan).reshape(rows, _LANES)
    log_p = jnp.pad(log_p, (0, padding), constant_values=jnp.nan).reshape(rows, _LANES)

    is_valid = jnp.isfinite(log_q) & (log_p < jnp.inf)  # False for NaN
    has_weight = is_valid & (log_p > -jnp.inf)
    valid = is_valid.astype(log_q.dtype)
    num_valid = jnp.maximum(_total(valid), 1)

    # Twice, since the first mean carries the rounding of large numbers.
    log_q = jnp.where(is_valid, log_q, 0)
    log_q_shift = _total(log_q) / num_valid
    centered_log_q = valid * (log_q - log_q_shift)
    correction = _total(centered_log_q) / num_valid
    centered_log_q = valid * (centered_log_q - correction)

    log_ratio = jnp.where(has_weight, log_p - log_q, -jnp.inf)
    log_ratio_shift = jnp.where(jnp.any(has_weight), jnp.max(log_ratio), 0)
    log_ratio = jnp.maximum(log_ratio - log_ratio_shift, _NO_WEIGHT)
    log_ratio_mean = _total(jnp.where(is_valid, log_ratio, 0)) / num_valid
    return CenteredBuffer(
        log_ratio=log_ratio,
        log_q=centered_log_q,
        valid=valid,
        num_valid=num_valid,
        log_ratio_mean=log_ratio_mean,
        log_ratio_span=jnp.max(jnp.where(is_valid, jnp.abs(log_ratio - log_ratio_mean), 0)),
        log_q_span=jnp.max(jnp.abs(centered_log_q)),
        log_ratio_shift=log_ratio_shift,
        log_q_shift=log_q_shift + correction,
        num_weighted=_total(has_weight.astype(log_q.dtype)),
    )


def dual_moments(
    buffer: CenteredBuffer, trust_region_multiplier: Float[Array, ""], entropy_multiplier: Float[Array, ""]
) -> Moments:
    """Log Z, the two constrained quantities and their curvature at given multipliers.

    Args:
      buffer: the prepared buffer.
      trust_region_multiplier: () λ ≥ 0.
      entropy_multiplier: () η ≥ 0.

    Returns:
      The moments of q_{i+1} under self-normalized weights.
    """
    total = 1 + trust_region_multiplier + entropy_multiplier
    exponent = (buffer.log_ratio - entropy_multiplier * buffer.log_q) / total
    span = (buffer.log_ratio_span + entropy_multiplier * buffer.log_q_span) / total

    def mean() -> Float[Array, ""]:
        return buffer.log_ratio_mean / total

    def log_mean_exp() -> Float[Array, ""]:
        largest = jnp.max(exponent)
        return largest + jnp.log(_total(jnp.exp(exponent - largest)) / buffer.num_valid)

    center = jax.lax.cond(span < 1, mean, log_mean_exp)
    log_weight = exponent - center
    excess = buffer.valid * jnp.expm1(log_weight)
    mean_excess = _total(excess) / buffer.num_valid
    normalizer = buffer.num_valid * (1 + mean_excess)
    weights = buffer.valid + excess
    weighted = weights * log_weight
    mean_log_weight = _total(weighted) / normalizer
    # b has mean zero: weights less one give the same mean without the rounding of the ones.
    mean_log_q = _total(excess * buffer.log_q) / normalizer
    kl = mean_log_weight - jnp.log1p(mean_excess)
    # (w u) u rather than w u²: u² of a sample without weight overflows.
    variance = _total(weighted * log_weight) / normalizer - mean_log_weight**2
    cross = _total(weighted * buffer.log_q) / normalizer - mean_log_weight * mean_log_q
    log_q_variance = _total(weights * buffer.log_q**2) / normalizer - mean_log_q**2
    mixed = variance + cross
    return Moments(
        log_normalizer=center + jnp.log1p(mean_excess),
        kl=kl,
        entropy_decay=kl + mean_log_q,
        covariance=jnp.array([[variance, mixed], [mixed, mixed + cross + log_q_variance]]),
    )


def normalized_log_weights(
    buffer: CenteredBuffer, trust_region_multiplier: Float[Array, ""], entropy_multiplier: Float[Array, ""]
) -> Float[Array, " padded"]:
    """Log (q_{i+1}/q_i) with log-mean-exp 0 over the valid samples.

    Args:
      buffer: the prepared buffer.
      trust_region_multiplier: () λ ≥ 0.
      entropy_multiplier: () η ≥ 0.

    Returns:
      (padded,) log-weights in the order of the buffer; −inf for samples without weight and padding.
    """
    total = 1 + trust_region_multiplier + entropy_multiplier
    exponent = (buffer.log_ratio - entropy_multiplier * buffer.log_q) / total
    moments = dual_moments(buffer, trust_region_multiplier, entropy_multiplier)
    has_weight = buffer.log_ratio > _NO_WEIGHT
    return jnp.where(has_weight, exponent - moments.log_normalizer, -jnp.inf).ravel()
