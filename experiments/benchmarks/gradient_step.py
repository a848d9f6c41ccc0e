"""A gradient step of a configuration's flow against its matrix products alone, and against other libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from benchmarks import torch_step
from benchmarks.measure import Times, in_turns, temporary_mib
from jaxtyping import Array, Float

from cmtjax.coordinates.internal import internal_coordinates
from cmtjax.flows import Flow, splines
from cmtjax.flows.flow import Params
from cmtjax.methods.weighted_fit import fit_flow
from cmtjax.runs import build

Program = Callable[[], Any]
#: (inputs, outputs) of every layer of every coupling.
Kernels = list[list[Array]]


def benchmark(config: Mapping[str, Any], num_steps: int, num_rounds: int) -> list[dict[str, Any]]:
    """Rows of milliseconds a gradient step, one row a program; ``ratio`` is to the same library's matrix products.

    ``temporary_mib`` is the memory of a program besides its arguments and results, None where nobody tells (PyTorch).

    Args:
      config: of a run; its molecule, flow, batch size and optimizer are used.
      num_steps: gradient steps of one call.
      num_rounds: turns.
    """
    flow = build.build_flow(config["flow"], internal_coordinates(build.build_molecule(config["molecule"])).domain)
    params = _trained_params(flow)
    kernels = conditioner_kernels(params)
    batch_size = config["method"]["batch_size"]
    compiled = {
        "products": products_program(kernels, batch_size, num_steps),
        "step": step_program(config, flow, params, num_steps),
    }
    with mock.patch.object(splines, "spline_forward", _distrax_forward):
        other_flow = build.build_flow(config["flow"], flow.domain)
        compiled["step, distrax spline"] = step_program(config, other_flow, params, num_steps)
    programs = {name: program for name, (program, _) in compiled.items()}
    memory = {name: temporary_mib(executable) for name, (_, executable) in compiled.items()}
    baselines = dict.fromkeys(programs, "products")
    if reason := why_without_torch():
        print(f"without rows of PyTorch: {reason}", flush=True)
    else:
        layers = [[kernel.shape for kernel in coupling] for coupling in kernels]
        for name, (program, baseline) in torch_step.programs(config, flow.domain, layers, num_steps).items():
            programs[name], baselines[name] = program, baseline
    times = in_turns(programs, num_rounds)
    return [
        _row(name, times[name], times[baselines[name]], num_steps) | {"temporary_mib": memory.get(name)}
        for name in programs
    ]


def why_without_torch() -> str:
    """Why PyTorch is not measured; empty if it is."""
    if jax.default_backend() != "cpu":
        return f"they would measure the CPU, and JAX runs on the {jax.default_backend()} here"
    if not torch_step.is_available():
        return "torch and nflows are not installed (pip install -e '.[benchmark]')"
    return ""


def _row(name: str, own: Times, products: Times, num_steps: int) -> dict[str, Any]:
    return {
        "program": name,
        "milliseconds": 1e3 * float(np.median(own.wall)) / num_steps,
        "processor_milliseconds": 1e3 * float(np.median(own.processor)) / num_steps,
        "ratio": float(np.median(own.wall / products.wall)),
        "processor_ratio": float(np.median(own.processor / products.processor)),
    }


def _trained_params(flow: Flow) -> Params:
    """Parameters with noise: at the start of a run the last layers are zero and every bin is the same."""
    leaves, structure = jax.tree.flatten(flow.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return structure.unflatten(
        [leaf + 0.02 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )


def conditioner_kernels(params: Params) -> Kernels:
    """The kernels of a spline flow, in the order in which a density passes them."""
    couplings = [params[f"couplings_{index}"]["conditioner"] for index in range(len(params))]
    return [[layers[f"FeatureFirstDense_{index}"]["kernel"] for index in range(len(layers))] for layers in couplings]


def step_program(
    config: Mapping[str, Any], flow: Flow, params: Params, num_steps: int
) -> tuple[Program, jax.stages.Compiled]:
    """``fit_flow`` with the configuration's optimizer, from where the last call ended; and what was compiled for it."""
    batch_size = config["method"]["batch_size"]
    optimizer = build.build_optimizer(config["optimizer"], config["num_annealing_steps"] * 10**6)
    u = jnp.clip(flow.base.sample(jax.random.key(2), num_steps * batch_size), 0.001, 0.999)

    def fit(params: Params, state: Any, u: Array) -> tuple[Params, Any]:
        key, log_weights = jax.random.key(3), jnp.zeros(len(u))
        return fit_flow(
            flow, optimizer, params, state, key, u, log_weights, batch_size=batch_size, num_steps=num_steps
        )[:2]

    carry = jax.tree.map(jnp.copy, (params, optimizer.init(params)))
    compiled = jax.jit(fit, donate_argnums=(0, 1)).lower(*carry, u).compile()

    def program() -> Params:
        nonlocal carry
        carry = compiled(*carry, u)
        return carry[0]

    return program, compiled


def products_program(kernels: Kernels, batch_size: int, num_steps: int) -> tuple[Program, jax.stages.Compiled]:
    """The matrix products of ``num_steps`` gradient steps and nothing else, in the same ``lax.scan``.

    All couplings forward, then all of them backward, for the gradients of kernels and inputs. Shapes, order of axes and
    the order that the flow forces upon its products are kept.
    """
    num_inputs = max(layers[0].shape[0] for layers in kernels)
    x = jax.random.normal(jax.random.key(0), (num_steps, num_inputs, batch_size))

    def scan(kernels: Kernels, x: Array) -> Any:
        # The results are the carry, so that every step has to compute them.
        empty = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(_products, kernels, x[0]))
        return jax.lax.scan(lambda carry, x: (_products(kernels, x), None), empty, x)[0]

    compiled = jax.jit(scan).lower(kernels, x).compile()
    return lambda: compiled(kernels, x), compiled


def _products(kernels: Kernels, x: Float[Array, "inputs n"]) -> list[list[Array]]:
    """The gradients of all kernels; every coupling takes its inputs from the first rows of the one before."""
    activations = []
    for layers in kernels:
        rows = [x[: layers[0].shape[0]]]
        for kernel in layers:
            rows.append(jax.lax.dot_general(kernel, rows[-1], (((0,), (0,)), ((), ()))))
        activations.append(rows)
        x = rows[-1]
    gradients: list[list[Array]] = []
    cotangent = x[:0]
    for layers, rows in zip(reversed(kernels), reversed(activations), strict=True):
        # As in the flow, the backward pass of a coupling waits for the one of the next.
        cotangent, coupling = jax.lax.dynamic_update_slice(rows[-1], cotangent, (0, 0)), []
        for kernel, row in zip(reversed(layers), reversed(rows[:-1]), strict=True):
            coupling.append(jax.lax.dot_general(row, cotangent, (((1,), (1,)), ((), ()))))
            cotangent = kernel @ cotangent
        gradients.append(coupling)
    return gradients


def _distrax_forward(raw: Array, x: Array, num_bins: int) -> tuple[Array, Array]:
    """``splines.spline_forward`` by distrax."""
    num_dims = x.shape[0]
    rows = raw[: 3 * num_bins * num_dims].reshape(3 * num_bins, num_dims, -1)
    free = raw[3 * num_bins * num_dims :]
    last = jnp.concatenate([free, rows[2 * num_bins, free.shape[0] :]])

    def transform(params: Array, x: Array) -> tuple[Array, Array]:
        bijector = distrax.RationalQuadraticSpline(
            params.T, 0.0, 1.0, min_bin_size=splines.MIN_BIN_SIZE, min_knot_slope=splines.MIN_SLOPE
        )
        return bijector.forward_and_log_det(x)

    return jax.vmap(transform, in_axes=-1, out_axes=-1)(jnp.concatenate([rows, last[None]]), x)
