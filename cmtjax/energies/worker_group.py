"""The worker processes of ``OpenMMPool``: starting them, sending them work, ending them."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
import weakref
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import numpy as np

from cmtjax.energies import openmm_worker

_MAX_BLOCK = 256  # configurations in a message: 10 ms of work or more, against 0.1 ms for the message


class WorkerGroup:
    """The processes, their connections and the memory that they share; used by one thread at a time.

    ``kill`` may be called at any time, from any thread, and again.
    """

    def __init__(self, num_workers: int, num_atoms: int):
        self._owner_id = os.getpid()
        self._batch = openmm_worker.SharedBatch(num_atoms)
        self._processes: list[subprocess.Popen] = []
        self._connections: list[Connection] = []
        # Before the first process starts, so that nothing can come between. Runs at the interpreter's exit, too.
        self.kill = weakref.finalize(self, _kill, self._processes, self._owner_id)
        for _ in range(num_workers):
            self._start_worker()

    def _start_worker(self) -> None:
        # Not multiprocessing's spawn: that runs the caller's main module again in each worker, so it needs a guarded
        # main, does not work from standard input, and loads whatever the module imports (JAX at least).
        connection, worker_connection = multiprocessing.Pipe()
        descriptors = (worker_connection.fileno(), self._batch.file_descriptor)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "OPENBLAS_NUM_THREADS": "1",  # else numpy starts a thread per core in each worker
        }
        command = [sys.executable, "-P", openmm_worker.__file__, *map(str, descriptors), str(self._owner_id)]
        self._processes.append(
            subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=descriptors)
        )
        worker_connection.close()
        self._connections.append(connection)

    def set_up(self, system_xml: str, platform_name: str | None) -> str:
        """Hands the System to all workers; the first one chooses the platform where None is given."""
        for number, connection in enumerate(self._connections):
            self._send(connection, (system_xml, platform_name))
            if number == 0:
                platform_name = self._receive_greeting(connection)
        for connection in self._connections[1:]:
            self._receive_greeting(connection)
        return platform_name or ""

    def _receive_greeting(self, connection: Connection) -> str:
        is_ready, text = self._receive(connection)
        if not is_ready:
            raise RuntimeError(f"an OpenMM worker failed to set up its System:\n{text}")
        return text

    def evaluate(self, positions: np.ndarray, with_forces: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Energies and forces of (configurations, atoms, 3) positions."""
        if os.getpid() != self._owner_id:
            raise RuntimeError("this OpenMMPool belongs to another process, which forked this one; create one here.")
        num_configurations = len(positions)
        self._batch.reserve(num_configurations)
        self._batch.positions[:num_configurations] = positions
        # Several blocks a worker, so that one on a busy core does less, and two at a time, so that none waits.
        size = min(max(-(-num_configurations // (4 * len(self._connections))), 1), _MAX_BLOCK)
        blocks = iter(
            [
                (start, min(start + size, num_configurations), self._batch.capacity, with_forces)
                for start in range(0, num_configurations, size)
            ]
        )
        num_pending = 0
        for connection, block in zip(self._connections * 2, blocks, strict=False):
            self._send(connection, block)
            num_pending += 1
        while num_pending:
            for connection in cast("list[Connection]", wait(self._connections)):
                self._receive(connection)
                num_pending -= 1
                for block in itertools.islice(blocks, 1):
                    self._send(connection, block)
                    num_pending += 1
        forces = self._batch.forces[:num_configurations].copy() if with_forces else None
        return self._batch.energies[:num_configurations].copy(), forces

    def _send(self, connection: Connection, message: Any) -> None:
        try:
            connection.send(message)
        except OSError as error:
            raise self._death(connection) from error

    def _receive(self, connection: Connection) -> Any:
        try:
            return connection.recv()
        except (EOFError, OSError) as error:
            raise self._death(connection) from error

    def _death(self, connection: Connection) -> RuntimeError:
        number = self._connections.index(connection)
        process = self._processes[number]
        try:
            status = f"exit code {process.wait(timeout=1.0)}"
        except subprocess.TimeoutExpired:
            status = "no exit code yet"
        return RuntimeError(
            f"OpenMM worker {number} of {len(self._processes)} (process {process.pid}) died with {status}, and the "
            "pool is closed. Exit code -9 is a kill, often for lack of memory: try fewer workers or smaller batches; "
            "otherwise see what the worker wrote to standard error. Create a new OpenMMPool to go on."
        )


def _kill(processes: list[subprocess.Popen], owner_id: int) -> None:
    if os.getpid() != owner_id:  # in a fork of the owner, whose workers these are not
        return
    for process in processes:  # they hold nothing that would have to be saved
        process.kill()
    for process in processes:
        process.wait()
