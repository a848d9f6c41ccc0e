"""Reading and writing PDB files."""

from __future__ import annotations

import io
import pathlib

import numpy as np
import scipy.spatial
from jaxtyping import Float
from openmm import app, unit

# Half the shortest bond: what lies closer makes a minimizer run away.
_CLOSEST_NM = 0.05


def read_pdb(path: pathlib.Path) -> tuple[app.Topology, Float[np.ndarray, "atoms 3"]]:
    """Topology and positions of a PDB file's first model.

    Args:
      path: the file.

    Returns:
      The topology, and (atoms, 3) positions in nm.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the file cannot be read as PDB, has no atoms, or two atoms nearly at one point.
    """
    if not path.is_file():
        raise FileNotFoundError(f"path: there is no PDB file {str(path)!r}.")
    text = path.read_text(errors="replace")
    if not any(line.startswith(("ATOM", "HETATM")) for line in text.splitlines()):
        raise ValueError(f"path: {str(path)!r} is no PDB file, it has no atoms.")
    try:
        pdb = app.PDBFile(io.StringIO(text))
    except Exception as error:  # OpenMM's parser raises whatever its line of code happens to raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"path: {str(path)!r} is no readable PDB file ({reason}).") from None
    positions_nm = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    _check_distances(pdb.topology, positions_nm)
    return pdb.topology, positions_nm


def _check_distances(topology: app.Topology, positions_nm: Float[np.ndarray, "atoms 3"]) -> None:
    if not np.isfinite(positions_nm).all():
        raise ValueError("path: the file has coordinates that are not finite.")
    close = scipy.spatial.KDTree(positions_nm).query_pairs(_CLOSEST_NM)
    if close:
        atoms = list(topology.atoms())
        one, two = (
            f"{atoms[index].residue.name}{atoms[index].residue.index}:{atoms[index].name}" for index in min(close)
        )
        raise ValueError(f"path: {one} and {two} lie closer than {_CLOSEST_NM} nm.")


def write_pdb(topology: app.Topology, positions_nm: Float[np.ndarray, "atoms 3"], path: pathlib.Path) -> None:
    """Writes one structure as PDB, to its precision of 1e-4 nm.

    Args:
      topology: the topology.
      positions_nm: (atoms, 3).
      path: the file to write.
    """
    with path.open("w", encoding="utf-8") as file:
        # Without OpenMM's header, which has the date: the same structure gives the same file.
        app.PDBFile.writeModel(topology, positions_nm * unit.nanometer, file, keepIds=True)
        app.PDBFile.writeFooter(topology, file)
