"""What a finished run tells: summary.json and figures."""

from __future__ import annotations

import time
from typing import Any

import program

from cmtjax import annealing, evaluation
from cmtjax.coordinates.internal import InternalCoordinates
from cmtjax.evaluation import figures
from cmtjax.flows import Flow
from cmtjax.runs import Run
from cmtjax.targets import Target
from cmtjax.units import thermal_energy_kj_mol


def write_report(
    run: Run, target: Target, flow: Flow, params: Any, key: Any, coordinates: InternalCoordinates
) -> dict[str, Any]:
    """Draws fresh samples of the final flow, writes the figures and, last of all, ``summary.json``.

    Returns:
      The summary.
    """
    config = run.config
    num_samples = config["evaluation"]["num_samples"]
    start = time.monotonic()

    def progress(num_drawn: int) -> None:
        left = (time.monotonic() - start) / num_drawn * (num_samples - num_drawn)
        print(f"evaluation: {num_drawn:,} of {num_samples:,} samples, {program.format_duration(left)} left", flush=True)

    pairs = coordinates.ramachandran_pairs
    samples = evaluation.draw_host_samples(
        target,
        flow,
        params,
        key,
        num_samples=num_samples,
        columns=pairs.reshape(-1),
        chunk_size=config["method"]["chunk_size"],
        progress=progress,
    )
    log_weights = samples.log_p - samples.log_q
    clipped = annealing.clip_top_fraction(log_weights, 1e-4)
    u = samples.u.reshape(num_samples, *pairs.shape)
    torsions = coordinates.window_center[pairs] + coordinates.window_width[pairs] * (u - 0.5)
    metrics = run.read_metrics()
    summary = {
        "annealing_steps": int(metrics["annealing_step"][-1]),
        "target_evaluations": int(metrics["target_evaluations"][-1]),
        "gradient_steps": int(metrics["gradient_steps"][-1]),
        **evaluation.sample_metrics(samples.log_q, samples.log_p),
    }
    for pair in range(torsions.shape[1]):
        prefix = "" if torsions.shape[1] == 1 else f"pair_{pair}_"
        regions = evaluation.phi_positive_metrics(torsions[:, pair, 0], torsions[:, pair, 1], log_weights)
        summary |= {prefix + name: value for name, value in regions.items()}

    directory = run.figures_directory
    temperature = config["temperature_kelvin"]
    figures.plot_training_curves(
        metrics, directory / "training.png", reference_log_z=config["evaluation"]["reference_log_z"]
    )
    figures.plot_path(metrics, directory / "path.png")
    if len(pairs):
        figures.plot_ramachandran(
            torsions[:, :, 0],
            torsions[:, :, 1],
            directory / "ramachandran.png",
            temperature_kelvin=temperature,
            log_weights=clipped,
            pair_names=coordinates.ramachandran_names,
        )
    steps, plots = run.read_ramachandran_path()
    if len(steps):
        figures.plot_ramachandran_path(
            steps,
            plots["counts"],
            directory / "ramachandran_path.png",
            temperature_kelvin=temperature,
            pair_names=coordinates.ramachandran_names,
        )
    energies_kj_mol = -samples.log_p * thermal_energy_kj_mol(temperature)
    figures.plot_energy_histogram(energies_kj_mol, directory / "energies.png", log_weights=clipped)
    # What evaluate.py may have made of an earlier checkpoint is not of this flow.
    (run.path / "ramachandran.npz").unlink(missing_ok=True)
    run.write_summary(summary)
    shown = {name: summary[name] for name in ("ess", "ess_raw", "log_z", "log_z_standard_error", "elbo")}
    print("finished: " + "  ".join(f"{name} {value:.6g}" for name, value in shown.items()), flush=True)
    print(f"summary: {run.path / 'summary.json'}; figures: {directory}", flush=True)
    return summary
