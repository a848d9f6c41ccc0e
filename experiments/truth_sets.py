"""The data sets that an evaluation takes as the truth."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cmtjax import datasets, runs
from cmtjax.coordinates import InternalCoordinates, is_same_box

_MIN_SAMPLES = 1000


class Truth(NamedTuple):
    """The data sets in the coordinates of the run.

    Attributes:
      u: (draws, chains, d) points of the box, the chains of all sets side by side.
      energy_kj_mol: (draws, chains) their potential energies.
    """

    u: np.ndarray
    energy_kj_mol: np.ndarray


def open_data_sets(paths: Sequence[str], run: runs.RunDirectory) -> list[datasets.DataSet]:
    """Opens data sets that can stand side by side as the truth of a run.

    Args:
      paths: their directories.
      run: the run whose temperature and force field they must have.

    Raises:
      FileNotFoundError: if there is no such directory.
      ValueError: if a set cannot be read, does not fit the run, holds too few samples, or if two sets are the same
        chains or differ in the number of draws.
    """
    if not paths or not all(map(str, paths)):
        raise ValueError(f"--data must be data sets with commas between them, got {','.join(map(str, paths))!r}.")
    sets = [datasets.open_data_set(path) for path in paths]
    force_field = json.loads((run.molecule_directory / "molecule.json").read_text(encoding="utf-8"))["force_field"]
    for data in sets:
        for name, what, of_run, unit in (
            ("temperature_kelvin", "temperature", run.config["temperature_kelvin"], " K"),
            ("force_field", "force field", force_field, ""),
        ):
            of_data = data.metadata[name]
            if of_run != of_data:
                raise ValueError(
                    f"--data must have the run's {what}, {of_run}{unit}, got {of_data}{unit} in {data.path}."
                )
        if data.num_draws != sets[0].num_draws:
            raise ValueError(
                "--data: chains of several data sets must be of one length, got "
                f"{sets[0].num_draws} draws in {sets[0].path} and {data.num_draws} in {data.path}."
            )
    num_samples = sum(data.num_samples for data in sets)
    if num_samples < _MIN_SAMPLES:
        raise ValueError(f"--data must have at least {_MIN_SAMPLES} samples, got {num_samples}.")
    for index, data in enumerate(sets):
        for other in sets[:index]:
            if _are_same_chains(data, other):
                raise ValueError(
                    f"--data: {other.path} and {data.path} hold the same samples, which would count twice; "
                    "simulate with another --seed."
                )
    return sets


def _are_same_chains(a: datasets.DataSet, b: datasets.DataSet) -> bool:
    """Whether a chain of each begins at the very same point, which no two independent ones do.

    Energies alone would not do: in single precision some of thousands of chains share one by chance.
    """
    starts = [next((chunk.u[0] for chunk in data.chunks() if len(chunk.u)), ()) for data in (a, b)]
    first, second = ({np.asarray(point).tobytes() for point in points} for points in starts)
    return not first.isdisjoint(second)


def read(sets: Sequence[datasets.DataSet], coordinates: InternalCoordinates) -> Truth:
    """All samples in the coordinates of a run.

    Raises:
      ValueError: if a data set is of another molecule, or cannot be read.
    """
    parts = [_read_one(data, coordinates) for data in sets]
    if len(parts) == 1:  # without a copy of what may be all that fits into memory
        return parts[0]
    return Truth(
        np.concatenate([part.u for part in parts], axis=1),
        np.concatenate([part.energy_kj_mol for part in parts], axis=1),
    )


def _read_one(data: datasets.DataSet, coordinates: InternalCoordinates) -> Truth:
    own = data.coordinates
    if own.z_matrix.atom_names != coordinates.z_matrix.atom_names:
        raise ValueError(
            f"--data must be of the run's molecule, with the same atoms in the same order, got {data.path}."
        )
    if is_same_box(own, coordinates):
        return Truth(data.u(), data.energy_kj_mol())
    # Another z-matrix, or windows around another minimum: by way of positions.
    convert = jax.jit(lambda u: coordinates.from_physical(own.to_physical(u)[0])[0])
    u = np.concatenate([np.asarray(convert(jnp.asarray(chunk.u))) for chunk in data.chunks() if len(chunk.u)])
    return Truth(u, data.energy_kj_mol())


def metadata(sets: Sequence[datasets.DataSet]) -> dict[str, Any]:
    """What the summary of a run keeps of its truth; "mixed" is False if one set has not, None if nobody knows."""
    mixed = [data.metadata.get("diagnostics", {}).get("mixed") for data in sets]
    return {
        "evaluation_data": ",".join(sorted(str(data.path) for data in sets)),
        "evaluation_data_mixed": False if False in mixed else None if None in mixed else True,
        "evaluation_data_engine": ",".join(dict.fromkeys(data.metadata["engine"] for data in sets)),
    }


def describe_disagreement(sets: Sequence[datasets.DataSet]) -> str:
    """A warning if the sets are samples of densities that differ a little; else empty."""
    engines = list(dict.fromkeys(data.metadata["engine"] for data in sets))
    if len(engines) == 1:
        return ""
    return (
        f"the data sets come from different engines ({', '.join(engines)}): constrained dynamics and other programs "
        "sample slightly different densities."
    )


def is_doubtful(data: datasets.DataSet) -> bool:
    """Whether a data set is not finished or known not to have mixed."""
    return not data.is_finished or data.metadata.get("diagnostics", {}).get("mixed") is False


def describe(data: datasets.DataSet) -> str:
    """A data set's size and whether it has mixed, in a line."""
    diagnostics = data.metadata.get("diagnostics", {})
    if not data.is_finished:
        state = "NOT FINISHED, so nobody knows whether it has mixed"
    elif diagnostics.get("mixed") is None:
        state = "nobody knows whether it has mixed"
    elif diagnostics["mixed"]:
        state = "mixed"
    else:
        problems = diagnostics["mixing_problems"]
        more = f" And {len(problems) - 2} more, see its metadata.json." if len(problems) > 2 else ""
        state = f"NOT MIXED: {' '.join(problems[:2])}{more}"
    engine = data.metadata["engine"]
    return f"truth: {data.path}, {data.num_chains} chains, {data.num_samples:,} samples ({engine}), {state}"
