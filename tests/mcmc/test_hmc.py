"""HMC on a box against closed-form densities with walls and with periodic dimensions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cmtjax import mcmc
from cmtjax.coordinates.domain import Domain

# Dimension 0 has walls, dimension 1 is periodic.
DOMAIN = Domain.box(2, np.array([False, True]))


@given(st.floats(-50, 50), st.floats(-50, 50))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_fold_is_a_mirror_or_a_turn(wall, turn):
    u, sign = mcmc.fold(jnp.array([wall, turn], jnp.float32), DOMAIN)
    # The triangle wave and the circle, through functions that know no box. float32 of numbers up to 50: 4e-6, times π.
    np.testing.assert_allclose(np.cos(np.pi * u[0]), np.cos(np.pi * np.float32(wall)), atol=3e-5)
    np.testing.assert_allclose(np.exp(2j * np.pi * u[1]), np.exp(2j * np.pi * np.float32(turn)), atol=6e-5)
    assert np.all((u >= 0) & (u <= 1))
    assert sign[1] == 1
    assert sign[0] == (-1 if np.floor(np.float32(wall)) % 2 and u[0] not in (0, 1) else sign[0])


@functools.lru_cache
def _chains(num_moves, step_size):
    """4000 chains of a normal distribution cut off by two walls and a von Mises distribution."""

    def log_density(u):
        return -0.5 * ((u[:, 0] - 0.1) / 0.3) ** 2 + 2.0 * jnp.cos(2 * jnp.pi * (u[:, 1] - 0.05))

    def evaluate(u):
        return log_density(u), jax.grad(lambda v: jnp.sum(log_density(v)))(u)

    def move(point, key):
        point, acceptance = mcmc.hmc_move(
            key, point, evaluate, lambda e: e, DOMAIN, jnp.full(4000, step_size), jnp.full((4000, 2), 0.3), 5
        )
        return point, acceptance

    @jax.jit
    def run(key):
        start_key, key = jax.random.split(key)
        u = jax.random.uniform(start_key, (4000, 2))
        point, acceptance = jax.lax.scan(move, mcmc.Point(u, evaluate(u)), jax.random.split(key, num_moves))
        return point.u, acceptance

    u, acceptance = run(jax.random.key(0))
    return np.asarray(u, np.float64), np.asarray(acceptance)


@pytest.mark.parametrize("step_size", [0.5, 0.8])
def test_stationary_density_does_not_depend_on_the_step_size(step_size):
    u, acceptance = _chains(30, step_size)
    # Long steps must be refused sometimes, or the test would say nothing about the Metropolis test.
    assert acceptance.mean() < (0.95 if step_size == 0.5 else 0.6)
    wall = stats.truncnorm(-0.1 / 0.3, 0.9 / 0.3, loc=0.1, scale=0.3)
    # 4000 independent chains, fixed seed: a p-value below 1e-3 would be no accident.
    assert stats.kstest(u[:, 0], wall.cdf).pvalue > 1e-3
    wrapped = np.mod(2 * np.pi * (u[:, 1] - 0.05) + np.pi, 2 * np.pi) - np.pi
    assert stats.kstest(wrapped, stats.vonmises(2.0).cdf).pvalue > 1e-3


def test_walls_are_not_crossed():
    u, _ = _chains(30, 0.8)
    near_zero, near_one = u[:, 0] < 0.1, u[:, 0] > 0.9
    wall = stats.truncnorm(-0.1 / 0.3, 0.9 / 0.3, loc=0.1, scale=0.3)
    # Binomial counts of 4000: five standard deviations. With wrapping walls both ends would be alike.
    for is_near, probability in ((near_zero, wall.cdf(0.1)), (near_one, 1 - wall.cdf(0.9))):
        assert abs(is_near.mean() - probability) < 5 * np.sqrt(probability / 4000)


def test_a_density_that_is_nan_or_empty_is_never_entered():
    def evaluate(u):
        inside = u[:, 0] < 0.5
        value = jnp.where(inside, 0.0, jnp.where(u[:, 1] < 0.5, jnp.nan, -jnp.inf))
        return value, jnp.full_like(u, jnp.nan)

    @jax.jit
    def move(key, point):
        return mcmc.hmc_move(key, point, evaluate, lambda e: e, DOMAIN, jnp.full(500, 0.3), jnp.ones((500, 2)), 3)

    u = jnp.full((500, 2), 0.25)
    point = mcmc.Point(u, evaluate(u))
    for key in jax.random.split(jax.random.key(1), 10):
        point, acceptance = move(key, point)
        assert np.all(np.isfinite(acceptance))
    assert np.all(point.u[:, 0] < 0.5)
    assert np.unique(point.u[:, 0]).size > 400  # and the chains moved
