"""The data sets that an evaluation takes as the truth."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import convergence
import jax
import jax.numpy as jnp
import numpy as np

from cmtjax import datasets, runs
from cmtjax.coordinates import InternalCoordinates, is_same_box
from cmtjax.mcmc.diagnostics import exchange_problems

_MIN_SAMPLES = 1000
# R̂ and ESS of several sets take every nth draw, so that about so many samples are left (a third of a second a torsion)
# and at least so many draws of each chain. Both are far above what the smallest ESS asked for, 400, needs.
_JUDGED_SAMPLES, _JUDGED_DRAWS = 200_000, 100
_PROBLEMS_SHOWN = 2


class Truth(NamedTuple):
    """The data sets in the coordinates of the run.

    Attributes:
      u: (draws, chains, d) points of the box, the chains of all sets side by side.
      energy_kj_mol: (draws, chains) their potential energies.
    """

    u: np.ndarray
    energy_kj_mol: np.ndarray


class Verdict(NamedTuple):
    """Whether the truth has mixed: the verdict on a data set as it was made, or that on several together.

    Attributes:
      mixed: None where nobody knows.
      problems: sentences, why not.
      numbers: of several sets, ``r_hat`` (the largest) and ``ess`` (the smallest) over all torsions and the energy.
      stride: R̂ and ESS take one draw in so many; the weights of rare regions take all.
    """

    mixed: bool | None
    problems: list[str]
    numbers: dict[str, float]
    stride: int


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


def judge(sets: Sequence[datasets.DataSet], truth: Truth, coordinates: InternalCoordinates) -> Verdict:
    """Whether the truth has mixed. Several sets are judged together, as one set of all their chains would be.

    So sets with a rare region that each knows badly may know it well enough together, and sets that have mixed, each by
    itself, must agree: R̂ is over the chains of all, and the weights of rare regions are compared. What a set tells of
    its temperatures stays a problem of that set. Without a problem, it is still not known whether sets have mixed of
    which one is not finished, or came from where nobody knows how its frames were made.

    Args:
      sets: the data sets.
      truth: all their samples (``read``).
      coordinates: of these.
    """
    own = [data.metadata.get("diagnostics", {}) for data in sets]
    mixed = [
        diagnostics.get("mixed") if data.is_finished else None for data, diagnostics in zip(sets, own, strict=True)
    ]
    num_draws, num_chains = truth.energy_kj_mol.shape
    if len(sets) == 1 or num_draws < 4:  # which are too few for R̂
        problems = [problem for diagnostics in own for problem in diagnostics.get("mixing_problems", [])]
        return Verdict(False if False in mixed else None if None in mixed else True, problems, {}, 1)
    stride = max(1, min(math.ceil(num_draws * num_chains / _JUDGED_SAMPLES), num_draws // _JUDGED_DRAWS))
    phi = coordinates.ramachandran_pairs[:, 0]
    found = convergence.judge_chains(
        coordinates,
        truth.u[::stride, :, convergence.torsion_dims(coordinates)],
        truth.energy_kj_mol[::stride],
        truth.u[..., phi],
    )
    problems = [
        *found.mixing_problems,
        *(
            f"{data.path}: {problem}"
            for data, diagnostics in zip(sets, own, strict=True)
            for problem in exchange_problems(
                np.array(diagnostics.get("exchange_acceptance", ())), diagnostics.get("round_trips"), data.num_chains
            )
        ),
        *found.weight_problems,
        *convergence.set_problems(
            convergence.angles_rad(coordinates, truth.u[..., phi], phi),
            coordinates.ramachandran_names,
            [data.num_chains for data in sets],
            [str(data.path) for data in sets],
        ),
    ]
    numbers = {
        "r_hat": float(np.fmax.reduce([*found.of_torsions.r_hat, *found.of_energy.r_hat])),
        "ess": float(np.fmin.reduce([*found.of_torsions.ess, *found.of_energy.ess])),
    }
    return Verdict(False if problems else None if None in mixed else True, problems, numbers, stride)


def metadata(sets: Sequence[datasets.DataSet], verdict: Verdict) -> dict[str, Any]:
    """What the summary of a run keeps of its truth."""
    return {
        "evaluation_data": ",".join(sorted(str(data.path) for data in sets)),
        "evaluation_data_mixed": verdict.mixed,
        "evaluation_data_problems": verdict.problems,
        "evaluation_data_engine": ",".join(dict.fromkeys(data.metadata["engine"] for data in sets)),
        **{f"evaluation_data_{name}": value for name, value in verdict.numbers.items()},
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


def describe(data: datasets.DataSet) -> str:
    """A data set's size and whether it has mixed, in a line."""
    diagnostics = data.metadata.get("diagnostics", {})
    if not data.is_finished:
        state = "NOT FINISHED, so nobody knows whether it has mixed"
    else:
        state = _describe_state(diagnostics.get("mixed"), diagnostics.get("mixing_problems", []), "its metadata.json")
    engine = data.metadata["engine"]
    return f"truth: {data.path}, {data.num_chains} chains, {data.num_samples:,} samples ({engine}), {state}"


def describe_together(sets: Sequence[datasets.DataSet], verdict: Verdict) -> str:
    """The verdict on several data sets together, in a line; empty with one."""
    if len(sets) == 1:
        return ""
    num_chains = sum(data.num_chains for data in sets)
    state = _describe_state(verdict.mixed, verdict.problems, "the summary's evaluation_data_problems")
    judged = f"R̂ and ESS by one draw in {verdict.stride}, " if verdict.stride > 1 else ""
    return f"truth: these {len(sets)} data sets as one, {num_chains} chains, {judged}{state}"


def doubts(sets: Sequence[datasets.DataSet], verdict: Verdict) -> list[str]:
    """Warnings of data sets that are not finished and of a truth that has not mixed."""
    texts = [describe(data) for data in sets if not data.is_finished or (len(sets) == 1 and verdict.mixed is False)]
    if len(sets) > 1 and verdict.mixed is False:
        texts.append(describe_together(sets, verdict))
    return texts


def _describe_state(mixed: bool | None, problems: Sequence[str], where: str) -> str:
    if mixed is None:
        return "nobody knows whether it has mixed"
    if mixed:
        return "mixed"
    more = f" And {len(problems) - _PROBLEMS_SHOWN} more, see {where}." if len(problems) > _PROBLEMS_SHOWN else ""
    return f"NOT MIXED: {' '.join(problems[:_PROBLEMS_SHOWN])}{more}"
