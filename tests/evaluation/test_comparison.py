import numpy as np
import pytest
import scipy.stats
from matplotlib.image import imread

from cmtjax.coordinates.domain import Domain
from cmtjax.evaluation import figures
from cmtjax.evaluation.blocks import chain_blocks, independent_blocks
from cmtjax.evaluation.comparison import ModelSamples, TruthSamples, compare
from cmtjax.evaluation.figures.differences import free_energy_difference
from cmtjax.evaluation.histograms import marginal_block_histogram, ramachandran_block_histogram

DRAWS, CHAINS, NUM_SAMPLES = 500, 40, 30_000


def sample(rng, shape, rare):
    """Two pairs of torsions: each with two large modes and a rare one (φ > 0) of the given weight."""
    centers = np.deg2rad([[-120.0, 150.0], [-70.0, -40.0], [55.0, -110.0]])
    label = rng.choice(3, (*shape, 2), p=[0.7, 0.3 - rare, rare])
    return rng.vonmises(centers[label], 25.0).astype(np.float32)


def log_density(torsions, rare):
    centers = np.deg2rad([[-120.0, 150.0], [-70.0, -40.0], [55.0, -110.0]])
    parts = scipy.stats.vonmises.logpdf(torsions[..., None, :], 25.0, loc=centers).sum(axis=-1)
    return np.log(np.exp(parts) @ [0.7, 0.3 - rare, rare]).sum(axis=-1)


@pytest.fixture(scope="module")
def samples():
    """Truth with a rare basin of 1 %; a model with one of 0.02 % and hotter energies, with its exact weights."""
    rng = np.random.default_rng(0)
    truth = sample(rng, (DRAWS, CHAINS), 0.01)
    model = sample(rng, (NUM_SAMPLES,), 0.0002)
    true_energies, energies = rng.normal(-60, 10, (DRAWS, CHAINS)), rng.normal(-58, 11, NUM_SAMPLES)
    log_weights = log_density(model, 0.01) - log_density(model, 0.0002)
    log_weights += scipy.stats.norm.logpdf(energies, -60, 10) - scipy.stats.norm.logpdf(energies, -58, 11) - 300
    energies[:30], log_weights[:30] = 1e12, -1e9  # clashes
    log_weights[30:33], energies[30:33] = np.nan, np.nan  # failed
    omegas = rng.vonmises(np.pi, 50.0, (DRAWS, CHAINS, 1)), rng.vonmises(np.pi, 50.0, (NUM_SAMPLES, 1))
    omegas[1][:300] = 0.1
    return TruthSamples(truth, true_energies, omegas[0]), ModelSamples(model, log_weights, energies, omegas[1])


@pytest.fixture(scope="module")
def comparison(samples):
    return compare(*samples, num_transport_samples=300)


def test_names_and_values(comparison):
    summary = comparison.summary
    assert all(np.isfinite(value) for value in summary.values())
    for name in ("ram_kl", "ram_tv", "ram_tw2", "energy_w2"):
        for suffix in ("", "_reweighted"):
            assert summary[f"{name}{suffix}"] > 0
            assert summary[f"{name}{suffix}_standard_error"] > 0
        assert summary[f"{name}_noise_floor"] > 0
    for name in ("ram_kl", "ram_tv", "ram_tv_reweighted", "ram_kl_noise_floor"):
        pairs = [summary[f"pair_{pair}_{name}"] for pair in range(2)]
        assert summary[name] == pytest.approx(np.mean(pairs), rel=1e-12)
    assert summary["num_truth_samples"] == DRAWS * CHAINS
    assert summary["num_truth_effective_samples"] == pytest.approx(DRAWS * CHAINS, rel=0.2)  # from 40 blocks
    assert summary["num_effective_samples_reweighted"] < NUM_SAMPLES
    assert summary["num_transport_samples"] == 300


def test_reweighting_brings_the_truth_back(comparison):
    summary = comparison.summary
    # Energies: W2 of N(−60, 10²) and N(−58, 11²), of which clashes (1 in 1000, some 90 kJ/mol away) add their part.
    clash = summary["energy_clash_bound_kj_mol"] + 58
    expected = np.sqrt(2**2 + 1**2 + clash**2 / 1000)
    assert summary["energy_w2"] == pytest.approx(expected, abs=4 * summary["energy_w2_standard_error"])
    assert summary["energy_w2_reweighted"] < 0.4
    assert summary["energy_share_clashes"] == pytest.approx(30 / (NUM_SAMPLES - 3), rel=1e-9)
    assert summary["energy_share_clashes_reweighted"] == 0
    assert summary["energy_mean_kj_mol"] == pytest.approx(-58, abs=4 * summary["energy_mean_kj_mol_standard_error"])
    error = summary["energy_mean_kj_mol_reweighted_raw_standard_error"]
    assert summary["energy_mean_kj_mol_reweighted_raw"] == pytest.approx(-60, abs=4 * error)
    # The rare basin, which few samples with large weights make up; clipping takes from them.
    weight = summary["pair_0_basin_2_weight_reweighted_raw"]
    assert weight == pytest.approx(0.01, abs=4 * summary["pair_0_basin_2_weight_reweighted_raw_standard_error"])
    assert summary["pair_0_basin_2_weight"] < 0.001
    assert summary["cis_0_weight"] == pytest.approx(300 / NUM_SAMPLES, rel=1e-9)
    assert summary["cis_0_weight_truth"] == 0


def test_distances_are_above_what_noise_explains_where_a_basin_is_lost(comparison):
    summary = comparison.summary
    # All that differs in the torsions is 1 % of the weight: ½ Σ|P − Q| of noise and of that, 0.0098, together.
    assert summary["ram_tv"] > summary["ram_tv_expected_noise"]
    # Noise of samples without a difference, against half as many: √2 to 2 times as much.
    assert summary["ram_tv_expected_noise"] < summary["ram_tv_noise_floor"] < 2 * summary["ram_tv_expected_noise"]


def test_verdicts(comparison):
    assert comparison.summary["num_basins"] == 6
    assert comparison.summary["num_basins_lost"] == 2
    assert comparison.summary["num_basins_lost_reweighted_raw"] == 0
    assert comparison.summary["num_basins_undecided"] == 0
    # Draws are independent: all but the first of each chain enter the third basin's core (a von Mises pair has
    # 1 − e⁻² of its weight within 2 kT) from another, except after one of its own.
    expected = DRAWS * CHAINS * 0.01 * (1 - np.exp(-2))
    assert comparison.summary["pair_0_basin_2_entries_truth"] == pytest.approx(expected, abs=4 * np.sqrt(expected))
    for pair in range(2):
        assert comparison.verdicts[f"pair_{pair}_basins"].startswith("basin 3 of 3 at (")
        assert "is lost" in comparison.verdicts[f"pair_{pair}_basins"]
        assert comparison.verdicts[f"pair_{pair}_basins_reweighted_raw"] == "all 3 basins found"
    np.testing.assert_allclose(np.rad2deg(comparison.basins[0].centers_rad[2]), (55, -110), atol=15)


def test_without_weights_energies_and_transport(samples):
    truth, model = samples
    result = compare(
        TruthSamples(truth.torsions_rad[:, :, :1]), ModelSamples(model.torsions_rad[:, :1]), num_transport_samples=0
    )
    assert set(result.variants) == {"plain"}
    assert not any("tw2" in name or "energy" in name or "pair_" in name for name in result.summary)
    assert result.summary["basin_2_weight_truth"] == pytest.approx(0.01, abs=0.004)  # five standard errors
    with pytest.raises(ValueError, match="torsions_rad of truth and model"):
        compare(truth, ModelSamples(model.torsions_rad[:, :1]))


def test_one_weight_that_is_all_counts_as_one_sample(samples):
    truth, model = samples
    log_weights = np.full(NUM_SAMPLES, -100.0)
    log_weights[7] = 0.0
    summary = compare(truth, model._replace(log_weights=log_weights), num_transport_samples=0).summary
    # The others have e⁻¹⁰⁰ of the weight. One sample shares no more than its own bin with the truth.
    assert summary["num_effective_samples_reweighted_raw"] == pytest.approx(1.0, abs=1e-6)
    assert 0.5 < summary["ram_tv_reweighted_raw_expected_noise"] <= 1.0


def test_without_pairs_the_rest_remains(samples, comparison):
    # A molecule may have no pair of φ and ψ, such as ALA-ALA without caps.
    truth, model = samples
    result = compare(
        truth._replace(torsions_rad=truth.torsions_rad[:, :, :0]),
        model._replace(torsions_rad=model.torsions_rad[:, :0]),
        num_transport_samples=300,
    )
    assert result.summary["num_basins"] == 0
    rest = {name: value for name, value in result.summary.items() if name.startswith(("cis_", "energy_"))}
    assert len(rest) > 10
    assert rest == {name: comparison.summary[name] for name in rest}
    assert not any("ram_" in name for name in result.summary)
    assert result.verdicts == {}


def assert_is_drawn(path, figure):
    """The PNG has color and white, and no label is cut by the border."""
    pixels = imread(path)[..., :3]
    assert np.ptp(pixels, axis=-1).max() > 0.3
    assert np.mean(np.all(pixels == 1.0, axis=-1)) > 0.1
    box, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
    assert min(box.x0, box.y0) >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_differences_are_shown_where_they_are_significant(comparison, tmp_path, drawn):
    plain = free_energy_difference(comparison.truth, comparison.variants["plain"], 0, 300.0)
    rare = plain[int((55 + 180) / 3.6), int((-110 + 180) / 3.6)]
    # −kT ln(0.0002/0.01), of which six samples show the model's side to 40 %.
    assert rare == pytest.approx(2.494339 * np.log(50), abs=3 * 2.494339 * 0.4)
    assert np.mean(np.isnan(plain)) > 0.8
    # Equal distributions: 3 standard errors leave some 0.3 %, and a few percent where counts are small.
    rng = np.random.default_rng(1)
    again = ramachandran_block_histogram(sample(rng, (NUM_SAMPLES,), 0.01), None, independent_blocks(NUM_SAMPLES))
    assert np.mean(np.isfinite(free_energy_difference(comparison.truth, again, 0, 300.0))) < 0.03

    variants = {name: comparison.variants[name] for name in ("plain", "reweighted")}
    path = figures.plot_ramachandran_differences(
        comparison.truth,
        variants,
        tmp_path / "differences.png",
        temperature_kelvin=300.0,
        pair_names=["ALA1", "ALA2"],
        basins=comparison.basins,
    )
    assert_is_drawn(path, drawn[0])
    assert titles(drawn[0]) == ["truth", "plain", "reweighted", "plain − truth", "reweighted − truth"]
    assert [text.get_text() for text in drawn[0].axes[0].texts] == ["1", "2", "3"]
    with pytest.raises(ValueError, match="pair_names must have one entry"):
        figures.plot_ramachandran_differences(
            comparison.truth, variants, path, temperature_kelvin=300.0, pair_names=["a"]
        )


def test_marginals_are_drawn(tmp_path, drawn):
    rng = np.random.default_rng(2)
    domain = Domain(np.array([0, 0, 1, 1], bool), np.array([0, 0, 1, 0], bool), np.array([0, 1, 2, 2]))
    u = rng.normal([0.5, 0.5, 1.0, 0.5], 0.05, (2000, 4))
    blocks = independent_blocks(2000)
    truth, model = (
        marginal_block_histogram(values, None, blocks, domain.is_periodic)
        for values in (u, u + np.array([0, 0.1, 0, 0.02]))
    )
    assert figures.worst_marginals(truth, model, range(4), 2) == [1, 3]
    path = figures.plot_marginals(
        truth,
        {"plain": model},
        tmp_path / "marginals.png",
        dims=[3, 1, 2, 0],
        names=["bond A B", "angle A B C", "torsion A B C D", "torsion B C D E"],
        domain=domain,
        window_center=np.array([0.15, 2.0, 0.0, np.pi / 2]),
        window_width=np.array([0.07, 1.8, 2 * np.pi, np.pi]),
        num_columns=3,
    )
    assert_is_drawn(path, drawn[0])
    half_range, angle, torsion, bond = drawn[0].axes[:4]
    assert half_range.get_xlim() == pytest.approx((0, 180), abs=1e-9)
    # 0 = 1 of the box is ±180°, where all of this torsion is: shown from 0 to 360° in one piece.
    assert torsion.get_xlim() == pytest.approx((0, 360), abs=1e-9)
    shown = torsion.patches[0].get_data()
    assert np.sum(shown.values * np.diff(shown.edges)) == pytest.approx(1, rel=1e-9)
    assert np.average(0.5 * (shown.edges[1:] + shown.edges[:-1]), weights=shown.values) == pytest.approx(180, abs=2)
    # Both samples within all but 0.01 % on each side: some 4 of 0.05, and the shift of 0.1, times 1.8 rad.
    expected = np.rad2deg(2.0 + 1.8 * np.array([-0.2, 0.3]))
    np.testing.assert_allclose(angle.get_xlim(), expected, atol=8)
    assert 0.115 < bond.get_xlim()[0] < bond.get_xlim()[1] < 0.185
    with pytest.raises(ValueError, match="dims must not be empty"):
        figures.plot_marginals(
            truth, {"a": model}, path, dims=[], names=[], domain=domain, window_center=[], window_width=[]
        )


def test_energies_and_weights_are_drawn(samples, tmp_path, drawn):
    truth, model = samples
    path = figures.plot_energy_comparison(
        truth.energies_kj_mol, model.energies_kj_mol, tmp_path / "energies.png", log_weights=model.log_weights
    )
    assert_is_drawn(path, drawn[0])
    labels = [text.get_text() for text in drawn[0].axes[0].get_legend().get_texts()]
    assert [label.split(" (")[0] for label in labels] == ["truth", "plain", "reweighted"]

    path = figures.plot_log_weights(model.log_weights, tmp_path / "weights.png")
    assert_is_drawn(path, drawn[1])
    (axes,) = drawn[1].axes
    samples_curve, weight_curve = (patch.get_data() for patch in axes.patches)
    widths = np.diff(samples_curve.edges)
    # All samples but the clashes, and all of the weight: sums of 1e4 float64 numbers.
    assert np.sum(samples_curve.values * widths) == pytest.approx(1 - 30 / (NUM_SAMPLES - 3), abs=1e-9)
    assert np.sum(weight_curve.values * widths) == pytest.approx(1, abs=1e-9)
    (threshold,) = {line.get_xdata()[0] for line in axes.lines}
    centered = model.log_weights - (np.log(np.nanmean(np.exp(model.log_weights + 300)) * (1 - 3 / NUM_SAMPLES)) - 300)
    # The third largest: 0.01 % of 30,000 are three.
    assert threshold == pytest.approx(np.sort(np.nan_to_num(centered, nan=-np.inf))[-3], abs=1e-9)


def test_halves_of_chains_make_the_noise_floor(samples, comparison):
    truth, _ = samples
    first = chain_blocks(DRAWS, CHAINS).labels < 20
    halves = [
        np.histogram2d(*truth.torsions_rad[mask][:, 1].astype(float).T, bins=100, range=[[-np.pi, np.pi]] * 2)[0]
        for mask in (first, ~first)
    ]
    expected = 0.5 * np.abs(halves[0] / halves[0].sum() - halves[1] / halves[1].sum()).sum()
    assert comparison.summary["pair_1_ram_tv_noise_floor"] == pytest.approx(expected, rel=1e-9)  # float64 sums
