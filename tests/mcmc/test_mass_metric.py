"""The mass-metric term against its definition by automatic differentiation, and against constrained dynamics."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm
import pytest
from openmm import unit

from cmtjax.mcmc.mass_metric import mass_metric_log_weights

MASSES = (12.0, 1.0, 14.0, 1.0, 16.0)
CONSTRAINTS = ((0, 1, 0.11), (0, 2, 0.15), (3, 2, 0.1), (2, 4, 0.13))


def _system():
    system = openmm.System()
    for mass in MASSES:
        system.addParticle(mass)
    for constraint in CONSTRAINTS:
        system.addConstraint(*constraint)
    return system


def test_it_is_the_determinant_of_the_definition():
    positions = np.random.default_rng(0).normal(size=(6, 5, 3))

    def sigma(x):
        return jnp.stack([jnp.linalg.norm(x[i] - x[j]) - length for i, j, length in CONSTRAINTS])

    with jax.enable_x64(True):
        jacobian = np.asarray(jax.vmap(jax.jacobian(sigma))(jnp.asarray(positions)))
    z = np.einsum("naix,nbix,i->nab", jacobian, jacobian, 1 / np.array(MASSES))
    # float64 in both.
    np.testing.assert_allclose(
        mass_metric_log_weights(_system(), positions), 0.5 * np.log(np.linalg.det(z)), rtol=1e-12
    )


def test_a_free_rigid_trimer_bends_as_the_weights_say():
    """A trimer of two fixed bonds and no forces: target and dynamics differ in the angle by |Z|^½ alone."""
    system = openmm.System()
    for mass in (20.0, 1.0, 20.0):  # a light middle makes the term large
        system.addParticle(mass)
    system.addConstraint(0, 1, 0.1)
    system.addConstraint(1, 2, 0.1)
    integrator = openmm.LangevinMiddleIntegrator(300, 20 / unit.picosecond, 2 * unit.femtosecond)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions([[0.1, 0, 0], [0, 0, 0], [0, 0.1, 0]])
    context.setVelocitiesToTemperature(300, 2)
    cosines = []
    for _ in range(20_000):
        integrator.step(100)
        x = context.getState(getPositions=True).getPositions(asNumpy=True)._value
        cosines.append(np.dot(x[0] - x[1], x[2] - x[1]) / 0.01)
    # Of the target the cosine is uniform in (−1, 1): the volume factor sin θ dθ.
    grid = np.linspace(-1, 1, 2001)
    x = np.zeros((grid.size, 3, 3))
    x[:, 0, 0] = 0.1
    x[:, 2] = 0.1 * np.stack([grid, np.sqrt(np.maximum(1 - grid**2, 0)), 0 * grid], axis=1)
    weights = np.exp(mass_metric_log_weights(system, x))
    expected = np.sum(weights * grid**2) / weights.sum()
    blocks = np.mean(np.square(cosines).reshape(40, -1), axis=1)
    error = blocks.std() / np.sqrt(40)
    assert abs(blocks.mean() - expected) < 4 * error
    # And the dynamics is far from the target itself, whose mean square is one third.
    assert abs(expected - 1 / 3) > 8 * error


def test_no_constraints_no_weights():
    system = openmm.System()
    for mass in MASSES:
        system.addParticle(mass)
    np.testing.assert_array_equal(mass_metric_log_weights(system, np.zeros((3, 5, 3))), 0)
    with pytest.raises(ValueError, match="positions_nm"):
        mass_metric_log_weights(system, np.zeros((3, 4, 3)))
