"""Drawing samples for an evaluation: which they are, and what is kept of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax.evaluation import draw_host_samples
from cmtjax.flows import spline_flow
from cmtjax.methods import draw_buffer
from cmtjax.targets import from_log_prob

NUM_DIMS = 30


@pytest.fixture(scope="module")
def parts():
    target = from_log_prob(lambda x: -jnp.sum((x - 0.3) ** 2), -np.ones(NUM_DIMS), np.ones(NUM_DIMS))
    flow = spline_flow(target.domain, num_couplings=2, num_bins=4, hidden_sizes=(8,))
    return target, flow, flow.init(jax.random.key(0))


def test_samples_are_those_of_the_buffer(parts):
    target, flow, params = parts
    drawn = []
    key = jax.random.key(1)
    samples = draw_host_samples(
        target,
        flow,
        params,
        key,
        num_samples=1100,
        columns=[7, 2],
        batch_size=500,
        chunk_size=200,
        progress=drawn.append,
    )
    assert drawn == [500, 1000, 1100]
    draw = jax.jit(lambda key: draw_buffer(target, flow, params, key, 500, 200))
    batches = [draw(jax.random.fold_in(key, index)) for index in range(3)]
    # The same float32 operations, which the compiler may fuse differently around the choice of columns: a few units in
    # the last place of u in [0, 1], of log q near 30 and of log p̃ near 10.
    for name, index, atol in (("u", (slice(None), [7, 2]), 1e-6), ("log_q", (), 1e-4), ("log_p", (), 1e-4)):
        expected = np.concatenate([getattr(batch, name)[index] for batch in batches])[:1100]
        np.testing.assert_allclose(getattr(samples, name), expected, rtol=0, atol=atol)
    assert np.std(samples.u[:, 0]) > 0.05


def test_more_samples_begin_with_the_same_ones(parts):
    def draw(num_samples):
        return draw_host_samples(
            *parts, jax.random.key(2), num_samples=num_samples, columns=(0,), batch_size=300, chunk_size=100
        )

    few, many = draw(700), draw(1500)
    for a, b in zip(few, many, strict=True):
        np.testing.assert_array_equal(a, b[:700])


def test_only_what_is_asked_for_is_kept(parts):
    num_samples, batch_size, live_bytes = 20_000, 500, []

    def count(num_drawn):
        live_bytes.append(sum(array.nbytes for array in jax.live_arrays()))

    samples = draw_host_samples(
        *parts, jax.random.key(3), num_samples=num_samples, columns=(3,), batch_size=batch_size, progress=count
    )
    for array, dtype in zip(samples, (np.float32, np.float64, np.float64), strict=True):
        assert array.dtype == dtype
        # Not a view, which would keep what it is a view of.
        assert array.flags.owndata
    assert (samples.u.shape, samples.log_q.shape, samples.log_p.shape) == (
        (num_samples, 1),
        (num_samples,),
        (num_samples,),
    )
    # The device holds no more after forty batches than after the first; a batch of u alone is 60 kB.
    assert len(live_bytes) == num_samples // batch_size
    assert max(live_bytes) - live_bytes[0] < batch_size * NUM_DIMS * 4


def test_without_columns(parts):
    samples = draw_host_samples(*parts, jax.random.key(4), num_samples=10)
    assert samples.u.shape == (10, 0)
    assert np.all(np.isfinite(samples.log_q))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"num_samples": 5, "batch_size": 0}, "batch_size"),
        ({"num_samples": 5, "chunk_size": -1}, "chunk_size"),
        ({"num_samples": 5, "columns": [30]}, "columns must be dimensions from 0 to 29"),
        ({"num_samples": 5, "columns": [-1]}, "columns"),
    ],
)
def test_errors(parts, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_host_samples(*parts, jax.random.key(0), **arguments)
