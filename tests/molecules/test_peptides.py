import random

import mdtraj
import numpy as np
import pytest

from cmtjax.molecules import peptides

AMBER99 = {"force_field": "amber99sbildn-obc2", "phi_degrees": -75.0, "psi_degrees": 145.0}


@pytest.mark.parametrize("sequence", ["ACE-ALA-NME", "GLU-LEU-ILE-LEU"])
def test_same_in_every_call_and_leaves_the_random_state_alone(sequence):
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first = peptides.build_peptide(sequence, **AMBER99)
    assert random.random() == expected
    second = peptides.build_peptide(sequence, **AMBER99)
    np.testing.assert_array_equal(first[1], second[1])


def test_backbone_has_the_angles_asked_for():
    topology, positions_nm = peptides.build_peptide("ACE-ALA-LEU-NME", **AMBER99)
    trajectory = mdtraj.Trajectory(positions_nm[None], mdtraj.Topology.from_openmm(topology))
    # Positions to 1e-4 nm by the builder, and float32 in mdtraj.
    np.testing.assert_allclose(np.degrees(mdtraj.compute_phi(trajectory)[1]), -75.0, atol=0.1)
    np.testing.assert_allclose(np.degrees(mdtraj.compute_psi(trajectory)[1]), 145.0, atol=0.1)


def test_ends_without_caps_are_charged():
    topology, _ = peptides.build_peptide("GLU-LEU-ILE-LEU", **AMBER99)
    residues = list(topology.residues())
    assert {"H", "H2", "H3"} <= {atom.name for atom in residues[0].atoms()}
    assert "HE2" not in {atom.name for atom in residues[0].atoms()}
    assert {"O", "OXT"} <= {atom.name for atom in residues[-1].atoms()}
    assert topology.getNumAtoms() == 75


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("", "at least one residue, got an empty string"),
        ("  ", "at least one residue"),
        ("ALA-XYZ", "unknown residue 'XYZ'"),
        ("ALA--ALA", "unknown residue ''"),
        ("ala", "unknown residue 'ala'.*known ones are ACE, NME, ALA"),
        ("ALA-ACE", "ACE must stand first"),
        ("ACE-ACE-ALA", "ACE must stand first"),
        ("NME-ALA", "NME must stand last"),
        ("ACE", "besides its caps"),
        ("ACE-NME", "besides its caps"),
    ],
)
def test_impossible_sequences_are_refused(sequence, message):
    with pytest.raises(ValueError, match=message) as error:
        peptides.build_peptide(sequence, **AMBER99)
    assert "\n" not in str(error.value)
