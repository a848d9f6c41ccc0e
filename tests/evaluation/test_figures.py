import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from cmtjax.evaluation import figures, free_energy_kj_mol, ramachandran_histogram


def run_metrics(num_steps=95):
    """Columns like those of a run on alanine dipeptide."""
    rng = np.random.default_rng(0)
    step = np.arange(num_steps)
    noise = rng.normal(size=num_steps)
    is_annealing = step < 0.6 * num_steps
    trust_region = np.where(is_annealing, 1.3e6 * 10.0 ** (-step / 8), 0.0)
    entropy = np.maximum(-135 - 1.6 * step, -211.0) + 0.1 * noise
    beta = np.where(is_annealing, 1 - np.exp(-step / 10) + 1e-6, 1.0)
    return {
        "annealing_step": step,
        "trust_region_multiplier": trust_region,
        "entropy_multiplier": np.where(is_annealing & (step > 7), 3.0, 0.0),
        "kl": np.where(is_annealing, 0.3, 0.01),
        "kl_reached": np.where(is_annealing, 0.25, 0.01),
        "entropy_decay": np.where(is_annealing, 1.6, 0.0),
        "entropy_decay_reached": np.where(is_annealing, 1.5, 0.0) + 0.1 * noise,
        "alpha": np.where(is_annealing, 0.5, 1.0),
        "beta": beta,
        "ess_next": np.full(num_steps, 0.6),
        "ess_target": np.linspace(0, 0.85, num_steps),
        "log_z": np.where(is_annealing, -1e5 * np.exp(-step / 4) - 180, -175.01 + 0.01 * noise),
        "log_z_standard_error": np.where(is_annealing, 2.0, 0.01),
        "entropy": entropy,
        "training_loss": entropy + 0.5,
        "held_out_loss": entropy + 0.8,
        "gradient_norm": np.exp(3 + noise),
    }


def ramachandran_sample(num_samples=20_000, seed=0):
    """Two large modes and an island of weight 0.2 % at φ > 0."""
    rng = np.random.default_rng(seed)
    centers, widths = np.array([[-80.0, 150], [-75, -20], [55, -110]]), np.array([20.0, 15, 9])
    label = rng.choice(3, size=num_samples, p=[0.85, 0.148, 0.002])
    degrees = centers[label] + widths[label, None] * rng.normal(size=(num_samples, 2))
    return np.deg2rad(degrees).T


def assert_is_drawn(path):
    """The PNG has pixels of color and of white."""
    pixels = imread(path)[..., :3]
    assert pixels.shape[0] > 300
    assert pixels.shape[1] > 300
    assert np.ptp(pixels, axis=-1).max() > 0.3  # a saturated color
    assert np.mean(np.all(pixels == 1.0, axis=-1)) > 0.1


def assert_is_inside(figure):
    """No label is cut by the border (equal aspect under matplotlib's constrained layout does that)."""
    box = figure.get_tightbbox()  # inches
    width, height = figure.get_size_inches()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height


def panel(figure, title):
    (found,) = [axes for axes in figure.axes if title in axes.get_title(loc="left")]
    return found


def texts(axes):
    return [text.get_text() for text in axes.texts]


def labels(axes):
    return [] if axes.get_legend() is None else [text.get_text() for text in axes.get_legend().get_texts()]


def test_training_curves(tmp_path, drawn):
    path = figures.plot_training_curves(run_metrics(), tmp_path / "curves.png", reference_log_z=-175.009)
    assert path == tmp_path / "curves.png"
    assert_is_drawn(path)
    (figure,) = drawn
    assert_is_inside(figure)
    assert len(figure.axes) == 9
    lower, upper = panel(figure, "log Z").get_ylim()
    assert -175.3 < lower < -175.05  # the early −1e5 is off the axis, all of the last third is on it
    assert -174.98 < upper < -174.7
    assert "reference −175.009" in labels(panel(figure, "log Z"))
    multipliers = panel(figure, "multipliers")
    assert multipliers.get_yscale() == "symlog"
    lower, upper = multipliers.get_ylim()
    assert lower < 0
    assert upper > 2 * 1.3e6  # on a log scale clear of the border
    assert panel(figure, "gradient norm").get_yscale() == "log"
    gap = panel(figure, "held-out minus").lines[0].get_ydata()
    np.testing.assert_allclose(gap, 0.3, rtol=1e-9)  # rounding of the difference of values near 200
    assert all(texts(axes) == [] for axes in figure.axes)
    for title, expected in (
        ("KL to", ["asked for", "reached"]),
        ("entropy decay", ["asked for", "reached"]),
        ("loss (nats)", ["training", "held out"]),
        ("effective sample size", ["to the next density", "to the target"]),
    ):
        (axes,) = [
            a for a in figure.axes if title in a.get_title(loc="left") and "minus" not in a.get_title(loc="left")
        ]
        assert labels(axes) == expected


def test_training_curves_survive_what_runs_produce(tmp_path, drawn):
    metrics = {name: values.astype(float) for name, values in run_metrics(20).items()}
    del metrics["kl_reached"]
    metrics["entropy"][3:6] = np.nan
    metrics["entropy"][8] = np.inf
    metrics["log_z"][:5] = -np.inf
    metrics["log_z_standard_error"][:5] = np.inf
    metrics["held_out_loss"][:] = np.nan
    metrics["gradient_norm"][:] = 0.0
    metrics["trust_region_multiplier"][:] = 0.0
    assert_is_drawn(figures.plot_training_curves(metrics, tmp_path / "curves.png"))
    (figure,) = drawn
    assert labels(panel(figure, "KL to")) == ["asked for"]
    assert texts(panel(figure, "held-out minus")) == ["no values to show"]
    assert texts(panel(figure, "gradient norm")) == ["no values to show"]
    shown = panel(figure, "entropy of the flow").lines[0].get_ydata()
    assert np.flatnonzero(np.isnan(shown)).tolist() == [3, 4, 5, 8]
    assert np.isfinite(panel(figure, "log Z").get_ylim()).all()


def test_a_run_of_one_step_shows_its_points(tmp_path, drawn):
    metrics = run_metrics(1)
    assert_is_drawn(figures.plot_training_curves(metrics, tmp_path / "curves.png", reference_log_z=-175.0))
    assert_is_drawn(figures.plot_path(metrics, tmp_path / "path.png"))
    for title in ("entropy of the flow", "log Z", "gradient norm"):
        lines = panel(drawn[0], title).lines
        # a line of one point would be invisible
        assert any(line.get_marker() == "o" and len(line.get_xdata()) == 1 for line in lines), title


def test_path(tmp_path, drawn):
    metrics = run_metrics()
    assert_is_drawn(figures.plot_path(metrics, tmp_path / "path.png"))
    (figure,) = drawn
    assert_is_inside(figure)
    plane = panel(figure, "plane")
    np.testing.assert_allclose(
        plane.collections[0].get_offsets(), np.stack([metrics["beta"], metrics["alpha"]], axis=1)
    )
    lower, upper = panel(figure, "logarithmic").get_ylim()
    assert lower < 1e-6
    assert upper > 1.0
    figures.plot_path({"annealing_step": np.arange(3)}, tmp_path / "empty.png")
    assert all(texts(axes) == ["no values to show"] for axes in drawn[1].axes)


def test_ramachandran(tmp_path, drawn):
    phi, psi = ramachandran_sample()
    log_weights = 0.5 * np.sin(phi)
    log_weights[:5] = np.nan
    path = figures.plot_ramachandran(
        phi, psi, tmp_path / "ramachandran.png", temperature_kelvin=300.0, log_weights=log_weights
    )
    assert_is_drawn(path)
    plain, reweighted, color_bar = drawn[0].axes
    assert plain.get_title(loc="left") == "samples (N = 20,000)"
    weights = np.exp(log_weights[5:])
    share = 100 * weights.sum() ** 2 / (weights**2).sum() / weights.size
    assert reweighted.get_title(loc="left") == f"reweighted (ESS {share:.3g} %)"
    assert "kJ/mol" in color_bar.get_ylabel()
    assert plain.images[0].get_clim() == reweighted.images[0].get_clim() == (0.0, 25.0)
    shown = plain.images[0].get_array().filled(np.nan)
    expected = free_energy_kj_mol(ramachandran_histogram(phi, psi), 300.0).T
    np.testing.assert_array_equal(shown, expected)
    # The island at (55°, −110°) is where a reader looks for it and within the color scale: columns are φ, rows ψ.
    island = shown[int((-110 + 180) / 3.6) - 2 : int((-110 + 180) / 3.6) + 3, int((55 + 180) / 3.6) - 2 :][:, :5]
    assert np.sum(island < 25) >= 3
    assert plain.images[0].get_extent() == [-180, 180, -180, 180]
    assert plain.images[0].origin == "lower"


def test_ramachandran_of_several_pairs(tmp_path, drawn):
    phi, psi = ramachandran_sample(2000)
    phi, psi = np.stack([phi, psi, phi], axis=1), np.stack([psi, phi, -psi], axis=1)
    phi[3, 1] = np.nan
    options = {"temperature_kelvin": 300.0, "log_weights": np.zeros(2000), "pair_names": ["ALA 1", "ALA 2", "ALA 3"]}
    figures.plot_ramachandran(phi, psi, tmp_path / "ramachandran.png", **options)
    assert_is_inside(drawn[0])
    panels = drawn[0].axes[0:6:2]
    assert [axes.get_ylabel().split("\n")[0] for axes in panels] == ["ALA 1", "ALA 2", "ALA 3"]
    np.testing.assert_array_equal(
        panels[2].images[0].get_array().filled(np.nan),
        free_energy_kj_mol(ramachandran_histogram(phi[:, 2], psi[:, 2]), 300.0).T,
    )


def test_energy_histogram_ignores_clashes(tmp_path, drawn):
    rng = np.random.default_rng(2)
    energies = rng.normal(-60.0, 10.0, size=10_000)
    energies[:100] = 10 ** rng.uniform(5, 20, size=100)
    energies[100], energies[101] = np.inf, np.nan
    log_weights = -0.02 * (energies + 60)
    log_weights[100], log_weights[101] = -np.inf, np.nan
    assert_is_drawn(figures.plot_energy_histogram(energies, tmp_path / "energy.png", log_weights=log_weights))
    assert_is_inside(drawn[0])
    (axes,) = drawn[0].axes
    lower, upper = axes.get_xlim()
    assert -120 < lower < -90  # normal quantiles at 1e-3 and 0.5: the axis is [−100, 2] within noise
    assert -10 < upper < 20
    assert labels(axes) == [
        "samples (1.01 % above, 0 % below the axis)",
        "reweighted (0 % above, 0 % below the axis)",
    ]
    plain = axes.patches[1].get_data()
    assert np.sum(plain.values * np.diff(plain.edges)) == pytest.approx(1 - 101 / 9999, rel=1e-9)  # float64 sums
    reweighted = axes.patches[3].get_data()
    centers = 0.5 * (reweighted.edges[1:] + reweighted.edges[:-1])
    mean = np.sum(centers * reweighted.values * np.diff(reweighted.edges))
    # exp(−0.02 E) moves a normal of variance 100 by −2; standard error 0.1, five of them
    assert mean == pytest.approx(-62.0, abs=0.5)


@pytest.mark.parametrize("energies", [[np.inf, np.inf], [-100.0], [0.0, 0.0, 0.0], [1e20, 3e19, 2.0]])
def test_energy_histogram_of_odd_inputs(tmp_path, drawn, energies):
    path = figures.plot_energy_histogram(np.array(energies), tmp_path / "energy.png")
    assert path.stat().st_size > 5000
    (axes,) = drawn[0].axes
    assert texts(axes) == (["no finite energy"] if np.isinf(energies[0]) else [])


def test_errors(tmp_path):
    phi, psi = ramachandran_sample(100)
    path = tmp_path / "figure.png"
    with pytest.raises(ValueError, match=r"path must end in \.png"):
        figures.plot_path(run_metrics(), tmp_path / "figure.pdf")
    with pytest.raises(ValueError, match="annealing_step"):
        figures.plot_training_curves({"entropy": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="entropy"):
        figures.plot_training_curves({"annealing_step": np.arange(3), "entropy": np.zeros(2)}, path)
    with pytest.raises(ValueError, match="share a shape"):
        figures.plot_ramachandran(phi, psi[:50], path, temperature_kelvin=300.0)
    with pytest.raises(ValueError, match="log_weights must have shape"):
        figures.plot_ramachandran(phi, psi, path, temperature_kelvin=300.0, log_weights=np.zeros(5))
    with pytest.raises(ValueError, match="pair_names"):
        figures.plot_ramachandran(phi, psi, path, temperature_kelvin=300.0, pair_names=["a", "b"])
    with pytest.raises(ValueError, match="None of the 3 samples"):
        figures.plot_energy_histogram(np.full(3, np.nan), path)
    assert not path.exists()


def test_matplotlib_is_imported_by_figures_alone_and_pyplot_by_nobody():
    code = (
        "import sys, cmtjax, cmtjax.evaluation; assert 'matplotlib' not in sys.modules\n"
        "import cmtjax.evaluation.figures; assert 'matplotlib' in sys.modules\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
