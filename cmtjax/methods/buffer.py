"""Drawing a buffer of samples from a flow and evaluating the target on it, a chunk at a time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from cmtjax.flows.flow import Flow, Params
from cmtjax.targets.target import Target


class Buffer(NamedTuple):
    """Samples of a flow; the densities are those of physical points but for ``log_q_u``.

    Attributes:
      u: (n, d) points on the box.
      log_q_u: (n,) log density of the flow on the box.
      log_q: (n,) log density of the flow.
      log_p: (n,) unnormalized log density of the target; NaN marks a failed evaluation.
    """

    u: Float[Array, "n d"]
    log_q_u: Float[Array, " n"]
    log_q: Float[Array, " n"]
    log_p: Float[Array, " n"]


def draw_buffer(
    target: Target, flow: Flow, params: Params, key: PRNGKeyArray, num_samples: int, chunk_size: int
) -> Buffer:
    """Samples the flow and evaluates both densities.

    Args:
      target: gives the physical points and log p̃.
      flow: what to sample.
      params: its parameters.
      key: random key.
      num_samples: n.
      chunk_size: at most so many samples at a time; memory besides the buffer grows with it only.
    """

    def chunk(key: PRNGKeyArray, size: int) -> Buffer:
        u, log_q_u = flow.sample_and_log_prob(params, key, size)
        x, log_det = target.to_physical(u)
        return Buffer(u, log_q_u, log_q_u - log_det, target.log_prob(x))

    return in_chunks(chunk, key, num_samples, chunk_size)


def in_chunks(
    function: Callable[[PRNGKeyArray, int], Any], key: PRNGKeyArray, num_samples: int, chunk_size: int
) -> Any:
    """Runs ``function(key, size)`` in equal chunks by ``lax.map`` and joins the results along their first axis.

    The chunks have the smallest equal size that needs no more of them; up to one sample a chunk is drawn in vain.

    Args:
      function: key and static size -> pytree of arrays (size, …).
      key: random key.
      num_samples: rows of the result.
      chunk_size: largest size.
    """
    num_chunks = math.ceil(num_samples / chunk_size)
    size = math.ceil(num_samples / num_chunks)
    chunks = jax.lax.map(lambda k: function(k, size), jax.random.split(key, num_chunks))
    return jax.tree.map(lambda x: x.reshape((-1, *x.shape[2:]))[:num_samples], chunks)
