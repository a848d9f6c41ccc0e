"""Sums over pairs of atoms, by shifts: atom i meets atom i + s (mod N), all i at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

# Shifts that a compiler fuses into one pass over memory. It vectorizes them with constant slices only, and gives up on
# too many of them.
_SHIFTS_AT_ONCE = 8

# A partner that fills up a group and meets nobody: nothing reaches an atom of such a radius. Other numbers are zero.
_MEETS_NOTHING = {"scaled_radius": -1e3, "back_scaled_radius": -1e3, "back_offset_radius": 1.0}


def over_shifts(
    meet: Callable[[Any, Any, dict[str, Array]], Any],
    sums: Any,
    partners: Any,
    tables: dict[str, Float[np.ndarray, "shifts atoms"]],
    dtype: Any,
) -> Any:
    """Repeats ``sums = meet(sums, partners of a shift, the shift's columns of the tables)`` over all shifts from 1 on.

    Args:
      meet: adds the pairs of one shift.
      sums: what to start from.
      partners: pytree of (…, atoms, batch): what ``meet`` gets of the atoms i + shift (mod N).
      tables: row s − 1 holds a number for each atom i and its partner i + s; ``meet`` gets them as (atoms, 1).
      dtype: of the computation.
    """
    num_shifts, num_atoms = next(iter(tables.values()), np.zeros((0, 0))).shape
    if num_shifts == 0:
        return sums
    num_groups = -(-num_shifts // _SHIFTS_AT_ONCE)
    size = -(-num_shifts // num_groups)
    padding = ((0, num_groups * size - num_shifts), (0, 0))
    columns = {
        name: jnp.asarray(
            np.pad(table, padding, constant_values=_MEETS_NOTHING.get(name, 0.0)).reshape(
                num_groups, size, num_atoms, 1
            ),
            dtype,
        )
        for name, table in tables.items()
    }
    # The partners of shift s are a slice of what is carried, at a place that does not depend on the group.
    carried = jax.tree.map(lambda x: _turned(jnp.concatenate([x, x], axis=-2), 1), partners)

    def group(carry: tuple[Any, Any], columns: dict[str, Array]) -> tuple[tuple[Any, Any], None]:
        sums, carried = carry
        for shift in range(size):
            partners = jax.tree.map(lambda x, s=shift: x[..., s : s + num_atoms, :], carried)
            sums = meet(sums, partners, {name: column[shift] for name, column in columns.items()})
        return (sums, jax.tree.map(lambda x: _turned(x, size), carried)), None

    if num_groups == 1:
        return group((sums, carried), {name: column[0] for name, column in columns.items()})[0][0]
    return jax.lax.scan(group, (sums, carried), columns)[0][0]


def table_by_shift(
    matrix: Float[np.ndarray, "atoms atoms"], shifts: Int[np.ndarray, " shifts"]
) -> Float[np.ndarray, "shifts atoms"]:
    """Row s holds the entries (i, i + s mod N)."""
    atoms = np.arange(len(matrix))
    return matrix[atoms, (atoms + shifts[:, None]) % len(matrix)]


def column(values: Float[np.ndarray, "atoms"], dtype: Any) -> Float[Array, "atoms 1"]:
    """Numbers of atoms, to be broadcast over a batch."""
    return jnp.asarray(values, dtype)[:, None]


def _turned(twice: Float[Array, "*rest double_atoms batch"], size: int) -> Float[Array, "*rest double_atoms batch"]:
    """The array with ``size`` atoms moved from its beginning to its end."""
    return jnp.concatenate([twice[..., size:, :], twice[..., :size, :]], axis=-2)
