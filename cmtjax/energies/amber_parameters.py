"""The numbers of an Amber-type force field, as the energy in JAX needs them; NumPy only, no OpenMM."""

from __future__ import annotations

import os
import zipfile
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int


class HarmonicBonds(NamedTuple):
    """½ k (r − r₀)².

    Attributes:
      atoms: (n, 2) indices.
      length_nm: (n,) r₀.
      constant: (n,) k in kJ/mol/nm².
    """

    atoms: Int[np.ndarray, "n 2"]
    length_nm: Float[np.ndarray, "n"]
    constant: Float[np.ndarray, "n"]


class HarmonicAngles(NamedTuple):
    """½ k (θ − θ₀)².

    Attributes:
      atoms: (n, 3) indices, the apex in the middle.
      angle_rad: (n,) θ₀.
      constant: (n,) k in kJ/mol/rad².
    """

    atoms: Int[np.ndarray, "n 3"]
    angle_rad: Float[np.ndarray, "n"]
    constant: Float[np.ndarray, "n"]


class Torsions(NamedTuple):
    """Σ_m c_m cos mφ + s_m sin mφ: all cosine terms k (1 + cos(mφ − δ)) of the same four atoms together.

    Attributes:
      atoms: (n, 4) indices.
      cosine: (orders, n) c_m in kJ/mol; row 0 is a constant.
      sine: (orders, n) s_m in kJ/mol.
    """

    atoms: Int[np.ndarray, "n 4"]
    cosine: Float[np.ndarray, "orders n"]
    sine: Float[np.ndarray, "orders n"]


class TorsionMaps(NamedTuple):
    """Corrections of two torsions (φ, ψ), piecewise bicubic on a periodic grid.

    Attributes:
      atoms: (n, 8) indices, four of φ and four of ψ.
      map_index: (n,) which map.
      coefficients: (maps, size, size, 4, 4): in the cell that begins at (i, j) · 2π/size, Σ_ab C_ab s^a t^b with s, t
        in [0, 1] along φ and ψ; kJ/mol.
    """

    atoms: Int[np.ndarray, "n 8"]
    map_index: Int[np.ndarray, "n"]
    coefficients: Float[np.ndarray, "maps size size 4 4"]


class Nonbonded(NamedTuple):
    """q/r + a/r¹² − c/r⁶ over pairs, exclusions and 1-4 scaling included; symmetric, the diagonal is not used.

    Attributes:
      coulomb: (atoms, atoms) q in kJ/mol nm.
      repulsion: (atoms, atoms) a in kJ/mol nm¹².
      dispersion: (atoms, atoms) c in kJ/mol nm⁶.
    """

    coulomb: Float[np.ndarray, "atoms atoms"]
    repulsion: Float[np.ndarray, "atoms atoms"]
    dispersion: Float[np.ndarray, "atoms atoms"]


class GeneralizedBorn(NamedTuple):
    """Implicit solvent by pairwise descreening: Hawkins, Cramer and Truhlar, and what Onufriev and others made of it.

    With I_i the descreening sum of atom i over all others,

        1/B = 1/o − I                                     where ``polynomial`` is None (HCT),
        1/B = 1/o − tanh(aψ + bψ² + cψ³)/ρ,  ψ = I o      else (OBC, GBn),

    and the energy is −½ Σ_i g(B_i) q_i²/B_i − Σ_{i<j} g(f) q_i q_j/f + Σ_i s (ρ_i + p)² (ρ_i/B_i)⁶ with
    f² = r² + B_i B_j exp(−r²/4B_iB_j) and g(x) = ``solute`` − ``solvent`` exp(−κ x).

    Attributes:
      charge: (atoms,) q in elementary charges.
      radius_nm: (atoms,) ρ.
      offset_radius_nm: (atoms,) o.
      scaled_radius_nm: (atoms,) the radius of an atom as the others see it.
      polynomial: (3, atoms) a, b, c; or None.
      has_engulfed_term: whether an atom wholly inside another one gets the additional 1/o − 1/(s − r) of OpenMM's
        GBSAOBCForce.
      neck_height: (atoms, atoms) m₀ of the neck between i and j as i sees it, its scale included, 1/nm; None without
        necks (Mongan and others, J. Chem. Theory Comput. 3, 156 (2007)).
      neck_distance_nm: (atoms, atoms) d₀ of the neck; None without.
      neck_range_nm: necks reach ρ_i + ρ_j + this far.
      solute: Coulomb constant over the solute's dielectric constant, kJ/mol nm/e².
      solvent: Coulomb constant over the solvent's.
      inverse_debye_length: κ in 1/nm; 0 without salt.
      surface: (2,) s in kJ/mol/nm² and p in nm.
    """

    charge: Float[np.ndarray, "atoms"]
    radius_nm: Float[np.ndarray, "atoms"]
    offset_radius_nm: Float[np.ndarray, "atoms"]
    scaled_radius_nm: Float[np.ndarray, "atoms"]
    polynomial: Float[np.ndarray, "3 atoms"] | None
    has_engulfed_term: Any
    neck_height: Float[np.ndarray, "atoms atoms"] | None
    neck_distance_nm: Float[np.ndarray, "atoms atoms"] | None
    neck_range_nm: Any
    solute: Any
    solvent: Any
    inverse_debye_length: Any
    surface: Float[np.ndarray, "2"]


class AmberParameters(NamedTuple):
    """All terms of a force field; a term that a System lacks is None.

    Attributes:
      num_atoms: number of atoms.
      bonds: of HarmonicBondForce.
      angles: of HarmonicAngleForce.
      torsions: of PeriodicTorsionForce.
      torsion_maps: of CMAPTorsionForce, one entry a grid size.
      nonbonded: of NonbondedForce.
      solvent: of GBSAOBCForce or CustomGBForce.
    """

    num_atoms: int
    bonds: HarmonicBonds | None
    angles: HarmonicAngles | None
    torsions: Torsions | None
    torsion_maps: tuple[TorsionMaps, ...]
    nonbonded: Nonbonded | None
    solvent: GeneralizedBorn | None


_TERMS = {
    "bonds": HarmonicBonds,
    "angles": HarmonicAngles,
    "torsions": Torsions,
    "nonbonded": Nonbonded,
    "solvent": GeneralizedBorn,
}


def to_arrays(parameters: AmberParameters) -> dict[str, np.ndarray]:
    """Flat names to arrays, for a ``.npz`` file; ``from_arrays`` is the inverse."""
    arrays = {"num_atoms": np.array(parameters.num_atoms)}
    terms: dict[str, Any] = {name: getattr(parameters, name) for name in _TERMS}
    terms |= {f"torsion_maps{index}": entry for index, entry in enumerate(parameters.torsion_maps)}
    for name, term in terms.items():
        for field, value in term._asdict().items() if term is not None else ():
            if value is not None:
                arrays[f"{name}.{field}"] = np.asarray(value)
    return arrays


def from_arrays(arrays: dict[str, np.ndarray]) -> AmberParameters:
    """The inverse of ``to_arrays``.

    Raises:
      ValueError: if entries are missing or unknown.
    """
    sections: dict[str, dict[str, Any]] = {}
    for name, array in arrays.items():
        if name != "num_atoms":
            section, _, field = name.partition(".")
            sections.setdefault(section, {})[field] = array if array.ndim else array.item()
    maps = sorted((section for section in sections if section.startswith("torsion_maps")), key=lambda s: int(s[12:]))
    try:
        terms = {name: _build(kind, sections.pop(name, None)) for name, kind in _TERMS.items()}
        entries = tuple(TorsionMaps(**sections.pop(section)) for section in maps)
        num_atoms = int(arrays["num_atoms"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"arrays must be those of to_arrays: {error}.") from error
    if sections:
        raise ValueError(f"arrays must be those of to_arrays, got unknown {sorted(sections)}.")
    return AmberParameters(num_atoms, torsion_maps=entries, **terms)


def _build(kind: Any, fields: dict[str, Any] | None) -> Any:
    if fields is None:
        return None
    optional = {"polynomial", "neck_height", "neck_distance_nm"} & set(kind._fields)
    return kind(**{**dict.fromkeys(optional), **fields})


def read_npz(path: str | os.PathLike[str]) -> AmberParameters:
    """Parameters from a file that ``np.savez`` made of ``to_arrays``.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: if it holds something else, or is damaged.
    """
    try:
        # Opened here, because NumPy leaves a damaged file open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as entries:
            arrays = dict(entries)
    except (zipfile.BadZipFile, EOFError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(
            f"path must be a file that AmberEnergy.save wrote, got {os.fspath(path)!r}: {error}"
        ) from error
    return from_arrays(arrays)
