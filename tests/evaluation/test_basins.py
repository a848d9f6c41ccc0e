import numpy as np
import pytest
import scipy.ndimage

from cmtjax.evaluation import basins as basins_module
from cmtjax.evaluation.basin_report import BasinReport, BasinWeight, basin_report, basin_table, basin_verdict
from cmtjax.evaluation.basins import count_entries, find_basins, smoothed_counts
from cmtjax.evaluation.blocks import independent_blocks
from cmtjax.evaluation.histograms import ramachandran_block_histogram
from cmtjax.evaluation.ramachandran import ramachandran_histogram
from cmtjax.evaluation.summaries import basin_summary

# As on alanine dipeptide: two large basins at φ < 0 and ψ > 0 on either side of ±180° in ψ, one at ψ < 0, and two rare
# ones at φ > 0. Weight, (φ, ψ) of the center and concentrations of von Mises distributions.
MODES = [
    (0.55, (-145.0, 160.0), (9.0, 6.0)),
    (0.33, (-66.0, 150.0), (14.0, 6.0)),
    (0.118, (-70.0, -40.0), (14.0, 9.0)),
    (0.0015, (55.0, -110.0), (40.0, 12.0)),
    (0.0005, (45.0, 70.0), (40.0, 20.0)),
]


def mixture(num_samples, seed, modes=MODES):
    """(samples, 2) angles of a mixture of von Mises distributions."""
    rng = np.random.default_rng(seed)
    weights = np.array([weight for weight, _, _ in modes])
    label = rng.choice(len(modes), num_samples, p=weights / weights.sum())
    centers, concentrations = (np.array([mode[index] for mode in modes])[label] for index in (1, 2))
    return rng.vonmises(np.deg2rad(centers), concentrations)


def wrapped_degrees(difference):
    return np.abs((difference + 180) % 360 - 180)


@pytest.mark.parametrize(("num_samples", "num_seeds"), [(100_000, 12), (1_000_000, 2)])
def test_rare_basins_are_found_and_noise_is_not(num_samples, num_seeds):
    for seed in range(num_seeds):
        samples = mixture(num_samples, seed)
        basins = find_basins(ramachandran_histogram(*samples.T).masses, num_samples)
        assert len(basins.weights) == len(MODES), seed
        assert basins.weights.sum() == pytest.approx(1, abs=1e-12)  # float64 sums
        for (weight, center, _), found, found_weight in zip(MODES, basins.centers_rad, basins.weights, strict=True):
            # The highest of a smoothed histogram of some 50 samples with a width of 9° (rare) or of a flat top (large).
            assert np.all(wrapped_degrees(np.rad2deg(found) - center) < 20), (seed, center)
            # Five standard errors of a share, and what of the large basins lies beyond the saddle between them.
            tolerance = 5 * np.sqrt(weight / num_samples) + (0.02 if weight > 0.1 else 0.0)
            assert found_weight == pytest.approx(weight, abs=tolerance), (seed, center)


@pytest.mark.parametrize("num_samples", [1000, 30_000, 1_000_000])
def test_one_mode_and_none_are_one_basin(num_samples):
    for seed in range(5):
        one = mixture(num_samples, seed, [(1.0, (170.0, -175.0), (3.0, 2.0))])
        assert len(find_basins(ramachandran_histogram(*one.T).masses, num_samples).weights) == 1, seed
        flat = np.random.default_rng(seed).uniform(-np.pi, np.pi, (num_samples, 2))
        assert len(find_basins(ramachandran_histogram(*flat.T).masses, num_samples).weights) == 1, seed


def test_a_barrier_of_less_than_kt_does_not_separate():
    """Exact masses of exp(h cos 2φ): two wells, 2h apart from the barrier between them."""
    angle = (np.arange(100) + 0.5) * 2 * np.pi / 100 - np.pi
    for height, expected in ((0.4, 1), (0.7, 2)):
        masses = np.exp(height * np.cos(2 * angle))[:, None] * np.exp(np.cos(angle))
        basins = find_basins(masses / masses.sum(), 1e7)
        assert len(basins.weights) == expected
    np.testing.assert_allclose(basins.weights, 0.5, atol=1e-9)  # by symmetry; float64 sums
    # Wells at φ = 0 and ±π, both at ψ = 0; a bin is 3.6° wide.
    np.testing.assert_allclose(np.sort(np.abs(np.rad2deg(basins.centers_rad[:, 0]))), [0, 180], atol=4)
    assert len(find_basins(masses / masses.sum(), 1e7, min_barrier=1.5).weights) == 1


def test_basins_move_with_the_data():
    """On a torus: a histogram rolled by any number of bins has the same basins, rolled."""
    masses = ramachandran_histogram(*mixture(100_000, 0).T).masses
    labels = find_basins(masses, 100_000).labels
    rolled = find_basins(np.roll(masses, (37, 61), (0, 1)), 100_000).labels
    # Bins of equal density may go to either side: weights are what counts.
    differing = np.roll(labels, (37, 61), (0, 1)) != rolled
    assert np.roll(masses, (37, 61), (0, 1))[differing].sum() < 1e-3


def test_few_samples_show_fewer_basins():
    """A basin of five samples is no basin."""
    samples = np.concatenate([mixture(10_000, 0, MODES[:3]), mixture(5, 0, MODES[3:4])])
    masses = ramachandran_histogram(*samples.T).masses
    assert len(find_basins(masses, len(samples)).weights) == 3
    # Nor is one below the wanted weight, whatever the number of samples.
    many = ramachandran_histogram(*mixture(200_000, 1).T).masses
    assert len(find_basins(many, 200_000, min_weight=0.01).weights) == 3


def test_smoothing_keeps_what_is_resolved():
    samples = mixture(1_000_000, 0, [(1.0, (-60.0, 100.0), (8.0, 8.0))])
    masses = ramachandran_histogram(*samples.T).masses
    density, area = smoothed_counts(masses, 1_000_000)
    bin_area = (2 * np.pi / 100) ** 2
    top = masses > 1e-3  # a thousand samples a bin and more
    # No more smoothing than the narrowest kernel, 0.04 rad, that is half a bin and changes the top by 2 %.
    assert area[top].max() == pytest.approx(4 * np.pi * 0.04**2, rel=1e-9)
    np.testing.assert_allclose(density[top] * bin_area, masses[top] * 1_000_000, rtol=0.15)  # 5 standard errors
    # Far away the widest kernel is not enough.
    assert area.max() == pytest.approx(4 * np.pi * (0.04 * 2**2.5) ** 2, rel=1e-9)
    assert np.all(np.isfinite(density) & (density > 0))


@pytest.fixture(scope="module")
def truth():
    return ramachandran_block_histogram(mixture(200_000, 10)[:, None], None, independent_blocks(200_000))


@pytest.fixture(scope="module")
def basins(truth):
    return find_basins(truth.masses[0], 200_000)


def model_histogram(weights, num_samples=100_000, seed=20):
    modes = [(weight, *mode[1:]) for weight, mode in zip(weights, MODES, strict=True)]
    samples = mixture(num_samples, seed, modes)[:, None]
    return ramachandran_block_histogram(samples, None, independent_blocks(num_samples))


def test_report_of_a_perfect_model(truth, basins):
    reports = basin_report(basins, truth, {"plain": model_histogram([mode[0] for mode in MODES])})
    assert basin_verdict(reports, "plain") == "all 5 basins found"
    for report, weight in zip(reports, basins.weights, strict=True):
        assert report.truth.weight == pytest.approx(weight, rel=1e-12)  # float64 sums
        # That of a share of independent samples, which 100 blocks give to 7 %: three of them.
        for side, size in ((report.truth, 200_000), (report.model["plain"], 100_000)):
            expected = np.sqrt(side.weight * (1 - side.weight) / size)
            assert side.standard_error == pytest.approx(expected, rel=0.22)


def test_lost_and_wrong_basins_are_named(truth, basins):
    lost = model_histogram([0.55, 0.33, 0.118, 0.00002, 0.0005])
    wrong = model_histogram([0.55, 0.37, 0.04, 0.0015, 0.004])
    reports = basin_report(basins, truth, {"plain": lost, "reweighted": wrong})
    statuses = [[report.model[name].status for report in reports] for name in ("plain", "reweighted")]
    assert statuses == [
        ["found", "found", "found", "lost", "found"],
        ["found", "found", "underweighted", "found", "overweighted"],
    ]
    verdict = basin_verdict(reports, "plain")
    assert verdict.startswith("basin 4 of 5 at (")
    assert "°, −" in verdict
    assert "is lost: plain samples have (0.00" in verdict
    assert "; " not in verdict
    assert basin_verdict(reports, "reweighted").count("; ") == 1


def test_weight_beside_the_core_does_not_count_as_found(truth, basins):
    """What the model has at φ > 0, ψ > 0 lies 35° beside the island, within the basin's bins."""
    right = model_histogram([mode[0] for mode in MODES])
    beside = [*MODES[:4], (MODES[4][0], (80.0, 90.0), MODES[4][2])]
    samples = mixture(100_000, 21, beside)[:, None]
    wrong = ramachandran_block_histogram(samples, None, independent_blocks(len(samples)))
    (*others, right_report), (*_, wrong_report) = (
        basin_report(basins, truth, {"plain": histogram}) for histogram in (right, wrong)
    )
    result = wrong_report.model["plain"]
    assert (result.status, result.core_status, result.overall_status) == ("found", "lost", "lost")
    assert right_report.model["plain"].core_status == "found"
    summary = basin_summary([[*others, wrong_report]], ["plain"])
    assert (summary["num_basins_lost"], summary["num_basins_wrong"]) == (1, 0)
    assert summary["basin_4_core_weight"] == result.core_weight < 0.1 * summary["basin_4_core_weight_truth"]
    assert basin_verdict([*others, wrong_report], "plain").startswith("the core of basin 5 of 5 at (")
    # Cores are where the density is more than e⁻² of the highest: of a Gaussian in two dims, 1 − e⁻² of the mass.
    for report in (*others[2:], right_report):
        assert report.truth.core_weight / report.truth.weight == pytest.approx(1 - np.exp(-2), abs=0.12)


@pytest.mark.parametrize(
    ("whole", "core", "overall"),
    [
        ("found", "found", "found"),
        ("found", "underweighted", "underweighted"),
        ("underweighted", "found", "underweighted"),
        # However much or little lies around a core, if that is lost the basin is.
        ("overweighted", "lost", "lost"),
        ("underweighted", "lost", "lost"),
        ("undecided", "lost", "lost"),
        ("lost", "found", "lost"),
        ("overweighted", "underweighted", "overweighted"),
    ],
)
def test_the_worse_of_basin_and_core(whole, core, overall):
    weight = BasinWeight(0.1, 0.01, 0.1, 0.01, whole, core)
    assert weight.overall_status == overall
    assert weight.is_core_the_matter == (overall == core != whole)


@pytest.mark.parametrize(("share", "whole"), [(3.0, "overweighted"), (0.3, "underweighted")])
def test_a_core_is_lost_whatever_lies_around_it(truth, basins, share, whole):
    samples = mixture(200_000, 22, [*MODES[:4], (MODES[4][0] * share, (80.0, 90.0), MODES[4][2])])[:, None]
    histogram = ramachandran_block_histogram(samples, None, independent_blocks(len(samples)))
    reports = basin_report(basins, truth, {"plain": histogram})
    assert (reports[4].model["plain"].status, reports[4].model["plain"].core_status) == (whole, "lost")
    assert "the core of basin 5 of 5 at (" in basin_verdict(reports, "plain")
    assert basin_summary([reports], ["plain"])["num_basins_lost"] == 1


def test_a_basin_is_not_lost_where_one_weight_is_all(truth, basins):
    samples = mixture(100_000, 20)[:, None]
    weights = np.full(len(samples), 1e-12)
    weights[0] = 1.0  # a sample of the first basin
    histogram = ramachandran_block_histogram(samples, weights, independent_blocks(len(samples)))
    size = {"reweighted": weights.sum() ** 2 / np.sum(weights**2)}
    (report, *others) = basin_report(basins, truth, {"reweighted": histogram}, num_effective_samples=size)
    assert report.model["reweighted"].weight == pytest.approx(1.0, abs=1e-6)
    assert report.model["reweighted"].status == "found"  # 1 and 0.55 do not differ for one sample
    assert {other.model["reweighted"].status for other in others} == {"undecided"}
    summary = basin_summary([[report, *others]], ["reweighted"])
    counts = [summary[f"num_basins_{name}_reweighted"] for name in ("lost", "undecided", "wrong")]
    assert counts == [0, len(others), 0]
    assert "is undecided, for want of samples: reweighted samples have" in basin_verdict(
        [report, *others], "reweighted"
    )
    # An expectation of ten samples of the third basin, weight 0.12, none of which has come, is more than three errors.
    size = {"reweighted": 10 / basins.weights[2]}
    reports = basin_report(basins, truth, {"reweighted": histogram}, num_effective_samples=size)
    assert [other.model["reweighted"].status for other in reports[2:]] == ["lost", "undecided", "undecided"]


def test_verdict_in_words():
    truth = BasinWeight(0.0015, 0.00004, 0.001, 0.00003, "truth", "truth")
    report = basin_report_of(truth, BasinWeight(0.00003, 0.00001, 0.0, 0.0, "lost", "lost"))
    expected = (
        "basin 1 of 1 at (55°, −110°), weight (0.1500 ± 0.0040) %, is lost: plain samples have (0.0030 ± 0.0010) %"
    )
    assert basin_verdict([report], "plain") == expected
    around = basin_report_of(truth, BasinWeight(0.0013, 0.0001, 0.00003, 0.00001, "found", "lost"))
    of_core = expected.replace("(0.1500 ± 0.0040)", "(0.1000 ± 0.0030)")
    assert basin_verdict([around], "plain") == f"the core of {of_core}"
    truth = truth._replace(standard_error=0.0002)
    empty = basin_report_of(truth, BasinWeight(0.0, 0.0, 0.0, 0.0, "lost", "lost"))
    assert basin_verdict([empty], "plain").endswith("weight (0.150 ± 0.020) %, is lost: plain samples have 0 %")
    found = basin_report_of(truth, BasinWeight(1.0, 0.0, 1.0, 0.0, "found", "found"))
    assert basin_verdict([found], "plain") == "the only basin found"


def basin_report_of(truth, model):
    return BasinReport((55.4, -109.8), truth, {"plain": model})


def test_entries_are_counted_from_core_to_core(monkeypatch):
    masses = np.zeros((100, 100))
    masses[20, 20], masses[70, 70] = 0.8, 0.2
    masses = scipy.ndimage.gaussian_filter(masses, 4.0, mode="wrap")
    basins = find_basins(masses / masses.sum(), 1e6)
    assert len(basins.weights) == 2

    def angle(bin_number):
        return -np.pi + (np.asarray(bin_number) + 0.5) * 2 * np.pi / 100

    first, second, border, rim = 20, 70, 45, 62  # the rim is in the second basin, but not in its core
    assert basins.labels[rim, rim] == 1
    assert not basins.is_core[rim, rim]
    chains = {
        "stays": ([first] * 8, (0, 0)),
        "starts outside of the cores": ([border, rim, second, second, rim, border, border, rim], (0, 0)),
        "crosses to and fro at the border": ([first, border, rim, border, rim, rim, border, rim], (0, 0)),
        "enters once, over the rim and back to the core": ([first, rim, second, rim, second, second, rim, rim], (0, 1)),
        "enters both": ([second, first, border, second, second, first, rim, second], (2, 2)),
    }
    torsions = np.stack([np.stack([angle(path)] * 2, axis=-1) for path, _ in chains.values()], axis=1)
    for index, (_, expected) in enumerate(chains.values()):
        np.testing.assert_array_equal(count_entries(basins, torsions[:, [index]]), expected)
    np.testing.assert_array_equal(count_entries(basins, torsions + 2 * np.pi), (2, 3))  # all chains, another range
    with monkeypatch.context() as context:
        context.setattr(basins_module, "_SAMPLES_AT_A_TIME", 16)  # two chains
        np.testing.assert_array_equal(count_entries(basins, torsions), (2, 3))
    torsions[1, 4] = np.nan  # without this draw the last chain has not left the second basin yet
    np.testing.assert_array_equal(count_entries(basins, torsions), (1, 2))
    np.testing.assert_array_equal(count_entries(basins, torsions[:1]), (0, 0))
    with pytest.raises(ValueError, match="torsions_rad must have shape"):
        count_entries(basins, torsions[0])


def test_visits_of_a_two_state_chain_have_the_expected_error():
    # Rates a and b per draw: a share of a / (a + b) of the time in the second state, entered with rate a b / (a + b).
    rng = np.random.default_rng(0)
    to_second, to_first = 0.002, 0.02
    state, states = np.zeros(400, int), []
    for _ in range(2000):
        state = np.where(rng.random(400) < np.where(state, to_first, to_second), 1 - state, state)
        states.append(state)
    torsions = np.deg2rad(np.array([[-120.0, 130.0], [60.0, -100.0]])[np.array(states)])
    torsions += rng.normal(0, 0.15, torsions.shape)
    histogram = ramachandran_histogram(*torsions.reshape(-1, 2).T, None)
    basins = find_basins(histogram.masses, torsions[..., 0].size)
    entries = count_entries(basins, torsions)
    expected = 400 * 2000 * to_second * to_first / (to_second + to_first)
    # A draw may fall outside of the core (13 % of a Gaussian lie more than 2 kT up), and visits of one draw are
    # missed then: a few percent, beside the noise of 1/√1450. Crossing back happens as often as crossing.
    assert entries[1] == pytest.approx(expected, rel=0.1)
    assert abs(entries[0] - entries[1]) <= 400
    inside = np.array(states).mean(axis=0)
    error = inside.std(ddof=1) / np.sqrt(400) / inside.mean()
    # The error's own error is 1/√800 = 3.5 %, and entries are missed as above.
    expected = (1 - inside.mean()) * np.sqrt(2 / entries[1])
    assert error == pytest.approx(expected, rel=0.15)


def test_table_of_basins():
    truth = BasinWeight(0.0015, 0.00004, 0.001, 0.00003, "truth", "truth")
    model = {
        "plain": BasinWeight(0.003, 0.0001, 0.002, 0.0001, "found", "found"),
        "reweighted_raw": BasinWeight(0.0, 0.0, 0.0, 0.0, "lost", "lost"),
    }
    lines = basin_table([BasinReport((55.4, -109.8), truth, model, 1234), BasinReport((1.0, 2.0), truth, model)])
    assert lines.splitlines() == [
        "| basin (φ, ψ) | truth | entries | plain | reweighted, unclipped |",
        "| --- | --- | --- | --- | --- |",
        "| (55°, −110°) | (0.1500 ± 0.0040) % | 1,234 | (0.300 ± 0.010) % | 0 % |",
        "| (1°, 2°) | (0.1500 ± 0.0040) % | – | (0.300 ± 0.010) % | 0 % |",
    ]


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="masses must be a square"):
        find_basins(np.full((2, 3), 1 / 6), 100)
    with pytest.raises(ValueError, match="masses must be a square of sum one"):
        find_basins(np.ones((3, 3)), 100)
    with pytest.raises(ValueError, match="num_samples"):
        find_basins(np.full((3, 3), 1 / 9), 0)
