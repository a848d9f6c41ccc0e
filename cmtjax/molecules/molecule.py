"""A molecule: everything that fixes its coordinates and its energy."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import openmm
from jaxtyping import Float
from openmm import app

from cmtjax.molecules import force_fields, peptides
from cmtjax.molecules.build_z_matrix import build_z_matrix
from cmtjax.molecules.minimize import minimize
from cmtjax.molecules.pdb_files import read_pdb, write_pdb
from cmtjax.molecules.z_matrix import ZMatrix

# Backbone starts of ``peptide`` (φ, ψ in degrees): β strand, polyproline II, C7eq turn, α helix.
_STARTS = ((-150.0, 150.0), (-75.0, 145.0), (-83.0, 75.0), (-60.0, -45.0))

_SYSTEM_FILE, _TOPOLOGY_FILE, _POSITIONS_FILE = "system.xml", "topology.pdb", "positions_nm.npy"
_Z_MATRIX_FILE, _MOLECULE_FILE = "z_matrix.json", "molecule.json"


@dataclasses.dataclass(frozen=True, eq=False)
class Molecule:
    """A molecule with its energy and internal coordinates.

    Attributes:
      name: what the molecule is called in reports.
      force_field: name of the preset that the System comes from.
      topology: OpenMM topology; its atom order is that of every array.
      system: OpenMM System, the energy.
      positions_nm: (atoms, 3) float64 positions at an energy minimum.
      z_matrix: internal coordinates with reference values from that minimum.

    Raises:
      ValueError: if the parts have different numbers of atoms.
    """

    name: str
    force_field: str
    topology: app.Topology
    system: openmm.System
    positions_nm: Float[np.ndarray, "atoms 3"]
    z_matrix: ZMatrix

    def __post_init__(self) -> None:
        positions = np.array(self.positions_nm, np.float64)
        positions.setflags(write=False)
        object.__setattr__(self, "positions_nm", positions)
        atoms = self.topology.getNumAtoms()
        counts = {"system": self.system.getNumParticles(), "z_matrix": self.z_matrix.num_atoms}
        if positions.shape != (atoms, 3) or set(counts.values()) != {atoms}:
            raise ValueError(
                f"topology, positions_nm, system and z_matrix must have one number of atoms, got {atoms}, "
                f"positions of shape {positions.shape} and {counts}."
            )

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes the molecule to a new directory, which appears only once it is complete.

        Args:
          directory: must not exist yet, or be empty; missing parents are made.

        Raises:
          FileExistsError: if the directory has something in it.
        """
        target = pathlib.Path(directory)
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise FileExistsError(f"directory must be new or empty: {str(target)!r}.")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        try:
            partial.chmod(0o755)
            (partial / _SYSTEM_FILE).write_text(openmm.XmlSerializer.serialize(self.system), encoding="utf-8")
            write_pdb(self.topology, self.positions_nm, partial / _TOPOLOGY_FILE)
            np.save(partial / _POSITIONS_FILE, self.positions_nm)
            self.z_matrix.save(partial / _Z_MATRIX_FILE)
            labels = {"name": self.name, "force_field": self.force_field}
            (partial / _MOLECULE_FILE).write_text(json.dumps(labels, indent=2) + "\n", encoding="utf-8")
            partial.rename(target)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def load(directory: str | os.PathLike[str]) -> Molecule:
    """Reads what ``Molecule.save`` wrote; every number comes back bit for bit.

    Args:
      directory: a molecule's directory.

    Raises:
      FileNotFoundError: if the directory or a file in it is missing.
      ValueError: if the files do not fit together.
    """
    source = pathlib.Path(directory)
    for name in (_SYSTEM_FILE, _TOPOLOGY_FILE, _POSITIONS_FILE, _Z_MATRIX_FILE, _MOLECULE_FILE):
        if not (source / name).is_file():
            raise FileNotFoundError(f"directory: {str(source)!r} is no saved molecule, it lacks {name}.")
    labels = json.loads((source / _MOLECULE_FILE).read_text(encoding="utf-8"))
    return Molecule(
        name=labels["name"],
        force_field=labels["force_field"],
        topology=read_pdb(source / _TOPOLOGY_FILE)[0],
        system=openmm.XmlSerializer.deserialize((source / _SYSTEM_FILE).read_text(encoding="utf-8")),
        positions_nm=np.load(source / _POSITIONS_FILE),
        z_matrix=ZMatrix.load(source / _Z_MATRIX_FILE),
    )


def peptide(sequence: str, *, force_field: str) -> Molecule:
    """Builds a peptide from its sequence.

    Ends without a cap are charged, side chains protonated as at pH 7. The structure is the lowest of the minima reached
    from a few regular backbones, the same in every call.

    Args:
      sequence: residue names joined by hyphens, such as ``"ACE-ALA-NME"``.
      force_field: a preset: "amber96-obc1" or "amber99sbildn-obc2".

    Raises:
      ValueError: for an empty or impossible sequence, or an unknown force field.
    """
    candidates = []
    for phi_degrees, psi_degrees in _STARTS:
        topology, start_nm = peptides.build_peptide(
            sequence, force_field=force_field, phi_degrees=phi_degrees, psi_degrees=psi_degrees
        )
        system = force_fields.create_system(topology, force_field)
        positions_nm, energy_kj_mol = minimize(system, start_nm)
        candidates.append((energy_kj_mol, topology, system, positions_nm))
    _, topology, system, positions_nm = min(candidates, key=lambda candidate: candidate[0])
    z_matrix = build_z_matrix(topology, system, positions_nm)
    return Molecule(sequence, force_field, topology, system, positions_nm, z_matrix)


def from_pdb(path: str | os.PathLike[str], *, force_field: str) -> Molecule:
    """Builds a peptide from a PDB file.

    The hydrogens in the file are kept, missing ones added as at pH 7; then the structure is minimized.

    Args:
      path: a PDB file of one peptide of standard residues, with all heavy atoms; the first of several models counts.
      force_field: a preset: "amber96-obc1" or "amber99sbildn-obc2".

    Returns:
      The molecule, named as the file without its suffix.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if the preset is unknown, or the file is no peptide that it has parameters for.
    """
    source = pathlib.Path(path)
    force_fields.force_field(force_field)
    topology, heavy_nm = read_pdb(source)
    topology, start_nm = peptides.add_hydrogens(topology, heavy_nm, force_field)
    system = force_fields.create_system(topology, force_field)
    positions_nm, _ = minimize(system, start_nm)
    z_matrix = build_z_matrix(topology, system, positions_nm)
    return Molecule(source.stem, force_field, topology, system, positions_nm, z_matrix)
