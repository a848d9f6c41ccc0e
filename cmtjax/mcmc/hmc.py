"""Hamiltonian Monte Carlo on the unit box, for a batch of chains at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from cmtjax.coordinates.domain import Domain

#: Parts of a log density at points (n, d): u -> (values, gradients), of any structure, as ``combine`` expects them.
Evaluate = Callable[[Float[Array, "n d"]], Any]


class Point(NamedTuple):
    """Chains at their current points.

    Attributes:
      u: (n, d) points of the box.
      evaluated: what the density's ``evaluate`` returned there.
    """

    u: Float[Array, "n d"]
    evaluated: Any


def hmc_move(
    key: PRNGKeyArray,
    point: Point,
    evaluate: Evaluate,
    combine: Callable[[Any], tuple[Float[Array, " n"], Float[Array, "n d"]]],
    domain: Domain,
    step_size: Float[Array, " n"],
    scale: Float[Array, "n d"],
    num_leapfrog_steps: int,
) -> tuple[Point, Float[Array, " n"]]:
    """One trajectory and its Metropolis test, each chain by itself; leaves the density exactly invariant.

    Hamilton's equations with kinetic energy Σ (p / scale)² / 2 are integrated by leapfrog steps (Neal 2011, "MCMC using
    Hamiltonian dynamics", Algorithm 1 of the Handbook of MCMC). At a wall of the box a trajectory is reflected, which
    keeps it reversible and volume-preserving; only periodic dimensions wrap.

    Args:
      key: random key.
      point: where the chains are.
      evaluate: see ``Evaluate``; its result is carried along, so that a move costs one evaluation a leapfrog step.
      combine: what ``evaluate`` returned -> log density with respect to u (n,), and its gradient (n, d). Where the
        proposal's log density is NaN the chain stays.
      domain: of the box.
      step_size: (n,) of the leapfrog integrator, in units of ``scale``.
      scale: (n, d) widths of the density in each dimension, about the standard deviation within a basin.
      num_leapfrog_steps: length of a trajectory.

    Returns:
      The new points and (n,) the probability with which each proposal was accepted.
    """
    momentum_key, accept_key = jax.random.split(key)
    velocity = jax.random.normal(momentum_key, point.u.shape, point.u.dtype)
    step = step_size[:, None]

    def kick(velocity: Array, gradient: Array, fraction: float) -> Array:
        # A gradient that is not finite makes no kick. Any force that depends on the place alone keeps the map
        # reversible; the test below uses the true density.
        force = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
        return velocity + fraction * step * scale * force

    def leapfrog(_: Any, carry: tuple[Array, Array, Any]) -> tuple[Array, Array, Any]:
        u, velocity, evaluated = carry
        velocity = kick(velocity, combine(evaluated)[1], 0.5)
        u, sign = fold(u + step * scale * velocity, domain)
        evaluated = evaluate(u)
        return u, kick(velocity * sign, combine(evaluated)[1], 0.5), evaluated

    u, end_velocity, evaluated = jax.lax.fori_loop(
        0, num_leapfrog_steps, leapfrog, (point.u, velocity, point.evaluated)
    )
    log_ratio = combine(evaluated)[0] - combine(point.evaluated)[0]
    log_ratio += 0.5 * (jnp.sum(velocity**2, axis=1) - jnp.sum(end_velocity**2, axis=1))
    acceptance = jnp.where(jnp.isnan(log_ratio), 0.0, jnp.exp(jnp.minimum(log_ratio, 0.0)))
    is_accepted = jax.random.uniform(accept_key, acceptance.shape) < acceptance
    return choose(is_accepted, Point(u, evaluated), point), acceptance


def fold(u: Float[Array, "*batch d"], domain: Domain) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch d"]]:
    """Brings points that left the box back: periodic dimensions wrap, the others are reflected at the walls.

    Args:
      u: points anywhere.
      domain: of the box.

    Returns:
      Points in [0, 1]; and 1, or −1 where a velocity has changed its sign by an odd number of reflections.
    """
    is_periodic = jnp.asarray(np.asarray(domain.is_periodic))
    twice = jnp.mod(u, 2.0)
    is_reflected = ~is_periodic & (twice > 1.0)
    folded = jnp.where(is_periodic, jnp.mod(u, 1.0), jnp.where(is_reflected, 2.0 - twice, twice))
    return folded, jnp.where(is_reflected, -1.0, 1.0).astype(u.dtype)


def choose(condition: Array, if_true: Any, if_false: Any) -> Any:
    """Chain by chain, one of two pytrees whose leaves have the chains' axes in front."""

    def leaf(a: Array, b: Array) -> Array:
        return jnp.where(condition.reshape(condition.shape + (1,) * (a.ndim - condition.ndim)), a, b)

    return jax.tree.map(leaf, if_true, if_false)
