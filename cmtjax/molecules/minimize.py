"""Energy minimization that comes out the same on one machine every time."""

from __future__ import annotations

import numpy as np
import openmm
from jaxtyping import Float
from openmm import unit

# kJ/mol/nm, root mean square: positions are then converged to about 1e-6 nm along the stiff coordinates.
_FORCE_TOLERANCE = 0.01


def minimize(
    system: openmm.System, start_nm: Float[np.ndarray, "atoms 3"]
) -> tuple[Float[np.ndarray, "atoms 3"], float]:
    """Follows the energy down to a local minimum, in double precision on one thread.

    Args:
      system: an OpenMM System; its constraints are kept.
      start_nm: (atoms, 3) start positions.

    Returns:
      (atoms, 3) positions in nm, and their energy in kJ/mol.

    Raises:
      ValueError: if the energy at the start, or the one reached, is not finite.
    """
    integrator = openmm.VerletIntegrator(0.001)
    integrator.setConstraintTolerance(1e-9)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(start_nm)
    try:
        openmm.LocalEnergyMinimizer.minimize(context, _FORCE_TOLERANCE)
    except openmm.OpenMMException as error:
        raise ValueError(f"start_nm cannot be minimized: {error}") from None
    state = context.getState(positions=True, energy=True)
    energy_kj_mol = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    if not np.isfinite(energy_kj_mol):
        raise ValueError(f"start_nm: minimizing ends at an energy of {energy_kj_mol} kJ/mol; do atoms coincide?")
    return state.getPositions(asNumpy=True).value_in_unit(unit.nanometer), energy_kj_mol
