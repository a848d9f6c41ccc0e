"""benchmark.py as a user runs it, with tiny sizes: every suite ends and writes rows that make sense."""

import importlib.util
import json
import math
import pathlib
import subprocess
import sys

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


def test_annealing_step(tmp_path):
    written, _ = _run(tmp_path, "--suite=annealing_step", "--num_gradient_steps=3", *TINY)
    rows = {row["part"]: row for row in written["rows"]}
    assert set(rows) == {"update", "sampling", "energies", "dual", "fit", "other", "one gradient step"}
    parts = ("sampling", "energies", "dual", "fit", "other")
    assert sum(rows[part]["seconds"] for part in parts) == pytest.approx(rows["update"]["seconds"])
    assert rows["fit"]["seconds"] == pytest.approx(3 * rows["one gradient step"]["seconds"])
    assert rows["fit"]["configured_seconds"] == pytest.approx(2000 * rows["one gradient step"]["seconds"])
    assert rows["update"]["compile_seconds"] > 0.0
    assert rows["update"]["temporary_mib"] > 0.0
    assert rows["update"]["peak_mib"] > rows["update"]["temporary_mib"]


def test_energies(tmp_path):
    written, _ = _run(
        tmp_path, "--suite=energies", "--molecules=alanine_dipeptide", "--batch_sizes=1,20", "--num_workers=1"
    )
    assert [row["batch"] for row in written["rows"]] == [1, 20]
    for row in written["rows"]:
        # One turn: its ratio is that of its rates.
        assert row["device_over_pool"] == pytest.approx(row["device_per_second"] / row["pool_per_second"])
        assert row["bare_per_second"] > 0.0
        assert math.isfinite(row["temporary_mib"])
        assert row["peak_mib"] > 10.0  # Python alone takes more


def test_pool(tmp_path):
    written, _ = _run(tmp_path, "--suite=pool", "--molecules=alanine_dipeptide", "--batch_sizes=20", "--num_workers=1")
    (row,) = written["rows"]
    assert row["pool_ratio"] == pytest.approx(row["pool_per_second"] / row["bare_per_second"])


@pytest.mark.parametrize("flag", ["--molecules=alanine_decapeptide", "--batch_sizes=10,many", "--suite=none"])
def test_wrong_flags_are_refused(flag):
    command = [sys.executable, "experiments/benchmark.py", flag]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
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
