"""Runs of several seeds: their directories, and resuming in step wherever they were killed."""

import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax.runs import (
    ConfigMismatchError,
    RunDirectoryError,
    RunLockedError,
    open_existing,
    open_run,
    open_runs,
    restore_checkpoints,
)

CONFIG = {"seed": 5, "num_seeds": 2, "method": {"bound": 0.3}, "energy": {"num_workers": 2}}
TEMPLATE = {"params": jnp.zeros(2)}


def _close(run_list):
    for run in run_list:
        run.close()


def _train(run, steps):
    """Rows and checkpoints of these steps, as of a run with parameters that tell seed and step."""
    for step in steps:
        run.append_metrics({"annealing_step": step, "loss": 1.0 / step})
        run.append_timings({"annealing_step": step, "seconds": 1.0})
        run.save_checkpoint(step, _state(run, step))


def _state(run, step):
    return {"params": jnp.array([run.config["seed"], step], jnp.float32)}


def test_one_seed_has_the_directory_itself(tmp_path):
    (run,) = open_runs(tmp_path / "run", CONFIG | {"num_seeds": 1})
    run.close()
    assert run.path == tmp_path / "run"
    with open_run(tmp_path / "run", CONFIG | {"num_seeds": 1}):
        pass


def test_several_seeds_have_a_directory_each(tmp_path):
    run_list = open_runs(tmp_path / "runs", CONFIG)
    assert sorted(entry.name for entry in (tmp_path / "runs").iterdir()) == ["seed_5", "seed_6"]
    for run, seed in zip(run_list, (5, 6), strict=True):
        assert run.config == {**CONFIG, "seed": seed, "num_seeds": 1}
        assert run.environment["seed"] == seed
    with pytest.raises(RunLockedError):
        open_runs(tmp_path / "runs", CONFIG)
    _close(run_list)
    _close(open_runs(tmp_path / "runs", CONFIG | {"energy": {"num_workers": 3}}, changeable=["energy.num_workers"]))
    assert open_existing(tmp_path / "runs" / "seed_6").config["energy"]["num_workers"] == 3
    # Each is a run like any other.
    open_run(tmp_path / "runs" / "seed_6", CONFIG | {"seed": 6, "num_seeds": 1, "energy": {"num_workers": 3}}).close()
    with pytest.raises(RunDirectoryError, match="several seeds: take one of seed_5, seed_6"):
        open_existing(tmp_path / "runs")


def test_a_refusal_releases_the_locks(tmp_path):
    _close(open_runs(tmp_path, CONFIG))
    with open_run(tmp_path / "seed_6", CONFIG | {"seed": 6, "num_seeds": 1}):
        with pytest.raises(RunLockedError, match="seed_6"):
            open_runs(tmp_path, CONFIG)
        open_run(tmp_path / "seed_5", CONFIG | {"num_seeds": 1}).close()
    with pytest.raises(ConfigMismatchError, match=r"method\.bound: 0\.3 in the run, 0\.2 asked for"):
        open_runs(tmp_path, CONFIG | {"method": {"bound": 0.2}})
    _close(open_runs(tmp_path, CONFIG))


def test_one_and_several_do_not_mix(tmp_path):
    open_run(tmp_path / "single", CONFIG | {"num_seeds": 1}).close()
    before = sorted(entry.name for entry in (tmp_path / "single").iterdir())
    with pytest.raises(RunDirectoryError, match="holds a single run, but num_seeds is 2"):
        open_runs(tmp_path / "single", CONFIG)
    assert sorted(entry.name for entry in (tmp_path / "single").iterdir()) == before
    _close(open_runs(tmp_path / "several", CONFIG))
    with pytest.raises(RunDirectoryError, match=r"several seeds \(seed_5, seed_6\), but num_seeds is 1; set it to 2"):
        open_runs(tmp_path / "several", CONFIG | {"num_seeds": 1})
    assert sorted(entry.name for entry in (tmp_path / "several").iterdir()) == ["seed_5", "seed_6"]


def test_other_seeds_are_refused(tmp_path):
    run_list = open_runs(tmp_path, CONFIG)
    for run in run_list:
        _train(run, [1])
    _close(run_list)
    for other in ({"num_seeds": 3}, {"seed": 6}, {"seed": 50}):
        with pytest.raises(RunDirectoryError, match=r"holds the runs \['seed_5', 'seed_6'\], but"):
            open_runs(tmp_path, CONFIG | other)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["seed_5", "seed_6"]


def test_a_creation_that_was_killed_is_done_again(tmp_path):
    open_run(tmp_path / "seed_5", CONFIG | {"num_seeds": 1}).close()
    (tmp_path / "seed_6").mkdir()
    (tmp_path / "seed_6" / "environment.json").write_text('{"torn')
    _close(open_runs(tmp_path, CONFIG))
    _close(open_runs(tmp_path, CONFIG | {"num_seeds": 3}))
    assert open_existing(tmp_path / "seed_7").config["seed"] == 7


def test_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunDirectoryError, match=r"thesis\.tex"):
        open_runs(tmp_path, CONFIG)
    with pytest.raises(RunDirectoryError, match="is a file"):
        open_runs(tmp_path / "thesis.tex", CONFIG)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("steps", "common"),
    [
        (([1, 2, 3], [1, 2, 3]), 3),
        (([1, 2, 3], [1, 2]), 2),  # killed between the checkpoints of step 3
        (([1, 2], [1, 2, 3]), 2),
        (([1], []), None),  # killed between those of the first step
        (([], []), None),
    ],
)
def test_runs_go_back_to_the_same_step(tmp_path, steps, common):
    run_list = open_runs(tmp_path, CONFIG)
    for run, done in zip(run_list, steps, strict=True):
        _train(run, done)
    _close(run_list)
    run_list = open_runs(tmp_path, CONFIG)
    restored = restore_checkpoints(run_list, TEMPLATE)
    if common is None:
        assert restored is None
    else:
        assert restored[0] == common
        for run, state in zip(run_list, restored[1], strict=True):
            np.testing.assert_array_equal(state["params"], _state(run, common)["params"])
    for run in run_list:
        assert run.read_metrics().get("annealing_step", np.array([])).tolist() == list(range(1, (common or 0) + 1))
        assert run.read_timings().get("annealing_step", np.array([])).tolist() == list(range(1, (common or 0) + 1))
        # A later checkpoint without its row would be what another start takes up.
        kept = [] if not run.checkpoints_directory.exists() else sorted(run.checkpoints_directory.iterdir())
        assert all(int(path.name) <= (common or 0) for path in kept)
        _train(run, [(common or 0) + 1])  # goes on
    _close(run_list)


def test_a_damaged_checkpoint_takes_all_runs_back(tmp_path, caplog):
    run_list = open_runs(tmp_path, CONFIG)
    for run in run_list:
        _train(run, [1, 2, 3])
    for path in (run_list[1].checkpoints_directory / "000003" / "manifest").iterdir():
        path.unlink()
    step, states = restore_checkpoints(run_list, TEMPLATE)
    assert (step, [state["params"].tolist() for state in states]) == (2, [[5.0, 2.0], [6.0, 2.0]])
    assert caplog.text.count("is damaged") == 1
    _close(run_list)


@pytest.mark.parametrize("steps", [([1, 2, 3], []), ([1, 2, 3, 4, 5], [1, 2, 3])])
def test_a_start_from_the_beginning_is_not_made_silently(tmp_path, steps):
    run_list = open_runs(tmp_path, CONFIG)
    for run, done in zip(run_list, steps, strict=True):
        _train(run, done)
    with pytest.raises(RunDirectoryError, match=r"no whole checkpoint of a common step \(newest seed_5: "):
        restore_checkpoints(run_list, TEMPLATE)
    assert run_list[0].read_metrics()["annealing_step"].tolist() == steps[0]  # nothing was dropped
    _close(run_list)
