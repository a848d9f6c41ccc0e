"""train.py and sample.py as a user runs them, on a tiny flow of the real molecule with real energies."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import mdtraj
import numpy as np
import pytest

import cmtjax
from cmtjax import molecules
from cmtjax.coordinates import internal_coordinates


@pytest.fixture(scope="module")
def finished(programs):
    return programs.finished_run()


def _checkpoint_params(workdir):
    return cmtjax.runs.restore_params(workdir)[1]


def test_a_run_leaves_everything_behind(finished, programs):
    workdir, output = finished
    for name in (
        "config.json",
        "environment.json",
        "metrics.csv",
        "timings.csv",
        "summary.json",
        "molecule/system.xml",
        "energy.npz",
    ):
        assert (workdir / name).is_file(), name
    for name in ("training", "path", "ramachandran", "ramachandran_path", "energies"):
        assert (workdir / "figures" / f"{name}.png").stat().st_size > 10_000
    lines = output.splitlines()
    assert "parameters; energies in JAX (every force is understood); compiling." in lines[0]
    assert sum(line.startswith("step ") for line in lines) == programs.num_steps
    assert "evaluation: 3,000 of 3,000 samples, 0 s left" in lines
    metrics = cmtjax.runs.open_existing(workdir).read_metrics()
    np.testing.assert_array_equal(metrics["target_evaluations"], [2000, 4000, 6000, 8000])
    # The trust region is active in the first steps, and the dual meets it to 0.1 %.
    np.testing.assert_allclose(metrics["kl"], 0.3, rtol=1e-3)
    assert metrics["held_out_loss"][-1] < metrics["held_out_loss"][0]
    steps, plots = cmtjax.runs.open_existing(workdir).read_ramachandran_path()
    assert steps.tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(plots["counts"].sum((2, 3)), np.full((4, 1), 2000))  # each buffer
    np.testing.assert_allclose(plots["next_masses"].sum((2, 3)), 1.0, rtol=1e-5)
    summary = json.loads((workdir / "summary.json").read_text())
    assert summary["num_samples"] == 3000
    assert 0.0 < summary["ess"] <= 1.0


def test_a_second_start_does_nothing(finished, short_programs):
    workdir, _ = finished
    before = (workdir / "metrics.csv").read_bytes()
    result = short_programs.train(workdir, **{"energy.num_workers": 1})  # the number of workers may change
    assert result.returncode == 0
    assert "finished; nothing to do" in result.stdout
    assert (workdir / "metrics.csv").read_bytes() == before


def test_another_config_is_refused(finished, short_programs):
    result = short_programs.train(finished[0], **{"method.trust_region_bound": 0.2})
    assert result.returncode == 2
    assert "method.trust_region_bound" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_killed_run_ends_like_an_uninterrupted_one(finished, programs, tmp_path):
    expected, _ = finished
    workdir = tmp_path / "killed"
    programs.kill_training(workdir, workdir / "checkpoints" / "000002")
    assert not (workdir / "summary.json").exists()
    result = programs.train(workdir)
    assert result.returncode == 0, result.stderr
    assert "resuming after step" in result.stdout
    assert (workdir / "metrics.csv").read_bytes() == (expected / "metrics.csv").read_bytes()
    assert (workdir / "summary.json").read_bytes() == (expected / "summary.json").read_bytes()
    paths = [cmtjax.runs.open_existing(path).read_ramachandran_path() for path in (workdir, expected)]
    jax.tree.map(np.testing.assert_array_equal, *paths)
    jax.tree.map(np.testing.assert_array_equal, _checkpoint_params(workdir), _checkpoint_params(expected))


def test_a_run_starts_from_the_flow_of_another(finished, programs, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    shutil.copytree(finished[0], first)
    rates = {"optimizer.learning_rate": 1e-30, "optimizer.matrix_learning_rate": 1e-30}
    changes = {"initial_run": str(first), "seed": 1, **rates}
    result = programs.train(second, **changes)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"starting from {first}, step 4" in result.stdout
    run = cmtjax.runs.open_existing(second)
    initial = run.environment["initial_run"]
    assert [initial[name] for name in ("annealing_step", "target_evaluations", "gradient_steps")] == [4, 8000, 40]
    assert initial["seconds"] == pytest.approx(
        cmtjax.runs.open_existing(first).read_timings()["seconds"].sum(), rel=1e-9
    )
    metrics = run.read_metrics()
    np.testing.assert_array_equal(metrics["target_evaluations"], [10_000, 12_000, 14_000, 16_000])
    np.testing.assert_array_equal(metrics["gradient_steps"], [50, 60, 70, 80])
    assert run.read_summary()["target_evaluations"] == 16_000
    # With rates of nearly nothing the flow stays what it was; what was zero is some 1e-30 now.
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-25)
    jax.tree.map(close, _checkpoint_params(second), _checkpoint_params(first))

    # A start that has a start itself: all that was spent counts.
    third = cmtjax.runs.read_initial_flow(second, run.config["flow"], cmtjax.load_sampler(second).coordinates)
    assert (third.target_evaluations, third.gradient_steps) == (16_000, 80)
    assert third.seconds == pytest.approx(initial["seconds"] + run.read_timings()["seconds"].sum(), rel=1e-9)
    assert third.environment["initial_run"] == initial

    # Resumed after its third step, it needs the first run no more.
    expected = {name: (second / name).read_bytes() for name in ("metrics.csv", "summary.json")}
    (second / "summary.json").unlink()
    shutil.rmtree(second / "checkpoints" / "000004")
    shutil.rmtree(first)
    result = programs.train(second, **changes)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "resuming after step 3" in result.stdout
    assert {name: (second / name).read_bytes() for name in expected} == expected


def test_a_start_that_does_not_fit_is_refused(finished, short_programs, tmp_path):
    first, _ = finished
    result = short_programs.train(tmp_path / "second", **{"initial_run": str(first), "flow.num_bins": 5})
    assert result.returncode == 2
    assert "other flow settings: num_bins: 8 in the run, 5 asked for" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "second").exists()

    run = cmtjax.runs.open_existing(first)
    own = cmtjax.load_sampler(first).coordinates
    initial = cmtjax.runs.read_initial_flow(first, run.config["flow"], own)
    jax.tree.map(np.testing.assert_array_equal, initial.params, _checkpoint_params(first))
    other = internal_coordinates(molecules.published("alanine_tetrapeptide"))
    with pytest.raises(cmtjax.runs.RunDirectoryError, match="initial_run: it must be of the same molecule"):
        cmtjax.runs.read_initial_flow(first, run.config["flow"], other)
    with pytest.raises(FileNotFoundError, match=r"initial_run: .*none does not exist"):
        cmtjax.runs.read_initial_flow(tmp_path / "none", run.config["flow"], own)
    without_tables = tmp_path / "without_tables"
    shutil.copytree(first, without_tables)
    (without_tables / "timings.csv").unlink()
    with pytest.raises(cmtjax.runs.RunDirectoryError, match=r"initial_run: .* must have metrics.csv and timings.csv"):
        cmtjax.runs.read_initial_flow(without_tables, run.config["flow"], own)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method.trust_regoin_bound": 1.0}, "trust_region_bound"),
        ({"method.batch_size": 3000}, "batch_size must be at most"),
        ({"flow.num_bins": 1}, "num_bins"),
        ({"energy.regularization.scheme": "none"}, "scheme"),
        ({"molecule.name": "alanine_decapeptide"}, "alanine_dipeptide"),
        ({"energy.backend": "charmm"}, "energy.backend must be one of"),
        ({"optimizer.average_decay": 1.0}, "optimizer.average_decay must be in [0, 1), got 1.0"),
        ({"num_seeds": 0}, "num_seeds must be at least 1"),
        ({"evaluation.num_samples": 0}, "evaluation.num_samples must be at least 2"),
    ],
)
def test_mistakes_are_one_line(changes, message, short_programs, tmp_path):
    result = short_programs.train(tmp_path / "run", **changes)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()  # the corrected command may use the directory


def test_a_mistake_leaves_an_existing_directory_empty(short_programs, tmp_path):
    result = short_programs.train(tmp_path, **{"molecule.name": "alanine_decapeptide"})
    assert result.returncode == 2
    assert not any(tmp_path.iterdir())


def test_samples_carry_their_weights(finished, programs, tmp_path):
    workdir, _ = finished
    output = tmp_path / "samples.npz"
    result = programs.sample(workdir, "--num_samples=300", f"--output={output}")
    assert result.returncode == 0, result.stderr
    samples = np.load(output)
    assert samples["positions_nm"].shape == (300, 22, 3)
    # log q from positions; log p̃ from OpenMM, where the program computed in JAX.
    molecule = molecules.load(workdir / "molecule")
    sampler = cmtjax.load_sampler(workdir)
    # Positions went through float32 and back to internal coordinates.
    np.testing.assert_allclose(sampler.log_prob(samples["positions_nm"]), samples["log_q"], atol=0.05)
    assert np.all(np.isfinite(samples["log_weights"]))
    np.testing.assert_allclose(samples["log_p"] - samples["log_q"], samples["log_weights"], rtol=1e-5)
    with cmtjax.energies.OpenMMPool(molecule.system, 1, "Reference") as pool:
        energies_kj_mol = pool.evaluate(samples["positions_nm"])[0]
    low = energies_kj_mol < 2000.0  # below the regularization
    assert np.sum(low) > 5
    expected = -energies_kj_mol[low] / 2.494339
    np.testing.assert_allclose(samples["log_p"][low], expected, rtol=1e-4, atol=0.01)  # float32 energies


@pytest.mark.parametrize("suffix", ["dcd", "pdb"])
def test_samples_are_read_by_mdtraj(finished, programs, tmp_path, suffix):
    workdir, _ = finished
    output = tmp_path / f"samples.{suffix}"
    # 75 of 300: that many are drawn above, too, by what was compiled there.
    result = programs.sample(workdir, "--num_samples=75", f"--output={output}", "--resample", "--seed=1")
    assert result.returncode == 0, result.stderr
    topology = str(workdir / "molecule" / "topology.pdb")
    trajectory = mdtraj.load(str(output), top=topology) if suffix == "dcd" else mdtraj.load(str(output))
    assert trajectory.xyz.shape == (75, 22, 3)
    reference = mdtraj.load(topology)
    assert [a.name for a in trajectory.topology.atoms] == [a.name for a in reference.topology.atoms]
    # A bond of the flow is within 0.035 nm of its length at the minimum; PDB files round to 1e-4 nm.
    bonds = [[0, 1]]
    difference = mdtraj.compute_distances(trajectory, bonds) - mdtraj.compute_distances(reference, bonds)
    assert np.max(np.abs(difference)) < 0.0352
    np.testing.assert_array_equal(np.load(tmp_path / "samples.log_weights.npy"), np.zeros(75))


def test_sampler_in_other_code(finished):
    workdir, _ = finished
    sampler = cmtjax.load_sampler(workdir, energy_fn=lambda x: 100.0 * jnp.sum(x**2, (-2, -1)))
    draw = jax.jit(lambda sampler, key: sampler.sample(key, num_samples=64))
    samples = draw(sampler, jax.random.key(0))
    assert samples.positions_nm.shape == (64, 22, 3)
    expected = -100.0 * np.sum(np.asarray(samples.positions_nm) ** 2, (1, 2)) / 2.494339
    np.testing.assert_allclose(samples.log_p, expected, rtol=1e-5)
    np.testing.assert_allclose(samples.log_weights, samples.log_p - samples.log_q, rtol=1e-5)
    # Parameters are an argument: other ones through the same compiled function give other samples.
    changed = jax.tree.map(lambda x: 1.5 * x, sampler)
    assert not np.allclose(draw(changed, jax.random.key(0)).log_q, samples.log_q)
    in_domain, log_prob = jax.jit(sampler.in_domain), jax.jit(sampler.log_prob)
    assert np.all(in_domain(samples.positions_nm))
    assert not np.any(in_domain(-samples.positions_nm))  # the mirror image
    gradient = jax.jit(jax.grad(sampler.log_prob))(samples.positions_nm[0])
    assert np.all(np.isfinite(gradient))
    # Rigid motion does not change the density.
    shifted = samples.positions_nm[:, :, jnp.array([1, 2, 0])] + 0.3
    np.testing.assert_allclose(log_prob(shifted), log_prob(samples.positions_nm), atol=0.02)


def test_the_sampler_needs_no_openmm(finished, programs):
    code = (
        "import sys; sys.modules['openmm'] = None; import cmtjax, jax; "
        f"print(cmtjax.load_sampler({str(finished[0])!r}).sample(jax.random.key(0), num_samples=2).log_weights.shape)"
    )
    result = programs.run("-c", code)
    assert result.stdout.strip() == "(2,)", result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workdir=missing", "--output=x.npz"], "missing"),
        (["--workdir=RUN", "--output=x.xyz"], ".dcd"),
        (["--workdir=RUN", "--output=missing/x.npz"], "--output"),
        (["--workdir=RUN", "--output=x.npz", "--num_samples=0"], "--num_samples"),
    ],
)
def test_mistakes_of_sample_are_one_line(finished, short_programs, flags, message):
    flags = [flag.replace("RUN", str(finished[0])) for flag in flags]
    result = short_programs.run("experiments/sample.py", *flags)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
