"""The engine of ``simulate.py`` that runs Langevin dynamics and replica exchange by OpenMM in worker processes."""

from __future__ import annotations

import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import program
import simulation

from cmtjax import datasets, energies, molecules, targets
from cmtjax.coordinates.internal import internal_coordinates
from cmtjax.mcmc.openmm_dynamics import OpenMMDynamics


def simulate(
    writer: datasets.DataSetWriter,
    molecule: molecules.Molecule,
    settings: dict[str, Any],
    *,
    seed: int,
    num_draws: int,
    chunk: int,
    num_workers: int,
) -> None:
    """Throws the warm-up away, draws what is still missing, chunk by chunk, and judges the result.

    As in the papers' protocol (TA-BG, appendix D), the first half of the warm-up has no exchanges, the second half has.
    The number of workers (0: one a core) changes nothing but the speed. The platform is chosen at the first start.
    """
    temperatures, num_chains = settings["temperatures_kelvin"], settings["num_chains"]
    coordinates = internal_coordinates(molecule)
    to_box = jax.jit(lambda positions_nm: coordinates.from_physical(positions_nm)[0])
    stored = writer.last_state()
    with program.user_errors():
        positions_nm = _starts(molecule, settings, seed) if stored is None else stored["positions_nm"]
        platform = settings["platform"] if stored is None else str(stored.pop("platform"))
        dynamics = OpenMMDynamics(
            molecule.system,
            positions_nm,
            temperatures,
            num_chains=num_chains,
            num_workers=num_workers or os.cpu_count() or 1,
            platform=platform or None,
            time_step_fs=settings["time_step_fs"] or None,
            friction_per_ps=settings["friction_per_ps"],
            seed=seed,
        )
    with dynamics:
        print(
            f"{molecule.name}: {num_chains} chains of {len(temperatures)} temperatures on {dynamics.platform_name}, "
            f"time step {dynamics.time_step_fs:g} fs",
            flush=True,
        )
        exchanges = Exchanges(num_chains, len(temperatures))
        if stored is not None:
            exchanges.set_state(stored)
            dynamics.set_state(stored)

        def state() -> dict[str, np.ndarray]:
            return dynamics.state() | exchanges.state() | {"platform": np.array(dynamics.platform_name)}

        def draw(num_before_exchanges: int, are_kept: bool) -> tuple[np.ndarray, np.ndarray]:
            """A chunk; its first ``num_before_exchanges`` draws come without exchanges."""
            u, energies_kj_mol = [], []
            for index in range(chunk):
                positions_nm, energy = dynamics.advance(settings["steps_per_draw"])
                u.append(np.asarray(to_box(jnp.asarray(positions_nm[:, 0], jnp.float32))))
                energies_kj_mol.append(energy[:, 0])
                if len(temperatures) > 1 and index >= num_before_exchanges:
                    exchanges.attempt(dynamics, are_kept)
            return np.stack(u), np.stack(energies_kj_mol)

        # Drawn and thrown away chunk by chunk like the rest: a chunk without draws keeps the state.
        warmed_up = int(dynamics.state()["num_blocks"]) - writer.num_draws
        progress = simulation.Progress(settings["warm_up_draws"], warmed_up, num_chains, "warm-up")
        while writer.num_draws == 0 and warmed_up < settings["warm_up_draws"]:
            u, energy = draw(settings["warm_up_draws"] // 2 - warmed_up, are_kept=False)
            warmed_up += len(u)
            writer.append(u[:0], energy[:0], state=state())
            progress.report(warmed_up, {"energy (kJ/mol)": energy.mean()})
        progress = simulation.Progress(num_draws, writer.num_draws, num_chains)
        while writer.num_draws < num_draws:
            u, energy = draw(0, are_kept=True)
            writer.append(u, energy, state=state())
            progress.report(writer.num_draws, {"energy (kJ/mol)": energy.mean()})
        per_draw = num_chains * len(temperatures) * settings["steps_per_draw"]
    simulation.finish(
        writer,
        {
            "exchange_acceptance": exchanges.acceptance().tolist(),
            "round_trips": exchanges.num_round_trips,
            "platform": dynamics.platform_name,
            "time_step_fs": dynamics.time_step_fs,
            "target_evaluations": per_draw * (warmed_up + writer.num_draws),
            "warm_up_evaluations": per_draw * warmed_up,
        },
    )


class Exchanges:
    """Attempts exchanges and keeps what they tell.

    Attributes:
      num_round_trips: journeys of all walkers from the coldest temperature to the hottest and back.
    """

    def __init__(self, num_chains: int, num_temperatures: int) -> None:
        self.num_round_trips = 0
        # Of each pair of neighbors, in the draws that are kept: the sum of the probabilities, and how many there are.
        self._tally = np.zeros((2, num_temperatures - 1))
        # The end that a walker visited last: 1 the coldest temperature, 2 the hottest after that, 0 neither.
        self._last_end = np.zeros((num_chains, num_temperatures), np.int64)

    def attempt(self, dynamics: OpenMMDynamics, is_kept: bool) -> None:
        """One round of exchanges, after a draw that is kept or one that is thrown away."""
        acceptance = dynamics.exchange().acceptance
        if is_kept:
            self._tally += np.stack([np.nansum(acceptance, axis=0), np.sum(~np.isnan(acceptance), axis=0)])
        walkers, row = dynamics.state()["walkers"], np.arange(len(acceptance))
        cold, hot = (row, walkers[:, 0]), (row, walkers[:, -1])
        self.num_round_trips += int(np.sum(self._last_end[cold] == 2))
        self._last_end[cold] = 1
        self._last_end[hot] = np.where(self._last_end[hot] > 0, 2, 0)

    def acceptance(self) -> np.ndarray:
        """Mean probability of an exchange of each pair, NaN where none was tried."""
        with np.errstate(invalid="ignore"):
            return self._tally[0] / self._tally[1]

    def state(self) -> dict[str, np.ndarray]:
        """What ``set_state`` goes on from."""
        return {
            "tally": self._tally.copy(),
            "last_end": self._last_end.copy(),
            "num_round_trips": np.array(self.num_round_trips),
        }

    def set_state(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from what ``state`` returned; a state of before round trips were counted has none."""
        self._tally = state["tally"].copy()
        self._last_end = state.get("last_end", self._last_end).copy()
        self.num_round_trips = int(state.get("num_round_trips", 0))


def _starts(molecule: molecules.Molecule, settings: dict[str, Any], seed: int) -> np.ndarray:
    """As for the device where the force field is understood in JAX, else all at the minimum."""
    temperatures, num_chains = settings["temperatures_kelvin"], settings["num_chains"]
    try:
        energy_fn = energies.amber_energy(molecule.system)
    except ValueError:
        program.require(not settings["starts"], "--starts", settings["starts"], "empty with this force field")
        return molecule.positions_nm
    target = targets.boltzmann(molecule, energy_fn, temperature_kelvin=temperatures[0])
    num_points = num_chains * len(temperatures)
    u = simulation.starting_points(molecule, target, jax.random.key(seed), num_points, settings["starts"])
    positions_nm = np.asarray(target.to_physical(u)[0], np.float64)
    return positions_nm.reshape(num_chains, len(temperatures), *positions_nm.shape[1:])
