import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.signal
import scipy.stats

from cmtjax.evaluation.blocks import (
    Blocks,
    chain_blocks,
    independent_blocks,
    weighted_mean,
)


def autoregressive(num_draws, num_chains, rng, memory=0.9):
    """Stationary chains of unit variance, whose mean has the variance (1 + memory)/(1 − memory)/draws."""
    noise = rng.normal(size=(num_draws, num_chains)) * np.sqrt(1 - memory**2)
    start = rng.normal(size=(1, num_chains))
    return scipy.signal.lfilter([1.0], [1.0, -memory], noise, axis=0, zi=memory * start)[0]


@hypothesis.given(num_draws=st.integers(1, 40), num_chains=st.integers(1, 250))
def test_chain_blocks_hold_whole_chains_or_pieces_of_one(num_draws, num_chains):
    hypothesis.assume(num_draws * num_chains > 1)
    labels, num_blocks, half = chain_blocks(num_draws, num_chains)
    assert labels.shape == (num_draws, num_chains)
    assert np.array_equal(np.unique(labels), np.arange(num_blocks))
    assert num_blocks <= 100
    assert num_blocks >= min(16, num_draws * num_chains) or num_blocks == num_draws * num_chains
    if num_chains >= 16:
        assert np.all(labels == labels[0])
    else:
        chain_of_block = {int(label): chain for chain in range(num_chains) for label in labels[:, chain]}
        assert all(np.all(np.diff(labels[:, chain]) >= 0) for chain in range(num_chains))
        assert all(chain_of_block[int(label)] == chain for chain in range(num_chains) for label in labels[:, chain])
    in_first = labels < half
    if num_chains > 1:
        assert np.all(in_first == in_first[0])  # halves of whole chains
        # Groups of chains differ by one chain in size.
        assert abs(in_first[0].sum() - num_chains / 2) <= 1
    else:
        assert 0 < in_first.sum() < num_draws


def test_independent_blocks_are_equal_parts():
    labels, num_blocks, half = independent_blocks(1003)
    assert (num_blocks, half) == (100, 50)
    assert set(np.bincount(labels)) == {10, 11}
    assert independent_blocks(3).num_blocks == 3


def test_weighted_mean_of_independent_samples_agrees_with_the_delta_method():
    rng = np.random.default_rng(0)
    values, weights = rng.normal(size=50_000) + 1e6, rng.exponential(size=50_000)
    mean, error = weighted_mean(values, weights, independent_blocks(50_000))
    np.testing.assert_allclose(mean, np.average(values, weights=weights), rtol=1e-14)  # float64
    normalized = weights / weights.sum()
    expected = np.sqrt(np.sum(normalized**2 * (values - mean) ** 2))
    # 100 blocks give the error to 7 %: three of them.
    np.testing.assert_allclose(error, expected, rtol=0.21)
    # Without weights and with one sample a block it is the textbook's.
    own_block = Blocks(np.arange(500, dtype=np.int32), 500, 250)
    result = weighted_mean(values[:500] - 1e6, None, own_block)
    np.testing.assert_allclose(result, (np.mean(values[:500] - 1e6), scipy.stats.sem(values[:500])), rtol=1e-8)


@pytest.mark.parametrize("num_chains", [1, 5, 40])
def test_standard_error_of_correlated_chains(num_chains):
    rng = np.random.default_rng(1)
    num_draws = 16_000 // num_chains
    results = []
    for _ in range(60):
        values = autoregressive(num_draws, num_chains, rng)
        results.append(weighted_mean(values, None, chain_blocks(num_draws, num_chains)))
    means, errors = np.array(results).T
    # Mean square against mean square: 60 means give their variance to 18 %, 16 or more blocks each error's
    # square to 37 %, of which 60 are averaged. Three standard errors of both together, in the root.
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), np.sqrt(np.mean(means**2)), rtol=0.29)
    # And against the exact variance of the mean of an autoregressive chain (edge effects of 1 %).
    exact = np.sqrt(19 / (num_draws * num_chains))
    np.testing.assert_allclose(np.sqrt(np.mean(errors**2)), exact, rtol=0.12)  # 37 %/√60/2 times three, and the 1 %


def test_nan_is_left_out():
    values = np.array([1.0, np.nan, 3.0, 5.0])
    blocks = independent_blocks(4)
    mean, error = weighted_mean(values, None, blocks)
    np.testing.assert_allclose((mean, error), (3.0, scipy.stats.sem([1.0, 3.0, 5.0])), rtol=1e-14)  # float64
    assert np.isnan(weighted_mean(np.array([1.0, np.nan]), None, independent_blocks(2))[1])


def test_errors_name_the_argument():
    with pytest.raises(ValueError, match="num_draws and num_chains"):
        chain_blocks(1, 1)
    with pytest.raises(ValueError, match="num_samples"):
        independent_blocks(1)
    with pytest.raises(ValueError, match="share a shape"):
        weighted_mean(np.zeros(3), None, independent_blocks(4))
    with pytest.raises(ValueError, match="values has no entry"):
        weighted_mean(np.full(4, np.nan), None, independent_blocks(4))
