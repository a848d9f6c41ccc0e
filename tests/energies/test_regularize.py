import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax.energies import regularize_energy

HIGH = {"additive_log": 1e8, "multiplicative_log": 1e3}


def closed_form(energy: float, high: float, maximum: float, scheme: str) -> float:
    if not energy > high:
        return energy
    capped = min(energy, maximum)
    return high + np.log(capped - high + 1) if scheme == "additive_log" else high * (1 + np.log(capped / high))


@pytest.mark.parametrize("scheme", HIGH)
@hypothesis.given(energy=st.floats(-1e30, 1e37).map(np.float32), high=st.floats(1.0, 1e9), ratio=st.floats(2.0, 1e15))
def test_agrees_with_the_closed_form_in_float32(scheme, energy, high, ratio):
    energy, high, maximum = float(energy), float(np.float32(high)), float(np.float32(high * ratio))
    ours = regularize_energy(jnp.float32(energy), high=high, maximum=maximum, scheme=scheme)
    assert ours.dtype == jnp.float32
    # a few roundings of float32 (6e-8 each)
    np.testing.assert_allclose(float(ours), closed_form(energy, high, maximum, scheme), rtol=5e-7)


@pytest.mark.parametrize("scheme", HIGH)
def test_close_above_the_threshold_in_double_precision(scheme):
    energy = HIGH[scheme] * np.array([1 - 1e-9, 1.0, 1 + 1e-9, 1.5, 1e6])
    expected = [closed_form(value, HIGH[scheme], 1e20, scheme) for value in energy]
    with jax.enable_x64(True):
        ours = regularize_energy(jnp.asarray(energy), high=HIGH[scheme], scheme=scheme)
        np.testing.assert_allclose(ours, expected, rtol=1e-14)  # roundings of double precision


@pytest.mark.parametrize("scheme", HIGH)
def test_infinity_is_the_plateau_and_nan_stays(scheme):
    high = HIGH[scheme]
    energy = jnp.array([jnp.inf, 1e20, 1e30, -jnp.inf, jnp.nan])
    plateau = np.float32(closed_form(1e20, high, 1e20, scheme))
    ours = regularize_energy(energy, high=high, scheme=scheme)
    # one rounding of the logarithm
    np.testing.assert_allclose(ours, [plateau, plateau, plateau, -np.inf, np.nan], rtol=2e-7)
    assert ours[0] == ours[1] == ours[2]


def test_published_plateau():
    with jax.enable_x64(True):
        ours = regularize_energy(jnp.asarray(jnp.inf, jnp.float64))
        # log(1e20) = 46.0517, 1e8 being negligible against 1e20; one ulp of 1e8 in double precision is 1.5e-8
        np.testing.assert_allclose(ours - 1e8, 20 * np.log(10), atol=3e-8)


@pytest.mark.parametrize("scheme", HIGH)
def test_gradient(scheme):
    high = HIGH[scheme]
    energy = jnp.array([-5.0, 0.5 * high, 2 * high, 1e21, jnp.inf], jnp.float32)
    slope = jax.vmap(jax.grad(lambda e: regularize_energy(e, high=high, scheme=scheme)))(energy)
    above = 1 / (high + 1) if scheme == "additive_log" else 0.5
    np.testing.assert_allclose(slope, [1, 1, above, 0, 0], rtol=1e-6)  # a few roundings of float32


@pytest.mark.parametrize(
    ("arguments", "named"),
    [({"high": 0.0}, "high"), ({"high": 1e21}, "maximum"), ({"maximum": np.inf}, "maximum"), ({"scheme": "x"}, "'x'")],
)
def test_bad_arguments_are_named(arguments, named):
    with pytest.raises(ValueError, match=named):
        regularize_energy(jnp.ones(3), **arguments)
