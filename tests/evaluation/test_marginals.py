import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import ot
import pytest
import scipy.stats

from cmtjax.coordinates.domain import Domain
from cmtjax.evaluation.blocks import independent_blocks
from cmtjax.evaluation.histograms import marginal_block_histogram
from cmtjax.evaluation.marginals import (
    coordinate_names,
    marginal_total_variation,
    marginal_wasserstein1,
    summarize_marginals,
)
from cmtjax.evaluation.peptide_bonds import cis_report, cis_weights
from cmtjax.molecules.z_matrix import ZMatrix

MASSES = hnp.arrays(float, (2, 12), elements=st.floats(0, 1)).filter(lambda x: np.all(x.sum(axis=1) > 0.1))
CENTERS = (np.arange(12) + 0.5) / 12


@pytest.fixture(scope="module")
def z_matrix():
    """N-methylacetamide of five heavy atoms and a hydrogen: a chain with one peptide bond."""
    return ZMatrix(
        atom_names=("ACE0:CH3", "ACE0:C", "NME1:N", "NME1:C", "ACE0:O", "NME1:H"),
        initial_atoms=[0, 1, 2],
        rows=[[3, 2, 1, 0], [4, 1, 0, 2], [5, 2, 1, 3]],
        bond_reference_nm=[0.15, 0.13, 0.14, 0.12, 0.1],
        bond_is_constrained=[False, False, False, False, True],
        angle_reference_rad=[2.0, 2.1, 2.1, 2.0],
        torsion_start=[0.0, 0.0, 0.0],
        torsion_width=[1.0, 1.0, 1.0],
        ramachandran_rows=np.zeros((0, 2)),
    )


@hypothesis.given(MASSES)
def test_distances_on_an_interval_are_those_of_scipy(masses):
    p, q = masses / masses.sum(axis=1, keepdims=True)
    oracle = scipy.stats.wasserstein_distance(CENTERS, CENTERS, p, q)
    (value,) = marginal_wasserstein1(p[None], q[None], np.array([False]))
    assert value == pytest.approx(oracle, abs=1e-12)  # float64 sums
    assert marginal_total_variation(p, q) == pytest.approx(np.maximum(p - q, 0).sum(), abs=1e-12)


@hypothesis.given(MASSES)
def test_distances_on_a_circle_are_those_of_pot(masses):
    p, q = masses / masses.sum(axis=1, keepdims=True)
    (value,) = marginal_wasserstein1(p[None], q[None], np.array([True]))
    difference = np.abs(np.subtract.outer(CENTERS, CENTERS))
    # Optimal transport as a linear program, over the shorter way around.
    oracle = ot.emd2(p, q, np.minimum(difference, 1 - difference))
    assert value == pytest.approx(float(oracle), abs=1e-9)  # POT's marginals
    assert value <= marginal_wasserstein1(p[None], q[None], np.array([False]))[0] + 1e-12


@pytest.mark.parametrize("weighted", [False, True])
def test_histograms_count_as_numpy_does(weighted):
    rng = np.random.default_rng(0)
    u = rng.uniform(-0.5, 1.5, (2000, 2))
    u[5, 0] = np.nan
    weights = rng.exponential(size=2000) if weighted else None
    masses = marginal_block_histogram(u, weights, independent_blocks(2000), np.array([True, False]), num_bins=10).masses
    is_used = np.isfinite(u[:, 0])
    wrapped = np.histogram(u[is_used, 0] % 1, 10, (0, 1), weights=None if weights is None else weights[is_used])[0]
    clipped = np.histogram(np.clip(u[:, 1], 0, 1), 10, (0, 1), weights=weights)[0]
    np.testing.assert_allclose(masses, [wrapped / wrapped.sum(), clipped / clipped.sum()], atol=1e-12)  # float64 sums


def test_summary_names_the_worst_coordinate():
    rng = np.random.default_rng(1)
    domain = Domain(
        is_circular=np.array([False, False, True]),
        is_periodic=np.array([False, False, True]),
        groups=np.array([0, 0, 2]),
    )
    blocks = independent_blocks(20_000)
    truth = rng.normal([0.5, 0.5, 0.1], [0.1, 0.1, 0.03], (20_000, 3))
    model = truth + np.array([0.0, 0.1, -0.25])
    histograms = [marginal_block_histogram(u, None, blocks, domain.is_periodic) for u in (truth, model)]
    widths = np.array([0.07, 0.07, 2 * np.pi])
    summary = summarize_marginals(*histograms, domain, widths, ["bond a", "bond b", "torsion c"], "_reweighted")
    assert summary["bond_tv_worst_reweighted"] == "bond b"
    # Between normals that are one standard deviation apart: 2Φ(½) − 1; noise of 100 bins and 20,000 samples adds 1 %.
    expected = 2 * scipy.stats.norm.cdf(0.5) - 1
    assert summary["bond_tv_max_reweighted"] == pytest.approx(expected, abs=0.015)
    assert summary["bond_tv_mean_reweighted"] == pytest.approx(expected / 2, abs=0.008)
    # A translation by u (of the torsion through 0 = 1): its length times the window, up to half the width of a bin.
    assert summary["bond_w1_max_nm_reweighted"] == pytest.approx(0.1 * 0.07, abs=0.005 * 0.07)
    assert summary["torsion_w1_mean_rad_reweighted"] == pytest.approx(0.25 * 2 * np.pi, abs=0.005 * 2 * np.pi)
    # Halves of 10,000 samples each: ½ Σ √(2/π) √(2p/n), for this normal 2.9 %.
    assert 0.02 < summary["bond_tv_max_noise_floor"] < 0.04
    assert not any(name.startswith("angle") for name in summary)
    with pytest.raises(ValueError, match="names"):
        summarize_marginals(*histograms, domain, widths, ["a"])
    with pytest.raises(ValueError, match="is_periodic"):
        marginal_block_histogram(truth, None, blocks, np.array([True]))
    with pytest.raises(ValueError, match="dimension 1 has no finite"):
        marginal_block_histogram(truth * [1, np.nan, 1], None, blocks, domain.is_periodic)


@pytest.mark.parametrize("shift", [0.0, 0.02])
@pytest.mark.parametrize("weighted", [False, True])
def test_standard_errors_are_the_scatter_over_repetitions(shift, weighted):
    """Two correlated bonds and a torsion about 0 = 1, in the truth and in a model that is shifted or the same."""
    domain = Domain(
        is_circular=np.array([False, False, True]),
        is_periodic=np.array([False, False, True]),
        groups=np.array([0, 0, 2]),
    )
    rng = np.random.default_rng(2)
    mixing = np.array([[0.1, 0.08, 0.0], [0.0, 0.06, 0.0], [0.0, 0.0, 0.2]])
    widths, names = np.array([0.07, 0.1, 2 * np.pi]), ["bond a", "bond b", "torsion c"]
    blocks = independent_blocks(4000, num_blocks=50)

    def histogram(weights, shift=0.0):
        u = rng.normal(size=(4000, 3)) @ mixing + np.array([0.5, 0.5, 0.1]) + shift
        return marginal_block_histogram(u, weights, blocks, domain.is_periodic)

    summaries = [
        summarize_marginals(
            histogram(None), histogram(rng.exponential(size=4000) if weighted else None, shift), domain, widths, names
        )
        for _ in range(200)
    ]
    for name in ("bond_tv_mean", "torsion_tv_max", "bond_w1_mean_nm", "torsion_w1_mean_rad"):
        scatter = np.std([summary[name] for summary in summaries], ddof=1)
        errors = [summary[f"{name}_standard_error"] for summary in summaries]
        # A scatter over 200 is known to 5 %; first order and the error function are off by up to 20 %.
        assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(scatter, rel=0.3), name


def test_names_of_coordinates(z_matrix):
    names = coordinate_names(z_matrix)
    assert names == [
        "bond ACE0:CH3 ACE0:C",
        "bond ACE0:C NME1:N",
        "bond NME1:C NME1:N",
        "bond ACE0:O ACE0:C",
        "angle ACE0:CH3 ACE0:C NME1:N",
        "angle NME1:C NME1:N ACE0:C",
        "angle ACE0:O ACE0:C ACE0:CH3",
        "angle NME1:H NME1:N ACE0:C",
        "torsion NME1:C NME1:N ACE0:C ACE0:CH3",
        "torsion ACE0:O ACE0:C ACE0:CH3 NME1:N",
        "torsion NME1:H NME1:N ACE0:C NME1:C",
    ]


def test_cis_weights():
    omegas = np.deg2rad([[180.0, 0], [-170, 30], [95, -85], [355, 185], [np.nan, 180]])
    plain, weighted = (cis_weights(omegas, weights, independent_blocks(5)) for weights in (None, np.arange(5.0)))
    assert [weight for weight, _ in plain] == [0.25, 0.6]
    assert [weight for weight, _ in weighted] == pytest.approx([3 / 6, 3 / 10], rel=1e-12)
    # A share of independent samples: its error is that of a proportion, with n − 1.
    assert plain[1][1] == pytest.approx(np.sqrt(0.6 * 0.4 / 4), rel=1e-12)


def cis_values(*bonds, num_samples=100_000):
    """A summary with (weight, standard error) of each bond in the truth, plain and reweighted."""
    summary = {"num_samples": num_samples}
    for bond, of_variants in enumerate(bonds):
        for suffix, (weight, error) in zip(("_truth", "", "_reweighted"), of_variants, strict=False):
            summary |= {f"cis_{bond}_weight{suffix}": weight, f"cis_{bond}_weight{suffix}_standard_error": error}
    return summary


def test_cis_is_reported_by_bond():
    summary = cis_values(
        [(0.0, 0.0), (0.0027, 0.0001), (0.00015, 0.00004)],
        [(0.0, 0.0), (0.0, 0.0), (0.0, 0.0)],
        [(0.02, 0.001), (0.0001, 0.00003), (0.0, 0.0)],
        [(0.02, 0.001), (0.019, 0.001), (0.02, 0.001)],
        [(0.0, 0.0), (0.0031, 0.0001), (0.0004, 0.0001)],
    )
    lines = cis_report(["A-B", "B-C", "C-D", "D-E", "E-F"], summary).splitlines()
    table, sentences = lines[:7], lines[7:]
    assert table[0] == "| peptide bond | cis: truth | cis: plain | cis: reweighted |"
    assert table[2] == "| A-B | 0 % | (0.270 ± 0.010) % | (0.0150 ± 0.0040) % |"
    assert table[3] == "| B-C | 0 % | 0 % | 0 % |"
    assert sentences == [
        "C-D: cis, weight (2.00 ± 0.10) %, is lost: plain samples have (0.0100 ± 0.0030) %.",
        "A-B, E-F: the plain samples have cis, the truth none. The simulation cannot cross: its chains never left "
        "trans, and it does not tell what the weight of cis is.",
    ]


@pytest.mark.parametrize(
    ("truth", "plain", "num_samples", "words"),
    [
        # None of 100,000 samples, where 2 % of them would be 2000; of 100 samples 2, and none has a chance of 14 %.
        ((0.02, 0.001), (0.0, 0.0), 100_000, "lost"),
        ((0.02, 0.001), (0.0, 0.0), 100, "undecided, for want of samples"),
        # A truth of one chain that crossed and came back knows its weight to a factor of two.
        ((0.02, 0.01), (0.0, 0.0), 100_000, "undecided, for want of samples"),
        ((0.02, 0.001), (0.006, 0.0005), 100_000, "underweighted"),
        ((0.02, 0.001), (0.06, 0.001), 100_000, "overweighted"),
    ],
)
def test_cis_of_the_truth_may_be_lost(truth, plain, num_samples, words):
    *table, sentence = cis_report(["A-B"], cis_values([truth, plain], num_samples=num_samples)).splitlines()
    assert table[0] == "| peptide bond | cis: truth | cis: plain |"
    assert len(table) == 3
    assert f"is {words}: plain samples have" in sentence
