"""Which replicas of neighboring temperatures change places, on the host."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cmtjax.units import thermal_energy_kj_mol


class ExchangeInfo(NamedTuple):
    """One round of exchanges between neighboring temperatures; every other pair is attempted, in turns.

    Attributes:
      is_attempted: (temperatures − 1,) which pairs were.
      acceptance: the probability of each exchange, NaN where it was not attempted.
      is_accepted: whether it was made.
    """

    is_attempted: Bool[np.ndarray, "pairs"]
    acceptance: Float[np.ndarray, "chains pairs"]
    is_accepted: Bool[np.ndarray, "chains pairs"]


def exchange_probability(
    energies_kj_mol: Float[np.ndarray, "*batch"],
    other_energies_kj_mol: Float[np.ndarray, "*batch"],
    temperature_kelvin: float,
    other_temperature_kelvin: float,
) -> Float[np.ndarray, "*batch"]:
    """Metropolis probability of exchanging two replicas (Sugita and Okamoto, Chem. Phys. Lett. 314, 141 (1999)).

    min(1, exp((1/kT − 1/kT') (E − E'))): with velocities scaled to the new temperature, kinetic energies cancel.

    Args:
      energies_kj_mol: potential energies of the replica at the first temperature.
      other_energies_kj_mol: those of the replica at the other one.
      temperature_kelvin: the first temperature.
      other_temperature_kelvin: the other one.
    """
    slope = 1 / thermal_energy_kj_mol(temperature_kelvin) - 1 / thermal_energy_kj_mol(other_temperature_kelvin)
    return np.exp(np.minimum(slope * (energies_kj_mol - other_energies_kj_mol), 0.0))


def exchange_neighbors(
    rng: np.random.Generator,
    energies_kj_mol: Float[np.ndarray, "chains temperatures"],
    temperatures_kelvin: Float[np.ndarray, "temperatures"],
    first_pair: int,
) -> tuple[ExchangeInfo, Int[np.ndarray, "chains temperatures"]]:
    """Tries to exchange every other pair of neighbors.

    Args:
      rng: source of the decisions.
      energies_kj_mol: potential energies of the replicas.
      temperatures_kelvin: their temperatures.
      first_pair: 0 to try the pairs (0, 1), (2, 3), …; 1 for (1, 2), (3, 4), …

    Returns:
      What was tried, and from which place of the ladder the replica comes that now belongs to each.
    """
    pairs = np.arange(len(temperatures_kelvin) - 1)
    is_attempted = pairs % 2 == first_pair
    acceptance = np.full((len(energies_kj_mol), len(pairs)), np.nan)
    for low in pairs[is_attempted]:
        acceptance[:, low] = exchange_probability(
            energies_kj_mol[:, low],
            energies_kj_mol[:, low + 1],
            temperatures_kelvin[low],
            temperatures_kelvin[low + 1],
        )
    is_accepted = rng.random(acceptance.shape) < acceptance
    source = np.broadcast_to(np.arange(len(temperatures_kelvin)), energies_kj_mol.shape).copy()
    for chain, low in np.argwhere(is_accepted):
        source[chain, [low, low + 1]] = low + 1, low
    return ExchangeInfo(is_attempted, acceptance, is_accepted), source
