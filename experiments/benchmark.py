"""Measures the parts of the package on this machine.

    python experiments/benchmark.py --suite=pool --num_workers=2 --output=benchmark.json

Suites:
  gradient_step: milliseconds of a gradient step of --config (the published flow of the dipeptide by default) against
    its own matrix products as a program of their own; with distrax's spline; and by PyTorch with nflows, if installed
    and where JAX computes on the CPU like it.
  kernels: what a gradient step of --config runs on the device, by a profile: kernels, how often, shares of the time.
  annealing_step: compilation, seconds, memory and shares of one annealing step of --config.
  energies: energies a second on the device, from the OpenMM worker pool and from one bare OpenMM loop.
  dynamics: steps a second of replica exchange on the device (--batch_sizes: ladders of six temperatures at once) and of
    OpenMM's Langevin dynamics in worker processes; hours of 1e7 samples on the device, at 96 steps each.
  pool: the OpenMM worker pool against one bare OpenMM loop on the same platform. The ratio is
    pool / (num_workers x bare loop).
  dual: seconds of the compiled dual solver on 500,000 samples, from scratch and from earlier multipliers, over
    log-ratio spreads of nine orders of magnitude.

Whatever is compared runs in turns within one process, so that all see the same load of the machine; medians over the
turns are reported, and medians of the ratios within a turn.

Memory: temporary_mib is what a program needs besides its arguments and results; peak_mib is the high-water mark of the
whole process (of the accelerator where there is one), all rows before included, so it never falls from row to row.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from absl import app, flags, logging
from benchmarks.measure import print_table
from ml_collections import config_flags

from cmtjax.molecules import PUBLISHED_NAMES
from cmtjax.runs.environment import describe_environment

_SUITES = ("pool", "dual", "gradient_step", "kernels", "annealing_step", "energies", "dynamics")
_DEFAULT_SIZES = {"pool": (100, 2000, 10_000), "energies": tuple(4**i for i in range(9)), "dynamics": (16, 64)}
# Gradient steps of one call: what a call costs besides is spread over them.
_STEPS_OF_A_CALL = 10

_SUITE = flags.DEFINE_enum("suite", "pool", _SUITES, "What to measure.")
_CONFIG = config_flags.DEFINE_config_file(
    "config",
    str(Path(__file__).parent / "configs" / "alanine_dipeptide.py"),
    "Configuration of gradient_step, kernels and annealing_step; overrides as --config.method.buffer_size=1000.",
)
_NUM_GRADIENT_STEPS = flags.DEFINE_integer(
    "num_gradient_steps",
    None,
    f"Gradient steps of one call: {_STEPS_OF_A_CALL} in gradient_step and kernels, --config's in annealing_step.",
    lower_bound=1,
)
_MOLECULES = flags.DEFINE_list("molecules", list(PUBLISHED_NAMES), "Published molecules of pool, energies, dynamics.")
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 2, "Processes in the pool.", lower_bound=1)
_SIZES = flags.DEFINE_list("batch_sizes", [], "Configurations in one evaluation; by default what the suite needs.")
_NUM_ROUNDS = flags.DEFINE_integer("num_rounds", 7, "Turns; medians over them are reported.", lower_bound=1)
_OUTPUT = flags.DEFINE_string("output", "", "JSON file to write; none if empty.")


def measure(suite: str) -> list[dict[str, Any]]:
    """The rows of a suite."""
    num_rounds, num_steps = _NUM_ROUNDS.value, _NUM_GRADIENT_STEPS.value
    sizes = [int(size) for size in _SIZES.value] or _DEFAULT_SIZES.get(suite)
    # Imported where they are used: each suite brings libraries of its own.
    if suite == "gradient_step":
        from benchmarks import gradient_step

        return gradient_step.benchmark(_CONFIG.value.to_dict(), num_steps or _STEPS_OF_A_CALL, num_rounds)
    if suite == "kernels":
        from benchmarks import kernels

        return kernels.benchmark(_CONFIG.value.to_dict(), num_steps or _STEPS_OF_A_CALL)
    if suite == "annealing_step":
        from benchmarks import annealing_step

        return annealing_step.benchmark(_CONFIG.value.to_dict(), num_steps, num_rounds)
    if suite == "dual":
        from benchmarks import dual

        return dual.benchmark(num_rounds)
    from benchmarks import dynamics, energies, pool

    module = {"pool": pool, "energies": energies, "dynamics": dynamics}[suite]
    return [row for name in _MOLECULES.value for row in module.benchmark(name, sizes, _NUM_WORKERS.value, num_rounds)]


def main(arguments: list[str]) -> None:
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected arguments {arguments[1:]}")
    unknown = sorted(set(_MOLECULES.value) - set(PUBLISHED_NAMES))
    if unknown:
        raise app.UsageError(f"--molecules must be among {list(PUBLISHED_NAMES)}, got {unknown}")
    if not all(size.isdigit() and int(size) for size in _SIZES.value):
        raise app.UsageError(f"--batch_sizes must be positive integers, got {_SIZES.value}")
    rows = measure(_SUITE.value)
    print_table(rows)
    if _OUTPUT.value:
        result = {"suite": _SUITE.value, "flags": _used_flags(), "environment": describe_environment(), "rows": rows}
        Path(_OUTPUT.value).write_text(json.dumps(result, indent=2) + "\n")
        logging.info("wrote %s", _OUTPUT.value)


def _used_flags() -> dict[str, Any]:
    """What the rows depend on."""
    return {
        "config": _CONFIG.value.to_dict(),
        "num_gradient_steps": _NUM_GRADIENT_STEPS.value,
        "num_workers": _NUM_WORKERS.value,
        "num_rounds": _NUM_ROUNDS.value,
    }


if __name__ == "__main__":
    app.run(main)
