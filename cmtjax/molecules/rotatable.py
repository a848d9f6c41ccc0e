"""Which torsions of a z-matrix turn a part of the molecule about a single bond."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cmtjax.molecules.molecule import Molecule


def rotatable_rows(molecule: Molecule) -> Bool[np.ndarray, " rows"]:
    """Rows of the z-matrix whose torsion is about a rotatable bond.

    Such a row is a proper torsion (i-j-k-l are bonded in this order) about a bond that is in no ring and is no peptide
    bond, over its full range: φ, ψ, side chains, methyl groups. The others hold planes, chirality and siblings.

    Args:
      molecule: the molecule.

    Returns:
      (atoms − 3,).
    """
    bonds = {frozenset((a.index, b.index)) for a, b in molecule.topology.bonds()}
    is_full = molecule.z_matrix.torsion_width == 1.0

    def is_rotatable(row: np.ndarray) -> bool:
        i, j, k, end = (int(atom) for atom in row)
        is_proper = all(frozenset(pair) in bonds for pair in ((i, j), (j, k), (k, end)))
        return is_proper and not _is_peptide_bond(molecule, j, k) and _separates(molecule, bonds, j, k)

    return np.array([is_rotatable(row) for row in molecule.z_matrix.rows]) & is_full


def _is_peptide_bond(molecule: Molecule, j: int, k: int) -> bool:
    atoms = list(molecule.topology.atoms())
    first, second = atoms[j], atoms[k]
    return {first.name, second.name} == {"C", "N"} and first.residue.index != second.residue.index


def _separates(molecule: Molecule, bonds: set[frozenset[int]], j: int, k: int) -> bool:
    """Whether the molecule falls apart without the bond j-k, which then is in no ring."""
    num_atoms = molecule.topology.getNumAtoms()
    rest = np.array([sorted(bond) for bond in bonds if bond != frozenset((j, k))])
    graph = coo_array((np.ones(len(rest)), (rest[:, 0], rest[:, 1])), shape=(num_atoms, num_atoms))
    labels = connected_components(graph, directed=False)[1]
    return bool(labels[j] != labels[k])
