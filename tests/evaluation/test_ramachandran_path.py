"""Ramachandran histograms along a run: counts on the device, basins by step, figures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

from cmtjax import molecules
from cmtjax.coordinates import internal_coordinates
from cmtjax.evaluation import (
    basin_path,
    describe_basin_path,
    figures,
    find_basins,
    free_energy_kj_mol,
    ramachandran_histogram,
    ramachandran_path_arrays,
)


@pytest.mark.parametrize("num_bins", [100, 5])
def test_counts_on_the_device_are_those_of_the_histogram(num_bins):
    coordinates = internal_coordinates(molecules.published("alanine_tetrapeptide"))
    rng = np.random.default_rng(0)
    u = rng.uniform(size=(400, coordinates.domain.num_dims)).astype(np.float32)
    u[:, coordinates.ramachandran_pairs[1]] = rng.beta(30, 50, size=(400, 2))
    u[7, coordinates.ramachandran_pairs[0, 1]] = np.nan
    log_weights = rng.normal(scale=2.0, size=400).astype(np.float32) + 300.0  # exp overflows
    log_weights[3], log_weights[4] = np.nan, -np.inf
    compute = jax.jit(lambda u, log_weights: ramachandran_path_arrays(u, log_weights, coordinates, num_bins))
    arrays = compute(u, log_weights)
    counts, masses = arrays["counts"], arrays["next_masses"]
    assert counts.shape == masses.shape == (3, num_bins, num_bins)
    np.testing.assert_array_equal(counts.sum((1, 2)), [399, 400, 400])
    for pair, dims in enumerate(coordinates.ramachandran_pairs):
        center, width = (
            array[dims].astype(np.float32) for array in (coordinates.window_center, coordinates.window_width)
        )
        phi, psi = (center + width * (u[:, dims] - np.float32(0.5))).T
        plain = ramachandran_histogram(phi, psi, num_bins=num_bins).masses
        weighted = ramachandran_histogram(phi, psi, log_weights, num_bins=num_bins).masses
        # A point within rounding of an edge may be counted beside it, and weights are summed in single precision.
        assert np.abs(counts[pair] - plain * np.isfinite(psi).sum()).sum() <= 2
        largest = np.exp(np.nanmax(log_weights) - np.logaddexp.reduce(log_weights[np.isfinite(log_weights)]))
        assert np.abs(masses[pair] - weighted).sum() <= 2 * largest + 1e-5
    both = jax.vmap(compute)(jnp.stack([u, u[::-1]]), jnp.stack([log_weights, log_weights[::-1]]))
    np.testing.assert_array_equal(both["counts"], [counts, counts])
    nothing = compute(u, jnp.full(400, jnp.nan))
    np.testing.assert_array_equal(nothing["counts"], counts)
    np.testing.assert_array_equal(nothing["next_masses"], 0.0)


def test_wrong_shapes_are_refused():
    coordinates = internal_coordinates(molecules.published("alanine_dipeptide"))
    with pytest.raises(ValueError, match=r"u must have shape \(samples, 60\), got \(4, 59\)"):
        ramachandran_path_arrays(jnp.zeros((4, 59)), jnp.zeros(4), coordinates)
    with pytest.raises(ValueError, match=r"log_weights must have shape \(4,\), got \(3,\)"):
        ramachandran_path_arrays(jnp.zeros((4, 60)), jnp.zeros(3), coordinates)
    with pytest.raises(ValueError, match="num_bins must be at least 1, got 0"):
        ramachandran_path_arrays(jnp.zeros((4, 60)), jnp.zeros(4), coordinates, 0)


_CENTERS, _WIDTHS = np.array([[-80.0, 140], [-75, -30], [55, 40]]), np.array([18.0, 15, 9])


def _plot(weights, num_samples=200_000):
    """A Ramachandran plot of three Gaussians, two large and an island."""
    rng = np.random.default_rng(1)
    label = rng.choice(3, size=num_samples, p=weights)
    degrees = _CENTERS[label] + _WIDTHS[label, None] * rng.normal(size=(num_samples, 2))
    return ramachandran_histogram(*np.deg2rad(degrees).T).masses


@pytest.fixture(scope="module")
def lost():
    """Basins of a truth with 1 % in the island, and the path of a run that loses it at step 13 of 11 to 15."""
    truth = _plot([0.7, 0.29, 0.01])
    plots = [_plot([0.5, 0.3, 0.2]), _plot([0.6, 0.35, 0.05])] + 3 * [_plot([0.7, 0.3, 0.0])]
    counts = np.round(200_000 * np.array(plots)).astype(np.int32)
    basins = find_basins(truth, 200_000)
    assert len(basins.weights) == 3
    return np.arange(11, 16), basin_path(counts, np.stack([truth] * 5), basins, truth), basins


def test_basins_along_the_path(lost):
    steps, path, basins = lost
    # Basins reach to the saddles, some three standard deviations away.
    np.testing.assert_allclose(path.truth, basins.weights, rtol=1e-9)
    np.testing.assert_allclose(path.weights[0], [0.5, 0.3, 0.2], atol=0.01)
    np.testing.assert_allclose(path.weights.sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(path.next_weights, np.broadcast_to(path.truth, (5, 3)), rtol=1e-12)
    # Of a two-dimensional Gaussian 1 − e⁻² lies less than 2 kT above its lowest free energy.
    np.testing.assert_allclose(path.core_truth[2] / path.truth[2], 1 - np.exp(-2), atol=0.08)
    assert np.all(path.core_weights[2:, 2] == 0)
    (sentence,) = describe_basin_path(steps, path, basins)
    assert sentence.startswith("basin 3 at (5")
    assert "from step 13 on (0 %; 0 % at step 15)" in sentence
    assert describe_basin_path(steps[:2], path._replace(core_weights=path.core_weights[:2]), basins) == []
    rare = path._replace(core_weights=np.arange(1, 6)[:, None] * 0.01 * path.core_truth)
    assert [text.split(" of the truth, ")[1] for text in describe_basin_path(steps, rare, basins)] == [
        f"never has {100 * 0.1 * share:.2g} % of the samples (at most {100 * 0.05 * share:.2g} %, at step {steps[-1]})."
        for share in path.core_truth
    ]
    with pytest.raises(ValueError, match=r"counts must have the \(100, 100\) bins of basins, got shape \(2, 50, 50\)"):
        basin_path(np.ones((2, 50, 50)), np.ones((2, 100, 100)), basins, np.ones((100, 100)))


def _is_drawn(path):
    return np.ptp(imread(path)[..., :3], axis=-1).max() > 0.3  # a saturated color


def test_figure_of_basins(tmp_path, drawn, lost):
    steps, path, basins = lost
    file = tmp_path / "basins.png"
    assert figures.plot_basin_path(steps, [path, path], [basins, basins], file, pair_names=["ALA1", "ALA2"]) == file
    assert _is_drawn(file)
    first, _ = drawn[0].axes
    assert first.get_title(loc="left") == "ALA1"
    assert first.get_yscale() == "log"
    labels = [text.get_text() for text in first.get_legend().get_texts()]
    assert len(labels) == 3
    assert labels[2].startswith("3 (5")
    curve = first.get_lines()[6].get_ydata()  # three lines a basin
    np.testing.assert_array_equal(curve, np.where(path.weights[:, 2] > 0, path.weights[:, 2], np.nan))
    assert first.get_ylim()[0] < path.truth.min()
    box, (width, height) = drawn[0].get_tightbbox(), drawn[0].get_size_inches()
    assert (box.x0 >= 0) & (box.y0 >= 0) & (box.x1 <= width) & (box.y1 <= height)
    with pytest.raises(ValueError, match="basin_paths must have one entry for each of the 4 steps"):
        figures.plot_basin_path(steps[:4], [path], [basins], file)
    with pytest.raises(ValueError, match="basins must have one entry for each of one or more pairs, got 0"):
        figures.plot_basin_path(steps, [path], [], file)
    with pytest.raises(ValueError, match=r"pair_names must have one name for each of the 1 pairs, got \[\]"):
        figures.plot_basin_path(steps, [path], [basins], file, pair_names=[])


def test_figure_of_the_path(tmp_path, drawn):
    counts = np.zeros((20, 2, 100, 100), np.int32)
    counts[:, 0] = np.round(_plot([0.7, 0.29, 0.01]) * 200_000)
    counts[1:, 1, 3, 30] = np.arange(1, 20)  # the first step has no sample here
    options = {"temperature_kelvin": 300.0, "pair_names": ["ALA1", "ALA2"]}
    path = figures.plot_ramachandran_path(np.arange(5, 25), counts, tmp_path / "path.png", **options)
    assert _is_drawn(path)
    panels = np.reshape(drawn[0].axes[:16], (2, 8))
    titles = [axes.get_title(loc="left") for axes in panels[0]]
    assert (titles[0], titles[-1], len(set(titles))) == ("step 5", "step 24", 8)
    shown = panels[0, 3].images[0].get_array().filled(np.nan)
    coarse = counts[0, 0].reshape(50, 2, 50, 2).sum((1, 3))
    np.testing.assert_array_equal(shown, free_energy_kj_mol(coarse, 300.0).T)  # rows ψ, columns φ
    assert [text.get_text() for text in panels[1, 0].texts] == ["no samples"]
    assert [axes.get_ylabel().split("\n")[0] for axes in panels[:, 0]] == ["ALA1", "ALA2"]
    assert "kJ/mol" in drawn[0].axes[16].get_ylabel()
    figures.plot_ramachandran_path(np.arange(3), counts[:3], tmp_path / "short.png", temperature_kelvin=300.0)
    assert len(drawn[1].axes) == 2 * 3 + 1  # every step once


def test_figure_of_the_path_refuses_wrong_input(tmp_path):
    counts, path, options = np.ones((3, 2, 4, 4)), tmp_path / "path.png", {"temperature_kelvin": 300.0}
    for steps, wrong in (
        (np.arange(2), counts),
        (np.arange(0), counts[:0]),
        (np.arange(3), counts[:, :0]),
        (np.arange(3), counts[0]),
    ):
        with pytest.raises(ValueError, match="counts must have shape"):
            figures.plot_ramachandran_path(steps, wrong, path, **options)
    with pytest.raises(ValueError, match="num_columns must be at least 2, got 1"):
        figures.plot_ramachandran_path(np.arange(3), counts, path, num_columns=1, **options)
    with pytest.raises(ValueError, match=r"pair_names must have one name for each of the 2 pairs, got \['ALA1'\]"):
        figures.plot_ramachandran_path(np.arange(3), counts, path, pair_names=["ALA1"], **options)
