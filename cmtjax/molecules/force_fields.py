"""Named force fields: from a topology to an OpenMM System."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import openmm
from openmm import app


@dataclasses.dataclass(frozen=True)
class ForceFieldPreset:
    """A force field as OpenMM's bundled files name it.

    Attributes:
      files: OpenMM force-field files.
      constraints: OpenMM's constraints argument: None or ``app.HBonds``.
    """

    files: tuple[str, ...]
    constraints: Any


#: amber96_obc.xml is not what its name suggests for the first: it has OBC2 and other radii. With implicit/obc1.xml the
#: energies are those of an Amber prmtop with igb=2 and mbondi2 radii.
PRESETS = {
    "amber96-obc1": ForceFieldPreset(("amber96.xml", "implicit/obc1.xml"), None),
    "amber99sbildn-obc2": ForceFieldPreset(("amber99sbildn.xml", "amber99_obc.xml"), app.HBonds),
}


def force_field(name: str) -> app.ForceField:
    """The OpenMM force field of a preset.

    Args:
      name: a key of ``PRESETS``.

    Raises:
      ValueError: if there is no such preset.
    """
    if name not in PRESETS:
        raise ValueError(f"force_field must be one of {sorted(PRESETS)}, got {name!r}.")
    return _read_force_field(PRESETS[name].files)


@functools.cache
def _read_force_field(files: tuple[str, ...]) -> app.ForceField:
    return app.ForceField(*files)


def create_system(topology: app.Topology, name: str) -> openmm.System:
    """The System of a topology: no cutoff, implicit solvent, no motion remover (it would add no energy).

    Args:
      topology: an OpenMM topology with all its hydrogens.
      name: a key of ``PRESETS``; it decides the constraints.

    Raises:
      ValueError: if there is no such preset, or it has no parameters for a residue of the topology.
    """
    parameters = force_field(name)
    with explained_errors(name):
        return parameters.createSystem(
            topology,
            nonbondedMethod=app.NoCutoff,
            constraints=PRESETS[name].constraints,
            removeCMMotion=False,
        )


@contextlib.contextmanager
def explained_errors(name: str) -> Iterator[None]:
    """Turns what OpenMM raises on a topology without parameters into a ``ValueError`` of one line.

    Args:
      name: the preset that is tried.
    """
    try:
        yield
    except (ValueError, KeyError) as error:
        raise ValueError(f"topology does not fit force_field {name!r}: {' '.join(str(error).split())}") from None
