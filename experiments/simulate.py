"""Makes a data set of a molecule's equilibrium distribution: the truth that trained flows are compared with.

    python experiments/simulate.py --molecule=alanine_dipeptide --data=data_sets/dipeptide

Engines (--engine):
  device  Replica exchange with HMC in internal coordinates, all ladders in one batch; samples exactly the density that
          the flows are trained on. Needs a force field that cmtjax computes in JAX.
  openmm  The papers' protocol: Langevin dynamics, and replica exchange where there are several temperatures, by OpenMM
          in worker processes. Samples Cartesian dynamics with constraints and finite time steps.
  import  Reads --source: a .npy of the published data sets, or a trajectory of any format that mdtraj reads.

The same command resumes a simulation that was stopped. On several CPU cores one process a core does more than one
process with all of them: taskset -c 0 python experiments/simulate.py …, each with a --seed and a --data of its own;
evaluate.py takes such sets together (--data=A,B).
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable
from typing import Any

import program
import simulate_device
import simulate_openmm
import simulation
from absl import flags

from cmtjax import datasets, energies, mcmc, molecules
from cmtjax.coordinates.internal import internal_coordinates
from cmtjax.energies.openmm_worker import PLATFORM_NAMES
from cmtjax.runs import build

_DATA = flags.DEFINE_string("data", None, "Directory of the data set; made if absent.", required=True)
_ENGINE = flags.DEFINE_enum("engine", "device", ["device", "openmm", "import"], "What makes the samples; see above.")
_MOLECULE = flags.DEFINE_string("molecule", "", "A published molecule; or one of --sequence and --pdb_file.")
_SEQUENCE = flags.DEFINE_string("sequence", "", "Such as ACE-ALA-NME.")
_PDB_FILE = flags.DEFINE_string("pdb_file", "", "Path of a PDB file.")
_FORCE_FIELD = flags.DEFINE_string(
    "force_field", "", "With --sequence or --pdb_file: amber96-obc1 or amber99sbildn-obc2."
)
_TEMPERATURES = flags.DEFINE_list(
    "temperatures",
    [f"{value:g}" for value in mcmc.TEMPERATURES_KELVIN],
    "Kelvin, ascending; the samples are those of the first. One alone: no exchange. Peptides of more than two residues "
    "mix several times faster with 300,342,390,444,506,577,658,750.",
)
_NUM_CHAINS = flags.DEFINE_integer("num_chains", 32, "Independent chains: ladders of all temperatures.")
_NUM_DRAWS = flags.DEFINE_integer("num_draws", 2000, "Samples of each chain.")
_SEED = flags.DEFINE_integer("seed", 0, "Of starting points and moves.")
_STARTS = flags.DEFINE_string(
    "starts", "", "A data set whose last draws the chains begin with; '' for conformations turned at random."
)
_DRAWS_PER_CHUNK = flags.DEFINE_integer(
    "draws_per_chunk", 100, "Draws between two lines of progress and two saves; both numbers are rounded up to chunks."
)
_NUM_SWEEPS = flags.DEFINE_integer("sweeps_per_draw", 1, "device: sweeps (moves and an exchange) from draw to draw.")
_MOVES = flags.DEFINE_integer("moves_per_sweep", 2, "device: HMC trajectories between two exchanges.")
_LEAPFROG = flags.DEFINE_integer("leapfrog_steps", 8, "device: gradients a trajectory.")
_TIME_STEP = flags.DEFINE_float(
    "time_step_fs", 0.0, "openmm: 0 takes the papers' of 300 to 500 K: 1, with constraints 2."
)
_FRICTION = flags.DEFINE_float("friction_per_ps", 1.0, "openmm: of the Langevin dynamics.")
_STEPS_PER_DRAW = flags.DEFINE_integer("steps_per_draw", 500, "openmm: time steps from draw to draw, and exchange.")
_WARM_UP_DRAWS = flags.DEFINE_integer(
    "warm_up_draws",
    500,
    "Draws that are thrown away; the device's step sizes adapt in them, openmm exchanges in their second half only.",
)
_NUM_WORKERS = flags.DEFINE_integer("num_workers", 0, "openmm: processes; 0: one a core.")
_PLATFORM = flags.DEFINE_string("platform", "", "openmm: Reference or CPU; '' for the faster one, measured.")
_SOURCE = flags.DEFINE_string("source", "", "import: the file to read.")
_TOPOLOGY = flags.DEFINE_string("topology", "", "import: topology file of a trajectory without one.")


def main(argv: list[str]) -> None:
    del argv
    with program.user_errors():
        temperatures = _temperatures()
        for name, flag in (("--num_chains", _NUM_CHAINS), ("--draws_per_chunk", _DRAWS_PER_CHUNK)):
            program.require(flag.value >= 1, name, flag.value, "at least 1")
        program.require(_WARM_UP_DRAWS.value >= 0, "--warm_up_draws", _WARM_UP_DRAWS.value, "at least 0")
        program.require(_NUM_DRAWS.value >= 4, "--num_draws", _NUM_DRAWS.value, "at least 4")
        program.require(_SEED.value >= 0, "--seed", _SEED.value, "at least 0")
        stored = _stored()
        if stored is not None and stored.is_finished:
            _check_molecule(stored)
            print(f"{stored.path} is finished; nothing to do.", flush=True)
            if _ENGINE.value != "import" and stored.num_draws < _NUM_DRAWS.value:
                print(
                    f"It has {stored.num_draws:,} draws of each chain and is not prolonged; "
                    f"--starts={stored.path} begins another one with its last draws.",
                    flush=True,
                )
            return
        if _ENGINE.value == "import":
            _import(temperatures[0])
            return
        engine: Callable[..., None]
        if _ENGINE.value == "device":
            engine, settings = simulate_device.simulate, _device_settings(temperatures)
        else:
            engine = functools.partial(simulate_openmm.simulate, num_workers=_NUM_WORKERS.value)
            settings = _openmm_settings(temperatures)
        metadata = {
            "temperature_kelvin": temperatures[0],
            "engine": _ENGINE.value,
            "seed": _SEED.value,
            "settings": settings,
        }
        writer, molecule = _open(metadata, stored)
    with writer:
        engine(writer, molecule, settings, seed=_SEED.value, num_draws=_NUM_DRAWS.value, chunk=_DRAWS_PER_CHUNK.value)


def _temperatures() -> list[float]:
    try:
        values = [float(text) for text in _TEMPERATURES.value]
    except ValueError:
        values = []
    is_legal = bool(values) and values[0] > 0 and all(a < b for a, b in itertools.pairwise(values))
    is_legal = is_legal and math.isfinite(values[-1])
    program.require(is_legal, "--temperatures", ",".join(_TEMPERATURES.value), "positive numbers in ascending order")
    return values


def _device_settings(temperatures: list[float]) -> dict[str, Any]:
    program.require(_NUM_SWEEPS.value >= 1, "--sweeps_per_draw", _NUM_SWEEPS.value, "at least 1")
    mcmc.ReplicaExchangeConfig(num_leapfrog_steps=_LEAPFROG.value, moves_per_sweep=_MOVES.value)
    return {
        "temperatures_kelvin": temperatures,
        "num_chains": _NUM_CHAINS.value,
        "starts": _STARTS.value,
        "sweeps_per_draw": _NUM_SWEEPS.value,
        "warm_up_draws": _WARM_UP_DRAWS.value,
        "moves_per_sweep": _MOVES.value,
        "leapfrog_steps": _LEAPFROG.value,
    }


def _openmm_settings(temperatures: list[float]) -> dict[str, Any]:
    program.require(_STEPS_PER_DRAW.value >= 1, "--steps_per_draw", _STEPS_PER_DRAW.value, "at least 1")
    program.require(0 <= _TIME_STEP.value < math.inf, "--time_step_fs", _TIME_STEP.value, "at least 0 and finite")
    program.require(0 < _FRICTION.value < math.inf, "--friction_per_ps", _FRICTION.value, "positive and finite")
    program.require(_NUM_WORKERS.value >= 0, "--num_workers", _NUM_WORKERS.value, "at least 0")
    platforms = ("", *PLATFORM_NAMES)
    program.require(_PLATFORM.value in platforms, "--platform", _PLATFORM.value, f"one of {platforms}")
    return {
        "temperatures_kelvin": temperatures,
        "num_chains": _NUM_CHAINS.value,
        "starts": _STARTS.value,
        "time_step_fs": _TIME_STEP.value,
        "friction_per_ps": _FRICTION.value,
        "steps_per_draw": _STEPS_PER_DRAW.value,
        "warm_up_draws": _WARM_UP_DRAWS.value,
        "platform": _PLATFORM.value,
    }


def _stored() -> datasets.DataSet | None:
    """What lies in --data, if anything."""
    path = program.Path(_DATA.value)
    return datasets.open_data_set(path) if path.is_dir() and any(path.iterdir()) else None


def _check_molecule(stored: datasets.DataSet) -> None:
    """The flags may say nothing of the molecule of a data set that is there, but nothing else either."""
    if _MOLECULE.value or _SEQUENCE.value or _PDB_FILE.value:
        molecule = _molecule()
        for name, of_data, of_flags in (
            ("force field", stored.metadata["force_field"], molecule.force_field),
            ("molecule", stored.coordinates.z_matrix.atom_names, molecule.z_matrix.atom_names),
        ):
            if of_data != of_flags:
                raise ValueError(
                    f"--data must be a data set of the {name} that the other flags ask for, {molecule.name} in "
                    f"{molecule.force_field}, but {stored.path} is of {stored.metadata['molecule']} in "
                    f"{stored.metadata['force_field']}."
                )


def _open(
    metadata: dict[str, Any], stored: datasets.DataSet | None
) -> tuple[datasets.DataSetWriter, molecules.Molecule]:
    """Starts the data set, or goes on with it and with its molecule."""
    if stored is not None:
        _check_molecule(stored)
        writer = datasets.resume_data_set(stored.path, metadata)
        print(f"resuming {stored.path} after {stored.num_draws:,} draws of each chain", flush=True)
        return writer, molecules.load(stored.molecule_directory)
    molecule = _molecule()
    if _STARTS.value:
        # Before the directory is made: a mistake must not bind it to settings that cannot run.
        simulation.points_of_data(internal_coordinates(molecule), _NUM_CHAINS.value, _STARTS.value)
    return datasets.create_data_set(_DATA.value, molecule, metadata), molecule


def _molecule() -> molecules.Molecule:
    given = {"--molecule": _MOLECULE.value, "--sequence": _SEQUENCE.value, "--pdb_file": _PDB_FILE.value}
    num_given = sum(bool(value) for value in given.values())
    program.require(num_given == 1, "exactly one", given, f"given of {', '.join(given)}")
    return build.build_molecule(
        {
            "name": _MOLECULE.value,
            "sequence": _SEQUENCE.value,
            "pdb": _PDB_FILE.value,
            "force_field": _FORCE_FIELD.value,
        }
    )


def _import(temperature_kelvin: float) -> None:
    program.require(bool(_SOURCE.value), "--source", _SOURCE.value, "a file with --engine=import")
    molecule = _molecule()
    datasets.import_data_set(
        _SOURCE.value,
        _DATA.value,
        molecule,
        energies.amber_energy(molecule.system),
        topology_path=_TOPOLOGY.value or None,
        temperature_kelvin=temperature_kelvin,
        progress=lambda done: print(f"{done:,} frames", flush=True),
    )
    data = datasets.open_data_set(_DATA.value)
    simulation.write_ramachandran(data)
    print(json.dumps(data.metadata["diagnostics"], indent=2), flush=True)


if __name__ == "__main__":
    program.run_program(main)
