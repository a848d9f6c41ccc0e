"""The programs with the OpenMM back end, which any force field can use."""

import jax
import numpy as np
import pytest

import cmtjax

# The platform is fixed so that two runs compute the same energies; by default each start measures which is faster.
CHANGES = {"energy.backend": "openmm", "energy.platform": "CPU", "num_annealing_steps": 3}


@pytest.fixture(scope="module")
def finished(programs):
    return programs.finished_run(**CHANGES)


def test_a_run_with_openmm(finished):
    workdir, output = finished
    assert "OpenMM workers on CPU (as configured); compiling." in output.splitlines()[0]
    run = cmtjax.runs.open_existing(workdir)
    assert (run.environment["energy_backend"], run.environment["openmm_platform"]) == ("openmm", "CPU")
    # The trust region is active in the first steps, and the dual meets it to 0.1 %.
    np.testing.assert_allclose(run.read_metrics()["kl"], 0.3, rtol=1e-3)
    assert run.read_summary()["num_samples"] == 3000
    # Energies that need processes are not loaded with a sampler.
    assert not run.energy_path.exists()
    samples = cmtjax.load_sampler(workdir).sample(jax.random.key(0), num_samples=3)
    assert samples.log_p is None
    assert samples.log_weights is None


# Host callbacks keep the program out of the cache of compilations; kills are tested without OpenMM by default.
@pytest.mark.slow
def test_a_killed_run_ends_like_an_uninterrupted_one(finished, programs, tmp_path):
    expected, _ = finished
    workdir = tmp_path / "killed"
    programs.kill_training(workdir, workdir / "checkpoints" / "000001", **CHANGES)
    # The platform is that of the first start, whatever the second asks for.
    result = programs.train(workdir, **CHANGES | {"energy.platform": ""})
    assert result.returncode == 0, result.stderr
    assert "OpenMM workers on CPU" in result.stdout
    assert "resuming after step" in result.stdout
    for name in ("metrics.csv", "summary.json"):
        assert (workdir / name).read_bytes() == (expected / name).read_bytes()


def test_samples_carry_weights(finished, programs, tmp_path):
    workdir, _ = finished
    result = programs.sample(workdir, "--num_samples=40", f"--output={tmp_path / 'samples.npz'}", "--num_workers=1")
    assert result.returncode == 0, result.stderr
    samples = np.load(tmp_path / "samples.npz")
    assert samples["positions_nm"].shape == (40, 22, 3)
    assert np.all(np.isfinite(samples["log_weights"]))
