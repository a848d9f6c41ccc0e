import mdtraj
import numpy as np

from cmtjax.molecules import measure


def test_agrees_with_mdtraj():
    positions_nm = np.random.default_rng(0).normal(size=(20, 12, 3)).astype(np.float32)
    topology = mdtraj.Topology()
    residue = topology.add_residue("X", topology.add_chain())
    for _ in range(12):
        topology.add_atom("C", mdtraj.element.carbon, residue)
    trajectory = mdtraj.Trajectory(positions_nm, topology)
    rows = np.array([np.random.default_rng(seed).permutation(12)[:4] for seed in range(30)])
    positions_nm = positions_nm.astype(np.float64)
    # mdtraj computes in float32; the acos of its angles loses half the digits near 0 and π.
    np.testing.assert_allclose(
        measure.distances(positions_nm, rows[:, :2]), mdtraj.compute_distances(trajectory, rows[:, :2]), atol=1e-6
    )
    np.testing.assert_allclose(
        measure.angles(positions_nm, rows[:, :3]), mdtraj.compute_angles(trajectory, rows[:, :3]), atol=2e-3
    )
    difference = measure.dihedrals(positions_nm, rows) - mdtraj.compute_dihedrals(trajectory, rows)
    # A float32 dihedral of nearly collinear atoms is less exact than of others.
    np.testing.assert_allclose(np.exp(1j * difference), 1.0, atol=1e-3)


def test_dihedral_sign_and_turn():
    # Looking along the middle bond, the far bond is a quarter turn clockwise from the near one: +90 degrees.
    positions_nm = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, -1.0]])
    dihedral = measure.dihedrals(positions_nm, np.array([[0, 1, 2, 3]]))
    np.testing.assert_allclose(dihedral, [np.pi / 2], atol=1e-15)
    np.testing.assert_allclose(measure.turns(dihedral), [0.75], atol=1e-15)


def test_turns_stay_below_one():
    turns = measure.turns(np.array([-np.pi, np.pi, np.nextafter(np.pi, 0), 0.0]))
    assert np.all((turns >= 0) & (turns < 1))
    assert turns[1] == 0.0
