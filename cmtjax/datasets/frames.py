"""What is peculiar about frames from elsewhere: labels of hydrogens, handedness, cis bonds, places outside the box."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from cmtjax.coordinates import Domain, InternalCoordinates
from cmtjax.datasets.peptide_bonds import omega_rad, peptide_bonds
from cmtjax.molecules import measure
from cmtjax.molecules.z_matrix import ZMatrix

#: More than rounding to 0.001 nm, as in xtc files, and less than a free bond with hydrogen swings at 300 K.
CONSTRAINT_TOLERANCE_NM = 0.002


class HydrogenGroup(NamedTuple):
    """Like hydrogens at one center (CH3, NH3, CH2, NH2) whose labels the box fixes.

    Attributes:
      name: the center, ``"ALA1:CB"``.
      pair: the two hydrogens whose exchange turns one labeling into the other.
      rows: rows of the z-matrix that place the group's hydrogens and have a narrowed window.
    """

    name: str
    pair: tuple[int, int]
    rows: Int[np.ndarray, "rows"]


def hydrogen_groups(z_matrix: ZMatrix) -> tuple[HydrogenGroup, ...]:
    """The groups of hydrogens that are told apart by the half that their torsions lie in.

    With three hydrogens the first turns freely and the other two are labeled by their sides of it; with two both, or a
    planar group's first, have a half. Either way, exchanging the last two leads from one labeling to the other.

    Args:
      z_matrix: a peptide's.
    """
    groups = []
    is_hydrogen = _is_hydrogen(z_matrix)
    for center in range(z_matrix.num_atoms):
        rows = np.flatnonzero((z_matrix.rows[:, 1] == center) & is_hydrogen[z_matrix.rows[:, 0]])
        narrow = rows[z_matrix.torsion_width[rows] < 1]
        if len(rows) > 1 and len(narrow):
            one, other = z_matrix.rows[rows[-2:], 0].tolist()
            groups.append(HydrogenGroup(z_matrix.atom_names[center], (one, other), narrow))
    return tuple(groups)


def stereo_rows(z_matrix: ZMatrix) -> Int[np.ndarray, "rows"]:
    """Rows whose narrowed window keeps the hand of a center: all that are not of a ``HydrogenGroup``."""
    of_hydrogens = [group.rows for group in hydrogen_groups(z_matrix)]
    narrow = np.flatnonzero(z_matrix.torsion_width < 1)
    return np.setdiff1d(narrow, np.concatenate([np.zeros(0, np.int64), *of_hydrogens]))


def relabel_hydrogens(
    z_matrix: ZMatrix, positions_nm: Float[np.ndarray, "frames atoms 3"]
) -> tuple[Float[np.ndarray, "frames atoms 3"], Bool[np.ndarray, "frames groups"], Bool[np.ndarray, "frames groups"]]:
    """Exchanges labels of like hydrogens where that brings their torsions into the box.

    A relabeling is a symmetry of the energy, exactly but for planar NH2, whose improper torsion in Amber's force fields
    depends on the order of the hydrogens: a few hundredths of a kJ/mol.

    Args:
      z_matrix: a peptide's.
      positions_nm: frames in the order of its atoms.

    Returns:
      The frames; and for each group of ``hydrogen_groups`` whether its torsions lay outside the box, and whether the
      exchange was made.
    """
    positions_nm = np.array(positions_nm)
    groups = hydrogen_groups(z_matrix)
    is_outside, is_relabeled = np.zeros((2, len(positions_nm), len(groups)), bool)
    for index, group in enumerate(groups):
        is_outside[:, index] = outside = _is_outside(z_matrix, positions_nm, group.rows)
        candidates = positions_nm[outside]
        candidates[:, list(group.pair)] = candidates[:, list(group.pair[::-1])]
        helps = ~_is_outside(z_matrix, candidates, group.rows)
        chosen = np.flatnonzero(outside)[helps]
        positions_nm[chosen] = candidates[helps]
        is_relabeled[chosen, index] = True
    return positions_nm, is_outside, is_relabeled


class FrameCounts:
    """Counts frames with a peculiarity, over all chunks of an import.

    Attributes:
      counts: names to numbers of frames; a name with a slash is the part of one group, center or bond in it.
    """

    def __init__(self, coordinates: InternalCoordinates, counts: Mapping[str, Any] | None = None) -> None:
        """Goes on from earlier ``counts``, if given."""
        self._coordinates = coordinates
        self._z_matrix = z_matrix = coordinates.z_matrix
        self._hydrogen_names = [group.name for group in hydrogen_groups(z_matrix)]
        self._stereo_rows = stereo_rows(z_matrix)
        self._stereo_names = [z_matrix.atom_names[atom] for atom in z_matrix.rows[self._stereo_rows, 1]]
        self._bond_names = [bond.name for bond in peptide_bonds(z_matrix)]
        self.counts: Counter[str] = Counter({name: int(number) for name, number in (counts or {}).items()})

    def add(
        self,
        positions_nm: Float[np.ndarray, "frames atoms 3"],
        u: Float[np.ndarray, "frames d"],
        has_permuted_hydrogens: Bool[np.ndarray, "frames groups"],
        is_relabeled: Bool[np.ndarray, "frames groups"],
    ) -> None:
        """Counts one chunk.

        Args:
          positions_nm: the frames, relabeled.
          u: the points of the box that they became.
          has_permuted_hydrogens: from ``relabel_hydrogens``.
          is_relabeled: likewise.
        """
        domain = self._coordinates.domain
        is_outside = (u < 0) | (u > 1)
        groups = {"bonds": Domain.BONDS, "angles": Domain.ANGLES, "torsions": Domain.TORSIONS}
        by_group = [is_outside[:, domain.groups == label].any(axis=1) for label in groups.values()]
        first_torsion = domain.num_dims - len(self._z_matrix.rows)
        is_cis = np.abs(omega_rad(self._coordinates, u)) < np.pi / 2
        self.counts["num_frames"] += len(u)
        self._count("frames_outside_box", list(groups), np.stack(by_group, axis=1))
        self._count("frames_with_wrong_chirality", self._stereo_names, is_outside[:, first_torsion + self._stereo_rows])
        self._count("frames_with_cis_peptide_bond", self._bond_names, is_cis)
        self._count("frames_with_permuted_hydrogens", self._hydrogen_names, has_permuted_hydrogens)
        self._count("frames_with_relabeled_hydrogens", self._hydrogen_names, is_relabeled)
        self.counts["frames_violating_constraints"] += int(violates_constraints(self._z_matrix, positions_nm).sum())

    def diagnostics(self) -> dict[str, Any]:
        """The counts, and under ``frames_by_part`` those of single groups, centers and bonds that are not 0."""
        by_part: dict[str, dict[str, int]] = {}
        for name, number in self.counts.items():
            whole, is_part, part = name.partition("/")
            if is_part and number:
                by_part.setdefault(whole, {})[part] = number
        return {name: count for name, count in self.counts.items() if "/" not in name} | {"frames_by_part": by_part}

    def _count(self, name: str, parts: list[str], happens: Bool[np.ndarray, "frames parts"]) -> None:
        self.counts[name] += int(happens.any(axis=1).sum())
        for part, number in zip(parts, happens.sum(axis=0), strict=True):
            self.counts[f"{name}/{part}"] += int(number)


def violates_constraints(
    z_matrix: ZMatrix, positions_nm: Float[np.ndarray, "frames atoms 3"]
) -> Bool[np.ndarray, "frames"]:
    """Whether a constrained bond is off by more than ``CONSTRAINT_TOLERANCE_NM``."""
    pairs = z_matrix.bond_atoms[z_matrix.bond_is_constrained]
    deviations_nm = measure.distances(positions_nm, pairs) - z_matrix.bond_reference_nm[z_matrix.bond_is_constrained]
    return np.any(np.abs(deviations_nm) > CONSTRAINT_TOLERANCE_NM, axis=-1)


def _is_hydrogen(z_matrix: ZMatrix) -> Bool[np.ndarray, "atoms"]:
    # Amino acids and caps have no other element whose symbol starts so.
    return np.array([name.rpartition(":")[2].startswith("H") for name in z_matrix.atom_names])


def _is_outside(
    z_matrix: ZMatrix, positions_nm: Float[np.ndarray, "frames atoms 3"], rows: Int[np.ndarray, "rows"]
) -> Bool[np.ndarray, "frames"]:
    """Whether one of the rows' torsions is outside its window."""
    turns = measure.turns(measure.dihedrals(positions_nm, z_matrix.rows[rows]))
    return np.any((turns - z_matrix.torsion_start[rows]) % 1.0 > z_matrix.torsion_width[rows], axis=1)
