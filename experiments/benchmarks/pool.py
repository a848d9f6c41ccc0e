"""The OpenMM worker pool against one bare OpenMM loop on the same platform."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import openmm
from benchmarks.measure import in_turns

from cmtjax.energies import OpenMMPool
from cmtjax.energies.openmm_worker import create_context
from cmtjax.molecules import Molecule, published


def disturbed_positions(molecule: Molecule, num_configurations: int) -> np.ndarray:
    """(n, atoms, 3) nm: the minimum with noise."""
    noise = np.random.default_rng(0).normal(scale=0.002, size=(num_configurations, *molecule.positions_nm.shape))
    return molecule.positions_nm + noise


def bare_loop(context: openmm.Context, positions: np.ndarray) -> list[float]:
    """The loop that someone would write with OpenMM alone."""
    energies = []
    for configuration in positions:
        context.setPositions(configuration)
        energies.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
    return energies


def benchmark(name: str, batch_sizes: Sequence[int], num_workers: int, num_rounds: int) -> list[dict[str, Any]]:
    """Rows of rates in configurations per second, one row a batch size.

    Args:
      name: a published molecule.
      batch_sizes: configurations in one evaluation.
      num_workers: of the pool.
      num_rounds: turns.
    """
    molecule = published(name)
    positions = disturbed_positions(molecule, max(batch_sizes))
    start = time.perf_counter()
    with OpenMMPool(molecule.system, num_workers) as pool:
        startup_seconds = time.perf_counter() - start
        compiled = jax.jit(pool.energy)
        context = create_context(molecule.system, pool.platform_name)
        rows = []
        for size in batch_sizes:
            batch, bare_batch = positions[:size], positions[: min(size, 2000)]
            device_batch = jax.numpy.asarray(batch, np.float32)
            times = in_turns(
                {
                    "before": lambda b=bare_batch: bare_loop(context, b),
                    "pool": lambda b=batch: pool.evaluate(b),
                    "in_jit": lambda b=device_batch: compiled(b),
                    "after": lambda b=bare_batch: bare_loop(context, b),
                },
                num_rounds,
            )
            bare = 2 * len(bare_batch) / (times["before"].wall + times["after"].wall)
            host, in_jit = size / times["pool"].wall, size / times["in_jit"].wall
            rows.append(
                {
                    "molecule": name,
                    "platform": pool.platform_name,
                    "batch": size,
                    "bare_per_second": float(np.median(bare)),
                    "pool_per_second": float(np.median(host)),
                    "in_jit_per_second": float(np.median(in_jit)),
                    "pool_ratio": float(np.median(host / bare)) / pool.num_workers,
                    "in_jit_ratio": float(np.median(in_jit / bare)) / pool.num_workers,
                    "startup_seconds": startup_seconds,
                }
            )
    return rows
