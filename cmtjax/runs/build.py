"""From a stored configuration to the parts of a run; used by the programs and by ``load_sampler``."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import optax

from cmtjax.coordinates.domain import Domain
from cmtjax.coordinates.internal import InternalCoordinates
from cmtjax.energies.regularize import regularize_energy
from cmtjax.flows.flow import Flow, spline_flow
from cmtjax.methods.averaging import average_parameters
from cmtjax.methods.cmt import CMTConfig, Method, cmt
from cmtjax.methods.optimizers import adam_with_cosine, muon_with_cosine
from cmtjax.targets.target import Target
from cmtjax.units import thermal_energy_kj_mol

OPTIMIZERS = ("adam", "muon")
#: "amber": in JAX on the device; "openmm": a pool of worker processes; "auto": the first where it is possible.
ENERGY_BACKENDS = ("auto", "amber", "openmm")


def build_molecule(section: Mapping[str, Any]) -> Any:
    """The molecule that ``config.molecule`` describes.

    Args:
      section: exactly one of ``name`` (a published molecule), ``sequence`` and ``pdb`` is not empty; the last two need
        a ``force_field``, the first has its own.

    Raises:
      ValueError: for anything else, or an unknown name, sequence or force field.
      FileNotFoundError: if there is no such PDB file.
    """
    from cmtjax import molecules  # OpenMM is not needed to read a run.

    given = [kind for kind in ("name", "sequence", "pdb") if section[kind]]
    if len(given) != 1:
        raise ValueError(f"molecule must set exactly one of name, sequence and pdb, got {dict(section)}.")
    if given == ["name"]:
        molecule = molecules.published(section["name"])
        if section["force_field"] not in ("", molecule.force_field):
            raise ValueError(
                f"force_field must be empty or {molecule.force_field!r} with the published {molecule.name}, got "
                f"{section['force_field']!r}; another one goes with sequence or pdb."
            )
        return molecule
    build = molecules.peptide if given == ["sequence"] else molecules.from_pdb
    return build(section[given[0]], force_field=section["force_field"])


def build_flow(section: Mapping[str, Any], domain: Domain) -> Flow:
    """The flow that ``config.flow`` describes, on a domain."""
    return spline_flow(domain, **section)


def build_optimizer(section: Mapping[str, Any], num_steps: int) -> optax.GradientTransformation:
    """The optimizer that ``config.optimizer`` describes, for a run of ``num_steps`` gradient steps.

    Raises:
      ValueError: if its name is unknown, a number is out of range, or one is set that it does not use.
    """
    settings = _inf_is_none(section, "max_gradient_norm")
    name = settings.pop("name")
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer.name must be one of {OPTIMIZERS}, got {name!r}.")
    decay = settings.pop("average_decay")
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"optimizer.average_decay must be in [0, 1), got {decay!r}.")
    if name == "muon":
        if weight_decay := settings.pop("weight_decay"):
            raise ValueError(f"optimizer.weight_decay must be 0 with Muon, got {weight_decay!r}.")
        optimizer = muon_with_cosine(num_steps=num_steps, **settings)
    else:
        del settings["matrix_learning_rate"]
        optimizer = adam_with_cosine(num_steps=num_steps, **settings)
    return average_parameters(optimizer, decay) if decay else optimizer


def _inf_is_none(section: Mapping[str, Any], *bounds: str) -> dict[str, Any]:
    """Bounds are switched off by inf in a configuration, whose numbers cannot be None on the command line."""
    return {name: None if name in bounds and value == float("inf") else value for name, value in section.items()}


def build_method(
    config: Mapping[str, Any], target: Target, flow: Flow, observe: Callable[..., Any] | None = None
) -> Method:
    """The method that ``config.method`` describes, with its optimizer; ``observe`` as in ``methods.cmt``.

    Raises:
      ValueError: if the method is unknown or a number is out of range.
    """
    settings, optimizer = _method_settings(config)
    return cmt(target, flow, optimizer, settings, observe)


def ramachandran_observer(coordinates: InternalCoordinates) -> Callable[..., dict[str, Any]] | None:
    """What ``train.py`` observes of each buffer (``evaluation.ramachandran_path_arrays``); None without φ and ψ."""
    from cmtjax.evaluation.ramachandran_path import ramachandran_path_arrays  # Brings SciPy: not to load a sampler.

    if not len(coordinates.ramachandran_pairs):
        return None
    return functools.partial(ramachandran_path_arrays, coordinates=coordinates)


def check_config(config: Mapping[str, Any]) -> None:
    """Refuses what no run can be made of, before anything is written.

    Raises:
      ValueError: if a number of the flow, the method, the optimizer, the temperature, the regularization or the
        evaluation is out of range, or the energy's back end is unknown.
    """
    _method_settings(config)
    build_flow(config["flow"], Domain.box(2))
    if config["energy"]["backend"] not in ENERGY_BACKENDS:
        raise ValueError(f"energy.backend must be one of {ENERGY_BACKENDS}, got {config['energy']['backend']!r}.")
    if config["num_seeds"] < 1:
        raise ValueError(f"num_seeds must be at least 1, got {config['num_seeds']!r}.")
    num_samples = config["evaluation"]["num_samples"]
    if num_samples < 2:
        raise ValueError(f"evaluation.num_samples must be at least 2, got {num_samples!r}.")
    thermal_energy_kj_mol(config["temperature_kelvin"])
    regularize_energy(jnp.zeros(()), **config["energy"]["regularization"])


def _method_settings(config: Mapping[str, Any]) -> tuple[CMTConfig, optax.GradientTransformation]:
    section = dict(config["method"])
    name = section.pop("name")
    if name != "cmt":
        raise ValueError(f"method.name must be 'cmt', got {name!r}.")
    known = {field.name for field in dataclasses.fields(CMTConfig)}
    if unknown := sorted(set(section) - known):
        raise ValueError(f"method has unknown keys {unknown}; known are {sorted(known)}.")
    if config["num_annealing_steps"] < 1:
        raise ValueError(f"num_annealing_steps must be at least 1, got {config['num_annealing_steps']!r}.")
    settings = CMTConfig(**_inf_is_none(section, "trust_region_bound", "entropy_bound"))
    num_steps = config["num_annealing_steps"] * settings.num_gradient_steps
    return settings, build_optimizer(config["optimizer"], num_steps)
