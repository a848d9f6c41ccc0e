"""Energies of molecules: positions (..., atoms, 3) in nm to kJ/mol, and their regularization.

Names are loaded on first use, so that importing the package neither loads OpenMM nor starts a process.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmtjax.energies.amber import AmberEnergy, amber_energy
    from cmtjax.energies.openmm_pool import OpenMMPool
    from cmtjax.energies.regularize import regularize_energy

__all__ = ["AmberEnergy", "OpenMMPool", "amber_energy", "regularize_energy"]

_MODULES = {
    "AmberEnergy": "amber",
    "amber_energy": "amber",
    "OpenMMPool": "openmm_pool",
    "regularize_energy": "regularize",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
