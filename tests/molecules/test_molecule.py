import dataclasses
import pathlib
import re

import mdtraj
import numpy as np
import openmm
import pytest

from cmtjax import molecules
from cmtjax.molecules import force_fields, minimize, pdb_files, peptides

DATA = pathlib.Path(molecules.__file__).parents[1] / "data"
FORCE_FIELD = "amber99sbildn-obc2"
# Energy in kJ/mol of the structures that earlier work took as minima; they are not fully minimized.
PUBLISHED_ENERGIES = {
    "alanine_dipeptide": -172.6775,
    "alanine_tetrapeptide": -125.5434,
    "alanine_hexapeptide": -85.7907,
}


def energy_and_force(molecule):
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(molecule.system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(molecule.positions_nm)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def topology_facts(topology):
    atoms = [(atom.name, atom.element, atom.residue.name, atom.residue.index) for atom in topology.atoms()]
    return atoms, {frozenset((one.index, two.index)) for one, two in topology.bonds()}


@pytest.mark.parametrize(("name", "energy_kj_mol"), PUBLISHED_ENERGIES.items())
def test_minimum_lies_just_below_the_published_structure(name, energy_kj_mol, published):
    energy, _ = energy_and_force(published(name))
    assert energy_kj_mol - 1.5 < energy < energy_kj_mol


def test_published_structures_are_minima(published):
    _, forces = energy_and_force(published("alanine_dipeptide"))
    # ten times the minimizer's own root mean square tolerance, 0.01 kJ/mol/nm, for a single component
    assert np.abs(forces).max() < 0.1


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_data_files_come_from_their_recipe(name, published):
    recipe = re.findall(
        rf'"{name}": \("([A-Z-]+)", "([a-z0-9-]+)", ([-.\d]+), ([-.\d]+)\)', (DATA / "README.md").read_text()
    )
    ((sequence, force_field, phi, psi),) = recipe
    topology, start_nm = peptides.build_peptide(
        sequence, force_field=force_field, phi_degrees=float(phi), psi_degrees=float(psi)
    )
    system = force_fields.create_system(topology, force_field)
    positions_nm, energy_kj_mol = minimize.minimize(system, start_nm)
    molecule = published(name)
    assert topology_facts(topology) == topology_facts(molecule.topology)
    assert force_field == molecule.force_field
    # The same minimum: the minimizer's last steps change the energy by less than 1e-4 kJ/mol.
    assert energy_kj_mol == pytest.approx(energy_and_force(molecule)[0], abs=1e-4)
    _, shipped_nm = pdb_files.read_pdb(DATA / f"{name}.pdb")
    rms_nm = mdtraj.rmsd(*(mdtraj.Trajectory(x, None) for x in (positions_nm[None], shipped_nm[None])))
    # rounding of the PDB file, and soft torsions that another machine's minimizer leaves elsewhere
    assert rms_nm < 2e-3


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_save_and_load_are_exact(name, published, tmp_path):
    molecule = published(name)
    molecule.save(tmp_path / "run" / "molecule")
    loaded = molecules.load(tmp_path / "run" / "molecule")
    assert (loaded.name, loaded.force_field) == (molecule.name, molecule.force_field)
    np.testing.assert_array_equal(loaded.positions_nm, molecule.positions_nm)
    assert openmm.XmlSerializer.serialize(loaded.system) == openmm.XmlSerializer.serialize(molecule.system)
    assert topology_facts(loaded.topology) == topology_facts(molecule.topology)
    for field in dataclasses.fields(molecule.z_matrix):
        np.testing.assert_array_equal(getattr(loaded.z_matrix, field.name), getattr(molecule.z_matrix, field.name))
    assert energy_and_force(loaded)[0] == energy_and_force(molecule)[0]
    trajectory = mdtraj.load(tmp_path / "run" / "molecule" / "topology.pdb")
    assert [atom.name for atom in trajectory.topology.atoms] == [atom.name for atom in molecule.topology.atoms()]
    # the precision of a PDB file, 1e-4 nm
    np.testing.assert_allclose(trajectory.xyz[0], molecule.positions_nm, atol=6e-5)


def test_saving_leaves_no_half_written_directory(published, tmp_path, monkeypatch):
    molecule = published("alanine_dipeptide")

    def full_disk(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(type(molecule.z_matrix), "save", full_disk)
        with pytest.raises(OSError, match="no space left"):
            molecule.save(tmp_path / "molecule")
    assert list(tmp_path.iterdir()) == []
    molecule.save(tmp_path / "molecule")
    with pytest.raises(FileExistsError, match="must be new or empty"):
        molecule.save(tmp_path / "molecule")


def test_loading_from_elsewhere_is_refused(published, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no saved molecule, it lacks system\.xml"):
        molecules.load(tmp_path)
    published("alanine_dipeptide").save(tmp_path / "molecule")
    np.save(tmp_path / "molecule" / "positions_nm.npy", np.zeros((3, 3)))
    with pytest.raises(ValueError, match="must have one number of atoms"):
        molecules.load(tmp_path / "molecule")


def test_peptide_takes_the_lowest_of_its_minima():
    molecule = molecules.peptide("ACE-ALA-ALA-ALA-NME", force_field=FORCE_FIELD)
    assert molecule.name == "ACE-ALA-ALA-ALA-NME"
    # the right-handed helix; found so by a random search over backbones as well
    assert energy_and_force(molecule)[0] == pytest.approx(-126.9244, abs=1e-3)
    again = molecules.peptide("ACE-ALA-ALA-ALA-NME", force_field=FORCE_FIELD)
    np.testing.assert_array_equal(again.positions_nm, molecule.positions_nm)


@pytest.fixture
def dipeptide_lines():
    return (DATA / "alanine_dipeptide.pdb").read_text().splitlines()


def write(path, lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_from_pdb_keeps_hydrogens_and_adds_missing_ones(dipeptide_lines, tmp_path):
    whole = molecules.from_pdb(write(tmp_path / "whole.pdb", dipeptide_lines), force_field=FORCE_FIELD)
    heavy = [line for line in dipeptide_lines if not line[12:16].strip().startswith("H")]
    completed = molecules.from_pdb(write(tmp_path / "heavy.pdb", heavy), force_field=FORCE_FIELD)
    assert (whole.name, completed.name) == ("whole", "heavy")
    assert topology_facts(whole.topology) == topology_facts(completed.topology)
    assert energy_and_force(whole)[0] == pytest.approx(energy_and_force(completed)[0], abs=1e-4)
    # Glutamic acid, protonated in the file, stays so although it is charged at pH 7.
    topology, start_nm = peptides.build_peptide(
        "ACE-GLU-NME", force_field=FORCE_FIELD, phi_degrees=-75.0, psi_degrees=145.0
    )
    pdb_files.write_pdb(topology, start_nm, tmp_path / "glu.pdb")
    lines = (tmp_path / "glu.pdb").read_text().splitlines()
    (oxygen,) = (line for line in lines if line[12:16].strip() == "OE2")
    proton = oxygen[:12] + " HE2" + oxygen[16:30] + f"{float(oxygen[30:38]) + 0.97:8.3f}" + oxygen[38:76] + " H"
    lines.insert(lines.index(oxygen) + 1, proton)
    acid = molecules.from_pdb(write(tmp_path / "glh.pdb", lines), force_field=FORCE_FIELD)
    assert acid.topology.getNumAtoms() == topology.getNumAtoms() + 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], "has no atoms"),
        (lambda lines: ["hello", "world"], "has no atoms"),
        (lambda lines: [*lines[:3], "ATOM   rubbish", *lines[3:]], "is no readable PDB file"),
        (lambda lines: [line for line in lines if " CB " not in line], "No template found for residue 1"),
        (lambda lines: [line.replace(" CB ", " XB ") for line in lines], "No template found for residue 1"),
        (lambda lines: [line.replace("ALA", "LIG") for line in lines], r"No template found for residue 1 \(LIG\)"),
        (
            lambda lines: [line[:30] + "   0.000" * 3 + line[54:] if "ALA" in line else line for line in lines],
            "lie closer",
        ),
        (
            lambda lines: [line[:30] + "     nan" * 3 + line[54:] if "ALA" in line else line for line in lines],
            "not finite",
        ),
    ],
)
def test_bad_pdb_files_are_refused_in_one_line(change, message, dipeptide_lines, tmp_path):
    path = write(tmp_path / "bad.pdb", change(dipeptide_lines))
    with pytest.raises(ValueError, match=message) as error:
        molecules.from_pdb(path, force_field=FORCE_FIELD)
    assert "\n" not in str(error.value)


def test_missing_files_and_unknown_names():
    with pytest.raises(FileNotFoundError, match=r"no PDB file '/missing\.pdb'"):
        molecules.from_pdb("/missing.pdb", force_field=FORCE_FIELD)
    with pytest.raises(ValueError, match="force_field must be one of"):
        molecules.peptide("ALA", force_field="charmm36")
    with pytest.raises(ValueError, match="force_field must be one of"):
        molecules.from_pdb("/missing.pdb", force_field="charmm36")
    with pytest.raises(ValueError, match=r"name must be one of \['alanine_dipeptide', .*got 'alanine'"):
        molecules.published("alanine")
    with pytest.raises(AttributeError, match="no attribute 'unknown'"):
        molecules.unknown  # noqa: B018
