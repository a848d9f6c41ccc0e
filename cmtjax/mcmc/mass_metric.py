"""How the density of constrained dynamics differs from that of a molecule with fixed bond lengths.

Dynamics with constraints σ_a(x) = 0 samples positions with the density

    exp(−E/kT) |Z|^½ Π_a δ(σ_a),    Z_ab = Σ_i ∇_i σ_a · ∇_i σ_b / m_i

(Fixman 1974; Ciccotti and Ryckaert 1986), because momenta are confined to directions that keep the constraints. The
target of the flows, the published convention, is exp(−E/kT) Π_a δ(σ_a) with σ_a the bond length less its value: what
infinitely stiff springs leave, but for the factor |Z|^½. The mass-metric term ½ log|Z| is the log-weight between them.
"""

from __future__ import annotations

import numpy as np
import openmm
from jaxtyping import Float
from openmm import unit


def mass_metric_log_weights(
    system: openmm.System, positions_nm: Float[np.ndarray, "samples atoms 3"]
) -> Float[np.ndarray, " samples"]:
    """½ log|Z| of a System's constraints, up to a constant.

    Args:
      system: an OpenMM System with distance constraints.
      positions_nm: (samples, atoms, 3).

    Returns:
      (samples,) log-weights that turn samples of the target with fixed bond lengths into those of constrained
      dynamics; their negatives turn back. Zeros without constraints.

    Raises:
      ValueError: if positions_nm has another shape, or a constrained atom has no mass.
    """
    num_atoms, num_constraints = system.getNumParticles(), system.getNumConstraints()
    positions = np.asarray(positions_nm, np.float64)
    if positions.ndim != 3 or positions.shape[1:] != (num_atoms, 3):
        raise ValueError(f"positions_nm must have shape (samples, {num_atoms}, 3), got {positions.shape}.")
    if num_constraints == 0:
        return np.zeros(len(positions))
    pairs = np.array([system.getConstraintParameters(index)[:2] for index in range(num_constraints)])
    masses = np.array([system.getParticleMass(index).value_in_unit(unit.dalton) for index in range(num_atoms)])
    if np.any(masses[pairs] == 0):
        raise ValueError("system must give every constrained atom a mass.")
    difference = positions[:, pairs[:, 0]] - positions[:, pairs[:, 1]]
    direction = difference / np.linalg.norm(difference, axis=-1, keepdims=True)
    # ∇σ_a is the unit vector along bond a at its first atom and the opposite one at its second.
    sign = (pairs[:, None, :, None] == pairs[None, :, None, :]) / masses[pairs][:, None, :, None]
    side = np.array([1.0, -1.0])
    coupling = np.einsum("abij,i,j->ab", sign, side, side)
    z = coupling * np.einsum("nax,nbx->nab", direction, direction)
    return 0.5 * np.linalg.slogdet(z)[1]
