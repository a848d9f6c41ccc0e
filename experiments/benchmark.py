"""Measures the parts of the package on this machine.

    python experiments/benchmark.py --suite=pool --num_workers=2 --output=benchmark.json

Suites:
  pool: the OpenMM worker pool against one bare OpenMM loop on the same platform, in turns within one run, so that
    both see the same load of the machine. The ratio is pool / (num_workers x bare loop).
  dual: seconds of the compiled dual solver on 500,000 samples, from scratch and from earlier multipliers, over
    log-ratio spreads of nine orders of magnitude.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import openmm
from absl import app, flags, logging

import cmtjax
from cmtjax.annealing import solve_dual
from cmtjax.energies import OpenMMPool
from cmtjax.energies.openmm_worker import create_context
from cmtjax.molecules import PUBLISHED_NAMES, published

_SUITE = flags.DEFINE_enum("suite", "pool", ["pool", "dual"], "What to measure.")
_MOLECULES = flags.DEFINE_list("molecules", ["alanine_dipeptide", "alanine_tetrapeptide"], "Published molecules.")
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Processes in the pool.", lower_bound=1)
_BATCH_SIZES = flags.DEFINE_list("batch_sizes", ["100", "2000", "10000"], "Configurations in one evaluation.")
_NUM_ROUNDS = flags.DEFINE_integer("num_rounds", 7, "Turns; medians over them are reported.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "", "JSON file to write; none if empty.")


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def bare_loop(context: openmm.Context, positions: np.ndarray) -> list[float]:
    """The loop that someone would write with OpenMM alone."""
    energies = []
    for configuration in positions:
        context.setPositions(configuration)
        energies.append(context.getState(getEnergy=True).getPotentialEnergy()._value)
    return energies


def benchmark_pool(name: str) -> list[dict[str, Any]]:
    """Rows of rates in configurations per second, one row a batch size."""
    molecule = published(name)
    sizes = [int(size) for size in _BATCH_SIZES.value]
    noise = np.random.default_rng(0).normal(scale=0.002, size=(max(sizes), *molecule.positions_nm.shape))
    positions = molecule.positions_nm + noise
    start = time.perf_counter()
    with OpenMMPool(molecule.system, _NUM_WORKERS.value) as pool:
        startup_seconds = time.perf_counter() - start
        compiled = jax.jit(pool.energy)
        context = create_context(molecule.system, pool.platform_name)
        rows = []
        for size in sizes:
            batch, bare_batch = positions[:size], positions[: min(size, 2000)]
            device_batch = jax.numpy.asarray(batch, np.float32)
            pool.evaluate(batch)
            jax.block_until_ready(compiled(device_batch))
            bare_loop(context, bare_batch[:100])
            rates = []
            for _ in range(_NUM_ROUNDS.value):
                before = seconds(bare_loop, context, bare_batch)
                host = seconds(pool.evaluate, batch)
                in_jit = seconds(compiled, device_batch)
                after = seconds(bare_loop, context, bare_batch)
                rates.append((2 * len(bare_batch) / (before + after), size / host, size / in_jit))
            bare, host, in_jit = np.array(rates).T
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


def benchmark_dual(num_samples: int = 500_000) -> list[dict[str, Any]]:
    """Rows of median seconds, one row a spread of log p̃ − log q."""
    solve = jax.jit(solve_dual)
    rng = np.random.default_rng(0)
    rows = []
    for spread in np.logspace(-1, 8, 10):
        log_q = (200 + 5 * rng.normal(size=num_samples)).astype(np.float32)
        log_p = (log_q - spread * rng.exponential(size=num_samples) ** 3).astype(np.float32)
        solution = jax.block_until_ready(solve(log_q, log_p))
        jax.block_until_ready(solve(log_q, log_p, initial=solution))
        scratch, initial = np.array(
            [
                (seconds(solve, log_q, log_p), seconds(lambda *a, s=solution: solve(*a, initial=s), log_q, log_p))
                for _ in range(_NUM_ROUNDS.value)
            ]
        ).T
        rows.append(
            {
                "spread": float(spread),
                "trust_region_multiplier": float(solution.trust_region_multiplier),
                "entropy_multiplier": float(solution.entropy_multiplier),
                "status": int(solution.status),
                "seconds": float(np.median(scratch)),
                "seconds_with_initial": float(np.median(initial)),
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    cells = [list(rows[0])] + [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected arguments {arguments[1:]}")
    unknown = sorted(set(_MOLECULES.value) - set(PUBLISHED_NAMES))
    if unknown:
        raise app.UsageError(f"--molecules must be among {list(PUBLISHED_NAMES)}, got {unknown}")
    if not all(size.isdigit() and int(size) for size in _BATCH_SIZES.value):
        raise app.UsageError(f"--batch_sizes must be positive integers, got {_BATCH_SIZES.value}")
    if _SUITE.value == "pool":
        rows = [row for name in _MOLECULES.value for row in benchmark_pool(name)]
    else:
        rows = benchmark_dual()
    print_table(rows)
    if _OUTPUT.value:
        environment = {
            "cmtjax": cmtjax.__version__,
            "jax": jax.__version__,
            "openmm": openmm.__version__,
            "machine": platform.machine(),
            "cores": len(os.sched_getaffinity(0)),
            "num_workers": _NUM_WORKERS.value,
        }
        with open(_OUTPUT.value, "w") as file:
            json.dump({"suite": _SUITE.value, "environment": environment, "rows": rows}, file, indent=2)
        logging.info("wrote %s", _OUTPUT.value)


if __name__ == "__main__":
    app.run(main)
