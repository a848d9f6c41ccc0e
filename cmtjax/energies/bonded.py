"""Bonded terms: bonds, angles, torsions and torsion maps.

Positions are batch-last, (3, atoms, batch), as in ``cmtjax.coordinates.placement``; a term's energy is (batch,).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from cmtjax.energies.amber_parameters import HarmonicAngles, HarmonicBonds, TorsionMaps, Torsions
from cmtjax.energies.shifts import column

Positions = Float[Array, "3 atoms batch"]


def bond_energy(bonds: HarmonicBonds, positions: Positions) -> Float[Array, " batch"]:
    """Σ ½ k (r − r₀)²."""
    first, second = bonds.atoms.T
    length = jnp.sqrt(_floored(_squared(positions[:, second] - positions[:, first])))
    deviation = length - column(bonds.length_nm, length.dtype)
    return jnp.sum(0.5 * column(bonds.constant, length.dtype) * deviation**2, axis=0)


def angle_energy(angles: HarmonicAngles, positions: Positions) -> Float[Array, " batch"]:
    """Σ ½ k (θ − θ₀)²."""
    first, apex, last = angles.atoms.T
    a, b = positions[:, first] - positions[:, apex], positions[:, last] - positions[:, apex]
    # atan2 keeps its digits where arccos does not, near a straight angle.
    angle = jnp.arctan2(jnp.sqrt(_floored(_squared(_cross(a, b)))), jnp.sum(a * b, axis=0))
    deviation = angle - column(angles.angle_rad, angle.dtype)
    return jnp.sum(0.5 * column(angles.constant, angle.dtype) * deviation**2, axis=0)


def torsion_energy(torsions: Torsions, positions: Positions) -> Float[Array, " batch"]:
    """Σ_m c_m cos mφ + s_m sin mφ, by powers of exp(iφ): no angle is ever computed."""
    return jnp.sum(_series(torsions, *_cosine_and_sine(positions, torsions.atoms))[0], axis=0)


def torsion_energy_and_gradient(torsions: Torsions, positions: Positions) -> tuple[Float[Array, " batch"], Positions]:
    """``torsion_energy`` with its gradient by Blondel and Karplus (1996, J. Comput. Chem. 17:1132).

    Automatic differentiation takes four times as long (ELIL, on a CPU).
    """
    before, axis, after = _bonds_of_torsions(positions, torsions.atoms)
    near, far = _cross(before, axis), _cross(axis, after)
    energy, slope = _series(torsions, *_normalized(before, axis, near, far))
    inverse_length = jax.lax.rsqrt(_floored(_squared(axis)))
    length = _squared(axis) * inverse_length
    near, far = (slope * normal / _floored(_squared(normal)) for normal in (near, far))
    # How the two in the middle follow the outer ones: what keeps all four from turning as a whole.
    lever = (jnp.sum(before * axis, axis=0) * near + jnp.sum(after * axis, axis=0) * far) * inverse_length
    first, last = -length * near, length * far
    parts = jnp.concatenate([first, lever - first, -lever - last, last], axis=1)
    return jnp.sum(energy, axis=0), jnp.zeros_like(positions).at[:, torsions.atoms.T.reshape(-1)].add(parts)


def _series(torsions: Torsions, cosine: Array, sine: Array) -> tuple[Array, Array]:
    """Energies of all torsions and their derivatives with respect to φ, (n, batch)."""
    real, imaginary = jnp.ones_like(cosine), jnp.zeros_like(sine)
    energy = column(torsions.cosine[0], cosine.dtype) * real
    slope = jnp.zeros_like(cosine)
    for order in range(1, len(torsions.cosine)):
        real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
        c, s = (column(table[order], cosine.dtype) for table in (torsions.cosine, torsions.sine))
        energy += c * real + s * imaginary
        slope += order * (s * real - c * imaginary)
    return energy, slope


def map_energy(maps: TorsionMaps, positions: Positions) -> Float[Array, " batch"]:
    """Σ of bicubic corrections of (φ, ψ)."""
    size = maps.coefficients.shape[1]
    cells, offsets = [], []
    for atoms in (maps.atoms[:, :4], maps.atoms[:, 4:]):
        cosine, sine = _cosine_and_sine(positions, atoms)
        place = jnp.mod(jnp.arctan2(sine, cosine), 2 * np.pi) * (size / (2 * np.pi))
        cell = jnp.clip(jnp.floor(place), 0, size - 1)
        cells.append(cell.astype(jnp.int32))
        offsets.append(place - cell)
    table = jnp.asarray(maps.coefficients.reshape(-1, 4, 4), positions.dtype)
    index = (jnp.asarray(maps.map_index, jnp.int32)[:, None] * size + cells[0]) * size + cells[1]
    coefficients = table[index]
    powers = [jnp.stack([jnp.ones_like(s), s, s**2, s**3], axis=-1) for s in offsets]
    # Not by einsum: a matrix product would have the reduced precision of an accelerator's.
    return jnp.sum(coefficients * powers[0][..., :, None] * powers[1][..., None, :], axis=(0, 2, 3))


def _cosine_and_sine(positions: Positions, atoms: np.ndarray) -> tuple[Array, Array]:
    """Both cos φ and sin φ of torsions (IUPAC sign), (n, batch), zero where a torsion has no meaning."""
    before, axis, after = _bonds_of_torsions(positions, atoms)
    return _normalized(before, axis, _cross(before, axis), _cross(axis, after))


def _bonds_of_torsions(positions: Positions, atoms: np.ndarray) -> tuple[Array, Array, Array]:
    i, j, k, l = (positions[:, column] for column in atoms.T)  # noqa: E741
    return j - i, k - j, l - k


def _normalized(before: Array, axis: Array, near: Array, far: Array) -> tuple[Array, Array]:
    x = jnp.sum(near * far, axis=0)
    y = jnp.sqrt(_floored(_squared(axis))) * jnp.sum(before * far, axis=0)
    inverse = 1.0 / jnp.sqrt(_floored(x * x + y * y))
    return x * inverse, y * inverse


def _floored(squared: Array) -> Array:
    """Keeps squares off zero, where the root has no derivative. The floor is far below any geometry that matters."""
    return jnp.maximum(squared, jnp.finfo(squared.dtype).tiny * 1e6)


def _cross(a: Array, b: Array) -> Array:
    return jnp.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _squared(a: Array) -> Array:
    return jnp.sum(a * a, axis=0)
