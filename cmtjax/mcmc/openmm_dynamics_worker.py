"""The process behind ``OpenMMDynamics``: advances one replica after the other by a block of Langevin dynamics.

The parent runs this file as a script. It imports no JAX, so a worker starts in the time that OpenMM takes to load.
"""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cmtjax.energies.openmm_worker import PLATFORM_NAMES, requests

if TYPE_CHECKING:
    import openmm

_CONSTRAINT_TOLERANCE = 1e-6
_TIMED_SECONDS = 0.2  # per platform, when the faster one is looked for


class Settings(NamedTuple):
    """What all blocks have in common."""

    time_step_fs: float
    friction_per_ps: float


class Block(NamedTuple):
    """A replica and how far to advance it; velocities None are drawn at the temperature."""

    replica: int
    temperature_kelvin: float
    positions_nm: np.ndarray
    velocities_nm_per_ps: np.ndarray | None
    num_steps: int
    noise_seed: int
    velocity_seed: int


class Advanced(NamedTuple):
    """A replica after its block; ``error`` is a traceback where that failed, and the rest means nothing."""

    replica: int
    positions_nm: np.ndarray
    velocities_nm_per_ps: np.ndarray
    energy_kj_mol: float
    error: str


def create_context(system: openmm.System, platform_name: str, settings: Settings) -> openmm.Context:
    """A context for Langevin dynamics on one thread."""
    import openmm

    integrator = openmm.LangevinMiddleIntegrator(0.0, settings.friction_per_ps, 1e-3 * settings.time_step_fs)
    integrator.setConstraintTolerance(_CONSTRAINT_TOLERANCE)
    platform = openmm.Platform.getPlatformByName(platform_name)
    return openmm.Context(system, integrator, platform, {"Threads": "1"} if platform_name == "CPU" else {})


def advance(context: openmm.Context, block: Block) -> Advanced:
    """Runs a block; the result depends on nothing but the block, not on what the context did before."""
    integrator = context.getIntegrator()
    integrator.setTemperature(block.temperature_kelvin)
    integrator.setRandomNumberSeed(block.noise_seed)
    context.reinitialize()  # a seed counts from the start of a context only
    context.setPositions(block.positions_nm)
    if block.velocities_nm_per_ps is None:
        context.applyConstraints(_CONSTRAINT_TOLERANCE)
        context.setVelocitiesToTemperature(block.temperature_kelvin, block.velocity_seed)
    else:
        context.setVelocities(block.velocities_nm_per_ps)
    integrator.step(block.num_steps)
    state = context.getState(positions=True, velocities=True, energy=True)
    energy_kj_mol = state.getPotentialEnergy()._value
    if not math.isfinite(energy_kj_mol):
        raise ArithmeticError(f"the potential energy became {energy_kj_mol} kJ/mol; is the time step too large?")
    return Advanced(
        replica=block.replica,
        positions_nm=state.getPositions(asNumpy=True)._value,
        velocities_nm_per_ps=state.getVelocities(asNumpy=True)._value,
        energy_kj_mol=energy_kj_mol,
        error="",
    )


def faster_platform(system: openmm.System, settings: Settings, block: Block) -> str:
    """Which platform takes less time for a step, by a short measurement."""
    best = {}
    for name in PLATFORM_NAMES:
        try:
            context = create_context(system, name, settings)
            advance(context, block)
        except Exception:  # a System with a force that this platform lacks; a start that will not do fails later, too
            continue
        times: list[float] = []
        stop = time.perf_counter() + _TIMED_SECONDS
        while not times or time.perf_counter() < stop:
            start = time.perf_counter()
            context.getIntegrator().step(10)
            times.append(time.perf_counter() - start)
        best[name] = min(times)
    if not best:
        raise ValueError(f"no platform of {PLATFORM_NAMES} can advance the System from its start.")
    return min(best, key=best.__getitem__)


def _serve(connection: Connection, parent_id: int) -> None:
    import openmm

    # Plain tuples travel: this script is another module than the parent's, and unpickling must not import the package.
    system_xml, platform_name, settings, first_block = connection.recv()
    settings, first_block = Settings(*settings), Block(*first_block)
    try:
        system = openmm.XmlSerializer.deserialize(system_xml)
        platform_name = platform_name or faster_platform(system, settings, first_block)
        context = create_context(system, platform_name, settings)
    except Exception:
        connection.send((False, traceback.format_exc()))
        return
    connection.send((True, platform_name))
    for request in requests(connection, parent_id):
        block = Block(*request)
        try:
            answer = advance(context, block)
        except Exception:
            answer = Advanced(block.replica, block.positions_nm, block.positions_nm, math.nan, traceback.format_exc())
        connection.send(tuple(answer))


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what it means
    connection_descriptor, parent_id = map(int, sys.argv[1:])
    with contextlib.suppress(EOFError, ConnectionError):  # the parent has closed the connection, or died
        _serve(Connection(connection_descriptor), parent_id)


if __name__ == "__main__":
    _main()
