"""Replica exchange on the device against OpenMM dynamics in worker processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.measure import compile_seconds, in_turns, peak_mib, temporary_mib

from cmtjax import mcmc, targets
from cmtjax.energies import amber_energy
from cmtjax.mcmc.openmm_dynamics import OpenMMDynamics
from cmtjax.molecules import published

# A block of OpenMM costs some ms besides its steps.
_OPENMM_STEPS = 500


def benchmark(name: str, num_ladders: Sequence[int], num_workers: int, num_rounds: int) -> list[dict[str, Any]]:
    """Rows of rates, one row a number of ladders of six temperatures.

    A step of either engine is one evaluation of the energy with its gradient: a leapfrog step of HMC in internal
    coordinates, or a time step of Langevin dynamics. ``hours_of_1e7_samples`` is what as many samples as the papers'
    cost on the device at ``steps_per_sample`` of them: 96, a sweep of a ladder by default, 16 at each temperature.

    Args:
      name: a published molecule.
      num_ladders: how many ladders the device moves at once.
      num_workers: processes of OpenMM, which gets one replica each.
      num_rounds: turns.
    """
    molecule = published(name)
    temperatures = mcmc.TEMPERATURES_KELVIN
    target = targets.boltzmann(molecule, amber_energy(molecule.system), temperature_kelvin=temperatures[0])
    sampler = mcmc.replica_exchange(target, [value / temperatures[0] for value in temperatures])
    minimum = target.from_physical(jnp.asarray(molecule.positions_nm, jnp.float32))[0]
    rows = []
    with OpenMMDynamics(
        molecule.system, molecule.positions_nm, [300.0], num_chains=num_workers, num_workers=num_workers, seed=0
    ) as dynamics:
        for ladders in num_ladders:
            u = jnp.broadcast_to(minimum, (ladders, len(temperatures), minimum.size))
            state = jax.jit(sampler.init)(jax.random.key(0), u)
            update, compilation = compile_seconds(jax.jit(sampler.update).lower(state, True))
            for _ in range(20):
                state, _ = update(state, True)
            times = in_turns(
                {"device": lambda u=update, s=state: u(s, False), "openmm": lambda: dynamics.advance(_OPENMM_STEPS)},
                num_rounds,
            )
            rates = {
                "device": ladders * sampler.evaluations_per_sweep / times["device"].wall,
                "openmm": num_workers * _OPENMM_STEPS / times["openmm"].wall,
            }
            rows.append(
                {
                    "molecule": name,
                    "ladders": ladders,
                    "device_steps_per_second": float(np.median(rates["device"])),
                    "openmm_steps_per_second": float(np.median(rates["openmm"])),
                    "device_over_openmm": float(np.median(rates["device"] / rates["openmm"])),
                    "steps_per_sample": sampler.evaluations_per_sweep,
                    "hours_of_1e7_samples": 1e7
                    * sampler.evaluations_per_sweep
                    / float(np.median(rates["device"]))
                    / 3600,
                    "platform": dynamics.platform_name,
                    "compile_seconds": compilation,
                    "temporary_mib": temporary_mib(update),
                    "peak_mib": peak_mib(),
                }
            )
    return rows
