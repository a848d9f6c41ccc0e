"""Trains a Boltzmann generator by the method of a configuration file.

    python experiments/train.py --config=experiments/configs/alanine_dipeptide_quick.py --workdir=runs/dipeptide

Any setting can be overridden, as in --config.method.trust_region_bound=0.2. A run that was stopped is resumed by the
same command.
"""

from __future__ import annotations

import os
import time

import jax
import numpy as np
import program
import report
from absl import flags

import cmtjax
from cmtjax import annealing, energies, molecules, runs, targets
from cmtjax.coordinates.internal import internal_coordinates
from cmtjax.runs import build

_CONFIG = program.define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; made if absent.", required=True)

# What no result depends on. The OpenMM platform of the first start is kept in environment.json.
_CHANGEABLE = ("energy.num_workers", "energy.platform")
# A held-out loss this many nats above the training loss, with noise allowed for, says that the buffer is overfitted.
_OVERFITTING_NATS = 1.0


def main(argv: list[str]) -> None:
    del argv
    config = _CONFIG.value.to_dict()
    with program.user_errors():
        # Before the directory is made: a mistake must not bind it to a configuration that cannot run.
        build.check_config(config)
        molecule = None if os.path.exists(_WORKDIR.value) else build.build_molecule(config["molecule"])
        run = runs.open_run(_WORKDIR.value, config, changeable=_CHANGEABLE)
    with run:
        if run.is_finished:
            print(f"{run.path} is finished; nothing to do. Results: {run.path / 'summary.json'}", flush=True)
            return
        with program.user_errors():
            if not run.molecule_directory.exists():
                (molecule or build.build_molecule(config["molecule"])).save(run.molecule_directory)
            molecule = molecules.load(run.molecule_directory)
            num_workers = config["energy"]["num_workers"] or os.cpu_count() or 1
            platform = run.environment.get("openmm_platform") or config["energy"]["platform"] or None
            pool = energies.OpenMMPool(molecule.system, num_workers, platform)
        with pool:
            if "openmm_platform" not in run.environment:
                run.update_environment({"openmm_platform": pool.platform_name})
            train(run, molecule, pool)


def train(run: runs.Run, molecule: molecules.Molecule, pool: energies.OpenMMPool) -> None:
    """Runs the annealing steps that are left, then evaluates."""
    config = run.config
    with program.user_errors():
        target = targets.boltzmann(
            molecule,
            pool.energy,
            temperature_kelvin=config["temperature_kelvin"],
            regularization=config["energy"]["regularization"],
        )
        flow = build.build_flow(config["flow"], target.domain)
        method = build.build_method(config, target, flow)
    init_key, evaluation_key = jax.random.split(jax.random.key(config["seed"]))
    state = jax.jit(method.init)(init_key)
    restored = run.restore_checkpoint(state)
    done = 0
    if restored is not None:
        done, state = restored
    num_steps = config["num_annealing_steps"]
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(
        f"cmtjax {cmtjax.__version__}: {molecule.name}, {target.domain.num_dims} dimensions, "
        f"{num_parameters:,} parameters; "
        f"{pool.num_workers} OpenMM workers on {pool.platform_name}; "
        + (f"resuming after step {done}." if done else "compiling."),
        flush=True,
    )
    update = jax.jit(method.update, donate_argnums=0)
    progress = program.Progress(num_steps, done)
    for step in range(done + 1, num_steps + 1):
        start = time.monotonic()
        state, info = update(state)
        info = jax.device_get(info)
        row = {name: value.item() for name, value in info._asdict().items()}
        run.append_metrics(
            {
                "annealing_step": step,
                "target_evaluations": step * method.num_target_evaluations,
                "gradient_steps": step * method.num_gradient_steps,
                **row,
            }
        )
        run.append_timings({"annealing_step": step, "seconds": time.monotonic() - start})
        run.save_checkpoint(step, state)
        progress.report(
            {
                "λ": row["trust_region_multiplier"],
                "η": row["entropy_multiplier"],
                "entropy": row["entropy"],
                "ESS next": row["ess_next"],
                "ESS": row["ess_target"],
                "log Z": row["log_z"],
                "loss": row["training_loss"],
                "held out": row["held_out_loss"],
            }
        )
        _warn(row, step)
    report.write_report(run, target, flow, state.params, evaluation_key, internal_coordinates(molecule))


def _warn(row: dict[str, float], step: int) -> None:
    if row["dual_status"]:
        print(f"warning: step {step}: {annealing.describe_status(int(row['dual_status']))}", flush=True)
    gap = row["held_out_loss"] - row["training_loss"]
    if np.isfinite(gap) and gap > _OVERFITTING_NATS:
        print(
            f"warning: step {step}: the held-out loss is {gap:.1f} nats above the training loss: the flow overfits its "
            "buffer. Use a larger buffer, fewer gradient steps or a smaller learning rate.",
            flush=True,
        )
    for name, what in (("num_failed", "failed energy evaluations"), ("num_skipped_updates", "skipped updates")):
        if row[name]:
            print(f"warning: step {step}: {int(row[name])} {what}.", flush=True)


if __name__ == "__main__":
    program.run_program(main)
