"""Whether chains have converged, those of one data set or of several: torsions, energy, weights of rare regions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cmtjax import evaluation, mcmc
from cmtjax.coordinates import InternalCoordinates
from cmtjax.mcmc import diagnostics as chains


class ChainVerdict(NamedTuple):
    """What chains tell about themselves.

    Attributes:
      torsion_names: of all torsions, by their atoms.
      of_torsions: their R̂ and ESS.
      of_energy: those of the energy, the only quantity.
      mixing_problems: sentences about these; empty if there is none.
      phi_positive: weights of the rare regions of positive φ by name, as in ``judge_phi_positive``.
      weight_problems: sentences about these.
      notes: what is told beside and no problem.
    """

    torsion_names: list[str]
    of_torsions: mcmc.ChainDiagnostics
    of_energy: mcmc.ChainDiagnostics
    mixing_problems: list[str]
    phi_positive: dict[str, Any]
    weight_problems: list[str]
    notes: list[str]


def judge_chains(
    coordinates: InternalCoordinates, torsion_u: np.ndarray, energy_kj_mol: np.ndarray, phi_u: np.ndarray
) -> ChainVerdict:
    """Judges independent chains by R̂ and ESS of every torsion and the energy, and by the weights of rare regions.

    Args:
      coordinates: of the points.
      torsion_u: (draws, chains, torsions) the dimensions of ``torsion_dims``.
      energy_kj_mol: (draws, chains).
      phi_u: (all draws, chains, pairs) φ of each pair, of all draws also where the others are of some of them: short
        visits to rare regions fall between.
    """
    torsions, phi = torsion_dims(coordinates), coordinates.ramachandran_pairs[:, 0]
    names = [_row_name(coordinates, row) for row in range(torsions.size)]
    of_torsions = mcmc.angle_diagnostics(angles_rad(coordinates, torsion_u, torsions))
    of_energy = mcmc.chain_diagnostics(energy_kj_mol[:, :, None])
    weights, weight_problems, notes = judge_phi_positive(
        angles_rad(coordinates, phi_u, phi), coordinates.ramachandran_names
    )
    mixing_problems = [
        *mcmc.mixing_problems(of_torsions, names),
        *mcmc.mixing_problems(of_energy, ["the energy"]),
    ]
    return ChainVerdict(names, of_torsions, of_energy, mixing_problems, weights, weight_problems, notes)


def judge_phi_positive(phi_rad: np.ndarray, names: Sequence[str]) -> tuple[dict[str, Any], list[str], list[str]]:
    """How well the chains know the weights of the rare regions of positive φ, which R̂ of the torsions does not see.

    Args:
      phi_rad: (draws, chains, pairs) of any range.
      names: of the pairs of φ and ψ.

    Returns:
      For the diagnostics, weight, standard error (None with too few chains for one), R̂ (None where no chain enters or
      leaves the region) and number of visiting chains by name; the problems; and notes that are no problems.
    """
    weights, regions = _phi_positive_weights(phi_rad), _region_names(names)
    # A region that no chain visits is told, but no problem: it may be empty, as that of proline is, whose ring holds φ,
    # and nothing in the draws can tell whether it is. Chains begin with φ turned at random, so that one which the
    # ladder connects with the rest would have been seen, unless it is rarer than the draws can resolve.
    notes = [
        f"no chain visits {region}: it is empty, too rare for this many draws, or out of the chains' reach."
        for region, number in zip(regions, weights.num_visiting_chains, strict=True)
        if number == 0
    ]
    found = {
        name: {
            "weight": float(weight),
            "standard_error": None if np.isnan(error) else float(error),
            "r_hat": float(r_hat) if np.isfinite(r_hat) else None,
            "num_visiting_chains": int(number),
        }
        for name, weight, error, r_hat, number in zip(names, *weights, strict=True)
    }
    return found, chains.weight_problems(weights, regions), notes


def set_problems(
    phi_rad: np.ndarray, names: Sequence[str], num_chains: Sequence[int], set_names: Sequence[str]
) -> list[str]:
    """Sentences that say on the weights of which regions of positive φ data sets disagree.

    Args:
      phi_rad: (draws, chains, pairs) of any range, the chains of all sets side by side.
      names: of the pairs of φ and ψ.
      num_chains: of each set.
      set_names: what to call the sets.
    """
    parts = np.split(phi_rad, np.cumsum(num_chains)[:-1], axis=1)
    return chains.set_problems([_phi_positive_weights(part) for part in parts], _region_names(names), set_names)


def torsion_dims(coordinates: InternalCoordinates) -> np.ndarray:
    """Dimensions of all torsions, (torsions,)."""
    return np.flatnonzero(coordinates.domain.groups == coordinates.domain.TORSIONS)


def angles_rad(coordinates: InternalCoordinates, u: np.ndarray, dims: np.ndarray) -> np.ndarray:
    """Angles of some dimensions, whose u are (…, dims)."""
    return coordinates.window_center[dims] + coordinates.window_width[dims] * (u - 0.5)


def _phi_positive_weights(phi_rad: np.ndarray) -> chains.ChainWeights:
    lower, upper = evaluation.PHI_POSITIVE_REGIONS["phi_positive"][0]
    phi_rad = np.mod(phi_rad + np.pi, 2 * np.pi) - np.pi
    return chains.chain_weights((phi_rad > lower) & (phi_rad < upper))


def _region_names(names: Sequence[str]) -> list[str]:
    lower, upper = evaluation.PHI_POSITIVE_REGIONS["phi_positive"][0]
    return [f"{lower:g} < φ < {upper:g} rad of {name}" for name in names]


def _row_name(coordinates: InternalCoordinates, row: int) -> str:
    z_matrix = coordinates.z_matrix
    return "-".join(z_matrix.atom_names[atom] for atom in z_matrix.rows[row])
