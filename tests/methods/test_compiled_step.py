"""With energies in JAX the annealing step is one program: no way back to the host, state in place."""

import re

import jax
import pytest

from cmtjax import energies


@pytest.fixture(scope="module")
def state_shapes(amber_method):
    return jax.eval_shape(amber_method.init, jax.random.key(0))


@pytest.fixture(scope="module")
def lowered_text(amber_method, state_shapes):
    return jax.jit(amber_method.update, donate_argnums=0).lower(state_shapes).as_text()


def _callbacks(text):
    return [target for target in re.findall(r"custom_call @(\w+)", text) if "callback" in target.lower()]


def test_no_host_callback(lowered_text, make_method, dipeptide, state_shapes):
    assert "stablehlo.while" in lowered_text  # the chunks and the gradient steps are loops of the program
    assert _callbacks(lowered_text) == []
    # What the search is for: the same step on energies of the pool has them.
    with energies.OpenMMPool(dipeptide.system, 1, "Reference") as pool:
        with_pool = jax.jit(make_method(pool.energy).update).lower(state_shapes).as_text()
    assert _callbacks(with_pool)


def test_state_is_updated_in_place(lowered_text, state_shapes):
    """Every buffer of the old state is given to the new one."""
    arguments = lowered_text[lowered_text.index("func.func public @main") :]
    arguments = arguments[: arguments.index(") ->")]
    aliases = re.findall(r"tf\.aliasing_output = (\d+)", arguments)
    num_leaves = len(jax.tree.leaves(state_shapes))
    # The state comes first among the results, in the same order.
    assert sorted(int(index) for index in aliases) == list(range(num_leaves))


def test_lowers_for_tpu(amber_method, state_shapes):
    exported = jax.export.export(jax.jit(amber_method.update), platforms=["tpu"])(state_shapes)
    assert exported.platforms == ("tpu",)
    assert "f64" not in exported.mlir_module()
    assert _callbacks(exported.mlir_module()) == []
