"""Monotone rational-quadratic splines on [0, 1] (Durkan et al., 2019, "Neural Spline Flows").

Layout: everything is elementwise over trailing axes, and *features lead*. A spline for n dimensions with K bins has one
array of raw parameters with rows

    K·n unnormalized widths | K·n unnormalized heights | K·n unnormalized slopes at the left knots | m last slopes,

each block with the bins outside and the dimensions inside. The first m of the n dimensions are bounded: the slope at
their last knot is free. The other n − m are circular: their last slope is their first one, so that the map of the
circle is continuous with its derivative (Rezende et al., 2020). Trailing axes are the batch: with the batch last, one
pass over contiguous memory finds the bin, and only the two slopes of that bin are ever exponentiated.
"""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

#: Smallest width and height of a bin, as a share of the interval, and smallest slope at a knot.
MIN_BIN_SIZE = 1e-3
MIN_SLOPE = 1e-3

_Bin = tuple[Array, Array, Array, Array, Array, Array]


def num_parameters(num_bins: int, num_bounded: int, num_circular: int) -> int:
    """Rows of the raw parameter array: 3K per dimension and one more per bounded dimension."""
    return 3 * num_bins * (num_bounded + num_circular) + num_bounded


def identity_parameters(num_bins: int, num_bounded: int, num_circular: int) -> np.ndarray:
    """Raw parameters, (rows,), of the identity: equal bins, all slopes one."""
    num_dims = num_bounded + num_circular
    unit_slope = np.log(np.expm1(1.0 - MIN_SLOPE))  # softplus⁻¹(1 − MIN_SLOPE)
    sizes = np.zeros(2 * num_bins * num_dims, np.float32)
    return np.concatenate([sizes, np.full(num_bins * num_dims + num_bounded, unit_slope, np.float32)])


def spline_forward(
    raw: Float[Array, "rows *batch"], x: Float[Array, "dims *batch"], num_bins: int
) -> tuple[Float[Array, "dims *batch"], Float[Array, "dims *batch"]]:
    """Evaluates the spline, Eq. (4) and (5) of Durkan et al.

    Args:
      raw: raw parameters in the layout of this module.
      x: points; outside [0, 1] they are clipped to it (and have zero gradient).
      num_bins: K.

    Returns:
      y in [0, 1] and log dy/dx.
    """
    x = jnp.clip(x, 0.0, 1.0)
    left, width, bottom, height, slope, next_slope = _select_bin(raw, x, num_bins, False)
    slope, next_slope = _positive(slope), _positive(next_slope)
    theta = (x - left) / width
    mean_slope = height / width
    mixed = theta * (1.0 - theta)
    denominator = mean_slope + (slope + next_slope - 2.0 * mean_slope) * mixed
    y = bottom + height * (mean_slope * theta**2 + slope * mixed) / denominator
    return jnp.clip(y, 0.0, 1.0), _log_slope(theta, mean_slope, slope, next_slope)


def spline_inverse(
    raw: Float[Array, "rows *batch"], y: Float[Array, "dims *batch"], num_bins: int
) -> tuple[Float[Array, "dims *batch"], Float[Array, "dims *batch"]]:
    """Inverts the spline, Eq. (6)-(8) of Durkan et al.

    Args:
      raw: raw parameters in the layout of this module.
      y: points; outside [0, 1] they are clipped to it (and have zero gradient).
      num_bins: K.

    Returns:
      x in [0, 1] and log dy/dx of the forward map there.
    """
    y = jnp.clip(y, 0.0, 1.0)
    left, width, bottom, height, slope, next_slope = _select_bin(raw, y, num_bins, True)
    slope, next_slope = _positive(slope), _positive(next_slope)
    mean_slope = height / width
    offset = y - bottom
    curvature = slope + next_slope - 2.0 * mean_slope
    a = height * (mean_slope - slope) + offset * curvature
    b = height * slope - offset * curvature
    c = -mean_slope * offset
    # b² − 4ac > 0 for a strictly increasing spline; the floor only guards against rounding. The root has two forms, and
    # for each sign of b one of them adds numbers of one sign. (As the root is in [0, 1] and c ≤ 0, b < 0 implies
    # a ≥ |b|.)
    discriminant = jnp.maximum(b**2 - 4.0 * a * c, jnp.finfo(y.dtype).tiny)
    total = jnp.abs(b) + jnp.sqrt(discriminant)
    theta = jnp.clip(jnp.where(b < 0.0, total, -2.0 * c) / jnp.where(b < 0.0, 2.0 * a, total), 0.0, 1.0)
    return jnp.clip(left + theta * width, 0.0, 1.0), _log_slope(theta, mean_slope, slope, next_slope)


def _positive(raw_slope: Array) -> Array:
    return jax.nn.softplus(raw_slope) + MIN_SLOPE


def _log_slope(theta: Array, mean_slope: Array, slope: Array, next_slope: Array) -> Array:
    mixed = theta * (1.0 - theta)
    denominator = mean_slope + (slope + next_slope - 2.0 * mean_slope) * mixed
    numerator = next_slope * theta**2 + 2.0 * mean_slope * mixed + slope * (1.0 - theta) ** 2
    # Both are convex combinations of positive slopes, so the logarithm is finite; one logarithm for all factors.
    return jnp.log((mean_slope / denominator) ** 2 * numerator)


# The bin that a point lies in. Its backward pass is written by hand: the derivative of a softmax and of its partial
# sums needs nothing but the bin's index and two cotangents, where automatic differentiation keeps or recomputes every
# partial sum of every bin and takes several times as long. The index is piecewise constant, so the point itself has no
# derivative here.
@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _select_bin(raw: Array, point: Array, num_bins: int, by_height: bool) -> _Bin:
    return _find_bin(raw, point, num_bins, by_height)[0]


def _select_bin_forward(raw: Array, point: Array, num_bins: int, by_height: bool) -> tuple[_Bin, tuple[Array, Array]]:
    selected, index = _find_bin(raw, point, num_bins, by_height)
    return selected, (raw, index)


def _select_bin_backward(
    num_bins: int, by_height: bool, residuals: tuple[Array, Array], cotangents: _Bin
) -> tuple[Array, Array]:
    del by_height
    raw, index = residuals
    left, width, bottom, height, slope, next_slope = cotangents
    widths, heights, _, _ = _blocks(raw, index.shape, num_bins)
    num_bounded = raw.shape[0] - 3 * num_bins * index.shape[0]
    bins = jnp.arange(num_bins, dtype=index.dtype).reshape((num_bins,) + (1,) * index.ndim)

    def sizes_gradient(logits: Array, start: Array, size: Array) -> Array:
        # start = k·MIN + c Σ_{j<k} p_j and size = MIN + c p_k with p = softmax(logits), c = 1 − K·MIN.
        p = jax.nn.softmax(logits, axis=0)
        cotangent = jnp.where(bins < index, start, 0.0) + jnp.where(bins == index, size, 0.0)
        return (1.0 - num_bins * MIN_BIN_SIZE) * p * (cotangent - jnp.sum(p * cotangent, axis=0))

    slopes = jnp.where(bins == index, slope, 0.0) + jnp.where(bins == index + 1, next_slope, 0.0)
    last = jnp.where(index == num_bins - 1, next_slope, 0.0)
    wrapped = jnp.where((jnp.arange(index.shape[0]) >= num_bounded).reshape((-1,) + (1,) * (index.ndim - 1)), last, 0.0)
    slopes = slopes + jnp.where(bins == 0, wrapped, 0.0)
    blocks = [sizes_gradient(widths, left, width), sizes_gradient(heights, bottom, height), slopes]
    flat = [block.reshape((-1, *index.shape[1:])) for block in blocks]
    return jnp.concatenate([*flat, last[:num_bounded]]), jnp.zeros_like(left)


_select_bin.defvjp(_select_bin_forward, _select_bin_backward)


def _blocks(raw: Array, shape: tuple[int, ...], num_bins: int) -> tuple[Array, Array, Array, Array]:
    """Widths, heights, slopes, each (K, dims, *batch), and the last slope, (dims, *batch)."""
    size = num_bins * shape[0]
    widths, heights, slopes = (raw[i * size : (i + 1) * size].reshape((num_bins, *shape)) for i in range(3))
    bounded_last = raw[3 * size :]
    return widths, heights, slopes, jnp.concatenate([bounded_last, slopes[0, bounded_last.shape[0] :]])


def _find_bin(raw: Array, point: Array, num_bins: int, by_height: bool) -> tuple[_Bin, Int[Array, "dims *batch"]]:
    chex.assert_equal(raw.shape[1:], point.shape[1:])
    widths, heights, slopes, last_slope = _blocks(raw, point.shape, num_bins)
    lefts, width = _knots(widths)
    bottoms, height = _knots(heights)
    knots = bottoms if by_height else lefts
    slope = [*(slopes[j] for j in range(num_bins)), last_slope]
    selected: _Bin = (lefts[0], width[0], bottoms[0], height[0], slope[0], slope[1])
    index = jnp.zeros(point.shape, jnp.int32)
    for j in range(1, num_bins):
        beyond = point >= knots[j]
        candidate: _Bin = (lefts[j], width[j], bottoms[j], height[j], slope[j], slope[j + 1])
        selected = tuple(jnp.where(beyond, new, old) for new, old in zip(candidate, selected, strict=True))  # type: ignore[assignment]
        index = index + beyond.astype(jnp.int32)
    return selected, index


def _knots(logits: Array) -> tuple[list[Array], list[Array]]:
    """Left knots and sizes of all bins; lists, so that the compiler keeps them in registers."""
    num_bins = logits.shape[0]
    exponentials = jnp.exp(logits - jnp.max(logits, axis=0))
    scale = (1.0 - num_bins * MIN_BIN_SIZE) / jnp.sum(exponentials, axis=0)
    sizes = [MIN_BIN_SIZE + scale * exponentials[j] for j in range(num_bins)]
    knots = [jnp.zeros_like(scale)]
    for size in sizes[:-1]:
        knots.append(knots[-1] + size)
    return knots, sizes
