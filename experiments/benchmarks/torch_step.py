"""The same gradient step by PyTorch with the splines of nflows (both optional)."""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cmtjax.coordinates.domain import Domain
from cmtjax.flows.couplings import coupling_layouts
from cmtjax.flows.splines import MIN_BIN_SIZE, MIN_SLOPE

Program = Callable[[], Any]


def is_available() -> bool:
    return all(importlib.util.find_spec(name) for name in ("torch", "nflows"))


def programs(
    config: Mapping[str, Any], domain: Domain, layers: Sequence[Sequence[tuple[int, int]]], num_steps: int
) -> dict[str, tuple[Program, str]]:
    """Name -> (program of ``num_steps`` gradient steps, name of the matrix products to compare with).

    Every program comes with one thread and with as many as there are cores, since more are not always faster.

    Args:
      config: of a run; its flow, batch size and optimizer are used.
      domain: the box.
      layers: (inputs, outputs) of every layer of every coupling; nflows needs one more output for every circular
        dimension than they say.
      num_steps: gradient steps of one call.
    """
    import torch

    def with_threads(program: Program, number: int) -> Program:
        def run() -> Any:
            torch.set_num_threads(number)
            return program()

        return run

    batch_size = config["method"]["batch_size"]
    products = _products(layers, batch_size, num_steps)
    step = _step(config, domain, num_steps)
    result = {}
    for number in sorted({1, os.cpu_count() or 1}):
        label = f"torch products, {number} thread(s)"
        result[label] = with_threads(products, number), label
        result[f"torch with nflows, {number} thread(s)"] = with_threads(step, number), label
    return result


def _products(layers: Sequence[Sequence[tuple[int, int]]], batch_size: int, num_steps: int) -> Program:
    import torch

    kernels = [[torch.randn(shape) / shape[0] ** 0.5 for shape in coupling] for coupling in layers]
    x = torch.randn(batch_size, max(coupling[0][0] for coupling in layers))

    def step() -> list[Any]:
        activations, row = [], x
        for coupling in kernels:
            rows = [row[:, : coupling[0].shape[0]]]
            for kernel in coupling:
                rows.append(rows[-1] @ kernel)
            activations.append(rows)
            row = rows[-1]
        results = []
        for coupling, rows in zip(reversed(kernels), reversed(activations), strict=True):
            cotangent = rows[-1]
            for kernel, row in zip(reversed(coupling), reversed(rows[:-1]), strict=True):
                results.append(row.T @ cotangent)
                cotangent = cotangent @ kernel.T
            results.append(cotangent)
        return results

    def program() -> None:
        with torch.no_grad():
            for _ in range(num_steps):
                step()

    return program


def _step(config: Mapping[str, Any], domain: Domain, num_steps: int) -> Program:
    import torch
    from nflows.transforms import CompositeTransform, PiecewiseRationalQuadraticCouplingTransform

    settings, batch_size = config["flow"], config["method"]["batch_size"]
    optimizer_settings = config["optimizer"]

    class Conditioner(torch.nn.Module):
        """As in the package: a ReLU network, circular inputs as cosine and sine."""

        def __init__(self, is_circular: np.ndarray, num_outputs: int) -> None:
            super().__init__()
            self.is_circular = torch.from_numpy(is_circular)
            sizes = [is_circular.size + int(is_circular.sum()), *settings["hidden_sizes"]]
            hidden = [torch.nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
            layers = [module for layer in hidden for module in (layer, torch.nn.ReLU())]
            self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], num_outputs))

        def forward(self, u: torch.Tensor, context: None = None) -> torch.Tensor:
            angle = 2.0 * torch.pi * u[:, self.is_circular]
            return self.layers(torch.cat([u[:, ~self.is_circular], torch.cos(angle), torch.sin(angle)], dim=1))

    def coupling(transformed: np.ndarray) -> torch.nn.Module:
        mask = torch.zeros(domain.num_dims)
        mask[transformed] = 1.0
        conditioning = np.setdiff1d(np.arange(domain.num_dims), transformed)
        return PiecewiseRationalQuadraticCouplingTransform(
            mask,
            lambda _, num_outputs: Conditioner(domain.is_circular[conditioning], num_outputs),
            num_bins=settings["num_bins"],
            min_bin_width=MIN_BIN_SIZE,
            min_bin_height=MIN_BIN_SIZE,
            min_derivative=MIN_SLOPE,
        )

    layouts = coupling_layouts(domain, settings["num_couplings"], settings["seed"])
    flow = CompositeTransform([coupling(layout.transformed) for layout in layouts])
    optimizer = torch.optim.Adam(
        flow.parameters(),
        lr=1e-7,  # nflows refuses points that a rounded spline puts outside of the box: stay where it starts
        weight_decay=optimizer_settings["weight_decay"],
        fused=True,
    )
    bound = optimizer_settings["max_gradient_norm"]
    u = 0.1 + 0.8 * torch.rand(batch_size, domain.num_dims)

    def program() -> None:
        for _ in range(num_steps):
            optimizer.zero_grad(set_to_none=True)
            _, log_det = flow(u)
            (-log_det.mean()).backward()
            torch.nn.utils.clip_grad_norm_(flow.parameters(), bound)
            optimizer.step()

    return program
