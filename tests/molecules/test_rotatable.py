"""Rotatable bonds, counted by hand."""

import numpy as np
import pytest

from cmtjax import molecules
from cmtjax.molecules.rotatable import rotatable_rows


def _axes(molecule):
    """Axes of the rotatable rows by atom names, without residues of the backbone that repeat."""
    z_matrix = molecule.z_matrix
    rows = z_matrix.rows[rotatable_rows(molecule)]
    return sorted("-".join(sorted(z_matrix.atom_names[atom] for atom in row[1:3])) for row in rows)


def test_every_single_bond_of_the_dipeptide_once():
    assert _axes(molecules.published("alanine_dipeptide")) == [
        "ACE0:C-ACE0:CH3",
        "ALA1:C-ALA1:CA",
        "ALA1:CA-ALA1:CB",
        "ALA1:CA-ALA1:N",
        "NME2:C-NME2:N",
    ]


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("alanine_tetrapeptide", 3 * 3 + 2),  # φ, ψ, CA-CB of each residue, and the two caps
        ("alanine_hexapeptide", 5 * 3 + 2),
        # φ, ψ: N-CA and CA-C of four residues; GLU CA-CB, CB-CG, CG-CD; LEU CA-CB, CB-CG and two CG-CD, twice;
        # ILE CA-CB, CB-CG1, CB-CG2, CG1-CD1.
        ("elil_tetrapeptide", 8 + 3 + 2 * 4 + 4),
    ],
)
def test_as_many_as_one_counts(name, count):
    axes = _axes(molecules.published(name))
    assert len(axes) == len(set(axes)) == count


def test_rings_do_not_turn():
    molecule = molecules.peptide("ACE-PRO-NME", force_field="amber99sbildn-obc2")
    # φ is in the ring.
    assert _axes(molecule) == ["ACE0:C-ACE0:CH3", "NME2:C-NME2:N", "PRO1:C-PRO1:CA"]
    assert np.sum(rotatable_rows(molecule)) == 3
