"""Dynamics at 300 K stays in the ranges of the z-matrix; the mirror image does not."""

import numpy as np
import openmm
import pytest
from openmm import unit

from cmtjax import molecules
from cmtjax.molecules import measure


def outside(z_matrix, positions_nm):
    """(..., rows): whether a torsion lies outside of its window."""
    turns = measure.turns(measure.dihedrals(positions_nm, z_matrix.rows))
    return (turns - z_matrix.torsion_start) % 1.0 > z_matrix.torsion_width


def simulate(molecule, *, steps, seed):
    """Frames every 20 steps of 1 fs of Langevin dynamics at 300 K from the minimum."""
    integrator = openmm.LangevinMiddleIntegrator(300 * unit.kelvin, 1 / unit.picosecond, 1 * unit.femtosecond)
    integrator.setRandomNumberSeed(seed)
    context = openmm.Context(molecule.system, integrator, openmm.Platform.getPlatformByName("CPU"), {"Threads": "1"})
    context.setPositions(molecule.positions_nm)
    context.setVelocitiesToTemperature(300 * unit.kelvin, seed)
    frames = []
    for _ in range(steps // 20):
        integrator.step(20)
        frames.append(context.getState(positions=True).getPositions(asNumpy=True)._value)
    return np.array(frames)


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
@pytest.mark.parametrize("steps", [5_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_dynamics_stays_inside_the_half_ranges(name, steps, published):
    molecule = published(name)
    z_matrix = molecule.z_matrix
    frames = simulate(molecule, steps=steps, seed=1)
    # It moved: the torsions that are free left the minimum by more than a tenth of a turn somewhere.
    moved = measure.dihedrals(frames, z_matrix.rows) - measure.dihedrals(molecule.positions_nm, z_matrix.rows)
    assert np.abs(np.angle(np.exp(1j * moved))).max() > 0.2 * np.pi
    left = outside(z_matrix, frames).any(axis=0)
    assert [z_matrix.atom_names[atom] for atom in z_matrix.rows[left, 0]] == []


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_mirror_image_lies_outside(name, published):
    molecule = published(name)
    z_matrix = molecule.z_matrix
    mirrored = simulate(molecule, steps=200, seed=2) * np.array([1.0, 1.0, -1.0])
    out = outside(z_matrix, mirrored)
    halved = z_matrix.torsion_width < 1.0
    # A reflection turns the sign of every torsion: each half range is left, and no full range can be.
    assert out[:, halved].all()
    assert not out[:, ~halved].any()


@pytest.mark.parametrize("case", ["ACE-ALA-NME/amber96-obc1", "GLU-LEU-ILE-LEU/amber99sbildn-obc2"])
def test_reference_structures_have_the_same_hand(case, published, reference_energies):
    name = {"ACE": "alanine_dipeptide", "GLU": "elil_tetrapeptide"}[case[:3]]
    molecule = published(name)
    data = reference_energies[case]
    order = {tuple(atom): index for index, atom in enumerate(map(tuple, data["atoms"]))}
    columns = [order[atom.residue.index, atom.residue.name, atom.name] for atom in molecule.topology.atoms()]
    out = outside(molecule.z_matrix, np.array(data["positions_nm"])[:, columns])
    names = molecule.z_matrix.atom_names
    # Stereocenters and prochiral methyls carry their hand in their names; like hydrogens may be labeled otherwise.
    heavy_or_alpha = [names[atom].split(":")[1] in ("HA", "CG2", "CD2") for atom in molecule.z_matrix.rows[:, 0]]
    assert not out[0, heavy_or_alpha].any()
