"""A run that is killed (SIGKILL) wherever it happens to be ends like one that is not."""

import importlib.util
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmtjax.runs import load_checkpoint, open_existing, open_run

# So small that a few kills do not let the run come to its end.
_MAX_STEPS_TO_KILL = 6
_PROGRAM = Path(__file__).with_name("fake_training.py")


@pytest.fixture(scope="module")
def fake_training():
    spec = importlib.util.spec_from_file_location("fake_training", _PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _start(workdir):
    return subprocess.Popen(
        [sys.executable, str(_PROGRAM), str(workdir)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _kill_and_resume(tmp_path, fake_training, num_kills, seed):
    fake_training.train(tmp_path / "whole")
    rng = random.Random(seed)
    interrupted = tmp_path / "interrupted"
    starts = []
    for _ in range(num_kills):
        with _start(interrupted) as process:
            starts.append(process.stdout.readline())
            for _ in range(rng.randint(0, _MAX_STEPS_TO_KILL)):
                process.stdout.readline()
            # A step takes about 0.15 s, most of it in the checkpoint: the kill hits any part of it.
            time.sleep(rng.uniform(0.0, 0.2))
            process.kill()
    fake_training.train(interrupted)  # from here to the end, in this process
    assert (interrupted / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
    assert (interrupted / "timings.csv").read_bytes() == (tmp_path / "whole" / "timings.csv").read_bytes()
    assert (interrupted / "summary.json").read_bytes() == (tmp_path / "whole" / "summary.json").read_bytes()
    for path in (interrupted, tmp_path / "whole"):
        steps, plots = open_existing(path).read_ramachandran_path()
        assert steps.tolist() == plots["counts"][:, 0, 1, 1].tolist() == list(range(1, fake_training.NUM_STEPS + 1))
    template = fake_training.init(fake_training.jax.random.key(0))
    _, expected = load_checkpoint(tmp_path / "whole", template)
    step, state = load_checkpoint(interrupted, template)
    assert step == fake_training.NUM_STEPS
    for a, b in zip(fake_training.jax.tree.leaves(state), fake_training.jax.tree.leaves(expected), strict=True):
        assert (a == b).all()
    return starts


def test_killed_run_ends_as_an_uninterrupted_one(tmp_path, fake_training, capfd):
    starts = _kill_and_resume(tmp_path, fake_training, num_kills=3, seed=0)
    assert starts[0] == "from 0\n"
    # The kills hit a run on its way: the last start found checkpoints and had steps left.
    assert starts[-1].startswith("from ")
    assert 0 < int(starts[-1].split()[1]) < fake_training.NUM_STEPS
    # And a second start of a finished run does nothing.
    before = (tmp_path / "interrupted" / "metrics.csv").stat().st_mtime_ns
    capfd.readouterr()
    fake_training.train(tmp_path / "interrupted")
    captured = capfd.readouterr()
    assert captured.out == "finished\n"
    assert captured.err == ""  # orbax is quiet
    assert (tmp_path / "interrupted" / "metrics.csv").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_run_ends_as_an_uninterrupted_one_many_kills(tmp_path, fake_training, seed):
    _kill_and_resume(tmp_path, fake_training, num_kills=10, seed=seed)


def test_lock_dies_with_its_process(tmp_path, fake_training):
    with _start(tmp_path / "run") as process:
        process.stdout.readline()
        with pytest.raises(ValueError, match=str(process.pid)):
            fake_training.train(tmp_path / "run")
        process.kill()
    open_run(tmp_path / "run", fake_training.CONFIG).close()
