"""Energies of Amber-type force fields with implicit solvent, computed by JAX on the device."""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cmtjax.energies import bonded
from cmtjax.energies.amber_parameters import AmberParameters, read_npz, to_arrays
from cmtjax.energies.pairs import pair_energies, pair_energy_and_gradient

#: Bytes of intermediate results that one block of configurations may take, by ``bytes_per_configuration``: fast on
#: a CPU (most of them are never stored at a time, so that this fits into its caches), and what an accelerator spares.
_BLOCK_BYTES = {"cpu": 8 << 20, "default": 1 << 30}


@dataclasses.dataclass(frozen=True, eq=False)
class AmberEnergy:
    """A pure function: positions (…, atoms, 3) in nm -> potential energies (…,) in kJ/mol.

    ``amber_energy`` makes one of an OpenMM System, ``AmberEnergy.load`` of a file. It computes in the dtype of the
    positions, holds NumPy arrays only, and works under ``jit``, ``vmap``, ``grad`` (reverse mode) and ``shard_map``.
    Batches, also those of ``vmap``, are evaluated block by block, so that memory does not grow with them. A gradient is
    computed together with its energy and kept, so a backward pass costs nothing more; second derivatives are those of
    the gradient (``jax.hessian``, ``jax.jvp`` of ``jax.grad``).

    Two atoms closer than 0.0027 nm (in float32) count as that far apart, which keeps clashes finite. An energy that
    nevertheless is not finite at finite positions is +inf with gradient zero, as from ``OpenMMPool``; NaN positions
    give NaN.

    Attributes:
      parameters: all numbers of the force field.
    """

    parameters: AmberParameters

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return self.parameters.num_atoms

    def __call__(self, positions_nm: Float[Array, "*batch atoms 3"]) -> Float[Array, "*batch"]:
        """Potential energies.

        Args:
          positions_nm: positions in nm, of any batch shape, in float32 or float64.

        Raises:
          ValueError: when traced, if the trailing dimensions are not (atoms, 3) or the dtype is another one.
        """
        positions_nm = self._checked(positions_nm)
        energies = self._differentiable(positions_nm.reshape(-1, self.num_atoms, 3))
        return energies.reshape(positions_nm.shape[:-2])

    def terms(self, positions_nm: Float[Array, "*batch atoms 3"]) -> dict[str, Float[Array, "*batch"]]:
        """Energies of the terms one by one, in kJ/mol.

        Args:
          positions_nm: as in a call.

        Returns:
          ``bonds``, ``angles``, ``torsions``, ``torsion_maps``, ``nonbonded``, ``solvent``, those that the force field
          has; each (…,).
        """
        positions_nm = self._checked(positions_nm)
        terms = self._in_blocks(self._block_terms, positions_nm.reshape(-1, self.num_atoms, 3))
        return jax.tree.map(lambda energy: energy.reshape(positions_nm.shape[:-2]), terms)

    def bytes_per_configuration(self, dtype: Any = np.float32) -> int:
        """Memory in bytes that one more configuration in a block takes at most, without a gradient and with one alike.

        Args:
          dtype: floating type of the positions.
        """
        parameters = self.parameters
        quads = 0 if parameters.torsions is None else len(parameters.torsions.atoms)
        triples = 0 if parameters.angles is None else len(parameters.angles.atoms)
        pairs = 0 if parameters.bonds is None else len(parameters.bonds.atoms)
        maps = sum(len(entry.atoms) for entry in parameters.torsion_maps)
        of_atom = 180 + 3 * (self.num_atoms // 2)  # three numbers a pair are kept for the gradient
        numbers = of_atom * self.num_atoms + 30 * quads + 16 * triples + 10 * pairs + 100 * maps
        return numbers * np.dtype(dtype).itemsize

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the parameters to an ``.npz`` file.

        Args:
          path: where; replaced if it exists.
        """
        with Path(path).open("wb") as file:
            np.savez(file, allow_pickle=False, **to_arrays(self.parameters))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AmberEnergy:
        """The energy that ``save`` wrote; needs no OpenMM.

        Args:
          path: the ``.npz`` file.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: if it holds something else.
        """
        return cls(read_npz(path))

    def _checked(self, positions_nm: Any) -> Array:
        positions_nm = jnp.asarray(positions_nm)
        if positions_nm.shape[-2:] != (self.num_atoms, 3):
            raise ValueError(f"positions_nm must have shape (..., {self.num_atoms}, 3), got {positions_nm.shape}.")
        if positions_nm.dtype not in (jnp.float32, jnp.float64):
            raise ValueError(f"positions_nm must be of floating dtype float32 or float64, got {positions_nm.dtype}.")
        return positions_nm

    @functools.cached_property
    def _differentiable(self) -> Any:
        """(n, atoms, 3) -> (n,), with the gradient taken within a block, so that nothing else is kept for it."""

        @jax.custom_vjp
        def energy(positions_nm: Array) -> Array:
            return self._in_blocks(self._block_energy, positions_nm)

        def forward(positions_nm: Array) -> tuple[Array, Array]:
            return self._in_blocks(self._block_energy_and_gradient, positions_nm)

        def backward(gradient: Array, cotangent: Array) -> tuple[Array]:
            # What regularization has flattened stays flat: 0 times an overflown force is no NaN.
            cotangent = cotangent[:, None, None]
            return (jnp.where(cotangent == 0, 0.0, cotangent * gradient),)

        energy.defvjp(forward, backward)
        return energy

    def _in_blocks(self, function: Any, positions_nm: Float[Array, "n atoms 3"]) -> Any:
        if positions_nm.shape[0] == 0:
            return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(function, positions_nm))
        size = self.bytes_per_configuration(positions_nm.dtype)

        branches = {name: functools.partial(_map_blocks, function, max(1, budget // size))
                    for name, budget in _BLOCK_BYTES.items()}  # fmt: skip

        def in_blocks(positions_nm: Array) -> Any:
            return jax.lax.platform_dependent(positions_nm, **branches)

        evaluate = jax.custom_batching.custom_vmap(in_blocks)

        @evaluate.def_vmap
        def fold(axis_size: int, in_batched: list[bool], positions_nm: Array) -> tuple[Any, Any]:
            """Puts an axis of ``vmap`` into the batch, which would otherwise become a part of every block."""
            if not in_batched[0]:  # the axis is one of tangents at the same positions, as in a Hessian
                results = in_blocks(positions_nm)
                return results, jax.tree.map(lambda _: False, results)
            results = evaluate(positions_nm.reshape(-1, *positions_nm.shape[2:]))
            results = jax.tree.map(lambda leaf: leaf.reshape(axis_size, -1, *leaf.shape[1:]), results)
            return results, jax.tree.map(lambda _: True, results)

        return evaluate(positions_nm)

    def _block_terms(self, positions_nm: Float[Array, "n atoms 3"]) -> dict[str, Float[Array, " n"]]:
        parameters, positions = self.parameters, positions_nm.transpose(2, 1, 0)
        pairs = pair_energies(parameters.nonbonded, parameters.solvent, positions)
        terms = self._bonded_terms(positions)
        if parameters.nonbonded is not None:
            terms["nonbonded"] = pairs.nonbonded
        if parameters.solvent is not None:
            terms["solvent"] = pairs.solvent
        return {name: _clash_unless_finite(energy, positions_nm) for name, energy in terms.items()}

    def _bonded_terms(self, positions: Float[Array, "3 atoms n"]) -> dict[str, Float[Array, " n"]]:
        terms = self._bonded_terms_but_torsions(positions)
        if self.parameters.torsions is not None:
            terms["torsions"] = bonded.torsion_energy(self.parameters.torsions, positions)
        return terms

    def _bonded_terms_but_torsions(self, positions: Float[Array, "3 atoms n"]) -> dict[str, Float[Array, " n"]]:
        parameters = self.parameters
        terms: dict[str, Array] = {}
        if parameters.bonds is not None:
            terms["bonds"] = bonded.bond_energy(parameters.bonds, positions)
        if parameters.angles is not None:
            terms["angles"] = bonded.angle_energy(parameters.angles, positions)
        if parameters.torsion_maps:
            energies = [bonded.map_energy(entry, positions) for entry in parameters.torsion_maps]
            terms["torsion_maps"] = jnp.sum(jnp.stack(energies), axis=0)
        return terms

    def _block_energy(self, positions_nm: Float[Array, "n atoms 3"]) -> Float[Array, " n"]:
        return _clash_unless_finite(_sum(self._block_terms(positions_nm), positions_nm[:, 0, 0]), positions_nm)

    def _block_energy_and_gradient(self, positions_nm: Float[Array, "n atoms 3"]) -> tuple[Array, Array]:
        parameters, positions = self.parameters, positions_nm.transpose(2, 1, 0)
        energy, pullback = jax.vjp(lambda x: _sum(self._bonded_terms_but_torsions(x), x[0, 0]), positions)
        (gradient,) = pullback(jnp.ones_like(energy))
        others = [pair_energy_and_gradient(parameters.nonbonded, parameters.solvent, positions)]
        if parameters.torsions is not None:
            others.append(bonded.torsion_energy_and_gradient(parameters.torsions, positions))
        for other_energy, other_gradient in others:
            energy, gradient = energy + other_energy, gradient + other_gradient
        energy = _clash_unless_finite(energy, positions_nm)
        gradient = jnp.where(jnp.isposinf(energy), 0.0, gradient)
        return energy, gradient.transpose(2, 1, 0)


def _sum(terms: dict[str, Float[Array, " n"]], like: Float[Array, " n"]) -> Float[Array, " n"]:
    return sum(terms.values(), jnp.zeros_like(like))


def _clash_unless_finite(energy: Float[Array, " n"], positions_nm: Float[Array, "n atoms 3"]) -> Float[Array, " n"]:
    """What overflows at finite positions, also as inf − inf, is a clash: +inf."""
    is_clash = ~jnp.isfinite(energy) & jnp.all(jnp.isfinite(positions_nm), axis=(1, 2))
    return jnp.where(is_clash, jnp.inf, energy)


def _map_blocks(function: Any, block_size: int, positions_nm: Float[Array, "n atoms 3"]) -> Any:
    """``function`` over blocks of equal size, the last one filled up with copies of the last configuration."""
    num_configurations = positions_nm.shape[0]
    num_blocks = -(-num_configurations // block_size)
    if num_blocks == 1:
        return function(positions_nm)
    size = -(-num_configurations // num_blocks)
    padding = [(0, num_blocks * size - num_configurations), (0, 0), (0, 0)]
    blocks = jnp.pad(positions_nm, padding, mode="edge").reshape(num_blocks, size, *positions_nm.shape[1:])
    results = jax.lax.map(function, blocks)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num_configurations], results)


def amber_energy(system: Any) -> AmberEnergy:
    """The energy of an OpenMM System of Amber-type forces, as a pure function of positions in JAX.

    Understood are HarmonicBondForce, HarmonicAngleForce, PeriodicTorsionForce, CMAPTorsionForce, NonbondedForce without
    cutoff, and as implicit solvent GBSAOBCForce or the CustomGBForce that OpenMM's ``implicit/hct.xml``, ``obc1.xml``,
    ``obc2.xml``, ``gbn.xml`` and ``gbn2.xml`` produce, with or without salt. CMMotionRemover is ignored. All terms are
    compared with OpenMM on one structure before the energy is returned.

    Args:
      system: an ``openmm.System``.

    Returns:
      The energy, see ``AmberEnergy``.

    Raises:
      ValueError: if the System holds anything else (the message names the force; ``OpenMMPool`` takes any), or a term
        differs from OpenMM's.
    """
    from cmtjax.energies.amber_system import check_against_openmm, read_system  # imports OpenMM

    energy = AmberEnergy(read_system(system))
    check_against_openmm(energy, system)
    return energy
