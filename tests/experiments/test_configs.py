"""Every configuration file: the published numbers, a traced step, and first annealing steps of the quick ones."""

import functools
import importlib
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax import energies, molecules, targets
from cmtjax.runs import build

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"
SYSTEMS = ("alanine_dipeptide", "alanine_tetrapeptide", "alanine_hexapeptide", "elil_tetrapeptide")

CONFIGS = sorted(path.stem for path in (EXPERIMENTS / "configs").glob("*.py") if path.stem != "base")


def load_config(name, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXPERIMENTS), *sys.path])
    return importlib.import_module(f"configs.{name}").get_config().to_dict()


@functools.cache
def domain_of(molecule_name):
    return targets.boltzmann(molecules.published(molecule_name), lambda x: x[..., 0, 0]).domain


@functools.cache
def shapes_of_parameters(molecule_name, flow_settings):
    flow = build.build_flow(dict(flow_settings), domain_of(molecule_name))
    return jax.eval_shape(flow.init, jax.random.key(0))


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
    params = shapes_of_parameters(name, tuple(config["flow"].items()))
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params)) == num_parameters


def test_every_configuration_can_run(monkeypatch):
    assert len(CONFIGS) >= 2 * len(SYSTEMS)
    for name in CONFIGS:
        build.check_config(load_config(name, monkeypatch))


def abstract_state(tree):
    """What has to stay the same from step to step, or the next one would be compiled anew."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_of_every_configuration_keeps_the_shape_of_its_state(name, monkeypatch):
    """Traced, not compiled, with all parameters of the flow; densities and coordinates, which take long, stand in."""
    config = load_config(name, monkeypatch)
    domain = domain_of(config["molecule"]["name"])
    shapes = shapes_of_parameters(config["molecule"]["name"], tuple(config["flow"].items()))

    def log_prob(params, u):
        return u.sum(axis=-1) * jax.tree.leaves(params)[0].mean()

    def sample_and_log_prob(params, key, num_samples):
        u = jax.random.uniform(key, (num_samples, domain.num_dims))
        return u, log_prob(params, u)

    flow = build.build_flow(config["flow"], domain)._replace(
        init=lambda key: jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes),
        log_prob=log_prob,
        sample_and_log_prob=sample_and_log_prob,
    )
    target = targets.Target(
        domain, lambda u: (u, u[..., 0]), lambda x: (x, x[..., 0], x[..., 0] > 0), lambda x: x[..., 0]
    )
    method = build.build_method(config, target, flow)
    state = jax.eval_shape(method.init, jax.random.key(0))
    assert abstract_state(state.params) == abstract_state(shapes)
    following, info = jax.eval_shape(method.update, state)
    assert abstract_state(following) == abstract_state(state)
    assert all(leaf.shape == () for leaf in jax.tree.leaves(info))
    assert method.num_target_evaluations == config["method"]["buffer_size"]


# The smallest and the largest by default; of the others, a step is traced above.
@pytest.mark.parametrize(
    "name", [SYSTEMS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in SYSTEMS[1:3]), SYSTEMS[3]]
)
def test_first_annealing_steps_of_the_quick_settings(name, monkeypatch):
    config = load_config(f"{name}_quick", monkeypatch)
    build.check_config(config)
    # Its conditioners and bounds with less data and fewer couplings: compiling takes a minute, a full step half of one.
    config["flow"]["num_couplings"] = 2
    config["method"] |= {"buffer_size": 2000, "num_gradient_steps": 40, "num_diagnostic_samples": 500}
    config["method"]["batch_size"] = 200
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
        assert all(np.all(np.isfinite(value)) for value in jax.tree.leaves(row))
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
