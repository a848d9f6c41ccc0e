"""Frames from elsewhere: atoms in another order and under other names, files of every kind, interrupted imports."""

import tracemalloc

import jax
import mdtraj
import numpy as np
import openmm
import pytest
from openmm import unit

from cmtjax import datasets
from cmtjax.datasets.frames import hydrogen_groups
from cmtjax.energies import OpenMMPool

NUM_FRAMES = 25

# How GROMACS and Amber call some atoms, by the names that the molecules here have.
FOREIGN_NAMES = {
    "ACE": {"H1": "HH31", "H2": "2HH3", "H3": "HH33"},
    "NME": {"C": "CH3", "H1": "HH31", "H2": "HH32", "H3": "3HH3"},
    "GLU0": {"H": "H1"},
    "ILE": {"CD1": "CD"},
}


def foreign_name(residue, name):
    for key, names in FOREIGN_NAMES.items():
        if key in (residue.name, f"{residue.name}{residue.index}"):
            return names.get(name, name)
    return name


def simulated(molecule):
    """Frames of dynamics at 300 K, turned and moved."""
    integrator = openmm.LangevinMiddleIntegrator(300.0, 1.0, 0.001)
    integrator.setRandomNumberSeed(1)
    integrator.setConstraintTolerance(1e-7)
    context = openmm.Context(molecule.system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(molecule.positions_nm)
    context.setVelocitiesToTemperature(300.0, 1)
    frames = []
    for _ in range(NUM_FRAMES):
        integrator.step(4)
        frames.append(context.getState(positions=True).getPositions(asNumpy=True).value_in_unit(unit.nanometer))
    generator = np.random.default_rng(0)
    rotations = np.linalg.qr(generator.normal(size=(NUM_FRAMES, 3, 3)))[0]
    rotations *= np.linalg.det(rotations)[:, None, None]
    return np.array(frames) @ rotations + generator.normal(scale=0.5, size=(NUM_FRAMES, 1, 3))


@pytest.fixture(scope="module")
def tetrapeptide(published):
    return published("alanine_tetrapeptide")


@pytest.fixture(scope="module")
def frames(tetrapeptide):
    return simulated(tetrapeptide)


def shuffled(molecule, *, rename):
    """A topology with the atoms of every residue in another order, and that order."""
    generator = np.random.default_rng(2)
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    order = []
    for residue in molecule.topology.residues():
        copy = topology.add_residue(residue.name, chain)
        atoms = list(residue.atoms())
        for place in generator.permutation(len(atoms)):
            atom = atoms[place]
            name = foreign_name(residue, atom.name) if rename else atom.name
            topology.add_atom(name, mdtraj.element.get_by_symbol(atom.element.symbol), copy)
            order.append(atom.index)
    return topology, np.array(order)


@pytest.mark.parametrize("name", ["alanine_dipeptide", "alanine_tetrapeptide", "elil_tetrapeptide"])
def test_atoms_are_found_by_their_names(name, published, tmp_path):
    molecule = published(name)
    frames = np.repeat(molecule.positions_nm[None], 3, axis=0)
    topology, order = shuffled(molecule, rename=True)
    assert not np.array_equal(order, np.arange(len(order)))
    trajectory = mdtraj.Trajectory(np.float32(frames[:, order]), topology)
    trajectory.save_dcd(str(tmp_path / "frames.dcd"))
    trajectory[0].save_pdb(str(tmp_path / "topology.pdb"))
    read = datasets.import_trajectory(
        tmp_path / "frames.dcd", molecule, topology_path=tmp_path / "topology.pdb", chunk_size=2
    )
    chunks = list(read)
    assert [len(chunk) for chunk in chunks] == [2, 1]
    # float32 in Å
    np.testing.assert_allclose(np.concatenate(chunks), frames, atol=1e-6)
    np.save(tmp_path / "frames.npy", 10 * frames[:, order])
    read = datasets.import_npy(tmp_path / "frames.npy", molecule, topology_path=tmp_path / "topology.pdb")
    np.testing.assert_allclose(np.concatenate(list(read)), frames, atol=1e-12)


@pytest.mark.parametrize(("suffix", "tolerance_nm"), [("dcd", 1e-6), ("xtc", 6e-4), ("pdb", 6e-4)])
def test_files_of_every_kind(tetrapeptide, frames, tmp_path, suffix, tolerance_nm):
    topology = mdtraj.Topology.from_openmm(tetrapeptide.topology)
    path = tmp_path / f"frames.{suffix}"
    mdtraj.Trajectory(np.float32(frames), topology).save(str(path))
    # Without names, the order of the molecule is taken and checked.
    chunks = list(datasets.import_trajectory(path, tetrapeptide, chunk_size=10))
    assert [len(chunk) for chunk in chunks] == [10, 10, 5]
    np.testing.assert_allclose(np.concatenate(chunks), frames, atol=tolerance_nm)


def published_order(molecule):
    """The atoms as in the files of TA-BG: Amber's libraries, the dipeptide's ACE with a hydrogen first."""
    names = {
        "ACE": ["CH3", "H1", "H2", "H3", "C", "O"],
        "ALA": ["N", "H", "CA", "HA", "CB", "HB1", "HB2", "HB3", "C", "O"],
        "NME": ["N", "H", "C", "H1", "H2", "H3"],
    }
    if molecule.name == "alanine_dipeptide":
        names["ACE"][:2] = ["H1", "CH3"]
    index = {(atom.residue.index, atom.name): atom.index for atom in molecule.topology.atoms()}
    return [index[residue.index, name] for residue in molecule.topology.residues() for name in names[residue.name]]


@pytest.mark.parametrize("name", ["alanine_dipeptide", "alanine_tetrapeptide"])
@pytest.mark.parametrize("is_flat", [True, False])
def test_the_published_arrays_are_recognized(name, is_flat, published, frames, tmp_path):
    molecule = published(name)
    true = frames if name == "alanine_tetrapeptide" else np.repeat(molecule.positions_nm[None], 3, axis=0)
    for order in (published_order(molecule), np.arange(true.shape[1])):
        angstrom = np.float32(10 * true[:, order])
        np.save(tmp_path / "frames.npy", angstrom.reshape(len(true), -1) if is_flat else angstrom)
        read = np.concatenate(list(datasets.import_npy(tmp_path / "frames.npy", molecule, chunk_size=10)))
        np.testing.assert_allclose(read, true, atol=1e-6)  # float32 in Å


def test_an_npy_file_is_not_read_at_once(tetrapeptide, frames, tmp_path):
    path = tmp_path / "frames.npy"
    np.save(path, np.tile(np.float32(10 * frames), (400, 1, 1)))
    chunk_bytes = 100 * frames[0].nbytes
    tracemalloc.start()
    try:
        num_frames = sum(len(chunk) for chunk in datasets.import_npy(path, tetrapeptide, chunk_size=100))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert num_frames == 400 * NUM_FRAMES
    # A chunk as read, in nm and reordered, one before it, and what measuring the first takes.
    assert peak < 10 * chunk_bytes < 0.2 * path.stat().st_size


def test_an_impossible_order_is_refused(tetrapeptide, frames, tmp_path):
    path = tmp_path / "frames.npy"
    generator = np.random.default_rng(3)
    np.save(path, 10 * frames[:, generator.permutation(frames.shape[1])])
    with pytest.raises(ValueError, match=r"\w+\d:\w+ and \w+\d:\w+ must be bonded at 0\.\d+ ± 0\.035 nm, got a median"):
        datasets.import_npy(path, tetrapeptide)
    np.save(path, frames)  # nm
    with pytest.raises(ValueError, match="in another unit"):
        datasets.import_npy(path, tetrapeptide)
    topology, _ = shuffled(tetrapeptide, rename=False)
    mdtraj.Trajectory(np.float32(frames), topology).save(str(tmp_path / "mislabeled.pdb"))
    with pytest.raises(ValueError, match="must be bonded"):
        datasets.import_trajectory(tmp_path / "mislabeled.pdb", tetrapeptide)


def test_other_atoms_are_refused(published, tetrapeptide, frames, tmp_path):
    other = published("alanine_dipeptide")
    topology = mdtraj.Topology.from_openmm(other.topology)
    path = tmp_path / "other.pdb"
    mdtraj.Trajectory(np.float32(other.positions_nm), topology).save(str(path))
    with pytest.raises(
        ValueError, match=r"22 atoms must be the molecule's 42; .* it lacks is ALA2:N, .* molecule lacks NME2:N"
    ):
        datasets.import_trajectory(path, tetrapeptide)
    np.save(tmp_path / "frames.npy", frames[:, :-1])
    with pytest.raises(
        ValueError, match=r"shape \(frames, 126\) or \(frames, 42, 3\), got float64 of shape \(25, 41, 3\)"
    ):
        datasets.import_npy(tmp_path / "frames.npy", tetrapeptide)


def test_files_that_will_not_do(tetrapeptide, frames, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"path must be a file, but .*none\.npy"):
        datasets.import_npy(tmp_path / "none.npy", tetrapeptide)
    with pytest.raises(FileNotFoundError, match="path must be a file"):
        datasets.import_trajectory(tmp_path / "none.dcd", tetrapeptide)
    np.save(tmp_path / "frames.npy", 10 * frames)
    with pytest.raises(FileNotFoundError, match=r"topology_path must be a file, but .*none\.pdb"):
        datasets.import_npy(tmp_path / "frames.npy", tetrapeptide, topology_path=tmp_path / "none.pdb")
    with pytest.raises(ValueError, match="has no topology that mdtraj reads"):
        datasets.import_npy(tmp_path / "frames.npy", tetrapeptide, topology_path=tmp_path / "frames.npy")
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        datasets.import_npy(tmp_path / "frames.npy", tetrapeptide, chunk_size=0)
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "broken.dcd").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=r"no readable \.npy file"):
        datasets.import_npy(tmp_path / "broken.npy", tetrapeptide)
    with pytest.raises(ValueError, match="cannot be read"):
        datasets.import_trajectory(tmp_path / "broken.dcd", tetrapeptide)
    np.save(tmp_path / "empty.npy", np.zeros((0, 126)))
    with pytest.raises(ValueError, match="has no frames"):
        datasets.import_npy(tmp_path / "empty.npy", tetrapeptide)
    np.save(tmp_path / "nan.npy", np.where(np.arange(NUM_FRAMES)[:, None, None] == 13, np.nan, 10 * frames))
    with pytest.raises(ValueError, match="frame 13 of the file is not finite"):
        list(datasets.import_npy(tmp_path / "nan.npy", tetrapeptide, chunk_size=10))


def peculiar(molecule, frames):
    """Frame 3 with exchanged hydrogens, 12 mirrored, 20 with a bond too long."""
    frames = frames.copy()
    pair = hydrogen_groups(molecule.z_matrix)[1].pair
    frames[3, list(pair)] = frames[3, list(pair[::-1])]
    frames[12] *= [1.0, 1.0, -1.0]
    names = molecule.z_matrix.atom_names
    oxygen, carbon = names.index("ACE0:O"), names.index("ACE0:C")
    frames[20, oxygen] += 0.5 * (frames[20, oxygen] - frames[20, carbon])
    return frames


@pytest.fixture(scope="module")
def dipeptide(published):
    return published("alanine_dipeptide")


@pytest.fixture(scope="module")
def pool(dipeptide):
    with OpenMMPool(dipeptide.system, num_workers=1, platform="CPU") as pool:
        yield pool


def test_import(dipeptide, pool, tmp_path):
    frames = simulated(dipeptide)
    order = published_order(dipeptide)
    np.save(tmp_path / "frames.npy", 10 * peculiar(dipeptide, frames)[:, order].reshape(NUM_FRAMES, -1))
    done = []

    def import_into(directory, progress=None, **changes):
        settings = {"temperature_kelvin": 300.0, "chunk_size": 10, "progress": progress}
        datasets.import_data_set(
            tmp_path / "frames.npy", tmp_path / directory, dipeptide, pool.energy, **(settings | changes)
        )

    import_into("whole", done.append)
    assert done == [10, 20, 25]
    data = datasets.open_data_set(tmp_path / "whole")
    assert (data.num_draws, data.num_chains, data.is_finished) == (NUM_FRAMES, 1, True)
    assert data.metadata["engine"] == "import"
    assert data.metadata["settings"]["atom_order"] == "Amber"

    # The points are those of the frames: internal coordinates in float64, and back.
    u = data.u()[:, 0]
    expected_frames = frames.copy()
    expected_frames[[12, 20]] = peculiar(dipeptide, frames)[[12, 20]]
    ordinary = np.delete(np.arange(NUM_FRAMES), 12)
    positions_nm, _ = jax.jit(data.coordinates.to_physical)(u[ordinary])
    distances = [
        np.linalg.norm(x[:, :, None] - x[:, None], axis=-1)
        for x in (np.asarray(positions_nm), expected_frames[ordinary])
    ]
    np.testing.assert_allclose(distances[0], distances[1], atol=1e-5)  # nm; u in float32

    # Energies are those of OpenMM at the frames, which relabeling leaves as they are.
    context = openmm.Context(
        dipeptide.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    energies = []
    for frame in expected_frames:
        context.setPositions(frame)
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    # kJ/mol; positions rebuilt from u in float32, and stiff bonds
    np.testing.assert_allclose(data.energy_kj_mol()[ordinary, 0], np.array(energies)[ordinary], atol=0.05)

    diagnostics = dict(data.metadata["diagnostics"])
    by_part = diagnostics.pop("frames_by_part")
    assert diagnostics == {
        "num_frames": NUM_FRAMES,
        "frames_outside_box": 2,
        "frames_with_wrong_chirality": 1,
        "frames_with_cis_peptide_bond": 0,
        "frames_with_permuted_hydrogens": 2,
        "frames_with_relabeled_hydrogens": 2,
        "frames_violating_constraints": 0,
        "mixed": None,
        "mixing_problems": [],
    }
    assert by_part["frames_outside_box"] == {"bonds": 1, "torsions": 1}
    assert by_part["frames_with_wrong_chirality"] == {"ALA1:CA": 1}
    assert by_part["frames_with_relabeled_hydrogens"]["ALA1:CB"] == 2

    def interrupt(num_frames):
        if num_frames == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_into("interrupted", interrupt)
    unfinished = datasets.open_data_set(tmp_path / "interrupted")
    assert (unfinished.num_draws, unfinished.is_finished) == (20, False)
    with pytest.raises(ValueError, match=r"settings\.chunk_size is 10 there and 5 here"):
        import_into("interrupted", chunk_size=5)
    import_into("interrupted")
    resumed = datasets.open_data_set(tmp_path / "interrupted")
    np.testing.assert_allclose(resumed.u(), data.u(), atol=1e-6)  # the last chunk was compiled for its own size
    assert resumed.metadata["diagnostics"] == data.metadata["diagnostics"]
    with pytest.raises(ValueError, match="is finished"):
        import_into("interrupted")
