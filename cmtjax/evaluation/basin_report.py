"""Which basins of the truth a model has found, lost or weighted wrongly, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cmtjax.evaluation.basins import Basins
from cmtjax.evaluation.divergence_errors import bin_variances
from cmtjax.evaluation.histograms import BlockHistogram

# A basin is lost below a tenth of its true weight, and over- or underweighted from a factor of two, in each case only
# if the difference is more than three standard errors. Too few samples to tell a lost basin leave it undecided.
_LOST_FACTOR, _WRONG_FACTOR, _SIGNIFICANCE = 0.1, 2.0, 3.0


class BasinWeight(NamedTuple):
    """Weight of a basin in one sample.

    Attributes:
      weight: probability, a fraction.
      standard_error: of it, from blocks.
      core_weight: of the basin's core, where the truth is dense (``Basins.is_core``).
      core_standard_error: of it, from blocks.
      status: "found", "lost", "underweighted", "overweighted" or "undecided"; "truth" for the truth itself.
      core_status: likewise, of the core. A model that has missed the core can have the basin's weight around it.
    """

    weight: float
    standard_error: float
    core_weight: float
    core_standard_error: float
    status: str
    core_status: str

    @property
    def is_core_the_matter(self) -> bool:
        """Whether the core is worse off than the whole basin: lost where that is not, or wrong where that is found."""
        if self.core_status == "lost":
            return self.status != "lost"
        return self.status == "found" != self.core_status

    @property
    def overall_status(self) -> str:
        """The status; that of the core where it is the matter."""
        return self.core_status if self.is_core_the_matter else self.status


class BasinReport(NamedTuple):
    """One basin of the truth and what the model makes of it.

    Attributes:
      center_degrees: (φ, ψ) of its highest density, in [−180, 180).
      truth: its weight in the truth.
      model: its weight in each variant of the model's samples, such as "plain" and "reweighted".
      num_entries: how often the truth's chains entered it (``count_entries``), or None if not counted.
    """

    center_degrees: tuple[float, float]
    truth: BasinWeight
    model: dict[str, BasinWeight]
    num_entries: int | None = None


def _basin_weights(histogram: BlockHistogram, pair: int, basins: Basins) -> tuple[np.ndarray, np.ndarray]:
    """Weights and standard errors, each (basins, 2): of the whole basin and of its core."""
    num_basins = len(basins.weights)
    labels = (2 * basins.labels + basins.is_core).reshape(-1)
    sums = [np.bincount(labels, block.reshape(-1), minlength=2 * num_basins) for block in histogram.sums[:, pair]]
    merged = BlockHistogram(np.stack(sums), histogram.half, num_bin_axes=1)
    whole = BlockHistogram(np.stack(sums).reshape(-1, num_basins, 2).sum(2), histogram.half, num_bin_axes=1)
    masses = np.stack([whole.masses, merged.masses[1::2]], axis=1)
    return masses, np.sqrt(np.stack([bin_variances(whole), bin_variances(merged)[1::2]], axis=1))


def _status(truth: float, model: float, standard_error: float) -> str:
    if abs(model - truth) <= _SIGNIFICANCE * standard_error:
        return "undecided" if model < _LOST_FACTOR * truth else "found"
    if model < _LOST_FACTOR * truth:
        return "lost"
    if model < truth / _WRONG_FACTOR:
        return "underweighted"
    return "overweighted" if model > truth * _WRONG_FACTOR else "found"


def basin_report(
    basins: Basins,
    truth: BlockHistogram,
    variants: Mapping[str, BlockHistogram],
    *,
    pair: int = 0,
    num_effective_samples: Mapping[str, float] | None = None,
    num_entries: Sequence[int] | np.ndarray | None = None,
) -> list[BasinReport]:
    """Weight of each basin of the truth in the truth and in the model's samples.

    Args:
      basins: of the truth (``find_basins``), in the bins of the histograms.
      truth: Ramachandran plots of the truth.
      variants: those of the model's samples, plain and reweighted, by name.
      pair: which pair of torsions.
      num_effective_samples: what each variant's samples are worth in independent ones, such as 1/Σw². The scatter
        between blocks, from which errors are taken, vanishes where one weight is all; the noise of so many samples of
        the truth does not. None leaves it out.
      num_entries: of the truth's chains into each basin (``count_entries``), for the reports; None without.

    Returns:
      One report for each basin, the heaviest first. "lost" (below a tenth of the true weight), "underweighted" and
      "overweighted" (a factor of two) need a difference of more than three standard errors; "undecided" is below a
      tenth without it. The same for the cores.
    """
    true_weights, true_errors = _basin_weights(truth, pair, basins)
    of_variant = {name: _basin_weights(histogram, pair, basins) for name, histogram in variants.items()}
    reports = []
    for index, center in enumerate(basins.centers_rad):
        true_weight, true_error = true_weights[index], true_errors[index]
        model = {}
        for name, (weights, errors) in of_variant.items():
            noise = np.sqrt(true_weight * (1.0 - true_weight) / (num_effective_samples or {}).get(name, np.inf))
            total_error = np.hypot(true_error, np.maximum(errors[index], noise))
            statuses = [_status(*values) for values in zip(true_weight, weights[index], total_error, strict=True)]
            model[name] = _basin_weight(weights[index], errors[index], statuses)
        phi, psi = (float(angle) for angle in np.rad2deg(center))
        truth_weight = _basin_weight(true_weight, true_error, ["truth", "truth"])
        entries = None if num_entries is None else int(num_entries[index])
        reports.append(BasinReport((phi, psi), truth_weight, model, entries))
    return reports


def _basin_weight(weights: np.ndarray, errors: np.ndarray, statuses: Sequence[str]) -> BasinWeight:
    """Of (whole, core)."""
    (weight, core_weight), (error, core_error) = weights.tolist(), errors.tolist()
    return BasinWeight(weight, error, core_weight, core_error, *statuses)


def basin_verdict(reports: Sequence[BasinReport], variant: str) -> str:
    """What became of the basins, as a sentence.

    Args:
      reports: of one pair (``basin_report``).
      variant: which of the model's samples, such as "plain".

    Returns:
      Such as "all 5 basins found" or "basin 4 of 5 at (55°, −110°), weight (0.150 ± 0.004) %, is lost: plain samples
      have (0.003 ± 0.001) %"; "the core of basin 4 of 5 at …" where that is the matter.
    """
    total = len(reports)
    wrong = []
    for number, report in enumerate(reports, 1):
        truth, model = report.truth, report.model[variant]
        phi, psi = (_degrees(angle) for angle in report.center_degrees)
        name = f"basin {number} of {total} at ({phi}, {psi})"
        of_truth, of_model = (_percent(result.weight, result.standard_error) for result in (truth, model))
        if model.is_core_the_matter:
            name = f"the core of {name}"
            of_truth, of_model = (_percent(result.core_weight, result.core_standard_error) for result in (truth, model))
        status = _in_words(model.overall_status)
        if status != "found":
            wrong.append(f"{name}, weight {of_truth}, is {status}: {variant} samples have {of_model}")
    if not wrong:
        return f"all {total} basins found" if total > 1 else "the only basin found"
    return "; ".join(wrong)


def basin_table(reports: Sequence[BasinReport]) -> str:
    """Weights of the basins as a Markdown table: truth, how often its chains entered, and each variant of the model.

    Args:
      reports: of one pair (``basin_report``), at least one.
    """
    variants = list(reports[0].model)
    titles = ["basin (φ, ψ)", "truth", "entries", *(name.replace("_raw", ", unclipped") for name in variants)]
    lines = [titles, ["---"] * len(titles)]
    for report in reports:
        phi, psi = (_degrees(angle) for angle in report.center_degrees)
        columns = (report.truth, *(report.model[name] for name in variants))
        weights = [_percent(column.weight, column.standard_error) for column in columns]
        entries = "–" if report.num_entries is None else f"{report.num_entries:,}"
        lines.append([f"({phi}, {psi})", weights[0], entries, *weights[1:]])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _in_words(status: str) -> str:
    return "undecided, for want of samples" if status == "undecided" else status


def _degrees(angle: float) -> str:
    return f"{angle:.0f}°".replace("-", "−")


def _percent(weight: float, standard_error: float) -> str:
    """Weight and error in percent, with two digits of the error."""
    weight, error = 100 * weight, 100 * standard_error
    if not error > 0:
        return f"{weight:.2g} %"
    decimals = int(np.clip(1 - np.floor(np.log10(error)), 0, 6))
    return f"({weight:.{decimals}f} ± {error:.{decimals}f}) %"
