"""What the finite time step of leapfrog dynamics adds to a molecule's mean potential energy.

Leapfrog, velocity Verlet and Langevin integrators built on them (BBK; older versions of OpenMM's LangevinIntegrator)
sample a harmonic mode of angular frequency ω with the mean energy ½ kT / (1 − (ω Δt)²/4), which is too much (Pastor,
Brooks and Szabo 1988). Middle schemes, such as OpenMM's LangevinMiddleIntegrator, give ½ kT (Zhang et al. 2019). The
sum over the normal modes of a minimum is therefore the shift of data sets that were made with the former.
"""

from __future__ import annotations

import numpy as np
import openmm
import scipy.linalg
from jaxtyping import Float
from openmm import unit

from cmtjax.units import thermal_energy_kj_mol

_STEP_NM = 1e-5  # of the central differences of forces: errors of some 1e-6 of the largest second derivative
_TOLERANCE_KJ_MOL_NM = 1e-3  # of the minimization


def normal_mode_frequencies(
    system: openmm.System, positions_nm: Float[np.ndarray, "atoms 3"]
) -> Float[np.ndarray, " modes"]:
    """Angular frequencies of the normal modes of the energy minimum next to a structure.

    Constraints are kept: what moves is orthogonal to them, in mass-weighted coordinates.

    Args:
      system: an OpenMM System.
      positions_nm: (atoms, 3) where the minimization starts.

    Returns:
      (modes,) in radians per ps, ascending, without translations and rotations.

    Raises:
      ValueError: if positions_nm has another shape, or an atom has no mass.
    """
    num_atoms = system.getNumParticles()
    positions = np.asarray(positions_nm, np.float64)
    if positions.shape != (num_atoms, 3):
        raise ValueError(f"positions_nm must have shape ({num_atoms}, 3), got {positions.shape}.")
    masses = np.array([system.getParticleMass(index).value_in_unit(unit.dalton) for index in range(num_atoms)])
    if np.any(masses == 0):
        raise ValueError(f"system must give every atom a mass, got none for atom {int(np.argmin(masses))}.")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, _TOLERANCE_KJ_MOL_NM)
    minimum = np.asarray(context.getState(getPositions=True).getPositions(asNumpy=True)._value)

    def forces(displacement: np.ndarray) -> np.ndarray:
        context.setPositions(minimum + displacement.reshape(num_atoms, 3))
        return np.asarray(context.getState(getForces=True).getForces(asNumpy=True)._value).ravel()

    moves = _STEP_NM * np.eye(3 * num_atoms)
    hessian = np.stack([forces(-move) - forces(move) for move in moves]) / (2 * _STEP_NM)
    scale = np.repeat(masses, 3) ** -0.5
    gradients, curvatures = _constraints(system, minimum)
    # Stationarity of E − Σ λ_a σ_a, whose second derivatives are those along the constrained surface.
    multipliers = np.linalg.lstsq(gradients.T, -forces(np.zeros(3 * num_atoms)), rcond=None)[0]
    hessian -= np.tensordot(multipliers, curvatures, 1)
    rigid = np.concatenate(
        [np.broadcast_to(np.eye(3)[:, None], (3, num_atoms, 3)), np.cross(np.eye(3)[:, None], minimum)]
    )
    free = scipy.linalg.null_space(np.concatenate([gradients * scale, rigid.reshape(6, -1) / scale]))
    mass_weighted = 0.5 * (hessian + hessian.T) * np.outer(scale, scale)
    squares = np.linalg.eigvalsh(free.T @ mass_weighted @ free)
    return np.sqrt(squares[squares > 0])


def leapfrog_energy_shift(
    system: openmm.System,
    positions_nm: Float[np.ndarray, "atoms 3"],
    time_step_fs: float,
    temperature_kelvin: float = 300.0,
) -> float:
    """By how much leapfrog dynamics raises the mean potential energy, in the harmonic approximation.

    ½ kT Σ [1/(1 − (ω Δt)²/4) − 1] over the normal modes of the minimum next to a structure.

    Args:
      system: an OpenMM System, with the constraints of the dynamics.
      positions_nm: (atoms, 3) a structure near a typical minimum.
      time_step_fs: Δt in fs.
      temperature_kelvin: of the dynamics.

    Returns:
      The shift in kJ/mol.

    Raises:
      ValueError: as ``normal_mode_frequencies``; or if time_step_fs or temperature_kelvin is not positive and finite,
        or the fastest mode is unstable (ω Δt ≥ 2).
    """
    for name, value in (("time_step_fs", time_step_fs), ("temperature_kelvin", temperature_kelvin)):
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value}.")
    angles = normal_mode_frequencies(system, positions_nm) * time_step_fs * 1e-3
    if angles.size and angles.max() >= 2:
        limit = time_step_fs * 2 / angles.max()
        raise ValueError(f"time_step_fs must be below {limit:.3g} for this system, got {time_step_fs}.")
    excess = angles**2 / 4
    return float(0.5 * thermal_energy_kj_mol(temperature_kelvin) * np.sum(excess / (1 - excess)))


def _constraints(system: openmm.System, positions_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Constrained distances' derivatives: (constraints, 3 atoms) first, (constraints, 3 atoms, 3 atoms) second ones."""
    num_constraints, num_atoms, size = system.getNumConstraints(), len(positions_nm), positions_nm.size
    gradients = np.zeros((num_constraints, num_atoms, 3))
    curvatures = np.zeros((num_constraints, num_atoms, 3, num_atoms, 3))
    for row in range(num_constraints):
        first, second, _ = system.getConstraintParameters(row)
        bond = positions_nm[first] - positions_nm[second]
        length = np.linalg.norm(bond)
        direction = bond / length
        across = (np.eye(3) - np.outer(direction, direction)) / length
        for atom, sign in ((first, 1), (second, -1)):
            gradients[row, atom] = sign * direction
            curvatures[row, atom, :, atom] = across
        curvatures[row, first, :, second] = curvatures[row, second, :, first] = -across
    return gradients.reshape(num_constraints, size), curvatures.reshape(num_constraints, size, size)
