import sys

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import ot
import pytest
import scipy.optimize
import scipy.stats

from cmtjax.evaluation.blocks import chain_blocks, independent_blocks
from cmtjax.evaluation.transport import (
    clash_bound_kj_mol,
    energy_wasserstein2,
    systematic_resample,
    torus_wasserstein2,
)

NO_BOUND = {"clash_bound_kj_mol": np.inf}


def brute_force(a, b):
    """Root mean squared wrapped distance of the best assignment, differences by complex numbers."""
    difference = np.angle(np.exp(1j * (a[:, None] - b)))
    costs = np.sum(difference**2, axis=-1)
    rows, columns = scipy.optimize.linear_sum_assignment(costs)
    return np.sqrt(costs[rows, columns].mean())


@pytest.mark.parametrize("num_angles", [2, 6])
def test_torus_distance_is_that_of_the_best_assignment(num_angles):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(-4, 4, (60, num_angles)), rng.vonmises(2.0, 1.0, (60, num_angles)) + 2 * np.pi
    result = torus_wasserstein2(a, b)
    assert result.distance == pytest.approx(brute_force(a, b), rel=1e-9)  # float64 sums and POT's marginals
    assert result.num_samples == 60


def test_torus_distance_of_a_translated_cloud():
    rng = np.random.default_rng(1)
    cloud = rng.uniform(-np.pi, np.pi, (500, 2))
    shift = np.array([0.05, -0.02])
    # A translation by less than half of a turn, small against the spacing of points: each point keeps its partner,
    # which is optimal for the squared distance (cyclical monotonicity holds on the torus for small shifts).
    shifted = (cloud + shift + np.pi) % (2 * np.pi) - np.pi
    assert torus_wasserstein2(cloud, shifted).distance == pytest.approx(np.hypot(0.05, 0.02), rel=1e-6)
    # Two points whose way leads through ±π.
    result = torus_wasserstein2(np.array([[3.1, 0.0]]), np.array([[-3.1, 0.0]]))
    assert result.distance == pytest.approx(2 * np.pi - 6.2, rel=1e-12)


def test_torus_distance_of_a_weighted_side_is_that_of_its_target():
    rng = np.random.default_rng(2)
    proposal, target = rng.vonmises(0.0, 1.0, (40_000, 2)), rng.vonmises(0.5, 2.0, (600, 2))
    log_weights = np.sum(
        scipy.stats.vonmises.logpdf(proposal, 2.0, loc=0.5) - scipy.stats.vonmises.logpdf(proposal, 1.0), axis=1
    )
    proposal[3], log_weights[4] = np.nan, np.nan
    settings = {"num_samples": 600, "seed": 1}
    weighted = torus_wasserstein2(target, proposal, log_weights_b=log_weights + 500, **settings)
    same = torus_wasserstein2(target, rng.vonmises(0.5, 2.0, (600, 2)), **settings)
    plain = torus_wasserstein2(target, proposal, **settings)
    # The noise floor of 600 points varies by some 10 % between draws.
    assert weighted.distance == pytest.approx(same.distance, rel=0.35)
    assert plain.distance > 2 * same.distance
    assert weighted.num_samples == 600


def test_standard_error_of_the_torus_distance_against_repeated_simulation():
    rng = np.random.default_rng(3)
    results = [
        torus_wasserstein2(rng.vonmises(0.0, 3.0, (150, 2)), rng.vonmises(1.0, 2.0, (150, 2))) for _ in range(80)
    ]
    distances, errors, _ = np.array(results).T
    # 80 distances give their spread to 8 %: three of them, and 5 % for terms beyond the first order.
    assert np.mean(errors) == pytest.approx(np.std(distances), rel=0.29)


def test_torus_distance_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r'pip install "cmtjax\[evaluation\]"'):
        torus_wasserstein2(np.zeros((3, 2)), np.zeros((3, 2)))


@hypothesis.given(
    log_weights=hnp.arrays(float, st.integers(1, 30), elements=st.floats(-20, 20) | st.sampled_from([-np.inf, np.nan])),
    num_samples=st.integers(1, 100),
    seed=st.integers(0, 9),
)
def test_systematic_resampling_rounds_the_expected_number(log_weights, num_samples, seed):
    weights = np.nan_to_num(np.exp(log_weights))
    hypothesis.assume(weights.sum() > 0)
    index = systematic_resample(log_weights, num_samples, np.random.default_rng(seed))
    counts = np.bincount(index, minlength=weights.size)
    expected = num_samples * weights / weights.sum()
    assert counts.sum() == num_samples
    # Within one of the expected number (float64 rounding of sums may move a boundary by 1e-12).
    assert np.all(np.abs(counts - expected) < 1 + 1e-9)
    assert np.all(counts[weights == 0] == 0)


@hypothesis.given(
    a=hnp.arrays(float, st.integers(2, 12), elements=st.floats(-100, 100)),
    b=hnp.arrays(float, st.integers(2, 12), elements=st.floats(-100, 100)),
    seed=st.integers(0, 99),
)
def test_energy_distance_is_that_of_pot(a, b, seed):
    rng = np.random.default_rng(seed)
    weights_a, weights_b = rng.uniform(0.1, 1, a.size), rng.uniform(0.1, 1, b.size)
    result = energy_wasserstein2(
        a,
        b,
        independent_blocks(a.size),
        independent_blocks(b.size),
        log_weights_a=np.log(weights_a) + 700,
        log_weights_b=np.log(weights_b),
        **NO_BOUND,
    )
    oracle = ot.wasserstein_1d(a, b, weights_a / weights_a.sum(), weights_b / weights_b.sum(), p=2)
    # Levels of the quantiles that agree up to rounding may swap: 1e-15 of a squared distance of up to 4e4.
    assert result.distance**2 == pytest.approx(float(oracle), rel=1e-9, abs=1e-9)


def test_energy_distance_of_normal_distributions():
    # W2² = (μ1 − μ2)² + (σ1 − σ2)².
    rng = np.random.default_rng(4)
    a, b = rng.normal(-60, 10, (500, 40)), rng.normal(-58, 12, 20_000)
    result = energy_wasserstein2(a, b, chain_blocks(500, 40), independent_blocks(20_000), **NO_BOUND)
    assert result.standard_error < 0.15
    assert result.distance == pytest.approx(np.sqrt(2**2 + 2**2), abs=3 * result.standard_error)
    # The second, weighted to the first, agrees up to noise: √(2/20000) · 10 and a little more.
    log_weights = scipy.stats.norm.logpdf(b, -60, 10) - scipy.stats.norm.logpdf(b, -58, 12)
    blocks = chain_blocks(500, 40), independent_blocks(20_000)
    assert energy_wasserstein2(a, b, *blocks, log_weights_b=log_weights, **NO_BOUND).distance < 0.5


def test_standard_error_of_the_energy_distance_against_repeated_simulation():
    rng = np.random.default_rng(5)
    results = []
    for _ in range(200):
        truth = np.repeat(rng.normal(0, 1, (100, 20)), 3, axis=0)  # correlated: every draw three times
        model = rng.normal(0.5, 1.3, 1000)
        log_weights = 0.3 * model
        results.append(
            energy_wasserstein2(
                truth, model, chain_blocks(300, 20), independent_blocks(1000), log_weights_b=log_weights, **NO_BOUND
            )
        )
    distances, errors, _ = np.array(results).T
    # 200 distances give their spread to 5 %, three of them; errors from 20 blocks, 200 of them averaged, to 1 %,
    # but the mean of a root of a χ² with 19 degrees is 1 % low. Weights with heavy tails add some percent.
    assert np.mean(errors) == pytest.approx(np.std(distances), rel=0.2)


def test_clashes_are_clamped():
    truth = np.random.default_rng(6).normal(-60, 10, 10_000)
    bound = clash_bound_kj_mol(truth)
    # Three times the 99.9 % quantile of a normal distribution, which 10,000 samples give to a few percent.
    assert bound == pytest.approx(-60 + 3 * 10 * scipy.stats.norm.ppf(0.999), abs=8)
    model = np.concatenate([truth[:9900], np.full(50, 1e20), np.full(49, np.inf), [np.nan]])
    blocks = independent_blocks(10_000)
    distance = energy_wasserstein2(truth, model, blocks, blocks, clash_bound_kj_mol=bound).distance
    clamped = np.minimum(model[:-1], bound)
    oracle = np.sqrt(ot.wasserstein_1d(truth, clamped, p=2))
    assert distance == pytest.approx(float(oracle), rel=1e-9)  # float64 sums
    assert 5 < distance < 20  # 1 % of the weight travels some 100 kJ/mol


def test_errors_name_the_argument():
    blocks = independent_blocks(3)
    with pytest.raises(ValueError, match=r"angles_a_rad must have shape \(samples, angles\)"):
        torus_wasserstein2(np.zeros(3), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="the same angles"):
        torus_wasserstein2(np.zeros((3, 4)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="angles_b_rad has no sample"):
        torus_wasserstein2(np.zeros((3, 2)), np.full((3, 2), np.nan))
    with pytest.raises(ValueError, match="log-weights of angles_b_rad"):
        torus_wasserstein2(np.zeros((3, 2)), np.zeros((3, 2)), log_weights_b=np.zeros(2))
    with pytest.raises(ValueError, match="num_samples"):
        torus_wasserstein2(np.zeros((3, 2)), np.zeros((3, 2)), num_samples=1)
    with pytest.raises(ValueError, match="energies_b_kj_mol and its blocks"):
        energy_wasserstein2(np.zeros(3), np.zeros(4), blocks, blocks, **NO_BOUND)
    with pytest.raises(ValueError, match="None of the 3 samples"):
        energy_wasserstein2(np.zeros(3), np.full(3, np.nan), blocks, blocks, **NO_BOUND)
