"""Starting, ending, dying and waiting: what happens to the workers. Each case runs in an interpreter of its own."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import openmm
import pytest

from cmtjax.energies import OpenMMPool

PREAMBLE = """
import openmm
import numpy as np
from cmtjax.energies import OpenMMPool

def chain_system(num_particles=3):
    system = openmm.System()
    bonds = openmm.HarmonicBondForce()
    for particle in range(num_particles):
        system.addParticle(1.0)
        if particle:
            bonds.addBond(particle - 1, particle, 0.1, 1000.0)
    system.addForce(bonds)
    return system

def started(num_particles=3):
    pool = OpenMMPool(chain_system(num_particles), 2, "Reference")
    print(*[process.pid for process in pool._workers._processes], flush=True)
    return pool
"""


def start(script: str, **options) -> subprocess.Popen:
    # From standard input: there is no main module that a worker could run again.
    process = subprocess.Popen(
        [sys.executable, "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    process.stdin.write(PREAMBLE + script)
    process.stdin.close()
    process.stdin = None  # communicate must not flush it
    return process


def is_alive(process_id: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for yet does not."""
    try:
        status = pathlib.Path(f"/proc/{process_id}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def assert_ended(process_ids: list[int], within_seconds: float = 10.0) -> None:
    deadline = time.monotonic() + within_seconds
    while any(map(is_alive, process_ids)):
        assert time.monotonic() < deadline, [pid for pid in process_ids if is_alive(pid)]
        time.sleep(0.02)


def shared_memory_segments() -> set[str]:
    return set(os.listdir("/dev/shm"))


@pytest.mark.parametrize(
    ("ending", "return_code"),
    [
        ("with pool: raise KeyError('of the caller')", 1),
        ("import os; os._exit(4)", 4),
        (
            "import threading\n"
            "threading.Thread(target=lambda: pool.evaluate(np.zeros((10**6, 3, 3))), daemon=True).start()",
            0,
        ),
        pytest.param("pool.close()", 0, marks=pytest.mark.slow),
        pytest.param("", 0, marks=pytest.mark.slow),
        pytest.param("del pool", 0, marks=pytest.mark.slow),
        pytest.param("raise KeyError('of the caller')", 1, marks=pytest.mark.slow),
        pytest.param("import sys; sys.exit(3)", 3, marks=pytest.mark.slow),
    ],
)
def test_no_way_to_end_leaves_workers(ending, return_code):
    before = shared_memory_segments()
    process = start(f"pool = started()\npool.evaluate(np.zeros((5, 3, 3)))\n{ending}\n")
    output, errors = process.communicate(timeout=60)
    workers = [int(word) for word in output.split()]
    assert len(workers) == 2
    assert process.returncode == return_code, errors
    assert_ended(workers)
    assert "resource_tracker" not in errors
    assert shared_memory_segments() <= before


def ended(process, number):
    process.send_signal(number)
    return process.communicate(timeout=60)[1]


def interrupted(process):
    """Interrupts until it ends, like a person at a terminal: what Python gets within a destructor or a callback of C++
    that has nobody to tell is printed or dropped, and a loop goes on.
    """
    for _ in range(6):
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=10)[1]
    raise AssertionError("six interrupts did not end it.")


@pytest.mark.parametrize(
    "state",
    ["busy in jit", pytest.param("idle", marks=pytest.mark.slow), pytest.param("busy", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_signal_leaves_workers(number, state):
    before = shared_memory_segments()
    # An interrupt of an import can be dropped by what is imported, so that everything is there and compiled before.
    evaluate, wait = {
        "idle": ("pool.evaluate", "import time; time.sleep(1000)"),
        "busy": ("pool.evaluate", "while True: evaluate(np.zeros((10000, 3, 3)))"),
        "busy in jit": ("jax.jit(pool.energy)", "while True: evaluate(np.zeros((10000, 3, 3))).sum()"),
    }[state]
    begin = f"import jax\npool = started()\nevaluate = {evaluate}\nevaluate(np.zeros((10000, 3, 3)))\n"
    # a group of its own, to send what a terminal sends: the signal to everyone
    process = start(f"{begin}print('ready', flush=True)\n{wait}\n", start_new_session=True)
    workers = [int(word) for word in process.stdout.readline().split()]
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    assert len(workers) == 2
    assert all(map(is_alive, workers))
    try:
        errors = interrupted(process) if number == signal.SIGINT else ended(process, number)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)  # a failure must not fill the machine
        process.communicate()
        raise
    assert process.returncode != 0
    assert_ended(workers)
    assert "resource_tracker" not in errors
    assert shared_memory_segments() <= before


def test_workers_end_with_their_parent_though_a_fork_of_it_lives_on():
    # The fork keeps the pool's connections open: no worker sees the end of file.
    script = """
import os, sys, time
pool = started()
child = os.fork()
if child == 0:
    try:
        pool.evaluate(np.zeros((1, 3, 3)))
    except RuntimeError as error:
        os.write(1, f'{error}\\n'.encode())  # in one piece: the parent writes, too
    sys.stdout = None
    os.close(1)
    os.close(2)
    time.sleep(20)
    os._exit(0)
os.write(1, f'{child}\\n'.encode())
time.sleep(2)
os.kill(os.getpid(), 9)
"""
    process = start(script)
    output, errors = process.communicate(timeout=60)
    lines = output.splitlines()
    child = next((int(line) for line in lines[1:] if line.isdigit()), None)
    assert child is not None, (output, errors)
    try:
        assert_ended([int(word) for word in lines[0].split()])
        assert is_alive(child)
        assert "belongs to another process" in output
    finally:
        os.kill(child, signal.SIGKILL)


def chain_pool(num_workers: int = 2) -> OpenMMPool:
    system = openmm.System()
    system.addParticle(1.0)
    return OpenMMPool(system, num_workers, platform="Reference")


@pytest.mark.parametrize("closing", ["close", "with"])
def test_use_after_closing_is_a_clear_error(closing):
    import jax

    pool = chain_pool()
    compiled = jax.jit(pool.energy)
    positions = np.zeros((2, 1, 3), np.float32)
    np.testing.assert_array_equal(compiled(positions), 0.0)
    processes = pool._workers._processes
    if closing == "close":
        pool.close()
    else:
        with pool:
            pass
    pool.close()
    assert all(process.poll() is not None for process in processes)
    for use in (pool.evaluate, pool.energy):
        with pytest.raises(RuntimeError, match=r"Pool is closed: close\(\) was called"):
            use(positions)
    # JAX chooses the type, by whether it runs the program in this thread
    with pytest.raises((RuntimeError, ValueError), match=r"Pool is closed: close\(\) was called"):
        jax.block_until_ready(compiled(positions))


def test_a_dead_worker_is_named_and_closes_the_pool():
    pool = chain_pool(num_workers=3)
    processes = pool._workers._processes
    processes[1].kill()
    processes[1].wait()
    with pytest.raises(RuntimeError, match=rf"worker 1 of 3 \(process {processes[1].pid}\) died with exit code -9"):
        pool.evaluate(np.zeros((1000, 1, 3)))
    assert all(process.poll() is not None for process in processes)
    with pytest.raises(RuntimeError, match=r"closed: an evaluation did not finish .*worker 1 of 3"):
        pool.evaluate(np.zeros((1, 1, 3)))


def test_a_worker_that_dies_during_an_evaluation_does_not_hang_it():
    process = start("""
import os, threading, time
pool = started()
victim = pool._workers._processes[0].pid
threading.Timer(0.3, lambda: os.kill(victim, 9)).start()
import jax
try:
    while True:
        jax.block_until_ready(jax.jit(pool.energy)(np.zeros((10000, 3, 3), np.float32)))
except (RuntimeError, ValueError) as error:
    assert "worker 0 of 2" in str(error), error
    print("named")
""")
    output, errors = process.communicate(timeout=60)
    assert output.splitlines()[1:] == ["named"], errors


def test_a_system_that_workers_cannot_set_up_is_an_error_that_says_why():
    system = openmm.System()
    system.addParticle(1.0)
    force = openmm.CustomExternalForce("x + unknown_parameter")
    force.addParticle(0)
    system.addForce(force)
    with pytest.raises(RuntimeError, match="unknown_parameter"):
        OpenMMPool(system, 1, platform="Reference")


def test_importing_starts_nothing():
    script = """
import subprocess, sys
subprocess.Popen = None
import cmtjax.energies
assert "openmm" not in sys.modules
from cmtjax.energies import OpenMMPool
assert "jax" in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_workers_do_not_load_jax():
    process = start("""
import pathlib
pool = started()
for worker in pool._workers._processes:
    assert "jaxlib" not in pathlib.Path(f"/proc/{worker.pid}/maps").read_text()
""")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def assert_scan_does_not_hang(num_callbacks: int, cores: int) -> None:
    script = f"""
import os
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:{cores}])
import jax, jax.numpy as jnp
with started(num_particles=64) as pool:
    def step(positions, _):
        # two callbacks that do not wait for each other, on arguments of 307 KB
        means = [pool.energy(jnp.sin(positions) * scale).mean() for scale in (1.0, 2.0)]
        return 0.999 * positions, means[0] + means[1]
    run = jax.jit(lambda x: jax.lax.scan(step, x, length={num_callbacks} // 4)[1])
    x = jnp.linspace(0.0, 1.0, 400 * 64 * 3).reshape(400, 64, 3)
    results = [run(x), run(2 * x)]  # the second is dispatched while the first one runs
    assert all(jnp.isfinite(result).all() for result in results)
    assert pool.num_evaluations == {num_callbacks} * 400
"""
    with start(script) as process:
        try:
            _, errors = process.communicate(timeout=120 + 0.1 * num_callbacks)
        finally:
            process.kill()
    assert process.returncode == 0, errors


@pytest.mark.parametrize("cores", [1, 2])
def test_large_batches_inside_a_scan_do_not_hang(cores):
    assert_scan_does_not_hang(num_callbacks=200, cores=cores)


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2])
def test_ten_thousand_large_batches_inside_a_scan_do_not_hang(cores):
    assert_scan_does_not_hang(num_callbacks=10_000, cores=cores)
