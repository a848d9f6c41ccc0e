import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats

from cmtjax.evaluation.blocks import chain_blocks, independent_blocks
from cmtjax.evaluation.divergence_errors import bin_variances, kl_errors, total_variation_errors
from cmtjax.evaluation.divergences import (
    expected_total_variation,
    histogram_effective_samples,
    ramachandran_kl,
    ramachandran_total_variation,
)
from cmtjax.evaluation.histograms import BlockHistogram, marginal_block_histogram, ramachandran_block_histogram
from cmtjax.evaluation.ramachandran import ramachandran_histogram

MASSES = hnp.arrays(float, (4, 4), elements=st.floats(0, 1)).filter(lambda x: x.sum() > 0.1).map(lambda x: x / x.sum())


def peaked_masses(num_bins=20):
    """Two wrapped Gaussians, one of them of 2 %."""
    x = (np.arange(num_bins) + 0.5) / num_bins - 0.5

    def bump(center, width):
        wrapped = (x - center + 0.5) % 1 - 0.5
        return np.exp(-0.5 * (wrapped / width) ** 2)

    masses = np.outer(bump(-0.2, 0.08), bump(0.4, 0.1)) + 0.05 * np.outer(bump(0.2, 0.05), bump(-0.3, 0.06))
    return masses / masses.sum()


def draw(masses, num_samples, rng):
    """Angles distributed as the masses."""
    num_bins = len(masses)
    index = rng.choice(masses.size, num_samples, p=masses.ravel())
    bins = np.stack(np.divmod(index, num_bins), axis=1)
    return ((bins + rng.random((num_samples, 2))) / num_bins * 2 * np.pi - np.pi)[:, None, :]


@hypothesis.given(MASSES, MASSES)
def test_total_variation_is_the_largest_difference_of_probabilities(p, q):
    # The defining property: the supremum over events is reached by the bins where p > q.
    event = p > q
    value = ramachandran_total_variation(p, q)
    assert value == pytest.approx(p[event].sum() - q[event].sum(), abs=1e-12)  # float64 sums of 16 masses
    assert 0 <= value <= 1 + 1e-12
    assert value == ramachandran_total_variation(q, p)


@hypothesis.given(MASSES, MASSES)
def test_kl_is_that_of_scipy_where_the_offset_does_not_matter(p, q):
    p, q = (0.9 * x + 0.1 / 16 for x in (p, q))  # every density above 2.5e-3 per rad²
    # Offsets of 1e-10 on densities of 2.5e-3: a relative 4e-8 in each logarithm.
    assert ramachandran_kl(p, q) == pytest.approx(scipy.stats.entropy(p.ravel(), q.ravel()), abs=1e-7)


def test_kl_follows_the_published_evaluation():
    """Densities of histogram2d on [0, 2π)², offset 1e-10, times the area of a bin (Midgley et al. 2022)."""
    rng = np.random.default_rng(0)
    masses = peaked_masses()
    a, b = (draw(masses, n, rng)[:, 0] for n in (3000, 2000))  # many bins of 100 × 100 are empty on one side
    turn = [[0, 2 * np.pi], [0, 2 * np.pi]]
    p, q = (np.histogram2d(*(x % (2 * np.pi)).T, bins=100, range=turn, density=True)[0] for x in (a, b))
    kl = 0.0
    for i in range(100):
        for j in range(100):
            kl += p[i, j] * np.log((p[i, j] + 1e-10) / (q[i, j] + 1e-10)) * (2 * np.pi / 100) ** 2
    ours = [ramachandran_histogram(*x.T) for x in (a, b)]
    assert kl > 1  # the empty bins dominate, so that the offset's unit is tested
    assert ramachandran_kl(*ours) == pytest.approx(kl, rel=1e-9)  # float64 sums of 1e4 terms
    tv = 0.5 * np.sum(np.abs(p - q)) * (2 * np.pi / 100) ** 2
    assert ramachandran_total_variation(*ours) == pytest.approx(tv, rel=1e-9)


def test_kl_of_an_empty_bin_has_a_closed_form():
    p, q = np.array([[0.5, 0.5], [0, 0]]), np.array([[1.0, 0], [0, 0]])
    density = 0.5 / np.pi**2
    expected = 0.5 * np.log(0.5) + 0.5 * np.log((density + 1e-10) / 1e-10)
    assert ramachandran_kl(p, q) == pytest.approx(expected, rel=1e-8)  # offsets beside the densities


def test_distances_take_batches():
    p, q = np.stack([peaked_masses(10)] * 3), np.stack([np.full((10, 10), 0.01), peaked_masses(10), peaked_masses(10)])
    for distance in (ramachandran_kl, ramachandran_total_variation):
        values = distance(p, q)
        assert values.shape == (3,)
        assert values[0] == distance(p[0], q[0]) > 0
        assert values[1] == 0


@pytest.mark.parametrize(("n", "m"), [(300, 500), (5000, 5000), (100_000, 20_000)])
def test_expected_total_variation_is_that_of_multinomial_samples(n, m):
    rng = np.random.default_rng(1)
    masses = peaked_masses()
    values = [
        ramachandran_total_variation(*(rng.multinomial(k, masses.ravel()).reshape(20, 20) / k for k in (n, m)))
        for _ in range(200)
    ]
    # Noise of 200 values is below 1 %; the normal approximation errs by up to 6 % where most bins hold few counts, and
    # by 2 % where those of the tails do.
    assert expected_total_variation(masses, n, m) == pytest.approx(np.mean(values), rel=0.07 if n < 1000 else 0.025)


def test_expected_total_variation_of_a_coin():
    # ½ Σ E|p̂ − ½| = ½ · 2 · √(2/π) · ½/√n against an exact histogram.
    assert expected_total_variation(np.array([0.5, 0.5]), 10_000) == pytest.approx(np.sqrt(2 / np.pi) / 200, rel=1e-12)


def test_effective_samples_of_independent_weighted_samples():
    rng = np.random.default_rng(2)
    torsions = draw(peaked_masses(), 50_000, rng)
    blocks = independent_blocks(50_000)
    plain = ramachandran_block_histogram(torsions, None, blocks, num_bins=20)
    # 100 blocks and some 60 bins that matter: 1/√3000 of noise, three of them.
    assert histogram_effective_samples(plain.sums) == pytest.approx(50_000, rel=0.06)
    weights = rng.lognormal(0.0, 1.0, 50_000)  # independent of the angles: Kish's formula holds exactly
    weighted = ramachandran_block_histogram(torsions, weights, blocks, num_bins=20)
    kish = weights.sum() ** 2 / np.sum(weights**2)
    assert histogram_effective_samples(weighted.sums) == pytest.approx(kish, rel=0.1)


def test_effective_samples_of_repeated_draws():
    rng = np.random.default_rng(3)
    torsions = np.repeat(draw(peaked_masses(), 64 * 50, rng).reshape(50, 64, 1, 2), 10, axis=0)
    histogram = ramachandran_block_histogram(torsions.reshape(-1, 1, 2), None, chain_blocks(500, 64), num_bins=20)
    # Every draw ten times: worth 3200. 64 blocks: noise as above, a little more.
    assert histogram_effective_samples(histogram.sums) == pytest.approx(3200, rel=0.08)


def simulate(p, q, num_samples, rng, num_blocks=50):
    """Histograms of two samples in equal blocks, of two pairs of torsions of which one is the other transposed."""

    def sample(masses):
        counts = rng.multinomial(num_samples // num_blocks, masses.ravel(), num_blocks).reshape(num_blocks, 20, 20)
        sums = np.stack([counts, counts.transpose(0, 2, 1)], axis=1) / num_samples
        return BlockHistogram(sums, num_blocks // 2, num_bin_axes=2)

    return sample(p), sample(q)


@pytest.mark.parametrize(
    ("background", "difference", "num_samples", "lowest_kl"),
    [
        (0.2, 0.2, 100_000, 0.8),  # many samples a bin
        (0.0, 0.2, 5000, 0.6),  # many bins with few samples or none
        (0.0, 0.0, 50_000, 0.5),  # no difference but noise
    ],
)
def test_standard_errors_against_repeated_simulation(background, difference, num_samples, lowest_kl):
    rng = np.random.default_rng(4)
    p = (1 - background) * peaked_masses() + background / 400
    q = (1 - difference) * p + difference * p.T
    values, errors = [], []
    for _ in range(150):
        truth, model = simulate(p, q, num_samples, rng)
        kl, tv = (f(truth.masses, model.masses) for f in (ramachandran_kl, ramachandran_total_variation))
        kl_error, tv_error = kl_errors(truth, model), total_variation_errors(truth, model)
        values.append([kl[0], tv[0]])
        errors.append([kl_error.of_pairs[0], tv_error.of_pairs[0]])
        # A pair that is the other one transposed has the same noise: the mean of both has no smaller error.
        np.testing.assert_allclose([kl_error.of_mean, tv_error.of_mean], errors[-1], rtol=1e-9)  # float64 sums
    ratios = np.sqrt(np.mean(np.square(errors), axis=0)) / np.std(values, axis=0)
    # 150 simulations give their spread to 6 %: three of them. The noise of KL is of second order in the last two.
    assert 0.82 < ratios[1] < 1.18
    assert lowest_kl < ratios[0] < 1.18


def test_pairs_that_are_independent_have_a_mean_of_smaller_error():
    rng = np.random.default_rng(7)
    (first, model), (second, _) = (simulate(peaked_masses(), peaked_masses().T, 20_000, rng) for _ in range(2))
    sums = np.concatenate([first.sums[:, :1], second.sums[:, :1]], axis=1)
    exact = BlockHistogram(np.repeat(model.sums.sum(axis=0, keepdims=True), 2, axis=0) / 2, 1, num_bin_axes=2)
    for errors in (kl_errors, total_variation_errors):
        result = errors(BlockHistogram(sums, 25, 2), exact)
        # 1/√2 of each; covariances from 50 blocks are zero to 1/√50, half of it in the root.
        assert result.of_mean == pytest.approx(np.sqrt(np.sum(result.of_pairs**2)) / 2, rel=0.25)


def test_bin_variances_are_those_of_multinomial_samples():
    rng = np.random.default_rng(8)
    truth, _ = simulate(peaked_masses(), peaked_masses(), 100_000, rng, num_blocks=1000)
    p = truth.masses[0]
    expected = p * (1 - p) / 100_000
    # The sum over all bins: 1000 blocks and some 60 bins that matter give it to 1 %.
    np.testing.assert_allclose(bin_variances(truth)[0].sum(), expected.sum(), rtol=0.03)


@pytest.mark.parametrize("weighted", [False, True])
def test_block_histograms_add_up_to_ramachandran_histogram(weighted):
    rng = np.random.default_rng(5)
    torsions = np.concatenate([rng.normal(size=(5000, 3, 2)) * 3, np.full((1, 3, 2), np.pi)]).astype(np.float32)
    torsions[7, 1, 0] = np.nan
    log_weights = rng.normal(size=5001) if weighted else None
    weights = None if log_weights is None else np.exp(log_weights)
    blocks = independent_blocks(5001, num_blocks=7)
    histogram = ramachandran_block_histogram(torsions, weights, blocks, num_bins=30)
    assert histogram.sums.shape == (7, 3, 30, 30)
    for pair in range(3):
        oracle = ramachandran_histogram(torsions[:, pair, 0], torsions[:, pair, 1], log_weights, num_bins=30).masses
        np.testing.assert_allclose(histogram.masses[pair], oracle, atol=1e-15)  # float64 sums
        first = blocks.labels < blocks.half
        half = ramachandran_histogram(
            *torsions[first, pair].T, None if log_weights is None else log_weights[first], num_bins=30
        )
        np.testing.assert_allclose(histogram.halves[0][pair], half.masses, atol=1e-15)


def test_block_histograms_take_chunks(monkeypatch):
    torsions = np.random.default_rng(6).normal(size=(1000, 2, 2))
    blocks, weights = independent_blocks(1000), np.arange(1000.0)
    whole = ramachandran_block_histogram(torsions, weights, blocks, num_bins=9)
    marginals = marginal_block_histogram(torsions[:, 0], weights, blocks, np.array([True, False]), num_bins=9)
    monkeypatch.setattr("cmtjax.evaluation.histograms._CHUNK_SIZE", 37)
    in_parts = ramachandran_block_histogram(torsions, weights, blocks, num_bins=9)
    np.testing.assert_allclose(in_parts.sums, whole.sums, atol=1e-15)  # float64 sums in another order
    in_parts = marginal_block_histogram(torsions[:, 0], weights, blocks, np.array([True, False]), num_bins=9)
    np.testing.assert_allclose(in_parts.sums, marginals.sums, atol=1e-15)


def test_errors_name_the_argument():
    p = np.full((3, 3), 1 / 9)
    blocks = independent_blocks(4)
    with pytest.raises(ValueError, match="model_histogram must hold masses"):
        ramachandran_kl(p, 2 * p)
    with pytest.raises(ValueError, match="true_histogram must have as many bins"):
        ramachandran_total_variation(p[:2], p)
    with pytest.raises(ValueError, match="share a shape"):
        ramachandran_total_variation(np.full((2, 2), 0.25), p)
    with pytest.raises(ValueError, match="num_samples_a and num_samples_b"):
        expected_total_variation(p, 0)
    with pytest.raises(ValueError, match="at least 2 blocks"):
        histogram_effective_samples(np.ones((1, 3, 3)))
    with pytest.raises(ValueError, match=r"torsions_rad must have shape \(samples, pairs, 2\)"):
        ramachandran_block_histogram(np.zeros((4, 2)), None, blocks)
    with pytest.raises(ValueError, match="blocks must label each of the 5 samples"):
        ramachandran_block_histogram(np.zeros((5, 1, 2)), None, blocks)
    with pytest.raises(ValueError, match="weights must have shape"):
        ramachandran_block_histogram(np.zeros((4, 1, 2)), np.ones(3), blocks)
    with pytest.raises(ValueError, match="pair 1 has no finite sample"):
        ramachandran_block_histogram(np.stack([np.zeros((4, 2)), np.full((4, 2), np.nan)], axis=1), None, blocks)
    with pytest.raises(ValueError, match="num_bins"):
        ramachandran_block_histogram(np.zeros((4, 1, 2)), None, blocks, num_bins=0)
