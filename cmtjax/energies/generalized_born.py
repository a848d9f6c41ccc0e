"""Generalized Born: functions of one atom and of one pair of atoms, see ``GeneralizedBorn``.

Arrays are (atoms, batch), numbers of the force field (atoms, 1).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from cmtjax.energies.amber_parameters import GeneralizedBorn
from cmtjax.energies.shifts import column, table_by_shift


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
    inverse_f = jax.lax.rsqrt(squared + jnp.exp(-0.25 * squared * inverse_product) / inverse_product)
    return _dielectric(solvent, inverse_f) * inverse_f


def descreening_tables(
    solvent: GeneralizedBorn, shifts: Int[np.ndarray, " shifts"], backward: bool = False
) -> dict[str, Float[np.ndarray, "shifts atoms"]]:
    """What ``descreening_of_pair`` needs of atom i and its partner i + s.

    Args:
      solvent: the parameters.
      shifts: s.
      backward: for the partner's descreening by the atom, instead of the atom's by its partner.
    """
    num_atoms = solvent.charge.size

    def table(matrix: np.ndarray) -> np.ndarray:
        return table_by_shift(matrix.T if backward else matrix, shifts)

    tables = {"scaled_radius": table(np.broadcast_to(solvent.scaled_radius_nm, (num_atoms, num_atoms)))}
    if backward:
        tables["offset_radius"] = table(np.broadcast_to(solvent.offset_radius_nm[:, None], (num_atoms, num_atoms)))
    if solvent.neck_height is not None and solvent.neck_distance_nm is not None:
        tables["neck_height"] = table(solvent.neck_height)
        tables["neck_distance"] = table(solvent.neck_distance_nm)
        tables["neck_end"] = table(np.add.outer(solvent.radius_nm, solvent.radius_nm) + solvent.neck_range_nm)
    return tables


def descreening_of_pair(
    solvent: GeneralizedBorn, squared: Array, offset_radius: Array, tables: dict[str, Array]
) -> Array:
    """What one atom adds to the sum I of another, 1/nm.

    Args:
      solvent: which model.
      squared: r² in nm².
      offset_radius: of the atom that is descreened, in nm.
      tables: see ``descreening_tables``.
    """
    inverse = jax.lax.rsqrt(squared)
    distance = squared * inverse
    scaled_radius = tables["scaled_radius"]
    reach = distance + scaled_radius
    upper = jnp.maximum(reach, offset_radius)  # a shorter reach contributes nothing, and must not divide by zero
    lower = jnp.maximum(offset_radius, jnp.abs(distance - scaled_radius))
    inverse_both = 1.0 / (lower * upper)  # one division for two reciprocals
    from_lower, from_upper = upper * inverse_both, lower * inverse_both
    term = 0.5 * (
        (from_lower - from_upper)
        * (1.0 - 0.25 * (distance - scaled_radius * scaled_radius * inverse) * (from_lower + from_upper))
        + 0.5 * jnp.log(lower * from_upper) * inverse
    )
    if solvent.has_engulfed_term:
        term += jnp.where(scaled_radius - distance > offset_radius, 1.0 / offset_radius - from_lower, 0.0)
    term = jnp.where(reach >= offset_radius, term, 0.0)
    if solvent.neck_height is not None:
        # OpenMM's coefficients in nm: 1 + 100 x² + 0.3·10⁶ x⁶.
        square = (distance - tables["neck_distance"]) ** 2
        neck = tables["neck_height"] / (1.0 + 100.0 * square + 0.3e6 * square**3)
        term += jnp.where(distance <= tables["neck_end"], neck, 0.0)
    return term


def _dielectric(solvent: GeneralizedBorn, inverse_length: Array) -> Array | float:
    """g(x) = solute − solvent exp(−κx), from 1/x."""
    if not solvent.inverse_debye_length:
        return solvent.solute - solvent.solvent
    return solvent.solute - solvent.solvent * jnp.exp(-solvent.inverse_debye_length / inverse_length)
