"""The shell that the programs share: flags, one-line errors, stopping by a signal, progress lines."""

from __future__ import annotations

import contextlib
import difflib
import itertools
import re
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

_DEBUG = flags.DEFINE_boolean("debug", False, "Show the traceback of errors that are reported in one line.")

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class UserError(Exception):
    """A mistake in what the user asked for; reported as one line, exit code 2."""


class _TerminatedError(BaseException):
    """SIGTERM, as an exception that unwinds ``finally`` blocks like ``KeyboardInterrupt``."""


def define_config() -> flags.FlagHolder:
    """Defines the required flag ``--config=FILE.py`` with overrides ``--config.section.key=value``."""
    holder = config_flags.DEFINE_config_file("config", None, "Configuration file.", lock_config=True)
    flags.mark_flag_as_required("config")
    return holder


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Marks the part of a program in which ValueError and OSError mean a wrong request: reading and building.

    Outside of it they are bugs or failures of the machine and keep their traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error


def require(condition: bool, argument: str, value: Any, legal: str) -> None:
    """Raises a ValueError that names the argument, what is legal and the value, unless the condition holds."""
    if not condition:
        raise ValueError(f"{argument} must be {legal}, got {value!r}.")


def run_program(
    main: Callable[[list[str]], Any], *, accept_positional: bool = False, resumable: bool = True
) -> NoReturn:
    """Parses the flags, runs ``main`` and exits.

    Exit codes: 0; 2 with one line ``error: ...`` for wrong flags, unknown configuration keys and whatever is raised
    within ``user_errors``; 130 and 143 with one line after Ctrl-C and SIGTERM, ``finally`` blocks run; 1 with a
    traceback for everything else.

    Args:
      main: takes the positional arguments (without the program's name).
      accept_positional: whether there may be any.
      resumable: whether the line after a signal says that the same command resumes.
    """
    stopped = "stopped; run the same command again to resume" if resumable else "stopped"
    signal.signal(signal.SIGTERM, _raise_terminated)
    try:
        app.run(lambda argv: main(argv[1:]), flags_parser=lambda argv: _parse_flags(argv, accept_positional))
    except UserError as error:
        if _is_debugging():
            raise
        _exit("error: " + " ".join(str(error).split()), EXIT_USER_ERROR)
    except KeyboardInterrupt:
        _exit(stopped, EXIT_INTERRUPTED)
    except _TerminatedError:
        _exit(stopped, EXIT_TERMINATED)
    raise AssertionError("app.run always exits")


class Progress:
    """One line an annealing step on standard output: counter, values, time per step, time left.

    The time per step is the median of the last ten, which a first step with compilation does not distort.

    Args:
      num_steps: of the whole run.
      completed: steps done before this process (on resuming).
      clock: seconds; to be replaced in tests.
    """

    def __init__(self, num_steps: int, completed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._num_steps = num_steps
        self._completed = completed
        self._clock = clock
        self._last = clock()
        self._durations: list[float] = []

    def report(self, values: Mapping[str, float]) -> None:
        """Ends a step: prints its line at once, so that a log file can be followed."""
        now = self._clock()
        self._durations = [*self._durations[-9:], now - self._last]
        self._last = now
        self._completed += 1
        typical = statistics.median(self._durations)
        left = format_duration(typical * max(self._num_steps - self._completed, 0))
        width = len(str(self._num_steps))
        numbers = "  ".join(f"{name} {float(value):.4g}" for name, value in values.items())
        print(
            f"step {self._completed:{width}d}/{self._num_steps}  {numbers}  {self._durations[-1]:.1f} s  {left} left",
            flush=True,
        )


def format_duration(seconds: float) -> str:
    """``5 s``, ``3 min 05 s`` or ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _is_debugging() -> bool:
    # Before the flags are parsed, or where they are wrong, only the arguments themselves tell.
    is_parsed = flags.FLAGS.is_parsed()
    return _DEBUG.value if is_parsed else any(re.fullmatch(r"--?debug(=true|=1)?", text) for text in sys.argv)


def _raise_terminated(number: int, frame: FrameType | None) -> NoReturn:
    # A second SIGTERM (GNU timeout sends two) must not cut the cleanup short.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _TerminatedError


def _exit(line: str, code: int) -> NoReturn:
    sys.stdout.flush()
    print(line, file=sys.stderr, flush=True)
    sys.exit(code)


def _parse_flags(argv: Sequence[str], accept_positional: bool) -> list[str]:
    if "config" in flags.FLAGS:
        _check_config(flags.FLAGS["config"], argv)
    try:
        remaining = flags.FLAGS(argv)
    except flags.Error as error:
        missing = re.search(r"Flag --(\S+) must have a value other than None", str(error))
        raise UserError(f"the flag --{missing[1]} is required" if missing else str(error)) from error
    if remaining[1:] and not accept_positional:
        raise UserError(f"unexpected argument {remaining[1]!r}; flags begin with --")
    if flags.FLAGS["verbosity"].using_default_value:
        # app.run raises the default to INFO, at which orbax tells every step of a checkpoint.
        flags.FLAGS["verbosity"].using_default_value = False
        logging.set_verbosity(logging.WARNING)
    return remaining


def _check_config(flag: flags.Flag, argv: Sequence[str]) -> None:
    """Reports what ml_collections leaves to exceptions without a name: missing files and unknown keys."""
    overrides = [match[1] for match in (re.match(rf"--?(?:no)?{flag.name}\.([^=\[]+)", arg) for arg in argv) if match]
    paths = [match[1] for match in (re.match(rf"--?{flag.name}(?:=|\s)(.*)", arg) for arg in _joined(argv)) if match]
    if not paths:
        if overrides:
            raise UserError(f"--{flag.name}.{overrides[0]} needs --{flag.name}=FILE before it")
        return
    path = paths[0].split(":", 1)[0]
    if not Path(path).is_file():
        raise UserError(f"--{flag.name}: there is no file {path!r}")
    try:
        known = _dotted_keys(flag.parser.parse(paths[0]))
    except Exception as error:  # a configuration file is a program of the user's
        cause = error.__context__ or error
        raise UserError(f"--{flag.name}={path}: {type(cause).__name__}: {cause}") from error
    for key in overrides:
        if key not in known:
            raise UserError(f"unknown configuration key {key!r}{_suggestion(key, known)}")


def _joined(argv: Sequence[str]) -> list[str]:
    """``--config FILE`` as one string beside the arguments themselves."""
    return [*argv, *(f"{first} {second}" for first, second in itertools.pairwise(argv))]


def _dotted_keys(config: ConfigDict, prefix: str = "") -> list[str]:
    keys = []
    for key, value in config.items(preserve_field_references=True):  # required values may be unset so far
        keys.append(f"{prefix}{key}")
        if isinstance(value, ConfigDict):
            keys.extend(_dotted_keys(value, f"{prefix}{key}."))
    return keys


def _suggestion(key: str, known: Sequence[str]) -> str:
    same_ending = [name for name in known if name.split(".")[-1] == key.split(".")[-1]]
    close = same_ending or difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"
