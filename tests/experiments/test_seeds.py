"""train.py with two seeds and averaged parameters: a run directory each, one program, resumed in step."""

import json
import shutil

import jax
import numpy as np
import pytest

import cmtjax

SEEDS = ("seed_3", "seed_4")
CHANGES = {"seed": 3, "num_seeds": 2, "optimizer.average_decay": 0.8}


@pytest.fixture(scope="module")
def finished(programs):
    return programs.finished_run(**CHANGES)


def test_every_seed_has_a_run_of_its_own(finished, programs):
    workdir, output = finished
    assert sorted(entry.name for entry in workdir.iterdir()) == list(SEEDS)
    lines = output.splitlines()
    assert "energies in JAX (every force is understood); seeds 3, 4 in one program; compiling." in lines[0]
    assert sum(line.startswith("step ") for line in lines) == programs.num_steps
    log_z, plots = [], []
    for name, seed in zip(SEEDS, (3, 4), strict=True):
        run = cmtjax.runs.open_existing(workdir / name)
        assert (run.config["seed"], run.config["num_seeds"], run.environment["seed"]) == (seed, 1, seed)
        assert run.is_finished
        metrics = run.read_metrics()
        np.testing.assert_array_equal(metrics["target_evaluations"], [2000, 4000, 6000, 8000])
        # The trust region is active in the first steps, and the dual meets it to 0.1 %.
        np.testing.assert_allclose(metrics["kl"], 0.3, rtol=1e-3)
        assert run.read_timings()["annealing_step"].tolist() == [1, 2, 3, 4]
        steps, arrays = run.read_ramachandran_path()
        assert steps.tolist() == [1, 2, 3, 4]
        np.testing.assert_array_equal(arrays["counts"].sum((2, 3)), np.full((4, 1), 2000))
        plots.append(arrays["counts"])
        for figure in ("training", "path", "ramachandran", "ramachandran_path", "energies"):
            assert (run.figures_directory / f"{figure}.png").stat().st_size > 10_000
        log_z.append(metrics["log_z"][0])
    assert log_z[0] != log_z[1]
    assert np.any(plots[0] != plots[1])


def test_a_seed_is_sampled_like_a_single_run(finished, programs, short_programs, tmp_path):
    workdir, _ = finished
    result = programs.sample(workdir / "seed_4", "--num_samples=50", f"--output={tmp_path / 'samples.npz'}")
    assert result.returncode == 0, result.stderr
    samples = np.load(tmp_path / "samples.npz")
    assert np.all(np.isfinite(samples["log_weights"]))
    sampler = cmtjax.load_sampler(workdir / "seed_4")
    # Positions went through float32 and back to internal coordinates.
    np.testing.assert_allclose(sampler.log_prob(samples["positions_nm"]), samples["log_q"], atol=0.05)
    result = short_programs.sample(workdir, f"--output={tmp_path / 'samples.npz'}")
    assert result.returncode == 2
    assert "take one of seed_3, seed_4" in result.stderr


def test_killed_runs_end_like_uninterrupted_ones(finished, programs, tmp_path):
    expected, _ = finished
    workdir = tmp_path / "killed"
    # The second seed is saved last, so that the first may or may not have gone on.
    programs.kill_training(workdir, workdir / "seed_4" / "checkpoints" / "000002", **CHANGES)
    # As if the kill had come between the checkpoints of the two seeds.
    newest = [max((workdir / name / "checkpoints").glob("[0-9]*[0-9]")) for name in SEEDS]
    if newest[0].name == newest[1].name:
        shutil.rmtree(newest[1])
    result = programs.train(workdir, **CHANGES)
    assert result.returncode == 0, result.stderr
    assert f"resuming after step {int(newest[0].name) - 1}" in result.stdout
    for name in SEEDS:
        for file in ("metrics.csv", "summary.json"):
            assert (workdir / name / file).read_bytes() == (expected / name / file).read_bytes()
        params = [cmtjax.runs.restore_params(directory / name)[1] for directory in (workdir, expected)]
        jax.tree.map(np.testing.assert_array_equal, *params)
        paths = [
            cmtjax.runs.open_existing(directory / name).read_ramachandran_path() for directory in (workdir, expected)
        ]
        jax.tree.map(np.testing.assert_array_equal, *paths)


@pytest.mark.slow
def test_a_second_start_makes_up_for_what_is_missing(finished, programs, tmp_path):
    expected, _ = finished
    workdir = tmp_path / "copy"
    shutil.copytree(expected, workdir)
    assert programs.train(workdir, **CHANGES).stdout.count("is finished; nothing to do") == 2
    (workdir / "seed_4" / "summary.json").unlink()  # as if it had been killed in the evaluation
    plots = workdir / "seed_4" / "ramachandran.npz"  # as of an evaluation of an earlier checkpoint
    plots.touch()
    result = programs.train(workdir, **CHANGES)
    assert result.returncode == 0, result.stderr
    assert f"evaluating {workdir / 'seed_3'}: done before." in result.stdout
    assert json.loads((workdir / "seed_4" / "summary.json").read_text()) == json.loads(
        (expected / "seed_4" / "summary.json").read_text()
    )
    assert not plots.exists()


def test_one_and_several_do_not_mix(finished, short_programs):
    workdir, _ = finished
    for directory, num_seeds, message in (
        (workdir, 1, "set it to 2"),
        (workdir, 3, "but seed and num_seeds ask for"),
        (workdir / "seed_3", 2, "holds a single run"),
    ):
        result = short_programs.train(directory, **{**CHANGES, "num_seeds": num_seeds})
        assert result.returncode == 2
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert sorted(entry.name for entry in workdir.iterdir()) == list(SEEDS)
