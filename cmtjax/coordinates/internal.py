"""The map between the unit box of a flow and the Cartesian positions of a molecule."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from cmtjax.coordinates import placement
from cmtjax.coordinates.domain import Domain

if TYPE_CHECKING:
    from cmtjax.molecules.z_matrix import ZMatrix

#: Width of a bond's window, and of an angle's that is not narrowed: the published flows' (Schopmans and Friederich,
#: TA-BG, appendix A; the angle's 0.573 there is in units of π rad).
BOND_WINDOW_NM = 0.07
ANGLE_WINDOW_RAD = 0.573 * np.pi

#: Distance that an angle's window keeps from 0 and π, where a torsion about one of its bonds has no meaning.
ANGLE_MARGIN_RAD = 0.02


class HasZMatrix(Protocol):
    """Anything that holds a z-matrix, a ``Molecule`` first of all."""

    @property
    def z_matrix(self) -> ZMatrix:
        """The z-matrix."""
        ...


def internal_coordinates(molecule: HasZMatrix | ZMatrix) -> InternalCoordinates:
    """Internal coordinates of a molecule, scaled to the unit box.

    Args:
      molecule: a molecule, or its z-matrix alone, which fixes the coordinates completely.

    Returns:
      The map from the box to positions and back, see ``InternalCoordinates``.

    Raises:
      ValueError: if a free bond's window reaches zero length, a reference angle leaves no window between 0 and π, or
        a row of the z-matrix is not made of bonds.
    """
    z_matrix: ZMatrix = molecule.z_matrix if hasattr(molecule, "z_matrix") else molecule
    is_free = ~z_matrix.bond_is_constrained
    bonds = z_matrix.bond_reference_nm[is_free]
    angles = z_matrix.angle_reference_rad
    turns = z_matrix.torsion_width

    if np.any(bonds <= BOND_WINDOW_NM / 2):
        raise ValueError(
            f"bond_reference_nm must be over {BOND_WINDOW_NM / 2} nm for every free bond, got {bonds.min()}."
        )
    angle_half_width = np.minimum(ANGLE_WINDOW_RAD / 2, np.minimum(angles, np.pi - angles) - ANGLE_MARGIN_RAD)
    if np.any(angle_half_width <= 0):
        index = int(np.argmin(angle_half_width))
        raise ValueError(
            f"angle_reference_rad must be in ({ANGLE_MARGIN_RAD}, π − {ANGLE_MARGIN_RAD}), got {angles[index]} at "
            f"index {index}."
        )

    groups = np.repeat([Domain.BONDS, Domain.ANGLES, Domain.TORSIONS], [bonds.size, angles.size, turns.size])
    first_torsion = bonds.size + angles.size
    return InternalCoordinates(
        z_matrix=z_matrix,
        domain=Domain(
            is_circular=groups == Domain.TORSIONS,
            is_periodic=np.concatenate([np.zeros(first_torsion, bool), turns == 1.0]),
            groups=groups,
        ),
        ramachandran_pairs=first_torsion + z_matrix.ramachandran_rows,
        window_center=np.concatenate([bonds, angles, 2 * np.pi * (z_matrix.torsion_start + turns / 2 - 0.5)]),
        window_width=np.concatenate([np.full(bonds.size, BOND_WINDOW_NM), 2 * angle_half_width, 2 * np.pi * turns]),
        placement=placement.plan_placement(z_matrix),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class InternalCoordinates:
    """The map u ↦ x from the unit box to positions in nm, and its inverse.

    A coordinate is ``window_center + window_width * (u − 0.5)``: free bonds in nm, angles and torsions in rad, in this
    order, each group in the order of the z-matrix. Bonds and angles are centered on the energy minimum. A window that
    would bring an angle closer than ``ANGLE_MARGIN_RAD`` to 0 or π is narrowed on both sides. Constrained bonds are no
    part of u. Built by ``internal_coordinates``; holds NumPy arrays only, so that a jitted function may close over it.

    **Volume.** ``log_det`` is log|dx/du| in the convention of the published likelihoods and normalizers: the map from
    all 3N − 6 internal coordinates and six rigid ones (the position of the first atom, two Euler angles over full
    turns scaled to [0, 1], the cosine of the third) to the 3N Cartesian coordinates, with constrained bonds as
    variables of its Jacobian, though they are constants of the flow:

        log|dx/du| = 2 log 2π + Σ_bonds 2 log r + Σ_angles log sin θ + Σ_u log(window width).

    Attributes:
      z_matrix: the z-matrix that fixes everything else.
      domain: circular and periodic dimensions and groups of the box.
      ramachandran_pairs: (pairs, 2), dimensions of u that are φ and ψ.
      window_center: (d,), the coordinate at u = 0.5, in nm or rad.
      window_width: (d,), the coordinate at u = 1 less that at u = 0, in nm or rad.
      placement: the order in which atoms are placed.
    """

    z_matrix: ZMatrix
    domain: Domain
    ramachandran_pairs: Int[np.ndarray, "pairs 2"]
    window_center: Float[np.ndarray, "d"]
    window_width: Float[np.ndarray, "d"]
    placement: placement.Placement

    @property
    def num_atoms(self) -> int:
        """Number of atoms."""
        return self.z_matrix.num_atoms

    @property
    def ramachandran_names(self) -> tuple[str, ...]:
        """The residue of each (φ, ψ) pair, such as "ALA1": that of the carbonyl carbon, which φ places."""
        names, rows = self.z_matrix.atom_names, self.z_matrix.rows
        return tuple(names[rows[phi, 0]].split(":")[0] for phi, _ in self.z_matrix.ramachandran_rows)

    def to_physical(self, u: Float[Array, "*batch d"]) -> tuple[Float[Array, "*batch atoms 3"], Float[Array, "*batch"]]:
        """Positions at points of the box.

        Args:
          u: points of the unit box, of any batch shape and floating dtype; everything is computed in this dtype.

        Returns:
          Positions in nm (the z-matrix's second atom at the origin, the first three in the xy-plane), and log|dx/du|.

        Raises:
          ValueError: when traced, if u has another trailing dimension or is not floating.
        """
        u = jnp.asarray(u)
        _check_array("u", u, (self.domain.num_dims,))
        columns = u.reshape(-1, self.domain.num_dims).T
        values = _column(self.window_center, u.dtype) + _column(self.window_width, u.dtype) * (columns - 0.5)
        bonds, angles, torsions = self._split(values)
        positions = placement.place_atoms(self.placement, self._with_constrained(bonds), angles, torsions)
        positions_nm = positions.transpose(2, 1, 0).reshape(*u.shape[:-1], self.num_atoms, 3)
        return positions_nm, self._log_det(bonds, angles).reshape(u.shape[:-1])

    def from_physical(
        self, positions_nm: Float[Array, "*batch atoms 3"]
    ) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch"], Bool[Array, "*batch"]]:
        """Points of the box at given positions.

        Lengths of constrained bonds are neither checked nor used: positions that violate a constraint are taken for
        those with the fixed length and the same other coordinates. Orientation and place in space do not matter.

        Args:
          positions_nm: positions in nm, of any batch shape and floating dtype; everything is computed in this dtype.

        Returns:
          u, not clipped to the box (a torsion is taken within half a turn of its window's center: a full-range one is
          always inside, a half-range one in [−0.5, 1.5]); log|dx/du| of ``to_physical`` at u, so that it is the same
          number there and here; and whether u lies in the closed box (False where it is NaN).

        Raises:
          ValueError: when traced, if the trailing dimensions are not (atoms, 3) or the positions are not floating.
        """
        positions_nm = jnp.asarray(positions_nm)
        _check_array("positions_nm", positions_nm, (self.num_atoms, 3))
        batch, dtype = positions_nm.shape[:-2], positions_nm.dtype
        columns = positions_nm.reshape(-1, self.num_atoms, 3).transpose(2, 1, 0)
        bonds, angles, torsions = placement.measure_atoms(self.z_matrix, columns)
        bonds = bonds[np.flatnonzero(~self.z_matrix.bond_is_constrained).astype(np.int32)]
        offset = jnp.concatenate([bonds, angles, torsions]) - _column(self.window_center, dtype)
        wrapped = offset - 2 * np.pi * jnp.round(offset / (2 * np.pi))
        offset = jnp.where(self.domain.is_circular[:, None], wrapped, offset)
        u = (0.5 + offset / _column(self.window_width, dtype)).T.reshape(*batch, self.domain.num_dims)
        in_domain = jnp.all((u >= 0) & (u <= 1), axis=-1)
        return u, self._log_det(bonds, angles).reshape(batch), in_domain

    def _split(self, values: Float[Array, "d batch"]) -> tuple[Array, Array, Array]:
        num_angles, num_torsions = self.num_atoms - 2, self.num_atoms - 3
        num_bonds = self.domain.num_dims - num_angles - num_torsions
        return values[:num_bonds], values[num_bonds : num_bonds + num_angles], values[num_bonds + num_angles :]

    def _with_constrained(self, free_bonds: Float[Array, "free batch"]) -> Float[Array, "atoms-1 batch"]:
        """All bond lengths, in the order of the z-matrix."""
        is_constrained = self.z_matrix.bond_is_constrained
        fixed = _column(self.z_matrix.bond_reference_nm[is_constrained], free_bonds.dtype)
        fixed = jnp.broadcast_to(fixed, (fixed.shape[0], free_bonds.shape[1]))
        # A stable sort puts the free bonds first; its inverse puts them back.
        back = np.argsort(np.argsort(is_constrained, kind="stable")).astype(np.int32)
        return jnp.concatenate([free_bonds, fixed])[back]

    def _log_det(self, free_bonds: Float[Array, "free batch"], angles: Float[Array, "angles batch"]) -> Array:
        """log|dx/du|, from the deviations of bonds so that single precision keeps its digits in the large constant."""
        reference = self.z_matrix.bond_reference_nm
        constant = float(2 * np.log(2 * np.pi) + 2 * np.log(reference).sum() + np.log(self.window_width).sum())
        free_reference = _column(reference[~self.z_matrix.bond_is_constrained], free_bonds.dtype)
        stretch = 2 * jnp.sum(jnp.log(free_bonds / free_reference), axis=0)
        return stretch + jnp.sum(jnp.log(jnp.sin(angles)), axis=0) + constant


def is_same_box(a: InternalCoordinates, b: InternalCoordinates, *, tolerance: float = 0.0) -> bool:
    """Whether a point of the unit box means the same positions in both coordinates.

    Args:
      a: coordinates of a molecule.
      b: other coordinates.
      tolerance: by which bond lengths (nm) and windows (nm, rad) may differ.
    """
    first, second = a.z_matrix, b.z_matrix
    if first.atom_names != second.atom_names:
        return False
    names = ("initial_atoms", "rows", "bond_is_constrained")
    if not all(np.array_equal(getattr(first, name), getattr(second, name)) for name in names):
        return False
    shift = np.asarray(a.window_center - b.window_center)
    is_torsion = a.domain.groups == Domain.TORSIONS
    shift = np.where(is_torsion, np.remainder(shift + np.pi, 2 * np.pi) - np.pi, shift)
    differences = (first.bond_reference_nm - second.bond_reference_nm, shift, a.window_width - b.window_width)
    return all(bool(np.all(np.abs(difference) <= tolerance)) for difference in differences)


def _column(values: Float[np.ndarray, "n"], dtype: np.dtype) -> Float[Array, "n 1"]:
    return jnp.asarray(values, dtype)[:, None]


def _check_array(name: str, array: Array, trailing_shape: tuple[int, ...]) -> None:
    if array.shape[-len(trailing_shape) :] != trailing_shape:
        expected = ", ".join(map(str, trailing_shape))
        raise ValueError(f"{name} must have shape (..., {expected}), got {array.shape}.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} must be floating, got dtype {array.dtype}.")
