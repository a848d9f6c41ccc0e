"""simulate.py and evaluate.py: a data set made, resumed and compared with a trained run."""

import importlib
import json
import pathlib
import shutil

import numpy as np
import pytest

import cmtjax
from cmtjax import datasets, runs

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


@pytest.fixture(scope="module")
def evaluated(data, run, programs, tmp_path_factory):
    """The run, evaluated against the data set; and what the program printed."""
    copy = tmp_path_factory.mktemp("evaluated") / "run"
    shutil.copytree(run, copy)
    result = _evaluate(programs, copy, data[0])
    assert result.returncode == 0, result.stdout + result.stderr
    return copy, result.stdout


def _forget_the_end(path, num_chunks):
    """Makes of a finished data set what a stop after its first chunks leaves."""
    for chunk in sorted(path.glob("chunk_*.npz"))[num_chunks:]:
        chunk.unlink()
    metadata = json.loads((path / "metadata.json").read_text())
    del metadata["diagnostics"]
    (path / "metadata.json").write_text(json.dumps({**metadata, "finished": False}))


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
    pairs, center = stored.coordinates.ramachandran_pairs[0], stored.coordinates.window_center
    phi, psi = (center[dim] + 2 * np.pi * (u[:, :, dim].astype(np.float64) - 0.5) for dim in pairs)
    phi, psi = (np.mod(angle + np.pi, 2 * np.pi) - np.pi for angle in (phi, psi))
    of_chains = np.mean((phi > 0) & (phi < 2.5), axis=0)
    assert diagnostics["phi_positive"]["ALA1"]["weight"] == pytest.approx(np.mean(of_chains), abs=1e-9)
    assert diagnostics["phi_positive"]["ALA1"]["standard_error"] == pytest.approx(np.std(of_chains, ddof=1) / 2)
    assert diagnostics["phi_positive"]["ALA1"]["num_visiting_chains"] == np.sum(of_chains > 0)
    with np.load(path / "ramachandran.npz") as arrays:
        assert set(arrays) == {"masses", "edges_rad", "pair_names"}
        assert arrays["pair_names"].tolist() == ["ALA1"]
        edges = arrays["edges_rad"]
        expected = np.histogram2d(phi.reshape(-1), psi.reshape(-1), bins=(edges, edges))[0] / u[..., 0].size
        # Single precision of the angles may move one draw in a thousand over an edge.
        np.testing.assert_allclose(arrays["masses"], [expected], atol=2.1 / u[..., 0].size)
    assert np.all((u >= 0) & (u <= 1))
    # Near the published mean of −96.47 kJ/mol: within the 30 kJ/mol that 60 dimensions fluctuate by.
    assert np.mean(stored.energy_kj_mol()) == pytest.approx(-96.5, abs=30)


def test_a_stopped_simulation_ends_in_the_same_samples(data, programs, tmp_path):
    path, _ = data
    copy = tmp_path / "stopped"
    shutil.copytree(path, copy)
    _forget_the_end(copy, num_chunks=2)
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


def test_an_interrupted_evaluation_goes_on_with_the_same_samples(run, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2] / "experiments"))
    evaluation_samples = importlib.import_module("evaluation_samples")
    monkeypatch.setattr(evaluation_samples, "_BATCH_SIZE", 500)
    monkeypatch.setattr(evaluation_samples, "_BATCHES_PER_PART", 2)
    shutil.copytree(run, tmp_path / "run")
    directory = runs.open_existing(tmp_path / "run")
    sampler = cmtjax.load_sampler(directory.path)

    def draw(**changes):
        settings = {"num_samples": 2900, "num_whole": 700, "seed": 3} | changes
        return evaluation_samples.draw(directory, sampler, np.array([2, 50]), **settings)

    expected, expected_whole = draw()
    shutil.rmtree(directory.path / evaluation_samples.DIRECTORY)
    lines = 0

    def interrupt(_):
        nonlocal lines
        lines += 1
        if lines == 4:
            raise KeyboardInterrupt
        return ""

    with monkeypatch.context() as context:
        context.setattr(evaluation_samples.program, "format_duration", interrupt)
        with pytest.raises(KeyboardInterrupt):
            draw()
    parts = sorted((directory.path / evaluation_samples.DIRECTORY).glob("*.npz"))
    assert [part.name for part in parts] == ["part_00000.npz"]
    written = parts[0].stat().st_mtime_ns
    samples, whole = draw()
    assert parts[0].stat().st_mtime_ns == written  # what was drawn before is read, not drawn again
    assert samples.u.shape == (2900, 2)
    for name in ("u", "log_q", "log_p"):
        np.testing.assert_array_equal(getattr(samples, name), getattr(expected, name))
    np.testing.assert_array_equal(whole, expected_whole)
    np.testing.assert_array_equal(whole[:, [2, 50]], samples.u[:700])
    # Another seed's samples are others: the parts of the first are thrown away.
    other, _ = draw(seed=4)
    assert not np.any(np.all(other.u == samples.u, axis=1))


def test_evaluation_adds_to_the_summary_and_draws(data, run, evaluated):
    before = json.loads((run / "summary.json").read_text())
    run, output = evaluated
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
    assert "NOT MIXED" in output
    assert "basins of ALA1" in output
    assert "| basin (φ, ψ) | truth | entries |" in output
    assert "| peptide bond | cis: truth |" in output
    for name in ("ramachandran_truth", "energies_truth", "log_weights", "torsions", "bonds_angles", "basin_path"):
        assert (run / "figures" / f"{name}.png").stat().st_size > 10_000
    with np.load(run / "ramachandran.npz") as arrays:
        for name in ("truth_masses", "model_masses", "reweighted_masses"):
            assert arrays[name].shape == (1, 100, 100)
            assert arrays[name].sum() == pytest.approx(1, abs=1e-9)
        assert arrays["pair_names"].tolist() == ["ALA1"]
    assert not (run / "evaluation").exists()


def test_an_imported_truth_replaces_what_was_found_against_another(data, evaluated, programs, tmp_path):
    stored = datasets.open_data_set(data[0])
    frames_nm = stored.coordinates.to_physical(stored.u().reshape(-1, stored.num_dims))[0]
    np.save(tmp_path / "published.npy", 10 * np.asarray(frames_nm, np.float64).reshape(len(frames_nm), -1))
    imported = tmp_path / "imported"
    result = programs.run(
        "experiments/simulate.py",
        "--engine=import",
        "--molecule=alanine_dipeptide",
        f"--source={tmp_path / 'published.npy'}",
        f"--data={imported}",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "1,200 frames" in result.stdout
    # float32 positions of 1 nm, and bonds of some 3e5 kJ/mol/nm²: energies to 0.01 kJ/mol.
    energies = datasets.open_data_set(imported).energy_kj_mol().reshape(-1)
    np.testing.assert_allclose(energies, stored.energy_kj_mol().reshape(-1), atol=0.01)
    with np.load(data[0] / "ramachandran.npz") as simulated, np.load(imported / "ramachandran.npz") as arrays:
        assert arrays["pair_names"].tolist() == ["ALA1"]
        # One frame may lie on the edge of a bin, as below.
        assert np.abs(arrays["masses"] - simulated["masses"]).sum() < 2.1 / 1200

    copy = tmp_path / "run"
    shutil.copytree(evaluated[0], copy)
    before = json.loads((copy / "summary.json").read_text())
    assert "ram_tw2" in before
    result = _evaluate(programs, copy, imported, "--num_transport_samples=0")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nobody knows whether it has mixed" in result.stdout
    summary = json.loads((copy / "summary.json").read_text())
    assert not any("ram_tw2" in name for name in summary)
    assert summary["evaluation_data_problems"] == []
    assert summary["evaluation_data"] == str(imported)
    assert summary["target_evaluations"] == before["target_evaluations"]
    # The same angles but for rounding: of 1200 frames one may lie on the edge of a bin.
    assert summary["ram_tv"] == pytest.approx(before["ram_tv"], abs=1e-3)


def test_several_data_sets_are_one_truth(data, evaluated, programs, tmp_path):
    metadata = json.loads((data[0] / "metadata.json").read_text())
    second = tmp_path / "second"
    shutil.copytree(data[0], second)  # as if made with another seed, of draws in another order
    (second / "metadata.json").write_text(json.dumps({**metadata, "seed": 1}))
    chunks = sorted(second.glob("chunk_*.npz"))
    for chunk in chunks:
        with np.load(chunk) as arrays:
            reversed_arrays = {name: arrays[name][::-1] for name in ("u", "energy_kj_mol")}
        np.savez(chunk, **reversed_arrays)
    copy = tmp_path / "run"
    shutil.copytree(evaluated[0], copy)
    alone = json.loads((copy / "summary.json").read_text())
    result = _evaluate(programs, copy, f"{data[0]},{second}")
    assert result.returncode == 0, result.stdout + result.stderr
    together = json.loads((copy / "summary.json").read_text())
    assert together["evaluation_data"] == f"{data[0]},{second}"
    assert together["evaluation_data_mixed"] is False
    assert "truth: these 2 data sets as one, 8 chains, NOT MIXED: " in result.stdout
    assert result.stdout.count("NOT MIXED") == 4  # each of them, and both as one at the beginning and the end
    # The chains of the first, and those again with their chunks backwards: what has not mixed there has not here.
    assert together["evaluation_data_r_hat"] > 1.01
    assert any("above 1.01: chains disagree" in problem for problem in together["evaluation_data_problems"])
    assert alone["evaluation_data_problems"] == metadata["diagnostics"]["mixing_problems"]
    assert "evaluation_data_r_hat" not in alone
    assert (alone["num_truth_chains"], together["num_truth_chains"]) == (4, 8)
    assert together["num_truth_samples"] == 2 * alone["num_truth_samples"] == 2400
    # The same points twice: every mean over the truth stays, but for rounding of sums.
    for name in ("ram_tv", "nll", "eubo", "phi_positive_weight_truth", "energy_mean_kj_mol_truth"):
        assert together[name] == pytest.approx(alone[name], rel=1e-6), name


def test_wrong_requests_are_one_line(data, run, programs, tmp_path):
    for flags, text in (
        ((f"--data={tmp_path / 'none'},{data[0]}",), "does not exist"),
        (("--num_transport_samples=1",), "must be 0 or at least 2"),
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
    result = programs.run("experiments/simulate.py", "--molecule=alanine_tetrapeptide", f"--data={data[0]}")
    assert result.returncode == 2
    assert "is of alanine_dipeptide in amber96-obc1" in result.stderr
    starts = f"--starts={data[0]}"
    for molecule, flag, text in (
        ("alanine_dipeptide", "--platform=CUDA", "one of"),
        ("alanine_dipeptide", f"--starts={tmp_path / 'none'}", "does not exist"),
        ("alanine_tetrapeptide", starts, "--starts must be a data set of this molecule"),
        ("alanine_dipeptide", "--temperatures=300,inf", "positive numbers in ascending order"),
        ("alanine_dipeptide", "--force_field=amber99sbildn-obc2", "force_field must be empty or 'amber96-obc1'"),
        ("", starts, "exactly one must be given of --molecule, --sequence, --pdb_file"),
    ):
        result = programs.run(
            "experiments/simulate.py", "--engine=openmm", f"--molecule={molecule}", f"--data={tmp_path}/x", flag
        )
        assert result.returncode == 2
        assert text in result.stderr
        assert not (tmp_path / "x").exists()  # the corrected command may use it
