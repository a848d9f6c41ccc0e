"""A run directory: configuration, environment, checkpoints, metric files and resuming after any interruption."""

from cmtjax.runs.directory import RunDirectory, load_checkpoint, open_existing, read_config, restore_params
from cmtjax.runs.errors import ConfigMismatchError, DamagedCheckpointError, RunDirectoryError, RunLockedError
from cmtjax.runs.files import atomic_directory, atomic_write_text
from cmtjax.runs.initial import InitialFlow, read_initial_flow
from cmtjax.runs.run import Run, open_run
from cmtjax.runs.seeds import open_runs, restore_checkpoints

__all__ = [
    "ConfigMismatchError",
    "DamagedCheckpointError",
    "InitialFlow",
    "Run",
    "RunDirectory",
    "RunDirectoryError",
    "RunLockedError",
    "atomic_directory",
    "atomic_write_text",
    "load_checkpoint",
    "open_existing",
    "open_run",
    "open_runs",
    "read_config",
    "read_initial_flow",
    "restore_checkpoints",
    "restore_params",
]
