"""Distances between the distributions of single internal coordinates: bonds, angles and torsions one by one.

Their standard errors are first-order ones (delta method) from blocks, as those of ``divergence_errors``. The derivative
of |δ| is the sign of δ; where δ may be noise of standard deviation σ, the error function of δ/σ√2 takes its place, so
that errors are right to some 20 % also where there is no difference but noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.special
from jaxtyping import Bool, Float

from cmtjax.coordinates.domain import Domain
from cmtjax.evaluation.histograms import BlockHistogram
from cmtjax.molecules.z_matrix import ZMatrix


def coordinate_names(z_matrix: ZMatrix) -> list[str]:
    """Names of the dimensions of the box, such as "torsion ALA1:C ALA1:CA ALA1:N ACE0:C", in their order.

    Args:
      z_matrix: of the molecule; bonds that are constrained are no dimension.
    """
    atoms = z_matrix.atom_names
    first, middle, last = (int(atom) for atom in z_matrix.initial_atoms)
    rows = z_matrix.rows.tolist()
    bonds = [(first, middle), (middle, last), *(row[:2] for row in rows)]
    free = [bond for bond, is_fixed in zip(bonds, z_matrix.bond_is_constrained, strict=True) if not is_fixed]
    groups = {
        "bond": free,
        "angle": [(first, middle, last), *(row[:3] for row in rows)],
        "torsion": rows,
    }
    return [
        " ".join([group, *(atoms[atom] for atom in coordinate)])
        for group, coordinates in groups.items()
        for coordinate in coordinates
    ]


def marginal_total_variation(
    masses_a: Float[np.ndarray, "*d bins"], masses_b: Float[np.ndarray, "*d bins"]
) -> Float[np.ndarray, "*d"]:
    """Total variation distance ½ Σ|p − q| of each dimension's histogram, a fraction in [0, 1].

    Args:
      masses_a: bin masses; the last axis sums to one.
      masses_b: likewise.
    """
    return 0.5 * np.sum(np.abs(np.asarray(masses_a) - np.asarray(masses_b)), axis=-1)


def marginal_wasserstein1(
    masses_a: Float[np.ndarray, "d bins"], masses_b: Float[np.ndarray, "d bins"], is_periodic: Bool[np.ndarray, " d"]
) -> Float[np.ndarray, " d"]:
    """Wasserstein-1 distance of each dimension's histogram, in units of the box.

    Times the width of the dimension's window it is a distance in nm or rad. On an interval it is the integral of
    |F − G| over the distribution functions. On a circle that of |F − G − c| with c the median of F − G, the flow
    around the circle that costs least (Rabin, Delon and Gousseau 2011).

    Args:
      masses_a: (d, bins) bin masses over [0, 1]; each row sums to one.
      masses_b: likewise.
      is_periodic: (d,) whether 0 and 1 are the same point.

    Returns:
      (d,), exact for masses at the centers of the bins.
    """
    difference = np.cumsum(np.asarray(masses_a) - np.asarray(masses_b), axis=-1)
    return np.mean(np.abs(difference - _on_circles(difference, difference, is_periodic)), axis=-1)


def _on_circles(
    values: Float[np.ndarray, "*blocks d bins"],
    difference: Float[np.ndarray, "d bins"],
    is_periodic: Bool[np.ndarray, " d"],
) -> Float[np.ndarray, "*blocks d 1"]:
    """Values at the bins where the difference has its median, on a circle; zero on an interval."""
    num_bins = difference.shape[-1]
    middle = np.argsort(difference, axis=-1)[:, [(num_bins - 1) // 2, num_bins // 2]]
    middle = np.broadcast_to(middle, (*values.shape[:-1], 2))
    median = np.take_along_axis(values, middle, axis=-1).mean(axis=-1, keepdims=True)
    return np.where(np.asarray(is_periodic)[:, None], median, 0.0)


def _block_residuals(truth: BlockHistogram, model: BlockHistogram) -> Float[np.ndarray, "blocks d bins"]:
    """What each block of either sample adds to the difference of masses, such that squares sum to the variance.

    A mass is a ratio of sums over B independent blocks, Σ_k s_k/Σ_k t_k; its variance is B/(B−1) Σ_k (s_k − p t_k)² for
    sums t_k of all bins that add up to one.
    """
    parts = []
    for histogram, sign in ((truth, 1.0), (model, -1.0)):
        sums, num_blocks = histogram.sums, len(histogram.sums)
        residuals = sums - sums.sum(axis=-1, keepdims=True) * histogram.masses
        parts.append(sign * np.sqrt(num_blocks / (num_blocks - 1)) * residuals)
    return np.concatenate(parts)


def _noise_of_sizes(
    difference: Float[np.ndarray, "d bins"], residuals: Float[np.ndarray, "blocks d bins"]
) -> Float[np.ndarray, "blocks d"]:
    """What each block adds to the sum of |difference| over the bins, to first order."""
    deviation = np.sqrt(2 * np.sum(residuals**2, axis=0))
    ratio = np.divide(difference, deviation, out=np.zeros_like(difference), where=deviation > 0)
    return np.einsum("kdj,dj->kd", residuals, scipy.special.erf(ratio))


def _total_variation_noise(truth: BlockHistogram, model: BlockHistogram) -> Float[np.ndarray, "blocks d"]:
    """What each block adds to ``marginal_total_variation``; the root of the sum of squares is its standard error."""
    return 0.5 * _noise_of_sizes(truth.masses - model.masses, _block_residuals(truth, model))


def _wasserstein1_noise(
    truth: BlockHistogram, model: BlockHistogram, is_periodic: Bool[np.ndarray, " d"]
) -> Float[np.ndarray, "blocks d"]:
    """What each block adds to ``marginal_wasserstein1``, through the median too; likewise."""
    difference = np.cumsum(truth.masses - model.masses, axis=-1)
    residuals = np.cumsum(_block_residuals(truth, model), axis=-1)
    residuals = residuals - _on_circles(residuals, difference, is_periodic)
    difference = difference - _on_circles(difference, difference, is_periodic)
    return _noise_of_sizes(difference, residuals) / difference.shape[-1]


def summarize_marginals(
    truth: BlockHistogram,
    model: BlockHistogram,
    domain: Domain,
    window_width: Float[np.ndarray, " d"],
    names: Sequence[str],
    suffix: str = "",
) -> dict[str, float | str]:
    """Mean and largest distances of the marginals of bonds, angles and torsions, under flat names.

    Args:
      truth: marginals of the truth, see ``marginal_block_histogram``.
      model: those of the model, plain or reweighted.
      domain: the box.
      window_width: (d,) extent of the box in nm or rad.
      names: of the dimensions.
      suffix: appended to the names, such as ``_reweighted``.

    Returns:
      For ``bond``, ``angle`` and ``torsion``: ``<group>_tv_mean``, ``<group>_tv_max`` (fractions), ``<group>_tv_worst``
      (the name of the coordinate with the largest), and ``<group>_w1_mean``, ``<group>_w1_max`` with the unit ``_nm``
      or ``_rad``, each but the name with ``_standard_error``: that of a mean takes into account how coordinates are
      correlated; that of a largest one is its coordinate's own, whose choice favours noise.
      ``<group>_tv_mean_noise_floor``, ``<group>_tv_max_noise_floor``: two halves of the truth. Errors of reweighted
      distances are too small where a few samples have nearly all of the weight.

    Raises:
      ValueError: if there is not one name a dimension.
    """
    if len(names) != domain.num_dims:
        raise ValueError(f"names must have one name for each of the {domain.num_dims} dimensions, got {len(names)}.")
    floor = marginal_total_variation(*truth.halves)
    variation = marginal_total_variation(truth.masses, model.masses)
    transport = marginal_wasserstein1(truth.masses, model.masses, domain.is_periodic) * window_width
    variation_noise = _total_variation_noise(truth, model)
    transport_noise = _wasserstein1_noise(truth, model, domain.is_periodic) * window_width
    summary: dict[str, float | str] = {}
    groups = (("bond", Domain.BONDS, "nm"), ("angle", Domain.ANGLES, "rad"), ("torsion", Domain.TORSIONS, "rad"))
    for group, label, unit in groups:
        dims = np.flatnonzero(domain.groups == label)
        if dims.size == 0:
            continue
        for name, unit_suffix, distances, noise in (
            ("tv", "", variation, variation_noise),
            ("w1", f"_{unit}", transport, transport_noise),
        ):
            worst = dims[np.argmax(distances[dims])]
            mean, largest = (f"{group}_{name}_{which}{unit_suffix}{suffix}" for which in ("mean", "max"))
            summary |= {
                mean: float(distances[dims].mean()),
                f"{mean}_standard_error": float(np.linalg.norm(noise[:, dims].mean(axis=1))),
                largest: float(distances[worst]),
                f"{largest}_standard_error": float(np.linalg.norm(noise[:, worst])),
            }
        summary |= {
            f"{group}_tv_worst{suffix}": names[dims[np.argmax(variation[dims])]],
            f"{group}_tv_mean_noise_floor": float(floor[dims].mean()),
            f"{group}_tv_max_noise_floor": float(floor[dims].max()),
        }
    return summary
