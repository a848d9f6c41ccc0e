"""Rational-quadratic splines against distrax, jax.jacobian and their own inverse."""

import distrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cmtjax.flows import splines

# (bins, bounded dimensions, circular dimensions)
SHAPES = [(8, 3, 2), (8, 2, 0), (8, 0, 2), (2, 1, 1), (16, 1, 1)]


def _raw(seed, num_bins, num_bounded, num_circular, batch=(), scale=1.5):
    rows = splines.num_parameters(num_bins, num_bounded, num_circular)
    return scale * jax.random.normal(jax.random.key(seed), (rows, *batch))


def _distrax_spline(raw, num_bins, num_bounded, num_circular):
    """One distrax spline of all dimensions with the same raw parameters."""
    n = num_bounded + num_circular
    widths, heights, slopes = (np.asarray(raw[i * num_bins * n : (i + 1) * num_bins * n]) for i in range(3))
    slopes = slopes.reshape(num_bins, n)
    last = np.concatenate([np.asarray(raw[3 * num_bins * n :]), slopes[0, num_bounded:]])
    params = np.concatenate([widths.reshape(num_bins, n), heights.reshape(num_bins, n), slopes, last[None]])

    def softplus_inverse_shifted(s):
        # distrax takes softplus(s + softplus⁻¹(1 − min)) + min; undo its shift.
        return s - np.log(np.expm1(1.0 - splines.MIN_SLOPE))

    params[2 * num_bins :] = softplus_inverse_shifted(params[2 * num_bins :])
    return distrax.RationalQuadraticSpline(
        jnp.asarray(params.T),
        0.0,
        1.0,
        boundary_slopes="unconstrained",
        min_bin_size=splines.MIN_BIN_SIZE,
        min_knot_slope=splines.MIN_SLOPE,
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_distrax(shape):
    num_bins, num_bounded, num_circular = shape
    raw = _raw(0, *shape)
    x = jax.random.uniform(jax.random.key(1), (200, num_bounded + num_circular), minval=0.001, maxval=0.999)
    oracle = _distrax_spline(raw, *shape)
    y, log_slope = splines.spline_forward(jnp.repeat(raw[:, None], 200, 1), x.T, num_bins)
    expected_y, expected_log_slope = jax.vmap(oracle.forward_and_log_det)(x)
    # float32 sums of up to 16 bins, divided by widths down to a few 1e-3: some 1e-6 / 3e-3.
    np.testing.assert_allclose(y.T, expected_y, atol=2e-5)
    np.testing.assert_allclose(log_slope.T, expected_log_slope, atol=3e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_slope_is_the_derivative(shape):
    with jax.enable_x64(True):
        raw = _raw(2, *shape).astype(jnp.float64)
        x = jax.random.uniform(jax.random.key(3), (shape[1] + shape[2],), jnp.float64)
        jacobian = jax.jacobian(lambda v: splines.spline_forward(raw, v, shape[0])[0])(x)
        _, log_slope = splines.spline_forward(raw, x, shape[0])
        # The same formula differentiated, in float64.
        np.testing.assert_allclose(np.log(np.diag(jacobian)), log_slope, atol=1e-10)
        np.testing.assert_allclose(jacobian - np.diag(np.diag(jacobian)), 0.0, atol=0.0)


# The example lies in a bin that is flat for most of its width: there one form of the inverse's root cancels.
@example(0, (8, 2, 0), 3.5)
@given(st.integers(0, 2**31 - 1), st.sampled_from(SHAPES), st.floats(0.1, 4.0))
def test_round_trip(seed, shape, scale):
    raw = _raw(seed, *shape, batch=(16,), scale=scale)
    x = jax.random.uniform(jax.random.key(seed), (shape[1] + shape[2], 16))
    y, log_slope = splines.spline_forward(raw, x, shape[0])
    back, inverse_log_slope = splines.spline_inverse(raw, y, shape[0])
    # A step of one float32 ulp (6e-8) in y is a step of 6e-8 / slope in x. Comparing in y instead of x takes the slope
    # out; some ten operations of 1e-7 remain.
    np.testing.assert_allclose(splines.spline_forward(raw, back, shape[0])[0], y, atol=2e-6)
    flat = np.abs(np.asarray(log_slope)) < 3.0
    np.testing.assert_allclose(np.asarray(back)[flat], np.asarray(x)[flat], atol=5e-5)
    assert np.all(np.isfinite(inverse_log_slope))


def test_hand_written_gradient_is_that_of_finite_differences():
    shape = (5, 2, 1)
    with jax.enable_x64(True):
        raw = _raw(5, *shape, batch=(3,)).astype(jnp.float64)
        x = jax.random.uniform(jax.random.key(6), (3, 3), jnp.float64)
        weights = jax.random.normal(jax.random.key(7), (2, 3, 3), jnp.float64)
        for spline in (splines.spline_forward, splines.spline_inverse):

            def value(raw, x, spline=spline):
                y, log_slope = spline(raw, x, shape[0])
                return jnp.sum(weights[0] * y + weights[1] * log_slope)

            # Central differences of step 1e-6 in float64 are exact to about 1e-8.
            jax.test_util.check_grads(value, (raw, x), order=1, modes=["rev"], atol=1e-5, rtol=1e-5, eps=1e-6)


def test_identity_parameters_give_the_identity():
    raw = jnp.asarray(splines.identity_parameters(8, 2, 3))
    x = jax.random.uniform(jax.random.key(0), (5, 100))
    y, log_slope = splines.spline_forward(jnp.repeat(raw[:, None], 100, 1), x, 8)
    np.testing.assert_allclose(y, x, atol=5e-7)  # a few float32 ulps
    np.testing.assert_allclose(log_slope, 0.0, atol=2e-6)


def test_circular_dimensions_join_smoothly():
    raw = _raw(8, 8, 1, 3, scale=2.0)
    for spline in (splines.spline_forward, splines.spline_inverse):
        at_zero = spline(raw, jnp.zeros(4), 8)
        at_one = spline(raw, jnp.ones(4), 8)
        np.testing.assert_allclose(at_zero[0], 0.0, atol=1e-6)
        np.testing.assert_allclose(at_one[0], 1.0, atol=1e-6)
        # θ at the last knot is one up to a float32 ulp over the width of the last bin.
        np.testing.assert_allclose(at_zero[1][1:], at_one[1][1:], atol=1e-3)
        assert abs(at_zero[1][0] - at_one[1][0]) > 0.1  # bounded dimensions need not: the test can fail


def test_values_and_gradients_are_finite_at_knots_edges_and_outside():
    shape = (8, 2, 2)
    raw = _raw(9, *shape, scale=3.0)
    n = 4
    sizes = jax.nn.softmax(raw[: 8 * n].reshape(8, n), axis=0) * (1 - 8e-3) + 1e-3
    knots = jnp.concatenate([jnp.zeros((1, n)), jnp.cumsum(sizes, axis=0)]).T  # (n, 9)
    outside = jnp.tile(jnp.array([-1e9, -0.5, -1e-7, 1.0 + 1e-6, 2.0, 1e9]), (n, 1))
    points = jnp.concatenate([knots, outside], axis=1)
    repeated = jnp.repeat(raw[:, None], points.shape[1], 1)
    for spline in (splines.spline_forward, splines.spline_inverse):

        def value(raw, x, spline=spline):
            y, log_slope = spline(raw, x, 8)
            return jnp.sum(y) + jnp.sum(log_slope), (y, log_slope)

        gradients, (y, log_slope) = jax.grad(value, (0, 1), has_aux=True)(repeated, points)
        for array in (*gradients, y, log_slope):
            assert np.all(np.isfinite(array))
        assert np.all((np.asarray(y) >= 0.0) & (np.asarray(y) <= 1.0))
        np.testing.assert_array_equal(gradients[1][:, -6:], 0.0)


def test_extreme_parameters_stay_finite():
    raw = _raw(10, 8, 2, 2, batch=(64,), scale=100.0)
    x = jax.random.uniform(jax.random.key(11), (4, 64))
    for spline in (splines.spline_forward, splines.spline_inverse):
        y, log_slope = spline(raw, x, 8)
        gradient = jax.grad(lambda r, s=spline: jnp.sum(s(r, x, 8)[1]))(raw)
        assert np.all(np.isfinite(y))
        assert np.all(np.isfinite(log_slope))
        assert np.all(np.isfinite(gradient))
