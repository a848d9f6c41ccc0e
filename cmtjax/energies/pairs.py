"""Pair terms: Coulomb, Lennard-Jones and generalized Born, without a list of pairs.

Atom i meets atom i + s (mod N) for all i at once, s = 1, 2, …: the partners are a slice of the positions written twice
one after the other (``over_shifts``). Shifts up to N/2 meet every pair once, shifts up to N − 1 in both directions. The
descreening sums need both directions, which share only the distance; and gradients take both, so that each atom adds
up its own and nothing is scattered. Nothing of the size (atoms, atoms, batch) is stored, and every operation runs over
contiguous batches.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cmtjax.energies import generalized_born as gb
from cmtjax.energies.amber_parameters import GeneralizedBorn, Nonbonded
from cmtjax.energies.shifts import column, over_shifts, table_by_shift

Positions = Float[Array, "3 atoms batch"]


class PairEnergies(NamedTuple):
    """Energies of the pair terms, (batch,) in kJ/mol; zero for a term that there is not."""

    nonbonded: Float[Array, " batch"]
    solvent: Float[Array, " batch"]


def pair_energies(nonbonded: Nonbonded | None, solvent: GeneralizedBorn | None, positions: Positions) -> PairEnergies:
    """Nonbonded and implicit-solvent energies.

    Args:
      nonbonded: parameters of the pairs in vacuum, or None.
      solvent: parameters of the implicit solvent, or None.
      positions: (3, atoms, batch) in nm.
    """
    zero = _zero(positions)
    sums = PairEnergies(zero, zero)
    inverse_born = None
    if solvent is not None:
        inverse_born = gb.inverse_born_radii(solvent, _descreening(solvent, positions))
        sums = sums._replace(solvent=gb.self_energies(solvent, inverse_born))
    num_atoms = positions.shape[1]
    shifts = np.arange(1, num_atoms // 2 + 1)
    # With an even number of atoms the last shift meets its pairs twice: they count half.
    share = np.where(2 * shifts == num_atoms, 0.5, 1.0)[:, None]
    tables = {name: share * table for name, table in _tables(nonbonded, solvent, shifts).items()}

    def meet(sums: PairEnergies, partners: dict[str, Array], tables: dict[str, Array]) -> PairEnergies:
        squared = _squared_distance(partners["positions"] - positions)
        return PairEnergies(
            sums.nonbonded + (0.0 if nonbonded is None else _vacuum(squared, tables)),
            sums.solvent + (0.0 if inverse_born is None or solvent is None
                            else _screening(solvent, squared, inverse_born, partners["inverse_born"], tables)),
        )  # fmt: skip

    partners = {"positions": positions} | ({} if inverse_born is None else {"inverse_born": inverse_born})
    sums = over_shifts(meet, sums, partners, tables, positions.dtype)
    return PairEnergies(*(jnp.sum(energy, axis=0) for energy in sums))


def pair_energy_and_gradient(
    nonbonded: Nonbonded | None, solvent: GeneralizedBorn | None, positions: Positions
) -> tuple[Float[Array, " batch"], Positions]:
    """The sum of the pair terms in kJ/mol, and its gradient in kJ/mol/nm.

    Written out, because automatic differentiation through the sums takes several times as long; what is left to JAX is
    a function of one atom. Arguments as for ``pair_energies``.
    """
    zero = _zero(positions)
    inverse_born = energy = of_radii = zero
    if solvent is not None:
        inverse_born, born_pullback = jax.vjp(
            lambda sums: gb.inverse_born_radii(solvent, sums), _descreening(solvent, positions)
        )
        energy, self_pullback = jax.vjp(lambda b: gb.self_energies(solvent, b), inverse_born)
        (of_radii,) = self_pullback(jnp.ones_like(energy))

    # Each atom's half of the energies of its pairs, and the derivatives with respect to it.
    def meet(sums: tuple[Array, ...], partners: tuple[Array, Array], tables: dict[str, Array]) -> tuple[Array, ...]:
        energy, gradient, of_radii = sums
        difference = positions - partners[0]

        squared = _squared_distance(difference)
        value, of_squared = (zero, zero) if nonbonded is None else _vacuum_and_slope(squared, tables)
        if solvent is not None:
            product = inverse_born * partners[1]
            screening, slope, by_product = gb.screening_slopes(solvent, squared, product)
            value, of_squared = value - tables["charges"] * screening, of_squared - tables["charges"] * slope
            of_radii -= tables["charges"] * by_product * partners[1]
        return energy + 0.5 * value, gradient + _along(of_squared, difference), of_radii

    shifts = np.arange(1, positions.shape[1])
    tables = _tables(nonbonded, solvent, shifts)
    sums = (energy, 0.0 * positions, of_radii)
    energy, gradient, of_radii = over_shifts(meet, sums, (positions, inverse_born), tables, positions.dtype)
    if solvent is None:
        return jnp.sum(energy, axis=0), gradient
    (slope,) = born_pullback(of_radii)
    there, back = gb.descreening_tables(solvent, shifts), gb.descreening_tables(solvent, shifts, backward=True)
    offset_radius = column(solvent.offset_radius_nm, positions.dtype)

    # An atom moves its own descreening by the partner and the partner's by itself.
    def turn(gradient: Positions, partners: tuple[Array, Array], tables: dict[str, Array]) -> Positions:
        difference = positions - partners[0]
        forward = {name: table for name, table in tables.items() if not name.startswith("back_")}
        backward = {name.removeprefix("back_"): table for name, table in tables.items() if name.startswith("back_")}

        squared = _squared_distance(difference)
        mine = gb.descreening_slope(solvent, squared, offset_radius, forward)
        theirs = gb.descreening_slope(solvent, squared, backward["offset_radius"], backward)
        return gradient + _along(slope * mine + partners[1] * theirs, difference)

    tables = there | {f"back_{name}": table for name, table in back.items()}
    gradient = over_shifts(turn, gradient, (positions, slope), tables, positions.dtype)
    return jnp.sum(energy, axis=0), gradient


def _descreening(solvent: GeneralizedBorn, positions: Positions) -> Float[Array, "atoms batch"]:
    """I of each atom: the sum over all others."""
    shifts = np.arange(1, positions.shape[1])
    offset_radius = column(solvent.offset_radius_nm, positions.dtype)

    def meet(total: Array, partner: Positions, tables: dict[str, Array]) -> Array:
        squared = _squared_distance(partner - positions)
        return total + gb.descreening_of_pair(solvent, squared, offset_radius, tables)

    tables = gb.descreening_tables(solvent, shifts)
    return over_shifts(meet, _zero(positions), positions, tables, positions.dtype)


def _tables(nonbonded: Nonbonded | None, solvent: GeneralizedBorn | None, shifts: Any) -> dict[str, np.ndarray]:
    tables: dict[str, np.ndarray] = {}
    if nonbonded is not None:
        tables |= {name: table_by_shift(matrix, shifts) for name, matrix in nonbonded._asdict().items()}
    if solvent is not None:
        tables["charges"] = table_by_shift(np.multiply.outer(solvent.charge, solvent.charge), shifts)
    return tables


def _vacuum(squared: Array, tables: dict[str, Array]) -> Array:
    """q/r + a/r¹² − c/r⁶."""
    inverse = jax.lax.rsqrt(squared)
    inverse_6 = (inverse * inverse) ** 3
    lennard_jones = inverse_6 * (tables["repulsion"] * inverse_6 - tables["dispersion"])
    return tables["coulomb"] * inverse + lennard_jones


def _vacuum_and_slope(squared: Array, tables: dict[str, Array]) -> tuple[Array, Array]:
    """``_vacuum`` and its derivative with respect to r²."""
    inverse = jax.lax.rsqrt(squared)
    inverse_2 = inverse * inverse
    inverse_6 = inverse_2**3
    coulomb, dispersion = tables["coulomb"] * inverse, tables["dispersion"] * inverse_6
    repulsion = tables["repulsion"] * inverse_6 * inverse_6
    slope = -0.5 * inverse_2 * (coulomb + 12.0 * repulsion - 6.0 * dispersion)
    return coulomb + repulsion - dispersion, slope


def _screening(
    solvent: GeneralizedBorn, squared: Array, inverse_born: Array, partner: Array, tables: dict[str, Array]
) -> Array:
    return -tables["charges"] * gb.screening(solvent, squared, inverse_born * partner)


def _squared_distance(difference: Positions) -> Float[Array, "atoms batch"]:
    """r² kept so far from zero that r⁻¹⁴ and with it every force is finite."""
    shortest = 1.5 * float(jnp.finfo(difference.dtype).max) ** (-1.0 / 14.0)  # 0.0027 nm in float32
    squared = difference[0] ** 2 + difference[1] ** 2 + difference[2] ** 2
    return jnp.maximum(squared, shortest**2)


def _along(of_squared: Array, difference: Positions) -> Positions:
    """The gradient from the derivative with respect to r²."""
    return 2.0 * of_squared * difference


def _zero(positions: Positions) -> Float[Array, "atoms batch"]:
    """Zeros that vary as the positions do: under ``shard_map`` a constant would have another type than the sums."""
    return 0.0 * positions[0]
