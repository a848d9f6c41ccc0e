"""All metrics of a model against the truth in one call, under the flat names of a run's summary."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cmtjax.annealing.importance import clip_top_fraction
from cmtjax.evaluation.basin_report import BasinReport, basin_report, basin_verdict
from cmtjax.evaluation.basins import Basins, count_entries, find_basins
from cmtjax.evaluation.blocks import chain_blocks, independent_blocks
from cmtjax.evaluation.divergences import histogram_effective_samples
from cmtjax.evaluation.histograms import BlockHistogram, ramachandran_block_histogram
from cmtjax.evaluation.summaries import (
    basin_summary,
    cis_summary,
    energy_summary,
    pair_prefix,
    ramachandran_summary,
    torus_summary,
    variant_suffix,
)
from cmtjax.evaluation.weights import normalized_weights


class TruthSamples(NamedTuple):
    """Samples of the truth: independent chains of correlated draws.

    Attributes:
      torsions_rad: (draws, chains, pairs, 2) φ and ψ of each pair.
      energies_kj_mol: (draws, chains), or None.
      omegas_rad: (draws, chains, bonds) ω of each peptide bond, or None.
    """

    torsions_rad: Float[np.ndarray, "draws chains pairs 2"]
    energies_kj_mol: Float[np.ndarray, "draws chains"] | None = None
    omegas_rad: Float[np.ndarray, "draws chains bonds"] | None = None


class ModelSamples(NamedTuple):
    """Independent samples of the model; float32 torsions of 1e7 samples with five pairs are 0.4 GB.

    Attributes:
      torsions_rad: (n, pairs, 2) φ and ψ of each pair.
      log_weights: (n,) log p̃/q, unnormalized and unclipped, NaN for failed samples; None: plain samples only.
      energies_kj_mol: (n,), or None.
      omegas_rad: (n, bonds), or None.
    """

    torsions_rad: Float[np.ndarray, "n pairs 2"]
    log_weights: Float[np.ndarray, " n"] | None = None
    energies_kj_mol: Float[np.ndarray, " n"] | None = None
    omegas_rad: Float[np.ndarray, "n bonds"] | None = None


class Comparison(NamedTuple):
    """What ``compare`` found.

    Attributes:
      summary: flat names and numbers, for ``summary.json``.
      verdicts: a sentence for each pair and variant of the samples, by the summary's names (``pair_0_basins``).
      truth: Ramachandran plots of the truth, for figures.
      variants: those of the model: "plain", and with weights "reweighted" (clipped) and "reweighted_raw".
      basins: of the truth, for each pair.
      basin_reports: for each pair, for each of its basins.
    """

    summary: dict[str, Any]
    verdicts: dict[str, str]
    truth: BlockHistogram
    variants: dict[str, BlockHistogram]
    basins: list[Basins]
    basin_reports: list[list[BasinReport]]


def compare(
    truth: TruthSamples,
    model: ModelSamples,
    *,
    clip_fraction: float = 1e-4,
    num_bins: int = 100,
    num_transport_samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Compares samples of a model with the truth (CMT, D.3.2), with standard errors and noise floors as listed.

    Names end in nothing for plain samples, ``_reweighted`` for importance weights whose top fraction is clipped as
    published, ``_reweighted_raw`` for unclipped ones; then ``_standard_error`` where there is one. With several pairs
    the plain name is the mean over them and ``pair_<i>_…`` each pair's own; means over one pair are that pair's.
    Without pairs there are no ``ram_…`` and no basins.

    - ``ram_kl``, ``ram_tv`` with ``_standard_error`` from blocks of truth and model;
      ``ram_kl_noise_floor``, ``ram_tv_noise_floor``: half of the truth's chains against the other half, which is
      more than the noise of all of it; ``ram_tv_expected_noise``: what is to be expected of samples this large, from
      effective numbers of samples, if the model were perfect.
    - ``ram_tw2``: on the torus of all pairs together, as published, with ``_standard_error`` and ``_noise_floor``
      (two halves of the truth); ``num_transport_samples``. Not from unclipped weights, of which a few may be all.
    - ``energy_w2`` with ``_standard_error``, ``_noise_floor``; ``energy_clash_bound_kj_mol`` and the
      ``energy_share_clashes`` above it; ``energy_mean_kj_mol`` below it, and ``energy_mean_kj_mol_truth``.
    - ``basin_<k>_weight``, ``basin_<k>_core_weight`` (k from 0, the heaviest first), ``_truth``,
      ``basin_<k>_entries_truth`` (how often its chains entered, see ``count_entries``), and
      ``num_basins``, ``num_basins_lost``, ``num_basins_undecided`` (too few samples to tell), ``num_basins_wrong``
      (under- or overweighted), the last four summed over pairs.
    - ``cis_<b>_weight`` of each peptide bond, ``_truth``.
    - ``num_truth_effective_samples``, ``num_effective_samples``: worth of the Ramachandran plots in independent
      samples, the smallest over pairs.

    Memory beside the arguments: 8 bytes a sample for each of two sets of weights, some temporaries of that size, and
    1.6 GB for the transport plan at 1e4 samples.

    Args:
      truth: samples of the truth.
      model: samples of the model.
      clip_fraction: share of the weights to clip; 1e-4 in the papers.
      num_bins: bins along each angle; 100 in the papers.
      num_transport_samples: for ``ram_tw2``, 1e4 in the paper (a minute for each of up to four distances); 0 leaves
        it out, and POT is not needed.
      seed: of the subsamples for ``ram_tw2``.

    Raises:
      ValueError: if shapes disagree or no sample has a weight.
      ImportError: if POT is missing and num_transport_samples is not 0.
    """
    draws, chains, pairs, two = truth.torsions_rad.shape if truth.torsions_rad.ndim == 4 else (0, 0, 0, 0)
    if two != 2 or model.torsions_rad.shape[1:] != (pairs, 2):
        raise ValueError(
            "torsions_rad of truth and model must have shapes (draws, chains, pairs, 2) and (n, pairs, 2), got "
            f"{truth.torsions_rad.shape} and {model.torsions_rad.shape}."
        )
    true_blocks, blocks = chain_blocks(draws, chains), independent_blocks(len(model.torsions_rad))
    log_weights = _log_weights(model.log_weights, clip_fraction)
    everything = np.ones(len(model.torsions_rad), bool)
    weights = {
        name: None if values is None else normalized_weights(values, everything) for name, values in log_weights.items()
    }
    true_torsions = truth.torsions_rad.reshape(draws * chains, pairs, 2)
    true_histogram = ramachandran_block_histogram(true_torsions, None, true_blocks, num_bins=num_bins)
    histograms = {
        name: ramachandran_block_histogram(model.torsions_rad, values, blocks, num_bins=num_bins)
        for name, values in weights.items()
    }

    summary: dict[str, Any] = {
        "num_truth_samples": draws * chains,
        "num_truth_chains": chains,
        "num_samples": len(model.torsions_rad),
    }
    # By the weights alone.
    max_samples = {
        name: float(len(everything) if values is None else 1.0 / np.sum(values**2)) for name, values in weights.items()
    }
    if pairs:
        summary |= ramachandran_summary(true_histogram, histograms, draws * chains, max_samples)
    if pairs and num_transport_samples:
        used = {name: values for name, values in log_weights.items() if name != "reweighted_raw"}
        summary |= torus_summary(
            true_torsions, model.torsions_rad, used, true_blocks, num_samples=num_transport_samples, seed=seed
        )
    if truth.energies_kj_mol is not None and model.energies_kj_mol is not None:
        summary |= energy_summary(truth.energies_kj_mol, model.energies_kj_mol, log_weights, true_blocks, blocks)
    if truth.omegas_rad is not None and model.omegas_rad is not None:
        summary |= cis_summary("_truth", truth.omegas_rad, None, true_blocks)
        for name, values in weights.items():
            summary |= cis_summary(variant_suffix(name), model.omegas_rad, values, blocks)

    basins, reports, verdicts = [], [], {}
    for pair in range(pairs):
        num_effective = min(histogram_effective_samples(true_histogram.sums[:, pair]), draws * chains)
        basins.append(find_basins(true_histogram.masses[pair], num_effective))
        reports.append(
            basin_report(
                basins[-1],
                true_histogram,
                histograms,
                pair=pair,
                num_effective_samples=max_samples,
                num_entries=count_entries(basins[-1], truth.torsions_rad[:, :, pair]),
            )
        )
        for name in histograms:
            verdicts[f"{pair_prefix(pair, pairs)}basins{variant_suffix(name)}"] = basin_verdict(reports[-1], name)
    summary |= basin_summary(reports, list(histograms))
    return Comparison(summary, verdicts, true_histogram, histograms, basins, reports)


def _log_weights(log_weights: np.ndarray | None, clip_fraction: float) -> dict[str, np.ndarray | None]:
    if log_weights is None:
        return {"plain": None}
    log_weights = np.asarray(log_weights, np.float64)
    clipped = np.asarray(clip_top_fraction(log_weights, clip_fraction))  # type: ignore[arg-type]
    return {"plain": None, "reweighted": clipped, "reweighted_raw": log_weights}
