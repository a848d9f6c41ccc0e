"""The weighted forward-KL loss and its fit."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtjax.coordinates import Domain
from cmtjax.flows import spline_flow
from cmtjax.methods import adam_with_cosine, fit_flow, muon_with_cosine, weighted_forward_kl_loss
from cmtjax.methods.buffer import in_chunks
from cmtjax.methods.weighted_fit import minibatch_indices


@functools.cache
def _flow():
    return spline_flow(Domain.box(2, [False, True]), num_couplings=2, num_bins=4, hidden_sizes=(8,))


def test_loss_is_the_weighted_mean():
    flow = _flow()
    params = flow.init(jax.random.key(0))
    u = jax.random.uniform(jax.random.key(1), (50, 2))
    log_weights = jax.random.normal(jax.random.key(2), (50,)).at[3].set(-jnp.inf)
    expected = -np.mean(np.exp(np.asarray(log_weights, np.float64)) * np.asarray(flow.log_prob(params, u), np.float64))
    np.testing.assert_allclose(weighted_forward_kl_loss(flow, params, u, log_weights), expected, rtol=1e-5)  # float32


def test_points_without_weight_leave_loss_and_gradient_finite():
    flow = _flow()
    params = flow.init(jax.random.key(0))
    u = jax.random.uniform(jax.random.key(1), (5, 2))
    log_weights = jnp.zeros(5).at[2].set(-jnp.inf)
    loss, gradient = jax.value_and_grad(lambda p: weighted_forward_kl_loss(flow, p, u, log_weights))(params)
    assert np.isfinite(loss)
    chex.assert_tree_all_finite(gradient)


def _bent(flow, scale=0.3):
    """Parameters away from the identity."""
    params = flow.init(jax.random.key(0))
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    moved = [x + scale * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return structure.unflatten(moved)


def _gradient(flow, params, *arguments):
    gradient = jax.grad(lambda p: weighted_forward_kl_loss(flow, p, *arguments))(params)
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient)])


@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0])
def test_the_control_variate_descends_its_divergence(factor):
    """The f-divergence of the docstring, differentiated as it stands."""
    flow = _flow()
    params = _bent(flow)
    u = jax.random.uniform(jax.random.key(1), (500, 2))
    log_weights = jax.random.normal(jax.random.key(2), (500,))
    log_q = 0.5 * jax.random.normal(jax.random.key(3), (500,))

    def divergence(params):
        log_ratio = flow.log_prob(params, u) - log_q - log_weights
        below = jnp.where(log_ratio < 0.0, -log_ratio + jnp.expm1(log_ratio), 0.0)
        return jnp.mean(jnp.exp(log_weights) * ((1.0 - factor) * -log_ratio + factor * below))

    expected = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(jax.grad(divergence)(params))])
    controlled = _gradient(flow, params, u, log_weights, log_q, factor)
    share_below = jnp.mean(flow.log_prob(params, u) - log_q < log_weights)
    assert 0.2 < share_below < 0.8
    # Sums of 500 terms in float32.
    np.testing.assert_allclose(controlled, expected, atol=1e-5 * np.max(np.abs(expected)))


def test_with_the_control_variate_a_flow_that_has_its_weights_is_left_alone():
    flow = _flow()
    params = _bent(flow)
    u = jax.random.uniform(jax.random.key(1), (500, 2))
    log_q = jax.random.normal(jax.random.key(2), (500,))
    log_weights = flow.log_prob(params, u) - log_q
    plain = _gradient(flow, params, u, log_weights)
    # Differences of equal numbers, but for the rounding of exp and log in float32.
    controlled = _gradient(flow, params, u, log_weights, log_q)
    np.testing.assert_allclose(controlled, 0.0, atol=1e-5 * np.max(np.abs(plain)))


def test_the_control_variate_pushes_no_point_away():
    """A point with a million times the density that it should have pulls 1 − c of its weight, one without none."""
    flow = _flow()
    params = _bent(flow)
    u = jnp.array([[0.3, 0.6]])
    log_q = flow.log_prob(params, u) - np.log(1e6)
    plain = _gradient(flow, params, u, jnp.zeros(1))
    for factor in (1.0, 0.5):
        controlled = _gradient(flow, params, u, jnp.zeros(1), log_q, factor)
        np.testing.assert_allclose(controlled, (1.0 - factor) * plain, atol=1e-5 * np.max(np.abs(plain)))  # float32
    for log_density in (log_q, log_q - np.inf):
        np.testing.assert_array_equal(_gradient(flow, params, u, -jnp.inf * jnp.ones(1), log_density), 0.0)


def test_fit_learns_a_weighted_density():
    """Uniform samples with weights of a known density: the fit's cross-entropy comes near that density's entropy."""
    flow = _flow()
    u = jax.random.uniform(jax.random.key(0), (4000, 2))
    log_density = jax.scipy.stats.norm.logpdf(u[:, 0], 0.4, 0.08) + jnp.log1p(
        0.8 * jnp.cos(2 * jnp.pi * (u[:, 1] - 0.9))
    )
    optimizer = adam_with_cosine(learning_rate=2e-2, num_steps=400)
    params = flow.init(jax.random.key(1))
    fit = jax.jit(lambda p, o, k: fit_flow(flow, optimizer, p, o, k, u, log_density, batch_size=200, num_steps=400))
    params, _, info = fit(params, optimizer.init(params), jax.random.key(2))
    weights = jnp.exp(log_density)
    entropy = -jnp.sum(weights * log_density) / jnp.sum(weights)
    before = weighted_forward_kl_loss(flow, flow.init(jax.random.key(1)), u, log_density)
    assert before - entropy > 0.3
    # KL of a 4-bin spline fitted to 4000 samples.
    assert abs(info.training_loss - entropy) < 0.03
    assert info.num_skipped_updates == 0


def test_the_control_variate_fits_a_small_buffer_better():
    """Twenty passes over 400 points of the flow itself; points of its own are what maximum likelihood overfits."""
    flow = spline_flow(Domain.box(6), num_couplings=2, num_bins=4, hidden_sizes=(32,))
    optimizer = adam_with_cosine(learning_rate=1e-2, num_steps=80)
    params = flow.init(jax.random.key(0))
    u, log_q = flow.sample_and_log_prob(params, jax.random.key(1), 20_400)
    # Correlated neighbours; the mean of the weights is one up to their noise.
    log_weights = jnp.sum(25.0 * (u[:, :-1] - 0.5) * (u[:, 1:] - 0.5), axis=1)
    log_weights = log_weights - jax.nn.logsumexp(log_weights) + jnp.log(len(u))

    def held_out(log_q):
        fitted, _, info = jax.jit(
            lambda p, o: fit_flow(
                flow, optimizer, p, o, jax.random.key(2), u[:400], log_weights[:400],
                batch_size=100, num_steps=80, log_q=log_q,
            )
        )(params, optimizer.init(params))  # fmt: skip
        assert info.num_skipped_updates == 0
        return float(weighted_forward_kl_loss(flow, fitted, u[400:], log_weights[400:]))

    start = float(weighted_forward_kl_loss(flow, params, u[400:], log_weights[400:]))
    plain, controlled = start - held_out(None), start - held_out(log_q[:400])
    # Measured: a gain of 0.057 nats against a loss of 0.03; the noise of both in the held-out points cancels.
    assert controlled > max(plain, 0.0) + 0.01


def test_passes_are_without_replacement():
    indices = minibatch_indices(jax.random.key(0), 103, 10, 25)
    chex.assert_shape(indices, (25, 10))
    for start in (0, 10):
        one_pass = np.asarray(indices[start : start + 10]).ravel()
        assert np.unique(one_pass).size == 100
    assert not np.array_equal(indices[0], indices[10])


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted():
    flow = _flow()
    params = flow.init(jax.random.key(0))
    u = jax.random.uniform(jax.random.key(1), (20, 2))
    optimizer = optax.adam(1e-2)

    @jax.jit
    def fit(log_weights):
        state = optimizer.init(params)
        return fit_flow(flow, optimizer, params, state, jax.random.key(2), u, log_weights, batch_size=20, num_steps=5)

    for log_weight, skipped in ((jnp.inf, 5), (0.0, 0)):
        fitted, _, info = fit(jnp.full(20, log_weight))
        assert info.num_skipped_updates == skipped
        same = all(jax.tree.leaves(jax.tree.map(lambda a, b: bool(jnp.all(a == b)), fitted, params)))
        assert same == (skipped == 5)


@pytest.mark.parametrize(("kwargs", "message"), [({"batch_size": 30}, "batch_size"), ({"num_steps": 0}, "num_steps")])
def test_impossible_fits_are_refused(kwargs, message):
    flow = _flow()
    params = flow.init(jax.random.key(0))
    options = {"batch_size": 5, "num_steps": 2, **kwargs}
    with pytest.raises(ValueError, match=message):
        fit_flow(flow, optax.sgd(0.1), params, (), jax.random.key(0), jnp.full((20, 2), 0.5), jnp.zeros(20), **options)


def test_optimizer_adds_decay_after_clipping_and_follows_the_cosine():
    optimizer = adam_with_cosine(
        learning_rate=0.1, num_steps=100, warmup_steps=10, weight_decay=0.5, max_gradient_norm=1.0
    )
    params = {"w": jnp.array([2.0, -4.0])}
    gradient = {"w": jnp.array([300.0, 400.0])}
    state = optimizer.init(params)
    first, state = optimizer.update(gradient, state, params)
    np.testing.assert_array_equal(first["w"], 0.0)  # the warm-up starts from zero
    second, _ = optimizer.update(gradient, state, params)
    # Adam's step of a constant gradient is its sign: clipped to (0.6, 0.8), plus 0.5 · (2, −4): (1.6, −1.2).
    np.testing.assert_allclose(second["w"], [-0.01, 0.01], rtol=1e-3)
    rates = []
    for _ in range(100):
        update, state = optimizer.update(gradient, state, params)
        rates.append(float(-update["w"][0]))
    assert max(rates) == pytest.approx(0.1, rel=1e-3)
    assert rates[-1] == pytest.approx(0.0, abs=1e-6)
    # Half way down the cosine, 45 steps after the peak, the rate is half.
    assert rates[9 + 44] == pytest.approx(0.05, rel=0.05)


def test_a_constant_share_of_nearly_one_leaves_a_step_to_fall():
    optimizer = adam_with_cosine(learning_rate=0.1, num_steps=20, warmup_steps=10, constant_share=0.97)
    state, rates = optimizer.init({"w": jnp.zeros(())}), []
    for _ in range(21):
        update, state = optimizer.update({"w": jnp.ones(())}, state, {"w": jnp.zeros(())})
        rates.append(-float(update["w"]))
    # Adam's epsilon and its bias corrections in float32.
    np.testing.assert_allclose(rates[10:20], 0.1, rtol=1e-4)
    assert rates[20] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("warmup_steps", [0, 20])
def test_the_rate_keeps_its_peak_for_the_constant_share(warmup_steps):
    options = {"learning_rate": 0.1, "warmup_steps": warmup_steps, "final_learning_rate": 0.01}
    optimizer = adam_with_cosine(num_steps=100 + warmup_steps, constant_share=0.6, **options)
    shorter = adam_with_cosine(num_steps=40 + warmup_steps, **options)

    def rates(optimizer, num_steps):
        def step(state, _):
            update, state = optimizer.update({"w": jnp.ones(())}, state, {"w": jnp.zeros(())})
            return state, -update["w"]  # Adam's step of a constant gradient is its sign

        return np.asarray(jax.lax.scan(step, optimizer.init({"w": jnp.zeros(())}), None, num_steps)[1])

    held, plain = rates(optimizer, 101 + warmup_steps), rates(shorter, 41 + warmup_steps)
    # Adam's epsilon and its bias corrections in float32.
    np.testing.assert_allclose(held[:warmup_steps], plain[:warmup_steps], rtol=1e-4)
    np.testing.assert_allclose(held[warmup_steps : warmup_steps + 60], 0.1, rtol=1e-4)
    np.testing.assert_allclose(held[warmup_steps + 60 :], plain[warmup_steps:], rtol=1e-4)
    assert held[-1] == pytest.approx(0.01, rel=1e-4)


def test_muon_moves_hidden_matrices_along_their_singular_vectors_and_leaves_the_rest_to_adam():
    flow = spline_flow(Domain.box(6), num_couplings=2, num_bins=4, hidden_sizes=(16, 16))
    params = flow.init(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    gradient = jax.tree.map(lambda leaf: 0.01 * jax.random.normal(next(keys), leaf.shape), params)
    optimizer = muon_with_cosine(learning_rate=0.1, matrix_learning_rate=0.5, num_steps=10)
    update, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    for coupling, moved in update.items():
        for layer, step in moved["conditioner"].items():
            of_layer = gradient[coupling]["conditioner"][layer]
            # Adam's first step is the sign of the gradient; its epsilon is 1e-8 of gradients near 1e-2.
            np.testing.assert_allclose(step["bias"], -0.1 * np.sign(of_layer["bias"]), rtol=1e-2)
            if layer == "FeatureFirstDense_2":
                np.testing.assert_allclose(step["kernel"], -0.1 * np.sign(of_layer["kernel"]), rtol=1e-2)
                continue
            left, _, right = np.linalg.svd(of_layer["kernel"], full_matrices=False)
            in_their_basis = -left.T @ np.asarray(step["kernel"]) @ right.T / 0.5
            rows, columns = of_layer["kernel"].shape
            # The Newton-Schulz polynomial brings singular values to 0.68 to 1.13 (Jordan et al. 2024), not to 1.
            scale = np.sqrt(max(1.0, columns / rows))
            assert np.all((np.diag(in_their_basis) > 0.6 * scale) & (np.diag(in_their_basis) < 1.25 * scale))
            np.testing.assert_allclose(in_their_basis - np.diag(np.diag(in_their_basis)), 0, atol=0.02 * scale)


def test_muon_moves_each_matrix_as_it_would_move_it_alone():
    flow = spline_flow(Domain.box(7), num_couplings=3, num_bins=4, hidden_sizes=(16, 16))
    params = flow.init(jax.random.key(0))
    alone = {
        (coupling, layer): moved["conditioner"][layer]["kernel"]
        for coupling, moved in params.items()
        for layer in ("FeatureFirstDense_0", "FeatureFirstDense_1")
    }
    assert len({matrix.shape for matrix in alone.values()}) == 3 < len(alone)
    reference = optax.contrib.muon(optax.warmup_cosine_decay_schedule(0.5, 0.5, 0, 10, 0.0))
    optimizer = muon_with_cosine(learning_rate=0.1, matrix_learning_rate=0.5, num_steps=10)
    state, state_alone = optimizer.init(params), reference.init(alone)
    for step in range(3):
        keys = iter(jax.random.split(jax.random.key(step), 100))
        gradient = jax.tree.map(lambda leaf, keys=keys: jax.random.normal(next(keys), leaf.shape), params)
        of_alone = {(c, layer): gradient[c]["conditioner"][layer]["kernel"] for c, layer in alone}
        moves, state = jax.jit(optimizer.update)(gradient, state, params)
        expected, state_alone = jax.jit(reference.update)(of_alone, state_alone, alone)
        for (coupling, layer), move in expected.items():
            # Five float32 iterations, each of which can enlarge a rounding error by its slope of 3.4 at zero.
            np.testing.assert_allclose(moves[coupling]["conditioner"][layer]["kernel"], move, atol=1e-4)


def test_muon_refuses_a_rate_out_of_range():
    with pytest.raises(ValueError, match="matrix_learning_rate"):
        muon_with_cosine(learning_rate=0.1, matrix_learning_rate=0.0, num_steps=10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", float("inf")),
        ("warmup_steps", 10),
        ("weight_decay", -1.0),
        ("max_gradient_norm", 0.0),
        ("constant_share", 1.0),
    ],
)
def test_impossible_optimizers_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        adam_with_cosine(**{"learning_rate": 0.1, "num_steps": 10, name: value})


def test_chunks_are_joined_in_order():
    result = in_chunks(lambda key, size: jax.random.uniform(key, (size, 2)), jax.random.key(0), 10, 4)
    chex.assert_shape(result, (10, 2))
    # Three chunks of four: different keys, none repeated.
    assert np.unique(np.asarray(result)).size == 20
