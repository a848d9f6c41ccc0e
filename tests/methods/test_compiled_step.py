"""With energies in JAX the annealing step is one program: no way back to the host, state in place.

Shown for what ``train.py`` compiles of the quick configuration, with Muon, the control variate and the histograms of
each buffer, but with a flow of one small coupling, as to trace eight takes its time.
"""

import importlib
import pathlib
import re

import jax
import pytest

from cmtjax import energies, targets
from cmtjax.coordinates import internal_coordinates
from cmtjax.runs import build


@pytest.fixture(scope="module")
def method(dipeptide, amber):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(pathlib.Path(__file__).parents[2] / "experiments")
        config = importlib.import_module("configs.alanine_dipeptide_quick").get_config().to_dict()
    assert (config["optimizer"]["name"], config["method"]["control_variate"]) == ("muon", 0.9)
    target = targets.boltzmann(
        dipeptide, amber, temperature_kelvin=300.0, regularization=config["energy"]["regularization"]
    )
    flow = build.build_flow({**config["flow"], "num_couplings": 1, "hidden_sizes": (16,)}, target.domain)
    observe = build.ramachandran_observer(internal_coordinates(dipeptide))
    return build.build_method(config, target, flow, observe)


@pytest.fixture(scope="module")
def state_shapes(method):
    return jax.eval_shape(method.init, jax.random.key(0))


@pytest.fixture(scope="module")
def lowered_text(method, state_shapes):
    return jax.jit(method.update, donate_argnums=0).lower(state_shapes).as_text()


def _callbacks(text):
    return [target for target in re.findall(r"custom_call @(\w+)", text) if "callback" in target.lower()]


def test_no_host_callback(lowered_text):
    assert "stablehlo.while" in lowered_text  # the chunks and the gradient steps are loops of the program
    assert _callbacks(lowered_text) == []


def test_the_search_finds_callbacks(make_method, dipeptide):
    """The same step on energies of the pool has them."""
    with energies.OpenMMPool(dipeptide.system, 1, "Reference") as pool:
        method = make_method(pool.energy)
        text = jax.jit(method.update).lower(jax.eval_shape(method.init, jax.random.key(0))).as_text()
    assert _callbacks(text)


def test_state_is_updated_in_place(lowered_text, state_shapes):
    """Every buffer of the old state is given to the new one."""
    arguments = lowered_text[lowered_text.index("func.func public @main") :]
    arguments = arguments[: arguments.index(") ->")]
    aliases = re.findall(r"tf\.aliasing_output = (\d+)", arguments)
    num_leaves = len(jax.tree.leaves(state_shapes))
    # The state comes first among the results, in the same order.
    assert sorted(int(index) for index in aliases) == list(range(num_leaves))


def test_lowers_for_tpu(method, state_shapes):
    exported = jax.export.export(jax.jit(method.update), platforms=["tpu"])(state_shapes)
    assert exported.platforms == ("tpu",)
    assert "f64" not in exported.mlir_module()
    assert _callbacks(exported.mlir_module()) == []
