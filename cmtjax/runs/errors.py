"""What can be wrong with a run directory. All are ``ValueError``: the caller named a directory that will not do."""


class RunDirectoryError(ValueError):
    """The directory holds no run, or a run in a state that this package cannot use."""


class ConfigMismatchError(RunDirectoryError):
    """The run was started with another configuration; the message lists every differing key."""


class RunLockedError(RunDirectoryError):
    """Another process is writing to the run."""


class DamagedCheckpointError(RunDirectoryError):
    """A checkpoint is incomplete or its arrays are not the ones that were saved."""
