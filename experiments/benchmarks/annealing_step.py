"""One annealing step of a configuration: compilation, seconds, memory, and the shares of its parts."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmarks.measure import compile_seconds, in_turns, peak_mib, temporary_mib
from jaxtyping import Array, PRNGKeyArray

from cmtjax import targets
from cmtjax.annealing import clip_top_fraction, importance_log_weights, solve_dual
from cmtjax.coordinates import InternalCoordinates, internal_coordinates
from cmtjax.energies import OpenMMPool, amber_energy
from cmtjax.methods.buffer import Buffer, draw_buffer
from cmtjax.methods.weighted_fit import fit_flow
from cmtjax.runs import build


def benchmark(config: Mapping[str, Any], num_steps: int | None, num_rounds: int) -> list[dict[str, Any]]:
    """Rows of seconds, one row a part: the whole update, its parts as programs of their own, and what is left.

    The update is that of ``train.py``; the fit has the weights and the control variate of the first step of a run.
    Sampling and energies are measured on one chunk and multiplied by the number of chunks. The energies come from the
    device unless the configuration asks for OpenMM.

    Args:
      config: of a run.
      num_steps: gradient steps of the measured update, None for as many as configured. With fewer,
        ``configured_seconds`` tells what the configured number would take.
      num_rounds: turns.
    """
    with open_target(config) as (target, coordinates):
        return _measure(config, target, coordinates, num_steps or config["method"]["num_gradient_steps"], num_rounds)


@contextlib.contextmanager
def open_target(config: Mapping[str, Any]) -> Iterator[tuple[targets.Target, InternalCoordinates]]:
    """The Boltzmann distribution of a configuration and its molecule's coordinates."""
    molecule, section = build.build_molecule(config["molecule"]), config["energy"]
    coordinates = internal_coordinates(molecule)
    options = {"temperature_kelvin": config["temperature_kelvin"], "regularization": section["regularization"]}
    if section["backend"] != "openmm":
        yield targets.boltzmann(molecule, amber_energy(molecule.system), **options), coordinates
        return
    with OpenMMPool(
        molecule.system, section["num_workers"] or os.cpu_count() or 1, section["platform"] or None
    ) as pool:
        yield targets.boltzmann(molecule, pool.energy, **options), coordinates


def _measure(
    config: Mapping[str, Any],
    target: targets.Target,
    coordinates: InternalCoordinates,
    num_steps: int,
    num_rounds: int,
) -> list[dict[str, Any]]:
    section = config["method"]
    buffer_size, chunk_size = section["buffer_size"], section["chunk_size"]
    num_chunks = math.ceil(buffer_size / chunk_size)
    num_training = buffer_size - round(section["held_out_fraction"] * buffer_size)
    flow = build.build_flow(config["flow"], target.domain)
    # The schedule of the learning rate is that of the whole run.
    run_steps = config["num_annealing_steps"] * section["num_gradient_steps"]
    optimizer = build.build_optimizer(config["optimizer"], run_steps)
    shortened = {"method": {**section, "num_gradient_steps": num_steps}, "num_annealing_steps": run_steps // num_steps}
    observe = build.ramachandran_observer(coordinates)
    method = build.build_method({**config, **shortened}, target, flow, observe)
    bounds = [section["trust_region_bound"], section["entropy_bound"]]
    bounds = [None if bound == float("inf") else bound for bound in bounds]

    def sample(params: Any, key: PRNGKeyArray) -> tuple[Array, Array]:
        u, log_q = flow.sample_and_log_prob(params, key, math.ceil(buffer_size / num_chunks))
        positions, log_det = target.to_physical(u)
        return positions, log_q - log_det

    def draw(params: Any, key: PRNGKeyArray) -> Buffer:
        return draw_buffer(target, flow, params, key, buffer_size, chunk_size)

    def dual(buffer: Buffer) -> Any:
        return solve_dual(buffer.log_q, buffer.log_p, *bounds)

    def fit(params: Any, state: Any, key: PRNGKeyArray, buffer: Buffer, log_weights: Array) -> Any:
        # As methods.cmt calls it.
        return fit_flow(
            flow,
            optimizer,
            params,
            state,
            key,
            buffer.u[:num_training],
            log_weights[:num_training],
            batch_size=section["batch_size"],
            num_steps=num_steps,
            log_q=buffer.log_q_u[:num_training] if section["control_variate"] else None,
            control_variate=section["control_variate"],
        )

    key = jax.random.key(config["seed"])
    state = jax.jit(method.init)(key)
    params, optimizer_state = jax.tree.map(jnp.copy, (state.params, state.optimizer_state))
    buffer = jax.jit(draw)(params, key)
    # Compiled before its first use, which would compile it unseen.
    compiled = {"sampling": compile_seconds(jax.jit(sample).lower(params, key))}
    compiled["dual"] = compile_seconds(jax.jit(dual).lower(buffer))
    positions, _ = compiled["sampling"][0](params, key)
    log_weights = importance_log_weights(buffer.log_q, buffer.log_p, compiled["dual"][0](buffer))
    log_weights = clip_top_fraction(log_weights, section["weight_clip_fraction"])
    lowered = {
        "update": jax.jit(method.update, donate_argnums=0).lower(state),
        "energies": jax.jit(target.log_prob).lower(positions),
        "fit": jax.jit(fit).lower(params, optimizer_state, key, buffer, log_weights),
    }
    compiled |= {name: compile_seconds(program) for name, program in lowered.items()}
    run = {name: program for name, (program, _) in compiled.items()}

    def update() -> Any:
        nonlocal state
        state, info = run["update"](state)
        return info

    times = in_turns(
        {
            "update": update,
            "sampling": lambda: run["sampling"](params, key),
            "energies": lambda: run["energies"](positions),
            "dual": lambda: run["dual"](buffer),
            "fit": lambda: run["fit"](params, optimizer_state, key, buffer, log_weights),
        },
        num_rounds,
    )
    times_of_chunks = {"sampling": num_chunks, "energies": num_chunks}
    seconds = {name: times_of_chunks.get(name, 1) * float(np.median(times[name].wall)) for name in times}
    seconds["other"] = seconds["update"] - sum(seconds[name] for name in seconds if name != "update")
    seconds["one gradient step"] = seconds["fit"] / num_steps
    left_out = (section["num_gradient_steps"] - num_steps) * seconds["one gradient step"]
    return [
        {
            "part": name,
            "seconds": value,
            "share": value / seconds["update"],
            "configured_seconds": value + left_out * (name in ("update", "fit")),
            "compile_seconds": compiled[name][1] if name in compiled else None,
            "temporary_mib": temporary_mib(run[name]) if name in run else None,
            "peak_mib": peak_mib(),
        }
        for name, value in seconds.items()
    ]
