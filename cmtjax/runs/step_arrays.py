"""An array for each annealing step, in one file that is there as a whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cmtjax.runs.files import atomic_file


class StepArrays:
    """Arrays of one shape and dtype, in increasing order of ``annealing_step``; the file is rewritten with each.

    Args:
      path: the ``.npz`` file; it appears with the first array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, array: np.ndarray) -> None:
        """Adds the array of a step and waits until it is on the disk.

        Args:
          step: above the last one's.
          array: of the shape and dtype of the earlier ones.

        Raises:
          ValueError: if step is not above the last one's or the array is not like the earlier ones.
        """
        array = np.asarray(array)
        steps, arrays = self.read()
        if steps.size:
            if step <= steps[-1]:
                raise ValueError(f"step must be above {steps[-1]}, the last in {self.path}, got {step}.")
            if arrays.shape[1:] != array.shape or arrays.dtype != array.dtype:
                raise ValueError(
                    f"array must be of shape {arrays.shape[1:]} and {arrays.dtype}, as those in {self.path}, got "
                    f"{array.shape} and {array.dtype}."
                )
            array = np.concatenate([arrays, array[None]])
        else:
            array = array[None]
        self._write(np.append(steps, step), array)

    def trim(self, last_step: int | None) -> None:
        """Drops the arrays after ``last_step``; with None, the file itself."""
        steps, arrays = self.read()
        is_kept = steps <= (-1 if last_step is None else last_step)
        if not np.any(is_kept):
            self.path.unlink(missing_ok=True)
        elif not np.all(is_kept):
            self._write(steps[is_kept], arrays[is_kept])

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """(steps,) annealing steps and (steps, ...) arrays; both empty before the first one."""
        if not self.path.exists():
            return np.zeros(0, np.int64), np.zeros(0)
        with np.load(self.path) as file:
            return file["annealing_step"], file["arrays"]

    def _write(self, steps: np.ndarray, arrays: np.ndarray) -> None:
        with atomic_file(self.path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, annealing_step=steps, arrays=arrays)
