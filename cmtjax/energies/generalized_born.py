"""Generalized Born: functions of one atom and of one pair of atoms, see ``GeneralizedBorn``.

Arrays are (atoms, batch), numbers of the force field (atoms, 1).
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cmtjax.energies.amber_parameters import GeneralizedBorn
from cmtjax.energies.shifts import column


def inverse_born_radii(
    solvent: GeneralizedBorn, descreening: Float[Array, "atoms batch"]
) -> Float[Array, "atoms batch"]:
    """1/B of each atom, from its descreening sum."""
    dtype = descreening.dtype
    offset_radius = column(solvent.offset_radius_nm, dtype)
    if solvent.polynomial is None:
        inverse = 1.0 / offset_radius - descreening
        smallest = 1e-6  # B = 1 mm is as good as infinite, and has a derivative
        return jnp.where(jnp.abs(inverse) < smallest, smallest, inverse)
    a, b, c = (column(row, dtype) for row in solvent.polynomial)
    psi = descreening * offset_radius
    return 1.0 / offset_radius - jnp.tanh(psi * (a + psi * (b + psi * c))) / column(solvent.radius_nm, dtype)


def self_energies(solvent: GeneralizedBorn, inverse_born: Float[Array, "atoms batch"]) -> Float[Array, "atoms batch"]:
    """Each atom's own energy in the solvent, and its surface's."""
    dtype = inverse_born.dtype
    coefficient, probe = solvent.surface
    polar = -0.5 * column(solvent.charge**2, dtype) * _dielectric(solvent, inverse_born) * inverse_born
    area = column(coefficient * (solvent.radius_nm + probe) ** 2, dtype)
    return polar + area * (column(solvent.radius_nm, dtype) * inverse_born) ** 6


def screening(solvent: GeneralizedBorn, squared: Array, inverse_product: Array) -> Array:
    """g(f)/f of Still's f² = r² + BB exp(−r²/4BB), from r² and 1/BB.

    Without tanh (HCT) an atom buried in a clash can get a negative B, and f² with it: then it is NaN.
    """
    return screening_slopes(solvent, squared, inverse_product)[0]


def screening_slopes(solvent: GeneralizedBorn, squared: Array, inverse_product: Array) -> tuple[Array, Array, Array]:
    """``screening`` and its derivatives with respect to r² and 1/BB."""
    product = 1.0 / inverse_product
    decay = jnp.exp(-0.25 * squared * inverse_product)
    inverse_f = jax.lax.rsqrt(squared + decay * product)
    value = _dielectric(solvent, inverse_f) * inverse_f
    of_inverse = value
    if solvent.inverse_debye_length:
        kappa = solvent.inverse_debye_length
        of_inverse -= solvent.solvent * kappa * jnp.exp(-kappa / inverse_f)
    of_square = -0.5 * of_inverse * inverse_f * inverse_f
    return value, of_square * (1.0 - 0.25 * decay), -of_square * decay * product * (product + 0.25 * squared)


def descreening_tables(
    solvent: GeneralizedBorn, *, with_back: bool = False
) -> dict[str, Float[np.ndarray, "atoms atoms"]]:
    """What ``descreening_of_pair`` needs of an atom (row) and its partner (column), for ``over_pairs``.

    Args:
      solvent: the parameters.
      with_back: with what the partner's descreening by the atom needs, under names for ``both_ways``.
    """
    num_atoms = solvent.charge.size
    tables = {
        "scaled_radius": np.broadcast_to(solvent.scaled_radius_nm, (num_atoms, num_atoms)),
        "offset_radius": np.broadcast_to(solvent.offset_radius_nm[:, None], (num_atoms, num_atoms)),
    }
    if solvent.neck_height is not None and solvent.neck_distance_nm is not None:
        tables["neck_height"] = solvent.neck_height
        tables["neck_distance"] = solvent.neck_distance_nm
        tables["neck_end"] = np.add.outer(solvent.radius_nm, solvent.radius_nm) + solvent.neck_range_nm
    return tables | ({f"back_{name}": table.T for name, table in tables.items()} if with_back else {})


def both_ways(tables: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """The tables of the atom's descreening by its partner, and those of the partner's by the atom."""
    there = {name: table for name, table in tables.items() if not name.startswith("back_")}
    return there, {name: tables[f"back_{name}"] for name in there}


def descreening_of_pair(solvent: GeneralizedBorn, squared: Array, tables: dict[str, Array]) -> Array:
    """What one atom adds to the sum I of another, 1/nm.

    Args:
      solvent: which model.
      squared: r² in nm².
      tables: see ``both_ways``.
    """
    scaled_radius, offset_radius = tables["scaled_radius"], tables["offset_radius"]
    overlap = _overlap(squared, offset_radius, scaled_radius)
    inverse, from_lower, from_upper = overlap.inverse, overlap.from_lower, overlap.from_upper
    term = 0.5 * (
        (from_lower - from_upper)
        * (1.0 - 0.25 * (overlap.distance - scaled_radius * scaled_radius * inverse) * (from_lower + from_upper))
        + 0.5 * overlap.log_ratio * inverse
    )
    if solvent.has_engulfed_term:
        term += jnp.where(overlap.is_engulfed, 1.0 / offset_radius - from_lower, 0.0)
    term = jnp.where(overlap.is_reached, term, 0.0)
    if solvent.neck_height is not None:
        # OpenMM's coefficients in nm: 1 + 100 x² + 0.3·10⁶ x⁶.
        square = (overlap.distance - tables["neck_distance"]) ** 2
        neck = tables["neck_height"] / (1.0 + 100.0 * square + 0.3e6 * square**3)
        term += jnp.where(overlap.distance <= tables["neck_end"], neck, 0.0)
    return term


def descreening_slope(solvent: GeneralizedBorn, squared: Array, tables: dict[str, Array]) -> Array:
    """The derivative of ``descreening_of_pair`` with respect to r², 1/nm³; arguments as there.

    It costs as much as the value, and automatic differentiation three times that: the derivatives with respect to the
    limits U = r + s and L = |r − s| at fixed r vanish, but for the one of L where the other atom covers the whole.
    """
    overlap = _overlap(squared, tables["offset_radius"], tables["scaled_radius"])
    inverse_squared = overlap.inverse * overlap.inverse
    lower_squared = overlap.from_lower * overlap.from_lower
    by_radius = tables["scaled_radius"] * tables["scaled_radius"] * inverse_squared
    slope = 0.125 * (1.0 + by_radius) * (overlap.from_upper * overlap.from_upper - lower_squared)
    slope -= 0.25 * overlap.log_ratio * inverse_squared
    if not solvent.has_engulfed_term:  # whose derivative is the negative of this one
        slope += jnp.where(overlap.is_engulfed, lower_squared, 0.0)
    slope = jnp.where(overlap.is_reached, slope, 0.0)
    if solvent.neck_height is not None:
        beyond = overlap.distance - tables["neck_distance"]
        square = beyond * beyond
        inverse_neck = 1.0 / (1.0 + 100.0 * square + 0.3e6 * square**3)
        fall = tables["neck_height"] * inverse_neck * inverse_neck * beyond * (200.0 + 1.8e6 * square * square)
        slope -= jnp.where(overlap.distance <= tables["neck_end"], fall, 0.0)
    return 0.5 * slope * overlap.inverse


class _Overlap(NamedTuple):
    """What the descreening of one atom by another is made of: the other one fills a part of the shell L < |x| < U."""

    inverse: Array
    distance: Array
    from_lower: Array
    from_upper: Array
    log_ratio: Array
    is_reached: Array
    is_engulfed: Array


def _overlap(squared: Array, offset_radius: Array, scaled_radius: Array) -> _Overlap:
    """1/r, r, 1/L, 1/U, log(L/U), whether the other atom reaches beyond the offset radius, and wholly covers it."""
    inverse = jax.lax.rsqrt(squared)
    distance = squared * inverse
    reach = distance + scaled_radius
    upper = jnp.maximum(reach, offset_radius)  # a shorter reach contributes nothing, and must not divide by zero
    lower = jnp.maximum(offset_radius, jnp.abs(distance - scaled_radius))
    inverse_both = 1.0 / (lower * upper)  # one division for two reciprocals
    from_lower, from_upper = upper * inverse_both, lower * inverse_both
    log_ratio = jnp.log(lower * from_upper)
    is_engulfed = scaled_radius - distance > offset_radius
    return _Overlap(inverse, distance, from_lower, from_upper, log_ratio, reach >= offset_radius, is_engulfed)


def _dielectric(solvent: GeneralizedBorn, inverse_length: Array) -> Array | float:
    """g(x) = solute − solvent exp(−κx), from 1/x."""
    if not solvent.inverse_debye_length:
        return solvent.solute - solvent.solvent
    return solvent.solute - solvent.solvent * jnp.exp(-solvent.inverse_debye_length / inverse_length)
