"""From a sequence of residue names to an OpenMM topology with start positions."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import openmm
import PeptideBuilder
from jaxtyping import Float
from openmm import app, unit

from cmtjax.molecules import force_fields

ONE_LETTER_CODES = {
    "ALA": "A", "ARG": "R", "ASN": "N", "ASP": "D", "CYS": "C", "GLN": "Q", "GLU": "E", "GLY": "G", "HIS": "H",
    "ILE": "I", "LEU": "L", "LYS": "K", "MET": "M", "PHE": "F", "PRO": "P", "SER": "S", "THR": "T", "TRP": "W",
    "TYR": "Y", "VAL": "V",
}  # fmt: skip

# A cap is what is left of a glycine: the kept atoms under the names that OpenMM gives them.
_CAP_ATOMS = {"ACE": {"CA": "CH3", "C": "C", "O": "O"}, "NME": {"N": "N", "CA": "C"}}


def parse_sequence(sequence: str) -> tuple[str, ...]:
    """Splits and checks a sequence such as ``"ACE-ALA-NME"``.

    Args:
      sequence: three-letter residue names joined by hyphens; ACE may stand first, NME last.

    Returns:
      The residue names.

    Raises:
      ValueError: if the sequence is empty, has an unknown residue, a cap in the wrong place, or nothing but a cap.
    """
    if not sequence.strip():
        raise ValueError("sequence must name at least one residue, got an empty string.")
    names = tuple(sequence.split("-"))
    for index, name in enumerate(names):
        if name not in ONE_LETTER_CODES and name not in _CAP_ATOMS:
            known = ", ".join([*_CAP_ATOMS, *ONE_LETTER_CODES])
            raise ValueError(f"sequence: unknown residue {name!r} in {sequence!r}; the known ones are {known}.")
        if name == "ACE" and index != 0:
            raise ValueError(f"sequence: the cap ACE must stand first, got {sequence!r}.")
        if name == "NME" and index != len(names) - 1:
            raise ValueError(f"sequence: the cap NME must stand last, got {sequence!r}.")
    if not set(names) - set(_CAP_ATOMS):
        raise ValueError(f"sequence must name a residue besides its caps, got {sequence!r}.")
    return names


def build_peptide(
    sequence: str, *, force_field: str, phi_degrees: float, psi_degrees: float
) -> tuple[app.Topology, Float[np.ndarray, "atoms 3"]]:
    """Topology and start positions of a peptide, the same in every call.

    Ends without a cap are charged (NH3+ and COO−); side chains are protonated as at pH 7.

    Args:
      sequence: as for ``parse_sequence``.
      force_field: a preset of ``force_fields.PRESETS``; it relaxes the hydrogens.
      phi_degrees: φ of every residue.
      psi_degrees: ψ of every residue.

    Returns:
      The topology and (atoms, 3) positions in nm, not minimized.

    Raises:
      ValueError: for an impossible sequence or an unknown force field.
    """
    topology, positions_nm = _heavy_atoms(parse_sequence(sequence), phi_degrees, psi_degrees)
    return add_hydrogens(topology, positions_nm, force_field)


def add_hydrogens(
    topology: app.Topology, positions_nm: Float[np.ndarray, "atoms 3"], force_field: str
) -> tuple[app.Topology, Float[np.ndarray, "atoms_and_hydrogens 3"]]:
    """Adds the hydrogens that a topology lacks, those of pH 7; the same in every call.

    Args:
      topology: a topology with all its heavy atoms.
      positions_nm: (atoms, 3) positions.
      force_field: a preset of ``force_fields.PRESETS``; it relaxes the new hydrogens.

    Returns:
      The topology with hydrogens and its positions in nm.

    Raises:
      ValueError: if the preset is unknown or does not know a residue of the topology.
    """
    modeller = app.Modeller(topology, positions_nm * unit.nanometer)
    parameters = force_fields.force_field(force_field)
    # OpenMM places new hydrogens by Python's global random generator before it relaxes them.
    with _seeded_random(0), force_fields.explained_errors(force_field):
        modeller.addHydrogens(parameters, platform=openmm.Platform.getPlatformByName("Reference"))
    return modeller.topology, np.array(modeller.positions.value_in_unit(unit.nanometer))


def _heavy_atoms(
    names: tuple[str, ...], phi_degrees: float, psi_degrees: float
) -> tuple[app.Topology, Float[np.ndarray, "atoms 3"]]:
    codes = "".join(ONE_LETTER_CODES.get(name, "G") for name in names)
    bends = len(codes) - 1
    structure = PeptideBuilder.make_structure(codes, [phi_degrees] * bends, [psi_degrees] * bends)
    if names[-1] != "NME":
        PeptideBuilder.add_terminal_OXT(structure)
    topology = app.Topology()
    chain = topology.addChain("A")
    positions_nm = []
    for name, built_residue in zip(names, structure.get_residues(), strict=True):
        residue = topology.addResidue(name, chain)
        for atom in built_residue:
            atom_name = _CAP_ATOMS[name].get(atom.name) if name in _CAP_ATOMS else atom.name
            if atom_name is not None:
                topology.addAtom(atom_name, app.Element.getBySymbol(atom.element), residue)
                positions_nm.append(0.1 * np.asarray(atom.coord, np.float64))
    topology.createStandardBonds()
    return topology, np.array(positions_nm)


@contextlib.contextmanager
def _seeded_random(seed: int) -> Iterator[None]:
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
