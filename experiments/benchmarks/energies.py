"""Energies on the device, alone and with gradients, against the OpenMM worker pool and one bare OpenMM loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.measure import compile_seconds, in_turns, peak_mib, repeated, temporary_mib
from benchmarks.pool import bare_loop, disturbed_positions

from cmtjax.energies import OpenMMPool, amber_energy
from cmtjax.energies.openmm_worker import create_context
from cmtjax.molecules import published

# OpenMM's rates do not depend on the batch beyond these, and a turn should not take minutes.
_LARGEST_POOL_BATCH = 8192
_LARGEST_BARE_BATCH = 500


def benchmark(name: str, batch_sizes: Sequence[int], num_workers: int, num_rounds: int) -> list[dict[str, Any]]:
    """Rows of rates in configurations per second, one row a batch size.

    Args:
      name: a published molecule.
      batch_sizes: configurations in one evaluation on the device; the pool gets as many, but at most 8192.
      num_workers: of the pool.
      num_rounds: turns.
    """
    molecule = published(name)
    energy_fn = amber_energy(molecule.system)
    energy, with_gradient = jax.jit(energy_fn), jax.jit(jax.value_and_grad(lambda x: jnp.sum(energy_fn(x))))
    rows = []
    with OpenMMPool(molecule.system, num_workers) as pool:
        context = create_context(molecule.system, pool.platform_name)
        for size in batch_sizes:
            host_batch = disturbed_positions(molecule, size)
            batch = jnp.asarray(host_batch, jnp.float32)
            compiled, compilation = compile_seconds(energy.lower(batch))
            gradient, _ = compile_seconds(with_gradient.lower(batch))
            pool_batch, bare_batch = host_batch[:_LARGEST_POOL_BATCH], host_batch[:_LARGEST_BARE_BATCH]
            functions, numbers = {}, {}
            for kind, function, count in (
                ("device", lambda c=compiled, b=batch: c(b), size),
                ("gradient", lambda c=gradient, b=batch: c(b), size),
                ("pool", lambda b=pool_batch: pool.evaluate(b), len(pool_batch)),
                ("bare", lambda b=bare_batch: bare_loop(context, b), len(bare_batch)),
            ):
                functions[kind], repetitions = repeated(function)
                numbers[kind] = repetitions * count
            times = in_turns(functions, num_rounds)
            rates = {kind: numbers[kind] / times[kind].wall for kind in functions}
            rows.append(
                {
                    "molecule": name,
                    "batch": size,
                    **{f"{kind}_per_second": float(np.median(rate)) for kind, rate in rates.items()},
                    "device_over_pool": float(np.median(rates["device"] / rates["pool"])),
                    # Of an energy with its gradient over that of an energy alone, on the device.
                    "gradient_time_ratio": float(np.median(rates["device"] / rates["gradient"])),
                    "platform": pool.platform_name,
                    "compile_seconds": compilation,
                    "temporary_mib": temporary_mib(compiled),
                    "peak_mib": peak_mib(),
                }
            )
    return rows
