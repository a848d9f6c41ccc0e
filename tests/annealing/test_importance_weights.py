"""Effective sample size, log Z, ELBO, clipping and resampling against closed forms, SciPy and counts."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from cmtjax.annealing import (
    clip_top_fraction,
    effective_sample_size,
    estimate_log_z,
    evidence_lower_bound,
    resample,
)

log_weight_arrays = hnp.arrays(np.float64, st.integers(1, 300), elements=st.floats(-600, 600))
BACKENDS = pytest.mark.parametrize(
    "as_array", [np.asarray, lambda x: jnp.asarray(x, jnp.float32)], ids=["numpy", "jax"]
)


@BACKENDS
def test_effective_sample_size_of_known_weights(as_array):
    assert float(effective_sample_size(as_array(np.full(1000, -175.0)))) == 1
    one = np.full(1000, -1e4)
    one[17] = 3.0
    np.testing.assert_allclose(effective_sample_size(as_array(one)), 1e-3, rtol=1e-6)
    half = np.where(np.arange(1000) < 500, -np.inf, 2.0)
    np.testing.assert_allclose(effective_sample_size(as_array(half)), 0.5, rtol=1e-6)
    assert float(effective_sample_size(as_array(np.full(10, -np.inf)))) == 0
    # Log-normal weights: exp(−σ²). The squares' relative error is √((e^{4σ²} − 1)/N) = 0.13 % at σ = 0.5, N = 1e6.
    log_weights = 0.5 * np.random.default_rng(0).normal(size=1_000_000) - 300
    np.testing.assert_allclose(effective_sample_size(as_array(log_weights)), np.exp(-0.25), rtol=5e-3)


@BACKENDS
def test_failed_samples_are_left_out_but_counted_in_log_z(as_array):
    log_weights = np.random.default_rng(0).normal(size=900)
    failed = np.concatenate([log_weights, np.full(100, np.nan)])
    np.testing.assert_allclose(effective_sample_size(as_array(failed)), effective_sample_size(log_weights), rtol=1e-5)
    np.testing.assert_allclose(evidence_lower_bound(as_array(failed)), np.mean(log_weights), rtol=1e-5, atol=1e-6)
    log_z, _ = estimate_log_z(as_array(failed))
    np.testing.assert_allclose(log_z, logsumexp(log_weights) - np.log(1000), rtol=1e-5, atol=1e-6)
    assert np.array_equal(np.isnan(clip_top_fraction(as_array(failed), 0.1)), np.isnan(failed))


@BACKENDS
def test_nothing_but_failures(as_array):
    nothing = as_array(np.full(5, np.nan))
    assert float(effective_sample_size(nothing)) == 0
    assert [float(value) for value in estimate_log_z(nothing)] == [-np.inf, np.inf]
    assert np.isnan(evidence_lower_bound(nothing))


@BACKENDS
@hypothesis.given(log_weights=log_weight_arrays)
def test_against_scipy(as_array, log_weights):
    log_weights = np.float64(np.float32(log_weights))
    values = as_array(log_weights)
    rtol = 1e-5 if values.dtype == np.float32 else 1e-12
    num_samples = log_weights.size
    weights = np.exp(log_weights - logsumexp(log_weights))
    # exp of differences up to 1200, rounded to an ulp of 6e-5
    slack = 2e-4 if values.dtype == np.float32 else 1e-12
    np.testing.assert_allclose(effective_sample_size(values), 1 / np.sum(weights**2) / num_samples, rtol=slack)
    log_z, error = estimate_log_z(values)
    np.testing.assert_allclose(log_z, logsumexp(log_weights) - np.log(num_samples), rtol=rtol, atol=slack)
    expected_error = np.std(weights * num_samples, ddof=1) / np.sqrt(num_samples) if num_samples > 1 else 0
    np.testing.assert_allclose(error, expected_error, rtol=slack, atol=1e-6)


def test_log_z_keeps_its_digits_in_float32():
    # −175 from a million weights, as for alanine dipeptide: ±1e-3 is what published values agree to.
    log_weights = np.float32(-175 + 0.3 * np.random.default_rng(0).normal(size=1_000_000))
    log_z, _ = jax.jit(estimate_log_z)(log_weights)
    expected = logsumexp(np.float64(log_weights)) - np.log(1_000_000)
    # an ulp at 175 is 1.5e-5
    np.testing.assert_allclose(log_z, expected, atol=3e-5)


def test_standard_error_of_log_z_is_its_spread_over_repetitions():
    log_weights = np.random.default_rng(0).normal(size=(2000, 500))
    log_z, error = jax.vmap(estimate_log_z)(jnp.asarray(log_weights, jnp.float32))
    # The spread of 2000 repetitions is known to 1/√4000 = 1.6 %; the delta method neglects terms of 1/N and the
    # skew of log-normal weights, a few percent.
    np.testing.assert_allclose(np.mean(error), np.std(log_z), rtol=0.08)


@BACKENDS
def test_clipping_sets_the_top_to_its_smallest(as_array):
    log_weights = np.random.default_rng(0).permutation(np.arange(1000.0))
    clipped = np.asarray(clip_top_fraction(as_array(log_weights), 0.01))
    np.testing.assert_array_equal(clipped, np.minimum(log_weights, 990))
    np.testing.assert_array_equal(clip_top_fraction(as_array(log_weights), 0.0), log_weights)
    # the papers' share of few samples is less than one of them
    np.testing.assert_array_equal(clip_top_fraction(as_array(log_weights), 1e-4), log_weights)


@BACKENDS
def test_elbo_clips_the_bottom(as_array):
    log_weights = np.random.default_rng(0).permutation(np.arange(1000.0))
    np.testing.assert_allclose(evidence_lower_bound(as_array(log_weights)), 499.5, rtol=1e-6)
    raised = np.mean(np.maximum(log_weights, 9))
    np.testing.assert_allclose(evidence_lower_bound(as_array(log_weights), 0.01), raised, rtol=1e-6)
    log_weights[0] = -np.inf
    assert float(evidence_lower_bound(as_array(log_weights))) == -np.inf
    assert np.isfinite(evidence_lower_bound(as_array(log_weights), 0.01))


@pytest.mark.parametrize("fraction", [-0.1, 1.0, np.nan])
def test_fractions_must_lie_in_the_unit_interval(fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \[0, 1\)"):
        clip_top_fraction(np.zeros(10), fraction)


resample_jit = jax.jit(resample, static_argnums=2)


@pytest.mark.parametrize(("num_weights", "num_samples"), [(1, 7), (1000, 300), (1000, 5000), (1_000_000, 1_000_000)])
def test_resampling_draws_each_sample_as_often_as_its_weight_asks(num_weights, num_samples):
    rng = np.random.default_rng(0)
    log_weights = np.float32(2 * rng.normal(size=num_weights) - 175)
    log_weights[1::5] = np.nan
    log_weights[2::5] = -np.inf
    indices = np.asarray(resample_jit(jax.random.key(0), log_weights, num_samples))
    counts = np.bincount(indices, minlength=num_weights)
    weights = np.where(np.isnan(log_weights), 0, np.exp(np.float64(log_weights) + 175))
    expected = num_samples * weights / np.sum(weights)
    assert counts.sum() == num_samples
    assert np.all(counts[weights == 0] == 0)
    # Floor or ceiling of the expected count, but for the rounding of 1e6 float32 terms.
    assert np.all(np.abs(counts - expected) < 1.02)


def test_resampling_is_unbiased():
    log_weights = jnp.log(jnp.array([0.05, 0.3, 0.0, 0.45, 0.2]))
    keys = jax.random.split(jax.random.key(0), 20_000)
    indices = np.asarray(jax.vmap(lambda key: resample(key, log_weights, 3))(keys))
    shares = np.bincount(indices.ravel(), minlength=5) / indices.size
    # Five standard errors of 60000 draws at most: 5 · √(0.25/60000) = 0.01
    np.testing.assert_allclose(shares, np.exp(log_weights), atol=0.01)


def test_resampling_needs_a_sample():
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        resample(jax.random.key(0), jnp.zeros(3), 0)
