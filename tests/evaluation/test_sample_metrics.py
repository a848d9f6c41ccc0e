import json

import numpy as np
import pytest

from cmtjax.evaluation import sample_metrics

LOG_SQRT_TWO_PI = 0.5 * np.log(2 * np.pi)


def gaussian_problem(num_samples, target_width, seed=0):
    """q standard normal, p̃ = exp(5 − x²/2s²): log Z = 5 + log s√2π."""
    x = np.random.default_rng(seed).normal(size=num_samples)
    return -0.5 * x**2 - LOG_SQRT_TWO_PI, 5.0 - 0.5 * (x / target_width) ** 2


@pytest.mark.parametrize("target_width", [0.5, 0.9, 1.2])
def test_gaussians_in_closed_form(target_width):
    num_samples = 400_000
    log_q, log_p = gaussian_problem(num_samples, target_width)
    metrics = sample_metrics(log_q, log_p)
    # E_q[(p/q)²] of normals of variances s² and 1 is 1/(s²·√(2/s² − 1)) for s² < 2.
    variance = target_width**2
    exact_ess = variance * np.sqrt(2 / variance - 1)
    exact_log_z = 5.0 + np.log(target_width) + LOG_SQRT_TWO_PI
    exact_elbo = 5.0 - 0.5 / variance + 0.5 + LOG_SQRT_TWO_PI
    # Statistical, five standard errors or more: the fourth moment of the weights is finite for s² < 4/3 only and
    # large at s = 1.2 (1.44 > 4/3: the error of the raw ESS has heavy tails), so one per cent there.
    assert metrics["ess_raw"] == pytest.approx(exact_ess, rel=1e-2)
    assert metrics["ess"] == pytest.approx(exact_ess, rel=1e-2)
    assert metrics["ess"] >= metrics["ess_raw"]
    assert abs(metrics["log_z"] - exact_log_z) < 4 * metrics["log_z_standard_error"]
    # Standard error of log Z: √((1/ESS − 1)/N); the error of the estimated variance is 1 % of it or less.
    expected_error = np.sqrt((1 / exact_ess - 1) / num_samples)
    assert metrics["log_z_standard_error"] == pytest.approx(expected_error, rel=0.05)
    # Variance of log w is (1/s² − 1)²/2, of log q 1/2: five standard errors.
    assert abs(metrics["elbo_raw"] - exact_elbo) < 5 * np.sqrt((1 / variance - 1) ** 2 / 2 / num_samples)
    assert metrics["elbo"] >= metrics["elbo_raw"]
    assert abs(metrics["entropy"] - (0.5 + LOG_SQRT_TWO_PI)) < 5 * np.sqrt(0.5 / num_samples)
    assert (metrics["num_samples"], metrics["num_failed"]) == (num_samples, 0)


def test_perfect_sampler():
    log_q = np.random.default_rng(1).normal(size=1000)
    metrics = sample_metrics(log_q, log_q - 175.0)
    # Exact but for rounding of log p − log q at 175: 3e-14.
    assert metrics["ess"] == pytest.approx(1.0, abs=1e-12)
    assert metrics["log_z"] == pytest.approx(-175.0, abs=1e-11)
    assert metrics["elbo"] == pytest.approx(-175.0, abs=1e-11)
    assert metrics["log_z_standard_error"] < 1e-12


def test_clipping_sets_the_extremes_to_the_least_extreme_of_them():
    log_weights = np.zeros(20_000)  # of which 1e-4 is two
    log_weights[:2] = [6.0, 3.0]
    log_weights[2:4] = [-1e8, -4.0]
    metrics = sample_metrics(np.zeros(20_000), log_weights)
    clipped = np.ones(20_000)
    clipped[:2], clipped[2:4] = np.exp(3.0), [0.0, np.exp(-4.0)]
    # Float64 sums.
    assert metrics["ess"] == pytest.approx(clipped.sum() ** 2 / (clipped**2).sum() / 20_000, rel=1e-10)
    assert metrics["elbo"] == pytest.approx((9.0 - 8.0) / 20_000, rel=1e-10)
    assert metrics["elbo_raw"] == pytest.approx((9.0 - 4.0 - 1e8) / 20_000, rel=1e-10)
    unclipped = clipped.copy()
    unclipped[0] = np.exp(6.0)
    assert metrics["log_z"] == pytest.approx(np.log(unclipped.mean()), rel=1e-10)
    assert metrics["ess_raw"] == pytest.approx(unclipped.sum() ** 2 / (unclipped**2).sum() / 20_000, rel=1e-10)
    assert sample_metrics(np.zeros(20_000), log_weights, clip_fraction=0.0)["ess"] == metrics["ess_raw"]


def test_failed_samples_count_in_log_z_only():
    log_q, log_p = gaussian_problem(10_000, 0.8, seed=2)
    whole = sample_metrics(log_q[500:], log_p[500:])
    log_p[:500] = np.nan
    metrics = sample_metrics(log_q, log_p)
    assert metrics["num_failed"] == 500
    for name in ("ess_raw", "elbo_raw", "entropy"):
        for entry in (name, f"{name}_standard_error"):
            assert metrics[entry] == pytest.approx(whole[entry], rel=1e-10), entry  # float64 sums in another order
    assert metrics["log_z"] == pytest.approx(whole["log_z"] + np.log(0.95), rel=1e-10)


def test_clashes_do_not_cost_digits():
    """A tenth of the samples clash at −1e8: in float32 the sum of the others would be lost in them."""
    log_q, log_p = gaussian_problem(10_000, 0.8, seed=3)
    log_p[:1000] = -1e8
    metrics = sample_metrics(log_q, log_p)
    kept = log_p[1000:] - log_q[1000:]
    expected = (kept.sum() - 1000 * 1e8 - log_q[:1000].sum()) / 10_000
    # 1e7 in float64 is resolved to 2e-9, a sum of 1e4 terms to some 1e-7.
    assert metrics["elbo_raw"] == pytest.approx(expected, abs=1e-5)
    assert metrics["log_z"] == pytest.approx(np.log(np.exp(kept).sum() / 10_000), abs=1e-10)


def test_float32_input_and_json():
    log_q, log_p = gaussian_problem(5000, 0.8, seed=4)
    metrics = sample_metrics(np.float32(log_q), np.float32(log_p))
    assert json.loads(json.dumps(metrics)) == metrics  # plain numbers, no NumPy scalars
    # Rounding the inputs to float32 changes each log-weight by some 1e-7.
    assert metrics["log_z"] == pytest.approx(sample_metrics(log_q, log_p)["log_z"], abs=1e-6)


@pytest.mark.parametrize(
    ("width", "names"),
    # Sums of w⁴ need weights that are narrow, those of clipped weights do not.
    [(0.5, ("ess", "ess_raw", "elbo", "elbo_raw", "entropy", "log_z")), (1.5, ("ess", "elbo", "elbo_raw"))],
)
def test_standard_errors_are_the_scatter_over_repetitions(width, names):
    """Log-normal weights, one in a hundred clipped: half of the error and more is noise of the threshold."""
    rng = np.random.default_rng(6)
    repetitions = []
    for _ in range(400):
        log_q = rng.normal(size=5000)
        log_weights = width * rng.normal(size=5000)
        repetitions.append(sample_metrics(log_q, log_q + log_weights, clip_fraction=0.01))
    for name in names:
        scatter = np.std([metrics[name] for metrics in repetitions], ddof=1)
        errors = [metrics[f"{name}_standard_error"] for metrics in repetitions]
        # A scatter over 400 is known to 1/√800 = 3.5 %: three times as much, and some percent of higher order.
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(scatter, rel=0.13), name


def test_standard_errors_in_closed_form():
    num_samples = 100_000
    rng = np.random.default_rng(7)
    log_q, log_weights = rng.normal(size=num_samples), 0.3 * rng.normal(size=num_samples)
    metrics = sample_metrics(log_q, log_q + log_weights, clip_fraction=0.0)
    # Moments E[wᵏ] = exp(k²σ²/2) in the delta method for m₁²/m₂, from Var w, Cov(w, w²) and Var w².
    m1, m2, m3, m4 = (np.exp(0.5 * (order * 0.3) ** 2) for order in (1, 2, 3, 4))
    gradient = np.array([2 * m1 / m2, -((m1 / m2) ** 2)])
    covariance = np.array([[m2 - m1**2, m3 - m1 * m2], [m3 - m1 * m2, m4 - m2**2]])
    # Errors of estimated variances: √(kurtosis/N) of some percent, of normal variables 0.2 %.
    expected = np.sqrt(gradient @ covariance @ gradient / num_samples)
    assert metrics["ess_raw_standard_error"] == pytest.approx(expected, rel=0.05)
    assert metrics["elbo_raw_standard_error"] == pytest.approx(0.3 / np.sqrt(num_samples), rel=0.01)
    assert metrics["entropy_standard_error"] == pytest.approx(1 / np.sqrt(num_samples), rel=0.01)


def test_standard_errors_where_samples_do_not_tell():
    names = ("ess", "ess_raw", "elbo", "elbo_raw", "entropy")
    one = sample_metrics(np.zeros(1), np.ones(1))
    assert [one[f"{name}_standard_error"] for name in names] == [np.inf] * 5
    log_weights = np.zeros(1000)
    equal = sample_metrics(np.zeros(1000), log_weights, clip_fraction=0.01)
    assert [equal[f"{name}_standard_error"] for name in names] == [0.0] * 5
    # Five have no weight: raised by clipping the ten lowest, but not without.
    log_weights[:5] = -np.inf
    some = sample_metrics(np.zeros(1000), log_weights, clip_fraction=0.01)
    assert np.isfinite([some[f"{name}_standard_error"] for name in ("ess", "ess_raw", "elbo")]).all()
    assert some["elbo_raw_standard_error"] == np.inf
    # Nothing has a weight, or all but three samples failed.
    nothing = sample_metrics(np.zeros(1000), np.full(1000, -np.inf), clip_fraction=0.01)
    assert [nothing[f"{name}_standard_error"] for name in names[:4]] == [np.inf] * 4
    log_weights[3:] = np.nan
    failed = sample_metrics(np.zeros(1000), log_weights, clip_fraction=0.01)
    assert failed["ess_standard_error"] == np.inf
    # One weight is all: all that can be said of an effective sample of one is that it may have been another number.
    log_weights = np.where(np.arange(1000) == 3, 0.0, -1e4)
    one = sample_metrics(np.zeros(1000), log_weights, clip_fraction=0.0)
    assert one["ess_raw_standard_error"] == pytest.approx(one["ess_raw"], rel=1e-2)


def test_errors():
    with pytest.raises(ValueError, match="one length"):
        sample_metrics(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="All 3 samples failed"):
        sample_metrics(np.zeros(3), np.full(3, np.nan))
    with pytest.raises(ValueError, match="fraction"):
        sample_metrics(np.zeros(3), np.zeros(3), clip_fraction=1.5)
