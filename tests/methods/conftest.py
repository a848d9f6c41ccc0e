"""The real dipeptide with a tiny flow, for tests of a whole annealing step."""

import chex
import jax
import pytest

from cmtjax import energies, molecules, targets
from cmtjax.flows import spline_flow
from cmtjax.methods import CMTConfig, adam_with_cosine, cmt


@pytest.fixture(scope="session")
def dipeptide():
    return molecules.published("alanine_dipeptide")


@pytest.fixture(scope="session")
def amber(dipeptide):
    return energies.amber_energy(dipeptide.system)


@pytest.fixture(scope="session")
def make_method(dipeptide):
    """A function: energy -> method with ten gradient steps an update on 1500 samples."""

    def make(energy_fn):
        target = targets.boltzmann(
            dipeptide,
            energy_fn,
            temperature_kelvin=300.0,
            regularization={"scheme": "multiplicative_log", "high": 1e3, "maximum": 1e20},
        )
        flow = spline_flow(target.domain, num_couplings=1, hidden_sizes=(16,))
        config = CMTConfig(
            buffer_size=1500, batch_size=100, num_gradient_steps=10, chunk_size=500, num_diagnostic_samples=500
        )
        return cmt(target, flow, adam_with_cosine(learning_rate=1e-3, num_steps=100, warmup_steps=5), config)

    return make


@pytest.fixture(scope="session")
def amber_method(make_method, amber):
    return make_method(amber)


@pytest.fixture(scope="session")
def amber_update(amber_method):
    """The compiled update, of which a second tracing is an error; half a minute of compiling is shared."""
    chex.clear_trace_counter()
    return jax.jit(chex.assert_max_traces(amber_method.update, n=1))
