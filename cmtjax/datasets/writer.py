"""Writing a data set: chunk by chunk, each as a whole or not at all, by one process at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from cmtjax.coordinates import internal_coordinates
from cmtjax.datasets.data_set import (
    METADATA_FILE,
    MOLECULE_DIRECTORY,
    chunk_path,
    chunk_shapes,
    read_arrays,
    read_metadata,
)
from cmtjax.runs import files
from cmtjax.runs.environment import describe_environment

if TYPE_CHECKING:
    from cmtjax.molecules.molecule import Molecule

_LOCK_FILE = ".lock"
_STATE_PREFIX = "state_"

#: What the maker of a data set says about it; the rest of the metadata follows from the molecule and the machine.
_GIVEN = ("temperature_kelvin", "engine", "seed", "settings")
_DERIVED = ("molecule", "force_field", "num_dims", "environment")
#: What may differ between the start of a data set and its continuation.
_NOT_COMPARED = ("environment", "diagnostics", "finished")


class DataSetWriter:
    """Adds chunks to a data set, which is locked for others until ``close``, ``finish`` or the end of a ``with`` block.

    Attributes:
      path: the directory.
      num_chunks: chunks written so far, by earlier processes too.
      num_draws: draws of each chain in them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = files.lock(path / _LOCK_FILE)
        try:
            for leftover in path.glob(files.TEMPORARY_PREFIX + "*"):
                leftover.unlink()
            self._metadata = read_metadata(path)
            shapes = chunk_shapes(path, self._metadata["num_dims"])
        except BaseException:
            self._lock.close()
            raise
        self._chunk_shape = shapes[0][1:] if shapes else None
        self.num_chunks = len(shapes)
        self.num_draws = sum(shape[0] for shape in shapes)

    def append(
        self,
        u: Float[np.ndarray, "draws chains d"],
        energy_kj_mol: Float[np.ndarray, "draws chains"],
        state: Mapping[str, ArrayLike] | None = None,
    ) -> None:
        """Writes one chunk and waits until it is on the disk.

        Args:
          u: points of the box; stored as float32. No draws at all are fine, to store a state alone.
          energy_kj_mol: their energies; stored as float64.
          state: what the sampler needs to go on after this chunk; it comes back from ``last_state`` and is never out of
            step with the draws, since it lies in the same file. Readers of the data set do not see it.

        Raises:
          ValueError: if the shapes do not fit each other or the chunks before, u is not finite, or the writer is
            closed.
        """
        self._check_open()
        u, energy_kj_mol = np.asarray(u, np.float32), np.asarray(energy_kj_mol, np.float64)
        chains, dims = self._chunk_shape or (u.shape[1] if u.ndim > 1 else "chains", self._metadata["num_dims"])
        if u.ndim != 3 or u.shape[1:] != (chains, dims) or chains == 0:
            raise ValueError(f"u must have shape (draws, {chains}, {dims}) with at least one chain, got {u.shape}.")
        if energy_kj_mol.shape != u.shape[:2]:
            raise ValueError(f"energy_kj_mol must have shape {u.shape[:2]}, got {energy_kj_mol.shape}.")
        if not np.isfinite(u).all():
            raise ValueError(f"u must be finite, got {int((~np.isfinite(u)).sum())} values that are not.")
        states: dict[str, Any] = {_STATE_PREFIX + name: np.asarray(array) for name, array in (state or {}).items()}
        with files.atomic_file(chunk_path(self.path, self.num_chunks)) as temporary, open(temporary, "wb") as file:
            np.savez(file, u=u, energy_kj_mol=energy_kj_mol, **states)
        self._chunk_shape = (u.shape[1], u.shape[2])
        self.num_chunks += 1
        self.num_draws += len(u)

    def last_state(self) -> dict[str, np.ndarray] | None:
        """The state that the last chunk came with; None without chunks or without a state."""
        if self.num_chunks == 0:
            return None
        arrays = read_arrays(chunk_path(self.path, self.num_chunks - 1))
        state = {name.removeprefix(_STATE_PREFIX): a for name, a in arrays.items() if name.startswith(_STATE_PREFIX)}
        return state or None

    def finish(self, diagnostics: Mapping[str, Any]) -> None:
        """Marks the data set as finished and closes the writer.

        Args:
          diagnostics: what is known of its quality, values for JSON; among it ``mixed``, True, False or None where it
            is not known, and ``mixing_problems``, a list of sentences.

        Raises:
          ValueError: if ``mixed`` or ``mixing_problems`` is missing, a value cannot be stored, or the writer is closed.
        """
        self._check_open()
        if missing := {"mixed", "mixing_problems"} - set(diagnostics):
            raise ValueError(f"diagnostics must have mixed and mixing_problems, it lacks {sorted(missing)}.")
        metadata = {**self._metadata, "diagnostics": dict(diagnostics), "finished": True}
        files.atomic_write_text(self.path / METADATA_FILE, files.to_json(metadata))
        self.close()

    def close(self) -> None:
        """Lets other processes write. Closing twice is fine."""
        self._lock.close()

    def __enter__(self) -> DataSetWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._lock.closed:
            raise ValueError(f"this writer of {self.path} is closed; resume_data_set makes a new one.")


def create_data_set(path: str | os.PathLike[str], molecule: Molecule, metadata: Mapping[str, Any]) -> DataSetWriter:
    """Starts a data set.

    Args:
      path: its directory, which must not exist or be empty; missing parents are made.
      molecule: the molecule, stored with it.
      metadata: ``temperature_kelvin``, ``engine`` ("device", "openmm" or "import"), ``seed`` (None without) and
        ``settings``, a dict of whatever else the samples depend on. ``molecule``, ``force_field``, ``num_dims`` and
        ``environment`` are added; values that are given must be the molecule's.

    Raises:
      ValueError: if the directory has something in it, or metadata lacks a key, has an unknown or a wrong one.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"path must be new or an empty directory, but {path} has something in it.")
    if missing := [name for name in _GIVEN if name not in metadata]:
        raise ValueError(f"metadata must have {list(_GIVEN)}, it lacks {missing}.")
    if unknown := sorted(set(metadata) - {*_GIVEN, *_DERIVED}):
        raise ValueError(f"metadata has unknown keys {unknown}; what a method needs goes into settings.")
    of_molecule = {
        "molecule": molecule.name,
        "force_field": molecule.force_field,
        "num_dims": internal_coordinates(molecule).domain.num_dims,
    }
    for name, value in of_molecule.items():
        if metadata.get(name, value) != value:
            raise ValueError(f"metadata: {name} must be the molecule's, {value!r}, got {metadata[name]!r}.")
    text = files.to_json({"environment": describe_environment(), **metadata, **of_molecule, "finished": False})
    with files.atomic_directory(path) as temporary:
        molecule.save(temporary / MOLECULE_DIRECTORY)
        (temporary / METADATA_FILE).write_text(text, encoding="utf-8")
    return DataSetWriter(path)


def resume_data_set(path: str | os.PathLike[str], metadata: Mapping[str, Any]) -> DataSetWriter:
    """Goes on with a data set that was not finished.

    What an interrupted write left behind is removed. Go on with the molecule that is stored in the directory, and from
    ``DataSetWriter.last_state``.

    Args:
      path: its directory.
      metadata: as given to ``create_data_set``; it must be the same, but for ``environment``.

    Raises:
      FileNotFoundError: if there is no such directory.
      ValueError: if it holds no data set, a finished one, one with other metadata (the message names what differs), or
        another process writes to it.
    """
    writer = DataSetWriter(Path(path))
    stored = writer._metadata
    try:
        if stored.get("finished"):
            raise ValueError(f"path: the data set {path} is finished.")
        wanted = {**{name: stored.get(name) for name in _DERIVED}, **json.loads(files.to_json(dict(metadata)))}
        names = (name for name in sorted({*stored, *wanted}) if name not in _NOT_COMPARED)
        if differences := [line for name in names for line in _differences(name, stored.get(name), wanted.get(name))]:
            raise ValueError(f"metadata: the data set {path} was started with another one: {'; '.join(differences)}.")
    except BaseException:
        writer.close()
        raise
    return writer


def _differences(name: str, stored: Any, given: Any) -> list[str]:
    if isinstance(stored, dict) and isinstance(given, dict):
        return [
            line
            for key in sorted({*stored, *given})
            for line in _differences(f"{name}.{key}", stored.get(key), given.get(key))
        ]
    return [] if stored == given else [f"{name} is {stored!r} there and {given!r} here"]
