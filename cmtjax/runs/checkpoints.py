"""Checkpoints of a pytree of arrays: atomic, verified by checksum, restored bit for bit.

On disk a checkpoint is what ``orbax.checkpoint`` writes: an item ``arrays`` (zero-padded index to array) and an
item ``manifest`` (JSON: for each array its path in the pytree, shape, dtype, CRC-32 and, for a typed random key, the
name of its generator). Nothing is pickled, and ``params`` can be read without knowing the rest of the state.
Orbax writes under a temporary name and renames, so that a killed process leaves no half checkpoint; the checksums
find what a failing disk leaves.
"""

from __future__ import annotations

import logging
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from cmtjax.runs.errors import DamagedCheckpointError, RunDirectoryError
from cmtjax.runs.files import TEMPORARY_PREFIX, sync_directory

State = TypeVar("State")
_logger = logging.getLogger(__name__)


def save(directory: Path, step: int, state: Any, num_kept: int = 2) -> None:
    """Writes ``directory/step`` and removes all but the newest ``num_kept`` checkpoints.

    Checkpoints of later steps are removed too: they belong to a course of the run that was given up.

    Args:
      directory: holds the checkpoints; created if absent.
      step: a count of annealing steps, 0 or more.
      state: pytree of jax or numpy arrays and typed random keys.
      num_kept: at least 1.

    Raises:
      ValueError: if a leaf is no array.
    """
    directory.mkdir(parents=True, exist_ok=True)
    remove_unfinished(directory)
    leaves = [(_tokens(path), *_host_array(path, leaf)) for path, leaf in jax.tree_util.tree_leaves_with_path(state)]
    manifest = [
        {"path": tokens, "shape": array.shape, "dtype": array.dtype.name, "crc32": _checksum(array), "generator": impl}
        for tokens, array, impl in leaves
    ]
    # Orbax cannot store arrays without elements; the manifest's shape and dtype are all there is to them.
    arrays = {_key(index): array for index, (_, array, _) in enumerate(leaves) if array.size}
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(
            _step_path(directory, step).absolute(),
            args=ocp.args.Composite(
                arrays=ocp.args.PyTreeSave(arrays), manifest=ocp.args.JsonSave({"arrays": manifest})
            ),
            force=True,
        )
    sync_directory(directory)
    earlier = [other for other in steps(directory) if other < step]
    for other in steps(directory):
        if other > step or other in earlier[: len(earlier) + 1 - num_kept]:
            _remove(_step_path(directory, other))


def steps(directory: Path) -> list[int]:
    """The steps of the checkpoints in a directory, ascending; none if it is absent."""
    if not directory.is_dir():
        return []
    return sorted(int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal())


def load_newest(directory: Path, template: State, max_step: int | None = None) -> tuple[int, State] | None:
    """The newest checkpoint that is whole, as a pytree like ``template``.

    Args:
      directory: holds the checkpoints.
      template: a state, or its ``jax.eval_shape``, with the structure, shapes and dtypes of what was saved. numpy
        leaves come back as numpy arrays, all others as jax arrays.
      max_step: later checkpoints are left aside; None for none of them.

    Returns:
      ``(step, state)``, or None if there is no checkpoint, or no whole one up to ``max_step`` but one beyond it.

    Raises:
      RunDirectoryError: if there are checkpoints and all are damaged, or the structure differs from the template's.
    """
    newest = _read_newest(directory, max_step)
    return None if newest is None else (newest[0], _unflatten(newest[1], template, where=str(directory)))


def load_newest_params(directory: Path, template: Any = None) -> tuple[int, Any] | None:
    """Like ``load_newest`` for the entry ``params`` of the state; without a template nested dicts of numpy arrays."""
    newest = _read_newest(directory)
    if newest is None:
        return None
    step, leaves = newest
    leaves = {tokens[1:]: leaf for tokens, leaf in leaves.items() if tokens[:1] == ("params",)}
    if not leaves:
        raise RunDirectoryError(f"the checkpoints in {directory} have no entry 'params'.")
    if template is not None:
        return step, _unflatten(leaves, template, where=f"{directory} (params)")
    return step, _nest(leaves)


def remove_later(directory: Path, step: int) -> None:
    """Deletes the checkpoints of steps after ``step``."""
    for other in steps(directory):
        if other > step:
            _remove(_step_path(directory, other))


def remove_unfinished(directory: Path) -> None:
    """Deletes what an interrupted save or removal left in a directory of checkpoints."""
    for entry in directory.iterdir() if directory.is_dir() else ():
        if not entry.name.isdecimal():
            shutil.rmtree(entry)


def _read_newest(directory: Path, max_step: int | None = None) -> tuple[int, dict[tuple[str, ...], Any]] | None:
    present = steps(directory)
    available = [step for step in present if max_step is None or step <= max_step]
    for step in reversed(available):
        try:
            return step, _read(_step_path(directory, step))
        except DamagedCheckpointError as error:
            _logger.warning("%s Falling back to the checkpoint before it.", error)
    if available and available == present:
        raise RunDirectoryError(f"every checkpoint in {directory} is damaged; remove the run directory to start anew.")
    return None


def _read(path: Path) -> dict[tuple[str, ...], Any]:
    """All leaves of one checkpoint by path: numpy arrays, and jax arrays for typed random keys."""
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
            items = checkpointer.restore(
                path.absolute(),
                args=ocp.args.Composite(arrays=ocp.args.PyTreeRestore(), manifest=ocp.args.JsonRestore()),
            )
        return {
            tuple(entry["path"]): _checked(items["arrays"].get(_key(index)), entry)
            for index, entry in enumerate(items["manifest"]["arrays"])
        }
    # Damage shows as any exception of the readers below, which promise none in particular.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise DamagedCheckpointError(f"checkpoint {path} is damaged ({type(error).__name__}: {reason}).") from error


def _checked(array: Any, entry: dict[str, Any]) -> Any:
    dtype = jnp.dtype(entry["dtype"])
    array = np.empty(entry["shape"], dtype) if array is None else np.asarray(array)
    if (array.shape, array.dtype, _checksum(array)) != (tuple(entry["shape"]), dtype, entry["crc32"]):
        raise ValueError(f"the array {_name(entry['path'])} is not the one that was saved")
    return array if entry["generator"] is None else jax.random.wrap_key_data(array, impl=entry["generator"])


def _unflatten(leaves: dict[tuple[str, ...], Any], template: State, where: str) -> State:
    """Puts leaves in the template's structure, after comparing paths, shapes and dtypes."""
    expected = {_tokens(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(template)}

    def describe(leaf: Any) -> str:
        return f"{leaf.dtype}{list(leaf.shape)}"

    problems = [f"{_name(tokens)} is not expected" for tokens in leaves if tokens not in expected]
    for tokens, leaf in expected.items():
        if tokens not in leaves:
            problems.append(f"{_name(tokens)} is missing")
        elif describe(leaves[tokens]) != describe(leaf):
            problems.append(f"{_name(tokens)} is {describe(leaves[tokens])}, not {describe(leaf)}")
    if problems:
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise RunDirectoryError(
            f"the checkpoint in {where} belongs to another model or method: {'; '.join(problems[:5])}{more}."
        )
    restored = [
        leaves[tokens] if isinstance(leaf, np.ndarray | np.generic) or _is_key(leaf) else jnp.array(leaves[tokens])
        for tokens, leaf in expected.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(template), restored)


def _host_array(path: Any, leaf: Any) -> tuple[np.ndarray, str | None]:
    if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
        raise ValueError(f"state must hold arrays only, got {leaf!r} at {_name(_tokens(path))}.")
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        return np.asarray(jax.random.key_data(leaf)), str(jax.random.key_impl(leaf))
    return np.asarray(leaf), None


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)


def _tokens(path: Sequence[Any]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _name(tokens: Sequence[str]) -> str:
    return "/".join(tokens) or "the state itself"


def _nest(leaves: dict[tuple[str, ...], Any]) -> Any:
    nested: dict[str, Any] = {}
    for tokens, leaf in leaves.items():
        if not tokens:
            return leaf
        node = nested
        for token in tokens[:-1]:
            node = node.setdefault(token, {})
        node[tokens[-1]] = leaf
    return nested


def _key(index: int) -> str:
    return f"{index:06d}"


def _step_path(directory: Path, step: int) -> Path:
    return directory / f"{step:06d}"


def _remove(path: Path) -> None:
    """Removes a checkpoint such that a killed process leaves the whole or something that nobody reads."""
    doomed = path.with_name(TEMPORARY_PREFIX + path.name)
    os.rename(path, doomed)
    shutil.rmtree(doomed)
