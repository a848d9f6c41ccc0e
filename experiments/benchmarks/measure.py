"""What the suites share: timing in turns, memory, tables."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np


class Times(NamedTuple):
    """Seconds of every turn.

    Attributes:
      wall: (rounds,) by the clock.
      processor: (rounds,) of all threads of this process; none of other processes.
    """

    wall: np.ndarray
    processor: np.ndarray


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start


def in_turns(functions: Mapping[str, Callable[[], Any]], num_rounds: int) -> dict[str, Times]:
    """Times functions one after the other, round by round, so that all see the same load of the machine.

    A ratio of two of them is the median of the ratios within a round.
    """
    for function in functions.values():
        jax.block_until_ready(function())
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(num_rounds):
        for name, function in functions.items():
            start = time.process_time()
            wall = seconds(function)
            turns[name].append((wall, time.process_time() - start))
    return {name: Times(*np.array(pairs).T) for name, pairs in turns.items()}


def repeated(function: Callable[[], Any], shortest_seconds: float = 0.05) -> tuple[Callable[[], Any], int]:
    """``function`` as often in a row as a turn long enough for the clock needs, and that number."""
    jax.block_until_ready(function())
    number = max(1, int(shortest_seconds / max(seconds(function), 1e-6)))

    def repeat() -> Any:
        for _ in range(number):
            result = function()
        return result

    return repeat, number


def compile_seconds(lowered: jax.stages.Lowered) -> tuple[jax.stages.Compiled, float]:
    start = time.perf_counter()
    compiled = lowered.compile()
    return compiled, time.perf_counter() - start


def temporary_mib(compiled: jax.stages.Compiled) -> float | None:
    """Memory of a program besides its arguments and results; None where the device does not tell."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else analysis.temp_size_in_bytes / 2**20


def peak_mib() -> float:
    """Largest memory so far: of the accelerator if there is one, else of this process.

    A high-water mark over all that the process has done, the rows before included: it never falls, so that it belongs
    to a row only if that row needs the most memory of all.
    """
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 2**20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def print_table(rows: Sequence[Mapping[str, Any]]) -> None:
    cells = [list(rows[0])] + [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)
