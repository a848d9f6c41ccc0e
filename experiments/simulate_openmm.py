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
        tally = np.zeros((2, max(len(temperatures) - 1, 0)))
        if stored is not None:
            tally = stored.pop("tally")
            dynamics.set_state(stored)

        def state() -> dict[str, np.ndarray]:
            return dynamics.state() | {"tally": tally, "platform": np.array(dynamics.platform_name)}

        # Drawn and thrown away chunk by chunk like the rest: a chunk without draws keeps the state.
        warmed_up = int(dynamics.state()["num_blocks"]) - writer.num_draws
        progress = simulation.Progress(settings["warm_up_draws"], warmed_up, num_chains, "warm-up")
        while writer.num_draws == 0 and warmed_up < settings["warm_up_draws"]:
            u, energy, _ = _draw(dynamics, settings["steps_per_draw"], chunk, to_box)
            warmed_up += len(u)
            writer.append(u[:0], energy[:0], state=state())
            progress.report(warmed_up, {"energy (kJ/mol)": energy.mean()})
        progress = simulation.Progress(num_draws, writer.num_draws, num_chains)
        while writer.num_draws < num_draws:
            u, energy, rates = _draw(dynamics, settings["steps_per_draw"], chunk, to_box)
            tally = tally + rates
            writer.append(u, energy, state=state())
            progress.report(writer.num_draws, {"energy (kJ/mol)": energy.mean()})
        per_draw = num_chains * len(temperatures) * settings["steps_per_draw"]
    with np.errstate(invalid="ignore"):
        exchange = tally[0] / tally[1]
    simulation.finish(
        writer,
        {
            "exchange_acceptance": exchange.tolist(),
            "platform": dynamics.platform_name,
            "time_step_fs": dynamics.time_step_fs,
            "target_evaluations": per_draw * (warmed_up + writer.num_draws),
            "warm_up_evaluations": per_draw * warmed_up,
        },
    )


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


def _draw(
    dynamics: OpenMMDynamics, num_steps: int, num_draws: int, to_box: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The coldest temperature's u and energies after each block, and sums of exchange probabilities, with counts."""
    u, energies_kj_mol, tally = [], [], np.zeros((2, len(dynamics.temperatures_kelvin) - 1))
    for _ in range(num_draws):
        positions_nm, energy = dynamics.advance(num_steps)
        u.append(np.asarray(to_box(jnp.asarray(positions_nm[:, 0], jnp.float32))))
        energies_kj_mol.append(energy[:, 0])
        if tally.size:
            acceptance = dynamics.exchange().acceptance
            tally += np.stack([np.nansum(acceptance, axis=0), np.sum(~np.isnan(acceptance), axis=0)])
    return np.stack(u), np.stack(energies_kj_mol), tally
