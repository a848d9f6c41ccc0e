"""The flow's base density on the unit box: uniform on circular dimensions, a truncated normal on the others."""

from __future__ import annotations

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import truncnorm
from jaxtyping import Array, Float, PRNGKeyArray


class BoxBase(NamedTuple):
    """Independent dimensions; [CMT] D.1 has mean 0.5 and standard deviation 0.1 for bonds and angles.

    Attributes:
      is_circular: (d,) bool.
      mean: of the normal, before its truncation to [0, 1].
      standard_deviation: likewise.
    """

    is_circular: np.ndarray
    mean: float = 0.5
    standard_deviation: float = 0.1

    def sample(self, key: PRNGKeyArray, num_samples: int) -> Float[Array, "n d"]:
        """Draws points in [0, 1]^d, float32."""
        lower, upper = self._bounds()
        shape = (num_samples, self.is_circular.size)
        normal_key, uniform_key = jax.random.split(key)
        normal = self.mean + self.standard_deviation * jax.random.truncated_normal(normal_key, lower, upper, shape)
        return jnp.where(self.is_circular, jax.random.uniform(uniform_key, shape), jnp.clip(normal, 0.0, 1.0))

    def log_prob(self, z: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Log density of points in the box, normalized on it."""
        chex.assert_axis_dimension(z, -1, self.is_circular.size)
        lower, upper = self._bounds()
        z = jnp.clip(z, 0.0, 1.0)
        normal = truncnorm.logpdf(z, lower, upper, loc=self.mean, scale=self.standard_deviation)
        return jnp.sum(jnp.where(self.is_circular, 0.0, normal), axis=-1)

    def _bounds(self) -> tuple[float, float]:
        return (0.0 - self.mean) / self.standard_deviation, (1.0 - self.mean) / self.standard_deviation
