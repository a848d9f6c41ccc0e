"""Which kernels a gradient step of a configuration runs on the device, and what shares of its time they have."""

from __future__ import annotations

import collections
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from benchmarks.gradient_step import step_program
from jax.profiler import ProfileData

from cmtjax.coordinates.internal import internal_coordinates
from cmtjax.runs import build

# What a profile of a CPU lists beside the kernels: the runtime's own bookkeeping, and what encloses kernels. Not for
# GPUs: their streams hold kernels alone, by demangled names, as "void cutlass::Kernel2<…>(…)" of a matrix product.
_NO_KERNEL = re.compile(r"::|^\$|^(while|call|cond|PjitFunction|end:|Thread|Wait|Execute|ParseArguments)|\s")


def benchmark(config: Mapping[str, Any], num_steps: int) -> list[dict[str, Any]]:
    """Rows of kernels by their share of the time, the largest first; those under 1 % together, and a row of the sum.

    Kernels of one kind that differ only in a running number (``fusion.12``, ``fusion.13``) are kept apart: they are
    different places of the program.

    Args:
      config: of a run; its molecule, flow, batch size and optimizer are used.
      num_steps: gradient steps of the profiled call.
    """
    flow = build.build_flow(config["flow"], internal_coordinates(build.build_molecule(config["molecule"])).domain)
    program, _ = step_program(config, flow, flow.init(jax.random.key(0)), num_steps)
    jax.block_until_ready(program())
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            jax.block_until_ready(program())
        events = _kernel_events(ProfileData.from_file(str(next(Path(directory).rglob("*.xplane.pb")))))
    total = sum(seconds for _, seconds in events.values())
    rows = [
        {"kernel": name, "runs_per_step": count / num_steps, "milliseconds_per_step": 1e3 * seconds / num_steps,
         "share": seconds / total}
        for name, (count, seconds) in sorted(events.items(), key=lambda item: -item[1][1])
    ]  # fmt: skip
    small = [row for row in rows if row["share"] < 0.01]
    return [row for row in rows if row["share"] >= 0.01] + [_sum("under 1 % each", small), _sum("all", rows)]


def _sum(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    numbers = ("runs_per_step", "milliseconds_per_step", "share")
    return {"kernel": name, **{number: sum(row[number] for row in rows) for number in numbers}}


def _kernel_events(profile: ProfileData) -> dict[str, tuple[int, float]]:
    """Name of a kernel to how often it ran and its seconds in all (of all threads)."""
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    events: dict[str, list[float]] = collections.defaultdict(list)
    for plane in devices or planes:
        for line in plane.lines:
            if devices and not line.name.startswith("Stream"):
                continue  # the other lines of a device repeat its kernels by module and operation
            for event in line.events:
                if devices or not _NO_KERNEL.search(event.name):
                    events[event.name].append(event.duration_ns * 1e-9)
    return {name: (len(durations), sum(durations)) for name, durations in events.items()}
