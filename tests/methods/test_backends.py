"""One annealing step with energies in JAX, with those of OpenMM, and of several seeds at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax import energies


@pytest.fixture(scope="module")
def start(amber_method):
    return jax.jit(amber_method.init)(jax.random.key(0))


def test_one_annealing_step_agrees(make_method, amber_update, dipeptide, start):
    state, info = amber_update(start)
    with energies.OpenMMPool(dipeptide.system, 1, "Reference") as pool:
        expected_state, expected = jax.block_until_ready(jax.jit(make_method(pool.energy).update)(start))
    assert info.dual_status == expected.dual_status == 0
    assert info.num_failed == expected.num_failed == 0
    # The first density is nothing like the target: the trust region is active, and met to 0.1 % in both.
    assert expected.trust_region_multiplier > 10.0
    np.testing.assert_allclose([info.kl, expected.kl], 0.3, rtol=1e-3)
    # log q does not involve the energy.
    np.testing.assert_allclose(info.entropy, expected.entropy, rtol=1e-6)
    # OpenMM computes in double precision, and hands over float32. Energies in float32 are within 1e-6 of it, and the
    # multiplier is a ratio of log-densities over the bound. Seen were 2e-7 for all of these.
    np.testing.assert_allclose(info.trust_region_multiplier, expected.trust_region_multiplier, rtol=1e-5)
    np.testing.assert_allclose(info.entropy_multiplier, expected.entropy_multiplier, rtol=1e-5)
    np.testing.assert_allclose(info.entropy_decay, expected.entropy_decay, rtol=1e-5)
    # log Z of the broad base is that of its best sample: 1e-6 of some 500 kT.
    np.testing.assert_allclose(info.log_z, expected.log_z, atol=1e-3)
    # Ten steps of Adam of up to 1e-3 on weights that differ by 1e-6; a step's sign is open where the gradient is
    # rounding.
    np.testing.assert_allclose(info.training_loss, expected.training_loss, rtol=1e-5)
    np.testing.assert_allclose(info.held_out_loss, expected.held_out_loss, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(expected_state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_step_in_jax_is_traced_once(amber_update, start):
    """``amber_update`` raises at a second tracing; state and info keep their shapes and types from step to step."""
    state = start
    for step in (1, 2, 3):
        state, info = amber_update(state)
        assert state.annealing_step == step
        assert np.isfinite(info.training_loss)


def test_an_annealing_step_of_two_seeds_equals_that_of_each(amber_method, amber_update):
    """Draws, energies, dual and ten gradient steps; here, as the compiled single step is the one above."""
    method = amber_method
    keys = [jax.random.key(seed) for seed in (3, 4)]
    states, infos = jax.jit(jax.vmap(method.update))(jax.jit(jax.vmap(method.init))(jnp.stack(keys)))
    for index, key in enumerate(keys):
        state, info = amber_update(jax.jit(method.init)(key))
        together, together_info = jax.tree.map(lambda leaf, i=index: leaf[i], (states, infos))
        np.testing.assert_array_equal(jax.random.key_data(together.key), jax.random.key_data(state.key))
        assert together.annealing_step == state.annealing_step == 1
        assert together_info.dual_status == info.dual_status == 0
        compare_steps(together, together_info, state, info)
    # The seeds are different runs, beyond what the comparison allows.
    assert abs(infos.log_z[0] - infos.log_z[1]) > 1.0


def compare_steps(actual_state, actual, expected_state, expected):
    """Scalars within 1e-5, some ten times what was seen; λ is near 4e3, log Z near −500, the loss −36."""
    # Draws and energies are the same operations; matrix products and sums run in another order: 1e-7 of each number.
    for name in ("trust_region_multiplier", "entropy_multiplier", "kl", "entropy", "training_loss", "held_out_loss"):
        np.testing.assert_allclose(getattr(actual, name), getattr(expected, name), rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(actual.log_z, expected.log_z, rtol=1e-5)
    np.testing.assert_allclose(actual.kl_reached, expected.kl_reached, atol=1e-4)  # a mean of differences of 100
    # Ten steps of Adam of up to 1e-3; a step's sign is open where the gradient is rounding.
    for a, b in zip(jax.tree.leaves(actual_state.params), jax.tree.leaves(expected_state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
