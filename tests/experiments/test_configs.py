"""Every configuration file: the published numbers, and first annealing steps of the quick ones with device energies."""

import importlib
import math
import pathlib
import sys

import jax
import numpy as np
import pytest

from cmtjax import energies, molecules, targets
from cmtjax.runs import build

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"
SYSTEMS = ("alanine_dipeptide", "alanine_tetrapeptide", "alanine_hexapeptide", "elil_tetrapeptide")


def load_config(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXPERIMENTS), *sys.path])
    return importlib.import_module(f"configs.{name}").get_config().to_dict()


# Table 7 of Constrained Mass Transport, and the parameter counts and dimensions that the papers give.
TABLE_7 = {
    "alanine_dipeptide": (1000, 4e-5, 400_000, 0.8, 500_000, 7_421_512),
    "alanine_tetrapeptide": (1000, 5e-5, 400_000, 1.8, 500_000, 9_452_376),
    "alanine_hexapeptide": (2000, 5e-5, 800_000, 1.4, 1_000_000, 12_124_616),
    "elil_tetrapeptide": (2000, 5e-5, 1_600_000, 0.7, 1_000_000, 13_727_952),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_published_settings(name, monkeypatch):
    config = load_config(name, monkeypatch)
    build.check_config(config)
    assert config["molecule"]["name"] == name
    batch_size, learning_rate, num_gradient_steps, entropy_bound, buffer_size, num_parameters = TABLE_7[name]
    method, optimizer = config["method"], config["optimizer"]
    assert method["batch_size"] == batch_size
    assert optimizer["learning_rate"] == learning_rate
    assert method["num_gradient_steps"] * config["num_annealing_steps"] == num_gradient_steps
    assert method["num_gradient_steps"] == 2000
    assert (method["trust_region_bound"], method["entropy_bound"]) == (0.3, entropy_bound)
    assert method["buffer_size"] == buffer_size
    assert (optimizer["weight_decay"], optimizer["warmup_steps"], optimizer["max_gradient_norm"]) == (1e-5, 1000, 100)
    assert config["energy"]["regularization"] == {"scheme": "additive_log", "high": 1e8, "maximum": 1e20}
    coordinates = targets.boltzmann(molecules.published(name), lambda x: x[..., 0, 0])
    params = jax.eval_shape(build.build_flow(config["flow"], coordinates.domain).init, jax.random.key(0))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == num_parameters


def test_every_configuration_can_run(monkeypatch):
    names = sorted(path.stem for path in (EXPERIMENTS / "configs").glob("*.py") if path.stem != "base")
    assert len(names) >= 2 * len(SYSTEMS)
    for name in names:
        build.check_config(load_config(name, monkeypatch))


# The smallest and the largest by default: each compiles for more than a minute.
@pytest.mark.parametrize(
    "name", [SYSTEMS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in SYSTEMS[1:3]), SYSTEMS[3]]
)
def test_first_annealing_steps_of_the_quick_settings(name, monkeypatch):
    config = load_config(f"{name}_quick", monkeypatch)
    build.check_config(config)
    # Its conditioners and bounds with less data and fewer couplings: compiling takes a minute, a full step half of one.
    config["flow"]["num_couplings"] = 2
    config["method"] |= {"buffer_size": 4000, "num_gradient_steps": 40, "num_diagnostic_samples": 2000}
    config["method"]["batch_size"] = 500
    molecule = molecules.published(name)
    target = targets.boltzmann(
        molecule,
        energies.amber_energy(molecule.system),
        temperature_kelvin=config["temperature_kelvin"],
        regularization=config["energy"]["regularization"],
    )
    method = build.build_method(config, target, build.build_flow(config["flow"], target.domain))
    update = jax.jit(method.update)
    state, info = jax.jit(method.init)(jax.random.key(0)), None
    rows = []
    for _ in range(2):
        state, info = update(state)
        rows.append(jax.device_get(info))
    for row in rows:
        assert all(np.all(np.isfinite(value)) for value in row)
        assert row.dual_status == 0
        assert row.num_failed == 0
        # The base is nothing like the target, so the trust region is active, and met to 0.1 %.
        np.testing.assert_allclose(row.kl, config["method"]["trust_region_bound"], rtol=1e-3)
        assert row.trust_region_multiplier > 1.0
    assert rows[-1].training_loss < rows[0].training_loss


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "sgd"}, "optimizer.name must be one of"),
        ({"name": "muon", "weight_decay": 1e-5}, "weight_decay must be 0 with Muon"),
        ({"name": "muon", "matrix_learning_rate": -1.0}, "matrix_learning_rate must be positive"),
        ({"learning_rate": math.inf}, "learning_rate is out of range, got inf"),
        ({"average_decay": math.inf}, r"optimizer.average_decay must be in"),
        ({"average_decay": 1.0}, r"optimizer.average_decay must be in \[0, 1\), got 1.0"),
    ],
)
def test_optimizers_that_cannot_be_are_refused(changes, message, monkeypatch):
    config = load_config("alanine_dipeptide_quick", monkeypatch)
    config["optimizer"] |= changes
    with pytest.raises(ValueError, match=message):
        build.check_config(config)
