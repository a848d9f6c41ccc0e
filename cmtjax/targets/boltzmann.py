"""Boltzmann distributions of molecules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from cmtjax.coordinates.internal import InternalCoordinates, internal_coordinates
from cmtjax.energies.regularize import regularize_energy
from cmtjax.targets.target import Target
from cmtjax.units import thermal_energy_kj_mol


def boltzmann(
    molecule: Any,
    energy_fn: Callable[[Array], Array],
    *,
    temperature_kelvin: float = 300.0,
    regularization: Mapping[str, Any] | None = None,
) -> Target:
    """exp(−E_reg / kT) of a molecule, a density of Cartesian positions in nm.

    Args:
      molecule: a ``Molecule`` (or its ``ZMatrix``, or ``InternalCoordinates``): what fixes the coordinates.
      energy_fn: positions (…, atoms, 3) in nm -> potential energies (…,) in kJ/mol.
      temperature_kelvin: enters by dividing the energy by kT.
      regularization: keyword arguments of ``regularize_energy``, energies in kT; the published ones by default.

    Returns:
      A ``Target`` whose points are positions (atoms, 3).

    Raises:
      ValueError: if the temperature or the regularization is out of range.
    """
    kt = thermal_energy_kj_mol(temperature_kelvin)
    options = dict(regularization or {})
    regularize_energy(jnp.zeros(()), **options)  # Complains now, not inside a compiled function.
    coordinates = molecule if isinstance(molecule, InternalCoordinates) else internal_coordinates(molecule)

    def log_prob(positions_nm: Float[Array, "*batch atoms 3"]) -> Float[Array, "*batch"]:
        return -regularize_energy(energy_fn(positions_nm) / kt, **options)

    return Target(coordinates.domain, coordinates.to_physical, coordinates.from_physical, log_prob)
