"""The z-matrix of a molecule: which internal coordinates place which atom, and over which ranges."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib

import numpy as np
from jaxtyping import Bool, Float, Int

_ARRAY_DTYPES = {
    "initial_atoms": np.int64,
    "rows": np.int64,
    "bond_reference_nm": np.float64,
    "bond_is_constrained": np.bool_,
    "angle_reference_rad": np.float64,
    "torsion_start": np.float64,
    "torsion_width": np.float64,
    "ramachandran_rows": np.int64,
}


@dataclasses.dataclass(frozen=True, eq=False)
class ZMatrix:
    """Internal coordinates of a molecule with everything that fixes their scale and range.

    Three initial atoms make the frame; every row places one more atom from three placed before it. Bonds are in the
    order d(initial 0, initial 1), d(initial 1, initial 2), rows; angles in the order initial, rows. A torsion
    τ in (−π, π] is the turn y = (τ + π)/2π modulo 1, and runs over ``torsion_start + torsion_width * u``, u in [0, 1].

    Attributes:
      atom_names: ``"ALA1:CA"``: residue name, residue index from 0, atom name.
      initial_atoms: (3,) atoms of the frame; the middle one is the vertex of the initial angle.
      rows: (atoms − 3, 4) atoms (i, j, k, l): i is placed by bond i-j, angle i-j-k, dihedral i-j-k-l.
      bond_reference_nm: (atoms − 1,) bond lengths at the energy minimum; for a constrained bond its fixed length.
      bond_is_constrained: (atoms − 1,) True where the bond length is fixed and no degree of freedom.
      angle_reference_rad: (atoms − 2,) angles at the energy minimum, in (0, π).
      torsion_start: (atoms − 3,) start of the allowed window, in turns, in [0, 1).
      torsion_width: (atoms − 3,) width of the window, in turns, in (0, 1]; 1 is the full range. A window may
        pass 1 (``start + width > 1``): it wraps.
      ramachandran_rows: (pairs, 2) indices of the rows whose torsions are the backbone's φ and ψ.

    Raises:
      ValueError: if shapes disagree, an atom is missing, placed twice or used before it is placed, or a reference
        value or window is impossible.
    """

    atom_names: tuple[str, ...]
    initial_atoms: Int[np.ndarray, "3"]
    rows: Int[np.ndarray, "atoms-3 4"]
    bond_reference_nm: Float[np.ndarray, "atoms-1"]
    bond_is_constrained: Bool[np.ndarray, "atoms-1"]
    angle_reference_rad: Float[np.ndarray, "atoms-2"]
    torsion_start: Float[np.ndarray, "atoms-3"]
    torsion_width: Float[np.ndarray, "atoms-3"]
    ramachandran_rows: Int[np.ndarray, "pairs 2"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "atom_names", tuple(self.atom_names))
        for name, dtype in _ARRAY_DTYPES.items():
            array: np.ndarray = np.array(getattr(self, name), dtype=dtype)
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        if self.ramachandran_rows.size == 0:
            object.__setattr__(self, "ramachandran_rows", np.zeros((0, 2), np.int64))
        self._check_shapes()
        self._check_placement()
        self._check_values()

    @property
    def num_atoms(self) -> int:
        """Number of atoms of the molecule."""
        return len(self.atom_names)

    @property
    def bond_atoms(self) -> Int[np.ndarray, "atoms-1 2"]:
        """The atoms of each bond, in the order of ``bond_reference_nm``."""
        first, second, third = self.initial_atoms
        return np.concatenate([[[first, second], [second, third]], self.rows[:, :2]])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the z-matrix as JSON; floats come back from ``load`` bit for bit.

        Args:
          path: the file to write.
        """
        fields = {"atom_names": list(self.atom_names)} | {name: getattr(self, name).tolist() for name in _ARRAY_DTYPES}
        lines = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items())
        pathlib.Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ZMatrix:
        """Reads what ``save`` wrote.

        Args:
          path: a JSON file.

        Raises:
          ValueError: if the file is not JSON, lacks a field, has an unknown one, or describes no valid z-matrix.
        """
        try:
            fields = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"path: {str(path)!r} is not JSON ({error}).") from None
        expected = {"atom_names", *_ARRAY_DTYPES}
        found = set(fields) if isinstance(fields, dict) else set()
        if found != expected:
            raise ValueError(f"path: {str(path)!r} must hold the fields {sorted(expected)}, got {sorted(found)}.")
        return cls(**fields)

    def _check_shapes(self) -> None:
        atoms = self.num_atoms
        if atoms < 4:
            raise ValueError(f"atom_names must name at least 4 atoms, got {atoms}.")
        shapes = {
            "initial_atoms": (3,),
            "rows": (atoms - 3, 4),
            "bond_reference_nm": (atoms - 1,),
            "bond_is_constrained": (atoms - 1,),
            "angle_reference_rad": (atoms - 2,),
            "torsion_start": (atoms - 3,),
            "torsion_width": (atoms - 3,),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape} for {atoms} atoms, got {getattr(self, name).shape}.")
        pairs = self.ramachandran_rows
        if pairs.ndim != 2 or pairs.shape[1] != 2:
            raise ValueError(f"ramachandran_rows must have shape (pairs, 2), got {pairs.shape}.")
        if np.any((pairs < 0) | (pairs >= atoms - 3)):
            raise ValueError(f"ramachandran_rows must be rows in [0, {atoms - 3}), got {pairs.tolist()}.")

    def _check_placement(self) -> None:
        placed = set(self.initial_atoms.tolist())
        if len(placed) != 3:
            raise ValueError(f"initial_atoms must be three different atoms, got {self.initial_atoms.tolist()}.")
        for index, (atom, *parents) in enumerate(self.rows.tolist()):
            if atom in placed:
                raise ValueError(f"rows: row {index} places atom {atom} a second time.")
            if len(set(parents)) != 3 or not placed.issuperset(parents):
                raise ValueError(f"rows: row {index} needs three different atoms placed before it, got {parents}.")
            placed.add(atom)
        if placed != set(range(self.num_atoms)):
            unknown = sorted(placed - set(range(self.num_atoms)))
            raise ValueError(f"rows and initial_atoms must be atoms in [0, {self.num_atoms}), got {unknown}.")

    def _check_values(self) -> None:
        legal = {
            "bond_reference_nm": (self.bond_reference_nm > 0) & np.isfinite(self.bond_reference_nm),
            "angle_reference_rad": (self.angle_reference_rad > 0) & (self.angle_reference_rad < np.pi),
            "torsion_start": (self.torsion_start >= 0) & (self.torsion_start < 1),
            "torsion_width": (self.torsion_width > 0) & (self.torsion_width <= 1),
        }
        ranges = ("positive and finite", "in (0, π)", "in [0, 1)", "in (0, 1]")
        for (name, good), allowed in zip(legal.items(), ranges, strict=True):
            if not good.all():
                index = int(np.flatnonzero(~good)[0])
                raise ValueError(f"{name} must be {allowed}, got {getattr(self, name)[index]} at index {index}.")
