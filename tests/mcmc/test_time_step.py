"""Normal modes against closed forms, and the shift of leapfrog dynamics against its exact stationary state."""

import jax
import numpy as np
import openmm
import pytest
from scipy import linalg

from cmtjax.energies import amber_energy
from cmtjax.mcmc.time_step import leapfrog_energy_shift, normal_mode_frequencies

MASSES = (16.0, 1.0, 12.0)
LENGTHS = (0.1, 0.15)
ANGLE, BEND = 1.9, 400.0
KT = 300 * 8.31446261815324e-3


def _trimer(stiffness=None):
    """Atom 0 bonded to 1 and 2, rigidly or by springs of ``stiffness``, with a harmonic angle; and its minimum."""
    system, bonds, angles = openmm.System(), openmm.HarmonicBondForce(), openmm.HarmonicAngleForce()
    for mass in MASSES:
        system.addParticle(mass)
    for end, length in zip((1, 2), LENGTHS, strict=True):
        if stiffness is None:
            system.addConstraint(0, end, length)
        else:
            bonds.addBond(0, end, length, stiffness)
    angles.addAngle(1, 0, 2, ANGLE, BEND)
    for force in (bonds, angles):
        system.addForce(force)
    return system, np.array([[0, 0, 0], [0.1, 0, 0], [0.15 * np.cos(ANGLE), 0.15 * np.sin(ANGLE), 0]])


def _g_matrix():
    """Wilson's G matrix of both bonds and the angle (Wilson, Decius and Cross, Molecular Vibrations, Appendix VI)."""
    center, first, second = 1 / np.array(MASSES)
    r1, r2 = LENGTHS
    cosine, sine = np.cos(ANGLE), np.sin(ANGLE)
    bend = first / r1**2 + second / r2**2 + center * (1 / r1**2 + 1 / r2**2 - 2 * cosine / (r1 * r2))
    return np.array(
        [
            [first + center, center * cosine, -center * sine / r2],
            [center * cosine, second + center, -center * sine / r1],
            [-center * sine / r2, -center * sine / r1, bend],
        ]
    )


def test_modes_of_a_trimer_are_wilsons():
    system, minimum = _trimer(stiffness=2e5)
    squares = np.sort(linalg.eigvals(_g_matrix() @ np.diag([2e5, 2e5, BEND])).real)
    # Central differences of forces: 1e-6 of the largest second derivative, which the softest mode is a tenth of.
    np.testing.assert_allclose(normal_mode_frequencies(system, minimum), np.sqrt(squares), rtol=1e-4)


def test_rigid_bonds_leave_one_mode():
    system, minimum = _trimer()
    # With both bonds fixed the kinetic energy is ½ (G⁻¹)_θθ θ̇².
    expected = np.sqrt(BEND / np.linalg.inv(_g_matrix())[2, 2])
    np.testing.assert_allclose(normal_mode_frequencies(system, minimum), [expected], rtol=1e-4)


def test_forces_along_rigid_bonds_count():
    """Two charges at the ends of rigid bonds pull on them: the bonds' turning is stiffer by the tension."""
    system, minimum = _trimer()
    force = openmm.CustomBondForce("100 / r")
    force.addBond(1, 2, [])
    system.addForce(force)

    def energy(angle):
        distance = np.sqrt(LENGTHS[0] ** 2 + LENGTHS[1] ** 2 - 2 * LENGTHS[0] * LENGTHS[1] * np.cos(angle))
        return 0.5 * BEND * (angle - ANGLE) ** 2 + 100 / distance

    angles = np.linspace(ANGLE - 0.5, ANGLE + 1.2, 200_001)
    values = energy(angles)
    lowest = np.argmin(values)
    step = angles[1] - angles[0]
    curvature = (values[lowest + 100] - 2 * values[lowest] + values[lowest - 100]) / (100 * step) ** 2
    center, first, second = 1 / np.array(MASSES)
    cosine, sine = np.cos(angles[lowest]), np.sin(angles[lowest])
    r1, r2 = LENGTHS
    g = np.array(
        [
            [first + center, center * cosine, -center * sine / r2],
            [center * cosine, second + center, -center * sine / r1],
            [-center * sine / r2, -center * sine / r1, 0.0],
        ]
    )
    g[2, 2] = first / r1**2 + second / r2**2 + center * (1 / r1**2 + 1 / r2**2 - 2 * cosine / (r1 * r2))
    expected = np.sqrt(curvature / np.linalg.inv(g)[2, 2])
    # The minimum is found to 1e-3 kJ/mol/nm, and the second difference is off by its step squared.
    np.testing.assert_allclose(normal_mode_frequencies(system, minimum), [expected], rtol=1e-4)


@pytest.mark.parametrize("time_step_fs", [0.5, 1.0, 2.0])
def test_shift_is_that_of_langevin_leapfrog(time_step_fs):
    """Stationary covariance of v ← a v − (1−a)/γ ω² x + noise, x ← x + v Δt, by the discrete Lyapunov equation."""
    system, minimum = _trimer(stiffness=2e5)
    with jax.enable_x64(True):
        hessian = np.asarray(jax.jit(jax.hessian(amber_energy(system)))(minimum)).reshape(9, 9)
    scale = np.repeat(MASSES, 3) ** -0.5
    squares = linalg.eigvalsh(hessian * np.outer(scale, scale))[6:]
    step, friction = 1e-3 * time_step_fs, 1.0
    damping = np.exp(-friction * step)
    potential = 0.0
    for square in squares:
        kick = (1 - damping) / friction * square
        transition = np.array([[1 - step * kick, step * damping], [-kick, damping]])
        noise = KT * (1 - damping**2) * np.array([[step**2, step], [step, 1]])
        potential += 0.5 * square * linalg.solve_discrete_lyapunov(transition, noise)[0, 0]
    shift = potential - 0.5 * KT * len(squares)
    # The friction itself shifts by (γ Δt)²/12 of ½ kT a mode, below 1e-6, and central differences as above.
    np.testing.assert_allclose(leapfrog_energy_shift(system, minimum, time_step_fs), shift, rtol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_step_fs": 0.0}, "time_step_fs must be positive and finite, got 0.0"),
        ({"temperature_kelvin": np.inf}, "temperature_kelvin must be positive and finite, got inf"),
        ({"time_step_fs": 20.0}, "time_step_fs must be below"),
        ({"positions_nm": np.zeros((2, 3))}, r"positions_nm must have shape \(3, 3\), got \(2, 3\)"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    system, minimum = _trimer(stiffness=2e5)
    with pytest.raises(ValueError, match=message):
        leapfrog_energy_shift(**({"system": system, "positions_nm": minimum, "time_step_fs": 1.0} | arguments))


def test_an_atom_without_mass_is_refused():
    system, minimum = _trimer(stiffness=2e5)
    system.setParticleMass(1, 0.0)
    with pytest.raises(ValueError, match="every atom a mass, got none for atom 1"):
        normal_mode_frequencies(system, minimum)
