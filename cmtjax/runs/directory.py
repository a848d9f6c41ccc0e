"""The layout of a run directory and what readers of it need (no lock, no writing to it)."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmtjax.runs import checkpoints
from cmtjax.runs.errors import RunDirectoryError
from cmtjax.runs.files import atomic_write_text, to_json
from cmtjax.runs.step_files import StepFiles
from cmtjax.runs.tables import StepTable


class RunDirectory:
    """Paths, configuration and results of a run; ``open_existing`` makes one.

    Attributes:
      path: the directory itself.
      config: the configuration as stored, nested plain dicts.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config
        self._metrics = StepTable(path / "metrics.csv")
        self._timings = StepTable(path / "timings.csv")
        self._ramachandran_path = StepFiles(path / "ramachandran_path")

    @property
    def checkpoints_directory(self) -> Path:
        """Where checkpoints lie; made by the first one."""
        return self.path / "checkpoints"

    @property
    def molecule_directory(self) -> Path:
        """Where the molecule lies; made by the program that saves it (see ``atomic_directory``)."""
        return self.path / "molecule"

    @property
    def energy_path(self) -> Path:
        """Where the energy in JAX lies that the run is trained with; absent with another back end."""
        return self.path / "energy.npz"

    @property
    def figures_directory(self) -> Path:
        """Where figures go; made on first use."""
        directory = self.path / "figures"
        directory.mkdir(exist_ok=True)
        return directory

    @property
    def environment(self) -> dict[str, Any]:
        """``environment.json``: versions, device, seed, and what ``Run.update_environment`` added."""
        return json.loads((self.path / "environment.json").read_text(encoding="utf-8"))

    @property
    def is_finished(self) -> bool:
        """Whether a summary was written with ``finished=True``."""
        return bool(self._summary().get("finished", False))

    def read_metrics(self) -> dict[str, np.ndarray]:
        """Columns of ``metrics.csv``: name to (steps,) int64 or float64; empty before the first row."""
        return self._metrics.read()

    def read_timings(self) -> dict[str, np.ndarray]:
        """Columns of ``timings.csv``, as ``read_metrics``."""
        return self._timings.read()

    def read_ramachandran_path(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Ramachandran plots of the samples that each annealing step began with.

        Returns:
          (steps,) annealing steps, and name to array with one entry a step: ``counts`` and ``next_masses``,
          (steps, pairs, bins, bins) over [−π, π), φ along axis 2 (``evaluation.ramachandran_path_arrays``). Empty for
          molecules without φ and ψ; runs of earlier versions lack the steps that they made.
        """
        return self._ramachandran_path.read()

    def read_summary(self) -> dict[str, Any]:
        """The values given to ``write_summary``.

        Raises:
          RunDirectoryError: if there is no summary yet.
        """
        summary = self._summary()
        if not summary:
            raise RunDirectoryError(f"{self.path} has no summary.json yet: the run has not ended.")
        return {name: value for name, value in summary.items() if name != "finished"}

    def write_summary(self, values: Mapping[str, Any], *, finished: bool = True) -> None:
        """Replaces ``summary.json``, as a whole or not at all.

        Args:
          values: final metrics, flat names to numbers or strings; the name ``finished`` is taken.
          finished: whether the run has come to its end, so that a second start has nothing to do.
        """
        atomic_write_text(self.path / "summary.json", to_json({**values, "finished": finished}))

    def _summary(self) -> dict[str, Any]:
        path = self.path / "summary.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def open_existing(workdir: str | os.PathLike[str]) -> RunDirectory:
    """Opens a run for reading, also while another process trains it.

    Args:
      workdir: the run directory.

    Raises:
      FileNotFoundError: if the directory does not exist.
      RunDirectoryError: if there is no run in it.
    """
    path = Path(workdir)
    if not path.is_dir():
        raise FileNotFoundError(f"workdir must be a run directory, but {path} does not exist.")
    config_path = path / "config.json"
    if not config_path.is_file():
        seeds = ", ".join(seed_directories(path))
        hint = f" but the runs of several seeds: take one of {seeds}" if seeds else ""
        raise RunDirectoryError(f"workdir must be a run directory, but {path} has no config.json{hint}.")
    return RunDirectory(path, json.loads(config_path.read_text(encoding="utf-8")))


def seed_directories(workdir: Path) -> list[str]:
    """Names ``seed_<seed>`` of the directories in one that several seeds are trained in, in the order of the seeds."""
    if not workdir.is_dir():
        return []
    matches = [re.fullmatch(r"seed_(-?\d+)", entry.name) for entry in workdir.iterdir() if entry.is_dir()]
    return [match[0] for match in sorted(filter(None, matches), key=lambda match: int(match[1]))]


def read_config(workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """The stored configuration of a run as nested plain dicts; errors as ``open_existing``."""
    return open_existing(workdir).config


def load_checkpoint(workdir: str | os.PathLike[str], template: checkpoints.State) -> tuple[int, checkpoints.State]:
    """The newest whole checkpoint of a run.

    Args:
      workdir: the run directory.
      template: state, or its ``jax.eval_shape``, of the structure that was saved.

    Returns:
      ``(annealing step, state)``.

    Raises:
      FileNotFoundError: if the directory does not exist.
      RunDirectoryError: if there is no run or no whole checkpoint in it, or the template does not fit.
    """
    return _existing(checkpoints.load_newest(open_existing(workdir).checkpoints_directory, template), workdir)


def restore_params(workdir: str | os.PathLike[str], template: Any = None) -> tuple[int, Any]:
    """The entry ``params`` of the newest whole checkpoint; the rest of the state need not be known.

    Args:
      workdir: the run directory.
      template: parameters, or their ``jax.eval_shape``; with None, nested dicts of numpy arrays are returned.

    Returns:
      ``(annealing step, params)``; errors as ``load_checkpoint``.
    """
    return _existing(checkpoints.load_newest_params(open_existing(workdir).checkpoints_directory, template), workdir)


def _existing(newest: tuple[int, Any] | None, workdir: str | os.PathLike[str]) -> tuple[int, Any]:
    if newest is None:
        raise RunDirectoryError(f"{Path(workdir)} has no checkpoint yet: the run has not completed a step.")
    return newest
