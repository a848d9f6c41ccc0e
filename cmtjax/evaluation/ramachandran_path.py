"""Ramachandran histograms of a flow along its training: counted on the device, compared with the truth's basins."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cmtjax.coordinates.internal import InternalCoordinates
from cmtjax.evaluation.basins import Basins


def ramachandran_path_arrays(
    u: Float[Array, "samples d"],
    log_weights: Float[Array, " samples"],
    coordinates: InternalCoordinates,
    num_bins: int = 100,
) -> dict[str, Array]:
    """Ramachandran plots of a buffer, plain and weighted; traceable, with the bins of ``ramachandran_histogram``.

    Args:
      u: (samples, d) points of the unit box; those whose φ or ψ is NaN are left out.
      log_weights: (samples,) unnormalized log importance weights to the next density; NaN and −inf count as weight
        zero.
      coordinates: of the molecule.
      num_bins: bins along each angle, from −π to π.

    Returns:
      ``counts``: (pairs, bins, bins) int32 samples, φ along axis 1, ψ along axis 2. ``next_masses``: the same shape,
      float32, the share of the weight; zero if there is none.

    Raises:
      ValueError: if num_bins is not positive, or, when traced, u is not (samples, d) or log_weights not (samples,).
    """
    if num_bins < 1:
        raise ValueError(f"num_bins must be at least 1, got {num_bins}.")
    u, log_weights = jnp.asarray(u), jnp.asarray(log_weights)
    if u.ndim != 2 or u.shape[1] != coordinates.domain.num_dims:
        raise ValueError(f"u must have shape (samples, {coordinates.domain.num_dims}), got {u.shape}.")
    if log_weights.shape != u.shape[:1]:
        raise ValueError(f"log_weights must have shape {u.shape[:1]}, got {log_weights.shape}.")
    pairs = coordinates.ramachandran_pairs
    center, width = (
        jnp.asarray(array[pairs], u.dtype) for array in (coordinates.window_center, coordinates.window_width)
    )
    angles = center + width * (u[:, pairs] - 0.5)  # (samples, pairs, 2)
    bins = jnp.floor((angles + np.pi) / (2 * np.pi) * num_bins) % num_bins
    is_used = jnp.all(jnp.isfinite(angles), axis=-1)
    # The scatter drops what has no bin; NaN has no integer.
    index = jnp.where(is_used[..., None], bins, num_bins).astype(jnp.int32)
    at = (jnp.broadcast_to(jnp.arange(len(pairs)), is_used.shape), index[..., 0], index[..., 1])
    shape = (len(pairs), num_bins, num_bins)

    has_weight = log_weights > -jnp.inf  # neither −inf nor NaN
    largest = jnp.max(jnp.where(has_weight, log_weights, -jnp.inf))
    weights = jnp.where(has_weight, jnp.exp(log_weights - largest), 0.0).astype(jnp.float32)
    masses = jnp.zeros(shape, jnp.float32).at[at].add(weights[:, None], mode="drop")
    total = jnp.sum(masses, axis=(1, 2), keepdims=True)
    return {
        "counts": jnp.zeros(shape, jnp.int32).at[at].add(1, mode="drop"),
        "next_masses": masses / jnp.where(total > 0, total, 1.0),
    }


class BasinPath(NamedTuple):
    """Weights of the truth's basins, of one (φ, ψ) pair, along a run.

    Attributes:
      weights: (steps, basins) share of the samples that a step began with.
      next_weights: (steps, basins) what the step asked the flow for: share of the weight to the next density.
      core_weights: (steps, basins) as ``weights``, of the basins' cores.
      truth: (basins,) the truth's.
      core_truth: (basins,) the truth's of the cores.
    """

    weights: Float[np.ndarray, "steps basins"]
    next_weights: Float[np.ndarray, "steps basins"]
    core_weights: Float[np.ndarray, "steps basins"]
    truth: Float[np.ndarray, " basins"]
    core_truth: Float[np.ndarray, " basins"]


def basin_path(
    counts: Int[np.ndarray, "steps bins bins"],
    next_masses: Float[np.ndarray, "steps bins bins"],
    basins: Basins,
    truth_masses: Float[np.ndarray, "bins bins"],
) -> BasinPath:
    """How much of a run's samples lies in each basin of the truth, step by step.

    Args:
      counts: (steps, bins, bins) of one pair, see ``ramachandran_path_arrays``.
      next_masses: likewise.
      basins: of the truth, in the same bins (``find_basins``).
      truth_masses: (bins, bins) the truth's histogram.

    Raises:
      ValueError: if the bins differ.
    """
    shape = basins.labels.shape
    for name, array in (("counts", counts), ("next_masses", next_masses), ("truth_masses", truth_masses)):
        if array.shape[-2:] != shape:
            raise ValueError(f"{name} must have the {shape} bins of basins, got shape {array.shape}.")
    members = basins.labels.ravel() == np.arange(len(basins.weights))[:, None]  # (basins, bins²)
    cores = members & basins.is_core.ravel()

    def shares(masses: np.ndarray, of: np.ndarray) -> np.ndarray:
        masses = np.asarray(masses, np.float64).reshape(*masses.shape[:-2], -1)
        total = masses.sum(-1, keepdims=True)
        return masses @ of.T / np.where(total > 0, total, 1.0)

    return BasinPath(
        shares(counts, members),
        shares(next_masses, members),
        shares(counts, cores),
        shares(truth_masses, members),
        shares(truth_masses, cores),
    )


def describe_basin_path(
    steps: Int[np.ndarray, " steps"], path: BasinPath, basins: Basins, min_ratio: float = 0.1
) -> list[str]:
    """Where on the path a run lost the core of a basin: one sentence for each that is lost at its last step.

    Args:
      steps: (steps,) annealing steps.
      path: of one pair.
      basins: of the truth, for their places.
      min_ratio: a core is lost where its share of the samples is below this times the truth's.

    Returns:
      Such as "basin 4 at (45°, −99°): …"; empty if no core is lost.
    """
    sentences = []
    for basin, (phi, psi) in enumerate(np.rad2deg(basins.centers_rad)):
        shares, truth = path.core_weights[:, basin], path.core_truth[basin]
        is_lost = shares < min_ratio * truth
        if not len(steps) or not is_lost[-1]:
            continue
        place = f"basin {basin + 1} at ({phi:.0f}°, {psi:.0f}°)".replace("-", "−")
        text = f"{place}: its core, {100 * truth:.2g} % of the truth, "
        if np.all(is_lost):
            most = int(np.argmax(shares))
            sentences.append(
                text + f"never has {100 * min_ratio * truth:.2g} % of the samples "
                f"(at most {100 * shares[most]:.2g} %, at step {steps[most]})."
            )
            continue
        first = int(np.flatnonzero(~is_lost)[-1]) + 1
        sentences.append(
            text + f"has less than {100 * min_ratio * truth:.2g} % of the samples from step {steps[first]} on "
            f"({100 * shares[first]:.2g} %; {100 * shares[-1]:.2g} % at step {steps[-1]})."
        )
    return sentences
