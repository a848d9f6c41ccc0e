"""Drawing a large set of samples, a batch at a time on the device, of which the host keeps little."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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


def host_sample_batches(
    target: Target,
    flow: Flow,
    params: Params,
    key: PRNGKeyArray,
    *,
    num_batches: int,
    first_batch: int = 0,
    columns: Sequence[int] = (),
    batch_size: int = 50_000,
    chunk_size: int = 10_000,
) -> Iterator[HostSamples]:
    """Batches of samples with both densities, one at a time; one compiled program draws all of them.

    The random keys follow from ``key``, the number of the batch, ``batch_size`` and ``chunk_size``: other sizes give
    other samples of the same distribution. Drawing from ``first_batch`` on continues what was drawn before.

    Args:
      target: the density sampled.
      flow: what to draw from.
      params: its parameters.
      key: random key.
      num_batches: number of the batch to stop before.
      first_batch: number of the first batch.
      columns: dimensions of u to keep, such as torsions for histograms.
      batch_size: samples a batch.
      chunk_size: samples at a time inside the program, see ``draw_buffer``.

    Raises:
      ValueError: if a size is below 1 or a column is none of the dimensions; at once, not with the first batch.
    """
    for name, value in (("batch_size", batch_size), ("chunk_size", chunk_size)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    kept = np.asarray(columns, np.int32)
    num_dims = flow.domain.num_dims
    if kept.ndim != 1 or np.any((kept < 0) | (kept >= num_dims)):
        raise ValueError(f"columns must be dimensions from 0 to {num_dims - 1}, got {columns}.")

    @jax.jit
    def draw(params: Params, key: PRNGKeyArray) -> Buffer:
        buffer = draw_buffer(target, flow, params, key, batch_size, chunk_size)
        return buffer._replace(u=buffer.u[:, kept])

    def batches() -> Iterator[HostSamples]:
        for batch in range(first_batch, num_batches):
            buffer = jax.device_get(draw(params, jax.random.fold_in(key, batch)))
            yield HostSamples(buffer.u, buffer.log_q.astype(np.float64), buffer.log_p.astype(np.float64))

    return batches()


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
    """Draws ``num_samples`` samples with both densities, see ``host_sample_batches``.

    Memory: on the host 16 bytes a sample and 4 more for each column; on the device one batch. A larger ``num_samples``
    (from one batch on) gives the same samples and more.

    Args:
      target: the density sampled.
      flow: what to draw from.
      params: its parameters.
      key: random key.
      num_samples: how many.
      columns: dimensions of u to keep.
      batch_size: samples a call of the compiled program; ``progress`` is called after each.
      chunk_size: samples at a time inside the program.
      progress: gets the number of samples drawn so far.

    Raises:
      ValueError: if a number is below 1 or a column is none of the dimensions.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}.")
    batch_size = min(batch_size, num_samples)
    batches = host_sample_batches(
        target,
        flow,
        params,
        key,
        num_batches=math.ceil(num_samples / batch_size) if batch_size > 0 else 0,
        columns=columns,
        batch_size=batch_size,
        chunk_size=chunk_size,
    )
    samples = HostSamples(
        np.empty((num_samples, len(columns)), np.float32), np.empty(num_samples), np.empty(num_samples)
    )
    start = 0
    for batch in batches:
        end = min(start + batch_size, num_samples)
        for whole, part in zip(samples, batch, strict=True):
            whole[start:end] = part[: end - start]
        progress(end)
        start = end
    return samples
