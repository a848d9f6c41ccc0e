"""log|dx/du| against the Jacobian of the whole map from 3N coordinates to 3N positions, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax import molecules

NUM_POINTS = 50  # of every batch, so that the map compiles once for each precision


def place_textbook(z_matrix, bonds, angles, torsions):
    """(atoms, 3), one atom after the other from three positions; the first at the origin, the second above it."""
    _, second, third = z_matrix.initial_atoms.tolist()
    tilted = jnp.stack([jnp.sin(angles[0]), jnp.zeros(()), -jnp.cos(angles[0])])
    atoms = jnp.zeros((z_matrix.num_atoms, 3)).at[second, 2].set(bonds[0])
    atoms = atoms.at[third].set(atoms[second] + bonds[1] * tilted)

    def place(atoms, row_and_values):
        (i, j, k, l), r, theta, tau = row_and_values  # noqa: E741
        axis = (atoms[j] - atoms[k]) / jnp.linalg.norm(atoms[j] - atoms[k])
        normal = jnp.cross(atoms[k] - atoms[l], axis)
        normal = normal / jnp.linalg.norm(normal)
        local = jnp.stack([-jnp.cos(theta), jnp.sin(theta) * jnp.cos(tau), jnp.sin(theta) * jnp.sin(tau)])
        position = atoms[j] + r * (jnp.stack([axis, jnp.cross(normal, axis), normal], axis=1) @ local)
        return atoms.at[i].set(position), None

    return jax.lax.scan(place, atoms, (z_matrix.rows, bonds[2:], angles[1:], torsions))[0]


def rotation_z(angle):
    c, s, zero, one = jnp.cos(angle), jnp.sin(angle), jnp.zeros(()), jnp.ones(())
    return jnp.stack([jnp.stack([c, -s, zero]), jnp.stack([s, c, zero]), jnp.stack([zero, zero, one])])


def rotation_y(cosine):
    c, s, zero, one = cosine, jnp.sqrt(1 - cosine**2), jnp.zeros(()), jnp.ones(())
    return jnp.stack([jnp.stack([c, zero, s]), jnp.stack([zero, one, zero]), jnp.stack([-s, zero, c])])


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_log_det_is_that_of_the_full_jacobian(name, case):
    z_matrix, coordinates = case(name).molecule.z_matrix, case(name).coordinates
    atoms, num_dims = z_matrix.num_atoms, coordinates.domain.num_dims
    constrained = z_matrix.bond_is_constrained
    num_free = int(np.sum(~constrained))
    center, width = coordinates.window_center, coordinates.window_width

    def full_map(variables):
        """Position of the first atom, α/2π, cos β, γ/2π, constrained bonds (nm), u -> all positions."""
        translation, (alpha, cos_beta, gamma) = variables[:3], variables[3:6]
        fixed, u = variables[6 : 6 + constrained.sum()], variables[6 + constrained.sum() :]
        values = center + width * (u - 0.5)
        bonds = jnp.zeros(atoms - 1).at[~constrained].set(values[:num_free]).at[constrained].set(fixed)
        angles, torsions = values[num_free : num_free + atoms - 2], values[num_free + atoms - 2 :]
        rotation = rotation_z(2 * jnp.pi * alpha) @ rotation_y(cos_beta) @ rotation_z(2 * jnp.pi * gamma)
        return translation + place_textbook(z_matrix, bonds, angles, torsions) @ rotation.T

    with jax.enable_x64(True):
        generator = np.random.default_rng(3)
        points = generator.uniform(size=(NUM_POINTS, num_dims))
        rigid = np.concatenate([generator.normal(size=3), [0.3, -0.4, 0.8]])
        variables = jnp.asarray(np.concatenate([rigid, z_matrix.bond_reference_nm[constrained], points[0]]))
        assert variables.size == 3 * atoms
        positions, log_det = (array[0] for array in case(name).to_physical(jnp.asarray(points)))
        assert log_det.dtype == jnp.float64
        jacobian = jax.jit(jax.jacobian(full_map))(variables).reshape(3 * atoms, 3 * atoms)
        # Double precision, through the elimination of a matrix of 225 rows at most.
        np.testing.assert_allclose(log_det, jnp.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-10)

        # The same molecule, not only the same volume: equal up to a rotation without reflection.
        expected = np.asarray(full_map(variables))
        left, _, right = np.linalg.svd((expected - expected.mean(0)).T @ (positions - positions.mean(0)))
        rotation = left @ right
        assert np.linalg.det(rotation) > 0
        # Double precision times the levers of the chain.
        np.testing.assert_allclose(
            (positions - positions.mean(0)) @ rotation.T, expected - expected.mean(0), rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("name", molecules.PUBLISHED_NAMES)
def test_log_det_keeps_its_digits_in_single_precision(name, case):
    coordinates = case(name).coordinates
    u = np.random.default_rng(4).uniform(size=(NUM_POINTS, coordinates.domain.num_dims)).astype(np.float32)
    log_det = case(name).to_physical(u)[1]
    assert log_det.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = case(name).to_physical(jnp.asarray(u, jnp.float64))[1]
    # Four units in the last place of a number up to 300.
    np.testing.assert_allclose(log_det, exact, rtol=0, atol=4 * np.spacing(np.float32(300)))
