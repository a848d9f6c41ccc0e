"""benchmark.py as a user runs it, with tiny sizes: every suite ends and writes rows that make sense."""

import importlib
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import jax
import pytest

ROOT = pathlib.Path(__file__).parents[2]
TINY = (
    "--config.flow.num_couplings=1",
    "--config.flow.hidden_sizes=(16,16)",
    "--config.method.buffer_size=400",
    "--config.method.chunk_size=150",
    "--config.method.batch_size=50",
    "--config.method.num_diagnostic_samples=50",
)


def _run(tmp_path, *flags):
    output = tmp_path / "benchmark.json"
    command = [sys.executable, "experiments/benchmark.py", "--num_rounds=1", f"--output={output}", *flags]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    written = json.loads(output.read_text())
    assert written["environment"]["device"]["kind"]
    assert written["environment"]["cpu_count"] >= 1
    assert written["environment"]["versions"]["jax"]
    return written, result.stdout


@pytest.fixture
def suite(monkeypatch):
    """Imports a module of the suites as benchmark.py does."""
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_gradient_step(tmp_path):
    written, printed = _run(tmp_path, "--suite=gradient_step", "--num_gradient_steps=2", *TINY)
    rows = {row["program"]: row for row in written["rows"]}
    assert written["flags"]["config"]["method"]["batch_size"] == 50
    assert {"products", "step", "step, distrax spline"} <= set(rows)
    assert rows["products"]["ratio"] == 1.0
    assert all(row["milliseconds"] > 0.0 for row in rows.values())
    # A step of this size is all overhead: it cannot be as fast as its few products.
    assert rows["step"]["ratio"] > 1.0
    has_torch = all(importlib.util.find_spec(name) for name in ("torch", "nflows"))
    assert any(name.startswith("torch with nflows") for name in rows) == has_torch
    assert ("not installed" in printed) != has_torch
    # Programs of JAX hold the activations of a batch; PyTorch does not tell.
    assert all((row["temporary_mib"] is None) == name.startswith("torch") for name, row in rows.items())
    assert rows["step"]["temporary_mib"] > 0.0


def test_pytorch_is_not_measured_beside_another_device(suite, monkeypatch):
    gradient_step = suite("gradient_step")
    monkeypatch.setattr(gradient_step.torch_step, "is_available", lambda: True)
    assert gradient_step.why_without_torch() == ""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert "would measure the CPU" in gradient_step.why_without_torch()


def test_annealing_step(tmp_path):
    control_variate = "--config.method.control_variate=0.9"
    written, _ = _run(tmp_path, "--suite=annealing_step", "--num_gradient_steps=3", control_variate, *TINY)
    rows = {row["part"]: row for row in written["rows"]}
    assert set(rows) == {"update", "sampling", "energies", "dual", "fit", "other", "one gradient step"}
    parts = ("sampling", "energies", "dual", "fit", "other")
    assert sum(rows[part]["seconds"] for part in parts) == pytest.approx(rows["update"]["seconds"])
    assert rows["fit"]["seconds"] == pytest.approx(3 * rows["one gradient step"]["seconds"])
    assert rows["fit"]["configured_seconds"] == pytest.approx(2000 * rows["one gradient step"]["seconds"])
    assert rows["update"]["compile_seconds"] > 0.0
    assert rows["update"]["temporary_mib"] > 0.0
    assert rows["update"]["peak_mib"] > rows["update"]["temporary_mib"]


def test_the_measured_fit_is_that_of_a_run(suite, monkeypatch):
    annealing_step = suite("annealing_step")
    config = importlib.import_module("configs.alanine_dipeptide").get_config()
    config.flow.update(num_couplings=1, hidden_sizes=(4,))
    config.method.update(buffer_size=200, chunk_size=100, batch_size=20, num_diagnostic_samples=20, control_variate=0.9)
    config.method.held_out_fraction = 0.33
    calls = {}

    class Traced(Exception):
        pass

    def record(module):
        original = module.fit_flow

        def fit_flow(*args, **options):
            # Flow, optimizer, parameters, state and key are the same kinds of things; then come points and weights.
            calls[module] = (
                [argument.shape for argument in args[5:]],
                {name: getattr(option, "shape", option) for name, option in options.items()},
            )
            if module is annealing_step:
                raise Traced
            return original(*args, **options)

        monkeypatch.setattr(module, "fit_flow", fit_flow)

    record(sys.modules["cmtjax.methods.cmt"])
    record(annealing_step)
    with pytest.raises(Traced):
        annealing_step.benchmark(config.to_dict(), 5, 1)
    of_run, measured = calls.values()
    assert of_run == measured
    assert measured == (
        [(134, 60), (134,)],
        {"batch_size": 20, "num_steps": 5, "log_q": (134,), "control_variate": 0.9},
    )


def test_energies(tmp_path):
    written, _ = _run(
        tmp_path, "--suite=energies", "--molecules=alanine_dipeptide", "--batch_sizes=1,20", "--num_workers=1"
    )
    assert [row["batch"] for row in written["rows"]] == [1, 20]
    for row in written["rows"]:
        # One turn: its ratio is that of its rates.
        assert row["device_over_pool"] == pytest.approx(row["device_per_second"] / row["pool_per_second"])
        assert row["gradient_time_ratio"] == pytest.approx(row["device_per_second"] / row["gradient_per_second"])
        assert row["bare_per_second"] > 0.0
        assert math.isfinite(row["temporary_mib"])
        assert row["peak_mib"] > 10.0  # Python alone takes more


def test_pool(tmp_path):
    written, _ = _run(tmp_path, "--suite=pool", "--molecules=alanine_dipeptide", "--batch_sizes=20", "--num_workers=1")
    (row,) = written["rows"]
    assert row["pool_ratio"] == pytest.approx(row["pool_per_second"] / row["bare_per_second"])


@pytest.mark.parametrize("flag", ["--molecules=alanine_decapeptide", "--batch_sizes=10,many", "--suite=none"])
def test_wrong_flags_are_refused(flag, short_programs):
    result = short_programs.run("experiments/benchmark.py", flag)
    assert result.returncode != 0
    assert flag.split("=")[0].removeprefix("--") in result.stderr + result.stdout


@pytest.mark.slow
def test_dynamics(tmp_path):
    written, _ = _run(
        tmp_path, "--suite=dynamics", "--molecules=alanine_dipeptide", "--batch_sizes=2", "--num_workers=1"
    )
    (row,) = written["rows"]
    assert (row["molecule"], row["ladders"]) == ("alanine_dipeptide", 2)
    assert row["device_steps_per_second"] > 0.0
    assert row["device_over_openmm"] == pytest.approx(row["device_steps_per_second"] / row["openmm_steps_per_second"])
    assert row["compile_seconds"] > 0.0
    # Two trajectories of eight steps at six temperatures make a sample.
    assert row["steps_per_sample"] == 96
    assert row["hours_of_1e7_samples"] * 3600 * row["device_steps_per_second"] == pytest.approx(96e7)


def test_kernels(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "")  # with LLVM's optimizations: without, products vanish beside the slow rest
    written, _ = _run(tmp_path, "--suite=kernels", "--num_gradient_steps=2", *TINY)
    *rows, total = written["rows"]
    assert total["kernel"] == "all"
    assert len(rows) > 5
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert sum(row["milliseconds_per_step"] for row in rows) == pytest.approx(total["milliseconds_per_step"])
    # Matrix products of the conditioners are among them.
    assert any("dot" in row["kernel"] for row in rows)


def _profile(**planes):
    """Planes of lines of (name of an event, its duration in ns)."""
    return SimpleNamespace(
        planes=[
            SimpleNamespace(
                name=plane.replace("_", ":"),
                lines=[
                    SimpleNamespace(
                        name=line.replace("_", " "),
                        events=[SimpleNamespace(name=event, duration_ns=duration) for event, duration in events],
                    )
                    for line, events in lines.items()
                ],
            )
            for plane, lines in planes.items()
        ]
    )


def test_kernels_of_a_gpu_have_any_name(suite):
    product = "void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm>(Params)"
    profile = _profile(
        **{
            "/device_GPU_0": {
                "Stream #13(Compute)": [(product, 3e6), ("loop_add_fusion", 1e6), (product, 5e6)],
                "XLA Ops": [("dot.1", 8e6)],  # the same kernels once more
            },
            "/host_CPU": {"main": [("PjitFunction(fit)", 9e6), ("loop_add_fusion", 9e6)]},
        }
    )
    found = suite("kernels")._kernel_events(profile)
    assert found == {product: (2, pytest.approx(8e-3)), "loop_add_fusion": (1, pytest.approx(1e-3))}


def test_bookkeeping_of_a_cpu_is_no_kernel(suite):
    profile = _profile(
        **{
            "/host_CPU": {
                "tf_XLAEigen/1": [("dot.3", 2e6), ("ThunkExecutor::Execute", 9e6), ("while.2", 9e6)],
                "python": [("PjitFunction(fit)", 9e6), ("$gradient_step.py:93 program", 9e6), ("dot.3", 1e6)],
            }
        }
    )
    assert suite("kernels")._kernel_events(profile) == {"dot.3": (2, pytest.approx(3e-3))}


def _benchmark_all(tmp_path, fails, **variables):
    """The script with a python that only notes how it was called, and fails where asked to; its calls."""
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text(f'#!/bin/sh\necho "$*" >> "{tmp_path}/calls"\ncase "$*" in {fails}) exit 3;; esac\n')
    stub.chmod(0o755)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("NUM_GRADIENT_STEPS", "BATCH_SIZES")
    }
    environment |= {"PATH": f"{stub.parent}:{os.environ['PATH']}", **variables}
    command = ["sh", str(ROOT / "experiments" / "benchmark_all.sh"), str(tmp_path / "output")]
    (tmp_path / "calls").unlink(missing_ok=True)
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return result, (tmp_path / "calls").read_text().splitlines()


def test_all_suites_run_though_one_fails(tmp_path):
    result, calls = _benchmark_all(tmp_path, "*suite=kernels*|*quick.py*")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == "failed: annealing_step_alanine_dipeptide_quick kernels"
    suites = ("annealing_step", "annealing_step", "kernels", "gradient_step", "energies", "dynamics")
    assert [call.split("--suite=")[1].split()[0] for call in calls] == list(suites)
    # Shortened where the configured number takes hours.
    assert ["--num_gradient_steps=200" in call for call in calls] == [True] + [False] * 5
    assert not any("--batch_sizes" in call for call in calls)

    result, calls = _benchmark_all(tmp_path, "nothing", NUM_GRADIENT_STEPS="7", BATCH_SIZES="64,256")
    assert result.returncode == 0
    assert result.stderr == ""
    assert ["--num_gradient_steps=7" in call for call in calls] == [True, True] + [False] * 4
    assert ["--batch_sizes=64,256" in call for call in calls] == [False] * 5 + [True]
