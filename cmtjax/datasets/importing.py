"""Data sets from simulations made elsewhere: NumPy arrays and whatever mdtraj reads."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Array, Float

from cmtjax.coordinates import InternalCoordinates, internal_coordinates
from cmtjax.datasets.atom_order import implausible_bond, order_by_bonds, order_by_names
from cmtjax.datasets.frames import FrameCounts, relabel_hydrogens
from cmtjax.datasets.writer import create_data_set, resume_data_set

if TYPE_CHECKING:
    import mdtraj

    from cmtjax.molecules.molecule import Molecule

EnergyFn = Callable[[Float[Array, "*batch atoms 3"]], Float[Array, "*batch"]]

#: Chunks of frames in nm, in the order of the file, and the names of its atoms if it has any.
_Source = tuple[Iterator[np.ndarray], "mdtraj.Topology | None"]

_NM_PER_ANGSTROM = 0.1
_NUM_CHECKED_FRAMES = 100


def import_npy(
    path: str | os.PathLike[str],
    molecule: Molecule,
    *,
    topology_path: str | os.PathLike[str] | None = None,
    chunk_size: int = 10_000,
) -> Iterator[Float[np.ndarray, "frames atoms 3"]]:
    """Frames of a NumPy file in Ångström, as the published data sets of TA-BG are (doi 10.5281/zenodo.15526429).

    The file is memory-mapped and read chunk by chunk.

    Args:
      path: a ``.npy`` file of an array (frames, 3 atoms) or (frames, atoms, 3), in Å.
      molecule: the molecule that it must be of.
      topology_path: a file with the names of its atoms in their order, anything that mdtraj reads. Without it the order
        is recognized by bond lengths, if it is the molecule's or that of Amber's libraries (the published one).
      chunk_size: frames read at once.

    Returns:
      Chunks of frames in nm, in the order of the molecule's atoms; float64.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: at once, if the file holds no such array, the atoms do not match or bonds have impossible lengths;
        while reading, if a frame is not finite.
    """
    chunks, topology = _npy_chunks(path, molecule, topology_path, chunk_size)
    return _in_molecule_order(chunks, topology, molecule)[0]


def import_trajectory(
    path: str | os.PathLike[str],
    molecule: Molecule,
    *,
    topology_path: str | os.PathLike[str] | None = None,
    chunk_size: int = 10_000,
) -> Iterator[Float[np.ndarray, "frames atoms 3"]]:
    """Frames of any trajectory that mdtraj reads, chunk by chunk.

    The 0.001 nm to which the formats xtc and pdb round are too coarse for energies: bonds are off by several kT.

    Args:
      path: a trajectory.
      molecule: the molecule that it must be of.
      topology_path: a file with the names of its atoms, where the trajectory has none. Without either the order must be
        the molecule's.
      chunk_size: frames read at once.

    Returns:
      Chunks of frames in nm, in the order of the molecule's atoms; float64.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: at once, if the file cannot be read, the atoms do not match or bonds have impossible lengths; while
        reading, if a frame is not finite.
    """
    chunks, topology = _trajectory_chunks(path, molecule, topology_path, chunk_size)
    return _in_molecule_order(chunks, topology, molecule)[0]


def import_data_set(
    source_path: str | os.PathLike[str],
    directory: str | os.PathLike[str],
    molecule: Molecule,
    energy_fn: EnergyFn,
    *,
    topology_path: str | os.PathLike[str] | None = None,
    temperature_kelvin: float,
    chunk_size: int = 10_000,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Makes a data set of one chain from a file; goes on where an earlier call was interrupted.

    Labels of like hydrogens are exchanged where that brings their torsions into the box. Energies are those of the
    stored points, computed here. The diagnostics count frames outside the box, with a wrong hand, cis peptide bonds,
    permuted hydrogens or violated constraints; all of them are kept.

    Args:
      source_path: a ``.npy`` file, see ``import_npy``, or a trajectory, see ``import_trajectory``.
      directory: where the data set goes.
      molecule: the molecule that the file must be of.
      energy_fn: positions in nm -> kJ/mol, jittable.
      topology_path: a file with the names of the atoms, where the source has none.
      temperature_kelvin: at which the frames were sampled.
      chunk_size: frames in a chunk.
      progress: called with the number of frames done, after each chunk.

    Raises:
      FileNotFoundError: if a file does not exist.
      ValueError: as the functions above and ``create_data_set``.
    """
    source = Path(source_path)
    read = _npy_chunks if source.suffix == ".npy" else _trajectory_chunks
    frames, atom_order = _in_molecule_order(*read(source, molecule, topology_path, chunk_size), molecule)
    metadata = {
        "temperature_kelvin": temperature_kelvin,
        "engine": "import",
        "seed": None,
        "settings": {
            "source": str(source.resolve()),
            "topology": None if topology_path is None else str(Path(topology_path).resolve()),
            "chunk_size": chunk_size,
            "atom_order": atom_order,
        },
    }
    coordinates = internal_coordinates(molecule)
    evaluate = _point_and_energy(coordinates, energy_fn)
    path = Path(directory)
    is_begun = path.is_dir() and any(path.iterdir())
    with resume_data_set(path, metadata) if is_begun else create_data_set(path, molecule, metadata) as writer:
        counts = FrameCounts(coordinates, writer.last_state())
        for positions_nm in itertools.islice(frames, writer.num_chunks, None):
            positions_nm, is_permuted, is_relabeled = relabel_hydrogens(molecule.z_matrix, positions_nm)
            u, energy_kj_mol = evaluate(positions_nm)
            counts.add(positions_nm, u, is_permuted, is_relabeled)
            writer.append(u[:, None], energy_kj_mol[:, None], state=counts.counts)
            if progress is not None:
                progress(writer.num_draws)
        writer.finish({**counts.diagnostics(), "mixed": None, "mixing_problems": []})


def _npy_chunks(
    path: str | os.PathLike[str], molecule: Molecule, topology_path: str | os.PathLike[str] | None, chunk_size: int
) -> _Source:
    path, atoms = _existing(path, "path"), molecule.z_matrix.num_atoms
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"path: {path} is no readable .npy file ({error}).") from None
    if array.shape[1:] not in ((3 * atoms,), (atoms, 3)) or array.dtype.kind != "f":
        raise ValueError(
            f"path: {path} must hold floats of shape (frames, {3 * atoms}) or (frames, {atoms}, 3), got {array.dtype} "
            f"of shape {array.shape}."
        )
    chunks = (
        _NM_PER_ANGSTROM * np.asarray(array[start : start + chunk_size], np.float64).reshape(-1, atoms, 3)
        for start in range(0, len(array), _checked_size(chunk_size))
    )
    return chunks, None if topology_path is None else _load_topology(topology_path)


def _trajectory_chunks(
    path: str | os.PathLike[str], molecule: Molecule, topology_path: str | os.PathLike[str] | None, chunk_size: int
) -> _Source:
    import mdtraj

    path = _existing(path, "path")
    if topology_path is not None:
        topology = _load_topology(topology_path)
    else:
        try:
            topology = mdtraj.load_topology(str(path))
        except OSError:  # a format without one
            topology = mdtraj.Topology.from_openmm(molecule.topology)
    chunks = mdtraj.iterload(str(path), top=topology, chunk=_checked_size(chunk_size))
    return (np.asarray(chunk.xyz, np.float64) for chunk in chunks), topology


def _in_molecule_order(
    chunks: Iterator[np.ndarray], topology: mdtraj.Topology | None, molecule: Molecule
) -> tuple[Iterator[np.ndarray], str]:
    """The frames with their atoms reordered, and by what the order was found: "names", "molecule" or "Amber"."""
    z_matrix = molecule.z_matrix
    try:
        first = next(chunks, np.zeros((0, z_matrix.num_atoms, 3)))
    except ImportError:
        raise
    except Exception as error:  # mdtraj's readers raise whatever their line of code happens to raise
        raise ValueError(f"path: the file cannot be read ({type(error).__name__}: {error}).") from error
    if len(first) == 0:
        raise ValueError("path: the file has no frames.")
    checked = first[:_NUM_CHECKED_FRAMES]
    if topology is None:
        order, found_by = order_by_bonds(checked, z_matrix)
    else:
        order, found_by = order_by_names(topology, z_matrix), "names"
        if (problem := implausible_bond(checked[:, order], z_matrix)) is not None:
            raise ValueError(f"path: {problem}")

    def reordered() -> Iterator[np.ndarray]:
        start = 0
        for chunk in itertools.chain([first], chunks):
            if not (is_finite := np.isfinite(chunk).all(axis=(1, 2))).all():
                raise ValueError(f"path: frame {start + int(np.argmin(is_finite))} of the file is not finite.")
            yield chunk[:, order]
            start += len(chunk)

    return reordered(), found_by


def _point_and_energy(
    coordinates: InternalCoordinates, energy_fn: EnergyFn
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Positions (frames, atoms, 3) -> points of the box and the energies there, compiled for the first batch's size."""

    @jax.jit
    def compiled(positions_nm: Array) -> tuple[Array, Array]:
        u = coordinates.from_physical(positions_nm)[0]
        return u, energy_fn(coordinates.to_physical(u)[0])

    size = 0

    def evaluate(positions_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal size
        # A file's last chunk is shorter: filled up, it needs no program of its own.
        frames, size = len(positions_nm), size or len(positions_nm)
        padded = np.pad(positions_nm, ((0, max(size - frames, 0)), (0, 0), (0, 0)), mode="edge")
        # In single precision a place far from the origin would cost digits.
        u, energy_kj_mol = compiled(np.float32(padded - padded[:, :1]))
        return np.asarray(u)[:frames], np.asarray(energy_kj_mol)[:frames]

    return evaluate


def _load_topology(path: str | os.PathLike[str]) -> mdtraj.Topology:
    import mdtraj

    try:
        return mdtraj.load_topology(str(_existing(path, "topology_path")))
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"topology_path: {path} has no topology that mdtraj reads ({error}).") from error


def _existing(path: str | os.PathLike[str], argument: str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{argument} must be a file, but {path} is none.")
    return path


def _checked_size(chunk_size: int) -> int:
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size!r}.")
    return chunk_size
