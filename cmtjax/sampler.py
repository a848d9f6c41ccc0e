"""A trained flow for other people's JAX code."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from cmtjax.coordinates.internal import InternalCoordinates, internal_coordinates
from cmtjax.energies.amber import AmberEnergy
from cmtjax.flows.flow import Flow, Params
from cmtjax.methods.buffer import in_chunks
from cmtjax.molecules.z_matrix import ZMatrix
from cmtjax.runs.build import build_flow
from cmtjax.runs.directory import open_existing, restore_params
from cmtjax.targets.boltzmann import boltzmann
from cmtjax.targets.target import Target

_CHUNK_SIZE = 10_000


class Samples(NamedTuple):
    """Samples of a trained flow.

    Attributes:
      positions_nm: (n, atoms, 3) in nm.
      log_q: (n,) log density of the flow at the positions.
      log_p: (n,) unnormalized log density of the target, −E_reg/kT; None without an energy.
      log_weights: (n,) log p̃ − log q, unnormalized importance weights towards the target; None without an energy.
    """

    positions_nm: Float[Array, "n atoms 3"]
    log_q: Float[Array, " n"]
    log_p: Float[Array, " n"] | None
    log_weights: Float[Array, " n"] | None


class _Parts:
    """What does not change under training; hashed by identity, so that a sampler can cross a jit boundary."""

    def __init__(self, flow: Flow, coordinates: InternalCoordinates, target: Target | None) -> None:
        self.flow = flow
        self.coordinates = coordinates
        self.target = target


@jax.tree_util.register_pytree_node_class
class Sampler:
    """A trained Boltzmann generator; a pytree whose leaves are the flow's parameters.

    Under the caller's ``jit`` a sampler that is an argument stays an argument: its parameters are not compiled in.

    Attributes:
      params: the flow's parameters.
    """

    def __init__(self, params: Params, parts: _Parts) -> None:
        self.params = params
        self._parts = parts

    def tree_flatten(self) -> tuple[tuple[Params], _Parts]:
        """The parameters are the children, everything else is static."""
        return (self.params,), self._parts

    @classmethod
    def tree_unflatten(cls, parts: _Parts, children: tuple[Params]) -> Sampler:
        """The inverse of ``tree_flatten``."""
        return cls(children[0], parts)

    @property
    def flow(self) -> Flow:
        """The flow on the unit box."""
        return self._parts.flow

    @property
    def coordinates(self) -> InternalCoordinates:
        """The map from the box to positions."""
        return self._parts.coordinates

    @property
    def target(self) -> Target | None:
        """What the flow was trained to sample; None without an energy."""
        return self._parts.target

    def sample(self, key: PRNGKeyArray, *, num_samples: int) -> Samples:
        """Draws independent samples.

        Args:
          key: random key.
          num_samples: how many; static under jit.
        """
        target = self._parts.target

        def chunk(key: PRNGKeyArray, size: int) -> Samples:
            u, log_q_u = self.flow.sample_and_log_prob(self.params, key, size)
            positions_nm, log_det = self.coordinates.to_physical(u)
            log_q = log_q_u - log_det
            if target is None:
                return Samples(positions_nm, log_q, None, None)
            log_p = target.log_prob(positions_nm)
            return Samples(positions_nm, log_q, log_p, log_p - log_q)

        return in_chunks(chunk, key, num_samples, _CHUNK_SIZE)

    def log_prob(self, positions_nm: Float[Array, "*batch atoms 3"]) -> Float[Array, "*batch"]:
        """Log density of the flow at positions, in the convention of the published NLL; differentiable.

        Positions outside the flow's domain (see ``in_domain``) get log q_u of the nearest point of the box, with the
        volume factor of their own bonds and angles.

        Args:
          positions_nm: positions in nm, in the atom order of the run's molecule; anywhere in space, in any orientation.
        """
        u, log_det, _ = self.coordinates.from_physical(positions_nm)
        return self.flow.log_prob(self.params, u) - log_det

    def in_domain(self, positions_nm: Float[Array, "*batch atoms 3"]) -> Bool[Array, "*batch"]:
        """Whether the flow can produce the positions: all bonds, angles and half-range torsions in their windows."""
        return self.coordinates.from_physical(positions_nm)[2]


def load_sampler(run_directory: str | os.PathLike[str], energy_fn: Callable[[Array], Array] | None = None) -> Sampler:
    """The sampler of a run's newest checkpoint. Starts no process and needs no OpenMM.

    Args:
      run_directory: what ``train.py`` wrote.
      energy_fn: positions (…, atoms, 3) nm -> kJ/mol, for ``log_p`` and ``log_weights``. By default the energy in JAX
        that the run was trained with; a run with another back end has none, and they are None.

    Raises:
      FileNotFoundError: if the directory does not exist.
      RunDirectoryError: if there is no run or no checkpoint in it.
    """
    run = open_existing(run_directory)
    coordinates = internal_coordinates(ZMatrix.load(run.molecule_directory / "z_matrix.json"))
    flow = build_flow(run.config["flow"], coordinates.domain)
    template = jax.eval_shape(flow.init, jax.random.key(0))
    _, params = restore_params(run_directory, template)
    if energy_fn is None and run.energy_path.exists():
        energy_fn = AmberEnergy.load(run.energy_path)
    return Sampler(params, _Parts(flow, coordinates, _target(run.config, coordinates, energy_fn)))


def _target(config: dict[str, Any], coordinates: InternalCoordinates, energy_fn: Any) -> Target | None:
    if energy_fn is None:
        return None
    return boltzmann(
        coordinates,
        energy_fn,
        temperature_kelvin=config["temperature_kelvin"],
        regularization=config["energy"]["regularization"],
    )
