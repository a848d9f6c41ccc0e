"""Wasserstein-2 distances by exact optimal transport: of points on a torus and of energies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from cmtjax.evaluation.blocks import Blocks, weighted_mean
from cmtjax.evaluation.weights import normalized_weights


class Wasserstein(NamedTuple):
    """A Wasserstein-2 distance between two samples.

    Attributes:
      distance: in the unit of what is compared.
      standard_error: of ``distance`` around its mean for samples of this size, which noise puts above the distance of
        the distributions; to first order, so it has no meaning where the distance is noise alone.
      num_samples: how many points of each side entered.
    """

    distance: float
    standard_error: float
    num_samples: int


def _distance_error(squared: float, variance: float) -> float:
    return float(np.sqrt(variance) / (2 * np.sqrt(squared))) if squared > 0 else 0.0


def systematic_resample(
    log_weights: Float[np.ndarray, " samples"], num_samples: int, rng: np.random.Generator
) -> Int[np.ndarray, " num_samples"]:
    """Indices of equally weighted samples, by systematic resampling on the host in float64.

    Args:
      log_weights: (samples,) unnormalized; NaN (failed) and −inf are not drawn.
      num_samples: how many to draw.
      rng: source of randomness.

    Returns:
      (num_samples,) indices in ascending order, with repetitions where a weight is worth several.
    """
    weights = np.asarray(log_weights, np.float64)
    cumulative = np.cumsum(normalized_weights(weights, np.ones(weights.shape, bool)))
    positions = (rng.random() + np.arange(num_samples)) / num_samples * cumulative[-1]
    # "right" never picks a sample without weight; positions stay below the last sum up to rounding.
    last = np.flatnonzero(np.diff(cumulative, prepend=0) > 0)[-1]
    return np.minimum(np.searchsorted(cumulative, positions, side="right"), last)


def _subsample(
    angles_rad: np.ndarray, log_weights: np.ndarray | None, num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    if log_weights is not None:
        return angles_rad[systematic_resample(log_weights, num_samples, rng)]
    if len(angles_rad) <= num_samples:
        return angles_rad
    return angles_rad[rng.choice(len(angles_rad), num_samples, replace=False, shuffle=False)]


def _finite_rows(angles_rad: np.ndarray, log_weights: np.ndarray | None, name: str) -> tuple[np.ndarray, Any]:
    angles_rad = np.asarray(angles_rad)
    if angles_rad.ndim != 2:
        raise ValueError(f"{name} must have shape (samples, angles), got {angles_rad.shape}.")
    if log_weights is not None and np.shape(log_weights) != angles_rad.shape[:1]:
        raise ValueError(f"The log-weights of {name} must have shape {angles_rad.shape[:1]}, got {log_weights.shape}.")
    is_finite = np.all(np.isfinite(angles_rad), axis=1)
    if not np.any(is_finite):
        raise ValueError(f"{name} has no sample with finite angles.")
    if np.all(is_finite):
        return angles_rad, log_weights
    return angles_rad[is_finite], None if log_weights is None else np.asarray(log_weights)[is_finite]


def torus_wasserstein2(
    angles_a_rad: Float[np.ndarray, "samples_a angles"],
    angles_b_rad: Float[np.ndarray, "samples_b angles"],
    *,
    log_weights_a: Float[np.ndarray, " samples_a"] | None = None,
    log_weights_b: Float[np.ndarray, " samples_b"] | None = None,
    num_samples: int = 10_000,
    seed: int = 0,
) -> Wasserstein:
    """Wasserstein-2 distance on the torus of all given angles together (CMT, D.3.2; Tan et al. 2025, E.1).

    The squared distance of two points is Σ_i ((a_i − b_i + π) mod 2π − π)², the sum of their squared wrapped
    differences. Optimal transport is exact (network simplex of POT); with 1e4 samples that takes about a minute and
    1.6 GB, 0.8 of them for the costs in float64. Two samples of one distribution have a distance above zero, which
    grows with the number of angles: compare with that of two halves of the truth.

    Args:
      angles_a_rad: (samples, angles) in rad, of any range; rows with NaN are left out.
      angles_b_rad: likewise.
      log_weights_a: (samples,) unnormalized; this side is then resampled systematically to equal weights.
      log_weights_b: likewise.
      num_samples: points of each side, drawn without replacement where there are no weights; a side that has fewer
        enters whole.
      seed: of the draws.

    Returns:
      The distance in rad. Its standard error follows from the Kantorovich potentials f, g of the plan (del Barrio
      and Loubes 2019): the squared distance has the variance Var f/n + Var g/m. That takes the points for independent.

    Raises:
      ImportError: if POT is not installed.
      ValueError: if shapes are wrong or a side has no usable sample.
    """
    try:
        import ot
    except ImportError:
        raise ImportError('torus_wasserstein2 needs POT: pip install "cmtjax[evaluation]"') from None
    if num_samples < 2:
        raise ValueError(f"num_samples must be at least 2, got {num_samples}.")
    angles_a_rad, log_weights_a = _finite_rows(angles_a_rad, log_weights_a, "angles_a_rad")
    angles_b_rad, log_weights_b = _finite_rows(angles_b_rad, log_weights_b, "angles_b_rad")
    if angles_a_rad.shape[1] != angles_b_rad.shape[1]:
        raise ValueError(
            "angles_a_rad and angles_b_rad must have the same angles, "
            f"got {angles_a_rad.shape[1]} and {angles_b_rad.shape[1]}."
        )
    rng = np.random.default_rng(seed)
    points_a = _subsample(angles_a_rad, log_weights_a, num_samples, rng).astype(np.float64)
    points_b = _subsample(angles_b_rad, log_weights_b, num_samples, rng).astype(np.float64)
    costs = np.zeros((len(points_a), len(points_b)))
    for start in range(0, len(points_a), 500):
        for a, b in zip(points_a[start : start + 500].T, points_b.T, strict=True):
            difference = a[:, None] - b
            difference -= 2 * np.pi * np.round(difference / (2 * np.pi))
            costs[start : start + 500] += difference**2
    squared, plan = ot.emd2(
        ot.unif(len(points_a)), ot.unif(len(points_b)), costs, numItermax=100_000_000, log=True, check_marginals=False
    )
    if plan["warning"]:
        raise RuntimeError(f"Optimal transport did not converge: {plan['warning']}")
    variance = np.var(plan["u"]) / len(points_a) + np.var(plan["v"]) / len(points_b)
    squared = max(float(squared), 0.0)
    num_points = min(len(points_a), len(points_b))
    return Wasserstein(float(np.sqrt(squared)), _distance_error(squared, variance), num_points)


def clash_bound_kj_mol(energies_kj_mol: Float[np.ndarray, "*samples"]) -> float:
    """Energy above which a sample counts as a clash: median + 3 (99.9 % quantile − median) of the truth.

    For a normal distribution that is 9.3 standard deviations above the mean: far out of the truth's reach, but no
    further than a distance can bear.

    Args:
      energies_kj_mol: of the truth; NaN is left out.
    """
    middle, high = np.nanquantile(np.asarray(energies_kj_mol, np.float64), [0.5, 0.999])
    return float(middle + 3 * (high - middle))


def energy_wasserstein2(
    energies_a_kj_mol: Float[np.ndarray, "*samples_a"],
    energies_b_kj_mol: Float[np.ndarray, "*samples_b"],
    blocks_a: Blocks,
    blocks_b: Blocks,
    *,
    clash_bound_kj_mol: float,
    log_weights_a: Float[np.ndarray, "*samples_a"] | None = None,
    log_weights_b: Float[np.ndarray, "*samples_b"] | None = None,
) -> Wasserstein:
    """Wasserstein-2 distance of two samples of energies, the root of ∫ (F⁻¹(s) − G⁻¹(s))² ds over the quantiles.

    Clashes of a flow reach 1e20 kJ/mol and would be all that the distance shows. Energies above a bound are therefore
    set to the bound; what share of each side that is should stand beside the distance.

    Args:
      energies_a_kj_mol: of any shape, in kJ/mol; NaN (failed) is left out, +inf is a clash.
      energies_b_kj_mol: likewise.
      blocks_a: labels of the shape of the energies, for the standard error.
      blocks_b: likewise.
      clash_bound_kj_mol: the bound; see ``clash_bound_kj_mol``.
      log_weights_a: unnormalized, of the shape of the energies; NaN for failed samples; None for equal weights.
      log_weights_b: likewise.

    Returns:
      The distance in kJ/mol. Its standard error follows from the potentials of the plan, f'(x) = 2 (x − T(x)) with
      the monotone map T, whose means have block standard errors.

    Raises:
      ValueError: if shapes differ or a side has no usable sample.
    """
    sides = []
    for energies, log_weights, blocks, name in (
        (energies_a_kj_mol, log_weights_a, blocks_a, "energies_a_kj_mol"),
        (energies_b_kj_mol, log_weights_b, blocks_b, "energies_b_kj_mol"),
    ):
        values = np.minimum(np.asarray(energies, np.float64), clash_bound_kj_mol)
        if values.shape != blocks.labels.shape:
            raise ValueError(f"{name} and its blocks must share a shape, got {values.shape}, {blocks.labels.shape}.")
        weights = normalized_weights(log_weights, ~np.isnan(values))
        order = np.argsort(values.reshape(-1), kind="stable")
        order = order[weights.reshape(-1)[order] > 0]
        sides.append(
            (
                values.reshape(-1)[order],
                weights.reshape(-1)[order],
                blocks._replace(labels=blocks.labels.reshape(-1)[order]),
            )
        )
    (a, weights_a, ordered_blocks_a), (b, weights_b, ordered_blocks_b) = sides
    cumulative_a, cumulative_b = np.cumsum(weights_a), np.cumsum(weights_b)

    # Both quantile functions are constant between the levels at which either of them jumps.
    levels = np.sort(np.concatenate([cumulative_a, cumulative_b]))
    middles = 0.5 * (levels + np.concatenate([[0.0], levels[:-1]]))
    squared = float(
        np.sum(
            np.diff(levels, prepend=0)
            * (_quantile(a, cumulative_a, middles) - _quantile(b, cumulative_b, middles)) ** 2
        )
    )

    variance = 0.0
    for values, weights, cumulative, blocks, other, other_cumulative in (
        (a, weights_a, cumulative_a, ordered_blocks_a, b, cumulative_b),
        (b, weights_b, cumulative_b, ordered_blocks_b, a, cumulative_a),
    ):
        slope = 2 * (values - _quantile(other, other_cumulative, cumulative - 0.5 * weights))
        potential = np.concatenate([[0.0], np.cumsum(0.5 * (slope[1:] + slope[:-1]) * np.diff(values))])
        variance += weighted_mean(potential, weights, blocks)[1] ** 2
    return Wasserstein(float(np.sqrt(squared)), _distance_error(squared, variance), min(a.size, b.size))


def _quantile(values: np.ndarray, cumulative: np.ndarray, levels: np.ndarray) -> np.ndarray:
    return values[np.minimum(np.searchsorted(cumulative, levels), values.size - 1)]
