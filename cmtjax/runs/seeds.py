"""Runs of one configuration but for the seed that are trained together: opened together, and resumed in step."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmtjax.runs import checkpoints
from cmtjax.runs.directory import seed_directories
from cmtjax.runs.errors import RunDirectoryError
from cmtjax.runs.run import Run, open_run


def open_runs(
    workdir: str | os.PathLike[str], config: Mapping[str, Any], *, changeable: Sequence[str] = ()
) -> list[Run]:
    """Starts or takes up the runs that a configuration asks for.

    With ``num_seeds`` 1 the working directory is the run directory, as of ``open_run``. With more it holds a directory
    ``seed_<seed>`` for each of the seeds ``seed``, ``seed + 1``, … and nothing else. Each of them is a run directory
    like any other, of the configuration with its own ``seed`` and ``num_seeds`` 1.

    Args:
      workdir: the working directory; absent, empty, or of the same configuration and number of seeds.
      config: as of ``open_run``, with the keys ``seed`` and ``num_seeds`` (1 if absent).
      changeable: as of ``open_run``.

    Returns:
      The runs in the order of their seeds, locked until they are closed.

    Raises:
      RunDirectoryError: if the directory holds something else, such as a single run where several are asked for, or
        more or fewer seeds; and what ``open_run`` raises.
    """
    path, num_seeds = Path(workdir), config.get("num_seeds", 1)
    if num_seeds == 1:
        if present := seed_directories(path):
            raise RunDirectoryError(
                f"{path} holds the runs of several seeds ({', '.join(present)}), but num_seeds is 1; set it to "
                f"{len(present)}, or choose another workdir."
            )
        return [open_run(path, config, changeable=changeable)]
    seeds = {f"seed_{seed}": seed for seed in range(config["seed"], config["seed"] + num_seeds)}
    _check_contents(path, list(seeds))
    with contextlib.ExitStack() as stack:
        run_list = [
            stack.enter_context(
                open_run(path / name, {**config, "seed": seed, "num_seeds": 1}, changeable=changeable),
            )
            for name, seed in seeds.items()
        ]
        stack.pop_all()
    return run_list


def restore_checkpoints(
    run_list: Sequence[Run], template: checkpoints.State
) -> tuple[int, list[checkpoints.State]] | None:
    """Returns all runs to the newest step whose whole checkpoint every one of them has.

    What the runs have beyond that step, rows and checkpoints, is dropped. A kill between the checkpoints of one step
    leaves the runs one step apart, or the first with a checkpoint and the others without.

    Args:
      run_list: runs that are trained together.
      template: state of one run, or its ``jax.eval_shape``.

    Returns:
      ``(annealing step, states)``, or None if the runs have to start from the beginning.

    Raises:
      RunDirectoryError: if there is no such step and more than one would be lost; and what ``restore_checkpoint``
        raises.
    """
    step: int | None = None
    while True:
        newest = [checkpoints.load_newest(run.checkpoints_directory, template, step) for run in run_list]
        reached = [0 if restored is None else restored[0] for restored in newest]
        step = min(reached)
        if step == max(reached):
            break
    held = {run.path.name: checkpoints.steps(run.checkpoints_directory) for run in run_list}
    if step == 0 and any(steps and steps[-1] > 1 for steps in held.values()):
        found = ", ".join(f"{name}: {steps[-1] if steps else 'none'}" for name, steps in held.items())
        raise RunDirectoryError(
            f"the runs in {run_list[0].path.parent} have no whole checkpoint of a common step (newest {found}); remove "
            "them to start anew."
        )
    restored = [run.restore_checkpoint(template, max_step=step) for run in run_list]
    states = [state for _, state in filter(None, restored)]
    return (step, states) if states else None


def _check_contents(path: Path, names: list[str]) -> None:
    """Whether the directory holds nothing but these runs; some may be absent while none has got to a checkpoint."""
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"workdir must be a directory, but {path} is a file.")
    if not path.exists():
        return
    if (path / "config.json").exists():
        raise RunDirectoryError(
            f"{path} holds a single run, but num_seeds is {len(names)}; choose another workdir, or set num_seeds to 1."
        )
    present = seed_directories(path)
    if foreign := sorted({entry.name for entry in path.iterdir()} - set(present)):
        raise RunDirectoryError(
            f"workdir must be new, empty or hold the runs of {names}, but {path} holds {foreign[:5]}."
        )
    has_begun = any(checkpoints.steps(path / name / "checkpoints") for name in present)
    if not set(present) <= set(names) or (has_begun and len(present) < len(names)):
        raise RunDirectoryError(f"{path} holds the runs {present}, but seed and num_seeds ask for {names}.")
