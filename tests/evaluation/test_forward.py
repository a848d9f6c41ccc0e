import numpy as np
import pytest
import scipy.stats

from cmtjax.evaluation.forward import forward_metrics

LOG_Z = -3.0


def gaussian_samples(num_draws, num_chains, seed=0):
    """Samples of p = N(0, 1) with q = N(0.5, 1.5²): log q, and log p̃ = log p + LOG_Z."""
    x = np.random.default_rng(seed).normal(size=(num_draws, num_chains))
    return x, scipy.stats.norm.logpdf(x, 0.5, 1.5), scipy.stats.norm.logpdf(x) + LOG_Z


def test_gaussians_have_closed_forms():
    x, log_q, log_p = gaussian_samples(1000, 50)
    metrics = forward_metrics(log_q, log_p, np.abs(x) < 2, log_z=LOG_Z, log_z_standard_error=0.1)
    # KL of N(0, 1) from N(0.5, 1.5²): log 1.5 + (1 + 0.25)/(2 · 2.25) − ½; the entropy of p: ½ log 2πe.
    kl = np.log(1.5) + 1.25 / 4.5 - 0.5
    nll = kl + 0.5 * np.log(2 * np.pi * np.e)
    for name, expected in (("nll", nll), ("eubo", kl + LOG_Z)):
        error = metrics[f"{name}_standard_error"]
        assert metrics[name] == pytest.approx(expected, abs=4 * error)
        # Of 50,000 independent samples, each of a standard deviation of some 0.3; 50 blocks give it to 10 %.
        values = -log_q if name == "nll" else log_p - log_q
        assert error == pytest.approx(np.std(values) / np.sqrt(50_000), rel=0.3)
    assert metrics["forward_kl"] == pytest.approx(metrics["eubo"] - LOG_Z, rel=1e-12)
    assert metrics["forward_kl_standard_error"] == pytest.approx(
        np.hypot(metrics["eubo_standard_error"], 0.1), rel=1e-12
    )
    # log p̃ − log q = NLL-type means: eubo − nll = mean log p̃, whatever q.
    assert metrics["eubo"] - metrics["nll"] == pytest.approx(log_p.mean(), rel=1e-12)
    assert metrics["share_outside_domain"] == np.mean(np.abs(x) >= 2)
    inside = np.abs(x) < 2
    assert metrics["nll_in_domain"] == pytest.approx(-log_q[inside].mean(), rel=1e-12)
    assert metrics["num_truth_samples"] == 50_000


def test_one_chain_uses_blocks_in_time():
    x, log_q, log_p = gaussian_samples(2000, 1)
    # Every draw ten times in a row, as a slow chain has it: the error is that of 2000 samples, not of 20,000.
    repeated = [np.repeat(values, 10, axis=0) for values in (log_q, log_p, np.abs(x) < 9)]
    metrics = forward_metrics(*repeated)
    # 16 blocks give it to 18 %, three of them.
    assert metrics["nll_standard_error"] == pytest.approx(np.std(log_q) / np.sqrt(2000), rel=0.55)
    assert "forward_kl" not in metrics


def test_failed_samples_are_left_out_and_counted():
    x, log_q, log_p = gaussian_samples(100, 20)
    inside = np.abs(x) < 2
    log_p[:3, 0], log_q[50, 5:8] = np.nan, np.nan
    is_valid = ~np.isnan(log_p - log_q)
    metrics = forward_metrics(log_q, log_p, inside)
    assert metrics["nll"] == pytest.approx(-log_q[is_valid].mean(), rel=1e-12)
    assert metrics["eubo"] == pytest.approx((log_p - log_q)[is_valid].mean(), rel=1e-12)
    assert metrics["share_outside_domain"] == pytest.approx(1 - inside[is_valid].mean(), rel=1e-12)
    assert (metrics["num_truth_samples"], metrics["num_truth_failed"]) == (2000, 6)
    assert "nll_in_domain" not in forward_metrics(log_q, log_p, np.zeros_like(inside))


def test_errors_name_the_argument():
    log_q = np.zeros((4, 2))
    with pytest.raises(ValueError, match="log_q, log_p and in_domain must share a shape"):
        forward_metrics(log_q, log_q[:2], np.ones((4, 2), bool))
    with pytest.raises(ValueError, match=r"\(draws, chains\)"):
        forward_metrics(log_q[0], log_q[0], np.ones(2, bool))
    with pytest.raises(ValueError, match="All 8 samples failed"):
        forward_metrics(log_q, np.full((4, 2), np.nan), np.ones((4, 2), bool))
