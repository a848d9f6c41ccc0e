"""Reading a data set: a directory of chunks of samples of a molecule's equilibrium distribution.

``metadata.json`` says what the samples are of and how they were made, ``molecule/`` is the molecule as
``Molecule.save`` writes it, and ``chunk_00000.npz``, … hold draws in their order, each chunk with the arrays

- ``u`` (draws, chains, d) float32: points of the box of the molecule's internal coordinates; imported frames may lie
  outside of it;
- ``energy_kj_mol`` (draws, chains) float64.

A chunk appears as a whole or not at all, so a set can be read while it grows.
"""

from __future__ import annotations

import functools
import json
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from cmtjax.coordinates import InternalCoordinates, internal_coordinates
from cmtjax.molecules.z_matrix import ZMatrix

METADATA_FILE = "metadata.json"
MOLECULE_DIRECTORY = "molecule"


class Chunk(NamedTuple):
    """Consecutive draws of all chains.

    Attributes:
      u: points of the box, not clipped to it.
      energy_kj_mol: their potential energies.
    """

    u: Float[np.ndarray, "draws chains d"]
    energy_kj_mol: Float[np.ndarray, "draws chains"]


class DataSet:
    """A data set as it was when it was opened, read only; ``open_data_set`` makes one.

    Chains are independent of each other, consecutive draws of a chain are not: the standard error of a mean goes over
    whole chains, or over long blocks of them.

    Attributes:
      path: the directory.
      metadata: what is in ``metadata.json``: ``molecule``, ``force_field``, ``temperature_kelvin``, ``engine``,
        ``seed``, ``settings``, ``environment``, ``num_dims``, and once the set is finished ``diagnostics``.
      num_draws: draws of each chain.
      num_chains: chains; 0 as long as there is no chunk.
    """

    def __init__(self, path: Path, metadata: dict[str, Any], shapes: Sequence[tuple[int, int, int]]) -> None:
        self.path = path
        self.metadata = metadata
        self._num_chunks = len(shapes)
        self.num_draws = sum(shape[0] for shape in shapes)
        self.num_chains = shapes[0][1] if shapes else 0

    @property
    def is_finished(self) -> bool:
        """Whether the program that made the set came to its end."""
        return bool(self.metadata.get("finished", False))

    @property
    def num_samples(self) -> int:
        """Draws of all chains together."""
        return self.num_draws * self.num_chains

    @property
    def num_dims(self) -> int:
        """Dimension d of the box."""
        return int(self.metadata["num_dims"])

    @property
    def molecule_directory(self) -> Path:
        """Where ``molecules.load`` finds the molecule."""
        return self.path / MOLECULE_DIRECTORY

    @functools.cached_property
    def coordinates(self) -> InternalCoordinates:
        """The coordinates that u belongs to; needs no OpenMM."""
        return internal_coordinates(ZMatrix.load(self.molecule_directory / "z_matrix.json"))

    def chunks(self) -> Iterator[Chunk]:
        """All draws in their order, with one chunk in memory at a time.

        Raises:
          ValueError: if a chunk cannot be read.
        """
        for number in range(self._num_chunks):
            yield Chunk(**read_arrays(chunk_path(self.path, number), Chunk._fields))

    def u(self, columns: Sequence[int] | np.ndarray | None = None) -> Float[np.ndarray, "draws chains columns"]:
        """Points of the box, float32.

        Args:
          columns: which dimensions, all with None. Memory is needed for these, and for one whole chunk.

        Raises:
          ValueError: if a column is not in [−d, d), or a chunk cannot be read.
        """
        wanted = np.arange(self.num_dims) if columns is None else np.atleast_1d(np.asarray(columns, np.int64))
        if wanted.ndim != 1 or np.any((wanted < -self.num_dims) | (wanted >= self.num_dims)):
            raise ValueError(f"columns must be integers in [-{self.num_dims}, {self.num_dims}), got {columns!r}.")
        result = np.empty((self.num_draws, self.num_chains, wanted.size), np.float32)
        start = 0
        for chunk in self.chunks():
            result[start : start + len(chunk.u)] = chunk.u[..., wanted]
            start += len(chunk.u)
        return result

    def energy_kj_mol(self) -> Float[np.ndarray, "draws chains"]:
        """Potential energies, float64."""
        names = (chunk_path(self.path, number) for number in range(self._num_chunks))
        return np.concatenate(
            [
                np.zeros((0, self.num_chains)),
                *(read_arrays(name, ("energy_kj_mol",))["energy_kj_mol"] for name in names),
            ]
        )


def open_data_set(path: str | os.PathLike[str]) -> DataSet:
    """Opens a data set for reading, also while a program adds to it; what is added later is not seen.

    Args:
      path: its directory.

    Raises:
      FileNotFoundError: if there is no such directory.
      ValueError: if it holds no data set, a chunk is missing, or the chunks do not fit together.
    """
    path = Path(path)
    metadata = read_metadata(path)
    return DataSet(path, metadata, chunk_shapes(path, metadata["num_dims"]))


def read_metadata(path: Path) -> dict[str, Any]:
    """What ``metadata.json`` of a data set holds; errors as ``open_data_set``."""
    if not path.is_dir():
        raise FileNotFoundError(f"path must be the directory of a data set, but {path} does not exist.")
    file = path / METADATA_FILE
    if not file.is_file():
        raise ValueError(f"path must be the directory of a data set, but {path} has no {METADATA_FILE}.")
    try:
        metadata = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"path: {file} is not JSON ({error}).") from None
    if not isinstance(metadata, dict) or "num_dims" not in metadata:
        raise ValueError(f"path: {file} is no data set's, it does not say num_dims.")
    return metadata


def chunk_path(path: Path, number: int) -> Path:
    """The file of a chunk."""
    return path / f"chunk_{number:05d}.npz"


def chunk_shapes(path: Path, num_dims: int) -> list[tuple[int, int, int]]:
    """Shapes (draws, chains, d) of all chunks, from the headers alone; errors as ``open_data_set``."""
    matches = (re.fullmatch(r"chunk_(\d{5,})\.npz", entry.name) for entry in path.iterdir())
    numbers = sorted(int(match[1]) for match in matches if match)
    if numbers != list(range(len(numbers))):
        missing = min(set(range(numbers[-1])) - set(numbers))
        raise ValueError(
            f"path: the data set {path} lacks {chunk_path(path, missing).name}, though it has a later one."
        )
    shapes: list[tuple[int, int, int]] = []
    for number in numbers:
        name = chunk_path(path, number)
        shape, energy_shape = _array_shape(name, "u"), _array_shape(name, "energy_kj_mol")
        expected = shapes[0][1:] if shapes else (*shape[1:2], num_dims)
        if len(shape) != 3 or shape[1:] != expected or energy_shape != shape[:2]:
            raise ValueError(
                f"path: {name} must hold u of shape (draws, {', '.join(map(str, expected))}) and energy_kj_mol of its "
                f"first two axes, got {shape} and {energy_shape}."
            )
        shapes.append((shape[0], shape[1], shape[2]))
    return shapes


def read_arrays(path: Path, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of a chunk by name, all with None.

    Raises:
      ValueError: if the file is damaged or lacks one.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names or arrays.files}
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"path: the chunk {path} cannot be read ({error}).") from error


def _array_shape(path: Path, name: str) -> tuple[int, ...]:
    """Shape of an array in an uncompressed archive, without reading the array."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            major, _ = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            return read_header(file)[0]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(f"path: the chunk {path} cannot be read ({error}).") from error
