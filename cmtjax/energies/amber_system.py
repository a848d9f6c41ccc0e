"""From an OpenMM System to the parameters of the energy in JAX. Host code."""

from __future__ import annotations

import collections
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import openmm
from openmm import unit

from cmtjax.energies.amber_parameters import (
    AmberParameters,
    GeneralizedBorn,
    HarmonicAngles,
    HarmonicBonds,
    Nonbonded,
    TorsionMaps,
    Torsions,
)
from cmtjax.energies.custom_gb import read_custom_gb
from cmtjax.energies.torsion_maps import bicubic_coefficients

if TYPE_CHECKING:
    from cmtjax.energies.amber import AmberEnergy

#: 1/4πε₀ in kJ/mol nm/e², from the CODATA 2018 values that OpenMM's own forces use.
COULOMB_CONSTANT = 1.602176634e-19**2 * 6.02214076e23 / (4 * math.pi * 8.8541878128e-12) * 1e6

# Largest difference of a term from OpenMM's, relative and in kJ/mol: both compute in double precision.
_TOLERANCE = 1e-6

_ALTERNATIVE = "cmtjax.energies.OpenMMPool evaluates any System."


def read_system(system: openmm.System) -> AmberParameters:
    """The parameters of all forces of a System.

    Args:
      system: the System.

    Raises:
      ValueError: if a force, or a setting of one, is not understood; the message names it.
    """
    num_atoms = system.getNumParticles()
    if any(system.isVirtualSite(atom) for atom in range(num_atoms)):
        raise ValueError(f"system must have no virtual sites. {_ALTERNATIVE}")
    found: dict[str, list[Any]] = collections.defaultdict(list)
    for force in system.getForces():
        name = type(force).__name__
        if name == "CMMotionRemover":
            continue
        if name not in _READERS:
            raise ValueError(f"system must hold Amber-type forces only, got {force.getName()} ({name}). {_ALTERNATIVE}")
        if force.usesPeriodicBoundaryConditions():
            raise ValueError(f"{name} must not be periodic. {_ALTERNATIVE}")
        found[_FIELDS[name]].append(_READERS[name](force))
    for field in ("nonbonded", "solvent"):
        if len(found[field]) > 1:
            raise ValueError(f"system must hold one {field} force at most, got {len(found[field])}. {_ALTERNATIVE}")
    return AmberParameters(
        num_atoms=num_atoms,
        bonds=_joined(HarmonicBonds, found["bonds"]),
        angles=_joined(HarmonicAngles, found["angles"]),
        torsions=_torsions([term for terms in found["torsions"] for term in terms]),
        torsion_maps=tuple(entry for entries in found["torsion_maps"] for entry in entries),
        nonbonded=next(iter(found["nonbonded"]), None),
        solvent=next(iter(found["solvent"]), None),
    )


def check_against_openmm(energy: AmberEnergy, system: openmm.System) -> None:
    """Compares every term with OpenMM's Reference platform on one structure.

    Args:
      energy: what was made of the System.
      system: the System.

    Raises:
      ValueError: if a term differs.
    """
    positions_nm = _loose_packing(energy.num_atoms)
    with jax.enable_x64(True), jax.default_device(jax.local_devices(backend="cpu")[0]):
        terms = {name: float(value) for name, value in jax.jit(energy.terms)(positions_nm).items()}
    try:
        expected_terms = energies_by_term(system, positions_nm)
    except openmm.OpenMMException as error:
        raise ValueError(f"system must be one that OpenMM can evaluate: {error}") from error
    for name, expected in expected_terms.items():
        found = terms.get(name, 0.0)  # a force may be there without a single term
        if not abs(found - expected) <= _TOLERANCE * (1 + abs(expected)):
            raise ValueError(
                f"system must be one whose energies are understood, but its {name} give {found!r} kJ/mol where "
                f"OpenMM gives {expected!r}. {_ALTERNATIVE}"
            )


def energies_by_term(system: openmm.System, positions_nm: np.ndarray) -> dict[str, float]:
    """OpenMM's energies of one configuration on the Reference platform, under the names of ``AmberEnergy.terms``.

    Args:
      system: the System.
      positions_nm: (atoms, 3) in nm.

    Returns:
      Term to kJ/mol.
    """
    copy = openmm.XmlSerializer.clone(system)
    names = []
    for force in copy.getForces():
        field = _FIELDS.get(type(force).__name__)
        if field is not None and field not in names:
            names.append(field)
        force.setForceGroup(31 if field is None else names.index(field))
    context = openmm.Context(copy, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
    context.setPositions(positions_nm)
    energies = {}
    for group, field in enumerate(names):
        energy = context.getState(getEnergy=True, groups={group}).getPotentialEnergy()
        energies[field] = energy.value_in_unit(unit.kilojoule_per_mole)
    return energies


def _loose_packing(num_atoms: int) -> np.ndarray:
    """Atoms on a cubic lattice, 0.3 nm apart on average, each somewhat off its place: no term drowns the others."""
    side = math.ceil(num_atoms ** (1 / 3))
    lattice = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:num_atoms]
    return 0.3 * lattice + np.random.default_rng(0).uniform(-0.06, 0.06, lattice.shape)


def _joined(kind: Any, parts: list[Any]) -> Any:
    return kind(*(np.concatenate(columns) for columns in zip(*parts, strict=True))) if parts else None


def _read_bonds(force: openmm.HarmonicBondForce) -> HarmonicBonds:
    atoms, numbers = _table((force.getBondParameters(i) for i in range(force.getNumBonds())), 2, 2)
    return HarmonicBonds(atoms, *numbers.T)


def _read_angles(force: openmm.HarmonicAngleForce) -> HarmonicAngles:
    atoms, numbers = _table((force.getAngleParameters(i) for i in range(force.getNumAngles())), 3, 2)
    return HarmonicAngles(atoms, *numbers.T)


def _read_torsions(force: openmm.PeriodicTorsionForce) -> list[tuple[tuple[int, ...], int, float, float]]:
    atoms, numbers = _table((force.getTorsionParameters(i) for i in range(force.getNumTorsions())), 4, 3)
    return [(tuple(row), int(order), phase, k) for row, (order, phase, k) in zip(atoms, numbers, strict=True)]


def _torsions(terms: list[tuple[tuple[int, ...], int, float, float]]) -> Torsions | None:
    """Puts the terms of each four atoms together; a torsion read backwards is the same angle."""
    if any(order < 1 for _, order, *_ in terms):
        raise ValueError(f"PeriodicTorsionForce must have periodicities of 1 or more, got {min(t[1] for t in terms)}.")
    terms = [term for term in terms if term[3] != 0.0]
    if not terms:
        return None
    quads = {min(atoms, atoms[::-1]): None for atoms, *_ in terms}
    index = {atoms: row for row, atoms in enumerate(quads)}
    cosine = np.zeros((max(order for _, order, *_ in terms) + 1, len(quads)))
    sine = np.zeros_like(cosine)
    for atoms, order, phase, k in terms:
        row = index[min(atoms, atoms[::-1])]
        cosine[0, row] += k
        cosine[order, row] += k * math.cos(phase)
        sine[order, row] += k * math.sin(phase)
    return Torsions(np.array(list(quads), np.int32), cosine, sine)


def _read_maps(force: openmm.CMAPTorsionForce) -> list[TorsionMaps]:
    """One entry a grid size."""
    rows = [force.getTorsionParameters(i) for i in range(force.getNumTorsions())]
    grids = [force.getMapParameters(i) for i in range(force.getNumMaps())]
    entries = []
    for size in sorted({size for size, _ in grids}):
        of_size = [index for index, (other, _) in enumerate(grids) if other == size]
        tables = [np.array(grids[index][1].value_in_unit(unit.kilojoule_per_mole)) for index in of_size]
        chosen = [row for row in rows if row[0] in of_size]
        if chosen:
            entries.append(
                TorsionMaps(
                    atoms=np.array([row[1:] for row in chosen], np.int32),
                    map_index=np.array([of_size.index(row[0]) for row in chosen], np.int32),
                    # OpenMM's tables run over φ first.
                    coefficients=np.stack([bicubic_coefficients(t.reshape(size, size).T) for t in tables]),
                )
            )
    return entries


def _read_nonbonded(force: openmm.NonbondedForce) -> Nonbonded:
    if force.getNonbondedMethod() != openmm.NonbondedForce.NoCutoff:
        raise ValueError(f"NonbondedForce must have no cutoff. {_ALTERNATIVE}")
    if force.getNumGlobalParameters():
        raise ValueError(f"NonbondedForce must have no global parameters. {_ALTERNATIVE}")
    numbers = np.array([_plain(force.getParticleParameters(i)) for i in range(force.getNumParticles())], np.float64)
    charge, sigma, epsilon = numbers.reshape(-1, 3).T
    coulomb = np.multiply.outer(charge, charge)
    sigmas = np.add.outer(sigma, sigma) / 2
    epsilons = np.sqrt(np.multiply.outer(epsilon, epsilon))
    for index in range(force.getNumExceptions()):
        i, j, *values = _plain(force.getExceptionParameters(index))
        for pair in ((i, j), (j, i)):
            coulomb[pair], sigmas[pair], epsilons[pair] = values
    return Nonbonded(COULOMB_CONSTANT * coulomb, 4 * epsilons * sigmas**12, 4 * epsilons * sigmas**6)


def _read_obc(force: openmm.GBSAOBCForce) -> GeneralizedBorn:
    if force.getNonbondedMethod() != openmm.GBSAOBCForce.NoCutoff:
        raise ValueError(f"GBSAOBCForce must have no cutoff. {_ALTERNATIVE}")
    numbers = np.array([_plain(force.getParticleParameters(i)) for i in range(force.getNumParticles())], np.float64)
    charge, radius, scale = numbers.reshape(-1, 3).T
    offset_radius = radius - 0.009
    surface = force.getSurfaceAreaEnergy().value_in_unit(unit.kilojoule_per_mole / unit.nanometer**2)
    return GeneralizedBorn(
        charge=charge,
        radius_nm=radius,
        offset_radius_nm=offset_radius,
        scaled_radius_nm=scale * offset_radius,
        polynomial=np.repeat([[1.0], [-0.8], [4.85]], charge.size, axis=1),
        has_engulfed_term=True,
        neck_height=None,
        neck_distance_nm=None,
        neck_range_nm=0.0,
        solute=COULOMB_CONSTANT / force.getSoluteDielectric(),
        solvent=COULOMB_CONSTANT / force.getSolventDielectric(),
        inverse_debye_length=0.0,
        surface=np.array([4 * math.pi * surface, 0.14]),
    )


def _read_custom(force: openmm.CustomGBForce) -> GeneralizedBorn:
    try:
        return read_custom_gb(force)
    except ValueError as error:
        raise ValueError(f"{error} {_ALTERNATIVE}") from error


def _table(rows: Iterable[Any], num_atoms: int, num_numbers: int) -> tuple[np.ndarray, np.ndarray]:
    plain = [_plain(row) for row in rows]
    atoms = np.array([row[:num_atoms] for row in plain], np.int32).reshape(-1, num_atoms)
    return atoms, np.array([row[num_atoms:] for row in plain], np.float64).reshape(-1, num_numbers)


def _plain(values: Any) -> list[Any]:
    """Numbers in OpenMM's units: nm, kJ/mol, rad, e."""
    return [v.value_in_unit_system(unit.md_unit_system) if unit.is_quantity(v) else v for v in values]


_READERS: dict[str, Callable[[Any], Any]] = {
    "HarmonicBondForce": _read_bonds,
    "HarmonicAngleForce": _read_angles,
    "PeriodicTorsionForce": _read_torsions,
    "CMAPTorsionForce": _read_maps,
    "NonbondedForce": _read_nonbonded,
    "GBSAOBCForce": _read_obc,
    "CustomGBForce": _read_custom,
}
_FIELDS = {
    "HarmonicBondForce": "bonds",
    "HarmonicAngleForce": "angles",
    "PeriodicTorsionForce": "torsions",
    "CMAPTorsionForce": "torsion_maps",
    "NonbondedForce": "nonbonded",
    "GBSAOBCForce": "solvent",
    "CustomGBForce": "solvent",
}
