"""The flow: sizes, start, density, sampling, and the table of all bijections."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from cmtjax.coordinates import Domain
from cmtjax.flows import BoxBase, FlowDistribution, spline_flow
from cmtjax.flows.couplings import SplineCoupling, coupling_layouts


def molecular_domain(num_bonds, num_angles, num_torsions):
    circular = np.repeat([False, False, True], [num_bonds, num_angles, num_torsions])
    return Domain(circular, circular, np.repeat([0, 1, 2], [num_bonds, num_angles, num_torsions]))


@functools.cache
def small_flow(**kwargs):
    return spline_flow(
        molecular_domain(3, 4, 5), **{"num_couplings": 4, "num_bins": 5, "hidden_sizes": (16, 16), **kwargs}
    )


def perturbed(params, seed=0, scale=0.3):
    """Parameters away from the identity: the last layers start at zero."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return structure.unflatten(
        [leaf + scale * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


@pytest.mark.parametrize(
    ("sizes", "count"),
    [
        ((21, 20, 19), 7_421_512),
        ((19, 40, 39), 9_452_376),
        ((29, 60, 59), 12_124_616),
        ((33, 73, 72), 13_727_952),
    ],
)
def test_published_parameter_counts(sizes, count):
    params = jax.eval_shape(spline_flow(molecular_domain(*sizes)).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


def test_starts_as_the_base():
    flow = small_flow()
    params = flow.init(jax.random.key(0))
    u = jax.random.uniform(jax.random.key(1), (100, 12))
    # Twelve identity splines, each exact to a few ulps.
    np.testing.assert_allclose(flow.log_prob(params, u), flow.base.log_prob(u), atol=2e-4)
    z, log_det = flow.to_base(params, u)
    np.testing.assert_allclose(z[:, :7], u[:, :7], atol=2e-6)  # the circle is turned by the shifts
    np.testing.assert_allclose(log_det, 0.0, atol=5e-5)


def test_base_density_is_scipys():
    base = BoxBase(np.array([False, True, False]), 0.5, 0.1)
    z = jax.random.uniform(jax.random.key(0), (50, 3))
    normal = scipy.stats.truncnorm(-5.0, 5.0, loc=0.5, scale=0.1)
    expected = normal.logpdf(np.asarray(z[:, [0, 2]], np.float64)).sum(1)
    np.testing.assert_allclose(base.log_prob(z), expected, rtol=2e-5, atol=2e-5)  # float32
    samples = np.asarray(base.sample(jax.random.key(1), 20_000), np.float64)
    assert scipy.stats.kstest(samples[:, 0], normal.cdf).pvalue > 1e-3
    assert scipy.stats.kstest(samples[:, 1], "uniform").pvalue > 1e-3


# Every bijection of the package: a function (d, n) -> (d, n), log-det; its inverse with the log-det of the forward map.
def _coupling(index, shifted):
    domain = molecular_domain(3, 4, 5)
    layout = coupling_layouts(domain, 2, seed=3)[index]
    if not shifted:
        layout.shift[:] = 0.0
    module = SplineCoupling(layout, num_bins=6, hidden_sizes=(16,))
    params = perturbed(module.init(jax.random.key(0), jnp.full((12, 1), 0.5), method="to_base"))
    return (
        lambda u: module.apply(params, u, method="to_base"),
        lambda z: module.apply(params, z, method="from_base"),
    )


def _whole_flow():
    flow = small_flow()
    params = perturbed(flow.init(jax.random.key(0)), scale=0.2)

    def inverse(z):
        u, log_det = flow.from_base(params, z.T)
        return u.T, -log_det

    def forward(u):
        z, log_det = flow.to_base(params, u.T)
        return z.T, log_det

    return forward, inverse


BIJECTIONS = {
    "first coupling": lambda: _coupling(0, False),
    "first coupling, shifted": lambda: _coupling(0, True),
    "second coupling, shifted": lambda: _coupling(1, True),
    "flow": _whole_flow,
}


@pytest.mark.parametrize("name", BIJECTIONS)
def test_bijections(name):
    with jax.enable_x64(True):
        forward, inverse = map(jax.jit, BIJECTIONS[name]())
        u = jax.random.uniform(jax.random.key(1), (12, 20), jnp.float64)
        z, log_det = forward(u)
        back, inverse_log_det = inverse(z)
        # Parameters and shifts are float32, the maps float64; the quadratic root loses a few digits on flat bins.
        np.testing.assert_allclose(back, u, atol=1e-7)
        np.testing.assert_allclose(inverse_log_det, log_det, atol=1e-6)
        jacobian = jax.jacrev(lambda v: forward(v[:, None])[0][:, 0])(u[:, 0])
        sign, expected = np.linalg.slogdet(jacobian)
        assert sign == 1.0
        np.testing.assert_allclose(log_det[0], expected, atol=1e-8)


def test_samples_have_the_density_that_is_claimed():
    flow = small_flow()
    params = perturbed(flow.init(jax.random.key(0)), scale=0.2)
    u, log_q = flow.sample_and_log_prob(params, jax.random.key(1), 500)
    chex.assert_shape(u, (500, 12))
    chex.assert_shape(log_q, (500,))
    assert np.all((np.asarray(u) >= 0) & (np.asarray(u) <= 1))
    # Two float32 passes through four couplings; steep bins magnify ulps.
    np.testing.assert_allclose(flow.log_prob(params, u), log_q, atol=5e-3)


def test_density_integrates_to_one():
    flow = spline_flow(Domain.box(2, [False, True]), num_couplings=4, num_bins=4, hidden_sizes=(8,), seed=1)
    params = perturbed(flow.init(jax.random.key(2)), scale=0.2)
    axis = (np.arange(400) + 0.5) / 400
    grid = jnp.asarray(np.stack(np.meshgrid(axis, axis), -1), jnp.float32)
    density = np.exp(np.asarray(flow.log_prob(params, grid), np.float64))
    # Midpoint rule, second order: a 1600² grid differs by 5e-6.
    np.testing.assert_allclose(density.mean(), 1.0, atol=1e-4)


def test_circular_dimensions_are_continuous_across_the_cut():
    flow = small_flow()
    params = perturbed(flow.init(jax.random.key(0)), scale=0.2)
    u = jax.random.uniform(jax.random.key(3), (12,))
    gradient = jax.grad(flow.log_prob, argnums=1)
    for dim in range(7, 12):
        low, high = u.at[dim].set(1e-6), u.at[dim].set(1.0 - 1e-6)
        # A step of 2e-6 across the cut changes log q by its gradient (tens) times that.
        np.testing.assert_allclose(flow.log_prob(params, low), flow.log_prob(params, high), atol=2e-3)
        assert np.all(np.isfinite(gradient(params, low)))
    bounded = abs(flow.log_prob(params, u.at[0].set(0.0)) - flow.log_prob(params, u.at[0].set(1.0)))
    assert bounded > 0.01


def test_outside_points_get_the_value_of_the_box_and_finite_gradients():
    flow = small_flow()
    params = perturbed(flow.init(jax.random.key(0)))
    u = jnp.stack([jnp.full(12, -0.3), jnp.full(12, 1.7), jnp.zeros(12), jnp.ones(12)])
    values = flow.log_prob(params, u)
    np.testing.assert_array_equal(values[0], values[2])
    np.testing.assert_array_equal(values[1], values[3])
    for gradient in jax.tree.leaves(jax.grad(lambda p, v: jnp.sum(flow.log_prob(p, v)), (0, 1))(params, u)):
        assert np.all(np.isfinite(gradient))


def test_every_batch_shape_and_vmap_agree():
    flow = small_flow()
    params = perturbed(flow.init(jax.random.key(0)))
    u = jax.random.uniform(jax.random.key(1), (2, 3, 12))
    values = flow.log_prob(params, u)
    chex.assert_shape(values, (2, 3))
    # The same sums in another order of vectorization.
    np.testing.assert_allclose(jax.vmap(jax.vmap(lambda v: flow.log_prob(params, v)))(u), values, rtol=1e-4, atol=1e-4)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x]), params)
    np.testing.assert_allclose(jax.vmap(flow.log_prob)(stacked, u), values, rtol=1e-4, atol=1e-4)


def test_masks_split_every_group_in_halves():
    domain = molecular_domain(21, 20, 19)
    layouts = coupling_layouts(domain, 16, seed=0)
    for first, second in zip(layouts[::2], layouts[1::2], strict=True):
        for group, half in ((0, 10), (1, 10), (2, 9)):
            assert np.sum(domain.groups[first.transformed] == group) == half
        np.testing.assert_array_equal(first.transformed, second.conditioning)
        np.testing.assert_array_equal(first.conditioning, second.transformed)
    assert not np.array_equal(layouts[0].transformed, layouts[2].transformed)
    again = coupling_layouts(domain, 16, seed=0)
    np.testing.assert_array_equal(layouts[5].shift, again[5].shift)


def test_is_a_distrax_distribution():
    flow = small_flow()
    params = perturbed(flow.init(jax.random.key(0)))
    distribution = FlowDistribution(flow, params)
    samples, log_prob = distribution.sample_and_log_prob(seed=jax.random.key(4), sample_shape=(5, 2))
    chex.assert_shape(samples, (5, 2, 12))
    assert distribution.event_shape == (12,)
    np.testing.assert_allclose(distribution.log_prob(samples), log_prob, atol=5e-3)  # as above
    np.testing.assert_allclose(distribution.log_prob(samples), flow.log_prob(params, samples), rtol=1e-6)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_couplings": 0}, "num_couplings"),
        ({"num_bins": 1}, "num_bins"),
        ({"num_bins": 1001}, "num_bins"),
        ({"hidden_sizes": (16, 0)}, "hidden_sizes"),
        ({"base_standard_deviation": 0.0}, "base_standard_deviation"),
    ],
)
def test_impossible_sizes_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        small_flow(**kwargs)


def test_a_domain_that_cannot_be_split_is_refused():
    with pytest.raises(ValueError, match="groups"):
        spline_flow(molecular_domain(1, 1, 1))
