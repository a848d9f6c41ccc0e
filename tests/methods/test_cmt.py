"""Constrained Mass Transport on analytic targets, and the contract of a method."""

import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cmtjax.annealing.dual import NO_FINITE_SAMPLES
from cmtjax.flows import spline_flow
from cmtjax.methods import CMTConfig, adam_with_cosine, cmt
from cmtjax.targets import from_log_prob

NUM_DIMS = 20
_RNG = np.random.default_rng(0)
LEFT_WEIGHT = _RNG.uniform(0.15, 0.4, NUM_DIMS)
MEANS = np.stack([_RNG.uniform(-0.7, -0.4, NUM_DIMS), _RNG.uniform(0.4, 0.7, NUM_DIMS)])
SCALES = _RNG.uniform(0.06, 0.1, (2, NUM_DIMS))
BOUNDS = (0.3, 0.4)
# Without the dual a step compiles in two thirds of the time.
UNBOUNDED = {"trust_region_bound": None, "entropy_bound": None}


def _mixture_log_prob(x):
    """A product over dims of unequal mixtures of two narrow Gaussians; log Z = 0 up to tails of 3σ and more."""
    log_weights = np.log(np.stack([LEFT_WEIGHT, 1.0 - LEFT_WEIGHT]))
    log_normals = -0.5 * ((x - MEANS) / SCALES) ** 2 - np.log(SCALES * np.sqrt(2.0 * np.pi))
    return jnp.sum(jax.nn.logsumexp(log_weights + log_normals, axis=0))


def _mixture_target():
    return from_log_prob(_mixture_log_prob, -np.ones(NUM_DIMS), np.ones(NUM_DIMS))


def _flow(target, **kwargs):
    options = {"num_couplings": 2, "num_bins": 8, "hidden_sizes": (16,), "base_standard_deviation": 0.25, **kwargs}
    return spline_flow(target.domain, **options)


def _small(target=None, *, num_steps=2, optimizer=None, observe=None, **config):
    target = target or from_log_prob(lambda x: -jnp.sum((x - 0.3) ** 2) / 0.02, -np.ones(3), np.ones(3))
    flow = _flow(target, num_couplings=1, hidden_sizes=(8,), num_bins=4)
    settings = {"buffer_size": 600, "batch_size": 50, "num_gradient_steps": 6, "chunk_size": 250, **config}
    settings = {"trust_region_bound": BOUNDS[0], "entropy_bound": BOUNDS[1], "num_diagnostic_samples": 300, **settings}
    optimizer = optimizer or adam_with_cosine(
        learning_rate=1e-2, num_steps=num_steps * settings["num_gradient_steps"], max_gradient_norm=100.0
    )
    return cmt(target, flow, optimizer, CMTConfig(**settings), observe)


def _observe(u, log_weights):
    return {"mean": jnp.mean(u, axis=0), "buffer": u[:2], "next_mean": jax.nn.softmax(log_weights) @ u}


@pytest.fixture(scope="module")
def small_method():
    """The method of ``_small`` and its compiled update, of which a second tracing is an error; it observes means."""
    method = _small(observe=_observe)
    chex.clear_trace_counter()
    return method, jax.jit(chex.assert_max_traces(method.update, n=1))


@pytest.fixture(scope="module")
def unbounded_step():
    """A compiled function: (target's center, x₀ above which evaluations fail) -> start, state and info of a step."""

    def step(center, failing_above):
        def log_prob(x):
            return jnp.where(x[0] > failing_above, jnp.nan, -jnp.sum((x - center) ** 2) / 0.02)

        method = _small(from_log_prob(log_prob, -np.ones(3), np.ones(3)), **UNBOUNDED)
        start = method.init(jax.random.key(0))
        return start, *method.update(start)

    return jax.jit(step)


def _largest_total_variation(target, flow, params):
    """Over dims, between the weights of the two modes in 10⁵ plain samples and the exact ones."""
    u, _ = jax.jit(lambda p: flow.sample_and_log_prob(p, jax.random.key(5), 100_000))(params)
    left = np.mean(np.asarray(target.to_physical(u)[0]) < 0.0, axis=0)
    return float(np.max(np.abs(left - LEFT_WEIGHT)))


@pytest.mark.parametrize("constrained", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_constraints_keep_the_weights_of_all_modes(constrained):
    """Twenty dims, two modes each: 2^20 modes. Constrained steps keep their weights, one bare step loses them."""
    target = _mixture_target()
    flow = _flow(target)
    # The unconstrained step gets all gradient steps and all samples at once.
    num_steps, factor = (25, 1) if constrained else (1, 25)
    settings = CMTConfig(
        buffer_size=10_000 * factor,
        batch_size=500,
        num_gradient_steps=60 * factor,
        trust_region_bound=0.3 if constrained else None,
        entropy_bound=1.5 if constrained else None,
    )
    method = cmt(target, flow, adam_with_cosine(learning_rate=1e-2, num_steps=25 * 60), settings)
    state = method.init(jax.random.key(0))
    # With LLVM's optimizations, unlike what runs for a moment: steps take a tenth of the time.
    update = jax.jit(method.update, donate_argnums=0, compiler_options={"xla_backend_optimization_level": 3})
    for _ in range(num_steps):
        state, info = update(state)
    total_variation = _largest_total_variation(target, flow, state.params)
    # Sampling noise of 10⁵ samples is 0.15 %; the largest over dims was 0.6 % with constraints.
    if constrained:
        assert total_variation < 0.03
        assert info.ess_target > 0.5
        # The weights of 10⁴ samples of ESS over 0.5 give log Z = 0 to about 0.01.
        assert abs(info.log_z) < 0.05
    else:
        # 2.5·10⁵ samples of the base have an effective sample size of a few: the fit follows single samples.
        assert total_variation > 0.1


# One bound alone is tested with the dual by default, with the whole step if time does not matter.
@pytest.mark.parametrize(
    ("trust_region_bound", "entropy_bound"),
    [
        (0.3, 0.4),
        pytest.param(0.3, None, marks=pytest.mark.slow),
        pytest.param(None, 0.4, marks=pytest.mark.slow),
        (None, None),
    ],
)
def test_four_variants(trust_region_bound, entropy_bound, small_method, unbounded_step):
    if trust_region_bound is None and entropy_bound is None:
        _, _, info = unbounded_step(0.3, np.inf)
    else:
        if (trust_region_bound, entropy_bound) == BOUNDS:
            method, update = small_method
        else:
            method = _small(trust_region_bound=trust_region_bound, entropy_bound=entropy_bound)
            update = jax.jit(method.update)
        _, info = update(method.init(jax.random.key(0)))
    # The dual meets a bound to 0.1 %.
    if trust_region_bound is None:
        assert info.trust_region_multiplier == 0.0
    else:
        assert info.kl < trust_region_bound * 1.001
    if entropy_bound is None:
        assert info.entropy_multiplier == 0.0
    else:
        assert info.entropy_decay < entropy_bound * 1.001
    if trust_region_bound is None and entropy_bound is None:
        # Importance-weighted forward KL: q_1 is the target itself.
        assert info.alpha == 1.0
        assert info.beta == 1.0
        np.testing.assert_allclose(info.ess_next, info.ess_target_raw, rtol=1e-5)
    assert info.dual_status == 0
    for name, value in info._replace(observed=0.0)._asdict().items():
        chex.assert_rank(value, 0)
        assert np.isfinite(value), name


def test_observes_the_buffer_that_the_step_began_with(small_method):
    method, update = small_method
    _, first = update(method.init(jax.random.key(0)))
    second_state, _ = update(method.init(jax.random.key(0)))
    _, second = update(second_state)
    assert first.observed["buffer"].shape == (2, 3)
    # The first buffer is of the base, symmetric about 0.5 and at most as wide as the box; the target's mean is 0.65.
    error = 1 / np.sqrt(12 * 600)
    np.testing.assert_allclose(first.observed["mean"], 0.5, atol=4 * error)
    # Towards the target, by the bounded step.
    assert np.all(first.observed["next_mean"] > first.observed["mean"] + error)
    assert np.all((first.observed["buffer"] > 0) & (first.observed["buffer"] < 1))
    assert np.any(first.observed["buffer"] != second.observed["buffer"])


def test_compiles_once_and_is_reproducible(small_method):
    method, update = small_method

    def run():
        state = method.init(jax.random.key(3))
        for _ in range(3):
            state, info = update(state)
        return state, info

    (state, info), (again, again_info) = run(), run()
    assert int(state.annealing_step) == 3
    chex.assert_trees_all_equal(state.params, again.params)
    chex.assert_trees_all_equal(info, again_info)
    # Structure, shapes and dtypes of the state are a fixed point: what vmap, scan and checkpoints need.
    init_shapes = jax.eval_shape(method.init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(init_shapes, jax.eval_shape(method.update, init_shapes)[0])


def test_vmapped_seeds_equal_single_runs(small_method):
    method, update = small_method
    keys = jax.random.split(jax.random.key(0), 2)
    states = jax.vmap(method.init)(keys)
    states, infos = jax.jit(jax.vmap(method.update))(states)
    for index, key in enumerate(keys):
        _, info = update(method.init(key))
        # Six gradient steps of float32 in another order of summation; Adam divides by small second moments.
        np.testing.assert_allclose(infos.training_loss[index], info.training_loss, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(infos.kl[index], info.kl, rtol=1e-3)


def test_a_given_flow_is_the_start():
    target = _mixture_target()
    flow = _flow(target, hidden_sizes=(8,))
    settings = CMTConfig(buffer_size=300, batch_size=100, num_gradient_steps=1, num_diagnostic_samples=100)
    method = cmt(target, flow, adam_with_cosine(learning_rate=1e-2, num_steps=10), settings)
    params = jax.tree.map(lambda leaf: leaf + 0.01, flow.init(jax.random.key(1)))
    keys = jax.random.split(jax.random.key(0), 2)
    states = jax.jit(jax.vmap(method.init, in_axes=(0, None)))(keys, params)
    fresh = jax.jit(jax.vmap(method.init))(keys)
    chex.assert_trees_all_equal_shapes_and_dtypes(states, fresh)
    for index in range(2):
        chex.assert_trees_all_equal(jax.tree.map(operator.itemgetter(index), states.params), params)
    # Everything but the flow is that of a fresh start.
    chex.assert_trees_all_equal(states._replace(params=fresh.params), fresh)


def test_failed_evaluations_are_masked_and_counted(unbounded_step):
    _, state, info = unbounded_step(0.1, 0.4)
    assert 0 < info.num_failed < 600
    assert info.dual_status == 0
    for leaf in jax.tree.leaves(state.params):
        assert np.all(np.isfinite(leaf))
    assert np.isfinite(info.training_loss)


def test_a_step_without_any_evaluation_changes_nothing(unbounded_step):
    start, state, info = unbounded_step(0.1, -np.inf)
    assert info.dual_status == NO_FINITE_SAMPLES
    assert info.num_failed == 600
    chex.assert_trees_all_equal(state.params, start.params)
    chex.assert_trees_all_equal(state.optimizer_state, start.optimizer_state)
    chex.assert_trees_all_equal(state.path, start.path)


def test_overfitting_a_small_buffer_shows_in_the_held_out_loss():
    target = _mixture_target()
    flow = _flow(target, hidden_sizes=(64,))
    settings = CMTConfig(
        buffer_size=300, batch_size=100, num_gradient_steps=600, held_out_fraction=0.3, num_diagnostic_samples=500
    )
    method = cmt(target, flow, adam_with_cosine(learning_rate=1e-2, num_steps=600), settings)
    _, info = jax.jit(method.update)(method.init(jax.random.key(0)))
    # 600 passes over some 100 effective samples of 20 dims, by thousands of parameters.
    assert info.held_out_loss > info.training_loss + 1.0


def test_control_variate_takes_the_noise_from_a_flow_that_is_the_target():
    """The target is the flow's base: all weights are one, and so are all density ratios."""
    target = from_log_prob(lambda x: -2.0 * jnp.sum(x**2), -np.ones(3), np.ones(3))
    norms = {}
    for control_variate in (0.0, 1.0):
        # A rate of zero: Adam would walk away on rounding errors.
        method = _small(target, control_variate=control_variate, optimizer=optax.sgd(0.0), **UNBOUNDED)
        _, info = jax.jit(method.update)(method.init(jax.random.key(0)))
        np.testing.assert_allclose(info.ess_target_raw, 1.0, atol=1e-5)
        norms[control_variate] = float(info.gradient_norm)
    # Float32: weights and ratios are one to some 1e-6.
    assert norms[1.0] < 1e-4 * norms[0.0]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"buffer_size": 0}, "buffer_size"),
        ({"batch_size": 595}, "batch_size must be at most the 588"),
        ({"trust_region_bound": 0.0}, "trust_region_bound"),
        ({"entropy_bound": -1.0}, "entropy_bound"),
        ({"weight_clip_fraction": 1.0}, "weight_clip_fraction"),
        ({"control_variate": 1.5}, "control_variate"),
        ({"held_out_fraction": -0.1}, "held_out_fraction"),
    ],
)
def test_impossible_settings_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        _small(**config)


def test_flow_and_target_must_fit():
    target = from_log_prob(lambda x: -jnp.sum(x**2), -np.ones(3), np.ones(3))
    other = from_log_prob(lambda x: -jnp.sum(x**2), -np.ones(4), np.ones(4))
    with pytest.raises(ValueError, match="3 dimensions, got 4"):
        cmt(target, _flow(other), adam_with_cosine(learning_rate=1e-3, num_steps=1), CMTConfig())
