"""A run that is being written: started, killed at any moment, started again.

What makes every kill point safe. In annealing step i the program appends the row of step i to the tables and only
then saves checkpoint i. A checkpoint appears as a whole or not at all, and an appended row is on the disk before
``append_*`` returns. Hence:

  if checkpoint i exists, the rows of all steps up to i are complete.

Rows beyond the newest whole checkpoint (step i was killed between row and checkpoint, or a damaged checkpoint was
passed over) and a torn last line are dropped by ``restore_checkpoint``, and the program computes them again from the
restored state. What the program computes is a function of the state alone, so the tables end bit for bit as without
the interruption. The other order, checkpoint before row, would lose a row for good; ``append_*`` refuses it.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from cmtjax.runs import checkpoints, files
from cmtjax.runs.configs import describe_differences, flatten, plain_config
from cmtjax.runs.directory import RunDirectory
from cmtjax.runs.environment import describe_environment
from cmtjax.runs.errors import ConfigMismatchError, RunDirectoryError
from cmtjax.runs.tables import STEP_COLUMN, StepTable

if TYPE_CHECKING:
    from cmtjax.energies.amber import AmberEnergy

_LOCK = ".lock"
_logger = logging.getLogger(__name__)


class Run(RunDirectory):
    """A run directory and the right to write to it; ``open_run`` makes one. A context manager."""

    def __init__(self, path: Path, config: dict[str, Any], lock: IO[str]) -> None:
        super().__init__(path, config)
        self._lock = lock
        self._last_saved: int | None = None

    def append_metrics(self, row: Mapping[str, Any]) -> None:
        """Appends to ``metrics.csv``: ``annealing_step`` and whatever must be reproducible.

        Args:
          row: column names to numbers, the same columns every time.

        Raises:
          ValueError: if ``annealing_step`` is missing, not above the last row's, or already has its checkpoint, if
            the columns differ from the first row's, or a value is no number.
        """
        self._append(self._metrics, row)

    def append_timings(self, row: Mapping[str, Any]) -> None:
        """Appends to ``timings.csv``, which is kept apart because clocks do not repeat; as ``append_metrics``."""
        self._append(self._timings, row)

    def append_ramachandran(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the Ramachandran plots of a step; before its checkpoint, as ``append_metrics``.

        Args:
          step: as in the column ``annealing_step``.
          arrays: see ``read_ramachandran_path``.

        Raises:
          ValueError: if the step is not above the last one or already has its checkpoint.
        """
        self._check_unsaved(step)
        self._ramachandran_path.append(step, arrays)

    def save_checkpoint(self, step: int, state: Any) -> None:
        """Saves the state after annealing step ``step``, whose rows have been appended; keeps the newest two.

        Args:
          step: as in the column ``annealing_step``.
          state: pytree of jax or numpy arrays and typed random keys; what is under ``params`` (a field, attribute or
            key at the top) is what ``restore_params`` reads.

        Raises:
          ValueError: if a leaf is no array.
        """
        checkpoints.save(self.checkpoints_directory, step, state)
        self._last_saved = step

    def restore_checkpoint(
        self, template: checkpoints.State, max_step: int | None = None
    ) -> tuple[int, checkpoints.State] | None:
        """Returns to the newest whole checkpoint; call it before the first ``append_*``.

        A damaged checkpoint is passed over with a warning. The tables lose the rows after the checkpoint.

        Args:
          template: state, or its ``jax.eval_shape``, of the structure that was saved.
          max_step: the run returns to this step or an earlier one, and loses the checkpoints of later steps; None for
            the newest.

        Returns:
          ``(annealing step, state)``, or None if the run has to start from the beginning.

        Raises:
          RunDirectoryError: if every checkpoint is damaged or the template does not fit.
        """
        restored = checkpoints.load_newest(self.checkpoints_directory, template, max_step)
        self._last_saved = None if restored is None else restored[0]
        if max_step is not None:
            # Before their rows: a checkpoint never stays without the rows up to it.
            checkpoints.remove_later(self.checkpoints_directory, max_step)
        for table in (self._metrics, self._timings, self._ramachandran_path):
            table.trim(self._last_saved)
        return restored

    def save_energy(self, energy: AmberEnergy) -> None:
        """Writes the energy in JAX that the run is trained with to ``energy.npz``, unless it is there.

        Args:
          energy: what ``load_sampler`` will evaluate.
        """
        if not self.energy_path.exists():
            with files.atomic_file(self.energy_path) as temporary:
                energy.save(temporary)

    def update_environment(self, values: Mapping[str, Any]) -> None:
        """Adds entries to ``environment.json``, such as a choice made at the first start that a resume must keep."""
        files.atomic_write_text(self.path / "environment.json", files.to_json({**self.environment, **values}))

    def close(self) -> None:
        """Gives up the right to write."""
        self._lock.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, table: StepTable, row: Mapping[str, Any]) -> None:
        if STEP_COLUMN in row:
            self._check_unsaved(row[STEP_COLUMN])
        table.append(row)

    def _check_unsaved(self, step: int) -> None:
        if self._last_saved is not None and step <= self._last_saved:
            raise ValueError(
                f"what {STEP_COLUMN} {step} found must be appended before checkpoint {self._last_saved} is saved."
            )


def open_run(workdir: str | os.PathLike[str], config: Mapping[str, Any], *, changeable: Sequence[str] = ()) -> Run:
    """Starts a run in a new directory, or takes up the one that is there.

    ``config.json`` is written last and makes the directory a run, so an interrupted creation is simply done again.

    Args:
      workdir: the run directory; absent, empty, or holding a run of the same configuration.
      config: nested plain dicts of numbers, strings, booleans, None and lists.
      changeable: dotted keys (shell wildcards allowed, ``"evaluation.*"``) whose values may differ from the stored
        ones, because no result depends on them; the new values are stored.

    Returns:
      The run, locked for this process until it is closed.

    Raises:
      ConfigMismatchError: if the directory holds a run of another configuration.
      RunLockedError: if another process is writing to the run.
      RunDirectoryError: if the directory holds something other than a run.
    """
    path, config = Path(workdir), plain_config(config)
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"workdir must be a directory, but {path} is a file.")
    path.mkdir(parents=True, exist_ok=True)
    foreign = sorted(entry.name for entry in path.iterdir() if not _is_from_creation(entry.name))
    if foreign and not (path / "config.json").is_file():
        raise RunDirectoryError(f"workdir must be new, empty or a run directory, but {path} holds {foreign[:5]}.")
    lock = files.lock(path / _LOCK)
    try:
        environment = {**describe_environment(), "seed": config.get("seed")}
        if (path / "config.json").is_file():
            _take_up(path, config, environment, changeable)
        else:
            files.atomic_write_text(path / "environment.json", files.to_json(environment))
            files.atomic_write_text(path / "config.json", files.to_json(config))
    except BaseException:
        lock.close()
        raise
    return Run(path, config, lock)


def _is_from_creation(name: str) -> bool:
    return name in (_LOCK, "environment.json") or name.startswith(files.TEMPORARY_PREFIX)


def _take_up(path: Path, config: dict[str, Any], environment: dict[str, Any], changeable: Sequence[str]) -> None:
    """Checks a run against what it is continued with, and cleans up what a killed process left in it."""
    stored = json.loads((path / "config.json").read_text(encoding="utf-8"))
    differences = describe_differences(stored, config, changeable)
    if differences:
        raise ConfigMismatchError(f"{path} holds a run of another configuration: {'; '.join(differences)}.")
    recorded = json.loads((path / "environment.json").read_text(encoding="utf-8"))
    for key, value in flatten(environment).items():
        before = flatten(recorded).get(key)
        if before != value:
            _logger.warning("%s began with %s = %s and goes on with %s: results may differ in the last bits.",
                            path, key, before, value)  # fmt: skip
    if stored != config:
        files.atomic_write_text(path / "config.json", files.to_json(config))
    checkpoints.remove_unfinished(path / "checkpoints")
