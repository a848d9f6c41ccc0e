"""Atoms from bonds, angles and torsions, level by level; and bonds, angles and torsions from atoms.

Arrays here are batch-last, (3, atoms, batch) or (rows, batch): every operation runs over contiguous batches, whatever
the shape of the molecule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

if TYPE_CHECKING:
    from cmtjax.molecules.z_matrix import ZMatrix

# Squared sine of the smallest angle that still defines a plane. An angle between a row's atoms j, k, l that is no
# coordinate itself can get straight inside the box, where the dihedral has no meaning; this keeps gradients finite.
_MIN_SQUARED_SINE = 1e-12


class Level(NamedTuple):
    """Rows that are placed at once because they depend on earlier levels only.

    Atoms are addressed by slot, their rank in the order of placement. For a row (i, j, k, l) the axis is the unit
    vector from k to j, and the plane vector the one from l to k, or from l to j where l is bound to j: either spans
    the plane of j, k and l with the same orientation. Both are bonds, so they are unit vectors that some earlier row
    placed, up to a sign. Only in rings may l be bound to neither in the z-matrix; there the plane vector is taken from
    the positions of l and k.
    """

    rows: Int[np.ndarray, "rows"]
    parent: Int[np.ndarray, "rows"]
    axis: Int[np.ndarray, "rows"]
    axis_sign: Int[np.ndarray, "rows"]
    plane: Int[np.ndarray, "rows"]
    plane_sign: Int[np.ndarray, "rows"]
    is_apart: Int[np.ndarray, "rows"]
    far: Int[np.ndarray, "rows"]
    near: Int[np.ndarray, "rows"]


class Placement(NamedTuple):
    """The order of placement: levels, and the slot of each atom."""

    levels: tuple[Level, ...]
    slots: Int[np.ndarray, "atoms"]


def plan_placement(z_matrix: ZMatrix) -> Placement:
    """Sorts the rows of a z-matrix into levels.

    Args:
      z_matrix: the z-matrix.

    Returns:
      As few levels as the dependencies of the rows allow: for a chain of residues their number grows with the length
      of the backbone, not with the number of atoms.

    Raises:
      ValueError: if a row's j-k is no bond of the z-matrix.
    """
    rows = z_matrix.rows.tolist()
    initial = z_matrix.initial_atoms.tolist()
    bound_to = {initial[1]: initial[0], initial[2]: initial[1]} | {row[0]: row[1] for row in rows}
    depth = dict.fromkeys(initial, 0)
    for atom, *parents in rows:
        depth[atom] = 1 + max(depth[parent] for parent in parents)
    order = sorted(range(len(rows)), key=lambda row: depth[rows[row][0]])
    slots = {atom: slot for slot, atom in enumerate(initial + [rows[row][0] for row in order])}

    def bond(start: int, end: int) -> tuple[int, int] | None:
        """Slot and sign of the unit vector from ``start`` to ``end``, None where they are not bound."""
        if bound_to.get(end) == start:
            return slots[end], 1
        if bound_to.get(start) == end:
            return slots[start], -1
        return None

    levels: dict[int, list[tuple[int, ...]]] = {}
    for row in order:
        i, j, k, l = rows[row]  # noqa: E741
        axis, plane = bond(k, j), bond(l, k) or bond(l, j)
        if axis is None:
            raise ValueError(f"z_matrix.rows must have j bound to k, but row {row} is {rows[row]}.")
        ends = (int(plane is None), slots[l], slots[k])
        levels.setdefault(depth[i], []).append((row, slots[j], *axis, *(plane or (0, 1)), *ends))
    # 32 bit: JAX caches 64-bit index arrays in the precision of the first trace, which breaks a function that is traced
    # without x64 and then with it.
    return Placement(
        levels=tuple(Level(*np.array(level, np.int32).T) for level in levels.values()),
        slots=np.array([slots[atom] for atom in range(len(slots))], np.int32),
    )


def place_atoms(
    placement: Placement,
    bonds: Float[Array, "atoms-1 batch"],
    angles: Float[Array, "atoms-2 batch"],
    torsions: Float[Array, "atoms-3 batch"],
) -> Float[Array, "3 atoms batch"]:
    """Positions from internal coordinates.

    The natural extension reference frame (Parsons et al., J. Comput. Chem. 26, 1063 (2005)), for a level of rows at a
    time, and on unit bond vectors instead of positions, whose differences would lose digits far from the origin.

    Args:
      placement: the levels.
      bonds: bond lengths in nm, in the order of the z-matrix: those of the frame, then the rows'.
      angles: angles in rad, the frame's, then the rows'.
      torsions: torsions in rad.

    Returns:
      Positions in nm, in the order of the molecule's atoms: the second atom of the frame at the origin, the first on
      the negative x-axis, the third in the upper half of the xy-plane.
    """
    cos_angle, sin_angle = jnp.cos(angles), jnp.sin(angles)
    in_plane = sin_angle[1:] * jnp.cos(torsions)
    out_of_plane = sin_angle[1:] * jnp.sin(torsions)

    zero, one = jnp.zeros_like(bonds[0]), jnp.ones_like(bonds[0])
    first = jnp.stack([one, zero, zero])
    second = jnp.stack([-cos_angle[0], sin_angle[0], zero])
    directions = jnp.stack([jnp.zeros_like(first), first, second], axis=1)  # slot 0 is bound to nothing
    positions = jnp.stack([-bonds[0] * first, jnp.zeros_like(first), bonds[1] * second], axis=1)
    for level in placement.levels:
        axis = directions[:, level.axis] * jnp.asarray(level.axis_sign, bonds.dtype)[:, None]
        plane = directions[:, level.plane] * jnp.asarray(level.plane_sign, bonds.dtype)[:, None]
        if np.any(level.is_apart):
            difference = positions[:, level.near] - positions[:, level.far]
            plane = jnp.where(level.is_apart[:, None] == 1, difference / _norm(difference), plane)
        normal = _cross(plane, axis)
        normal = normal * jax.lax.rsqrt(jnp.maximum(_dot(normal, normal), _MIN_SQUARED_SINE))
        direction = (
            -cos_angle[1:][level.rows] * axis
            + in_plane[level.rows] * _cross(normal, axis)
            + out_of_plane[level.rows] * normal
        )
        position = positions[:, level.parent] + bonds[2:][level.rows] * direction
        directions = jnp.concatenate([directions, direction], axis=1)
        positions = jnp.concatenate([positions, position], axis=1)
    return positions[:, placement.slots]


def measure_atoms(
    z_matrix: ZMatrix, positions_nm: Float[Array, "3 atoms batch"]
) -> tuple[Float[Array, "atoms-1 batch"], Float[Array, "atoms-2 batch"], Float[Array, "atoms-3 batch"]]:
    """Internal coordinates from positions, the inverse of ``place_atoms`` up to a rigid motion.

    Args:
      z_matrix: the z-matrix.
      positions_nm: positions in nm, in the order of the molecule's atoms.

    Returns:
      Bond lengths in nm, angles in [0, π] and torsions in [−π, π] (IUPAC sign), in the order of the z-matrix.
    """
    initial, rows = z_matrix.initial_atoms.astype(np.int32), z_matrix.rows.astype(np.int32)
    bond_atoms = np.concatenate([[initial[:2], initial[1:]], rows[:, :2]])
    angle_atoms = np.concatenate([[initial], rows[:, :3]])

    def difference(end: np.ndarray, start: np.ndarray) -> Float[Array, "3 rows batch"]:
        return positions_nm[:, end] - positions_nm[:, start]

    bonds = _norm(difference(*bond_atoms.T))
    i, j, k = angle_atoms.T
    to_i, to_k = difference(i, j), difference(k, j)
    # atan2 keeps its digits where arccos does not, near a straight angle.
    angles = jnp.arctan2(_norm(_cross(to_i, to_k)), _dot(to_i, to_k))
    i, j, k, l = rows.T  # noqa: E741
    to_j, along, to_l = difference(j, i), difference(k, j), difference(l, k)
    far_normal = _cross(along, to_l)
    torsions = jnp.arctan2(_norm(along) * _dot(to_j, far_normal), _dot(_cross(to_j, along), far_normal))
    return bonds, angles, torsions


def _cross(a: Float[Array, "3 *rest"], b: Float[Array, "3 *rest"]) -> Float[Array, "3 *rest"]:
    return jnp.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _dot(a: Float[Array, "3 *rest"], b: Float[Array, "3 *rest"]) -> Float[Array, "*rest"]:
    return jnp.sum(a * b, axis=0)


def _norm(a: Float[Array, "3 *rest"]) -> Float[Array, "*rest"]:
    return jnp.sqrt(_dot(a, a))
