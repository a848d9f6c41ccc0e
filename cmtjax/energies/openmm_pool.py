"""Energies of any OpenMM System inside JAX programs, computed by a pool of CPU processes."""

from __future__ import annotations

import functools
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import openmm
from jax.experimental.buffer_callback import buffer_callback
from jaxtyping import Array, Float

from cmtjax.energies.openmm_worker import PLATFORM_NAMES
from cmtjax.energies.worker_group import WorkerGroup


class OpenMMPool:
    """Persistent processes that evaluate an OpenMM System, each on one thread.

    Use it as a context manager, or call ``close``. The workers also end with the process, in whatever way it ends.
    A worker that dies and an evaluation that is interrupted (Ctrl-C) close the pool.

    ``energy`` takes JAX arrays, ``evaluate`` numpy arrays. What they return for unusual configurations:

    - NaN for positions that are not finite and for an exception of OpenMM, for that configuration alone;
    - +inf for finite positions whose energy is not finite: terms of overlapping atoms overflow, to ±inf or to
      inf − inf, which OpenMM reports as NaN. Such a configuration is a clash, not a failed evaluation;
    - forces (gradients) of 0 in both cases, so that a masked sample does not spoil the gradient of a batch.

    Positions are taken as they are; constraints are not applied. The Reference platform computes in double precision,
    the CPU platform its nonbonded terms in single precision (relative error about 1e-6).

    Attributes:
      num_workers: number of processes.
      num_atoms: number of particles of the System.
      platform_name: ``"Reference"`` or ``"CPU"``, what the workers compute on.
      num_evaluations: configurations evaluated so far. It counts work done. JAX may drop or repeat a callback, so
        how many evaluations an algorithm asked for is for the algorithm to count.
    """

    def __init__(self, system: openmm.System, num_workers: int, platform: str | None = None):
        """Starts the workers and waits until they are ready.

        Args:
          system: an OpenMM System without virtual sites.
          num_workers: number of processes, at least 1. More than there are cores do not help.
          platform: ``"Reference"``, ``"CPU"``, or None for the faster one of the two on this System, by a short
            measurement. Give a run's ``platform_name`` again when it is resumed: their energies differ by rounding.

        Raises:
          ValueError: for any other argument.
          RuntimeError: if a worker fails to start.
        """
        _check_arguments(system, num_workers, platform)
        self.num_workers = num_workers
        self.num_atoms = system.getNumParticles()
        self.num_evaluations = 0
        # Two callbacks of one program, and programs on several devices, may ask at the same time.
        self._lock = threading.Lock()
        self._closed_because = ""
        self._workers: WorkerGroup | None = WorkerGroup(num_workers, self.num_atoms)
        try:
            self.platform_name = self._workers.set_up(openmm.XmlSerializer.serialize(system), platform)
        except BaseException as error:
            self._close(f"it failed to start ({error!r})")
            raise
        energy = jax.custom_vjp(self._energy)
        energy.defvjp(self._energy_forward, _energy_backward)
        self._compiled_energy = jax.jit(energy)

    def energy(self, positions_nm: Float[Array, "*batch atoms 3"]) -> Float[Array, "*batch"]:
        """Potential energies; works under ``jit``, ``vmap``, ``scan`` and ``grad``.

        The gradient is minus the force; forces are computed only where a gradient is asked for. Forward-mode and
        second derivatives are not available.

        Args:
          positions_nm: positions in nm. One call with a large batch is faster than many calls with small ones.

        Returns:
          Energies in kJ/mol; float32, or float64 where the positions are (under ``jax.enable_x64``).

        Raises:
          ValueError: if the last two axes are not (atoms, 3).
          RuntimeError: if the pool is closed or a worker dies. From within a compiled program JAX raises an error of
            its own with the same text in it, a RuntimeError or ValueError.
        """
        self._open_workers()
        positions = jnp.asarray(positions_nm)
        self._check_shape(positions.shape)
        return self._compiled_energy(positions.astype(jnp.promote_types(positions.dtype, jnp.float32)))

    def evaluate(
        self, positions_nm: Float[np.ndarray, "*batch atoms 3"], *, forces: bool = False
    ) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch atoms 3"] | None]:
        """Energies and forces of numpy arrays, in double precision.

        Args:
          positions_nm: positions in nm.
          forces: whether to compute forces.

        Returns:
          Energies in kJ/mol, and forces in kJ/mol/nm or None; float64.

        Raises:
          ValueError: if the last two axes are not (atoms, 3).
          RuntimeError: if the pool is closed or a worker dies.
        """
        positions = np.asarray(positions_nm)
        self._check_shape(positions.shape)
        batch_shape = positions.shape[:-2]
        flat = positions.reshape(int(np.prod(batch_shape)), self.num_atoms, 3)
        with self._lock:
            workers = self._open_workers()
            try:
                energies_kj_mol, forces_kj_mol_nm = workers.evaluate(flat, forces)
            except BaseException as error:
                if self._workers is None:  # closed by another thread
                    self._open_workers()
                # An interrupted evaluation leaves answers under way that the next one would take for its own.
                self._close(f"an evaluation did not finish ({error!r})")
                raise
            self.num_evaluations += len(flat)
        return (
            energies_kj_mol.reshape(batch_shape),
            None if forces_kj_mol_nm is None else forces_kj_mol_nm.reshape(positions.shape),
        )

    def close(self) -> None:
        """Ends the workers and frees the shared memory. Closing twice is fine."""
        self._close("close() was called or its 'with' block was left")

    def __enter__(self) -> OpenMMPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _close(self, because: str) -> None:
        # Without the lock: an evaluation in another thread holds it, and ends with an error once its workers do.
        workers, self._workers = self._workers, None
        if workers is not None:
            self._closed_because = because
            workers.kill()

    def _open_workers(self) -> WorkerGroup:
        workers = self._workers
        if workers is None:
            raise RuntimeError(f"This OpenMMPool is closed: {self._closed_because}. Create a new one.")
        return workers

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        if shape[-2:] != (self.num_atoms, 3):
            raise ValueError(f"positions_nm must have shape (..., {self.num_atoms}, 3), got {shape}.")

    # What JAX sees.

    def _energy(self, positions: Array) -> Array:
        return self._call_host(positions, False)[0]

    def _energy_forward(self, positions: Array) -> tuple[Array, Array]:
        energy, force = self._call_host(positions, True)
        return energy, force

    def _call_host(self, positions: Array, with_forces: bool) -> tuple[Array, ...]:
        results = [jax.ShapeDtypeStruct(positions.shape[:-2], positions.dtype)]
        if with_forces:
            results.append(jax.ShapeDtypeStruct(positions.shape, positions.dtype))
        host = functools.partial(self._host_results, with_forces)

        def write_results(context: Any, buffers: Any, positions: Any) -> None:
            del context
            for buffer, result in zip(buffers, host(positions), strict=True):
                np.asarray(buffer)[...] = result

        # pure_callback turns its argument into a jax array. On a CPU that is, beyond 100 KiB, an asynchronous copy by
        # the very threads that the calling program runs on: once all of them are inside callbacks (one core and two
        # callbacks are enough) it never ends. buffer_callback hands over the memory itself. On accelerators the
        # program does not run on these threads.
        return jax.lax.platform_dependent(
            positions,
            cpu=buffer_callback(write_results, tuple(results), vmap_method="broadcast_all"),
            default=lambda x: jax.pure_callback(host, tuple(results), x, vmap_method="broadcast_all"),
        )

    def _host_results(self, with_forces: bool, positions: Any) -> tuple[np.ndarray, ...]:
        # numpy only: JAX inside of a callback can wait for itself.
        array = np.asarray(positions)
        energies, forces = self.evaluate(array, forces=with_forces)
        with np.errstate(over="ignore"):  # energies beyond float32 become +inf, as documented
            results = [energies.astype(array.dtype)]
        if forces is not None:
            # A gradient of 0 must not meet an infinite force: 0 · inf is NaN.
            limit = np.finfo(array.dtype).max
            is_finite = np.isfinite(results[0])[..., None, None]
            results.append(np.where(is_finite, np.clip(forces, -limit, limit), 0.0).astype(array.dtype))
        return tuple(results)


def _energy_backward(force: Array, cotangent: Array) -> tuple[Array]:
    return (-force * cotangent[..., None, None],)


def _check_arguments(system: openmm.System, num_workers: int, platform: str | None) -> None:
    if not isinstance(system, openmm.System):
        raise ValueError(f"system must be an openmm.System, got {type(system).__name__}.")
    if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 1:
        raise ValueError(f"num_workers must be an integer of at least 1, got {num_workers!r}.")
    if platform is not None and platform not in PLATFORM_NAMES:
        raise ValueError(f"platform must be one of {PLATFORM_NAMES} or None, got {platform!r}.")
    num_particles = system.getNumParticles()
    if num_particles == 0:
        raise ValueError("system must have particles, got an empty one.")
    virtual = [index for index in range(num_particles) if system.isVirtualSite(index)]
    if virtual:
        raise ValueError(f"system must have no virtual sites, but particles {virtual} are: OpenMM moves their forces.")
