"""Targets: measures, temperatures, regularization."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax import molecules, targets
from cmtjax.coordinates import internal_coordinates
from cmtjax.units import thermal_energy_kj_mol


def test_thermal_energy_at_room_temperature():
    assert thermal_energy_kj_mol(300.0) == pytest.approx(2.494339, abs=5e-7)  # the digits quoted in the literature


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_temperatures_are_refused(temperature):
    with pytest.raises(ValueError, match="temperature_kelvin"):
        thermal_energy_kj_mol(temperature)


def test_box_target_has_the_measure_of_its_box():
    target = targets.from_log_prob(lambda x: -jnp.sum(x**2), [-1.0, 0.0], [3.0, 0.5], [False, True])
    u = jax.random.uniform(jax.random.key(0), (7, 3, 2))
    x, log_det = target.to_physical(u)
    chex.assert_shape(log_det, (7, 3))
    np.testing.assert_allclose(log_det, np.log(4.0 * 0.5), rtol=1e-6)  # float32
    back, back_log_det, in_domain = target.from_physical(x)
    np.testing.assert_allclose(back, u, atol=1e-6)
    np.testing.assert_array_equal(back_log_det, log_det)
    assert np.all(in_domain)
    assert not target.from_physical(jnp.array([3.1, 0.2]))[2]
    np.testing.assert_allclose(target.log_prob(x), -jnp.sum(x**2, -1), rtol=1e-6)
    np.testing.assert_array_equal(target.domain.is_periodic, [False, True])


def test_tempered_divides():
    target = targets.from_log_prob(lambda x: -jnp.sum(x**2), [-1.0], [1.0])
    x = jnp.array([[0.3], [0.6]])
    np.testing.assert_allclose(targets.tempered(target, 4.0).log_prob(x), target.log_prob(x) / 4.0)
    with pytest.raises(ValueError, match="factor"):
        targets.tempered(target, 0.0)


@pytest.mark.parametrize(
    ("lower", "upper"), [([0.0], [0.0]), ([0.0, 1.0], [1.0]), ([0.0], [np.inf]), ([[0.0]], [[1.0]])]
)
def test_impossible_boxes_are_refused(lower, upper):
    with pytest.raises(ValueError, match=r"lower and upper|lower must be below"):
        targets.from_log_prob(jnp.sum, lower, upper)


def test_boltzmann_divides_by_kt_and_regularizes():
    molecule = molecules.published("alanine_dipeptide")

    def energy_fn(positions_nm):
        return 1e4 * positions_nm[..., 0, 0]

    target = targets.boltzmann(molecule, energy_fn, temperature_kelvin=450.0)
    positions = jnp.zeros((4, 22, 3)).at[:, 0, 0].set(jnp.array([1.0, -2.0, jnp.inf, jnp.nan]))
    kt = thermal_energy_kj_mol(450.0)
    log_prob = target.log_prob(positions)
    np.testing.assert_allclose(log_prob[:2], [-1e4 / kt, 2e4 / kt], rtol=1e-6)
    # The plateau of Eq. (22) with its published constants; a float32 ulp there is 8.
    np.testing.assert_allclose(log_prob[2], -(1e8 + np.log(1e20)), atol=8.0)
    assert np.isnan(log_prob[3])
    coordinates = internal_coordinates(molecule)
    same = targets.boltzmann(coordinates, energy_fn, temperature_kelvin=450.0)
    np.testing.assert_array_equal(same.log_prob(positions), log_prob)
    with pytest.raises(ValueError, match="scheme"):
        targets.boltzmann(molecule, energy_fn, regularization={"scheme": "none"})
