"""Peptide bonds, like hydrogens and hands: against mdtraj, and by exchanging, mirroring and turning."""

import jax
import mdtraj
import numpy as np
import openmm
import pytest

from cmtjax import datasets, molecules
from cmtjax.coordinates import internal_coordinates
from cmtjax.datasets.frames import FrameCounts, hydrogen_groups, relabel_hydrogens, stereo_rows, violates_constraints
from cmtjax.molecules import measure

# Every kind of hydrogen group (CH3, NH3+, CH2, planar NH2, Gly), stereocenter and peptide bond.
EXAMPLES = ("alanine_dipeptide", "alanine_tetrapeptide", "elil_tetrapeptide", "ASN-GLY")


@pytest.fixture(scope="module", params=EXAMPLES)
def molecule(request, published):
    if request.param in molecules.PUBLISHED_NAMES:
        return published(request.param)
    return molecules.peptide(request.param, force_field="amber99sbildn-obc2")


@pytest.fixture(scope="module")
def coordinates(molecule):
    return internal_coordinates(molecule)


def with_torsions_of(coordinates, positions_nm):
    """Points of the box with the torsions of frames; bonds and angles are those of the minimum."""
    u = np.full((len(positions_nm), coordinates.domain.num_dims), 0.5)
    torsions = coordinates.domain.groups == coordinates.domain.TORSIONS
    offset = measure.dihedrals(positions_nm, coordinates.z_matrix.rows) - coordinates.window_center[torsions]
    u[:, torsions] += np.angle(np.exp(1j * offset)) / coordinates.window_width[torsions]
    return u


def test_omega_against_mdtraj(molecule, coordinates):
    # Displacements as large as a bond: torsions are anywhere.
    frames = molecule.positions_nm + np.random.default_rng(0).normal(scale=0.1, size=(50, *molecule.positions_nm.shape))
    trajectory = mdtraj.Trajectory(np.float32(frames), mdtraj.Topology.from_openmm(molecule.topology))
    bonds = datasets.peptide_bonds(molecule.z_matrix)
    assert len(bonds) == molecule.topology.getNumResidues() - 1
    expected = mdtraj.compute_dihedrals(trajectory, [bond.atoms for bond in bonds])
    omega = datasets.omega_rad(coordinates, with_torsions_of(coordinates, frames))
    assert np.abs(omega).min() < 0.5 < 2.6 < np.abs(omega).max() <= np.pi
    # mdtraj computes in float32, and atoms nearly in line make a dihedral sensitive.
    assert np.abs(np.angle(np.exp(1j * (omega - expected)))).max() < 1e-3
    # Between residues that have a CA, mdtraj finds the same atoms by itself.
    indices, _ = mdtraj.compute_omega(trajectory)
    found = [list(bond.atoms) for bond in bonds]
    assert len(indices) >= sum(not set(bond.name.split("-")) & {"ACE0", "NME2", "NME4"} for bond in bonds)
    for atoms in indices.tolist():
        assert atoms in found
    # The minimum is trans, within 20°.
    minimum = measure.dihedrals(molecule.positions_nm, np.array(found))
    assert (np.abs(minimum) > np.pi - 0.35).all()


def test_atoms_of_the_caps():
    z_matrix = molecules.published("alanine_dipeptide").z_matrix
    names = [[z_matrix.atom_names[atom] for atom in bond.atoms] for bond in datasets.peptide_bonds(z_matrix)]
    assert names == [["ACE0:CH3", "ACE0:C", "ALA1:N", "ALA1:CA"], ["ALA1:CA", "ALA1:C", "NME2:N", "NME2:C"]]


def energy_kj_mol(molecule, positions_nm):
    context = openmm.Context(
        molecule.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    energies = []
    for frame in positions_nm:
        context.setPositions(frame)
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    return np.array(energies)


def test_exchanged_hydrogens_get_their_labels_back(molecule):
    z_matrix = molecule.z_matrix
    groups = hydrogen_groups(z_matrix)
    # Frame g has the labels of group g exchanged, the last all of them, the one before none.
    frames = np.repeat(molecule.positions_nm[None], len(groups) + 2, axis=0)
    frames += np.random.default_rng(1).normal(scale=0.003, size=frames.shape)
    expected_frames = frames.copy()
    is_exchanged = np.zeros((len(frames), len(groups)), bool)
    for number, group in enumerate(groups):
        for frame in (number, len(groups) + 1):
            frames[frame][list(group.pair)] = frames[frame][list(group.pair[::-1])]
            is_exchanged[frame, number] = True
    relabeled, is_outside, is_relabeled = relabel_hydrogens(z_matrix, frames)
    np.testing.assert_array_equal(is_outside, is_exchanged)
    np.testing.assert_array_equal(is_relabeled, is_exchanged)
    np.testing.assert_array_equal(relabeled, expected_frames)
    # It is a symmetry of the energy, to rounding in float64, but for the impropers of planar groups.
    is_planar = np.array([len(group.rows) == 1 for group in groups])
    difference = energy_kj_mol(molecule, frames[:-2]) - energy_kj_mol(molecule, relabeled[:-2])
    assert np.abs(difference[~is_planar]).max() < 1e-6
    assert np.abs(difference).max() < 0.2


def test_every_narrow_window_is_of_hydrogens_or_of_a_hand(molecule):
    z_matrix = molecule.z_matrix
    of_hydrogens = {row for group in hydrogen_groups(z_matrix) for row in group.rows.tolist()}
    of_hands = set(stereo_rows(z_matrix).tolist())
    assert not of_hydrogens & of_hands
    assert of_hydrogens | of_hands == set(np.flatnonzero(z_matrix.torsion_width < 1).tolist())
    names = {z_matrix.atom_names[z_matrix.rows[row, 0]] for row in of_hands}
    num_glycines = sum(residue.name == "GLY" for residue in molecule.topology.residues())
    num_amino_acids = sum(residue.name not in ("ACE", "NME", "GLY") for residue in molecule.topology.residues())
    assert sum(name.endswith(":HA") for name in names) == num_amino_acids
    assert num_glycines in (0, 1)
    others = {name for name in names if not name.endswith(":HA")}
    assert others == ({"LEU1:CD2", "ILE2:CG2", "LEU3:CD2"} if "ILE2:CG2" in z_matrix.atom_names else set())


def test_counts(molecule, coordinates):
    """A frame of each kind, the second chunk after a restart."""
    z_matrix = molecule.z_matrix
    from_physical = jax.jit(coordinates.from_physical)
    frames = np.repeat(molecule.positions_nm[None], 4, axis=0)
    frames[1] *= [1.0, 1.0, -1.0]  # the mirror image
    pair = hydrogen_groups(z_matrix)[0].pair
    frames[2, list(pair)] = frames[2, list(pair[::-1])]
    frames[3] *= 1.5  # all bonds too long
    counts = FrameCounts(coordinates)
    for _ in range(2):
        relabeled, is_outside, is_relabeled = relabel_hydrogens(z_matrix, frames)
        counts.add(relabeled, np.asarray(from_physical(np.float32(relabeled))[0]), is_outside, is_relabeled)
        counts = FrameCounts(coordinates, {name: np.array(number) for name, number in counts.counts.items()})
    diagnostics = counts.diagnostics()
    by_part = diagnostics.pop("frames_by_part")
    planar = [group.name for group in hydrogen_groups(z_matrix) if len(group.rows) == 1]
    # The mirror image turns all hands, and exchanges the hydrogens of all groups but the planar ones.
    assert diagnostics == {
        "num_frames": 8,
        "frames_outside_box": 4,
        "frames_with_wrong_chirality": 2,
        "frames_with_cis_peptide_bond": 0,
        "frames_with_permuted_hydrogens": 4,
        "frames_with_relabeled_hydrogens": 4,
        "frames_violating_constraints": 2 if z_matrix.bond_is_constrained.any() else 0,
    }
    hands = stereo_rows(z_matrix)
    assert by_part["frames_with_wrong_chirality"] == {z_matrix.atom_names[z_matrix.rows[row, 1]]: 2 for row in hands}
    assert by_part["frames_outside_box"] == {"bonds": 2, "torsions": 2}
    assert sum(by_part["frames_with_permuted_hydrogens"].values()) == 2 * (
        len(hydrogen_groups(z_matrix)) - len(planar) + 1
    )


def test_a_cis_bond_is_counted_where_it_is(published):
    molecule = published("alanine_tetrapeptide")
    coordinates = internal_coordinates(molecule)
    bonds = datasets.peptide_bonds(molecule.z_matrix)
    first_torsion = coordinates.domain.num_dims - len(molecule.z_matrix.rows)
    u = np.repeat(with_torsions_of(coordinates, molecule.positions_nm[None]), 5, axis=0)
    for frame, bond in enumerate(bonds):
        u[frame, first_torsion + bond.rows[-1]] = (u[frame, first_torsion + bond.rows[-1]] + 0.5) % 1.0
    counts = FrameCounts(coordinates)
    no_groups = np.zeros((5, len(hydrogen_groups(molecule.z_matrix))), bool)
    counts.add(np.repeat(molecule.positions_nm[None], 5, axis=0), u, no_groups, no_groups)
    diagnostics = counts.diagnostics()
    assert diagnostics["frames_with_cis_peptide_bond"] == 4
    assert diagnostics["frames_by_part"]["frames_with_cis_peptide_bond"] == {bond.name: 1 for bond in bonds}
    assert diagnostics["frames_outside_box"] == 0


def test_constraints(published):
    molecule = published("alanine_tetrapeptide")
    frames = np.repeat(molecule.positions_nm[None], 2, axis=0)
    hydrogen = molecule.z_matrix.atom_names.index("ALA1:HA")
    frames[1, hydrogen] += 0.01
    np.testing.assert_array_equal(violates_constraints(molecule.z_matrix, frames), [False, True])
    # Rounding to 0.001 nm, as in xtc files, is no violation.
    assert not violates_constraints(molecule.z_matrix, np.round(frames, 3))[0]


def test_bonds_that_have_no_omega(published):
    z_matrix = published("alanine_dipeptide").z_matrix
    fields = {name: getattr(z_matrix, name) for name in z_matrix.__dataclass_fields__}

    def renamed(old, new):
        names = tuple(name.replace(old, new) for name in z_matrix.atom_names)
        return molecules.ZMatrix(**(fields | {"atom_names": names}))

    assert datasets.peptide_bonds(renamed("ALA1:CA", "ALA1:CX")) == ()
    # A cap without an alpha carbon, such as NH2.
    assert [bond.name for bond in datasets.peptide_bonds(renamed("NME2:C", "NME2:X"))] == ["ACE0-ALA1"]
    # C of one residue and N of the next that are not bonded: two chains.
    apart = molecules.ZMatrix(**(fields | {"atom_names": _exchanged(z_matrix, "NME2:N", "NME2:H")}))
    assert [bond.name for bond in datasets.peptide_bonds(apart)] == ["ACE0-ALA1"]
    with pytest.raises(ValueError, match="must be like 'ALA1:CA', got 'ACE:CH3'"):
        datasets.peptide_bonds(renamed("ACE0", "ACE"))
    # N in the place of CA: no rows turn about that bond.
    with pytest.raises(ValueError, match="no torsions of its rows add up"):
        datasets.peptide_bonds(
            molecules.ZMatrix(**(fields | {"atom_names": _exchanged(z_matrix, "ALA1:CA", "ALA1:HB1")}))
        )


def _exchanged(z_matrix, first, second):
    names = list(z_matrix.atom_names)
    one, other = names.index(first), names.index(second)
    names[one], names[other] = names[other], names[one]
    return tuple(names)
