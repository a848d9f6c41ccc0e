"""R̂ and effective sample sizes on chains whose autocorrelation is known."""

import numpy as np
import pytest

from cmtjax import mcmc
from cmtjax.mcmc.diagnostics import ChainWeights, chain_weights, exchange_problems, set_problems, weight_problems


def _autoregressive(rng, draws, chains, rho):
    x = np.empty((draws, chains))
    x[0] = rng.normal(size=chains)
    for i in range(1, draws):
        x[i] = rho * x[i - 1] + np.sqrt(1 - rho**2) * rng.normal(size=chains)
    return x


def test_autocorrelation_time_of_an_autoregressive_chain():
    rng = np.random.default_rng(0)
    values = np.stack([_autoregressive(rng, 5000, 8, rho) for rho in (0.0, 0.6, 0.9)], axis=-1)
    result = mcmc.chain_diagnostics(values)
    # (1 + ρ)/(1 − ρ); over 8 seeds the estimate scatters by 4 % at ρ = 0.9.
    np.testing.assert_allclose(result.autocorrelation_draws, [1.0, 4.0, 19.0], rtol=0.15)
    assert np.all(result.r_hat < 1.01)
    assert mcmc.mixing_problems(result, ["a", "b", "c"]) == []


def test_chains_that_disagree_are_found():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(1000, 4, 2))
    values[:, 0, 1] += 1.0
    problems = mcmc.mixing_problems(mcmc.chain_diagnostics(values), ["φ", "ψ"])
    assert len(problems) == 1
    assert "ψ" in problems[0]
    assert "R̂" in problems[0]


def test_too_few_effective_samples_and_constants_are_named():
    rng = np.random.default_rng(2)
    values = np.stack([rng.normal(size=(50, 4)), np.ones((50, 4))], axis=-1)
    problems = mcmc.mixing_problems(mcmc.chain_diagnostics(values), ["short", "frozen"])
    assert any("short has" in text for text in problems)
    assert "frozen never changed." in problems


def test_angles_are_judged_on_the_circle():
    rng = np.random.default_rng(3)
    # Around ±π: as numbers these chains would seem to jump between two modes, on the circle they are one.
    angles = np.mod(np.pi + 0.3 * rng.normal(size=(2000, 4, 1)) + np.pi, 2 * np.pi) - np.pi
    result = mcmc.angle_diagnostics(angles)
    assert result.r_hat[0] < 1.01
    # Independent draws: ESS within its own scatter of the number of draws (arviz's estimate may exceed it).
    assert result.ess[0] == pytest.approx(8000, rel=0.15)


def test_too_few_draws():
    with pytest.raises(ValueError, match="4 draws"):
        mcmc.chain_diagnostics(np.zeros((3, 4, 1)))


def test_a_weight_that_r_hat_passes_and_few_chains_know():
    # All 64 chains are in the first state every 50th draw; in the second one only 4 of them are, also 2 % of the time.
    visits = np.arange(1000) % 50 == 7
    is_inside = np.zeros((1000, 64, 2), bool)
    is_inside[visits, :, 0] = True
    is_inside[visits, :4, 1] = True
    weights = chain_weights(is_inside)
    np.testing.assert_allclose(weights.weight, [0.02, 0.02 / 16], rtol=1e-12)
    np.testing.assert_array_equal(weights.num_visiting_chains, [64, 4])
    # Chain means of 0 (60 times) and 16 times the mean (4 times): variance (60 + 4 · 15²)/63 of the squared mean.
    np.testing.assert_allclose(weights.standard_error, [0.0, 0.00125 * np.sqrt(960 / 63 / 64)], rtol=1e-9, atol=1e-15)
    assert weights.r_hat[1] < mcmc.diagnostics.LARGEST_R_HAT
    (problem,) = weight_problems(weights, ["common", "rare"])
    assert problem.startswith("the weight of rare is known to 49 % only: (0.12 ± 0.06) %")


@pytest.mark.parametrize("num_draws", [20, 21])
def test_r_hat_of_a_state_is_that_of_its_indicator(num_draws):
    rng = np.random.default_rng(5)
    is_inside = rng.random((num_draws, 4, 4)) < np.array([0.5, 0.1, 0.8, 0.4])
    is_inside[:, 0, 3] = True
    expected = mcmc.chain_diagnostics(is_inside.astype(float)).r_hat
    # arviz takes ranks and their normal scores before; R̂ is the same but for rounding.
    np.testing.assert_allclose(chain_weights(is_inside).r_hat, expected, rtol=1e-12)
    # Chains that stay where they are: arviz divides by their variance, which is zero.
    stuck = np.broadcast_to(np.array([True, False, False, False])[:, None], (num_draws, 4, 1))
    assert chain_weights(stuck).r_hat[0] == np.inf
    assert np.isnan(chain_weights(is_inside[:, :1]).r_hat).all()
    with pytest.raises(ValueError, match="4 draws"):
        chain_weights(is_inside[:3])


def test_sets_of_chains_that_disagree_are_named():
    def weights(weight, error):
        size = len(weight)
        return ChainWeights(np.array(weight), np.array(error), np.ones(size), np.ones(size, int))

    names = ["same", "twice", "noisy", "near", "tiny", "few chains"]
    first = weights([0.01, 0.01, 0.01, 0.01, 1e-5, 0.01], [1e-4, 1e-4, 4e-3, 1e-5, 1e-7, np.nan])
    second = weights([0.0101, 0.02, 0.02, 0.011, 9e-5, 0.02], [1e-4, 2e-4, 1e-3, 1e-5, 1e-7, 1e-4])
    # "noisy" is 2.4 standard errors apart; "near" and "tiny" are many, but less than a weight may be uncertain by.
    (problem,) = set_problems([first, second], names, ["A", "B"])
    assert problem == "the weight of twice is (1 ± 0.01) % in A, (2 ± 0.02) % in B: the sets disagree."
    # Of three sets each pair counts.
    assert len(set_problems([first, second, second], names, ["A", "B", "C"])) == 2
    assert set_problems([first], names, ["A"]) == []


def test_r_hat_and_the_error_over_all_chains_pass_sets_that_disagree():
    # The reason for comparing sets: 64 chains each, 1 and 2 % in the state.
    rng = np.random.default_rng(6)
    shares = np.repeat([0.01, 0.02], 64)
    is_inside = rng.random((1000, 128, 1)) < shares[:, None]
    together = chain_weights(is_inside)
    assert together.r_hat[0] < mcmc.diagnostics.LARGEST_R_HAT
    assert weight_problems(together, ["island"]) == []
    parts = [chain_weights(part) for part in np.split(is_inside, 2, axis=1)]
    assert len(set_problems(parts, ["island"], ["A", "B"])) == 1
    same = [chain_weights(part) for part in (is_inside[:, :32], is_inside[:, 32:64])]
    assert set_problems(same, ["island"], ["A", "B"]) == []


def test_errors_of_weights_count_the_correlation_of_draws():
    rng = np.random.default_rng(4)
    # Visits that last for 50 draws: 20 independent ones a chain, each in the state with probability 0.2.
    is_inside = np.repeat(rng.random((20, 400, 1)) < 0.2, 50, axis=0)
    weights = chain_weights(is_inside)
    # The scatter of 400 chains gives an error with 4 % of its own.
    assert weights.standard_error[0] == pytest.approx(np.sqrt(0.2 * 0.8 / (20 * 400)), rel=0.15)
    assert weight_problems(weights, ["state"]) == []


def test_states_that_are_empty_or_hardly_visited_are_no_problem():
    is_inside = np.zeros((1000, 8, 4), bool)
    is_inside[10, 0, 1] = True  # one of 8000 draws: (0.0125 ± 0.0125) %, small beyond doubt
    is_inside[10:90, 0, 2] = True  # (1 ± 1) %
    is_inside[:, :, 3] = True
    weights = chain_weights(is_inside)
    np.testing.assert_array_equal(weights.num_visiting_chains, [0, 1, 1, 8])
    np.testing.assert_array_equal(np.isnan(weights.r_hat), [True, False, False, True])
    (problem,) = weight_problems(weights, ["empty", "tiny", "lucky", "all"])
    assert problem == "the weight of lucky is known to 100 % only: (1 ± 1) %."
    few = chain_weights(is_inside[:, :3])
    assert np.all(np.isnan(few.standard_error))
    assert weight_problems(few, ["empty", "tiny", "lucky", "all"]) == []


def test_temperatures_that_do_not_exchange_are_named():
    problems = exchange_problems(np.array([0.4, 0.05, np.nan]), num_round_trips=3, num_chains=4)
    assert len(problems) == 3
    assert problems[0] == "temperatures 1 and 2 exchange with a probability of 0.050, below 0.1."
    assert problems[1] == "temperatures 2 and 3 never tried to exchange."
    assert "3 round trips" in problems[2]
    assert "4 chains" in problems[2]
    assert exchange_problems(np.array([0.4, 0.1]), num_round_trips=4, num_chains=4) == []
    assert exchange_problems(np.array([0.4]), num_round_trips=None, num_chains=4) == []
    # One temperature has nobody to exchange with.
    assert exchange_problems(np.array([]), num_round_trips=0, num_chains=4) == []
