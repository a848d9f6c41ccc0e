"""The dual solver on large buffers, over log-ratio spreads of nine orders of magnitude."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from benchmarks.measure import in_turns

from cmtjax.annealing import solve_dual


def benchmark(num_rounds: int, num_samples: int = 500_000) -> list[dict[str, Any]]:
    """Rows of median seconds, one row a spread of log p̃ − log q.

    Args:
      num_rounds: turns.
      num_samples: of the buffer.
    """
    solve = jax.jit(solve_dual)
    rng = np.random.default_rng(0)
    rows = []
    for spread in np.logspace(-1, 8, 10):
        log_q = (200 + 5 * rng.normal(size=num_samples)).astype(np.float32)
        log_p = (log_q - spread * rng.exponential(size=num_samples) ** 3).astype(np.float32)
        solution = jax.block_until_ready(solve(log_q, log_p))
        times = in_turns(
            {
                "scratch": lambda q=log_q, p=log_p: solve(q, p),
                "initial": lambda q=log_q, p=log_p, s=solution: solve(q, p, initial=s),
            },
            num_rounds,
        )
        rows.append(
            {
                "spread": float(spread),
                "trust_region_multiplier": float(solution.trust_region_multiplier),
                "entropy_multiplier": float(solution.entropy_multiplier),
                "status": int(solution.status),
                "seconds": float(np.median(times["scratch"].wall)),
                "seconds_with_initial": float(np.median(times["initial"].wall)),
            }
        )
    return rows
