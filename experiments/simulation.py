"""What the engines of ``simulate.py`` share: progress, and the verdict on a finished data set."""

from __future__ import annotations

import time
from typing import Any

import convergence
import jax
import jax.numpy as jnp
import numpy as np
import program

from cmtjax import datasets, evaluation, mcmc, molecules, targets
from cmtjax.coordinates.internal import InternalCoordinates, internal_coordinates
from cmtjax.evaluation import figures
from cmtjax.mcmc import diagnostics as chains
from cmtjax.molecules.rotatable import rotatable_rows
from cmtjax.runs import files

_PROBLEMS_SHOWN = 5


class Progress:
    """A line a chunk: draws, rate, values, time left.

    Args:
      num_draws: of each chain, in all.
      completed: draws that earlier processes made.
      num_chains: chains.
      what: of which part the lines are.
    """

    def __init__(self, num_draws: int, completed: int, num_chains: int, what: str = "draws") -> None:
        self._num_draws, self._completed, self._num_chains, self._what = num_draws, completed, num_chains, what
        self._start = time.monotonic()

    def report(self, done: int, values: dict[str, float]) -> None:
        """Prints the line after ``done`` draws of each chain."""
        seconds_per_draw = (time.monotonic() - self._start) / (done - self._completed)
        rate = self._num_chains / seconds_per_draw
        left = program.format_duration(seconds_per_draw * max(self._num_draws - done, 0))
        numbers = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        print(f"{self._what} {done:,}/{self._num_draws:,}  {numbers}  {shown} samples/s  {left} left", flush=True)


def starting_points(
    molecule: molecules.Molecule, target: targets.Target, key: Any, num_points: int, data_path: str
) -> Any:
    """Where chains begin, (num_points, d).

    Args:
      molecule: the molecule.
      target: its Boltzmann distribution.
      key: random key.
      num_points: how many.
      data_path: a data set whose last draws are taken, again and again if they are too few; or "" for points with
        rotatable bonds turned at random and peptide bonds as in the minimum (trans).

    Raises:
      ValueError: if the data set is of another molecule, or none of its last draws is inside the box.
    """
    coordinates = internal_coordinates(molecule)
    if data_path:
        return jnp.asarray(points_of_data(coordinates, num_points, data_path))
    is_spread = np.zeros(target.domain.num_dims, bool)
    is_spread[coordinates.domain.groups == coordinates.domain.TORSIONS] = rotatable_rows(molecule)
    minimum = coordinates.from_physical(jnp.asarray(molecule.positions_nm, jnp.float32))[0]
    return jax.jit(lambda key: mcmc.spread_starts(target, key, minimum, is_spread, num_points))(key)


def points_of_data(coordinates: InternalCoordinates, num_points: int, data_path: str) -> np.ndarray:
    """The last draws of a data set inside the box, (num_points, d), again and again if they are too few.

    Raises:
      ValueError: if the data set is of another molecule, or none of its last draws is inside the box.
    """
    data = datasets.open_data_set(data_path)
    if data.coordinates.z_matrix.atom_names != coordinates.z_matrix.atom_names or data.num_samples == 0:
        raise ValueError(f"--starts must be a data set of this molecule with samples, got {data_path}.")
    positions_nm = data.coordinates.to_physical(jnp.asarray(data.u().reshape(-1, data.num_dims)[-num_points:]))[0]
    u = np.asarray(coordinates.from_physical(positions_nm)[0])
    # A chain outside, such as a frame of the wrong hand, would be reflected in each move, rejected, and stay there.
    u = u[np.all((u >= 0) & (u <= 1), axis=1)]
    if len(u) == 0:
        raise ValueError(f"--starts must end with draws inside the box of coordinates, got {data_path}.")
    return np.resize(u, (num_points, u.shape[1]))


def finish(writer: datasets.DataSetWriter, of_engine: dict[str, Any]) -> None:
    """Adds what the chains tell about themselves, writes Ramachandran plots and marks the data set as finished.

    Args:
      writer: of the data set, with all its draws.
      of_engine: what the engine knows of its chains, for the diagnostics; ``exchange_acceptance`` of each pair of
        neighboring temperatures, and ``round_trips`` where they are counted, are judged.
    """
    data = datasets.open_data_set(writer.path)
    coordinates = data.coordinates
    torsions = convergence.torsion_dims(coordinates)
    torsion_u, energy = data.u(torsions), data.energy_kj_mol()
    is_phi = np.searchsorted(torsions, coordinates.ramachandran_pairs[:, 0])
    found = convergence.judge_chains(coordinates, torsion_u, energy, torsion_u[..., is_phi])
    problems = [
        *found.mixing_problems,
        *chains.exchange_problems(of_engine["exchange_acceptance"], of_engine.get("round_trips"), data.num_chains),
        *found.weight_problems,
    ]
    of_energy, least_ess = found.of_energy, found.of_torsions.ess.min()
    summary = {
        **of_engine,
        "mixed": not problems,
        "mixing_problems": problems,
        "num_samples": data.num_samples,
        "mean_energy_kj_mol": float(energy.mean()),
        "mean_energy_standard_error_kj_mol": float(energy.std() / np.sqrt(of_energy.ess[0])),
        "energy_r_hat": float(of_energy.r_hat[0]),
        "energy_ess": float(of_energy.ess[0]),
        "torsions": {
            name: {"r_hat": float(r_hat), "ess": float(ess), "autocorrelation_draws": float(draws)}
            for name, r_hat, ess, draws in zip(found.torsion_names, *found.of_torsions, strict=True)
        },
        "phi_positive": found.phi_positive,
    }
    write_ramachandran(data)
    writer.finish(summary)
    print(
        f"{data.num_samples:,} samples; mean energy {summary['mean_energy_kj_mol']:.3f} ± "
        f"{summary['mean_energy_standard_error_kj_mol']:.3f} kJ/mol; least torsion ESS {least_ess:.0f}",
        flush=True,
    )
    for note in found.notes:
        print(f"note: {note}", flush=True)
    for problem in problems[:_PROBLEMS_SHOWN]:
        print(f"warning: not mixed: {problem}", flush=True)
    if len(problems) > _PROBLEMS_SHOWN:
        print(f"warning: and {len(problems) - _PROBLEMS_SHOWN} more, see metadata.json", flush=True)
    print(f"{'mixed' if not problems else 'NOT MIXED'}: {writer.path}", flush=True)


def write_ramachandran(data: datasets.DataSet) -> None:
    """Writes ``ramachandran.png`` and ``ramachandran.npz`` of a data set; nothing without a pair of φ and ψ.

    The second has ``masses`` (pairs, 100, 100) float32 over [−π, π)², φ along the first axis of each, ``edges_rad``
    (101,) and ``pair_names`` (pairs,), as the histograms in ``data/truth``.
    """
    coordinates = data.coordinates
    pairs = coordinates.ramachandran_pairs
    if not pairs.size:
        return
    dims = pairs.reshape(-1)
    phi_psi = convergence.angles_rad(coordinates, data.u(dims), dims).reshape(-1, *pairs.shape)
    figures.plot_ramachandran(
        phi_psi[:, :, 0],
        phi_psi[:, :, 1],
        data.path / "ramachandran.png",
        temperature_kelvin=data.metadata["temperature_kelvin"],
    )
    histograms = [evaluation.ramachandran_histogram(*phi_psi[:, pair].T) for pair in range(len(pairs))]
    with files.atomic_file(data.path / "ramachandran.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            masses=np.stack([histogram.masses for histogram in histograms]).astype(np.float32),
            edges_rad=histograms[0].edges_rad,
            pair_names=np.array(coordinates.ramachandran_names),
        )
