"""Importance weights: effective sample size, log Z, ELBO, clipping and resampling. The one place for them.

Every function takes log-weights log(p̃/q). NaN marks a failed evaluation: weight zero, left out of every mean; only
log Z counts it among its samples. −inf is a weight of zero that counts.

NumPy arrays are computed with NumPy, in their own precision, on the host; JAX arrays with JAX, also under jit and vmap.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

# Partial sums a lane keep float32 sums of 1e7 weights exact to about 1e-6.
_LANES = 1024


def effective_sample_size(log_weights: Float[Array, " samples"]) -> Float[Array, ""]:
    """Reverse effective sample size as a fraction, (Σ w)²/(N Σ w²) (CMT Appendix D.3.1 with Z_r squared).

    Args:
      log_weights: (samples,) log-weights up to a constant.

    Returns:
      () in [0, 1]; 0 if no sample has weight. N counts the samples that have not failed.
    """
    xp, weights, valid = _scaled_weights(log_weights)
    squares = _total(xp, weights**2)
    count = xp.maximum(_total(xp, valid), 1)
    # Equal weights can exceed 1 by rounding.
    return xp.minimum(_total(xp, weights) ** 2 / xp.where(squares > 0, squares, 1) / count, 1)


def estimate_log_z(log_weights: Float[Array, " samples"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Log Z = log-mean-exp of unnormalized log-weights log(p̃/q), and its standard error by the delta method.

    Args:
      log_weights: (samples,) unnormalized log-weights; failed samples (NaN) count in N with weight zero.

    Returns:
      () log Z, −inf if no sample has weight, and () the standard deviation of the weights over their mean and √N.
    """
    xp, weights, _ = _scaled_weights(log_weights)
    num_samples = log_weights.shape[0]
    mean = _total(xp, weights) / num_samples
    has_weight = mean > 0
    mean = xp.where(has_weight, mean, 1)
    variance = _total(xp, (weights / mean - 1) ** 2) / max(num_samples - 1, 1)
    log_z = xp.where(has_weight, _largest(xp, log_weights) + xp.log(mean), -xp.inf)
    return log_z, xp.where(has_weight, xp.sqrt(variance / num_samples), xp.inf)


def evidence_lower_bound(log_weights: Float[Array, " samples"], clip_fraction: float = 0.0) -> Float[Array, ""]:
    """ELBO, the mean log-weight, with the lowest fraction raised to the highest of them (CMT Appendix D.3.1).

    Args:
      log_weights: (samples,) unnormalized log-weights of samples of q.
      clip_fraction: the share of the lowest log-weights to raise, in [0, 1); 1e-4 in the papers, 0 for the raw value.

    Returns:
      () ELBO in nats, the mean over the samples that have not failed; NaN if all have.

    Raises:
      ValueError: `clip_fraction` outside [0, 1).
    """
    xp = _namespace(log_weights)
    clipped = -clip_top_fraction(-log_weights, clip_fraction)
    valid = ~xp.isnan(clipped)
    count = _total(xp, valid.astype(clipped.dtype))
    # Relative to the largest, which keeps the digits of the sum.
    largest = _largest(xp, clipped)
    mean = largest + _total(xp, xp.where(valid, clipped - largest, 0)) / xp.maximum(count, 1)
    return xp.where(count > 0, mean, xp.nan)


def clip_top_fraction(log_weights: Float[Array, " samples"], fraction: float) -> Float[Array, " samples"]:
    """Sets the largest log-weights to the smallest of them (CMT Appendix D.3.1; TA-BG likewise).

    Args:
      log_weights: (samples,) log-weights; NaN stays NaN.
      fraction: the share of the samples to clip, in [0, 1); 1e-4 in the papers. The number of samples is rounded.

    Returns:
      (samples,) clipped log-weights.

    Raises:
      ValueError: `fraction` outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), got {fraction}")
    num_clipped = round(fraction * log_weights.shape[0])
    if num_clipped < 2:
        return log_weights
    xp = _namespace(log_weights)
    ordered = xp.where(xp.isnan(log_weights), -xp.inf, log_weights)
    if xp is np:
        threshold = np.partition(ordered, -num_clipped)[-num_clipped]
    else:
        threshold = jax.lax.top_k(ordered, num_clipped)[0][-1]
    return xp.minimum(log_weights, threshold)


def resample(
    key: PRNGKeyArray, log_weights: Float[Array, " samples"], num_samples: int
) -> Int[Array, " {num_samples}"]:
    """Systematic resampling to equal weights.

    Sample i is drawn ⌊M w_i⌋ or ⌈M w_i⌉ times, M w_i on average, which has less variance than drawing independently.
    (Systematic resampling: Carpenter, Clifford and Fearnhead 1999.)

    Args:
      key: a PRNG key.
      log_weights: (samples,) log-weights up to a constant; at least one sample must have weight.
      num_samples: M, static.

    Returns:
      (num_samples,) indices into the samples in ascending order: permute them before forming mini-batches.

    Raises:
      ValueError: `num_samples` below 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    _, weights, _ = _scaled_weights(jnp.asarray(log_weights))
    expected = weights * (num_samples / _total(jnp, weights))

    # A float32 running sum of 1e6 terms resolves a tenth of one sample. Whole samples and the remainder are summed
    # apart, which leaves rounding of 1e-7 of a sample a term.
    def add(left: tuple[Array, Array], right: tuple[Array, Array]) -> tuple[Array, Array]:
        remainder = left[1] + right[1]
        carry = jnp.floor(remainder)
        return left[0] + right[0] + carry.astype(jnp.int32), remainder - carry

    whole = jnp.floor(expected)
    whole_sums, remainder_sums = jax.lax.associative_scan(add, (whole.astype(jnp.int32), expected - whole))
    ends = whole_sums + jnp.floor(remainder_sums + jax.random.uniform(key, dtype=expected.dtype)).astype(jnp.int32)
    # Rounding must not draw a sample without weight, neither between others nor after the last that has it.
    last = weights.shape[0] - 1 - jnp.argmax(weights[::-1] > 0)
    ends = jax.lax.cummax(jnp.where(weights > 0, jnp.minimum(ends, num_samples), 0))
    ends = jnp.where(jnp.arange(weights.shape[0]) >= last, num_samples, ends)
    counts = jnp.diff(ends, prepend=0)
    return jnp.repeat(jnp.arange(weights.shape[0]), counts, total_repeat_length=num_samples)


def _namespace(array: Any) -> Any:
    return np if isinstance(array, np.ndarray) else jnp


def _total(xp: Any, values: Any) -> Any:
    if xp is np:
        return np.sum(values)
    padded = jnp.pad(values, (0, -values.shape[0] % _LANES))
    return jnp.sum(jnp.sum(padded.reshape(-1, _LANES), axis=0))


def _largest(xp: Any, log_weights: Any) -> Any:
    """The largest finite log-weight, 0 if there is none."""
    largest = xp.max(xp.where(xp.isnan(log_weights), -xp.inf, log_weights))
    return xp.where(xp.isfinite(largest), largest, 0)


def _scaled_weights(log_weights: Any) -> tuple[Any, Any, Any]:
    """The module to compute with, weights relative to the largest, and 1 for each sample that has not failed."""
    chex.assert_rank(log_weights, 1)
    xp = _namespace(log_weights)
    failed = xp.isnan(log_weights)
    weights = xp.exp(xp.where(failed, -xp.inf, log_weights) - _largest(xp, log_weights))
    return xp, weights, (~failed).astype(log_weights.dtype)
