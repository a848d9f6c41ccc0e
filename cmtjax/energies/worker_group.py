"""Worker processes: starting them, sending them work, ending them; and those of ``OpenMMPool``."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import subprocess
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, cast

import numpy as np

from cmtjax.energies import openmm_worker

_MAX_BLOCK = 256  # configurations in a message: 10 ms of work or more, against 0.1 ms for the message


class WorkerProcesses:
    """Processes that run a script, and a connection to each; used by one thread at a time.

    A script gets as arguments the file descriptors of its connection and of what else it shares with this process, and
    this process's id. ``kill`` may be called at any time, from any thread, and again.
    """

    def __init__(self, script: str, num_workers: int, owner_name: str, shared_descriptors: Sequence[int] = ()):
        self._script, self._shared_descriptors = script, tuple(shared_descriptors)
        self._owner_name = owner_name  # in messages, of whom the processes work for
        self._owner_id = os.getpid()
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
        descriptors = (worker_connection.fileno(), *self._shared_descriptors)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            "OPENBLAS_NUM_THREADS": "1",  # else numpy starts a thread per core in each worker
        }
        command = [sys.executable, "-P", self._script, *map(str, descriptors), str(self._owner_id)]
        self._processes.append(
            subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=descriptors)
        )
        worker_connection.close()
        self._connections.append(connection)

    def set_up(self, system_xml: str, platform_name: str | None, *settings: Any) -> str:
        """Hands the System to all workers; the first one chooses the platform where None is given."""
        for number, connection in enumerate(self._connections):
            self._send(connection, (system_xml, platform_name, *settings))
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

    def answers(self, messages: Iterable[Any]) -> Iterator[Any]:
        """Hands out messages, two at a time to each worker so that none waits, and yields answers as they come."""
        self._check_owner()
        messages = iter(messages)
        num_pending = 0
        for connection, message in zip(self._connections * 2, messages, strict=False):
            self._send(connection, message)
            num_pending += 1
        while num_pending:
            for connection in cast("list[Connection]", wait(self._connections)):
                answer = self._receive(connection)
                num_pending -= 1
                for message in itertools.islice(messages, 1):
                    self._send(connection, message)
                    num_pending += 1
                yield answer

    def _check_owner(self) -> None:
        if os.getpid() != self._owner_id:
            raise RuntimeError(
                f"this {self._owner_name} belongs to another process, which forked this one; create one here."
            )

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
            f"{self._owner_name} is closed. Exit code -9 is a kill, often for lack of memory: try fewer workers or "
            "smaller batches; otherwise see what the worker wrote to standard error. Create a new one to go on."
        )


class WorkerGroup(WorkerProcesses):
    """The processes of an ``OpenMMPool``, and the memory that they share."""

    def __init__(self, num_workers: int, num_atoms: int):
        self._batch = openmm_worker.SharedBatch(num_atoms)
        super().__init__(openmm_worker.__file__, num_workers, "OpenMMPool", [self._batch.file_descriptor])

    def evaluate(self, positions: np.ndarray, with_forces: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Energies and forces of (configurations, atoms, 3) positions."""
        self._check_owner()  # before anything is written to the shared memory
        num_configurations = len(positions)
        self._batch.reserve(num_configurations)
        self._batch.positions[:num_configurations] = positions
        # Several blocks a worker, so that one on a busy core does less.
        size = min(max(-(-num_configurations // (4 * len(self._connections))), 1), _MAX_BLOCK)
        blocks = [
            (start, min(start + size, num_configurations), self._batch.capacity, with_forces)
            for start in range(0, num_configurations, size)
        ]
        for _ in self.answers(blocks):
            pass
        forces = self._batch.forces[:num_configurations].copy() if with_forces else None
        return self._batch.energies[:num_configurations].copy(), forces


def _kill(processes: list[subprocess.Popen], owner_id: int) -> None:
    if os.getpid() != owner_id:  # in a fork of the owner, whose workers these are not
        return
    for process in processes:  # they hold nothing that would have to be saved
        process.kill()
    for process in processes:
        process.wait()
