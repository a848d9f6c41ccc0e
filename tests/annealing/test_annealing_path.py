"""Exponents of the path, log-weights, and Theorem 2.4 on exact one-dimensional densities."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from cmtjax.annealing import (
    DualSolution,
    advance_path,
    importance_log_weights,
    initial_path,
    path_log_density,
    solve_dual,
)


def dual_solution(trust_region_multiplier, entropy_multiplier):
    return DualSolution(
        jnp.float32(trust_region_multiplier), jnp.float32(entropy_multiplier), *jnp.zeros(3), jnp.zeros((), jnp.int32)
    )


def exponents_by_products(trust_region_multipliers, entropy_multipliers):
    """α_i and β_i from the products and sums in the proof of Theorem 2.4, in float64."""
    total = 1 + trust_region_multipliers + entropy_multipliers
    kept = trust_region_multipliers / total
    beta = 1 - np.prod(kept)
    spent = sum(entropy_multipliers[k] / total[k] * np.prod(kept[k + 1 :]) for k in range(len(kept)))
    return 1 - spent / beta, beta


# 0 or from 1e-3 to 1e7, as along real paths
multipliers = st.one_of(st.just(0.0), st.floats(-3, 7).map(lambda exponent: 10.0**exponent))


@hypothesis.given(st.lists(st.tuples(multipliers, multipliers), min_size=1, max_size=12))
def test_recursion_agrees_with_the_products_of_the_theorem(steps):
    path = initial_path()
    beta = float(path.beta)
    for step in steps:
        path = advance_path(path, *(jnp.float32(value) for value in step))
        # Equal up to the rounding of one addition near 1.
        assert float(path.beta) >= beta * (1 - 1e-6)
        beta = float(path.beta)
    values = np.float64(np.float32(steps))
    alpha, expected_beta = exponents_by_products(values[:, 0], values[:, 1])
    # float32 steps, 12 of them; the float64 products lose 1e-16/β in α, β ≥ 1e-7
    np.testing.assert_allclose(path.beta, expected_beta, rtol=1e-5)
    np.testing.assert_allclose(path.alpha, alpha, rtol=1e-5, atol=1e-5)


def test_the_path_starts_at_zero_and_ends_at_one():
    path = initial_path()
    assert (float(path.alpha), float(path.beta)) == (0, 0)
    path = advance_path(advance_path(path, 3.0, 2.0), 0.0, 0.0)
    assert (float(path.alpha), float(path.beta)) == (1, 1)


def test_huge_multipliers_still_move_the_path():
    path = jax.lax.fori_loop(0, 1000, lambda _, path: advance_path(path, 1e6, 0.0), initial_path())
    # 1000 float32 additions of 1e-6
    np.testing.assert_allclose(path.beta, 1 - (1 - 1 / (1 + 1e6)) ** 1000, rtol=1e-5)
    np.testing.assert_allclose(path.alpha, 1, rtol=1e-5)


@pytest.mark.parametrize("step", [(0.0, 0.0), (2.0, 0.5), (1.3e6, 0.0), (1e6, 4e5)])
def test_log_weights_agree_with_float64(step):
    rng = np.random.default_rng(0)
    log_q = (200 + 5 * rng.normal(size=5000)).astype(np.float32)
    clash = rng.uniform(size=5000) < 0.7
    log_p = np.where(clash, -(10 ** rng.uniform(2, 8, size=5000)), 170 + rng.normal(size=5000)).astype(np.float32)
    log_p[::7] = np.nan
    log_weights = np.asarray(importance_log_weights(log_q, log_p, dual_solution(*step)))
    valid = ~np.isnan(log_p)
    exponent = (np.float64(log_p) - (1 + step[1]) * np.float64(log_q))[valid] / (1 + sum(step))
    expected = exponent - logsumexp(exponent) + np.log(np.sum(valid))
    assert np.all(np.isneginf(log_weights[~valid]))
    # Log-weights down to −1e8 have relative rounding, which means nothing to their exponentials.
    np.testing.assert_allclose(log_weights[valid], expected, rtol=1e-6, atol=2e-5)
    np.testing.assert_allclose(np.mean(np.exp(np.float64(log_weights[valid]))), 1, rtol=1e-5)


def test_log_weights_of_a_share_have_mean_one_there():
    rng = np.random.default_rng(0)
    log_q, log_p = rng.normal(size=(2, 3000)).astype(np.float32)
    solution = dual_solution(1.0, 0.5)
    whole = importance_log_weights(log_q, log_p, solution)
    part = importance_log_weights(log_q[:1000], log_p[:1000], solution)
    np.testing.assert_allclose(np.mean(np.exp(part)), 1, rtol=1e-6)
    np.testing.assert_allclose(part - part[0], (whole - whole[0])[:1000], atol=1e-5)


# --- Theorem 2.4 on a line: q_0 is wide, the target has two modes of unequal width and weight.

GRID = np.linspace(-30, 30, 60_001)
SPACING = GRID[1] - GRID[0]


def log_q_0(x):
    return -0.5 * (x / 4) ** 2 - np.log(4 * np.sqrt(2 * np.pi))


def log_p(x):
    """Unnormalized: the integral is e² · √(2π)."""
    narrow = np.log(0.3) - 0.5 * ((x - 4) / 0.3) ** 2 - np.log(0.3)
    wide = np.log(0.7) - 0.5 * ((x + 2) / 0.8) ** 2 - np.log(0.8)
    return 2 + np.logaddexp(narrow, wide)


class ExactPath:
    """Densities along the path, each from the last by Proposition 2.3 and normalized on the grid."""

    def __init__(self):
        self.steps = []

    def log_density(self, x):
        value = log_q_0(x)
        for trust_region_multiplier, entropy_multiplier, log_normalizer in self.steps:
            total = 1 + trust_region_multiplier + entropy_multiplier
            value = (trust_region_multiplier * value + log_p(x)) / total - log_normalizer
        return value

    def advance(self, trust_region_multiplier, entropy_multiplier):
        self.steps.append((trust_region_multiplier, entropy_multiplier, 0.0))
        log_normalizer = logsumexp(self.log_density(GRID)) + np.log(SPACING)
        self.steps[-1] = (trust_region_multiplier, entropy_multiplier, log_normalizer)

    def quantile_nodes(self, num_nodes):
        cumulative = np.cumsum(np.exp(self.log_density(GRID))) * SPACING
        return np.interp((np.arange(num_nodes) + 0.5) / num_nodes, cumulative, GRID + SPACING / 2)


def kl_divergence(log_density, log_reference):
    density = np.exp(log_density)
    return np.sum(np.where(density > 0, density * (log_density - log_reference), 0)) * SPACING


def entropy(log_density):
    return -np.sum(np.exp(log_density) * log_density) * SPACING


@pytest.mark.parametrize(
    ("trust_region_bound", "entropy_bound"),
    [(0.1, None), (None, 0.1), (0.03, 0.1)],
    ids=["geometric", "tempered", "geometric-tempered"],
)
def test_exact_densities_follow_the_paths_of_the_theorem(trust_region_bound, entropy_bound):
    exact, path = ExactPath(), initial_path()
    log_target = log_p(GRID) - logsumexp(log_p(GRID)) - np.log(SPACING)
    solve = jax.jit(
        lambda log_q, log_p, initial: solve_dual(log_q, log_p, trust_region_bound, entropy_bound, initial=initial)
    )
    solution = dual_solution(0, 0)
    active = np.zeros(2, int)
    for _ in range(200):
        before = exact.log_density(GRID)
        nodes = exact.quantile_nodes(20_000)
        solution = solve(
            jnp.asarray(exact.log_density(nodes), jnp.float32), jnp.asarray(log_p(nodes), jnp.float32), solution
        )
        assert int(solution.status) == 0
        multipliers = np.float64(solution[:2])
        exact.advance(*multipliers)
        path = advance_path(path, *solution[:2])
        after = exact.log_density(GRID)

        # The constraints hold for the exact densities by quadrature; the nodes carry an error of about 1/20000 of
        # values of size one, 5e-4 of these bounds, more in the tails that the first steps reach into.
        reached = (kl_divergence(after, before), entropy(before) - entropy(after))
        for multiplier, bound, value in zip(multipliers, (trust_region_bound, entropy_bound), reached, strict=True):
            if multiplier > 0:
                np.testing.assert_allclose(value, bound, rtol=0.02)
            elif bound is not None:
                assert value < 1.02 * bound
        active += multipliers > 0

        # The density is the one that Theorem 2.4 writes with α_i, β_i of the recursion, kept in float32.
        on_path = path_log_density(jax.tree.map(np.float64, path), log_q_0(GRID), log_p(GRID))
        on_path = on_path - logsumexp(on_path) - np.log(SPACING)
        total_variation = 0.5 * np.sum(np.abs(np.exp(on_path) - np.exp(after))) * SPACING
        assert total_variation < 1e-5
        assert 0 <= float(path.alpha) <= 1 + 1e-6
        if entropy_bound is None:
            np.testing.assert_allclose(path.alpha, 1, rtol=1e-5)
        if trust_region_bound is None:
            assert float(path.beta) == 1
        if not np.any(multipliers):
            break
    assert len(exact.steps) > 4
    assert (active > 0).tolist() == [trust_region_bound is not None, entropy_bound is not None]
    assert (float(path.alpha), float(path.beta)) == (1, 1)
    # The last step is the target itself.
    np.testing.assert_allclose(after, log_target, atol=1e-9)
