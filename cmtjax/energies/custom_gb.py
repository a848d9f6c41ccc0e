"""Recognizes the generalized-Born models that OpenMM writes as a CustomGBForce, by their expressions."""

from __future__ import annotations

import re

import numpy as np
import openmm

from cmtjax.energies.amber_parameters import GeneralizedBorn

_NUMBER = r"[0-9.]+(?:[eE][+-]?[0-9]+)?"

# Descreening by spheres, and by the neck between two of them.
_SPHERES = "select(step(r+sr2-or1),0.5*(1/L-1/U+0.25*(r-sr2^2/r)*(1/(U^2)-1/(L^2))+0.5*log(L/U)/r),0)"
_SPHERE_NAMES = {"U": "r+sr2", "L": "max(or1,D)", "D": "abs(r-sr2)"}
_NECK_NAMES = {
    **_SPHERE_NAMES,
    "Ivdw": _SPHERES,
    "Ineck": "step(radius1+radius2+neckCut-r)*getm0(radindex1,radindex2)/(1+100*(r-getd0(radindex1,radindex2))^2+"
    "0.3*1000000*(r-getd0(radindex1,radindex2))^6)",
    "radius1": "or1+offset",
    "radius2": "or2+offset",
}
_PSI_NAMES = {"psi": "I*or", "radius": "or+offset"}


class _Expression:
    """``main; name=definition; …`` without spaces, numbers apart from other definitions."""

    def __init__(self, text: str) -> None:
        main, *definitions = re.sub(r"\s", "", text).split(";")
        pairs = dict(definition.split("=", 1) for definition in definitions if definition)
        self.main = main
        self.numbers = {name: float(value) for name, value in pairs.items() if re.fullmatch(_NUMBER, value)}
        self.names = {name: value for name, value in pairs.items() if name not in self.numbers}

    def match(self, template: str, names: dict[str, str] | None = None) -> dict[str, float] | None:
        """The numbers where a template has {name}, or None if the expression is another one."""
        pattern = re.sub(r"\\\{(\w+)\\\}", rf"(?P<\1>{_NUMBER})", re.escape(template))
        found = re.fullmatch(pattern, self.main)
        if found is None or self.names != (names or {}):
            return None
        return {**self.numbers, **{name: float(value) for name, value in found.groupdict().items()}}


def read_custom_gb(force: openmm.CustomGBForce) -> GeneralizedBorn:
    """The parameters of a CustomGBForce that is one of OpenMM's generalized-Born models.

    Args:
      force: the force.

    Raises:
      ValueError: if it is anything else.
    """
    if force.getNonbondedMethod() != openmm.CustomGBForce.NoCutoff:
        raise ValueError("CustomGBForce must have no cutoff.")
    if force.getNumGlobalParameters() or force.getNumExclusions():
        raise ValueError("CustomGBForce must have neither global parameters nor exclusions.")
    names = [force.getPerParticleParameterName(i) for i in range(force.getNumPerParticleParameters())]
    rows = np.array([force.getParticleParameters(i) for i in range(force.getNumParticles())], np.float64)
    particle = dict(zip(names, rows.reshape(-1, len(names)).T, strict=True))
    descreening, born = _computed_values(force)
    charge, offset_radius, scaled_radius = (_column(particle, name) for name in ("charge", "or", "sr"))

    polynomial, offset = _polynomial(born, particle)
    necks = descreening.match("Ivdw+neckScale*Ineck", _NECK_NAMES)
    if necks is None and descreening.match(_SPHERES, _SPHERE_NAMES) is None:
        raise _unknown("value I", descreening)
    energies = _energies(force)
    offset = energies["offset"] if offset is None else offset
    return GeneralizedBorn(
        charge=charge,
        radius_nm=offset_radius + offset,
        offset_radius_nm=offset_radius,
        scaled_radius_nm=scaled_radius,
        polynomial=polynomial,
        has_engulfed_term=False,
        neck_height=None if necks is None else necks["neckScale"] * _neck_table(force, "getm0", particle),
        neck_distance_nm=None if necks is None else _neck_table(force, "getd0", particle),
        neck_range_nm=0.0 if necks is None else necks["neckCut"],
        solute=energies["constant"] / energies["soluteDielectric"],
        solvent=energies["constant"] / energies["solventDielectric"],
        inverse_debye_length=energies["kappa"],
        surface=np.array([energies["surface"], energies["probe"]]),
    )


def _computed_values(force: openmm.CustomGBForce) -> tuple[_Expression, _Expression]:
    values = [force.getComputedValueParameters(i) for i in range(force.getNumComputedValues())]
    kinds = [(name, kind) for name, _, kind in values]
    expected = [("I", openmm.CustomGBForce.ParticlePairNoExclusions), ("B", openmm.CustomGBForce.SingleParticle)]
    if kinds != expected:
        raise ValueError(f"CustomGBForce must compute I over pairs and B of it, got {[name for name, _ in kinds]}.")
    return _Expression(values[0][1]), _Expression(values[1][1])


def _polynomial(born: _Expression, particle: dict[str, np.ndarray]) -> tuple[np.ndarray | None, float | None]:
    """Coefficients of ψ, ψ², ψ³ in the tanh, and the offset of the radii where the expression tells it."""
    if born.match("1/(1/or-I)") is not None:
        return None, None
    forms = {
        "{a}*psi+{c}*psi^3": (1, 0, 1),
        "psi-{b}*psi^2+{c}*psi^3": (1, -1, 1),
        "{a}*psi-{b}*psi^2+{c}*psi^3": (1, -1, 1),
    }
    for form, signs in forms.items():
        numbers = born.match(f"1/(1/or-tanh({form})/radius)", _PSI_NAMES)
        if numbers is not None:
            values = [sign * numbers.get(name, 1.0) for sign, name in zip(signs, "abc", strict=True)]
            return np.repeat(np.array(values)[:, None], particle["or"].size, axis=1), numbers["offset"]
    numbers = born.match("1/(1/or-tanh(alpha*psi-beta*psi^2+gamma*psi^3)/radius)", _PSI_NAMES)
    if numbers is None:
        raise _unknown("value B", born)
    alpha, beta, gamma = (_column(particle, name) for name in ("alpha", "beta", "gamma"))
    return np.stack([alpha, -beta, gamma]), numbers["offset"]


def _energies(force: openmm.CustomGBForce) -> dict[str, float]:
    """Numbers of the energy terms: each atom's own, the pairs', and the surface's if there is one."""
    plain, salty = "(1/soluteDielectric-1/solventDielectric)", "(1/soluteDielectric-exp(-kappa*%s)/solventDielectric)"
    still = {"f": "sqrt(r^2+B1*B2*exp(-r^2/(4*B1*B2)))"}
    found: dict[str, dict[str, float]] = {}
    for index in range(force.getNumEnergyTerms()):
        text, kind = force.getEnergyTermParameters(index)
        expression = _Expression(text)
        if kind == openmm.CustomGBForce.SingleParticle:
            candidates = {
                "self": [f"-0.5*{{constant}}*{factor}*charge^2/B" for factor in (plain, salty % "B")],
                "surface": ["{surface}*(radius+{probe})^2*(radius/B)^6"],
            }
            names = {"surface": {"radius": "or+offset"}}
        else:
            candidates = {"pairs": [f"-{{constant}}*{factor}*charge1*charge2/f" for factor in (plain, salty % "f")]}
            names = {"pairs": still}
        matches = {
            name: numbers
            for name, templates in candidates.items()
            for template in templates
            if (numbers := expression.match(template, names.get(name))) is not None
        }
        if not matches or set(matches) & set(found):
            raise _unknown("energy", expression)
        found |= matches
    if not {"self", "pairs"} <= set(found):
        raise ValueError(f"CustomGBForce must have energies of atoms and of pairs, got {sorted(found)}.")
    shared = ("constant", "soluteDielectric", "solventDielectric", "kappa")
    if [found["self"].get(name) for name in shared] != [found["pairs"].get(name) for name in shared]:
        raise ValueError("CustomGBForce must have the same constants in the energies of atoms and of pairs.")
    return {"kappa": 0.0, "surface": 0.0, "probe": 0.0, "offset": 0.0, **found["self"], **found.get("surface", {})}


def _neck_table(force: openmm.CustomGBForce, name: str, particle: dict[str, np.ndarray]) -> np.ndarray:
    """(atoms, atoms) entries of a table over pairs of radii."""
    for index in range(force.getNumTabulatedFunctions()):
        if force.getTabulatedFunctionName(index) == name:
            table = force.getTabulatedFunction(index)
            if not isinstance(table, openmm.Discrete2DFunction):
                break
            width, height, values = table.getFunctionParameters()
            row = _column(particle, "radindex").astype(int)
            # OpenMM's tables run over the first argument first.
            return np.array(values).reshape(height, width)[row[None, :], row[:, None]]
    raise ValueError(f"CustomGBForce must have a table {name} over pairs of radii.")


def _column(particle: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in particle:
        raise ValueError(f"CustomGBForce must have a parameter {name} of each particle, got {sorted(particle)}.")
    return particle[name]


def _unknown(what: str, expression: _Expression) -> ValueError:
    return ValueError(
        f"CustomGBForce must be one of OpenMM's generalized-Born models, got the {what} = {expression.main}."
    )
