"""The normalizing flow on the unit box: base, couplings, sampling and density."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cmtjax.coordinates.domain import Domain
from cmtjax.flows.base import BoxBase
from cmtjax.flows.couplings import CouplingLayout, SplineCoupling, coupling_layouts

Params = Any


class Flow(NamedTuple):
    """A flow as pure functions; densities are with respect to the unit box.

    Attributes:
      domain: the box.
      init: key -> parameters (a plain pytree).
      sample_and_log_prob: (params, key, num_samples) -> u (n, d), log q_u (n,).
      log_prob: (params, u (…, d)) -> log q_u (…,); points outside the box are evaluated at the nearest point of it.
      from_base: (params, z (…, d)) -> u, log|du/dz| (…,).
      to_base: (params, u (…, d)) -> z, log|dz/du| (…,).
      base: the base density.
    """

    domain: Domain
    init: Callable[[PRNGKeyArray], Params]
    sample_and_log_prob: Callable[[Params, PRNGKeyArray, int], tuple[Float[Array, "n d"], Float[Array, " n"]]]
    log_prob: Callable[[Params, Float[Array, "*batch d"]], Float[Array, "*batch"]]
    from_base: Callable[[Params, Float[Array, "*batch d"]], tuple[Float[Array, "*batch d"], Float[Array, "*batch"]]]
    to_base: Callable[[Params, Float[Array, "*batch d"]], tuple[Float[Array, "*batch d"], Float[Array, "*batch"]]]
    base: BoxBase


def spline_flow(
    domain: Domain,
    *,
    num_couplings: int = 16,
    num_bins: int = 8,
    hidden_sizes: Sequence[int] = (256,) * 5,
    seed: int = 0,
    base_mean: float = 0.5,
    base_standard_deviation: float = 0.1,
    feature_scale: float = 1.0,
) -> Flow:
    """Coupling flow of circular and rational-quadratic splines ([CMT] D.1).

    At the start every spline is the identity, and the density is the base's.

    Args:
      domain: what the box is; circular dimensions get circular splines over a uniform base.
      num_couplings: couplings, two of them a pair that transforms every dimension once.
      num_bins: bins of every spline.
      hidden_sizes: hidden layers of every conditioner.
      seed: fixes masks and shifts; separate from the seed of a run, so that runs share one architecture.
      base_mean: of the truncated normal on bounded dimensions.
      base_standard_deviation: likewise.
      feature_scale: how much the conditioners magnify bounded inputs around the middle of the box; 1 in the papers.

    Returns:
      A ``Flow``.

    Raises:
      ValueError: if a size is not positive or the domain cannot be split.
    """
    for name, value in (("num_couplings", num_couplings), ("num_bins", num_bins)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if num_bins < 2 or num_bins > 500:
        raise ValueError(f"num_bins must be from 2 to 500 (bins have a smallest size of 1/1000), got {num_bins}.")
    if any(size < 1 for size in hidden_sizes):
        raise ValueError(f"hidden_sizes must be positive, got {tuple(hidden_sizes)}.")
    if base_standard_deviation <= 0.0:
        raise ValueError(f"base_standard_deviation must be positive, got {base_standard_deviation}.")
    layouts = tuple(coupling_layouts(domain, num_couplings, seed))
    module = _SplineFlow(layouts, num_bins, tuple(hidden_sizes), feature_scale)
    base = BoxBase(domain.is_circular, base_mean, base_standard_deviation)

    def init(key: PRNGKeyArray) -> Params:
        return module.init(key, jnp.full((domain.num_dims, 1), 0.5))["params"]

    def to_base(params: Params, u: Array) -> tuple[Array, Array]:
        return _batch_last(module.bind({"params": params}), u, domain.num_dims)

    def from_base(params: Params, z: Array) -> tuple[Array, Array]:
        return _batch_last(module.bind({"params": params}).from_base, z, domain.num_dims)

    def log_prob(params: Params, u: Array) -> Array:
        z, log_det = to_base(params, jnp.clip(u, 0.0, 1.0))
        return base.log_prob(z) + log_det

    def sample_and_log_prob(params: Params, key: PRNGKeyArray, num_samples: int) -> tuple[Array, Array]:
        z = base.sample(key, num_samples)
        u, log_det = from_base(params, z)
        return u, base.log_prob(z) - log_det

    # Compiled here, for callers who do not: operation by operation, a call takes a hundred times as long.
    return Flow(
        domain=domain,
        init=jax.jit(init),
        sample_and_log_prob=jax.jit(sample_and_log_prob, static_argnames="num_samples"),
        log_prob=jax.jit(log_prob),
        from_base=jax.jit(from_base),
        to_base=jax.jit(to_base),
        base=base,
    )


def _batch_last(function: Callable[[Array], tuple[Array, Array]], u: Array, num_dims: int) -> tuple[Array, Array]:
    chex.assert_axis_dimension(u, -1, num_dims)
    batch = u.shape[:-1]
    out, log_det = function(u.reshape(-1, num_dims).T)
    return out.T.reshape(u.shape), log_det.reshape(batch)


class _SplineFlow(nn.Module):
    layouts: tuple[CouplingLayout, ...]
    num_bins: int
    hidden_sizes: tuple[int, ...]
    feature_scale: float

    def setup(self) -> None:
        self.couplings = [
            SplineCoupling(layout, self.num_bins, self.hidden_sizes, self.feature_scale) for layout in self.layouts
        ]

    def __call__(self, u: Array) -> tuple[Array, Array]:
        """(d, n) data -> base, with the log-determinant of this map."""
        log_det = jnp.zeros(u.shape[1:], u.dtype)
        for coupling in self.couplings:
            u, step = coupling.to_base(u)
            log_det = log_det + step
        return u, log_det

    def from_base(self, z: Array) -> tuple[Array, Array]:
        """(d, n) base -> data, with the log-determinant of this map."""
        log_det = jnp.zeros(z.shape[1:], z.dtype)
        for coupling in reversed(self.couplings):
            z, step = coupling.from_base(z)
            log_det = log_det - step
        return z, log_det
