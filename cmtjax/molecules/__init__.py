"""From a sequence, a PDB file or a published system's name to a molecule: topology, energy, minimum, z-matrix.

The names are imported on first use, so that ``cmtjax.molecules.z_matrix`` can be had without OpenMM.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmtjax.molecules.molecule import Molecule, from_pdb, load, peptide
    from cmtjax.molecules.systems import PUBLISHED_NAMES, published
    from cmtjax.molecules.z_matrix import ZMatrix

__all__ = ["PUBLISHED_NAMES", "Molecule", "ZMatrix", "from_pdb", "load", "peptide", "published"]

_MODULES = {
    "Molecule": "molecule",
    "from_pdb": "molecule",
    "load": "molecule",
    "peptide": "molecule",
    "PUBLISHED_NAMES": "systems",
    "published": "systems",
    "ZMatrix": "z_matrix",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
