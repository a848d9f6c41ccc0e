"""From a minimized structure to a z-matrix with reference values and torsion windows."""

from __future__ import annotations

import numpy as np
import openmm
from jaxtyping import Float
from openmm import app, unit

from cmtjax.molecules import measure
from cmtjax.molecules.z_matrix import ZMatrix
from cmtjax.molecules.z_matrix_rules import Window, place_atoms


def build_z_matrix(
    topology: app.Topology, system: openmm.System, positions_nm: Float[np.ndarray, "atoms 3"]
) -> ZMatrix:
    """The z-matrix of a peptide by the rule of ``z_matrix_rules``.

    Args:
      topology: a peptide with all its hydrogens.
      system: its System; constrained bond lengths come from it.
      positions_nm: (atoms, 3) positions at an energy minimum; the other reference values and the windows come from it.

    Raises:
      ValueError: if the topology is no peptide, or the System constrains a distance that is no bond of the z-matrix.
    """
    placement = place_atoms(topology)
    rows = np.array(placement.rows, np.int64).reshape(-1, 4)
    first, middle, last = placement.initial_atoms
    pairs = np.concatenate([[(first, middle), (middle, last)], rows[:, :2]])
    triples = np.concatenate([[(first, middle, last)], rows[:, :3]])
    torsion_turns = measure.turns(measure.dihedrals(positions_nm, rows))
    lengths_nm, is_constrained = _bonds(system, positions_nm, pairs)
    return ZMatrix(
        atom_names=tuple(f"{atom.residue.name}{atom.residue.index}:{atom.name}" for atom in topology.atoms()),
        initial_atoms=np.array(placement.initial_atoms),
        rows=rows,
        bond_reference_nm=lengths_nm,
        bond_is_constrained=is_constrained,
        angle_reference_rad=measure.angles(positions_nm, triples),
        torsion_start=np.array(
            [_start(window, turn) for window, turn in zip(placement.windows, torsion_turns, strict=True)]
        ),
        torsion_width=np.array([1.0 if window is Window.FULL else 0.5 for window in placement.windows]),
        ramachandran_rows=np.array(placement.ramachandran_rows, np.int64).reshape(-1, 2),
    )


def _start(window: Window, turn: float) -> float:
    match window:
        case Window.FULL:
            return 0.0
        case Window.SIDE_OF_MINIMUM:
            return 0.5 if turn >= 0.5 else 0.0
        case Window.AROUND_MINIMUM:
            return (turn - 0.25) % 1.0


def _bonds(
    system: openmm.System, positions_nm: Float[np.ndarray, "atoms 3"], pairs: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    constraints = {}
    for index in range(system.getNumConstraints()):
        one, two, length = system.getConstraintParameters(index)
        constraints[frozenset((one, two))] = length.value_in_unit(unit.nanometer)
    lengths_nm = measure.distances(positions_nm, pairs)
    is_constrained = np.zeros(len(pairs), bool)
    for bond, pair in enumerate(pairs.tolist()):
        length_nm = constraints.pop(frozenset(pair), None)
        if length_nm is not None:
            lengths_nm[bond], is_constrained[bond] = length_nm, True
    if constraints:
        raise ValueError(f"system constrains distances that are no bonds: {sorted(map(sorted, constraints))}.")
    return lengths_nm, is_constrained
