"""train.py and sample.py in processes of their own, on a tiny flow of the real molecule with real energies."""

import fcntl
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SERVER = pathlib.Path(__file__).parent / "program_server.py"
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


def _train_arguments(workdir, changes):
    return [
        "experiments/train.py",
        "--config=experiments/configs/alanine_dipeptide_quick.py",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in {**OVERRIDES, **changes}.items()),
    ]


def _train_command(workdir, changes):
    return [sys.executable, *_train_arguments(workdir, changes)]


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


def _functions(run):
    """Ways to call ``run``, which takes a program with its arguments and returns its CompletedProcess."""
    return SimpleNamespace(
        run=run,
        train=lambda workdir, **changes: run(*_train_arguments(workdir, changes)),
        sample=lambda workdir, *flags: run("experiments/sample.py", f"--workdir={workdir}", *flags),
    )


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory):
    """One directory of all of pytest's workers."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = tmp_path_factory.getbasetemp().parent / "programs"
        directory.mkdir(exist_ok=True)
        return directory
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="session")
def environment(shared_directory):
    """Of the programs, which share what they compile: half a minute of each would go to compiling the same step."""
    return {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(shared_directory / "compilation_cache")}


@pytest.fixture(scope="session")
def programs(environment, shared_directory):
    """Functions that run a program and return its CompletedProcess; keyword arguments of ``train`` are overrides."""

    def finished_run(**changes):
        """A run trained to its end: its directory, which others read as well, and what the program printed."""
        name = "-".join(["run", *(f"{name}={value}" for name, value in sorted(changes.items()))])
        workdir, output = shared_directory / name, shared_directory / f"{name}.txt"
        with (shared_directory / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # until it is closed: the same run of another worker is waited for
            if not output.exists():
                result = _run(environment, *_train_command(workdir, changes))
                assert result.returncode == 0, result.stdout + result.stderr
                output.write_text(result.stdout)
        return workdir, output.read_text()

    functions = _functions(lambda *arguments: _run(environment, sys.executable, *arguments))
    functions.num_steps = NUM_STEPS
    functions.finished_run = finished_run
    functions.kill_training = lambda workdir, checkpoint, **changes: _kill_training(
        environment, workdir, checkpoint, changes
    )
    return functions


@pytest.fixture(scope="session")
def short_programs(environment):
    """Likewise, for starts that end before they compute: three seconds of imports are spared."""
    with subprocess.Popen(
        [sys.executable, SERVER], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:

        def run(*arguments):
            server.stdin.write(json.dumps(arguments) + "\n")
            server.stdin.flush()
            return subprocess.CompletedProcess(arguments, *json.loads(server.stdout.readline()))

        yield _functions(run)
