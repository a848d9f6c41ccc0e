"""What a run's numbers depend on besides its configuration: versions, device, threads."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import jax

_PACKAGES = ("cmtjax", "jax", "jaxlib", "flax", "optax", "numpy", "openmm")

# Variables that change the number of threads or the device, hence the order of floating-point sums.
_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "JAX_ENABLE_X64",
    "JAX_PLATFORMS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "OPENMM_CPU_THREADS",
    "XLA_FLAGS",
)


def describe_environment() -> dict[str, Any]:
    """Versions, device and thread-relevant settings of this process, as plain values for JSON."""
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "cpu_count": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
