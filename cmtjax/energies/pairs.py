"""Pair terms: Coulomb, Lennard-Jones and generalized Born, without a list of pairs.

Atom i meets atom i + s (mod N) for all i at once, s = 1, 2, … N/2: the partners are a slice of the positions written
twice one after the other, and what is for the partners is added to such a slice (``over_pairs``). So each pair is met
once, nothing is gathered or scattered, and every operation runs over contiguous batches. Energies alone store nothing
of the size (atoms, atoms, batch); gradients keep derivatives of each pair's terms from pass to pass.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cmtjax.energies import generalized_born as gb
from cmtjax.energies.amber_parameters import GeneralizedBorn, Nonbonded
from cmtjax.energies.shifts import over_pairs

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
    sums, partners = {"nonbonded": zero, "solvent": zero}, {"positions": positions}
    if solvent is not None:
        descreening = _descreening(solvent, positions)
        partners["inverse_born"] = gb.inverse_born_radii(solvent, descreening)
        sums["solvent"] = gb.self_energies(solvent, partners["inverse_born"])

    def meet(met: dict[str, Array], tables: dict[str, Array], _: None) -> tuple[Any, Any, Any]:
        squared, added = _squared_distance(met["positions"] - positions), {"nonbonded": zero, "solvent": zero}
        if nonbonded is not None:
            added["nonbonded"] = _vacuum_and_slope(squared, tables)[0]
        if solvent is not None:
            screening = gb.screening(solvent, squared, partners["inverse_born"] * met["inverse_born"])
            added["solvent"] = -tables["charges"] * screening
        return added, {}, None

    sums, _ = over_pairs(meet, sums, (), partners, _tables(nonbonded, solvent), positions.dtype)
    return PairEnergies(jnp.sum(sums["nonbonded"], axis=0), jnp.sum(sums["solvent"], axis=0))


def pair_energy_and_gradient(
    nonbonded: Nonbonded | None, solvent: GeneralizedBorn | None, positions: Positions
) -> tuple[Float[Array, " batch"], Positions]:
    """The sum of the pair terms in kJ/mol, and its gradient in kJ/mol/nm.

    Written out, because automatic differentiation through the sums takes several times as long; what is left to JAX is
    a function of one atom. Arguments as for ``pair_energies``.
    """
    zero = _zero(positions)
    sums, partners = {"energy": zero, "of_radii": zero}, {"positions": positions}
    inverse_born = zero
    of_descreening: Any = None
    if solvent is not None:
        descreening, of_descreening = _descreening_and_slopes(solvent, positions)
        inverse_born, born_pullback = jax.vjp(lambda sums: gb.inverse_born_radii(solvent, sums), descreening)
        sums["energy"], self_pullback = jax.vjp(lambda b: gb.self_energies(solvent, b), inverse_born)
        (sums["of_radii"],) = self_pullback(jnp.ones_like(inverse_born))
        partners["inverse_born"] = inverse_born

    def meet(met: dict[str, Array], tables: dict[str, Array], _: None) -> tuple[Any, Any, Any]:
        squared = _squared_distance(positions - met["positions"])
        value, slope = (zero, zero) if nonbonded is None else _vacuum_and_slope(squared, tables)
        if solvent is None:
            return {"energy": value, "of_radii": zero}, {}, slope
        screening = gb.screening_slopes(solvent, squared, inverse_born * met["inverse_born"])
        value, slope = value - tables["charges"] * screening[0], slope - tables["charges"] * screening[1]
        of_product = -tables["charges"] * screening[2]
        of_mine, of_theirs = of_product * met["inverse_born"], of_product * inverse_born
        return {"energy": value, "of_radii": of_mine}, {"of_radii": of_theirs}, slope

    mutual = () if solvent is None else ("of_radii",)
    sums, of_squared = over_pairs(meet, sums, mutual, partners, _tables(nonbonded, solvent), positions.dtype)
    energy, partners = jnp.sum(sums["energy"], axis=0), {"positions": positions}
    if solvent is not None:
        (partners["of_descreening"],) = born_pullback(sums["of_radii"])
        of_squared = list(zip(of_squared, of_descreening, strict=True))

    def pull(met: dict[str, Array], _: dict[str, Array], kept: Any) -> tuple[Any, Any, None]:
        if solvent is not None:
            kept, (mine, theirs) = kept
            kept += partners["of_descreening"] * mine + met["of_descreening"] * theirs
        force = 2.0 * kept * (positions - met["positions"])
        return {"gradient": force}, {"gradient": -force}, None

    sums = {"gradient": 0.0 * positions}
    sums, _ = over_pairs(pull, sums, ("gradient",), partners, {}, positions.dtype, of_squared)
    return energy, sums["gradient"]


def _descreening(solvent: GeneralizedBorn, positions: Positions) -> Float[Array, "atoms batch"]:
    """I of each atom: the sum over all others."""

    # Both ways at a time, as below, take longer: mutual sums cost more than they spare here.
    def meet(partner: Positions, tables: dict[str, Array], _: None) -> tuple[Any, Any, Any]:
        return {"sum": gb.descreening_of_pair(solvent, _squared_distance(partner - positions), tables)}, {}, None

    sums, tables = {"sum": _zero(positions)}, gb.descreening_tables(solvent)
    sums, _ = over_pairs(meet, sums, (), positions, tables, positions.dtype, from_both_sides=True)
    return sums["sum"]


def _descreening_and_slopes(solvent: GeneralizedBorn, positions: Positions) -> tuple[Float[Array, "atoms batch"], Any]:
    """I of each atom, and the derivatives of each pair's two contributions with respect to r²."""

    def meet(partner: Positions, tables: dict[str, Array], _: None) -> tuple[Any, Any, Any]:
        squared = _squared_distance(partner - positions)
        ways = gb.both_ways(tables)
        mine, theirs = (gb.descreening_of_pair(solvent, squared, way) for way in ways)
        return {"sum": mine}, {"sum": theirs}, tuple(gb.descreening_slope(solvent, squared, way) for way in ways)

    sums, tables = {"sum": _zero(positions)}, gb.descreening_tables(solvent, with_back=True)
    sums, slopes = over_pairs(meet, sums, ("sum",), positions, tables, positions.dtype)
    return sums["sum"], slopes


def _tables(nonbonded: Nonbonded | None, solvent: GeneralizedBorn | None) -> dict[str, np.ndarray]:
    tables: dict[str, np.ndarray] = {} if nonbonded is None else nonbonded._asdict()
    return tables if solvent is None else tables | {"charges": np.multiply.outer(solvent.charge, solvent.charge)}


def _vacuum_and_slope(squared: Array, tables: dict[str, Array]) -> tuple[Array, Array]:
    """q/r + a/r¹² − c/r⁶ and its derivative with respect to r², which compilers drop where nobody takes it."""
    inverse = jax.lax.rsqrt(squared)
    inverse_2 = inverse * inverse
    inverse_6 = inverse_2**3
    coulomb, dispersion = tables["coulomb"] * inverse, tables["dispersion"] * inverse_6
    repulsion = tables["repulsion"] * inverse_6 * inverse_6
    slope = -0.5 * inverse_2 * (coulomb + 12.0 * repulsion - 6.0 * dispersion)
    return coulomb + repulsion - dispersion, slope


def _squared_distance(difference: Positions) -> Float[Array, "atoms batch"]:
    """r² kept so far from zero that r⁻¹⁴ and with it every force is finite."""
    shortest = 1.5 * float(jnp.finfo(difference.dtype).max) ** (-1.0 / 14.0)  # 0.0027 nm in float32
    squared = difference[0] ** 2 + difference[1] ** 2 + difference[2] ** 2
    return jnp.maximum(squared, shortest**2)


def _zero(positions: Positions) -> Float[Array, "atoms batch"]:
    """Zeros that vary as the positions do: under ``shard_map`` a constant would have another type than the sums."""
    return 0.0 * positions[0]
