"""The four molecules of the papers, ready-made from the PDB files that the package ships."""

from __future__ import annotations

import dataclasses
import importlib.resources

from cmtjax.molecules.molecule import Molecule, from_pdb

#: Force field of each molecule: Constrained Mass Transport (2025), appendix D.
_FORCE_FIELDS = {
    "alanine_dipeptide": "amber96-obc1",
    "alanine_tetrapeptide": "amber99sbildn-obc2",
    "alanine_hexapeptide": "amber99sbildn-obc2",
    "elil_tetrapeptide": "amber99sbildn-obc2",
}

PUBLISHED_NAMES = tuple(_FORCE_FIELDS)


def published(name: str) -> Molecule:
    """One of the molecules on which the methods are compared in the literature.

    Args:
      name: "alanine_dipeptide" (ACE-ALA-NME), "alanine_tetrapeptide" (ACE-ALA3-NME), "alanine_hexapeptide"
        (ACE-ALA5-NME) or "elil_tetrapeptide" (GLU-LEU-ILE-LEU with charged ends).

    Raises:
      ValueError: if there is no such molecule.
    """
    if name not in _FORCE_FIELDS:
        raise ValueError(f"name must be one of {list(PUBLISHED_NAMES)}, got {name!r}.")
    resource = importlib.resources.files("cmtjax") / "data" / f"{name}.pdb"
    with importlib.resources.as_file(resource) as path:
        molecule = from_pdb(path, force_field=_FORCE_FIELDS[name])
    return dataclasses.replace(molecule, name=name)
