import numpy as np
import openmm
import pytest
from openmm import app

from cmtjax.molecules import force_fields, peptides

CASES = {
    "ACE-ALA-NME/amber96-obc1": "alanine_dipeptide",
    "ACE-ALA-NME/amber99sbildn-obc2": "alanine_dipeptide",
    "ACE-ALA-ALA-ALA-NME/amber99sbildn-obc2": "alanine_tetrapeptide",
    "ACE-ALA-ALA-ALA-ALA-ALA-NME/amber99sbildn-obc2": "alanine_hexapeptide",
    "GLU-LEU-ILE-LEU/amber99sbildn-obc2": "elil_tetrapeptide",
}


@pytest.mark.parametrize("case", CASES)
def test_energies_agree_with_reference_per_force(case, published, reference_energies):
    data = reference_energies[case]
    topology = published(CASES[case]).topology
    system = force_fields.create_system(topology, case.split("/")[1])
    order = {tuple(atom): index for index, atom in enumerate(map(tuple, data["atoms"]))}
    columns = [order[atom.residue.index, atom.residue.name, atom.name] for atom in topology.atoms()]
    assert sorted(columns) == list(range(len(data["atoms"])))
    for group, force in enumerate(system.getForces()):
        force.setForceGroup(group)
    integrator = openmm.VerletIntegrator(0.001)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    for positions_nm, expected in zip(data["positions_nm"], data["energies_kj_mol"], strict=True):
        context.setPositions(np.array(positions_nm)[columns])
        found = {"total": context.getState(energy=True).getPotentialEnergy()._value}
        for group, force in enumerate(system.getForces()):
            found[force.getName()] = context.getState(energy=True, groups={group}).getPotentialEnergy()._value
        assert set(found) == set(expected) - {"CMMotionRemover", "force_norm"}
        for name, energy in found.items():
            # The project's requirement; what is left are the reference's positions rounded to 1e-6 nm.
            assert energy == pytest.approx(expected[name], abs=1e-3, rel=1e-6), name


def test_constraints_follow_the_preset(published):
    topology = published("alanine_dipeptide").topology
    assert force_fields.create_system(topology, "amber96-obc1").getNumConstraints() == 0
    hydrogens = sum(atom.element is app.element.hydrogen for atom in topology.atoms())
    assert force_fields.create_system(topology, "amber99sbildn-obc2").getNumConstraints() == hydrogens


def test_unknown_preset_lists_the_known():
    with pytest.raises(ValueError, match=r"one of \['amber96-obc1', 'amber99sbildn-obc2'\], got 'charmm36'"):
        force_fields.force_field("charmm36")


def test_a_topology_without_parameters_is_one_line():
    topology, _ = peptides.build_peptide(
        "ACE-ALA-NME", force_field="amber96-obc1", phi_degrees=-150.0, psi_degrees=150.0
    )
    next(topology.atoms()).element = app.element.neon
    with pytest.raises(ValueError, match="topology does not fit force_field 'amber96-obc1'") as error:
        force_fields.create_system(topology, "amber96-obc1")
    assert "\n" not in str(error.value)
