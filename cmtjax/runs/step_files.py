"""A file of arrays for each annealing step."""

from __future__ import annotations

import logging
import re
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmtjax.runs.files import atomic_file

_logger = logging.getLogger(__name__)


class StepFiles:
    """Files ``<step>.npz`` of named arrays, written in increasing order of the step.

    They describe a run and nothing depends on them: what cannot be read is left out with a warning.

    Args:
      directory: where they lie; it appears with the first one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def append(self, step: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Writes the file of a step and waits until it is on the disk.

        Args:
          step: above the last one's.
          arrays: by name.

        Raises:
          ValueError: if step is not above the last one's.
        """
        if (steps := self._steps()) and step <= steps[-1]:
            raise ValueError(f"step must be above {steps[-1]}, the last in {self.directory}, got {step}.")
        self.directory.mkdir(exist_ok=True)
        with atomic_file(self._path(step)) as temporary, open(temporary, "wb") as file:
            named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
            np.savez_compressed(file, **named)

    def trim(self, last_step: int | None) -> None:
        """Drops the files after ``last_step``; with None, the directory itself."""
        if last_step is None:
            shutil.rmtree(self.directory, ignore_errors=True)
            return
        for step in self._steps():
            if step > last_step:
                self._path(step).unlink()

    def read(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """What the files hold.

        Returns:
          (steps,) int64 annealing steps, and name to (steps, ...) array. Files that are damaged, or whose arrays have
          other names or shapes than the newest whole one's, are left out with a warning.
        """
        found: dict[int, dict[str, np.ndarray]] = {}
        for step in reversed(self._steps()):
            try:
                with open(self._path(step), "rb") as file, np.load(file) as stored:
                    arrays = {name: stored[name] for name in stored.files}
            except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
                _logger.warning("%s cannot be read and is left out.", self._path(step))
                continue
            newest = next(iter(found.values()), arrays)
            if {name: array.shape for name, array in arrays.items()} != {n: a.shape for n, a in newest.items()}:
                _logger.warning("%s has other arrays than later steps and is left out.", self._path(step))
                continue
            found[step] = arrays
        steps = sorted(found)
        names = found[steps[0]] if steps else ()
        return np.array(steps, np.int64), {name: np.stack([found[step][name] for step in steps]) for name in names}

    def _steps(self) -> list[int]:
        if not self.directory.is_dir():
            return []
        return sorted(int(entry.stem) for entry in self.directory.iterdir() if re.fullmatch(r"\d+\.npz", entry.name))

    def _path(self, step: int) -> Path:
        return self.directory / f"{step:06d}.npz"
