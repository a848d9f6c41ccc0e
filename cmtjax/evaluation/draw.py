"""Drawing a large set of samples, a batch at a time on the device, of which the host keeps little."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from cmtjax.flows.flow import Flow, Params
from cmtjax.methods.buffer import Buffer, draw_buffer
from cmtjax.targets.target import Target


class HostSamples(NamedTuple):
    """What is kept on the host of samples of a flow.

    Attributes:
      u: (n, columns) float32, the chosen dimensions of the points on the box.
      log_q: (n,) float64 log density of the flow.
      log_p: (n,) float64 unnormalized log density of the target; NaN marks a failed evaluation.
    """

    u: Float[np.ndarray, "n columns"]
    log_q: Float[np.ndarray, " n"]
    log_p: Float[np.ndarray, " n"]


def draw_host_samples(
    target: Target,
    flow: Flow,
    params: Params,
    key: PRNGKeyArray,
    *,
    num_samples: int,
    columns: Sequence[int] = (),
    batch_size: int = 50_000,
    chunk_size: int = 10_000,
    progress: Callable[[int], None] = lambda num_drawn: None,
) -> HostSamples:
    """Draws ``num_samples`` samples with both densities.

    Memory: on the host 16 bytes a sample and 4 more for each column; on the device one batch. The random keys follow
    from ``key``, ``batch_size`` and ``chunk_size``: other sizes give other samples of the same distribution, and a
    larger ``num_samples`` (from one batch on) the same ones and more.

    Args:
      target: the density sampled.
      flow: what to draw from.
      params: its parameters.
      key: random key.
      num_samples: how many.
      columns: dimensions of u to keep, such as torsions for histograms.
      batch_size: samples a call of the compiled program; ``progress`` is called after each.
      chunk_size: samples at a time inside the program, see ``draw_buffer``.
      progress: gets the number of samples drawn so far.

    Raises:
      ValueError: if a number is below 1 or a column is none of the dimensions.
    """
    for name, value in (("num_samples", num_samples), ("batch_size", batch_size), ("chunk_size", chunk_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    kept = np.asarray(columns, np.int32)
    num_dims = flow.domain.num_dims
    if kept.ndim != 1 or np.any((kept < 0) | (kept >= num_dims)):
        raise ValueError(f"columns must be dimensions from 0 to {num_dims - 1}, got {columns}.")
    batch_size = min(batch_size, num_samples)

    @jax.jit
    def draw(params: Params, key: PRNGKeyArray) -> Buffer:
        buffer = draw_buffer(target, flow, params, key, batch_size, chunk_size)
        return buffer._replace(u=buffer.u[:, kept])

    samples = HostSamples(np.empty((num_samples, kept.size), np.float32), np.empty(num_samples), np.empty(num_samples))
    for start in range(0, num_samples, batch_size):
        end = min(start + batch_size, num_samples)
        batch = jax.device_get(draw(params, jax.random.fold_in(key, start // batch_size)))
        for whole, part in zip(samples, batch, strict=True):
            whole[start:end] = part[: end - start]
        progress(end)
    return samples
