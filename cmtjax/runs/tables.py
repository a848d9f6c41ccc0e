"""A CSV file with one row an annealing step, appended to by one process and readable while it grows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cmtjax.runs.files import atomic_write_text, sync_directory

STEP_COLUMN = "annealing_step"


class StepTable:
    """Rows of numbers, in increasing order of ``annealing_step``.

    Integers are written as such and floats as their shortest form that reads back exactly, so equal rows give
    equal bytes. A row is one write of a whole line; a last line without its line break is the trace of a killed
    process and counts as absent.

    Args:
      path: the file; it appears with the first row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row and waits until it is on the disk.

        Args:
          row: column names to numbers, ``annealing_step`` among them, with the columns of the earlier rows.

        Raises:
          ValueError: if ``annealing_step`` is missing or not above the last row's, the columns are not those of the
            file, a value is no number, or the file ends in a torn line (``trim`` repairs it).
        """
        if STEP_COLUMN not in row:
            raise ValueError(f"row must have the column {STEP_COLUMN!r}, got {sorted(row)}.")
        cells = {STEP_COLUMN: str(int(row[STEP_COLUMN]))}
        cells |= {name: _format(name, value) for name, value in row.items() if name != STEP_COLUMN}
        lines, torn = _split(self.path)
        if torn:
            raise ValueError(f"{self.path} ends in a torn line: restore the run before appending to it.")
        text = ""
        if lines:
            columns = lines[0].split(",")
            if set(columns) != set(cells):
                missing, new = sorted(set(columns) - set(cells)), sorted(set(cells) - set(columns))
                raise ValueError(f"row must have the columns of {self.path}: missing {missing}, unknown {new}.")
            if len(lines) > 1 and _step(lines[-1]) >= int(cells[STEP_COLUMN]):
                raise ValueError(
                    f"{STEP_COLUMN} must be above {_step(lines[-1])}, the last in {self.path}, "
                    f"got {cells[STEP_COLUMN]}."
                )
        else:
            columns = list(cells)
            text = ",".join(columns) + "\n"
        text += ",".join(cells[name] for name in columns) + "\n"
        with open(self.path, "ab", buffering=0) as file:
            file.write(text.encode())
            os.fsync(file.fileno())
        if not lines:
            sync_directory(self.path.parent)

    def trim(self, last_step: int | None) -> None:
        """Drops a torn last line and every row after ``last_step``; with None, the file itself."""
        if not self.path.exists():
            return
        lines, torn = _split(self.path)
        rows = [] if last_step is None else [line for line in lines[1:] if _step(line) <= last_step]
        if not rows:
            self.path.unlink()
        elif torn or len(rows) < len(lines) - 1:
            atomic_write_text(self.path, "\n".join([lines[0], *rows]) + "\n")

    def read(self) -> dict[str, np.ndarray]:
        """The complete rows, column by column.

        Returns:
          Column name to (rows,) int64 where every cell is an integer, else float64; empty without a complete row.

        Raises:
          ValueError: if a complete line does not have the header's columns.
        """
        lines, _ = _split(self.path)
        if len(lines) < 2:
            return {}
        columns = lines[0].split(",")
        rows = [line.split(",") for line in lines[1:]]
        if any(len(row) != len(columns) for row in rows):
            raise ValueError(f"{self.path} has rows with another number of columns than its header.")
        return {name: _parse([row[i] for row in rows]) for i, name in enumerate(columns)}


def _split(path: Path) -> tuple[list[str], bool]:
    """Complete lines and whether a torn one follows them; none for an absent file."""
    if not path.exists():
        return [], False
    *lines, rest = path.read_bytes().split(b"\n")
    return [line.decode() for line in lines], bool(rest)


def _step(line: str) -> int:
    return int(line.split(",", 1)[0])


def _format(name: str, value: Any) -> str:
    array = np.asarray(value)
    if array.ndim != 0 or array.dtype.kind not in "biuf":
        raise ValueError(f"column {name!r} must be one number, got {value!r}.")
    return str(int(array)) if array.dtype.kind in "biu" else repr(float(array))


def _parse(cells: list[str]) -> np.ndarray:
    try:
        return np.array([int(cell) for cell in cells], np.int64)
    except ValueError:
        return np.array([float(cell) for cell in cells], np.float64)
