"""Files that are either there as a whole or not at all, whenever the process is killed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cmtjax.runs.errors import RunLockedError

#: Names that begin so are leftovers of an interrupted write; anyone may delete them.
TEMPORARY_PREFIX = ".unfinished-"


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a UTF-8 file such that a reader, or a later start, sees the old content or the new, never a part.

    Args:
      path: the file; its directory must exist.
      text: the whole content.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lets a file be written under a temporary name, which it loses when the block ends without an exception.

    Args:
      path: the file; its directory must exist.

    Yields:
      The path to write to.
    """
    path = Path(path)
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    yield temporary
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Builds a directory under a temporary name and renames it when the block ends without an exception.

    Args:
      path: the directory to create; it must not exist or be empty.

    Yields:
      An empty directory to write to.
    """
    path = Path(path)
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.rename(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Makes the renames in a directory last through a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any) -> str:
    """Sorted, indented JSON; floats as their shortest exact form, array scalars as numbers, arrays as lists."""
    return json.dumps(value, indent=2, sort_keys=True, default=_plain) + "\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # numpy and jax arrays and scalars
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ValueError(
        f"only numbers, strings, lists and mappings can be stored, got {value!r} ({type(value).__name__})."
    )


def lock(path: Path) -> IO[str]:
    """Takes an exclusive lock that ends with the returned file's closing or with the process, however it dies.

    Args:
      path: the lock file, created if absent.

    Raises:
      RunLockedError: if another process (or this one) holds it.
    """
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (the open file is the lock)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise RunLockedError(f"{path.parent} is in use by another process (pid {holder}); wait or stop it.") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file
