"""The running average of parameters, alone and as the flow of a training method."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtjax.flows import spline_flow
from cmtjax.methods import CMTConfig, adam_with_cosine, average_parameters, averaged_params, cmt, draw_buffer
from cmtjax.targets import from_log_prob


def test_the_average_is_that_of_the_parameters_and_the_moves_are_the_optimizers():
    plain = optax.adam(0.1)
    optimizer = average_parameters(plain, 0.9)
    params = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(3.0)}
    state, plain_state = optimizer.init(params), plain.init(params)
    chex.assert_trees_all_equal(averaged_params(state, params), params)
    expected = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    rng = np.random.default_rng(0)
    for _ in range(20):
        gradient = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
        moves, state = optimizer.update(gradient, state, params)
        plain_moves, plain_state = plain.update(gradient, plain_state, params)
        chex.assert_trees_all_equal(moves, plain_moves)
        params = optax.apply_updates(params, moves)
        expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * np.asarray(new), expected, params)
    # Twenty float32 additions.
    chex.assert_trees_all_close(averaged_params(state, params), expected, rtol=1e-5)
    assert averaged_params(plain_state, params) is params


def test_the_average_is_nearer_to_the_minimum_than_single_steps():
    """SGD on ½θ² with gradient noise of one: variance η/(2 − η); that of the average is smaller by its memory."""
    rate, decay, num_steps = 0.2, 0.99, 20_000
    optimizer = average_parameters(optax.sgd(rate), decay)

    def step(carry, noise):
        params, state = carry
        moves, state = optimizer.update(params + noise, state, params)
        params = optax.apply_updates(params, moves)
        return (params, state), (params, averaged_params(state, params))

    start = jnp.zeros(())
    noise = jax.random.normal(jax.random.key(0), (num_steps,))
    _, (iterates, averages) = jax.lax.scan(step, (start, optimizer.init(start)), noise)
    variance = rate / (2.0 - rate)
    # An AR(1) process of coefficient c, averaged with weights (1 − d) dᵏ: variance (1 − d)/(1 + d) (1 + cd)/(1 − cd).
    factor = (1.0 - decay) / (1.0 + decay) * (1.0 + (1.0 - rate) * decay) / (1.0 - (1.0 - rate) * decay)
    # Correlated over 9 and some 200 steps: 2200 and 100 independent ones, variances to 3 % and 14 %; four of them.
    assert np.var(iterates) == pytest.approx(variance, rel=0.12)
    assert np.var(averages[1000:]) == pytest.approx(variance * factor, rel=0.56)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.1, float("nan")])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="decay must be between 0 and 1"):
        average_parameters(optax.sgd(0.1), decay)


@pytest.fixture(scope="module")
def averaging():
    """The target's center, a method with averaging, and its compiled update that takes the state's buffers."""
    target = from_log_prob(lambda x: -jnp.sum((x - 0.3) ** 2) / 0.02, -np.ones(3), np.ones(3))
    flow = spline_flow(target.domain, num_couplings=1, num_bins=4, hidden_sizes=(8,), base_standard_deviation=0.25)
    config = CMTConfig(
        buffer_size=600,
        batch_size=50,
        num_gradient_steps=6,
        trust_region_bound=None,
        entropy_bound=None,
        chunk_size=300,
        num_diagnostic_samples=300,
    )
    method = cmt(target, flow, average_parameters(adam_with_cosine(learning_rate=1e-2, num_steps=12), 0.8), config)
    return target, flow, method, jax.jit(method.update, donate_argnums=0)


def test_buffers_come_from_the_average_and_gradients_from_the_iterate(averaging):
    target, flow, method, update = averaging
    state, _ = update(method.init(jax.random.key(0)))
    chex.assert_trees_all_equal(state.params, state.optimizer_state.average)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(state.params, state.iterate, atol=1e-3)
    before = jax.device_get((state.params, state.iterate))
    _, buffer_key, _, _ = jax.random.split(state.key, 4)
    buffer = draw_buffer(target, flow, state.params, buffer_key, 600, 300)
    state, info = update(state)
    # Sums of 600 float32 numbers in another order.
    np.testing.assert_allclose(info.entropy, -jnp.mean(buffer.log_q), rtol=1e-5)
    # Six steps of Adam at rates up to 1e-2, falling to zero: the iterate went on from the iterate.
    moved = jax.tree.map(lambda new, old: np.max(np.abs(new - old)), state.iterate, before[1])
    assert 0.0 < max(jax.tree.leaves(moved)) < 6e-2
    chex.assert_trees_all_equal(state.params, state.optimizer_state.average)


def test_the_state_keeps_its_structure(averaging):
    _, _, method, _ = averaging
    shapes = jax.eval_shape(method.init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, jax.eval_shape(method.update, shapes)[0])
    assert jax.tree.structure(shapes.iterate) == jax.tree.structure(shapes.params)
