"""The energy of a run: in JAX on the device where the force field allows it, else a pool of OpenMM processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cmtjax import energies, molecules, runs


class Energy(NamedTuple):
    """An energy that is ready to be evaluated.

    Attributes:
      function: positions (…, atoms, 3) in nm -> kJ/mol, usable inside jit.
      backend: "amber" or "openmm".
      description: which one and why, for the first line of a program.
    """

    function: Any
    backend: str
    description: str


@contextlib.contextmanager
def open_energy(run_list: Sequence[runs.Run], molecule: molecules.Molecule) -> Iterator[Energy]:
    """The energy that the configuration of the runs asks for; a pool is closed at the end.

    The first start of a run decides and records the decision in ``environment.json``, which a resume follows. An energy
    in JAX is saved with the runs, so that ``load_sampler`` can use it without OpenMM.

    Args:
      run_list: runs of one configuration but for the seed, which share the energy.
      molecule: whose energy.

    Raises:
      ValueError: if the backend is "amber" and a force is not understood, or the platform is unknown.
    """
    section, environment = run_list[0].config["energy"], run_list[0].environment
    recorded = environment.get("energy_backend")
    backend = recorded or section["backend"]
    reason = "as at the first start" if recorded else "as configured"
    if backend != "openmm":
        try:
            amber = energies.amber_energy(molecule.system)
        except ValueError as error:
            if backend == "amber":
                raise
            backend, reason = "openmm", f"because {error}"
        else:
            reason = "every force is understood" if backend == "auto" else reason
            for run in run_list:
                run.save_energy(amber)
                run.update_environment({"energy_backend": "amber"})
            yield Energy(amber, "amber", f"energies in JAX ({reason})")
            return
    first, asked = environment.get("openmm_platform"), section["platform"]
    if first and asked not in ("", first):
        raise ValueError(f"energy.platform must be {first!r}, as at the first start, or empty; got {asked!r}.")
    platform = first or asked or None
    with energies.OpenMMPool(molecule.system, section["num_workers"] or os.cpu_count() or 1, platform) as pool:
        for run in run_list:
            run.update_environment({"energy_backend": "openmm", "openmm_platform": pool.platform_name})
        description = f"energies from {pool.num_workers} OpenMM workers on {pool.platform_name} ({reason})"
        yield Energy(pool.energy, "openmm", description)


def reopen_pool(run: runs.RunDirectory, stack: contextlib.ExitStack, num_workers: int) -> Any:
    """The energy of a run that was trained through OpenMM, from a pool that closes with the stack.

    Args:
      run: the run, whose molecule and platform are used again.
      stack: of the calling program.
      num_workers: OpenMM processes; 0 for one a core.
    """
    molecule = molecules.load(run.molecule_directory)
    platform = run.environment.get("openmm_platform")
    pool = energies.OpenMMPool(molecule.system, num_workers or os.cpu_count() or 1, platform)
    return stack.enter_context(pool).energy
