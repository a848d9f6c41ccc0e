import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from cmtjax.evaluation import (
    free_energy_kj_mol,
    phi_positive_metrics,
    ramachandran_histogram,
    region_weight,
)

FULL_CIRCLE = (-np.pi, np.pi)


def von_mises_sample(num_samples, seed, psi_center=-1.0):
    """φ and ψ independent von Mises, concentrations 2 and 3."""
    rng = np.random.default_rng(seed)
    phi = rng.vonmises(0.5, 2.0, num_samples)
    psi = rng.vonmises(psi_center, 3.0, num_samples)
    return phi, psi


def von_mises_log_ratio(phi, psi):
    """log p/q from the sample's density to that of centers (1.0, −1.4) and concentrations (1.5, 2.5), plus 7."""
    p = scipy.stats.vonmises.logpdf(phi, 1.5, loc=1.0) + scipy.stats.vonmises.logpdf(psi, 2.5, loc=-1.4)
    q = scipy.stats.vonmises.logpdf(phi, 2.0, loc=0.5) + scipy.stats.vonmises.logpdf(psi, 3.0, loc=-1.0)
    return p - q + 7.0  # a constant that self-normalization must remove


def von_mises_probability(concentration, center, lower, upper):
    """By quadrature over an arc, independent of SciPy's CDF and its branch cuts."""
    return scipy.integrate.quad(lambda x: scipy.stats.vonmises.pdf(x, concentration, loc=center), lower, upper)[0]


@pytest.mark.parametrize("weighted", [False, True])
def test_histogram_equals_numpy_histogram2d(weighted):
    phi, psi = von_mises_sample(5000, seed=0)
    log_weights = von_mises_log_ratio(phi, psi) if weighted else None
    masses, edges = ramachandran_histogram(phi, psi, log_weights, num_bins=37)
    counts, phi_edges, _ = np.histogram2d(
        phi, psi, bins=37, range=[FULL_CIRCLE, FULL_CIRCLE], weights=np.exp(log_weights) if weighted else None
    )
    np.testing.assert_array_equal(edges, phi_edges)
    # Sums of 5000 float64 weights in another order.
    np.testing.assert_allclose(masses, counts / counts.sum(), rtol=1e-11, atol=1e-16)


def test_reweighted_histogram_is_that_of_the_target():
    phi, psi = von_mises_sample(400_000, seed=1)
    log_weights = von_mises_log_ratio(phi, psi)
    masses, edges = ramachandran_histogram(phi, psi, log_weights, num_bins=8)
    phi_exact = [von_mises_probability(1.5, 1.0, *edges[i : i + 2]) for i in range(8)]
    psi_exact = [von_mises_probability(2.5, -1.4, *edges[i : i + 2]) for i in range(8)]
    exact = np.outer(phi_exact, psi_exact)
    # Statistical: the variance of a bin is at most p·max(w)/N, with weights w of mean one; five standard errors.
    largest_weight = np.exp(log_weights.max()) / np.exp(log_weights).mean()
    np.testing.assert_allclose(masses, exact, atol=5 * np.sqrt(exact.max() * largest_weight / 400_000))
    plain, _ = ramachandran_histogram(phi, psi, num_bins=8)
    assert np.abs(plain - exact).max() > 2e-2  # reweighting does the work


@hypothesis.given(
    turns=st.integers(-3, 3),
    angles=st.lists(st.tuples(st.floats(-3.1, 3.1), st.floats(-3.1, 3.1)), min_size=1, max_size=20),
)
def test_histogram_wraps_whole_turns(turns, angles):
    # 5 bins: no edge within rounding of a drawn angle plus a turn, unless it is drawn on the edge.
    phi, psi = np.array(angles).T
    edges = np.linspace(-np.pi, np.pi, 6)
    hypothesis.assume(np.abs(np.subtract.outer(np.array(angles), edges)).min() > 1e-9)
    base = ramachandran_histogram(phi, psi, num_bins=5).masses
    np.testing.assert_array_equal(ramachandran_histogram(phi + 2 * np.pi * turns, psi, num_bins=5).masses, base)
    np.testing.assert_array_equal(ramachandran_histogram(phi, psi - 2 * np.pi * turns, num_bins=5).masses, base)


def test_histogram_on_zero_to_two_pi_is_the_same_up_to_a_roll():
    phi, psi = von_mises_sample(2000, seed=2)
    counts, *_ = np.histogram2d(phi % (2 * np.pi), psi % (2 * np.pi), bins=100, range=[(0, 2 * np.pi), (0, 2 * np.pi)])
    masses = ramachandran_histogram(phi, psi).masses
    np.testing.assert_allclose(np.roll(masses, (50, 50), (0, 1)), counts / 2000, atol=1e-12)


def test_edge_angles_fall_into_the_first_bin():
    almost_pi = np.nextafter(np.pi, 0)
    for angle, expected in ((np.pi, 0), (-np.pi, 0), (-np.pi - 1e-16, 0), (3.0, 9)):
        masses = ramachandran_histogram(np.array([angle]), np.array([0.3]), num_bins=10).masses
        assert np.argmax(masses.sum(axis=1)) == expected, angle
    masses = ramachandran_histogram(np.array([almost_pi]), np.array([0.3]), num_bins=10).masses
    assert np.argmax(masses.sum(axis=1)) in (0, 9)  # rounding decides, but it is neither lost nor out of range
    # float32 π is above the float64 one and must be wrapped, not dropped
    assert ramachandran_histogram(np.float32([np.pi]), np.float32([0.0]), num_bins=10).masses.sum() == 1.0


def test_failed_samples_are_left_out():
    phi, psi = von_mises_sample(1000, seed=3)
    log_weights = von_mises_log_ratio(phi, psi)
    phi_bad, log_weights_bad = phi.copy(), log_weights.copy()
    phi_bad[:10], log_weights_bad[10:30] = np.nan, np.nan
    np.testing.assert_allclose(
        ramachandran_histogram(phi_bad, psi, log_weights_bad).masses,
        ramachandran_histogram(phi[30:], psi[30:], log_weights[30:]).masses,
        rtol=1e-12,
    )


def test_huge_log_weights_do_not_overflow():
    masses = ramachandran_histogram(np.zeros(3), np.zeros(3), np.array([1e5, 1e5, -np.inf]), num_bins=2).masses
    assert masses[1, 1] == 1.0


def test_free_energy_of_known_masses():
    masses = np.array([[0.5, 0.25], [0.25, 0.0]])
    # kT at 300 K: 2.494339 kJ/mol (CODATA), so ln 2 · kT for the half as likely bins.
    expected = [[0.0, 2.494339 * np.log(2)], [2.494339 * np.log(2), np.nan]]
    np.testing.assert_allclose(free_energy_kj_mol(masses, 300.0), expected, rtol=1e-6)  # kT given to 7 digits


def test_free_energy_of_a_histogram_takes_its_masses():
    histogram = ramachandran_histogram(*von_mises_sample(1000, seed=4), num_bins=10)
    np.testing.assert_array_equal(free_energy_kj_mol(histogram, 310.0), free_energy_kj_mol(histogram.masses, 310.0))
    assert np.nanmin(free_energy_kj_mol(histogram, 310.0)) == 0.0


@pytest.mark.parametrize(
    ("phi_range", "psi_range", "phi_arc", "psi_arc"),
    [
        ((0.0, 2.5), FULL_CIRCLE, (0.0, 2.5), FULL_CIRCLE),
        ((0.0, 2.5), (-np.pi, 0.0), (0.0, 2.5), (-np.pi, 0.0)),
        ((2.0, -2.0), (-2.0, 1.0), (2.0, 2 * np.pi - 2.0), (-2.0, 1.0)),  # φ through ±π
        ((-1.0, 1.0), (1.5, -1.5), (-1.0, 1.0), (1.5, 2 * np.pi - 1.5)),  # ψ through ±π
    ],
)
def test_region_weight_agrees_with_quadrature(phi_range, psi_range, phi_arc, psi_arc):
    phi, psi = von_mises_sample(200_000, seed=5)
    result = region_weight(phi, psi, von_mises_log_ratio(phi, psi), phi_range, psi_range)
    exact = von_mises_probability(1.5, 1.0, *phi_arc) * von_mises_probability(2.5, -1.4, *psi_arc)
    # Statistical: four standard errors, themselves checked below.
    assert abs(result.weight - exact) < 4 * result.standard_error
    assert result.standard_error < 2e-3  # so that the line above can fail


def test_standard_error_and_effective_samples():
    phi_range, psi_range = (0.8, 2.5), (-1.6, -0.5)
    phi, psi = von_mises_sample(4000, seed=6)
    log_weights = von_mises_log_ratio(phi, psi)
    result = region_weight(phi, psi, log_weights, phi_range, psi_range)
    rng = np.random.default_rng(7)
    estimates = []
    for _ in range(1000):
        index = rng.integers(0, 4000, 4000)
        estimates.append(region_weight(phi[index], psi[index], log_weights[index], phi_range, psi_range).weight)
    # 1000 bootstrap replicas give their spread to 2.2 %; the delta method neglects terms of order 1/4000: 4 × 2.2 %.
    np.testing.assert_allclose(result.standard_error, np.std(estimates), rtol=0.09)
    is_inside = (phi >= 0.8) & (phi < 2.5) & (psi >= -1.6) & (psi < -0.5)
    weights = np.exp(log_weights[is_inside])
    np.testing.assert_allclose(result.effective_samples, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-12)
    assert result.effective_samples < is_inside.sum()


def test_unweighted_region_is_a_binomial_share():
    phi, psi = von_mises_sample(3000, seed=8)
    result = region_weight(phi, psi, None, (0.0, 1.0), FULL_CIRCLE)
    count = int(np.sum((phi >= 0) & (phi < 1)))
    share = count / 3000
    # Float64 sums of 3000 terms.
    np.testing.assert_allclose(result, (share, np.sqrt(share * (1 - share) / 3000), count), rtol=1e-10)


@hypothesis.given(
    cut=st.floats(-3.0, 3.0), width=st.floats(0.1, 6.0), seed=st.integers(0, 1000), turns=st.integers(-2, 2)
)
def test_a_region_and_its_complement_share_the_circle(cut, width, seed, turns):
    phi, psi = von_mises_sample(50, seed)
    phi = phi + 2 * np.pi * turns
    upper = cut + width if cut + width <= np.pi else cut + width - 2 * np.pi
    inside = region_weight(phi, psi, None, (cut, upper), FULL_CIRCLE).weight
    outside = region_weight(phi, psi, None, (upper, cut), FULL_CIRCLE).weight
    assert inside + outside == pytest.approx(1.0, abs=1e-12)  # float64 sums of 50 weights


def test_empty_region():
    assert region_weight(np.zeros(5), np.zeros(5), None, (1.0, 2.0), FULL_CIRCLE) == (0.0, 0.0, 0.0)


def test_phi_positive_metrics():
    phi, psi = np.deg2rad([[45, 55, 55, -80, 160], [70, -110, -110, 150, 10]])
    log_weights = np.log([1.0, 2.0, 2.0, 15.0, 0.0 + 1e-300])
    metrics = phi_positive_metrics(phi, psi, log_weights)
    # Exact shares of 5 samples and of a total weight of 20; 160° lies beyond 2.5 rad.
    expected = {"phi_positive": (0.6, 0.25), "phi_positive_psi_positive": (0.2, 0.05)}
    expected["phi_positive_psi_negative"] = (0.4, 0.2)
    for region, (plain, reweighted) in expected.items():
        assert metrics[f"{region}_weight"] == pytest.approx(plain, rel=1e-12)
        assert metrics[f"{region}_weight_reweighted_raw"] == pytest.approx(reweighted, rel=1e-12)
    assert metrics["phi_positive_effective_samples_reweighted_raw"] == pytest.approx(25 / 9, rel=1e-12)
    assert metrics["phi_positive_effective_samples"] == pytest.approx(3.0, rel=1e-12)
    # The two largest of the five weights become 2: a total of 7, of which 5 and 4 are in the regions.
    clipped = phi_positive_metrics(phi, psi, log_weights, clip_fraction=0.4)
    assert clipped["phi_positive_weight_reweighted"] == pytest.approx(5 / 7, rel=1e-12)
    assert clipped["phi_positive_psi_negative_weight_reweighted"] == pytest.approx(4 / 7, rel=1e-12)
    assert len(metrics) == 27
    assert len(phi_positive_metrics(phi, psi)) == 9


def test_errors_name_the_argument():
    angles = np.zeros(4)
    with pytest.raises(ValueError, match="num_bins"):
        ramachandran_histogram(angles, angles, num_bins=0)
    with pytest.raises(ValueError, match="one length"):
        ramachandran_histogram(angles, angles[:3])
    with pytest.raises(ValueError, match="log_weights must have shape"):
        ramachandran_histogram(angles, angles, np.zeros(3))
    with pytest.raises(ValueError, match=r"\+inf"):
        ramachandran_histogram(angles, angles, np.array([0, 0, 0, np.inf]))
    with pytest.raises(ValueError, match="None of the 4 samples"):
        region_weight(angles, angles, np.full(4, np.nan), (0, 1), (0, 1))
    with pytest.raises(ValueError, match="psi_range_rad"):
        region_weight(angles, angles, None, (0, 1), (1, 1))
    with pytest.raises(ValueError, match="phi_range_rad"):
        region_weight(angles, angles, None, (0, 7), (0, 1))
    with pytest.raises(ValueError, match="temperature_kelvin"):
        free_energy_kj_mol(np.ones((2, 2)), 0.0)
    with pytest.raises(ValueError, match="at least one bin"):
        free_energy_kj_mol(np.zeros((2, 2)), 300.0)
