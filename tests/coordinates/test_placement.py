"""Positions against mdtraj and OpenMM, and their gradients."""

import itertools

import jax
import jax.numpy as jnp
import mdtraj
import numpy as np
import openmm
import pytest

from cmtjax import molecules
from cmtjax.coordinates import internal_coordinates


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_coordinates_agree_with_mdtraj(name, case, likely_points):
    z_matrix, coordinates = case(name).molecule.z_matrix, case(name).coordinates
    u = likely_points(coordinates, 50, seed=0).astype(np.float32)
    trajectory = mdtraj.Trajectory(
        np.array(case(name).to_physical(u)[0]), mdtraj.Topology.from_openmm(case(name).molecule.topology)
    )
    values = coordinates.window_center + coordinates.window_width * (u.astype(np.float64) - 0.5)
    num_free = int(np.sum(~z_matrix.bond_is_constrained))
    bonds = np.tile(z_matrix.bond_reference_nm, (50, 1))
    bonds[:, ~z_matrix.bond_is_constrained] = values[:, :num_free]
    angles, torsions = np.split(values[:, num_free:], [z_matrix.num_atoms - 2], axis=1)

    first, second, third = z_matrix.initial_atoms
    bond_atoms = np.concatenate([[[first, second], [second, third]], z_matrix.rows[:, :2]])
    angle_atoms = np.concatenate([[[first, second, third]], z_matrix.rows[:, :3]])
    # Positions are rounded to 6e-8 nm and differences of a bond to some 2e-7.
    np.testing.assert_allclose(mdtraj.compute_distances(trajectory, bond_atoms), bonds, rtol=0, atol=5e-7)
    # That rounding over a bond of 0.1 nm; mdtraj's arccos loses digits where the sine is small (0.2 at least here).
    np.testing.assert_allclose(mdtraj.compute_angles(trajectory, angle_atoms), angles, rtol=0, atol=5e-5)
    # The same over the sine of the angles at the axis; the few rows near a straight angle would need more.
    difference = np.angle(np.exp(1j * (mdtraj.compute_dihedrals(trajectory, z_matrix.rows) - torsions)))
    assert np.quantile(np.abs(difference), 0.99) < 5e-5
    assert np.abs(difference).max() < 5e-3


@pytest.mark.parametrize("residue", ["PRO", "TRP"])
def test_rings_agree_with_mdtraj(residue):
    """In rings a row may refer to an atom that is bound to its axis only by the bond that closes the ring."""
    molecule = molecules.peptide(f"ACE-{residue}-NME", force_field="amber99sbildn-obc2")
    coordinates = internal_coordinates(molecule)
    minimum = coordinates.from_physical(jnp.asarray(molecule.positions_nm, jnp.float32))[0]
    u = jnp.clip(minimum + 0.02 * jax.random.normal(jax.random.key(0), (20, minimum.size)), 0.0, 1.0)
    positions_nm, log_det = jax.jit(coordinates.to_physical)(u)
    trajectory = mdtraj.Trajectory(np.array(positions_nm), mdtraj.Topology.from_openmm(molecule.topology))
    torsions = (coordinates.window_center + coordinates.window_width * (np.float64(u) - 0.5))[
        :, -len(molecule.z_matrix.rows) :
    ]
    dihedrals = mdtraj.compute_dihedrals(trajectory, molecule.z_matrix.rows)
    # As above: rounded positions over bonds of 0.1 nm and the sines of the angles at the axis.
    assert np.abs(np.angle(np.exp(1j * (dihedrals - torsions)))).max() < 5e-4
    back, log_det_back, _ = jax.jit(coordinates.from_physical)(positions_nm)
    # A torsion that is rounded across the edge of its window comes back on the other side.
    np.testing.assert_allclose(np.abs(np.mod(back - u + 0.5, 1.0) - 0.5), 0.0, atol=1e-4)
    np.testing.assert_allclose(log_det_back, log_det, rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda u: jnp.sum(coordinates.to_physical(u)[0] ** 2)))(u)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_energy_of_the_minimum(name, case):
    molecule = case(name).molecule
    u, _, in_domain = case(name).from_physical(jnp.asarray(molecule.positions_nm, jnp.float32))
    assert in_domain
    positions_nm, _ = case(name).to_physical(u)
    assert positions_nm.dtype == jnp.float32
    context = openmm.Context(
        molecule.system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference")
    )
    energies = []
    for positions in (molecule.positions_nm, np.asarray(positions_nm, np.float64)):
        context.setPositions(positions)
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    # At a minimum errors of 5e-7 nm count in second order (3e5 kJ/mol/nm² each bond) and times the residual force.
    np.testing.assert_allclose(energies[1], energies[0], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_levels_follow_the_backbone(name, case):
    z_matrix, placement = case(name).molecule.z_matrix, case(name).coordinates.placement
    assert sorted(np.concatenate([level.rows for level in placement.levels])) == list(range(len(z_matrix.rows)))
    assert sorted(placement.slots) == list(range(z_matrix.num_atoms))
    # Depth by another route: relax until nothing changes.
    depth = np.zeros(z_matrix.num_atoms, int)
    for _ in range(z_matrix.num_atoms):
        depth[z_matrix.rows[:, 0]] = depth[z_matrix.rows[:, 1:]].max(axis=1) + 1
    assert len(placement.levels) == depth.max() < z_matrix.num_atoms / 2


@pytest.mark.parametrize(
    "name",
    [
        "alanine_dipeptide",
        *(pytest.param(name, marks=pytest.mark.slow) for name in molecules.PUBLISHED_NAMES[1:]),
    ],
)
def test_gradients_are_finite_in_the_whole_box(name, case):
    coordinates, num_dims = case(name).coordinates, case(name).coordinates.domain.num_dims
    generator = np.random.default_rng(5)
    inside = generator.uniform(size=(40, num_dims))
    on_faces = np.where(generator.uniform(size=(40, num_dims)) < 0.3, generator.integers(0, 2, (40, num_dims)), inside)
    corners = generator.integers(0, 2, (40, num_dims))
    constant = np.repeat([[0.0], [0.5], [1.0]], num_dims, axis=1)
    by_group = [np.array(values)[coordinates.domain.groups] for values in itertools.product([0.0, 0.5, 1.0], repeat=3)]
    u = jnp.asarray(np.concatenate([inside, on_faces, corners, constant, by_group]), jnp.float32)
    weights = generator.normal(size=(coordinates.num_atoms, 3)).astype(np.float32)

    @jax.jit
    def values_and_gradients(u):
        (positions_nm, log_det), pullback = jax.vjp(coordinates.to_physical, u)
        zero, one = jnp.zeros_like, jnp.ones_like
        along_positions = pullback((jnp.broadcast_to(weights, positions_nm.shape), zero(log_det)))[0]
        return positions_nm, log_det, along_positions, pullback((zero(positions_nm), one(log_det)))[0]

    positions_nm, log_det, along_positions, along_log_det = values_and_gradients(u)
    for array in (positions_nm, log_det, along_positions, along_log_det):
        assert np.all(np.isfinite(array))
    # Against central differences in float64, at the points inside.
    direction = generator.normal(size=(40, num_dims))
    inside = np.asarray(u[:40], np.float64)
    with jax.enable_x64(True):
        ends = (inside + 1e-6 * direction, inside - 1e-6 * direction)
        above, below = (jax.tree.map(np.asarray, case(name).to_physical(jnp.asarray(end))) for end in ends)
    slope = np.sum(weights * (above[0] - below[0]), axis=(1, 2)) / 2e-6
    log_det_slope = (above[1] - below[1]) / 2e-6
    along_positions, along_log_det = np.asarray(along_positions[:40]), np.asarray(along_log_det[:40])
    # float32 sums over some 100 dims; the bound is relative to their size, as terms cancel. A tenth of the points may
    # have a frame close to a straight angle, which amplifies rounding.
    error = np.abs(np.sum(along_positions * direction, axis=1) - slope)
    assert np.quantile(error / np.linalg.norm(along_positions, axis=1), 0.9) < 1e-4
    np.testing.assert_allclose(np.sum(along_log_det * direction, axis=1), log_det_slope, rtol=1e-4, atol=1e-3)


def test_gradient_is_finite_where_a_frame_is_straight(make_z_matrix):
    # Atom 3 lies in the direction of atom 0 from 1 where both make the same angle with 2 and the torsion is 0, so
    # that 3, 1 and 0, which place atom 4, span no plane.
    coordinates = internal_coordinates(make_z_matrix(rows=[[3, 1, 2, 0], [4, 3, 1, 0]]))
    u = jnp.full(coordinates.domain.num_dims, 0.5)
    positions_nm, _ = coordinates.to_physical(u)
    # Float32 rounding of a sum of squares.
    assert jnp.linalg.norm(jnp.cross(positions_nm[3] - positions_nm[1], positions_nm[0] - positions_nm[1])) < 1e-7
    assert np.all(np.isfinite(jax.jacobian(lambda u: coordinates.to_physical(u)[0])(u)))
