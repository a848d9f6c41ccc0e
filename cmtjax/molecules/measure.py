"""Bond lengths, angles and dihedrals of a structure, in float64 on the host."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def distances(positions_nm: Float[np.ndarray, "*batch atoms 3"], pairs: Int[np.ndarray, "n 2"]) -> np.ndarray:
    """Distances.

    Args:
      positions_nm: (..., atoms, 3).
      pairs: (n, 2) atoms.

    Returns:
      (..., n) distances in nm.
    """
    return np.linalg.norm(positions_nm[..., pairs[:, 0], :] - positions_nm[..., pairs[:, 1], :], axis=-1)


def angles(positions_nm: Float[np.ndarray, "*batch atoms 3"], triples: Int[np.ndarray, "n 3"]) -> np.ndarray:
    """Angles at the middle atom.

    Args:
      positions_nm: (..., atoms, 3).
      triples: (n, 3) atoms.

    Returns:
      (..., n) angles in rad, in [0, π].
    """
    i, j, k = np.moveaxis(positions_nm[..., triples, :], -2, 0)
    normal = np.linalg.norm(np.cross(i - j, k - j), axis=-1)
    return np.arctan2(normal, np.sum((i - j) * (k - j), axis=-1))


def dihedrals(positions_nm: Float[np.ndarray, "*batch atoms 3"], rows: Int[np.ndarray, "n 4"]) -> np.ndarray:
    """Dihedrals with the IUPAC sign: positive for a clockwise turn from the near to the far bond.

    Args:
      positions_nm: (..., atoms, 3).
      rows: (n, 4) atoms.

    Returns:
      (..., n) dihedrals in rad, in [−π, π].
    """
    i, j, k, m = np.moveaxis(positions_nm[..., rows, :], -2, 0)
    axis = k - j
    near = np.cross(j - i, axis)
    far = np.cross(axis, m - k)
    sine = np.linalg.norm(axis, axis=-1) * np.sum((j - i) * far, axis=-1)
    return np.arctan2(sine, np.sum(near * far, axis=-1))


def turns(dihedrals_rad: np.ndarray) -> np.ndarray:
    """The turn (τ + π)/2π, in [0, 1), of dihedrals."""
    return ((dihedrals_rad + np.pi) / (2.0 * np.pi)) % 1.0
