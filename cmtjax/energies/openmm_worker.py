"""The process behind ``OpenMMPool``: evaluates blocks of configurations that lie in shared memory.

The pool runs this file as a script. It imports neither JAX nor the rest of the package, so a worker starts in the
time that OpenMM takes to load, and needs little memory.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import signal
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import openmm

#: Platforms that a worker can compute on with one thread.
PLATFORM_NAMES = ("Reference", "CPU")

_TIMED_SECONDS = 0.05  # per platform, when the faster one is looked for


class SharedBatch:
    """Positions, energies and forces of a batch in memory that the pool and its workers share.

    The memory is an unnamed file that lives as long as a process holds it, unlike a segment of
    ``multiprocessing.shared_memory``, whose name outlives a process that is killed. It grows by ``reserve``.

    Attributes:
      positions: (capacity, atoms, 3) float64, nm.
      energies: (capacity,) float64, kJ/mol.
      forces: (capacity, atoms, 3) float64, kJ/mol/nm. Takes no memory as long as nothing writes to it.
    """

    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray

    def __init__(self, num_atoms: int, file_descriptor: int | None = None):
        """Creates the file; given its descriptor, uses the one that the pool created."""
        self._num_atoms = num_atoms
        self._is_creator = file_descriptor is None
        self.file_descriptor = _unnamed_file() if file_descriptor is None else file_descriptor
        self.capacity = 0
        self._close = weakref.finalize(self, os.close, self.file_descriptor)
        self.reserve(1)

    def reserve(self, capacity: int) -> None:
        """Makes room for ``capacity`` configurations; drops what was there if the room is too small."""
        if capacity <= self.capacity:
            return
        shapes = {"positions": (capacity, self._num_atoms, 3), "energies": (capacity,)}
        shapes["forces"] = shapes["positions"]
        num_bytes = 8 * sum(int(np.prod(shape)) for shape in shapes.values())
        if self._is_creator:
            os.ftruncate(self.file_descriptor, num_bytes)
        memory = mmap.mmap(self.file_descriptor, num_bytes)
        offset = 0
        for name, shape in shapes.items():
            array = np.ndarray(shape, np.float64, memory, offset)
            setattr(self, name, array)
            offset += array.nbytes
        self.capacity = capacity


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("cmtjax")
    with tempfile.TemporaryFile() as file:  # not Linux: no name either, but backed by the disk
        return os.dup(file.fileno())


def create_context(system: openmm.System, platform_name: str) -> openmm.Context:
    """A context for energies and forces on one thread."""
    import openmm

    platform = openmm.Platform.getPlatformByName(platform_name)
    properties = {"Threads": "1"} if platform_name == "CPU" else {}
    return openmm.Context(system, openmm.VerletIntegrator(0.001), platform, properties)


def faster_platform(system: openmm.System) -> str:
    """Which platform takes less time for one energy of this system, by a short measurement.

    Positions hardly matter for the time where interactions have no cutoff, so atoms are spread on a grid.
    """
    side = int(np.ceil(system.getNumParticles() ** (1 / 3)))
    grid = 0.15 * np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    positions = grid[: system.getNumParticles()]
    best = {}
    for name in PLATFORM_NAMES:
        try:
            context = create_context(system, name)
            _energy_and_forces(context, positions, False)  # the first one allocates and compiles
        except Exception:  # a System with a force that this platform lacks
            continue
        times: list[float] = []
        stop = time.perf_counter() + _TIMED_SECONDS
        while not times or time.perf_counter() < stop:
            start = time.perf_counter()
            _energy_and_forces(context, positions, False)
            times.append(time.perf_counter() - start)
        best[name] = min(times)
    if not best:
        raise ValueError(f"no platform of {PLATFORM_NAMES} can evaluate the System.")
    return min(best, key=best.__getitem__)


def _energy_and_forces(
    context: openmm.Context, positions: np.ndarray, with_forces: bool
) -> tuple[float, np.ndarray | None]:
    # _value: these are in kJ/mol and kJ/mol/nm always, and the way through openmm.unit takes 10 % of a small
    # molecule's time.
    context.setPositions(positions)
    state = context.getState(getEnergy=True, getForces=with_forces)
    forces = state.getForces(asNumpy=True)._value if with_forces else None
    return state.getPotentialEnergy()._value, forces


def evaluate_block(
    context: openmm.Context, positions: np.ndarray, energies: np.ndarray, forces: np.ndarray | None
) -> None:
    """Writes energies and forces of a block, configuration by configuration.

    Args:
      context: an OpenMM context.
      positions: (block, atoms, 3) float64, nm.
      energies: (block,) float64, receives kJ/mol: NaN for a failed evaluation, that is positions that are not
        finite or an exception of OpenMM; +inf where finite positions give no finite energy, which only
        overflowing terms of overlapping atoms do (as inf, or as inf − inf, which OpenMM reports as NaN).
      forces: (block, atoms, 3) float64, receives kJ/mol/nm, 0 where the energy is not finite; or None.
    """
    is_finite = np.isfinite(positions).all(axis=(1, 2))
    for index, configuration in enumerate(positions):
        # First of all, so that no path can leave the answer to an earlier question behind.
        energies[index] = np.nan
        if forces is not None:
            forces[index] = 0.0
        if not is_finite[index]:
            continue
        try:
            energy, force = _energy_and_forces(context, configuration, forces is not None)
        except Exception:
            continue
        if math.isfinite(energy):
            energies[index] = energy
            if forces is not None:
                forces[index] = force
        else:
            energies[index] = np.inf


def requests(connection: Connection, parent_id: int) -> Iterator[Any]:
    """Messages from the parent, until it is gone (or EOFError says so)."""
    while True:
        # End of file tells that the parent is gone, unless a process forked from it holds the connection open.
        while not connection.poll(1.0):
            if os.getppid() != parent_id:
                return
        yield connection.recv()


def _serve(connection: Connection, file_descriptor: int, parent_id: int) -> None:
    import openmm

    system_xml, platform_name = connection.recv()
    try:
        system = openmm.XmlSerializer.deserialize(system_xml)
        platform_name = platform_name or faster_platform(system)
        context = create_context(system, platform_name)
    except Exception:
        connection.send((False, traceback.format_exc()))
        return
    connection.send((True, platform_name))
    batch = SharedBatch(system.getNumParticles(), file_descriptor)
    for start, stop, capacity, with_forces in requests(connection, parent_id):
        batch.reserve(capacity)
        block = slice(start, stop)
        evaluate_block(
            context, batch.positions[block], batch.energies[block], batch.forces[block] if with_forces else None
        )
        connection.send(stop - start)


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the pool decides what it means
    connection_descriptor, file_descriptor, parent_id = map(int, sys.argv[1:])
    with contextlib.suppress(EOFError, ConnectionError):  # the pool was closed, or its process has died
        _serve(Connection(connection_descriptor), file_descriptor, parent_id)


if __name__ == "__main__":
    _main()
