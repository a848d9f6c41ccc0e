"""The samples of an evaluation: those of the flow, kept on disk while they are drawn, and densities of the truth's."""

from __future__ import annotations

import json
import math
import shutil
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import program

import cmtjax
from cmtjax import evaluation, runs
from cmtjax.energies.regularize import regularize_energy
from cmtjax.evaluation import HostSamples
from cmtjax.runs import files
from cmtjax.units import thermal_energy_kj_mol

#: Where parts of the samples lie in the run directory until the evaluation has ended.
DIRECTORY = "evaluation"
_BATCH_SIZE = 50_000
_BATCHES_PER_PART = 10
_CHUNK_SIZE = 2_000


def draw(
    run: runs.RunDirectory,
    sampler: cmtjax.Sampler,
    columns: np.ndarray,
    *,
    num_samples: int,
    num_whole: int,
    seed: int,
) -> tuple[HostSamples, np.ndarray]:
    """Samples of the flow with both densities; parts that an earlier start has drawn are read.

    Args:
      run: the run.
      sampler: its sampler.
      columns: the dimensions to keep.
      num_samples: how many; they begin with those of a smaller number.
      num_whole: of so many of them all dimensions are kept.
      seed: of the samples.

    Returns:
      The samples, and (num_whole, d) whole points.
    """
    directory = run.path / DIRECTORY
    batch_size = min(_BATCH_SIZE, num_samples)
    # What the parts depend on: of anything else they are thrown away.
    label = {"seed": seed, "batch_size": batch_size, "columns": columns.tolist(), "num_whole": num_whole}
    label["parameters"] = _fingerprint(sampler.params)
    parts = _stored_parts(directory, label)
    num_batches = math.ceil(num_samples / batch_size)
    first = sum(len(part["log_q"]) for part in parts) // batch_size
    if first:
        print(f"{min(first * batch_size, num_samples):,} of {num_samples:,} samples were drawn before", flush=True)
    batches = evaluation.host_sample_batches(
        sampler.target,
        sampler.flow,
        sampler.params,
        jax.random.key(seed),
        num_batches=num_batches,
        first_batch=first,
        columns=range(sampler.flow.domain.num_dims),
        batch_size=batch_size,
        chunk_size=min(_CHUNK_SIZE, batch_size),
    )
    start, pending = time.monotonic(), []
    for number, batch in enumerate(batches, first):
        whole = max(0, min(num_whole - number * batch_size, batch_size))
        pending.append({"u": batch.u[:, columns], "whole": batch.u[:whole], "log_q": batch.log_q, "log_p": batch.log_p})
        left = (time.monotonic() - start) / (number + 1 - first) * (num_batches - number - 1)
        done = min((number + 1) * batch_size, num_samples)
        print(f"{done:,} of {num_samples:,} samples, {program.format_duration(left)} left", flush=True)
        if len(pending) == _BATCHES_PER_PART or number + 1 == num_batches:
            part = {name: np.concatenate([batch[name] for batch in pending]) for name in pending[0]}
            with files.atomic_file(directory / f"part_{len(parts):05d}.npz") as path, open(path, "wb") as file:
                np.savez(file, **part)
            parts.append(part)
            pending = []
    joined = {name: np.concatenate([part[name] for part in parts])[:num_samples] for name in ("u", "log_q", "log_p")}
    whole_points = np.concatenate([part["whole"] for part in parts])[: min(num_whole, num_samples)]
    return HostSamples(joined["u"], joined["log_q"], joined["log_p"]), whole_points


def _stored_parts(directory: Any, label: dict[str, Any]) -> list[dict[str, np.ndarray]]:
    text = files.to_json(label)
    if directory.exists() and not (directory / "label.json").exists():
        shutil.rmtree(directory)
    if directory.exists() and json.loads((directory / "label.json").read_text(encoding="utf-8")) != json.loads(text):
        shutil.rmtree(directory)
    if not directory.exists():
        with runs.atomic_directory(directory) as temporary:
            (temporary / "label.json").write_text(text, encoding="utf-8")
    parts = []
    for path in sorted(directory.glob("part_*.npz")):
        with np.load(path) as arrays:
            parts.append(dict(arrays))
    return parts


def _fingerprint(params: Any) -> list[float]:
    """Tells parameters of one flow from those of another step of its training."""
    return [float(np.sum(np.asarray(leaf, np.float64) ** 2)) for leaf in jax.tree.leaves(params)]


def forward_densities(
    sampler: cmtjax.Sampler, config: dict[str, Any], u: np.ndarray, energy_kj_mol: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log q, log p̃ and whether it is in the box, of each sample of the truth, (draws, chains)."""
    shape, points = u.shape[:2], u.reshape(-1, u.shape[-1])
    batch_size = min(_CHUNK_SIZE, len(points))

    @jax.jit
    def log_q(params: Any, u: jax.Array) -> jax.Array:
        return sampler.flow.log_prob(params, u) - sampler.coordinates.to_physical(u)[1]

    values = np.empty(len(points))
    for start in range(0, len(points), batch_size):
        # The last batch begins earlier, so that one program serves all.
        begin = min(start, len(points) - batch_size)
        part = slice(begin, begin + batch_size)
        values[part] = np.asarray(log_q(sampler.params, points[part]))
    reduced = energy_kj_mol / thermal_energy_kj_mol(config["temperature_kelvin"])
    # float64 but for clashes: float32 has only 1e-5 of these energies.
    regularization = config["energy"]["regularization"]
    regularized = np.asarray(regularize_energy(jnp.asarray(reduced, jnp.float32), **regularization), np.float64)
    log_p = -np.where(reduced > regularization["high"], regularized, reduced)
    in_domain = np.all((u >= 0) & (u <= 1), axis=-1)
    return values.reshape(shape), log_p, in_domain
