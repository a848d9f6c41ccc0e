"""Boltzmann generators learned from energies alone, by Constrained Mass Transport, in JAX.

Subpackages and ``load_sampler`` are imported on first use: the worker processes of an ``OpenMMPool`` start without JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from cmtjax._version import __version__

if TYPE_CHECKING:
    from cmtjax import (
        annealing,
        coordinates,
        datasets,
        energies,
        evaluation,
        flows,
        mcmc,
        methods,
        molecules,
        runs,
        targets,
    )
    from cmtjax.sampler import Sampler, load_sampler

__all__ = [
    "Sampler",
    "__version__",
    "annealing",
    "coordinates",
    "datasets",
    "energies",
    "evaluation",
    "flows",
    "load_sampler",
    "mcmc",
    "methods",
    "molecules",
    "runs",
    "targets",
]


def __getattr__(name: str) -> Any:
    if name in ("Sampler", "load_sampler"):
        return getattr(importlib.import_module("cmtjax.sampler"), name)
    if name in __all__:
        return importlib.import_module(f"cmtjax.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
