"""The numbers of a comparison under flat names; ``compare`` documents them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from cmtjax.evaluation.basin_report import BasinReport
from cmtjax.evaluation.blocks import Blocks, weighted_mean
from cmtjax.evaluation.divergence_errors import kl_errors, total_variation_errors
from cmtjax.evaluation.divergences import (
    expected_total_variation,
    histogram_effective_samples,
    ramachandran_kl,
    ramachandran_total_variation,
)
from cmtjax.evaluation.histograms import BlockHistogram
from cmtjax.evaluation.peptide_bonds import cis_weights
from cmtjax.evaluation.transport import clash_bound_kj_mol, energy_wasserstein2, torus_wasserstein2
from cmtjax.evaluation.weights import normalized_weights

#: What became of the basins of the truth, the worst first.
BasinStatus = Literal["lost", "unchecked", "undecided", "found"]


def variant_suffix(variant: str) -> str:
    """What names of a variant's metrics end in."""
    return "" if variant == "plain" else f"_{variant}"


def pair_prefix(pair: int, num_pairs: int) -> str:
    """What names of a pair's metrics begin with."""
    return f"pair_{pair}_" if num_pairs > 1 else ""


def _with_error(name: str, value: float, standard_error: float) -> dict[str, float]:
    return {name: float(value), f"{name}_standard_error": float(standard_error)}


def ramachandran_summary(
    truth: BlockHistogram,
    variants: Mapping[str, BlockHistogram],
    max_true_samples: float,
    max_samples: Mapping[str, float],
) -> dict[str, float]:
    """KL divergence and total variation of each pair and their means, with errors and noise floors.

    Effective numbers of samples come from the scatter between blocks, which vanishes where one weight is nearly all of
    them: they are at most ``max_true_samples`` and, of each variant, ``max_samples``.
    """
    num_pairs = truth.sums.shape[1]
    summary: dict[str, float] = {}

    def add(name: str, of_pairs: np.ndarray) -> None:
        summary[name] = float(np.mean(of_pairs))
        summary.update({pair_prefix(pair, num_pairs) + name: float(value) for pair, value in enumerate(of_pairs)})

    def effective_samples(histogram: BlockHistogram, most: float) -> np.ndarray:
        found = [histogram_effective_samples(histogram.sums[:, pair]) for pair in range(num_pairs)]
        return np.minimum(found, most)

    true_effective = effective_samples(truth, max_true_samples)
    summary["num_truth_effective_samples"] = float(true_effective.min())
    add("ram_kl_noise_floor", ramachandran_kl(*truth.halves))
    add("ram_tv_noise_floor", ramachandran_total_variation(*truth.halves))
    for variant, histogram in variants.items():
        suffix = variant_suffix(variant)
        for name, distance, errors in (
            ("ram_kl", ramachandran_kl, kl_errors),
            ("ram_tv", ramachandran_total_variation, total_variation_errors),
        ):
            add(f"{name}{suffix}", distance(truth.masses, histogram.masses))
            error = errors(truth, histogram)
            add(f"{name}{suffix}_standard_error", error.of_pairs)
            summary[f"{name}{suffix}_standard_error"] = error.of_mean
        effective = effective_samples(histogram, max_samples[variant])
        summary[f"num_effective_samples{suffix}"] = float(effective.min())
        # Masses from both sides: a bin that only one of them has hit has noise too.
        masses = 0.5 * (truth.masses + histogram.masses)
        expected = [expected_total_variation(*pair) for pair in zip(masses, true_effective, effective, strict=True)]
        add(f"ram_tv{suffix}_expected_noise", np.array(expected))
    return summary


def torus_summary(
    true_torsions_rad: Float[np.ndarray, "true_samples pairs 2"],
    torsions_rad: Float[np.ndarray, "samples pairs 2"],
    log_weights: Mapping[str, Float[np.ndarray, " samples"] | None],
    true_blocks: Blocks,
    *,
    num_samples: int,
    seed: int,
) -> dict[str, float]:
    """Wasserstein-2 distance on the torus of all pairs, for each variant and between halves of the truth."""
    true_angles = true_torsions_rad.reshape(len(true_torsions_rad), -1)
    angles = torsions_rad.reshape(len(torsions_rad), -1)
    is_first_half = true_blocks.labels.reshape(-1) < true_blocks.half
    summary: dict[str, float] = {}
    for variant, values in log_weights.items():
        result = torus_wasserstein2(true_angles, angles, log_weights_b=values, num_samples=num_samples, seed=seed)
        summary |= _with_error(f"ram_tw2{variant_suffix(variant)}", result.distance, result.standard_error)
        summary["num_transport_samples"] = result.num_samples
    floor = torus_wasserstein2(
        true_angles[is_first_half], true_angles[~is_first_half], num_samples=num_samples, seed=seed
    )
    return summary | {
        "ram_tw2_noise_floor": floor.distance,
        "num_transport_samples_noise_floor": floor.num_samples,
    }


def energy_summary(
    true_energies_kj_mol: Float[np.ndarray, "draws chains"],
    energies_kj_mol: Float[np.ndarray, " samples"],
    log_weights: Mapping[str, Float[np.ndarray, " samples"] | None],
    true_blocks: Blocks,
    blocks: Blocks,
) -> dict[str, float]:
    """Wasserstein-2 distance and means of the energies, clashes clamped and counted."""
    bound = clash_bound_kj_mol(true_energies_kj_mol)
    is_first_half = true_blocks.labels < true_blocks.half
    floor = energy_wasserstein2(
        np.where(is_first_half, true_energies_kj_mol, np.nan),
        np.where(is_first_half, np.nan, true_energies_kj_mol),
        true_blocks,
        true_blocks,
        clash_bound_kj_mol=bound,
    )
    summary = {"energy_clash_bound_kj_mol": bound, "energy_w2_noise_floor": floor.distance}
    summary |= _with_error("energy_mean_kj_mol_truth", *weighted_mean(true_energies_kj_mol, None, true_blocks))
    below_bound = np.where(energies_kj_mol < bound, energies_kj_mol, np.nan)
    is_clash = np.where(np.isnan(energies_kj_mol), np.nan, energies_kj_mol >= bound)
    for variant, values in log_weights.items():
        suffix = variant_suffix(variant)
        result = energy_wasserstein2(
            true_energies_kj_mol, energies_kj_mol, true_blocks, blocks, clash_bound_kj_mol=bound, log_weights_b=values
        )
        weights = None if values is None else normalized_weights(values, ~np.isnan(energies_kj_mol))
        summary |= _with_error(f"energy_w2{suffix}", result.distance, result.standard_error)
        has_weight = np.isfinite(below_bound) if weights is None else np.isfinite(below_bound) & (weights > 0)
        if np.any(has_weight):  # An untrained flow may have nothing but clashes.
            summary |= _with_error(f"energy_mean_kj_mol{suffix}", *weighted_mean(below_bound, weights, blocks))
        summary |= _with_error(f"energy_share_clashes{suffix}", *weighted_mean(is_clash, weights, blocks))
    return summary


def cis_summary(
    suffix: str,
    omegas_rad: Float[np.ndarray, "*samples bonds"],
    weights: Float[np.ndarray, "*samples"] | None,
    blocks: Blocks,
) -> dict[str, float]:
    """Weight of cis of each peptide bond."""
    summary: dict[str, float] = {}
    for bond, result in enumerate(cis_weights(omegas_rad, weights, blocks)):
        summary |= _with_error(f"cis_{bond}_weight{suffix}", *result)
    return summary


def basin_summary(reports: Sequence[Sequence[BasinReport]], variants: Sequence[str]) -> dict[str, float]:
    """Weights of the basins of each pair, and how many are lost, undecided or have a wrong weight."""
    summary: dict[str, float] = {"num_basins": sum(len(of_pair) for of_pair in reports)}
    for pair, of_pair in enumerate(reports):
        for index, report in enumerate(of_pair):
            name = f"{pair_prefix(pair, len(reports))}basin_{index}"
            summary[f"{name}_phi_degrees"], summary[f"{name}_psi_degrees"] = report.center_degrees
            suffixes = {variant_suffix(variant): result for variant, result in report.model.items()}
            for suffix, result in {"_truth": report.truth, **suffixes}.items():
                summary |= _with_error(f"{name}_weight{suffix}", result.weight, result.standard_error)
                core = (result.core_weight, result.core_standard_error)
                summary |= _with_error(f"{name}_core_weight{suffix}", *core)
            if report.num_entries is not None:
                summary[f"{name}_entries_truth"] = report.num_entries
    for variant in variants:
        statuses = [report.model[variant].overall_status for of_pair in reports for report in of_pair]
        suffix = variant_suffix(variant)
        for name, of_name in (
            ("lost", ("lost",)),
            ("undecided", ("undecided",)),
            ("wrong", ("underweighted", "overweighted")),
        ):
            summary[f"num_basins_{name}{suffix}"] = sum(status in of_name for status in statuses)
    return summary


def basin_status(summary: Mapping[str, Any]) -> BasinStatus:
    """What became of the basins in a run, by its summary.

    Args:
      summary: of the run, with the numbers of ``basin_summary`` if it was compared with a truth.

    Returns:
      "lost" if plain or reweighted samples (of clipped weights, as those of the ESS) have lost a basin, "undecided" if
      there are too few to tell of one, else "found"; "unchecked" without a comparison, or with one that had no
      basins for want of φ and ψ.
    """
    if not summary.get("num_basins"):
        return "unchecked"

    def has(status: str) -> bool:
        return any(summary.get(f"num_basins_{status}{suffix}", 0) > 0 for suffix in ("", "_reweighted"))

    return "lost" if has("lost") else "undecided" if has("undecided") else "found"
