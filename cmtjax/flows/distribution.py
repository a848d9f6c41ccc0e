"""A trained flow as a distrax ``Distribution`` (the one place that needs distrax)."""

from __future__ import annotations

import distrax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from cmtjax.flows.flow import Flow, Params


class FlowDistribution(distrax.Distribution):
    """The density of a flow on the unit box, for code that speaks distrax.

    Args:
      flow: the flow.
      params: its parameters.
    """

    def __init__(self, flow: Flow, params: Params) -> None:
        super().__init__()
        self._flow = flow
        self._params = params

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(d,)."""
        return (self._flow.domain.num_dims,)

    def _sample_n(self, key: PRNGKeyArray, n: int) -> Float[Array, "n d"]:
        return self._flow.sample_and_log_prob(self._params, key, n)[0]

    def _sample_n_and_log_prob(self, key: PRNGKeyArray, n: int) -> tuple[Float[Array, "n d"], Float[Array, " n"]]:
        return self._flow.sample_and_log_prob(self._params, key, n)

    def log_prob(self, value: Float[Array, "*batch d"]) -> Float[Array, "*batch"]:
        """Log density of points on the box."""
        return self._flow.log_prob(self._params, jnp.asarray(value))
