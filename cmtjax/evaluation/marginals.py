"""Distances between the distributions of single internal coordinates: bonds, angles and torsions one by one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
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
    center = np.where(np.asarray(is_periodic)[:, None], np.median(difference, axis=-1, keepdims=True), 0.0)
    return np.mean(np.abs(difference - center), axis=-1)


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
      or ``_rad``; ``<group>_tv_mean_noise_floor``, ``<group>_tv_max_noise_floor``: two halves of the truth.
    """
    if len(names) != domain.num_dims:
        raise ValueError(f"names must have one name for each of the {domain.num_dims} dimensions, got {len(names)}.")
    distances = marginal_total_variation(truth.masses, model.masses)
    floor = marginal_total_variation(*truth.halves)
    transport = marginal_wasserstein1(truth.masses, model.masses, domain.is_periodic) * window_width
    summary: dict[str, float | str] = {}
    groups = (("bond", Domain.BONDS, "nm"), ("angle", Domain.ANGLES, "rad"), ("torsion", Domain.TORSIONS, "rad"))
    for group, label, unit in groups:
        dims = np.flatnonzero(domain.groups == label)
        if dims.size == 0:
            continue
        worst = dims[np.argmax(distances[dims])]
        summary |= {
            f"{group}_tv_mean{suffix}": float(distances[dims].mean()),
            f"{group}_tv_max{suffix}": float(distances[worst]),
            f"{group}_tv_worst{suffix}": names[worst],
            f"{group}_w1_mean_{unit}{suffix}": float(transport[dims].mean()),
            f"{group}_w1_max_{unit}{suffix}": float(transport[dims].max()),
            f"{group}_tv_mean_noise_floor": float(floor[dims].mean()),
            f"{group}_tv_max_noise_floor": float(floor[dims].max()),
        }
    return summary
