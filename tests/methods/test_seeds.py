"""Several seeds in one program against each on its own, statistically; step by step in ``test_backends.py``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax.annealing import effective_sample_size, estimate_log_z
from cmtjax.flows import spline_flow
from cmtjax.methods import CMTConfig, adam_with_cosine, cmt, draw_buffer
from cmtjax.targets import from_log_prob


@pytest.mark.slow
def test_results_agree_statistically_with_those_of_single_runs():
    """After 800 gradient steps rounding has grown beyond comparison; ESS and log Z must still be the method's."""
    num_dims, num_seeds, num_steps = 6, 4, 20
    means = np.linspace(-0.4, 0.4, num_dims)

    def log_prob(x):
        # A Gaussian of width 0.1, correlated along the chain; log Z is that of its precision matrix.
        z = (x - means) / 0.1
        return -0.5 * jnp.sum(z**2) - 0.25 * jnp.sum((z[1:] - z[:-1]) ** 2)

    chain = np.diag(np.r_[0.5, np.ones(num_dims - 2), 0.5]) - 0.5 * (np.eye(num_dims, k=1) + np.eye(num_dims, k=-1))
    precision = np.eye(num_dims) + chain
    exact = num_dims * np.log(0.1 * np.sqrt(2 * np.pi)) - 0.5 * np.linalg.slogdet(precision)[1]
    target = from_log_prob(log_prob, -np.ones(num_dims), np.ones(num_dims))
    flow = spline_flow(target.domain, num_couplings=4, hidden_sizes=(32,), base_standard_deviation=0.25)
    config = CMTConfig(
        buffer_size=4000, batch_size=200, num_gradient_steps=40, entropy_bound=None, num_diagnostic_samples=500
    )
    method = cmt(target, flow, adam_with_cosine(learning_rate=1e-2, num_steps=40 * num_steps), config)
    keys = jnp.stack([jax.random.key(seed) for seed in range(num_seeds)])
    evaluate = jax.jit(lambda params, key: draw_buffer(target, flow, params, key, 50_000, 10_000))

    def results(params_list):
        log_weights = [
            buffer.log_p - buffer.log_q
            for buffer in (evaluate(params, jax.random.key(100 + i)) for i, params in enumerate(params_list))
        ]
        return np.array([(effective_sample_size(w), *estimate_log_z(w)) for w in log_weights]).T

    states = jax.jit(jax.vmap(method.init))(keys)
    update = jax.jit(jax.vmap(method.update), donate_argnums=0)
    for _ in range(num_steps):
        states, _ = update(states)
    together = results([jax.tree.map(lambda leaf, i=i: leaf[i], states.params) for i in range(num_seeds)])

    single_params = []
    update = jax.jit(method.update, donate_argnums=0)
    for key in keys:
        state = method.init(key)
        for _ in range(num_steps):
            state, _ = update(state)
        single_params.append(state.params)
    alone = results(single_params)

    for ess, log_z, standard_error in (together, alone):
        assert np.all(ess > 0.8)
        # Four standard errors, of each of eight estimates: one in two thousand tests would fail by chance.
        assert np.all(np.abs(log_z - exact) < 4 * standard_error)
    # The mean ESS of four seeds has a standard error of half the spread between seeds.
    spread = np.sqrt((np.var(together[0], ddof=1) + np.var(alone[0], ddof=1)) / num_seeds)
    assert abs(np.mean(together[0]) - np.mean(alone[0])) < 4 * spread
