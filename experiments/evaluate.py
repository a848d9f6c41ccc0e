"""Compares a trained flow with a data set of the truth: every metric and figure of the papers.

    python experiments/evaluate.py --workdir=runs/dipeptide --data=data_sets/dipeptide --num_samples=10000000

Adds the metrics to the run's summary.json, writes figures to its figures/ and the Ramachandran histograms to
ramachandran.npz. --data=A,B takes several data sets together, and judges whether they have mixed as one. Samples are
drawn in chunks on the device and kept in evaluation/ until the end: the same command resumes an evaluation that was
stopped.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import Any

import energy
import evaluation_samples
import numpy as np
import program
import truth_sets
from absl import flags

import cmtjax
from cmtjax import annealing, datasets, evaluation, runs
from cmtjax.evaluation import comparison, figures, forward, histograms, marginals, peptide_bonds, tables
from cmtjax.evaluation.blocks import chain_blocks, independent_blocks, weighted_mean
from cmtjax.evaluation.weights import normalized_weights
from cmtjax.runs import files
from cmtjax.units import thermal_energy_kj_mol

_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory of train.py.", required=True)
_DATA = flags.DEFINE_list(
    "data", None, "Data set of simulate.py; several, with commas between them, are taken together.", required=True
)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 1_000_000, "Samples of the flow; the papers take 10⁷.")
_NUM_TRANSPORT = flags.DEFINE_integer(
    "num_transport_samples", 10_000, "For the Wasserstein distance on the torus, as in the paper; 0: without it."
)
_NUM_MARGINAL = flags.DEFINE_integer("num_marginal_samples", 200_000, "For the distributions of single coordinates.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the samples.")
_NUM_WORKERS = flags.DEFINE_integer(
    "num_workers", 0, "OpenMM processes of a run without energies in JAX; 0: one a core."
)

_CLIP_FRACTION = 1e-4
#: The entry of the summary that lists what an evaluation has added to it.
_ADDED_NAMES = "evaluation_names"


def main(argv: list[str]) -> None:
    del argv
    with program.user_errors():
        for name, flag, least in (
            ("--num_samples", _NUM_SAMPLES, 1000),
            ("--num_marginal_samples", _NUM_MARGINAL, 1000),
            ("--num_workers", _NUM_WORKERS, 0),
            ("--seed", _SEED, 0),
        ):
            program.require(flag.value >= least, name, flag.value, f"at least {least}")
        num_transport = _NUM_TRANSPORT.value
        program.require(
            num_transport == 0 or num_transport >= 2, "--num_transport_samples", num_transport, "0 or at least 2"
        )
        run = runs.open_existing(_WORKDIR.value)
        if _NUM_TRANSPORT.value:
            _require_transport()
        sets = truth_sets.open_data_sets(_DATA.value, run)
    with contextlib.ExitStack() as stack:
        with program.user_errors():
            energy_fn = None if run.energy_path.exists() else energy.reopen_pool(run, stack, _NUM_WORKERS.value)
            sampler = cmtjax.load_sampler(run.path, energy_fn)
            truth = truth_sets.read(sets, sampler.coordinates)
            stack.enter_context(contextlib.closing(files.lock(run.path / ".lock")))
        for data in sets:
            print(truth_sets.describe(data), flush=True)
        if disagreement := truth_sets.describe_disagreement(sets):
            print(f"warning: {disagreement}", flush=True)
        verdict = truth_sets.judge(sets, truth, sampler.coordinates)
        if together := truth_sets.describe_together(sets, verdict):
            print(together, flush=True)
        if not run.is_finished:
            print(f"warning: {run.path} is not finished: this evaluates its newest checkpoint.", flush=True)
        metrics, basins = evaluate(run, sampler, truth)
        metrics |= truth_sets.metadata(sets, verdict)
        summary = run.read_summary() if (run.path / "summary.json").exists() else {}
        # What an earlier evaluation found against another truth must not stay beside the new numbers.
        kept = {name: value for name, value in summary.items() if name not in summary.get(_ADDED_NAMES, ())}
        added = sorted(set(metrics) - set(kept))
        run.write_summary({**kept, **metrics, _ADDED_NAMES: added}, finished=run.is_finished)
    shutil.rmtree(run.path / evaluation_samples.DIRECTORY, ignore_errors=True)
    _print_table(metrics)
    for text in basins:
        print(text, flush=True)
    for doubt in truth_sets.doubts(sets, verdict):
        print(f"warning: {doubt}", flush=True)
    print(f"summary: {run.path / 'summary.json'}; figures: {run.figures_directory}", flush=True)


def evaluate(
    run: runs.RunDirectory, sampler: cmtjax.Sampler, truth: truth_sets.Truth
) -> tuple[dict[str, Any], list[str]]:
    """All metrics under flat names, and tables of basins; writes the figures and ``ramachandran.npz``."""
    coordinates = sampler.coordinates
    domain, pairs = coordinates.domain, coordinates.ramachandran_pairs
    bonds = datasets.peptide_bonds(coordinates.z_matrix)
    first_torsion = domain.num_dims - len(coordinates.z_matrix.rows)
    columns = np.unique([*pairs.reshape(-1), *(first_torsion + row for bond in bonds for row in bond.rows)])
    model, marginal_u = evaluation_samples.draw(
        run, sampler, columns, num_samples=_NUM_SAMPLES.value, num_whole=_NUM_MARGINAL.value, seed=_SEED.value
    )
    log_weights = model.log_p - model.log_q
    kt = thermal_energy_kj_mol(run.config["temperature_kelvin"])

    def angles(u: np.ndarray, dims: np.ndarray) -> np.ndarray:
        return (coordinates.window_center[dims] + coordinates.window_width[dims] * (u - 0.5)).astype(np.float32)

    def spread(u: np.ndarray) -> np.ndarray:
        """The columns kept, at their places among all dimensions; the others are not looked at."""
        whole = np.zeros((*u.shape[:-1], domain.num_dims), np.float32)
        whole[..., columns] = u
        return whole

    at = {int(column): index for index, column in enumerate(columns)}
    kept_pairs = np.array([[at[int(dim)] for dim in pair] for pair in pairs], int).reshape(-1, 2)
    print("comparing with the truth", flush=True)
    omega_model = np.concatenate(
        [
            datasets.omega_rad(coordinates, spread(part))
            for part in np.array_split(model.u, max(len(model.u) // 100_000, 1))
        ]
    )
    result = comparison.compare(
        comparison.TruthSamples(
            angles(truth.u[..., pairs], pairs), truth.energy_kj_mol, datasets.omega_rad(coordinates, truth.u)
        ),
        comparison.ModelSamples(
            angles(model.u[:, kept_pairs], pairs), log_weights, -kt * model.log_p, omega_model.astype(np.float32)
        ),
        clip_fraction=_CLIP_FRACTION,
        num_transport_samples=_NUM_TRANSPORT.value,
        seed=_SEED.value,
    )
    metrics: dict[str, Any] = evaluation.sample_metrics(model.log_q, model.log_p)
    log_q, log_p, in_domain = evaluation_samples.forward_densities(sampler, run.config, truth.u, truth.energy_kj_mol)
    metrics |= forward.forward_metrics(
        log_q, log_p, in_domain, log_z=metrics["log_z"], log_z_standard_error=metrics["log_z_standard_error"]
    )
    metrics |= result.summary | result.verdicts
    for pair in range(len(pairs)):
        prefix = "" if len(pairs) == 1 else f"pair_{pair}_"
        torsions = angles(model.u[:, kept_pairs[pair]], pairs[pair])
        regions = evaluation.phi_positive_metrics(torsions[:, 0], torsions[:, 1], log_weights)
        of_truth = angles(truth.u[..., pairs[pair]], pairs[pair])
        metrics |= {prefix + name: value for name, value in regions.items()}
        metrics |= {prefix + name: value for name, value in _true_regions(of_truth).items()}
    metrics |= _marginals(run, coordinates, truth, marginal_u, log_weights[: len(marginal_u)])
    _write_figures(run, result, coordinates, truth, model, log_weights, kt)
    along = _basin_path(run, result, coordinates.ramachandran_names)
    texts = [
        f"basins of {name}, and how often the chains of the truth entered each:\n{evaluation.basin_table(reports)}"
        for name, reports in zip(coordinates.ramachandran_names, result.basin_reports, strict=True)
    ]
    if bonds:
        texts.append(f"cis peptide bonds:\n{peptide_bonds.cis_report([bond.name for bond in bonds], metrics)}")
    return metrics, texts + along


def _basin_path(run: runs.RunDirectory, result: Any, names: tuple[str, ...]) -> list[str]:
    """Draws the weights of the basins along the run's path, and says where on it one was lost."""
    steps, plots = run.read_ramachandran_path()
    if not len(steps):
        return []
    paths = [
        evaluation.basin_path(plots["counts"][:, pair], plots["next_masses"][:, pair], basins, masses)
        for pair, (basins, masses) in enumerate(zip(result.basins, result.truth.masses, strict=True))
    ]
    figures.plot_basin_path(steps, paths, result.basins, run.figures_directory / "basin_path.png", pair_names=names)
    return [
        f"on the path of {name}, {text}"
        for name, path, basins in zip(names, paths, result.basins, strict=True)
        for text in evaluation.describe_basin_path(steps, path, basins)
    ]


def _true_regions(torsions: np.ndarray) -> dict[str, float]:
    """Weights of the regions of positive φ in the truth, with errors from its chains."""
    blocks = chain_blocks(*torsions.shape[:2])
    found = {}
    for region, (phi_range, psi_range) in evaluation.PHI_POSITIVE_REGIONS.items():
        phi, psi = (np.mod(torsions[..., i] + np.pi, 2 * np.pi) - np.pi for i in (0, 1))
        inside = (phi > phi_range[0]) & (phi < phi_range[1]) & (psi > psi_range[0]) & (psi < psi_range[1])
        mean, error = weighted_mean(inside.astype(np.float64), None, blocks)
        found |= {f"{region}_weight_truth": mean, f"{region}_weight_truth_standard_error": error}
    return found


def _marginals(
    run: runs.RunDirectory, coordinates: Any, truth: truth_sets.Truth, u: np.ndarray, log_weights: np.ndarray
) -> dict[str, Any]:
    domain, names = coordinates.domain, marginals.coordinate_names(coordinates.z_matrix)
    clipped = np.asarray(annealing.clip_top_fraction(log_weights, _CLIP_FRACTION))
    weights = normalized_weights(clipped, np.ones(len(u), bool))
    blocks = independent_blocks(len(u))
    true = histograms.marginal_block_histogram(
        truth.u.reshape(-1, domain.num_dims), None, chain_blocks(*truth.u.shape[:2]), domain.is_periodic
    )
    variants = {
        "plain": histograms.marginal_block_histogram(u, None, blocks, domain.is_periodic),
        "reweighted": histograms.marginal_block_histogram(u, weights, blocks, domain.is_periodic),
    }
    found: dict[str, Any] = {"num_marginal_samples": len(u)}
    for name, suffix in (("plain", ""), ("reweighted", "_reweighted")):
        found |= marginals.summarize_marginals(
            true, variants[name], domain, coordinates.window_width, names, suffix=suffix
        )
    is_torsion = domain.groups == domain.TORSIONS
    for file, dims, num_worst in (
        ("torsions.png", np.flatnonzero(is_torsion), 40),
        ("bonds_angles.png", np.flatnonzero(~is_torsion), 12),
    ):
        figures.plot_marginals(
            true,
            variants,
            run.figures_directory / file,
            dims=figures.worst_marginals(true, variants["plain"], dims, num_worst),
            names=names,
            domain=domain,
            window_center=coordinates.window_center,
            window_width=coordinates.window_width,
        )
    return found


def _write_figures(
    run: runs.RunDirectory,
    result: Any,
    coordinates: Any,
    truth: truth_sets.Truth,
    model: Any,
    log_weights: np.ndarray,
    kt: float,
) -> None:
    directory, names = run.figures_directory, coordinates.ramachandran_names
    clipped = np.asarray(annealing.clip_top_fraction(log_weights, _CLIP_FRACTION))
    figures.plot_energy_comparison(
        truth.energy_kj_mol, -kt * model.log_p, directory / "energies_truth.png", log_weights=clipped
    )
    figures.plot_log_weights(log_weights, directory / "log_weights.png", clip_fraction=_CLIP_FRACTION)
    if not names:  # no φ and ψ to draw
        return
    figures.plot_ramachandran_differences(
        result.truth,
        {"samples": result.variants["plain"], "reweighted": result.variants["reweighted"]},
        directory / "ramachandran_truth.png",
        temperature_kelvin=run.config["temperature_kelvin"],
        pair_names=names,
        basins=result.basins,
    )
    with files.atomic_file(run.path / "ramachandran.npz") as temporary, open(temporary, "wb") as file:
        np.savez_compressed(
            file,
            truth_masses=result.truth.masses,
            model_masses=result.variants["plain"].masses,
            reweighted_masses=result.variants["reweighted"].masses,
            edges_rad=np.linspace(-np.pi, np.pi, result.truth.masses.shape[-1] + 1),
            pair_names=np.array(names),
        )


def _require_transport() -> None:
    try:
        import ot  # noqa: F401
    except ImportError:
        raise ValueError(
            'the Wasserstein distance on the torus needs POT: pip install -e ".[evaluation]", or leave it out by '
            "--num_transport_samples=0."
        ) from None


#: Rows of the table at the end: name in the summary, what it is, factor and unit.
_SHOWN = (
    ("ess", "effective sample size", 100.0, "%"),
    ("ess_raw", "effective sample size, unclipped", 100.0, "%"),
    ("log_z", "log Z", 1.0, ""),
    ("elbo", "ELBO", 1.0, ""),
    ("eubo", "EUBO", 1.0, ""),
    ("nll", "NLL", 1.0, ""),
    ("forward_kl", "KL(truth, flow)", 1.0, "nats"),
    ("ram_kl", "Ram KL", 1.0, ""),
    ("ram_kl_reweighted", "Ram KL, reweighted", 1.0, ""),
    ("ram_tv", "Ram TV", 100.0, "%"),
    ("ram_tv_reweighted", "Ram TV, reweighted", 100.0, "%"),
    ("ram_tw2", "Ram torus W2", 1.0, "rad"),
    ("ram_tw2_reweighted", "Ram torus W2, reweighted", 1.0, "rad"),
    ("energy_w2", "energy W2", 1.0, "kJ/mol"),
    ("energy_w2_reweighted", "energy W2, reweighted", 1.0, "kJ/mol"),
    ("energy_mean_kj_mol_truth", "mean energy: truth", 1.0, "kJ/mol"),
    ("energy_mean_kj_mol", "mean energy: samples but clashes", 1.0, "kJ/mol"),
    ("energy_mean_kj_mol_reweighted", "mean energy: reweighted", 1.0, "kJ/mol"),
    ("energy_mean_kj_mol_reweighted_raw", "mean energy: reweighted, unclipped", 1.0, "kJ/mol"),
    ("share_outside_domain", "truth outside the flow's box", 100.0, "%"),
    ("phi_positive_weight_truth", "0 < φ < 2.5: truth", 100.0, "%"),
    ("phi_positive_weight", "0 < φ < 2.5: samples", 100.0, "%"),
    ("phi_positive_weight_reweighted", "0 < φ < 2.5: reweighted", 100.0, "%"),
    ("phi_positive_weight_reweighted_raw", "0 < φ < 2.5: reweighted, unclipped", 100.0, "%"),
)


def _print_table(metrics: dict[str, Any]) -> None:
    for name, title, factor, unit in _SHOWN:
        if name not in metrics:
            continue
        error = metrics.get(f"{name}_standard_error", metrics.get(_error_name(name)))
        text = tables.number_text(metrics[name], error, factor)
        base = name.removesuffix("_reweighted")
        floor = metrics.get(f"{name}_noise_floor", metrics.get(f"{base}_noise_floor"))
        noise = f"   (noise floor {factor * floor:.2g})" if floor is not None else ""
        print(f"{title:38s} {text} {unit}{noise}", flush=True)
    for name, value in metrics.items():
        if "basins" in name and isinstance(value, str):
            print(f"{name}: {value}", flush=True)


def _error_name(name: str) -> str:
    """Region weights carry the variant after ``standard_error``."""
    for suffix in ("_reweighted_raw", "_reweighted", "_truth"):
        if name.endswith(suffix):
            return f"{name.removesuffix(suffix)}_standard_error{suffix}"
    return f"{name}_standard_error"


if __name__ == "__main__":
    program.run_program(main)
