"""Peptide bonds and their torsions ω, from the z-matrix and its atom names alone."""

from __future__ import annotations

import itertools
import re
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float

from cmtjax.coordinates import InternalCoordinates
from cmtjax.molecules.z_matrix import ZMatrix

# What CA is called in the caps; OpenMM calls the methyl carbon of NME C.
_ALPHA = {"ACE": ("CH3",), "NME": ("C", "CH3")}


class PeptideBond(NamedTuple):
    """A peptide bond.

    Attributes:
      name: ``"ALA1-ALA2"``, the residues that it joins.
      atoms: CA, C, N and CA (CH3, C in the caps), whose dihedral is ω; half a turn is trans, 0 cis.
      rows: rows of the z-matrix whose torsions add up to ω, one or two.
    """

    name: str
    atoms: tuple[int, int, int, int]
    rows: tuple[int, ...]


def peptide_bonds(z_matrix: ZMatrix) -> tuple[PeptideBond, ...]:
    """The peptide bonds of a molecule, along the chain.

    They are the bonds of the z-matrix between C of a residue and N of the next, where both have an alpha carbon: a
    molecule that is no peptide has none, and caps without one (NH2, formyl) have no ω.

    Args:
      z_matrix: of any molecule.

    Raises:
      ValueError: if atom names are not like ``"ALA1:CA"``, or no torsions of the z-matrix add up to an ω.
    """
    bonded = {frozenset(pair) for pair in z_matrix.bond_atoms.tolist()}
    residues: dict[int, tuple[str, dict[str, int]]] = {}
    for index, name in enumerate(z_matrix.atom_names):
        match = re.fullmatch(r"(.+?)(\d+):(.+)", name)
        if match is None:
            raise ValueError(f"z_matrix.atom_names must be like 'ALA1:CA', got {name!r}.")
        residues.setdefault(int(match[2]), (match[1], {}))[1][match[3]] = index
    bonds = []
    for number, following in itertools.pairwise(sorted(residues)):
        atoms = (
            _alpha(residues[number]),
            residues[number][1].get("C"),
            residues[following][1].get("N"),
            _alpha(residues[following]),
        )
        if None in atoms or frozenset(atoms[1:3]) not in bonded:
            continue
        name = "-".join(f"{residues[residue][0]}{residue}" for residue in (number, following))
        dihedral = cast("tuple[int, int, int, int]", atoms)
        bonds.append(PeptideBond(name, dihedral, _rows_of_torsion(z_matrix, dihedral)))
    return tuple(bonds)


def omega_rad(coordinates: InternalCoordinates, u: Float[np.ndarray, "*batch d"]) -> Float[np.ndarray, "*batch bonds"]:
    """ω of every peptide bond, within half a turn of trans: a bond is cis where |ω| < π/2.

    Args:
      coordinates: the coordinates that u belongs to.
      u: points of the box, clipped or not.

    Returns:
      float64 torsions in [−π, π], in the order of ``peptide_bonds``.
    """
    first_torsion = coordinates.domain.num_dims - len(coordinates.z_matrix.rows)
    omegas = [np.zeros((*u.shape[:-1], 0))]
    for bond in peptide_bonds(coordinates.z_matrix):
        dims = first_torsion + np.array(bond.rows)
        values = coordinates.window_center[dims] + coordinates.window_width[dims] * (np.float64(u[..., dims]) - 0.5)
        omegas.append(values.sum(axis=-1, keepdims=True))
    omega = np.concatenate(omegas, axis=-1)
    return omega - 2 * np.pi * np.round(omega / (2 * np.pi))


def _alpha(residue: tuple[str, dict[str, int]]) -> int | None:
    residue_name, atoms = residue
    return next((atoms[name] for name in _ALPHA.get(residue_name, ("CA",)) if name in atoms), None)


def _rows_of_torsion(z_matrix: ZMatrix, atoms: tuple[int, int, int, int]) -> tuple[int, ...]:
    """Rows about the axis of a dihedral that lead from its one end to the other."""
    first, j, k, last = atoms
    # A row's torsion turns from its first atom to its last, looking along its axis, or from its last to its first
    # looking against it: steps that all look along j-k add up.
    steps = {}
    for row, (one, *axis, other) in enumerate(z_matrix.rows.tolist()):
        if axis == [j, k]:
            steps[one, other] = row
        elif axis == [k, j]:
            steps[other, one] = row
    if (first, last) in steps:
        return (steps[first, last],)
    for start, through in steps:
        if start == first and (through, last) in steps:
            return steps[start, through], steps[through, last]
    names = [z_matrix.atom_names[atom] for atom in atoms]
    raise ValueError(f"z_matrix: no torsions of its rows add up to the dihedral {names}.")
