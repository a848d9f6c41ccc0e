"""Which atom of a file is which atom of the molecule: by names where the file has them, else by bond lengths."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from cmtjax.coordinates.internal import BOND_WINDOW_NM
from cmtjax.molecules import measure
from cmtjax.molecules.z_matrix import ZMatrix

if TYPE_CHECKING:
    import mdtraj


def order_by_names(topology: mdtraj.Topology, z_matrix: ZMatrix) -> Int[np.ndarray, "atoms"]:
    """Where each atom of the molecule is in a topology, by residue and atom name.

    Names are first brought to those of the Protein Data Bank (mdtraj's table), so that "1HH3", "HH31" and "H1" are the
    same hydrogen.

    Args:
      topology: a file's.
      z_matrix: the molecule's.

    Returns:
      For each atom of the molecule its index in the file.

    Raises:
      ValueError: if their atoms are not the same; the message names the first that is missing.
    """
    names = [f"{atom.residue.name}{atom.residue.index}:{atom.name}" for atom in _standard_names(topology).atoms]
    known = set(z_matrix.atom_names)
    if len(names) != len(known) or set(names) != known:
        missing = next((name for name in z_matrix.atom_names if name not in names), None)
        unknown = next((name for name in names if name not in known), None)
        raise ValueError(
            f"topology: its {len(names)} atoms must be the molecule's {len(known)}; the molecule's first that it lacks "
            f"is {missing}, its first that the molecule lacks {unknown}."
        )
    index = {name: place for place, name in enumerate(names)}
    return np.array([index[name] for name in z_matrix.atom_names])


def order_by_bonds(
    frames_nm: Float[np.ndarray, "frames atoms 3"], z_matrix: ZMatrix
) -> tuple[Int[np.ndarray, "atoms"], str]:
    """Finds the order of atoms that have no names, among the usual ones, by the lengths of the bonds.

    Tried are the molecule's own order and that of Amber's libraries, in which the published data sets of alanine
    peptides are (Schopmans and Friederich, TA-BG): the carbonyl behind the side chain, and in ACE the methyl carbon
    first or behind its first hydrogen.

    Args:
      frames_nm: the first frames of a file.
      z_matrix: the molecule's.

    Returns:
      For each atom of the molecule its index in the file, and which order that is, "molecule" or "Amber".

    Raises:
      ValueError: if none fits; the message names the pair of atoms that cannot be bonded in the molecule's own order.
    """
    problem = implausible_bond(frames_nm, z_matrix)
    if problem is None:
        return np.arange(z_matrix.num_atoms), "molecule"
    for order in _amber_orders(z_matrix):
        if implausible_bond(frames_nm[:, order], z_matrix) is None:
            return order, "Amber"
    raise ValueError(
        f"path: {problem} The atoms are in neither the molecule's order nor that of Amber's "
        "libraries, or in another unit: give a topology_path, or reorder them."
    )


def implausible_bond(positions_nm: Float[np.ndarray, "frames atoms 3"], z_matrix: ZMatrix) -> str | None:
    """A sentence about the bond whose median length is farthest outside the window of the box; None if none is."""
    pairs = z_matrix.bond_atoms
    lengths_nm = np.median(measure.distances(positions_nm, pairs), axis=0)
    excess_nm = np.abs(lengths_nm - z_matrix.bond_reference_nm) - BOND_WINDOW_NM / 2
    worst = int(np.argmax(excess_nm))
    if not excess_nm[worst] > 0:
        return None
    one, other = (z_matrix.atom_names[atom] for atom in pairs[worst])
    return (
        f"{one} and {other} must be bonded at {z_matrix.bond_reference_nm[worst]:.4f} ± {BOND_WINDOW_NM / 2} nm, got a "
        f"median of {lengths_nm[worst]:.4f} nm over the first {len(positions_nm)} frames."
    )


def _standard_names(topology: mdtraj.Topology) -> mdtraj.Topology:
    import mdtraj

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "topology.pdb"
        mdtraj.Trajectory(np.zeros((1, topology.n_atoms, 3), np.float32), topology).save_pdb(str(path))
        return mdtraj.load_topology(str(path))


def _amber_orders(z_matrix: ZMatrix) -> list[Int[np.ndarray, "atoms"]]:
    places = []
    for name in z_matrix.atom_names:
        residue, _, atom = name.partition(":")
        number = int(residue.lstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
        is_carbonyl = atom in ("C", "O", "OXT") and not residue.startswith(("ACE", "NME"))
        is_behind_hydrogen = residue.startswith("ACE") and atom != "H1"
        places.append((number, is_carbonyl, is_behind_hydrogen))
    methyl_first = sorted(range(len(places)), key=lambda atom: places[atom][:2])
    hydrogen_first = sorted(range(len(places)), key=lambda atom: places[atom])
    # A listing says which atom comes at a place; its inverse, at which place an atom comes.
    return [np.argsort(listing) for listing in (methyl_first, hydrogen_first)]
