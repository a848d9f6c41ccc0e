"""Langevin dynamics and replica exchange by OpenMM, spread over worker processes.

The protocol of the published ground truths (Schopmans and Friederich, TA-BG, Table 4; von Klitzing et al., CMT,
appendix D.2): 1 fs without constraints and 2 fs with constrained bonds to hydrogen, and replicas at 300 to 500 K that
exchange with their neighbors. Their integrator is not told; here it is OpenMM's LangevinMiddleIntegrator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import openmm
from jaxtyping import Float

from cmtjax.energies.openmm_worker import PLATFORM_NAMES
from cmtjax.energies.worker_group import WorkerProcesses
from cmtjax.mcmc import openmm_dynamics_worker
from cmtjax.mcmc.neighbor_exchange import ExchangeInfo, exchange_neighbors

_STATE = ("positions_nm", "velocities_nm_per_ps", "energies_kj_mol", "walkers", "num_blocks", "num_exchanges")


def default_time_step_fs(system: openmm.System) -> float:
    """The published time steps: 2 fs with constraints, 1 fs without.

    Args:
      system: an OpenMM System.
    """
    return 2.0 if system.getNumConstraints() else 1.0


class OpenMMDynamics:
    """Independent chains, each a ladder of replicas of one System; with one temperature, plain Langevin dynamics.

    Use it as a context manager, or call ``close``. The worker processes also end with this process, however it ends.
    An error or an interruption while they work closes it; ``state`` then is still that from before.

    Random numbers follow from the seed and from how much was done, block by block: what ``set_state`` goes on from ends
    in the same numbers as an uninterrupted run, with any number of workers, on one machine and platform.

    Attributes:
      temperatures_kelvin: (temperatures,).
      num_chains: number of chains.
      time_step_fs: the time step.
      platform_name: ``"Reference"`` or ``"CPU"``, what the workers compute on.
    """

    def __init__(
        self,
        system: openmm.System,
        positions_nm: Float[np.ndarray, "atoms 3"] | Float[np.ndarray, "chains temperatures atoms 3"],
        temperatures_kelvin: Sequence[float],
        *,
        num_chains: int,
        num_workers: int,
        platform: str | None = None,
        time_step_fs: float | None = None,
        friction_per_ps: float = 1.0,
        seed: int,
    ) -> None:
        """Starts the workers and waits until they are ready.

        Args:
          system: an OpenMM System without virtual sites; its constraints are kept.
          positions_nm: where all replicas start, or where each does.
          temperatures_kelvin: of the replicas of a chain, increasing.
          num_chains: number of chains.
          num_workers: number of processes, each on one thread; more than there are cores, or replicas, do not help.
          platform: "Reference", "CPU", or None for the faster one on this System, by a short measurement. Give
            ``platform_name`` again to resume.
          time_step_fs: None for ``default_time_step_fs``.
          friction_per_ps: of the Langevin dynamics.
          seed: of start velocities, noise and exchanges; at least 0.

        Raises:
          ValueError: for any other argument.
          RuntimeError: if a worker fails to start.
        """
        temperatures = np.array(temperatures_kelvin, np.float64)
        time_step_fs = default_time_step_fs(system) if time_step_fs is None else time_step_fs
        _check_arguments(system, temperatures, num_chains, num_workers, platform, time_step_fs, friction_per_ps, seed)
        self.temperatures_kelvin = temperatures
        self.num_chains = num_chains
        self.time_step_fs = time_step_fs
        self._seed = seed
        shape = (num_chains, len(temperatures), system.getNumParticles(), 3)
        positions_nm = np.asarray(positions_nm, np.float64)
        if positions_nm.shape not in (shape, shape[2:]) or not np.isfinite(positions_nm).all():
            raise ValueError(f"positions_nm must be finite, {shape[2:]} or {shape}, got shape {positions_nm.shape}.")
        self._state: dict[str, np.ndarray] = {
            "positions_nm": np.broadcast_to(positions_nm, shape).copy(),
            "velocities_nm_per_ps": np.full(shape, np.nan),
            "energies_kj_mol": np.full(shape[:2], np.nan),
            "walkers": np.broadcast_to(np.arange(shape[1]), shape[:2]).copy(),
            "num_blocks": np.array(0),
            "num_exchanges": np.array(0),
        }
        self._closed_because = ""
        self._workers: WorkerProcesses | None = WorkerProcesses(
            openmm_dynamics_worker.__file__, num_workers, "OpenMMDynamics"
        )
        settings = openmm_dynamics_worker.Settings(time_step_fs, friction_per_ps)
        try:
            self.platform_name = self._workers.set_up(
                openmm.XmlSerializer.serialize(system), platform, tuple(settings), self._block(0, num_steps=10)
            )
        except BaseException as error:
            self._close(f"it failed to start ({error!r})")
            raise

    def advance(
        self, num_steps: int
    ) -> tuple[Float[np.ndarray, "chains temperatures atoms 3"], Float[np.ndarray, "chains temperatures"]]:
        """Moves every replica on by a block of dynamics.

        A block has a cost of its own beside its steps, 1 to 20 ms: steps should be some hundreds.

        Args:
          num_steps: time steps.

        Returns:
          Positions in nm and potential energies in kJ/mol, in the order of the temperatures.

        Raises:
          ValueError: if num_steps is not positive.
          RuntimeError: if a worker dies, the dynamics fails (the message has the worker's traceback) or it is closed.
        """
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps!r}.")
        if self._workers is None:
            raise RuntimeError(f"This OpenMMDynamics is closed: {self._closed_because}. Create a new one.")
        state = self.state()
        positions_nm, velocities_nm_per_ps = _flat(state["positions_nm"]), _flat(state["velocities_nm_per_ps"])
        energies_kj_mol = state["energies_kj_mol"].reshape(-1)
        try:
            for answer in self._workers.answers(
                self._block(replica, num_steps) for replica in range(len(positions_nm))
            ):
                advanced = openmm_dynamics_worker.Advanced(*answer)
                if advanced.error:
                    chain, rung = divmod(advanced.replica, len(self.temperatures_kelvin))
                    raise RuntimeError(
                        f"dynamics of chain {chain} at {self.temperatures_kelvin[rung]} K failed:\n{advanced.error}"
                    )
                positions_nm[advanced.replica] = advanced.positions_nm
                velocities_nm_per_ps[advanced.replica] = advanced.velocities_nm_per_ps
                energies_kj_mol[advanced.replica] = advanced.energy_kj_mol
        except BaseException as error:
            # Answers may still be under way that the next call would take for its own.
            self._close(f"a block did not finish ({error!r})")
            raise
        state["num_blocks"] += 1
        self._state = state
        return state["positions_nm"].copy(), state["energies_kj_mol"].copy()

    def exchange(self, rng: np.random.Generator | None = None) -> ExchangeInfo:
        """Tries to exchange every other pair of neighboring replicas, the even and the odd ones in turns.

        Positions and velocities move between temperatures, velocities scaled by √(T_new / T_old).

        Args:
          rng: source of the decisions; with None they follow from the seed and the number of earlier calls.

        Raises:
          ValueError: before the first ``advance``, when energies are not known.
        """
        state, temperatures = self.state(), self.temperatures_kelvin
        if np.isnan(state["energies_kj_mol"]).any():
            raise ValueError("exchange needs energies: call advance before.")
        count = int(state["num_exchanges"])
        if rng is None:
            rng = np.random.default_rng(np.random.SeedSequence(self._seed, spawn_key=(1, count)))
        info, source = exchange_neighbors(rng, state["energies_kj_mol"], temperatures, count % 2)
        for name in ("positions_nm", "velocities_nm_per_ps", "energies_kj_mol", "walkers"):
            indices = source.reshape(*source.shape, *(1,) * (state[name].ndim - 2))
            state[name] = np.take_along_axis(state[name], indices, axis=1)
        state["velocities_nm_per_ps"] *= np.sqrt(temperatures / temperatures[source])[..., None, None]
        state["num_exchanges"] += 1
        self._state = state
        return info

    def state(self) -> dict[str, np.ndarray]:
        """Everything that ``set_state`` needs to go on from here, as a copy.

        Returns:
          ``positions_nm`` and ``velocities_nm_per_ps`` (chains, temperatures, atoms, 3), velocities NaN before the
          first block; ``energies_kj_mol`` (chains, temperatures), NaN likewise; ``walkers`` (chains, temperatures),
          the rung on which the replica that is now at a temperature started; ``num_blocks`` and ``num_exchanges``.
        """
        return {name: array.copy() for name, array in self._state.items()}

    def set_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Goes on from what ``state`` returned, of an instance with the same arguments.

        Args:
          state: arrays by name.

        Raises:
          ValueError: if an array is missing or has another shape.
        """
        if missing := [name for name in _STATE if name not in state]:
            raise ValueError(f"state must have {list(_STATE)}, it lacks {missing}.")
        for name in _STATE:
            if np.shape(state[name]) != self._state[name].shape:
                raise ValueError(
                    f"state: {name} must have shape {self._state[name].shape}, got {np.shape(state[name])}."
                )
        self._state = {name: np.array(state[name], self._state[name].dtype) for name in _STATE}

    def close(self) -> None:
        """Ends the workers. Closing twice is fine."""
        self._close("close() was called or its 'with' block was left")

    def __enter__(self) -> OpenMMDynamics:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _close(self, because: str) -> None:
        workers, self._workers = self._workers, None
        if workers is not None:
            self._closed_because = because
            workers.kill()

    def _block(self, replica: int, num_steps: int) -> tuple:
        """The next block of a replica; its random seeds are its own."""
        velocities_nm_per_ps = _flat(self._state["velocities_nm_per_ps"])[replica]
        sequence = np.random.SeedSequence(self._seed, spawn_key=(0, int(self._state["num_blocks"]), replica))
        # OpenMM takes seeds below 2³¹, and 0 for one from the clock.
        noise_seed, velocity_seed = 1 + sequence.generate_state(2) % (2**31 - 2)
        return tuple(
            openmm_dynamics_worker.Block(
                replica=replica,
                temperature_kelvin=float(self.temperatures_kelvin[replica % len(self.temperatures_kelvin)]),
                positions_nm=_flat(self._state["positions_nm"])[replica],
                velocities_nm_per_ps=None if np.isnan(velocities_nm_per_ps).any() else velocities_nm_per_ps,
                num_steps=num_steps,
                noise_seed=int(noise_seed),
                velocity_seed=int(velocity_seed),
            )
        )


def _flat(array: Float[np.ndarray, "chains temperatures atoms 3"]) -> Float[np.ndarray, "replicas atoms 3"]:
    """The same memory with all replicas in one axis."""
    return array.reshape(-1, *array.shape[2:])


def _check_arguments(
    system: openmm.System,
    temperatures_kelvin: np.ndarray,
    num_chains: int,
    num_workers: int,
    platform: str | None,
    time_step_fs: float,
    friction_per_ps: float,
    seed: int,
) -> None:
    if any(system.isVirtualSite(index) for index in range(system.getNumParticles())):
        raise ValueError("system must have no virtual sites.")
    is_increasing = np.all(np.diff(temperatures_kelvin) > 0)
    if temperatures_kelvin.ndim != 1 or not (
        temperatures_kelvin.size and is_increasing and np.all(temperatures_kelvin > 0)
    ):
        raise ValueError(f"temperatures_kelvin must be positive and increasing, got {temperatures_kelvin.tolist()}.")
    for name, number, least in (("num_chains", num_chains, 1), ("num_workers", num_workers, 1), ("seed", seed, 0)):
        if number < least or number != int(number):
            raise ValueError(f"{name} must be an integer of at least {least}, got {number!r}.")
    if platform is not None and platform not in PLATFORM_NAMES:
        raise ValueError(f"platform must be one of {PLATFORM_NAMES} or None, got {platform!r}.")
    for name, value in (("time_step_fs", time_step_fs), ("friction_per_ps", friction_per_ps)):
        if not 0 < value < np.inf:
            raise ValueError(f"{name} must be positive and finite, got {value!r}.")
