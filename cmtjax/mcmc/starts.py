"""Starting points of chains that are spread wider than what they sample, so that R̂ means something."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from cmtjax.mcmc.hmc import fold
from cmtjax.targets.target import Target


def spread_starts(
    target: Target,
    key: PRNGKeyArray,
    center: Float[Array, " d"],
    is_spread: Bool[np.ndarray, " d"],
    num_points: int,
    *,
    num_candidates: int = 100,
    num_relaxation_steps: int = 300,
    relaxation_rate: float = 2e-3,
) -> Float[Array, "{num_points} d"]:
    """Points with uniform values in some dimensions, relaxed until nothing clashes.

    For each point the most probable of a number of candidates is taken, and follows the gradient of log p̃ by Adam.

    Args:
      target: what will be sampled.
      key: random key.
      center: (d,) the values of the other dimensions, such as those of the energy minimum.
      is_spread: (d,) dimensions that get uniform values, such as the torsions about rotatable bonds.
      num_points: how many.
      num_candidates: random points for each; where none has a finite log p̃, ``center`` is taken.
      num_relaxation_steps: of Adam; some hundreds take a peptide out of clashes without pulling it into its minimum.
      relaxation_rate: of Adam, in units of the box.

    Returns:
      (num_points, d) on the box.
    """
    spread = jnp.asarray(np.asarray(is_spread))

    def log_p(u: Array) -> Array:
        return target.log_prob(target.to_physical(u)[0])

    def better(best: tuple[Array, Array], key: PRNGKeyArray) -> tuple[tuple[Array, Array], None]:
        u = jnp.where(spread, jax.random.uniform(key, (num_points, center.size)), center)
        value = log_p(u)
        is_better = value > best[1]
        return (jnp.where(is_better[:, None], u, best[0]), jnp.where(is_better, value, best[1])), None

    none = jnp.broadcast_to(center, (num_points, center.size)), jnp.full(num_points, -jnp.inf)
    (u, _), _ = jax.lax.scan(better, none, jax.random.split(key, num_candidates))
    optimizer = optax.adam(relaxation_rate)

    def relax(carry: tuple[Array, optax.OptState], _: None) -> tuple[tuple[Array, optax.OptState], None]:
        u, state = carry
        gradient = jax.grad(lambda v: -jnp.sum(log_p(v)))(u)
        updates, state = optimizer.update(jnp.where(jnp.isfinite(gradient), gradient, 0.0), state)
        return (fold(optax.apply_updates(u, updates), target.domain)[0], state), None

    (u, _), _ = jax.lax.scan(relax, (u, optimizer.init(u)), None, length=num_relaxation_steps)
    return u
