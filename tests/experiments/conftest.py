"""train.py and sample.py in processes of their own, on a tiny flow of the real molecule with real energies."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

ROOT = pathlib.Path(__file__).parents[2]
NUM_STEPS = 4
OVERRIDES = {
    "num_annealing_steps": NUM_STEPS,
    "flow.num_couplings": 1,
    "flow.hidden_sizes": "(16,)",
    "method.trust_region_bound": 0.3,
    "method.buffer_size": 2000,
    "method.batch_size": 100,
    "method.num_gradient_steps": 10,
    "method.chunk_size": 1000,
    "method.num_diagnostic_samples": 500,
    "optimizer.warmup_steps": 5,
    "evaluation.num_samples": 3000,
}


def _train_command(workdir, changes):
    return [
        sys.executable,
        "experiments/train.py",
        "--config=experiments/configs/alanine_dipeptide_quick.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in {**OVERRIDES, **changes}.items()),
    ]


def _run(environment, *command):
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)


def _kill_training(environment, workdir, checkpoint, changes):
    """Trains until a checkpoint appears, and kills the process there and then."""
    process = subprocess.Popen(
        _train_command(workdir, changes),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 500
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert checkpoint.exists()


@pytest.fixture(scope="session")
def programs(tmp_path_factory):
    """Functions that run a program and return its CompletedProcess; keyword arguments of ``train`` are overrides.

    The processes share what they compile, also those of pytest's other workers: half a minute of each would go to
    compiling the same step.
    """
    if "PYTEST_XDIST_WORKER" in os.environ:
        cache = tmp_path_factory.getbasetemp().parent / "compilation_cache"
    else:
        cache = tmp_path_factory.mktemp("compilation_cache")
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}

    def finished_run(**changes):
        """A run trained to its end: its directory and what the program printed."""
        workdir = tmp_path_factory.mktemp("runs") / "finished"
        result = _run(environment, *_train_command(workdir, changes))
        assert result.returncode == 0, result.stdout + result.stderr
        return workdir, result.stdout

    return SimpleNamespace(
        num_steps=NUM_STEPS,
        finished_run=finished_run,
        run=lambda *arguments: _run(environment, sys.executable, *arguments),
        train=lambda workdir, **changes: _run(environment, *_train_command(workdir, changes)),
        sample=lambda workdir, *flags: _run(
            environment, sys.executable, "experiments/sample.py", f"--workdir={workdir}", *flags
        ),
        kill_training=lambda workdir, checkpoint, **changes: _kill_training(environment, workdir, checkpoint, changes),
    )
