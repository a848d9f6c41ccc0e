"""Trains a Boltzmann generator by the method of a configuration file.

    python experiments/train.py --config=experiments/configs/alanine_dipeptide_quick.py --workdir=runs/dipeptide

Any setting can be overridden, as in --config.method.trust_region_bound=0.2. A run that was stopped is resumed by the
same command. --config.num_seeds=4 trains four runs in one compiled program, in a directory each.
"""

from __future__ import annotations

import contextlib
import operator
import time
from collections.abc import Sequence
from typing import Any

import energy
import jax
import jax.numpy as jnp
import numpy as np
import program
import report
from absl import flags

import cmtjax
from cmtjax import methods, molecules, runs, targets
from cmtjax.coordinates.internal import internal_coordinates
from cmtjax.runs import build
from cmtjax.runs.directory import seed_directories

_CONFIG = program.define_config()
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Run directory, or that of several seeds; made if absent.", required=True
)

# What no training depends on. The energy's back end and OpenMM platform of the first start are kept in
# environment.json.
_CHANGEABLE = ("energy.num_workers", "energy.platform", "evaluation.*")


def main(argv: list[str]) -> None:
    del argv
    config = _CONFIG.value.to_dict()
    with contextlib.ExitStack() as stack:
        with program.user_errors():
            # Before the directory is made: a mistake must not bind it to a configuration that cannot run.
            build.check_config(config)
            molecule = None if _has_molecule(_WORKDIR.value) else build.build_molecule(config["molecule"])
            if molecule is not None:
                _initial_flow(config, molecule)
            run_list = runs.open_runs(_WORKDIR.value, config, changeable=_CHANGEABLE)
            for run in run_list:
                stack.enter_context(run)
        if all(run.is_finished for run in run_list):
            for run in run_list:
                print(f"{run.path} is finished; nothing to do. Results: {run.path / 'summary.json'}", flush=True)
            return
        with program.user_errors():
            for run in run_list:
                if not run.molecule_directory.exists():
                    (molecule or build.build_molecule(config["molecule"])).save(run.molecule_directory)
                molecule = molecules.load(run.molecule_directory)
            backend = stack.enter_context(energy.open_energy(run_list, molecule))
        train(run_list, molecule, backend)


def _has_molecule(workdir: str) -> bool:
    """Whether a run, or the first of several, has its molecule already, so that it need not be built again."""
    path = program.Path(workdir)
    names = ["", *seed_directories(path)[:1]]
    return any((path / name / "molecule").is_dir() for name in names)


def _initial_flow(
    config: dict[str, Any], molecule: molecules.Molecule, template: Any = None
) -> runs.InitialFlow | None:
    """The flow that the configuration asks to start from; None for a fresh one."""
    if not config["initial_run"]:
        return None
    return runs.read_initial_flow(config["initial_run"], config["flow"], internal_coordinates(molecule), template)


def train(run_list: Sequence[runs.Run], molecule: molecules.Molecule, backend: energy.Energy) -> None:
    """Runs the annealing steps that are left, then evaluates; several runs as one program."""
    config, num_runs = run_list[0].config, len(run_list)
    with program.user_errors():
        target = targets.boltzmann(
            molecule,
            backend.function,
            temperature_kelvin=config["temperature_kelvin"],
            regularization=config["energy"]["regularization"],
        )
        flow = build.build_flow(config["flow"], target.domain)
        coordinates = internal_coordinates(molecule)
        method = build.build_method(config, target, flow, build.ramachandran_observer(coordinates))
        keys = [jax.random.split(jax.random.key(run.config["seed"])) for run in run_list]
        template = jax.eval_shape(method.init, keys[0][0])
        done, state = _restore(run_list, template)
        initial = _initial_flow(config, molecule, template.params) if state is None else None
    if initial is not None:
        for run in run_list:
            run.update_environment({"initial_run": initial.record})
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(template.params))
    seeds = f"seeds {', '.join(str(run.config['seed']) for run in run_list)} in one program; " if num_runs > 1 else ""
    print(
        f"cmtjax {cmtjax.__version__}: {molecule.name}, {target.domain.num_dims} dimensions, "
        f"{num_parameters:,} parameters; {backend.description}; {seeds}"
        + (f"starting from {config['initial_run']}, step {initial.annealing_step}; " if initial is not None else "")
        + (f"resuming after step {done}." if done else "compiling."),
        flush=True,
    )
    init, update = method.init, method.update
    if num_runs > 1:
        init, update = jax.vmap(init, in_axes=(0, None)), jax.vmap(update)
    if state is None:
        state = jax.jit(init)(_stack([init_key for init_key, _ in keys]), None if initial is None else initial.params)
    update = jax.jit(update, donate_argnums=0)
    num_steps = config["num_annealing_steps"]
    progress = program.Progress(num_steps, done)
    # Of the run that these started from, the same for all.
    before = run_list[0].environment.get("initial_run", {})
    for step in range(done + 1, num_steps + 1):
        start = time.monotonic()
        state, infos = update(state)
        infos = jax.device_get(infos)
        plots = _unstack(infos.observed, num_runs)
        rows = [
            {name: value.item() for name, value in info._asdict().items() if value is not None}
            for info in _unstack(infos._replace(observed=None), num_runs)
        ]
        seconds = time.monotonic() - start
        for run, run_state, row, plot in zip(run_list, _unstack(state, num_runs), rows, plots, strict=True):
            counts = {
                "target_evaluations": before.get("target_evaluations", 0) + step * method.num_target_evaluations,
                "gradient_steps": before.get("gradient_steps", 0) + step * method.num_gradient_steps,
            }
            run.append_metrics({"annealing_step": step, **counts, **row})
            run.append_timings({"annealing_step": step, "seconds": seconds})
            if plot is not None:
                run.append_ramachandran(step, plot)
            run.save_checkpoint(step, run_state)
        progress.report(_shown(rows))
        for run, row in zip(run_list, rows, strict=True):
            where = f"step {step}" + (f" of {run.path.name}" if num_runs > 1 else "")
            for problem in methods.describe_problems(row):
                print(f"warning: {where}: {problem}", flush=True)
    for run, run_state, (_, evaluation_key) in zip(run_list, _unstack(state, num_runs), keys, strict=True):
        if num_runs > 1:
            print(f"evaluating {run.path}" + (": done before." if run.is_finished else ""), flush=True)
        if not run.is_finished:
            report.write_report(run, target, flow, run_state.params, evaluation_key, coordinates)


def _restore(run_list: Sequence[runs.Run], template: Any) -> tuple[int, Any]:
    """The step that the runs have reached, and their states; 0 and None at the beginning."""
    restored = runs.restore_checkpoints(run_list, template)
    return (0, None) if restored is None else (restored[0], _stack(restored[1]))


def _stack(trees: Sequence[Any]) -> Any:
    """One pytree with a leading axis of runs; of one run, its own."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstack(tree: Any, num_runs: int) -> list[Any]:
    """The inverse of ``_stack``."""
    return [tree] if num_runs == 1 else [jax.tree.map(operator.itemgetter(index), tree) for index in range(num_runs)]


def _shown(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """What the progress line shows: the values of one run; means over several, with the range of ESS and log Z."""

    def values(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    def mean(name: str) -> float:
        return float(np.mean(values(name)))

    shown = {
        "λ": mean("trust_region_multiplier"),
        "η": mean("entropy_multiplier"),
        "entropy": mean("entropy"),
        "ESS next": mean("ess_next"),
        "ESS": mean("ess_target"),
    }
    if len(rows) > 1:
        shown |= {"lowest": np.min(values("ess_target")), "highest": np.max(values("ess_target"))}
    shown["log Z"] = mean("log_z")
    if len(rows) > 1:
        shown["range"] = np.ptp(values("log_z"))
    return shown | {"loss": mean("training_loss"), "held out": mean("held_out_loss")}


if __name__ == "__main__":
    program.run_program(main)
