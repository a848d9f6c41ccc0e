"""simulate.py and evaluate.py: a data set made, resumed and compared with a trained run."""

import importlib
import json
import pathlib
import shutil

import numpy as np
import pytest

from cmtjax import datasets

SIMULATE = (
    "experiments/simulate.py",
    "--molecule=alanine_dipeptide",
    "--num_chains=4",
    "--warm_up_draws=10",
    "--num_draws=300",
    "--draws_per_chunk=100",
    "--temperatures=300,400",
    "--leapfrog_steps=3",
    "--moves_per_sweep=1",
)


@pytest.fixture(scope="module")
def data(programs, tmp_path_factory):
    path = tmp_path_factory.mktemp("data_sets") / "dipeptide"
    result = programs.run(*SIMULATE, f"--data={path}")
    assert result.returncode == 0, result.stdout + result.stderr
    return path, result.stdout


@pytest.fixture(scope="module")
def run(programs):
    return programs.finished_run()[0]


def _evaluate(programs, run, data, *flags):
    return programs.run(
        "experiments/evaluate.py",
        f"--workdir={run}",
        f"--data={data}",
        "--num_samples=3000",
        "--num_marginal_samples=2000",
        "--num_transport_samples=200",
        *flags,
    )


def test_simulation_says_what_it_made(data):
    path, output = data
    stored = datasets.open_data_set(path)
    assert stored.is_finished
    assert (stored.num_draws, stored.num_chains, stored.num_dims) == (300, 4, 60)
    diagnostics = stored.metadata["diagnostics"]
    # Two temperatures, four ladders, one trajectory of three steps: one evaluation each; warm-up comes in whole chunks.
    assert diagnostics["warm_up_evaluations"] == 100 * 4 * 2 * 3
    assert diagnostics["target_evaluations"] == 400 * 4 * 2 * 3
    assert 0.3 < diagnostics["acceptance"][0] <= 1
    assert 0.05 < diagnostics["exchange_acceptance"][0] < 1
    # A few hundred short trajectories cannot have mixed all torsions, and the program must say so.
    assert diagnostics["mixed"] is False
    assert "NOT MIXED" in output
    assert all("ess" in torsion for torsion in diagnostics["torsions"].values())
    assert (path / "ramachandran.png").stat().st_size > 10_000
    u = stored.u()
    assert np.all((u >= 0) & (u <= 1))
    # Near the published mean of −96.47 kJ/mol: within the 30 kJ/mol that 60 dimensions fluctuate by.
    assert np.mean(stored.energy_kj_mol()) == pytest.approx(-96.5, abs=30)


def test_a_stopped_simulation_ends_in_the_same_samples(data, programs, tmp_path):
    path, _ = data
    copy = tmp_path / "stopped"
    shutil.copytree(path, copy)
    (copy / "chunk_00003.npz").unlink()
    (copy / "chunk_00002.npz").unlink()
    metadata = json.loads((copy / "metadata.json").read_text())
    del metadata["diagnostics"]
    (copy / "metadata.json").write_text(json.dumps({**metadata, "finished": False}))
    result = programs.run(*SIMULATE, f"--data={copy}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resuming" in result.stdout
    first, second = datasets.open_data_set(path), datasets.open_data_set(copy)
    np.testing.assert_array_equal(first.u(), second.u())
    assert first.metadata["diagnostics"] == second.metadata["diagnostics"]
    again = programs.run(*SIMULATE, f"--data={copy}")
    assert "nothing to do" in again.stdout


def test_another_simulation_cannot_go_on_there(data, programs, tmp_path):
    copy = tmp_path / "other"
    shutil.copytree(data[0], copy)
    metadata = json.loads((copy / "metadata.json").read_text())
    (copy / "metadata.json").write_text(json.dumps({**metadata, "finished": False}))
    result = programs.run(*SIMULATE, f"--data={copy}", "--leapfrog_steps=4")
    assert result.returncode == 2
    assert "leapfrog_steps is 3 there and 4 here" in result.stderr


def test_evaluation_adds_to_the_summary_and_draws(data, run, programs):
    before = json.loads((run / "summary.json").read_text())
    result = _evaluate(programs, run, data[0])
    assert result.returncode == 0, result.stdout + result.stderr
    summary = json.loads((run / "summary.json").read_text())
    assert summary["finished"]
    assert set(before) <= set(summary)
    for name in ("ram_kl", "ram_tv", "ram_tw2", "eubo", "nll", "forward_kl", "energy_w2", "phi_positive_weight_truth"):
        assert np.isfinite(summary[name])
        assert f"{name}_standard_error" in summary
    for name in ("ram_kl_reweighted", "ram_tv_reweighted", "torsion_tv_mean_reweighted", "cis_0_weight"):
        assert np.isfinite(summary[name])
    assert 0 <= summary["ram_tv"] <= 1
    # log q̃ and log p̃ belong to one measure: their difference by both ways.
    assert summary["eubo"] - summary["nll"] == pytest.approx(
        -np.mean(datasets.open_data_set(data[0]).energy_kj_mol()) / 2.494339, rel=1e-5
    )
    assert summary["eubo"] >= summary["log_z"] - 5 * summary["log_z_standard_error"]
    assert summary["evaluation_data_mixed"] is False
    assert "NOT MIXED" in result.stdout
    assert "basins" in result.stdout
    for name in ("ramachandran_truth", "energies_truth", "log_weights", "torsions", "bonds_angles"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 10_000
    with np.load(run / "ramachandran.npz") as arrays:
        for name in ("truth_masses", "model_masses", "reweighted_masses"):
            assert arrays[name].shape == (1, 100, 100)
            assert arrays[name].sum() == pytest.approx(1, abs=1e-9)
        assert arrays["pair_names"].tolist() == ["ALA1"]
    assert not (run / "evaluation").exists()


def test_wrong_requests_are_one_line(data, run, programs, tmp_path):
    for flags, text in (
        ((f"--data={tmp_path / 'none'}",), "does not exist"),
        (("--num_samples=10",), "at least 1000"),
    ):
        result = _evaluate(programs, run, data[0], *flags)
        assert result.returncode == 2
        assert text in result.stderr
        assert "Traceback" not in result.stderr
    result = programs.run(
        "experiments/simulate.py", "--molecule=alanine_dipeptide", f"--data={tmp_path}/x", "--temperatures=400,300"
    )
    assert result.returncode == 2
    assert "ascending" in result.stderr


def test_rates_are_summed_also_where_there_are_none(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2] / "experiments"))
    padded = importlib.import_module("simulate_device")._padded
    rates = np.array([[[0.5, np.nan]], [[0.25, 1.0]]])
    np.testing.assert_array_equal(padded(rates, 3), [[0.75, 1.0, 0.0], [2, 1, 0]])
    # One temperature alone has nobody to exchange with.
    np.testing.assert_array_equal(padded(np.zeros((4, 1, 0)), 1), [[0.0], [0.0]])
