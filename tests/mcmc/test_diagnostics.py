"""R̂ and effective sample sizes on chains whose autocorrelation is known."""

import numpy as np
import pytest

from cmtjax import mcmc


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
