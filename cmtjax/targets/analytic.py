"""Anyone's density on a box."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cmtjax.coordinates.domain import Domain
from cmtjax.targets.target import Target


def from_log_prob(
    log_prob: Callable[[Float[Array, " d"]], Float[Array, ""]],
    lower: Sequence[float] | np.ndarray,
    upper: Sequence[float] | np.ndarray,
    is_circular: Sequence[bool] | np.ndarray | bool = False,
) -> Target:
    """A target from the log density of one point of a box.

    Args:
      log_prob: one point (d,) -> unnormalized log density (); batched by ``vmap`` here.
      lower: (d,) lower corner.
      upper: (d,) upper corner.
      is_circular: (d,) or one bool, dimensions whose two ends are the same point.

    Raises:
      ValueError: if the corners are not finite vectors of one length with lower < upper.
    """
    lower, upper = np.asarray(lower, np.float32), np.asarray(upper, np.float32)
    if lower.ndim != 1 or lower.shape != upper.shape or not np.all(np.isfinite([lower, upper])):
        raise ValueError(f"lower and upper must be finite vectors of one length, got {lower} and {upper}.")
    if not np.all(lower < upper):
        raise ValueError(f"lower must be below upper in every dimension, got {lower} and {upper}.")
    size = upper - lower
    log_det = float(np.sum(np.log(size.astype(np.float64))))

    def to_physical(u: Array) -> tuple[Array, Array]:
        return lower + size * u, jnp.full(u.shape[:-1], log_det, u.dtype)

    def from_physical(x: Array) -> tuple[Array, Array, Array]:
        u = (x - lower) / size
        in_domain = jnp.all((u >= 0.0) & (u <= 1.0), axis=-1)
        return u, jnp.full(u.shape[:-1], log_det, u.dtype), in_domain

    def batched(x: Array) -> Array:
        return jax.vmap(log_prob)(x.reshape(-1, x.shape[-1])).reshape(x.shape[:-1])

    return Target(Domain.box(lower.size, np.asarray(is_circular, bool)), to_physical, from_physical, batched)
