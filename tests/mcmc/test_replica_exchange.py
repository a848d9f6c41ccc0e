"""Replica exchange against quadrature, and its bookkeeping against plain Python."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from cmtjax import mcmc, targets
from cmtjax.coordinates.domain import Domain
from cmtjax.mcmc.replica_exchange import _exchange

FACTORS = (1.0, 3.0, 9.0)
LADDERS = 256


def _log_p(x):
    """Two wells of different weights, 12 widths apart; a flat periodic dimension."""
    wells = jnp.stack([jnp.log(0.25) - 0.5 * ((x[..., 0] - 0.2) / 0.08) ** 2, -0.5 * ((x[..., 0] - 1.2) / 0.08) ** 2])
    return jax.nn.logsumexp(wells, axis=0) + 0.5 * jnp.cos(2 * jnp.pi * x[..., 1])


# x = u + u², so that the volume factor 1 + 2u matters, and matters the same at every temperature.
TARGET = targets.Target(
    Domain.box(2, np.array([False, True])),
    lambda u: (u.at[..., 0].add(u[..., 0] ** 2), jnp.log1p(2 * u[..., 0])),
    lambda x: (x, x[..., 0], x[..., 0] > 0),
    _log_p,
)


def _rung_masses(factor, edges):
    """Probabilities of intervals of u₀ by quadrature: the density is p̃(x(u))^(1/f) dx/du."""
    u = np.linspace(0, 1, 200_001)
    x = u + u**2
    wells = np.logaddexp(np.log(0.25) - 0.5 * ((x - 0.2) / 0.08) ** 2, -0.5 * ((x - 1.2) / 0.08) ** 2)
    density = np.exp(wells / factor) * (1 + 2 * u)
    return np.histogram(u, edges, weights=density)[0] / density.sum()


@functools.lru_cache
def _run():
    sampler = mcmc.replica_exchange(TARGET, FACTORS, mcmc.ReplicaExchangeConfig(num_leapfrog_steps=4))
    u = jax.random.uniform(jax.random.key(0), (LADDERS, 3, 2))
    state = jax.jit(sampler.init)(jax.random.key(1), u)

    @jax.jit
    def scan(state, is_warm_up):
        def body(state, _):
            state, info = sampler.update(state, is_warm_up)
            return state, (state.u, state.walker, info)

        return jax.lax.scan(body, state, None, length=400)

    warm, (_, warm_walkers, warm_info) = scan(state, True)
    end, (u, walkers, info) = scan(warm, False)
    return sampler, scan, warm, end, np.asarray(u), np.concatenate([warm_walkers, walkers]), warm_info, info


def test_every_rung_has_its_tempered_density_with_the_volume_factor():
    _, _, _, _, u, _, _, _ = _run()
    # Both wells, their flanks and the gap; each rung against quadrature.
    edges = np.array([0.0, 0.1, 0.17, 0.25, 0.5, 0.65, 0.7, 0.75, 1.0])
    for rung, factor in enumerate(FACTORS):
        shares = np.stack([np.histogram(u[:, ladder, rung, 0], edges)[0] for ladder in range(LADDERS)]) / len(u)
        error = shares.std(axis=0) / np.sqrt(LADDERS)
        # Ladders are independent, so their scatter gives the standard error; five of them, and float32 of the edges.
        np.testing.assert_array_less(np.abs(shares.mean(axis=0) - _rung_masses(factor, edges)), 5 * error + 1e-4)


def test_the_two_wells_exchange_their_walkers():
    _, _, _, end, u, _, _, info = _run()
    is_left = u[:, :, 0, 0] < 0.5
    # The barrier is 19 kT at the coldest rung, where no trajectory crosses it, and 2 kT at the hottest.
    assert np.mean(np.any(is_left != is_left[0], axis=0)) > 0.95
    exchange = np.asarray(info.exchange)
    assert np.all(np.isnan(exchange[::2]) != np.isnan(exchange[1::2]))
    assert np.all(np.nanmean(exchange, axis=0) > 0.2)
    assert int(end.num_round_trips.sum()) > LADDERS


def test_round_trips_are_those_of_a_plain_count():
    _, _, _, end, _, walkers, _, _ = _run()
    for ladder in range(0, LADDERS, 16):
        trips, last = 0, [0] * len(FACTORS)
        for row in walkers[:, ladder]:
            cold, hot = row[0], row[-1]
            trips += last[cold] == 2
            last[cold] = 1
            last[hot] = 2 if last[hot] else 0
            assert sorted(row) == [0, 1, 2]
        assert end.num_round_trips[ladder] == trips


def test_one_temperature_has_no_round_trips():
    sampler = mcmc.replica_exchange(TARGET, FACTORS[:1])
    state = sampler.init(jax.random.key(0), jnp.full((4, 1, 2), 0.4))
    state = jax.jit(lambda state: jax.lax.fori_loop(0, 5, lambda _, s: sampler.update(s, False)[0], state))(state)
    assert state.num_round_trips.tolist() == [0, 0, 0, 0]


def test_warm_up_reaches_the_acceptance_asked_for_and_update_leaves_the_steps_alone():
    _, _, warm, end, _, _, warm_info, info = _run()
    # 256 chains a sweep: the mean over 400 sweeps is good to 1 %, adaptation oscillates by a few more.
    np.testing.assert_allclose(np.mean(info.acceptance, axis=0), 0.8, atol=0.06)
    np.testing.assert_allclose(np.mean(warm_info.acceptance[-100:], axis=0), 0.8, atol=0.06)
    np.testing.assert_array_equal(warm.log_step_size, end.log_step_size)
    np.testing.assert_array_equal(warm.mean_square_gradient, end.mean_square_gradient)


def test_the_same_state_gives_the_same_samples():
    _, scan, warm, end, _, _, _, _ = _run()
    again, _ = scan(warm, False)
    np.testing.assert_array_equal(again.u, end.u)
    np.testing.assert_array_equal(jax.random.key_data(again.key), jax.random.key_data(end.key))


def test_what_is_carried_belongs_to_its_point():
    _, _, _, end, _, _, _, _ = _run()
    x, log_det = TARGET.to_physical(end.u)
    # Carried through hundreds of moves and exchanges, not computed again: the same float32 program, so nearly equal.
    np.testing.assert_allclose(end.evaluated.log_p, TARGET.log_prob(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(end.evaluated.log_det, log_det, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda u: jnp.sum(TARGET.log_prob(TARGET.to_physical(u)[0])))(end.u)
    np.testing.assert_allclose(end.evaluated.log_p_gradient, gradient, rtol=1e-4, atol=1e-3)


def test_a_state_keeps_its_types():
    """Else the second call of a compiled sweep compiles it again, half a minute for a peptide."""
    sampler = mcmc.replica_exchange(TARGET, FACTORS)
    first = jax.eval_shape(sampler.init, jax.random.key(0), jax.ShapeDtypeStruct((4, 3, 2), jnp.float32))
    second = jax.eval_shape(lambda state: sampler.update(state, True)[0], first)
    for before, after in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        assert (before.shape, before.dtype, before.weak_type) == (after.shape, after.dtype, after.weak_type)


def test_an_exchange_obeys_the_metropolis_rule():
    log_p = jnp.asarray(np.random.default_rng(0).normal(scale=4.0, size=(20_000, 3)), jnp.float32)
    inverse = jnp.asarray([1.0, 0.5, 0.25])
    walker = jnp.broadcast_to(jnp.arange(3), log_p.shape)
    exchanged, mean = _exchange(jax.random.key(3), walker, log_p, inverse, jnp.asarray(1))
    is_exchanged = np.asarray(exchanged)[:, 1] == 2
    expected = np.minimum(1.0, np.exp(0.25 * (np.asarray(log_p)[:, 2] - np.asarray(log_p)[:, 1])))
    assert np.isnan(mean[0])
    assert mean[1] == pytest.approx(expected.mean(), rel=1e-5)
    for low, high in ((0.0, 0.3), (0.3, 0.6), (0.6, 0.999), (0.999, 1.1)):
        chosen = (expected >= low) & (expected < high)
        # Five standard deviations of a binomial count.
        error = 5 * np.sqrt(np.sum(expected[chosen] * (1 - expected[chosen]))) + 1e-9
        assert abs(is_exchanged[chosen].sum() - expected[chosen].sum()) <= error
    assert np.all(np.asarray(exchanged)[:, 0] == 0)


# Two modes, each a product of von Mises densities of two angles and a normal one of a third dimension. The heavy one
# lies across the seam of the first angle. On the straight way from one to the other log p̃ falls by 24.
MODE_WEIGHTS = np.array([0.7, 0.3])
MODE_MEANS = np.array([[3.1, -1.0, -0.5], [-1.2, 0.9, 0.6]])
MODE_CONCENTRATIONS = np.array([[20.0, 25.0], [30.0, 18.0]])
MODE_WIDTHS = np.array([0.15, 0.2])
MODE_FACTORS = (1.0, 2.2, 5.0, 11.0, 25.0)


def _log_modes(x):
    """Log of weight times density of each mode at points (…, 3): φ, ψ and y."""
    offsets = x[..., None, :] - jnp.asarray(MODE_MEANS, jnp.float32)
    log_bessel = np.log(special.ive(0, MODE_CONCENTRATIONS))  # log I₀(κ) − κ
    of_angles = MODE_CONCENTRATIONS * (jnp.cos(offsets[..., :2]) - 1.0) - np.log(2 * np.pi) - log_bessel
    of_line = -0.5 * (offsets[..., 2] / MODE_WIDTHS) ** 2 - np.log(MODE_WIDTHS * np.sqrt(2 * np.pi))
    return of_angles.sum(axis=-1) + of_line + np.log(MODE_WEIGHTS)


MIXTURE = targets.from_log_prob(
    lambda x: jax.nn.logsumexp(_log_modes(x)),
    [-np.pi, -np.pi, -2.0],
    [np.pi, np.pi, 2.0],
    is_circular=[True, True, False],
)


def _mixture_moments():
    """Exact means by name, but for the overlap of the modes and the walls: both below 1e-10 (by quadrature)."""
    resultants = [special.ive(n, MODE_CONCENTRATIONS) / special.ive(0, MODE_CONCENTRATIONS) for n in (1, 2)]
    angles, y = MODE_MEANS[:, :2], MODE_MEANS[:, 2]
    of_modes = {
        f"exp {n}i{name}": resultants[n - 1][:, i] * np.exp(n * 1j * angles[:, i])
        for n in (1, 2)
        for i, name in enumerate("φψ")
    }
    of_modes["exp i(φ + ψ)"] = np.prod(resultants[0], axis=1) * np.exp(1j * angles.sum(axis=1))
    of_modes |= {"y": y, "y²": y**2 + MODE_WIDTHS**2, "y exp iφ": y * of_modes["exp 1iφ"]}
    log_bessel = np.log(special.ive(0, MODE_CONCENTRATIONS)) + MODE_CONCENTRATIONS
    of_angles = np.sum(np.log(2 * np.pi) + log_bessel - MODE_CONCENTRATIONS * resultants[0], axis=1)
    of_modes["energy"] = of_angles + np.log(MODE_WIDTHS * np.sqrt(2 * np.pi)) + 0.5 - np.log(MODE_WEIGHTS)
    return {name: np.sum(MODE_WEIGHTS * values) for name, values in of_modes.items()} | {"weight": MODE_WEIGHTS[0]}


def _sample_mixture(factors, num_warm_up, num_sweeps):
    """Points of the coldest rung, (sweeps, ladders, 3), log p̃ and the probability that each is of the heavy mode.

    The mean of the last is exactly that mode's weight. All chains begin in the light mode.
    """
    config = mcmc.ReplicaExchangeConfig(num_leapfrog_steps=4, moves_per_sweep=1)
    sampler = mcmc.replica_exchange(MIXTURE, factors, config)

    @jax.jit  # of everything: compiling is most of the time
    def run(key):
        def body(state, sweep):
            state, _ = sampler.update(state, sweep < num_warm_up)
            return state, state.u[:, 0]

        start = MIXTURE.from_physical(jnp.asarray(MODE_MEANS[1], jnp.float32))[0]
        state = sampler.init(key, jnp.broadcast_to(start, (LADDERS, len(factors), 3)))
        u = jax.lax.scan(body, state, jnp.arange(num_warm_up + num_sweeps))[1][num_warm_up:]
        x = MIXTURE.to_physical(u)[0]
        return x, MIXTURE.log_prob(x), jax.nn.softmax(_log_modes(x))[..., 0]

    return (np.asarray(values, np.float64) for values in run(jax.random.key(5)))


def test_moments_of_a_mixture_on_the_torus_and_a_line():
    x, log_p, heavy_share = _sample_mixture(MODE_FACTORS, 100, 250)
    phi, psi, y = np.moveaxis(x, -1, 0)
    samples = {
        "exp 1iφ": np.exp(1j * phi),
        "exp 1iψ": np.exp(1j * psi),
        "exp 2iφ": np.exp(2j * phi),
        "exp 2iψ": np.exp(2j * psi),
        "exp i(φ + ψ)": np.exp(1j * (phi + psi)),
        "y": y,
        "y²": y**2,
        "y exp iφ": y * np.exp(1j * phi),
        "energy": -log_p,
        "weight": heavy_share,
    }
    expected = _mixture_moments()
    assert samples.keys() == expected.keys()
    for name, values in samples.items():
        of_ladders = np.mean(values, axis=0)  # independent of each other, so that their scatter gives the error
        for part in (np.real, np.imag):
            error = part(of_ladders).std(ddof=1) / np.sqrt(LADDERS)
            # Of 16 numbers one in 10,000 seeds would have one this far off; 1e-5 for float32.
            assert abs(part(of_ladders).mean() - part(expected[name])) < 4.5 * error + 1e-5, name
    # Errors that small tell something: the weight is known to about a percent.
    assert np.mean(samples["weight"], axis=0).std() / np.sqrt(LADDERS) < 0.02


def test_plain_hmc_stays_in_the_mode_where_it_begins():
    # Else the moments would say nothing about exchanges.
    _, _, heavy_share = _sample_mixture(MODE_FACTORS[:1], 50, 200)
    assert np.max(heavy_share) < 0.5


@pytest.mark.parametrize("factors", [(), (1.0, 1.0), (2.0, 1.0), (0.0, 1.0), (1.0, np.inf), (1.0, np.nan)])
def test_factors_out_of_range(factors):
    with pytest.raises(ValueError, match="temperature_factors"):
        mcmc.replica_exchange(TARGET, factors)


@pytest.mark.parametrize(
    ("name", "value"),
    [("num_leapfrog_steps", 0), ("moves_per_sweep", 0), ("target_acceptance", 1.0), ("step_size_jitter", 1.0)],
)
def test_config_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        mcmc.ReplicaExchangeConfig(**{name: value})


def test_points_of_another_shape():
    sampler = mcmc.replica_exchange(TARGET, FACTORS)
    with pytest.raises(ValueError, match="ladders, 3, 2"):
        sampler.init(jax.random.key(0), jnp.zeros((4, 2, 2)))
