"""Sums over pairs of atoms, by shifts: atom i meets atom i + s (mod N), all i at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Shifts that a compiler sees at a time: slices with constant bounds are what it fuses and vectorizes. More of them
# compile longer, fewer turn the arrays around more often.
_SHIFTS_AT_ONCE = 4

# For a pair that is not to be counted: nothing reaches an atom of such a radius. Other numbers are zero.
_MEETS_NOTHING = {
    "scaled_radius": -1e3,
    "back_scaled_radius": -1e3,
    "offset_radius": 1.0,
    "back_offset_radius": 1.0,
}

Sums = dict[str, Float[Array, "*rest atoms batch"]]


def over_pairs(
    meet: Callable[[Any, dict[str, Array], Any], tuple[Sums, Sums, Any]],
    sums: Sums,
    mutual: Sequence[str],
    partners: Any,
    tables: dict[str, Float[np.ndarray, "atoms atoms"]],
    dtype: Any,
    kept: Any = None,
    *,
    from_both_sides: bool = False,
) -> tuple[Sums, Any]:
    """Adds up, for every atom, what all pairs that it is in contribute; each pair is met once.

    Args:
      meet: gets the partners of all atoms (as ``partners``), the tables' entries of these pairs, (atoms, 1), and what
        was kept of them, if anything; returns what the pairs add to the sums of each atom, what they add to the
        ``mutual`` sums of its partner, and what to keep: a pytree of (atoms, batch).
      sums: by name, what to start from.
      mutual: names of the sums that partners get something of, too.
      partners: pytree of (…, atoms, batch), properties of the atoms that ``meet`` needs of partners.
      tables: numbers of pairs, with the atom in the row and its partner in the column. A pair that is not to be counted
        gets numbers that must contribute zero: 0, but for ``_MEETS_NOTHING``.
      dtype: of the computation.
      kept: what an earlier call kept, of the same atoms.
      from_both_sides: meet each pair twice, from either atom, and nothing is mutual.

    Returns:
      The sums, and what was kept: to be given to another call.
    """
    num_atoms = next(iter(sums.values())).shape[-2]
    num_shifts = num_atoms - 1 if from_both_sides else num_atoms // 2
    if num_shifts == 0:
        return sums, []
    num_groups = -(-num_shifts // _SHIFTS_AT_ONCE)
    size = -(-num_shifts // num_groups)
    columns = {
        name: jnp.asarray(_by_shift(name, table, num_groups, size, from_both_sides), dtype)[..., None]
        for name, table in tables.items()
    }
    # The partners of shift s are a slice of what is carried, at a place that does not depend on the group; what is for
    # them is added at that place, too.
    carried = jax.tree.map(lambda x: _turned(jnp.concatenate([x, x], axis=-2), 1), partners)
    # A product, since under shard_map a constant would have another type than what is added.
    reactions = {name: 0.0 * jnp.concatenate([sums[name], sums[name]], axis=-2) for name in mutual}

    def group(carry: tuple[Sums, Sums, Any], inputs: tuple[dict[str, Array], Any]) -> tuple[Any, Any]:
        (sums, reactions, carried), (columns, kept) = carry, inputs
        kept_now = []
        for shift in range(size):
            met = jax.tree.map(lambda x, s=shift: x[..., s : s + num_atoms, :], carried)
            own, reaction, keep = meet(
                met, {name: column[shift] for name, column in columns.items()}, None if kept is None else kept[shift]
            )
            sums = {name: total + own[name] for name, total in sums.items()}
            reactions = {
                name: total.at[..., shift : shift + num_atoms, :].add(reaction[name])
                for name, total in reactions.items()
            }
            kept_now.append(keep)
        reactions = jax.tree.map(lambda x: _twice(_turned(_folded(x), size)), reactions)
        return (sums, reactions, jax.tree.map(lambda x: _turned(x, size), carried)), kept_now

    carry = (sums, reactions, carried)
    if num_groups == 1:
        first = jax.tree.map(lambda x: x[0], (columns, kept))
        (sums, reactions, _), kept = group(carry, first)
        kept = jax.tree.map(lambda x: x[None], kept)
    else:
        (sums, reactions, _), kept = jax.lax.scan(group, carry, (columns, kept))
    back = -(1 + num_groups * size) % num_atoms
    reactions = jax.tree.map(lambda x: _turned(_folded(x), back), reactions)
    return {name: total + reactions[name] if name in reactions else total for name, total in sums.items()}, kept


def column(values: Float[np.ndarray, "atoms"], dtype: Any) -> Float[Array, "atoms 1"]:
    """Numbers of atoms, to be broadcast over a batch."""
    return jnp.asarray(values, dtype)[:, None]


def _by_shift(
    name: str, table: Float[np.ndarray, "atoms atoms"], num_groups: int, size: int, from_both_sides: bool
) -> Float[np.ndarray, "groups shifts atoms"]:
    """Entries (i, i + s mod N) at each shift s; pairs that were met before, and beyond the last shift, do not count."""
    num_atoms = len(table)
    atoms, shifts = np.arange(num_atoms), np.arange(1, num_groups * size + 1)[:, None]
    is_first = (2 * shifts < num_atoms) | ((2 * shifts == num_atoms) & (atoms < num_atoms // 2))
    counts = np.broadcast_to(shifts < num_atoms, is_first.shape) if from_both_sides else is_first
    entries = np.where(counts, table[atoms, (atoms + shifts) % num_atoms], _MEETS_NOTHING.get(name, 0.0))
    return entries.reshape(num_groups, size, num_atoms)


def _turned(x: Float[Array, "*rest rows batch"], size: int) -> Float[Array, "*rest rows batch"]:
    """The array with ``size`` rows moved from its beginning to its end."""
    return jnp.concatenate([x[..., size:, :], x[..., :size, :]], axis=-2)


def _folded(twice: Float[Array, "*rest double_atoms batch"]) -> Float[Array, "*rest atoms batch"]:
    num_atoms = twice.shape[-2] // 2
    return twice[..., :num_atoms, :] + twice[..., num_atoms:, :]


def _twice(x: Float[Array, "*rest atoms batch"]) -> Float[Array, "*rest double_atoms batch"]:
    """With room for what runs over the end; the second half is zero, but of the type of the first."""
    return jnp.concatenate([x, 0.0 * x], axis=-2)
