"""What plain simulation reaches with the evaluations that a training took: a data set cut off at the same number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cmtjax.datasets import DataSet, open_data_set
from cmtjax.evaluation.divergences import ramachandran_kl, ramachandran_total_variation
from cmtjax.evaluation.ramachandran import ramachandran_histogram
from cmtjax.evaluation.tables import Estimate, TableRow


def affordable_draws(data: DataSet, num_evaluations: float) -> tuple[int, float]:
    """How many draws of each chain a number of evaluations pays for, and what they cost.

    A data set's evaluations are those of its warm-up and then the same number for every draw.

    Args:
      data: a finished data set with ``target_evaluations`` and ``warm_up_evaluations`` among its diagnostics.
      num_evaluations: the budget.

    Returns:
      Draws, 0 if the warm-up alone costs more; and the evaluations of warm-up and draws.

    Raises:
      ValueError: if the diagnostics lack either number.
    """
    diagnostics = data.metadata.get("diagnostics", {})
    missing = [name for name in ("target_evaluations", "warm_up_evaluations") if diagnostics.get(name) is None]
    if missing or data.num_samples == 0:
        raise ValueError(f"the data set {data.path} must be finished and count its evaluations, it lacks {missing}.")
    warm_up = diagnostics["warm_up_evaluations"]
    of_draw = (diagnostics["target_evaluations"] - warm_up) / data.num_draws
    num_draws = int(min(max((num_evaluations - warm_up) // of_draw, 0), data.num_draws))
    return num_draws, warm_up + num_draws * of_draw


def ramachandran_masses(data: DataSet, num_draws: int | None = None, num_bins: int = 100) -> np.ndarray:
    """Ramachandran plots of the first draws of all chains.

    Args:
      data: the data set; one chunk at a time is in memory.
      num_draws: of each chain; all with None.
      num_bins: along each angle.

    Returns:
      (pairs, bins, bins) masses that sum to one for each pair.
    """
    coordinates = data.coordinates
    pairs = coordinates.ramachandran_pairs
    counts = np.zeros((len(pairs), num_bins, num_bins))
    for u in _first_draws(data, num_draws):
        torsions = coordinates.window_center[pairs] + coordinates.window_width[pairs] * (u[..., pairs] - 0.5)
        for index in range(len(pairs)):
            phi_rad, psi_rad = torsions[..., index, 0].ravel(), torsions[..., index, 1].ravel()
            counts[index] += phi_rad.size * ramachandran_histogram(phi_rad, psi_rad, None, num_bins).masses
    return counts / counts.sum(axis=(1, 2), keepdims=True)


def rows(baseline_path: str, truth_path: str, run_rows: Sequence[TableRow]) -> tuple[list[TableRow], list[str]]:
    """Rows of a simulation that stops at the evaluations of each training of its molecule, and remarks on them.

    Args:
      baseline_path: data set of the simulation.
      truth_path: data set of the truth.
      run_rows: of trainings at the data sets' temperature; those of other molecules, or without a number of
        evaluations, are left out.

    Raises:
      FileNotFoundError: if a data set does not exist.
      ValueError: if one cannot be read, the two do not fit each other, or no training is of their molecule.
    """
    baseline, truth = open_data_set(baseline_path), open_data_set(truth_path)
    if baseline.path.resolve() == truth.path.resolve():
        raise ValueError(f"baseline must be another data set than the truth, got {baseline.path} for both.")
    for name in ("molecule", "force_field", "temperature_kelvin"):
        if baseline.metadata[name] != truth.metadata[name]:
            got = f"{baseline.metadata[name]!r} and {truth.metadata[name]!r}"
            raise ValueError(f"baseline and data must share the {name}, got {got}.")
    molecule = baseline.metadata["molecule"]
    spent = [row.estimates.get("target_evaluations") for row in run_rows if row.system == molecule]
    budgets = sorted({value.mean for value in spent if value is not None})
    if not budgets:
        raise ValueError(
            f"baseline must be of a molecule of the finished runs, at their temperature, got {molecule!r}."
        )
    remarks = [
        f"Not known to be mixed: the data set {data.path}. {' '.join(problems)}".strip()
        for data in (baseline, truth)
        for problems in [data.metadata.get("diagnostics", {}).get("mixing_problems", [])]
        if data.metadata.get("diagnostics", {}).get("mixed") is not True
    ]
    true_masses = ramachandran_masses(truth)
    results = []
    for budget in budgets:
        num_draws, cost = affordable_draws(baseline, budget)
        results.append(_row(baseline, num_draws, cost, true_masses))
        if num_draws == 0:
            remarks.append(
                f"{baseline.path}: its warm-up takes {cost:.3g} evaluations, above the budget of {budget:.3g}."
            )
        elif num_draws == baseline.num_draws and cost < 0.99 * budget:
            remarks.append(f"{baseline.path}: it ends after {cost:.3g} evaluations, below the budget of {budget:.3g}.")
    return results, remarks


def _row(baseline: DataSet, num_draws: int, cost: float, true_masses: np.ndarray) -> TableRow:
    estimates = {"target_evaluations": Estimate(cost, None, 1)}
    if num_draws > 0 and len(true_masses):  # else there are no φ and ψ
        masses = ramachandran_masses(baseline, num_draws, true_masses.shape[-1])
        distances = {
            "ram_kl": ramachandran_kl(true_masses, masses),
            "ram_tv": ramachandran_total_variation(true_masses, masses),
        }
        estimates |= {name: Estimate(float(of_pairs.mean()), None, 1) for name, of_pairs in distances.items()}
    detail = f"equal budget: {baseline.num_chains} chains, {num_draws} draws each after warm-up"
    return TableRow(baseline.metadata["molecule"], "simulation", detail, 1, estimates)


def _first_draws(data: DataSet, num_draws: int | None) -> Iterator[np.ndarray]:
    left = data.num_draws if num_draws is None else num_draws
    for chunk in data.chunks():
        if left <= 0:
            return
        if len(chunk.u):
            yield chunk.u[:left]
        left -= len(chunk.u)
