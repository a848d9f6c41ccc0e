"""Bicubic interpolation of a periodic table."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline

# Cubic Hermite basis: a polynomial on [0, 1] from (value at 0, value at 1, slope at 0, slope at 1).
_HERMITE = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [-3, 3, -2, -1], [2, -2, 1, 1]], dtype=np.float64)


def bicubic_coefficients(values: Float[np.ndarray, "size size"]) -> Float[np.ndarray, "size size 4 4"]:
    """Polynomials of the periodic bicubic spline through a table, cell by cell.

    Slopes are those of periodic cubic splines along both axes, and the mixed derivative that of the spline through the
    slopes: continuous up to second derivatives.

    Args:
      values: entry (i, j) is the value at (i, j) · 2π/size.

    Returns:
      C, with the value at (i + s, j + t) · 2π/size, s and t in [0, 1], being Σ_ab C[i, j, a, b] s^a t^b.
    """
    along_0, along_1 = _slopes(values, 0), _slopes(values, 1)
    mixed = _slopes(along_0, 1)

    def corners(table: np.ndarray) -> np.ndarray:
        """(size, size, 2, 2): the table at the four corners of each cell."""
        rows = np.stack([table, np.roll(table, -1, axis=0)], axis=-1)
        return np.stack([rows, np.roll(rows, -1, axis=1)], axis=-1)

    data = np.block([[corners(values), corners(along_1)], [corners(along_0), corners(mixed)]])
    return np.einsum("ak,ijkl,bl->ijab", _HERMITE, data, _HERMITE)


def _slopes(values: np.ndarray, axis: int) -> np.ndarray:
    """Derivatives of the periodic spline along an axis, in units of cells."""
    places = np.arange(values.shape[axis] + 1)
    closed = np.concatenate([values, np.take(values, [0], axis=axis)], axis=axis)
    spline = CubicSpline(places, closed, axis=axis, bc_type="periodic")
    return spline(places[:-1], 1)
