"""Draws samples of a trained flow and writes them to a file.

    python experiments/sample.py --workdir=runs/dipeptide --num_samples=10000 --output=samples.npz

The suffix chooses the format: .npz (positions in nm, log q, log p̃, log-weights), or .dcd and .pdb for other programs
(mdtraj, VMD, PyMOL), whose log-weights go to a .log_weights.npy beside them. With --resample the samples have equal
weights: they are drawn again from --oversampling times as many, in proportion to their importance weights.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import time
from typing import Any

import energy
import jax
import mdtraj
import numpy as np
import program
from absl import flags

import cmtjax
from cmtjax import annealing, runs

_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory of train.py.", required=True)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 10_000, "Samples to write.")
_OUTPUT = flags.DEFINE_string("output", None, "File to write: .npz, .dcd or .pdb.", required=True)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the samples.")
_RESAMPLE = flags.DEFINE_boolean("resample", False, "Resample to equal weights.")
_OVERSAMPLING = flags.DEFINE_integer("oversampling", 4, "With --resample: samples drawn for each one written.")
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", 0, "OpenMM processes of a run without energies in JAX; 0: one a core."
)

_SUFFIXES = (".npz", ".dcd", ".pdb")
_BATCH_SIZE = 20_000


def main(argv: list[str]) -> None:
    del argv
    output = pathlib.Path(_OUTPUT.value)
    with program.user_errors():
        program.require(output.suffix in _SUFFIXES, "--output", output.name, f"a file that ends in one of {_SUFFIXES}")
        program.require(output.parent.is_dir(), "--output", str(output), "a file in a directory that exists")
        program.require(_NUM_SAMPLES.value >= 1, "--num_samples", _NUM_SAMPLES.value, "at least 1")
        program.require(_OVERSAMPLING.value >= 1, "--oversampling", _OVERSAMPLING.value, "at least 1")
        program.require(_NUM_WORKERS.value >= 0, "--num_workers", _NUM_WORKERS.value, "at least 0")
        run = runs.open_existing(_WORKDIR.value)
    num_drawn = _NUM_SAMPLES.value * (_OVERSAMPLING.value if _RESAMPLE.value else 1)
    with contextlib.ExitStack() as stack:
        with program.user_errors():
            sampler = cmtjax.load_sampler(
                run.path, None if run.energy_path.exists() else energy.reopen_pool(run, stack, _NUM_WORKERS.value)
            )
        samples = _draw(sampler, num_drawn)
    arrays = samples._asdict()
    ess = float(annealing.effective_sample_size(samples.log_weights))
    if _RESAMPLE.value:
        key = jax.random.fold_in(jax.random.key(_SEED.value), num_drawn)
        # Compiled as a whole: its hundreds of operations one by one take seconds.
        resample = jax.jit(annealing.resample, static_argnums=2)
        chosen = np.asarray(resample(key, samples.log_weights, _NUM_SAMPLES.value))
        print(f"resampled: {np.unique(chosen).size:,} different samples among {chosen.size:,}", flush=True)
        arrays = {name: array[chosen] for name, array in arrays.items()}
        arrays["log_weights"] = np.zeros_like(arrays["log_weights"])
    _write(output, arrays, run)
    print(f"{output}: {_NUM_SAMPLES.value:,} samples; effective sample size of the {num_drawn:,} drawn: {ess:.1%}")


def _draw(sampler: cmtjax.Sampler, num_samples: int) -> Any:
    batch_size = min(_BATCH_SIZE, num_samples)
    draw = jax.jit(lambda sampler, key: sampler.sample(key, num_samples=batch_size))
    start, batches = time.monotonic(), []
    for drawn in range(0, num_samples, batch_size):
        key = jax.random.fold_in(jax.random.key(_SEED.value), drawn)
        batches.append(jax.device_get(draw(sampler, key)))
        done = min(drawn + batch_size, num_samples)
        left = (time.monotonic() - start) / done * (num_samples - done)
        print(f"{done:,} of {num_samples:,} samples, {left:.0f} s left", flush=True)
    return jax.tree.map(lambda *parts: np.concatenate(parts)[:num_samples], *batches)


def _write(output: pathlib.Path, arrays: dict[str, np.ndarray], run: runs.RunDirectory) -> None:
    """Writes beside the output first, so that a file of that name is always whole."""
    partial = output.with_name(f".partial-{output.name}")
    try:
        if output.suffix == ".npz":
            np.savez(partial, **arrays)
        else:
            topology = mdtraj.load_topology(str(run.molecule_directory / "topology.pdb"))
            mdtraj.Trajectory(arrays["positions_nm"], topology).save(str(partial))
            weights = output.with_suffix(".log_weights.npy")
            np.save(weights, arrays["log_weights"])
            print(f"{weights}: log-weights", flush=True)
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)


if __name__ == "__main__":
    program.run_program(main, resumable=False)
