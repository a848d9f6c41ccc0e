"""Drawing a large set of samples on the host, a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from cmtjax.flows.flow import Flow, Params
from cmtjax.methods.buffer import Buffer, draw_buffer
from cmtjax.targets.target import Target


class HostSamples(NamedTuple):
    """Samples of a flow on the host.

    Attributes:
      u: (n, d) float32 points on the box.
      log_q: (n,) float64 log density of the flow.
      log_p: (n,) float64 unnormalized log density of the target; NaN marks a failed evaluation.
    """

    u: Float[np.ndarray, "n d"]
    log_q: Float[np.ndarray, " n"]
    log_p: Float[np.ndarray, " n"]


def draw_host_samples(
    target: Target,
    flow: Flow,
    params: Params,
    key: PRNGKeyArray,
    *,
    num_samples: int,
    batch_size: int = 50_000,
    chunk_size: int = 10_000,
    progress: Callable[[int], None] = lambda num_drawn: None,
) -> HostSamples:
    """Draws ``num_samples`` samples with both densities.

    Args:
      target: the density sampled.
      flow: what to draw from.
      params: its parameters.
      key: random key.
      num_samples: how many.
      batch_size: samples a call of the compiled program; ``progress`` is called after each.
      chunk_size: samples at a time inside the program, see ``draw_buffer``.
      progress: gets the number of samples drawn so far.
    """
    batch_size = min(batch_size, num_samples)
    draw = jax.jit(lambda p, k: draw_buffer(target, flow, p, k, batch_size, chunk_size))
    batches: list[Buffer] = []
    for index in range(-(-num_samples // batch_size)):
        batches.append(jax.device_get(draw(params, jax.random.fold_in(key, index))))
        progress(min((index + 1) * batch_size, num_samples))
    u, log_q, log_p = (np.concatenate(parts)[:num_samples] for parts in zip(*batches, strict=True))
    return HostSamples(u, log_q.astype(np.float64), log_p.astype(np.float64))
