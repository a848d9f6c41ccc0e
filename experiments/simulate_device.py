"""The engine of ``simulate.py`` that runs replica exchange with HMC on the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import program
import simulation

from cmtjax import datasets, energies, mcmc, molecules, targets
from cmtjax.units import thermal_energy_kj_mol


def simulate(
    writer: datasets.DataSetWriter,
    molecule: molecules.Molecule,
    settings: dict[str, Any],
    *,
    seed: int,
    num_draws: int,
    chunk: int,
) -> None:
    """Warms up, draws what is still missing, chunk by chunk, and judges the result."""
    temperatures = settings["temperatures_kelvin"]
    with program.user_errors():
        energy_fn = energies.amber_energy(molecule.system)
        target = targets.boltzmann(molecule, energy_fn, temperature_kelvin=temperatures[0])
        sampler = mcmc.replica_exchange(
            target,
            [temperature / temperatures[0] for temperature in temperatures],
            mcmc.ReplicaExchangeConfig(
                num_leapfrog_steps=settings["leapfrog_steps"], moves_per_sweep=settings["moves_per_sweep"]
            ),
        )
    shape = (settings["num_chains"], len(temperatures), target.domain.num_dims)
    start_key, run_key = jax.random.split(jax.random.key(seed))
    draw = _scanned(sampler.update, settings["sweeps_per_draw"], chunk)
    stored = writer.last_state()
    if stored is None:
        print(f"{molecule.name}: {shape[0]} ladders of {shape[1]} temperatures, {shape[2]} dimensions", flush=True)
        with program.user_errors():
            starts = simulation.starting_points(molecule, target, start_key, shape[0] * shape[1], settings["starts"])
        state = _warm_up(draw, jax.jit(sampler.init)(run_key, starts.reshape(shape)), settings["warm_up_draws"])
        tally = np.zeros((2, 2, shape[1]))
        # A chunk without draws keeps the state, so that a restart need not warm up again.
        writer.append(np.zeros((0, shape[0], shape[2])), np.zeros((0, shape[0])), state=_to_arrays(state, tally))
    else:
        template = jax.eval_shape(sampler.init, run_key, jax.ShapeDtypeStruct(shape, jnp.float32))
        state, tally = _from_arrays(template, stored)

    progress = simulation.Progress(num_draws, writer.num_draws, shape[0])
    kt = thermal_energy_kj_mol(temperatures[0])
    while writer.num_draws < num_draws:
        state, (u, log_p, info) = draw(state, False)
        tally = tally + np.stack([_padded(info.acceptance, shape[1]), _padded(info.exchange, shape[1])])
        energy = -kt * np.asarray(log_p, np.float64)
        writer.append(np.asarray(u), energy, state=_to_arrays(state, tally))
        progress.report(
            writer.num_draws,
            {"energy (kJ/mol)": energy.mean(), "accepted": float(np.mean(info.acceptance[..., 0]))},
        )
    sweeps = int(state.num_sweeps)
    warm_up_sweeps = sweeps - writer.num_draws * settings["sweeps_per_draw"]
    evaluations = shape[0] * sampler.evaluations_per_sweep
    with np.errstate(invalid="ignore"):
        acceptance, exchange = tally[:, 0] / tally[:, 1]
    simulation.finish(
        writer,
        {
            "acceptance": acceptance.tolist(),
            "exchange_acceptance": exchange[: shape[1] - 1].tolist(),
            "step_size": np.exp(np.asarray(state.log_step_size)).tolist(),
            "round_trips": int(np.sum(state.num_round_trips)),
            "target_evaluations": sweeps * evaluations,
            "warm_up_evaluations": warm_up_sweeps * evaluations,
        },
    )


def _warm_up(draw: Callable[[Any, bool], Any], state: Any, num_draws: int) -> Any:
    done, begin = 0, time.monotonic()
    while done < num_draws:
        state, (_, _, info) = draw(state, True)
        chunk = len(info.acceptance)
        done, num_draws = done + chunk, -(-num_draws // chunk) * chunk  # whole chunks
        left = (time.monotonic() - begin) / done * max(num_draws - done, 0)
        acceptance = ", ".join(f"{value:.2f}" for value in np.mean(info.acceptance, axis=(0, 1)))
        print(f"warm-up {done}/{num_draws}  accepted {acceptance}  {program.format_duration(left)} left", flush=True)
    return state


def _scanned(update: Callable[..., Any], sweeps_per_draw: int, num_draws: int) -> Callable[[Any, bool], Any]:
    """A compiled (state, is_warm_up) -> state, and of each draw the coldest rung's u and log p̃ and all information."""

    def run(state: Any, is_warm_up: Any) -> Any:
        def draw(state: Any, _: None) -> tuple[Any, Any]:
            state, info = jax.lax.scan(lambda s, _: update(s, is_warm_up), state, None, length=sweeps_per_draw)
            return state, (state.u[:, 0], state.evaluated.log_p[:, 0], info)

        return jax.lax.scan(draw, state, None, length=num_draws)

    return jax.jit(run)


def _padded(rates: Any, width: int) -> np.ndarray:
    """Sums over the sweeps and how many of them there are, (2, width), NaN left out."""
    # Not −1: with one temperature there are no exchanges, and nothing tells how many rows an empty array has.
    rates = np.asarray(rates, np.float64).reshape(math.prod(rates.shape[:-1]), rates.shape[-1])
    sums = np.stack([np.nansum(rates, axis=0), np.sum(~np.isnan(rates), axis=0)])
    return np.pad(sums, ((0, 0), (0, width - rates.shape[1])))


def _to_arrays(state: Any, tally: np.ndarray) -> dict[str, np.ndarray]:
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    return {f"leaf_{index}": np.asarray(leaf) for index, leaf in enumerate(leaves)} | {"tally": tally}


def _from_arrays(template: Any, arrays: dict[str, np.ndarray]) -> tuple[Any, np.ndarray]:
    leaves = [jnp.asarray(arrays[f"leaf_{index}"]) for index in range(len(arrays) - 1)]
    state = jax.tree.unflatten(jax.tree.structure(template), leaves)
    return state._replace(key=jax.random.wrap_key_data(state.key)), arrays["tally"]
