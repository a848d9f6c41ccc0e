"""solve_dual: signs, closed forms, transformations, masks and statuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from cmtjax.annealing import DualSolution, describe_status, dual, importance_log_weights, solve_dual
from cmtjax.annealing.dual_objective import center_buffer, dual_moments

solve = jax.jit(solve_dual, static_argnames=("trust_region_bound", "entropy_bound"))
solve_with_bounds = jax.jit(lambda *arguments: solve_dual(*arguments))


def gaussian_buffer(num_samples=2000, seed=0):
    """A standard normal of 8 dims against a shifted and sharper one, unnormalized."""
    x = np.random.default_rng(seed).normal(size=(num_samples, 8))
    log_q = -0.5 * np.sum(x**2, axis=1) - 4 * np.log(2 * np.pi)
    log_p = -0.5 * np.sum((x - 1) ** 2 / 0.3**2, axis=1) + 7
    return log_q.astype(np.float32), log_p.astype(np.float32)


def lagrangian(weights, log_q, log_p, multipliers, bounds):
    """CMT Equation 18 for q = w q_i on the samples, with the normalized weights w and p̃ for p."""
    log_weights = np.log(weights)
    kl = np.mean(weights * log_weights)
    entropy_decay = -np.mean(log_q) + np.mean(weights * (log_weights + log_q))
    kl_to_target = np.mean(weights * (log_weights + log_q - log_p))
    return kl_to_target + multipliers[0] * (kl - bounds[0]) + multipliers[1] * (entropy_decay - bounds[1])


def dual_value(buffer, multipliers, bounds):
    """g without the constant that centering removes."""
    moments = dual_moments(buffer, multipliers[0], multipliers[1])
    return -(1 + jnp.sum(multipliers)) * moments.log_normalizer - jnp.sum(multipliers * bounds)


@pytest.mark.parametrize("multipliers", [(0.0, 0.0), (3.0, 0.0), (0.0, 2.0), (40.0, 7.0)])
def test_weights_minimize_the_lagrangian_and_the_dual_is_its_minimum(multipliers):
    log_q, log_p = (values.astype(np.float64) for values in gaussian_buffer(500))
    bounds = (0.3, 0.8)
    with jax.enable_x64(True):
        solution = DualSolution(*jnp.asarray(multipliers), *jnp.zeros(3), jnp.asarray(0))
        weights = np.exp(importance_log_weights(jnp.asarray(log_q), jnp.asarray(log_p), solution))
        minimum = lagrangian(weights, log_q, log_p, multipliers, bounds)
        buffer = center_buffer(jnp.asarray(log_q), jnp.asarray(log_p))
        value = dual_value(buffer, jnp.asarray(multipliers), jnp.asarray(bounds)) - buffer.log_ratio_shift
    # float64 sums of values near 100
    np.testing.assert_allclose(value, minimum, rtol=1e-11)
    rng = np.random.default_rng(1)
    for scale in (1e-3, 0.1, 1.0):
        other = weights * np.exp(scale * rng.normal(size=weights.shape))
        assert lagrangian(other / np.mean(other), log_q, log_p, multipliers, bounds) > minimum


@pytest.mark.parametrize("multipliers", [(0.5, 0.2), (40.0, 7.0), (1e6, 1e5)])
def test_gradient_and_curvature_are_derivatives_of_the_dual(multipliers):
    bounds = (0.3, 0.8)
    with jax.enable_x64(True):
        log_q, log_p = (jnp.asarray(values, jnp.float64) for values in gaussian_buffer(500))
        buffer = center_buffer(log_q, 1e4 * log_p if multipliers[0] > 1e5 else log_p)
        point, bounds = jnp.asarray(multipliers), jnp.asarray(bounds)
        moments = dual_moments(buffer, *point)
        gradient = jnp.stack([moments.kl, moments.entropy_decay]) - bounds
        total = 1 + jnp.sum(point)
        difference = jnp.stack(
            [
                (dual_value(buffer, point + step, bounds) - dual_value(buffer, point - step, bounds))
                / (2 * 1e-4 * total)
                for step in 1e-4 * total * jnp.eye(2)
            ]
        )
        hessian = jax.hessian(dual_value, argnums=1)(buffer, point, bounds)
        # central differences: error of the step squared, 1e-8, and rounding of 1e-16/1e-4 of a value of size one
        np.testing.assert_allclose(gradient, difference, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(-moments.covariance / total, hessian, rtol=1e-8, atol=1e-12 / total)


@pytest.mark.parametrize("multipliers", [(0.8, 0.0), (0.0, 1.5), (5.0, 2.0), (40.0, 12.0)])
def test_one_dimensional_gaussians_have_known_multipliers(multipliers):
    std, target_mean, target_std = 2.0, 1.5, 0.4
    trust_region_multiplier, entropy_multiplier = multipliers
    total = 1 + trust_region_multiplier + entropy_multiplier
    precision = trust_region_multiplier / total / std**2 + 1 / total / target_std**2
    mean = target_mean / total / target_std**2 / precision
    kl = 0.5 * (1 / (precision * std**2) + mean**2 / std**2 - 1 + np.log(precision * std**2))
    entropy_decay = 0.5 * np.log(precision * std**2)

    # Quantile nodes in place of samples: equal weights, no noise.
    num_nodes = 100_000
    x = norm.ppf((np.arange(num_nodes) + 0.5) / num_nodes, scale=std)
    log_q = norm.logpdf(x, scale=std).astype(np.float32)
    log_p = (3 - 0.5 * ((x - target_mean) / target_std) ** 2).astype(np.float32)
    # A bound twice the value that is reached is inactive.
    solution = solve_with_bounds(
        log_q,
        log_p,
        kl if trust_region_multiplier > 0 else 2 * kl,
        entropy_decay if entropy_multiplier > 0 else 2 * entropy_decay,
    )
    assert int(solution.status) == 0
    # The nodes miss 1e-5 of the tails, the means of log q there are off by about 1e-4 of themselves.
    np.testing.assert_allclose(solution[:2], multipliers, rtol=2e-3)
    np.testing.assert_allclose([solution.kl, solution.entropy_decay], [kl, entropy_decay], rtol=1e-3)


def test_diagonal_gaussians_have_known_multipliers():
    num_dims, trust_region_multiplier, entropy_multiplier = 6, 100.0, 5.0
    std = np.linspace(0.5, 2, num_dims)
    target_std, target_mean = std * np.linspace(0.1, 0.3, num_dims), 0.3 * std[::-1]
    total = 1 + trust_region_multiplier + entropy_multiplier
    precision = trust_region_multiplier / total / std**2 + 1 / total / target_std**2
    mean = target_mean / total / target_std**2 / precision
    kl = 0.5 * np.sum(1 / (precision * std**2) + mean**2 / std**2 - 1 + np.log(precision * std**2))
    entropy_decay = 0.5 * np.sum(np.log(precision * std**2))
    x = np.random.default_rng(0).normal(size=(400_000, num_dims)) * std
    log_q = np.sum(norm.logpdf(x, scale=std), axis=1).astype(np.float32)
    log_p = (-0.5 * np.sum(((x - target_mean) / target_std) ** 2, axis=1)).astype(np.float32)
    solution = solve_with_bounds(log_q, log_p, kl, entropy_decay)
    assert int(solution.status) == 0
    # Sampling noise of KL and entropy decay is a few times 1/√400000 = 0.0016; the multipliers amplify it by about 5.
    np.testing.assert_allclose(solution[:2], (trust_region_multiplier, entropy_multiplier), rtol=0.05)


def test_a_scan_over_mapped_problems_agrees_with_single_calls():
    problems = [gaussian_buffer(seed=seed) for seed in range(6)]
    expected = jax.tree.map(lambda *values: np.stack(values), *[solve(*problem) for problem in problems])
    log_q, log_p = (np.stack(values).reshape(2, 3, -1) for values in zip(*problems, strict=True))
    _, solution = jax.lax.scan(lambda carry, pair: (carry, jax.vmap(solve_dual)(*pair)), 0, (log_q, log_p))
    assert np.all(expected.status == 0)
    # Each stops within its own tolerance of 1e-5 in the residuals.
    chex.assert_trees_all_close(jax.tree.map(jnp.ravel, solution), expected, rtol=1e-4)
    assert solution.status.dtype == jnp.int32


@pytest.mark.parametrize(
    "initial", [(0.0, 0.0), (1e10, 1e10), (np.nan, np.inf), (50.0, 0.0)], ids=["zero", "limits", "nan", "near"]
)
def test_any_initial_solution_leads_to_the_same_multipliers(initial):
    log_q, log_p = gaussian_buffer()
    expected = solve(log_q, log_p)
    start = DualSolution(*jnp.asarray(initial, jnp.float32), *jnp.zeros(3), jnp.zeros((), jnp.int32))
    chex.assert_trees_all_close(solve(log_q, log_p, initial=start), expected, rtol=1e-4)


def test_without_bounds_the_weights_are_those_of_the_target():
    log_q, log_p = gaussian_buffer()
    neither = solve(log_q, log_p, trust_region_bound=None, entropy_bound=None)
    assert [float(value) for value in neither[:2]] == [0, 0]
    assert int(neither.status) == 0
    # Importance-weighted forward KL: the weights are p̃/q_i.
    log_ratio = np.float64(log_p) - log_q
    expected = log_ratio - np.log(np.mean(np.exp(log_ratio - np.max(log_ratio)))) - np.max(log_ratio)
    # float32 log-ratios of size 1000 have an ulp of 6e-5
    np.testing.assert_allclose(importance_log_weights(log_q, log_p, neither), expected, atol=3e-4)


def test_equal_densities_are_a_solution_at_zero():
    log_q, _ = gaussian_buffer()
    solution = solve(log_q, log_q + np.float32(3))
    assert [float(value) for value in solution[:2]] == [0, 0]
    assert int(solution.status) == 0


def test_failed_samples_change_nothing():
    log_q, log_p = gaussian_buffer()
    expected = solve(log_q, log_p)
    failed = np.random.default_rng(0).uniform(size=3 * log_q.size) < 2 / 3
    failed = np.argsort(np.argsort(~failed, kind="stable")) < 2 * log_q.size  # exactly two thirds, scattered
    padded_q, padded_p = np.full(failed.shape, 12.0, np.float32), np.full(failed.shape, np.nan, np.float32)
    padded_q[~failed], padded_p[~failed] = log_q, log_p
    chex.assert_trees_all_close(solve(padded_q, padded_p), expected, rtol=1e-4)


def test_samples_outside_the_support_have_no_weight():
    log_q, log_p = gaussian_buffer()
    inside = np.arange(log_q.size) % 10 > 0
    log_p = np.where(inside, log_p, -np.inf).astype(np.float32)
    solution = solve_with_bounds(log_q, log_p, 0.3, 0.8)
    assert int(solution.status) == 0
    np.testing.assert_allclose(solution.kl, 0.3, rtol=1e-4)
    log_weights = importance_log_weights(log_q, log_p, solution)
    assert np.all(np.isneginf(log_weights[~inside]))
    # -log 0.9 = 0.105 nats are spent on leaving them out
    assert int(solve_with_bounds(log_q, log_p, 0.1, 0.8).status) == dual.INFEASIBLE


def test_statuses_of_problems_without_a_solution():
    log_q, log_p = gaussian_buffer()
    nothing = np.full_like(log_q, np.nan)
    for bad in ((log_q, nothing), (nothing, log_p), (log_q, np.full_like(log_q, -np.inf))):
        solution = solve(*bad)
        assert int(solution.status) == dual.NO_FINITE_SAMPLES
        assert np.all(np.isfinite(np.asarray(solution[:2])))
    too_wide = np.where(np.arange(log_q.size) % 2 == 0, 0, -1e15).astype(np.float32)
    assert int(solve(log_q, too_wide).status) == dual.AT_UPPER_BOUND


def test_every_status_has_a_sentence_and_others_are_refused():
    codes = (dual.CONVERGED, dual.NOT_CONVERGED, dual.AT_UPPER_BOUND, dual.INFEASIBLE, dual.NO_FINITE_SAMPLES)
    sentences = {describe_status(jnp.asarray(code, jnp.int32)) for code in codes}
    assert len(sentences) == len(codes)
    with pytest.raises(ValueError, match="status must be one of"):
        describe_status(99)


@pytest.mark.parametrize("bound", [0, -1.0, np.inf, np.nan])
@pytest.mark.parametrize("name", ["trust_region_bound", "entropy_bound"])
def test_bounds_must_be_positive_and_finite(name, bound):
    with pytest.raises(ValueError, match=f"{name} must be a finite number above 0"):
        solve_dual(*gaussian_buffer(10), **{name: bound})


def test_it_lowers_for_a_tpu():
    shape = jax.ShapeDtypeStruct((5000,), jnp.float32)
    exported = jax.export.export(jax.jit(solve_dual), platforms=["tpu"])(shape, shape)
    assert "f64" not in exported.mlir_module()
