"""The programs' shell, from outside: exit codes and what the user reads."""

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_EXPERIMENTS = Path(__file__).parents[2] / "experiments"

_CONFIG = """
from ml_collections import config_dict

def get_config():
    config = config_dict.ConfigDict()
    config.seed = 0
    config.method = config_dict.ConfigDict()
    config.method.trust_region_bound = 0.3
    config.method.entropy_bound = config_dict.placeholder(float)
    config.sizes = (1, 2)
    return config
"""

# A shell that runs the tests in the background has SIGINT ignored, and children inherit that: the first line mends it.
_PROGRAM = """
import signal; signal.signal(signal.SIGINT, signal.default_int_handler)
import sys, time
sys.path.insert(0, {experiments!r})
import program
from absl import flags

_CONFIG = program.define_config()
_ACTION = flags.DEFINE_string("action", "print", "What to do.")

def main(arguments):
    with program.user_errors():
        config = _CONFIG.value
        if _ACTION.value == "wrong":
            program.require(config.seed > 0, "seed", config.seed, "positive")
        if _ACTION.value == "missing":
            open("/nowhere/at/all")
    if _ACTION.value == "bug":
        raise ValueError("a bug")
    try:
        if _ACTION.value == "wait":
            print("waiting", flush=True)
            time.sleep(60)
    finally:
        print("closed", flush=True)
    print(config.method.trust_region_bound, config.method.entropy_bound, arguments)

program.run_program(main, accept_positional={positional})
"""


@pytest.fixture
def command(tmp_path):
    (tmp_path / "config.py").write_text(_CONFIG)
    (tmp_path / "main.py").write_text(_PROGRAM.format(experiments=str(_EXPERIMENTS), positional=False))
    (tmp_path / "positional.py").write_text(_PROGRAM.format(experiments=str(_EXPERIMENTS), positional=True))

    def make(*arguments, script="main.py", config="config.py"):
        config_arguments = [] if config is None else [f"--config={tmp_path / config}"]
        return [sys.executable, str(tmp_path / script), *config_arguments, *arguments]

    return make


def _run(command):
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_overrides_reach_the_program(command):
    overrides = ("--config.method.trust_region_bound=0.2", "--config.method.entropy_bound", "0.5", "--config.sizes=7")
    result = _run(command(*overrides))
    assert (result.returncode, result.stdout, result.stderr) == (0, "closed\n0.2 0.5 []\n", "")
    result = _run(command("a", "b", script="positional.py"))
    assert result.stdout == "closed\n0.3 None ['a', 'b']\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ["--config.method.trust_regoin_bound=1"],
            "unknown configuration key 'method.trust_regoin_bound'; did you mean 'method.trust_region_bound'?",
        ),
        (
            ["--config.trust_region_bound=1"],
            "unknown configuration key 'trust_region_bound'; did you mean 'method.trust_region_bound'?",
        ),
        (["--config.qqq.zzz=1"], "unknown configuration key 'qqq.zzz'; there are method, method.entropy_bound, "),
        (["--config.seed.x=1"], "unknown configuration key 'seed.x'; did you mean 'seed'?"),
        (["--config.method.trust_region_bound=abc"], "could not convert string to float: 'abc'"),
        (["--config.seed=1.5"], "flag --config.seed=1.5: invalid literal for int()"),
        (["--actoin=wait"], "Unknown command line flag 'actoin'. Did you mean: action ?"),
        (["config.seed=1"], "unexpected argument 'config.seed=1'; flags begin with --"),
        (["--action"], "Missing value for flag --action"),
        (["--action=wrong"], "seed must be positive, got 0."),
        (["--action=missing"], "No such file or directory: '/nowhere/at/all'"),
    ],
)
def test_user_errors_are_one_line(command, arguments, expected):
    result = _run(command(*arguments))
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "there is no file"),
        ("def get_config(:", "SyntaxError"),
        ("def get_config(): raise ValueError('odd size')", "ValueError: odd size"),
        ("def get_config(): open('/nowhere/at/all')", "No such file or directory: '/nowhere/at/all'"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "has no attribute 'get_config'"),
    ],
)
def test_config_file_errors_are_one_line(command, tmp_path, content, expected):
    if content is not None:
        (tmp_path / "bad.py").write_text(content)
    result = _run(command("--config.seed=1", config="bad.py"))
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert expected in result.stderr
    assert result.stderr.count("\n") == 1


def test_missing_config_flag(command):
    assert _run(command(config=None)).stderr == "error: the flag --config is required\n"
    result = _run(command("--config.seed=1", config=None))
    assert (result.returncode, result.stderr) == (2, "error: --config.seed needs --config=FILE before it\n")


@pytest.mark.parametrize("flag", ["--debug", "-debug=true"])
def test_debug_shows_the_traceback(command, flag):
    result = _run(command("--action=wrong", flag))
    assert "Traceback" in result.stderr
    assert "in require" in result.stderr
    assert "Traceback" not in _run(command("--action=wrong", "--nodebug")).stderr


def test_bugs_keep_their_traceback(command):
    result = _run(command("--action=bug"))
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "ValueError: a bug" in result.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_run_finally_blocks(command, number, code):
    with subprocess.Popen(
        command("--action=wait"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (code, "closed\n")
    assert stderr == "stopped; run the same command again to resume\n"


def test_progress_lines(tmp_path):
    # In a process of its own: the module defines flags.
    code = f"""
        import sys
        sys.path.insert(0, {str(_EXPERIMENTS)!r})
        from program import Progress, format_duration
        times = iter([0.0, 100.0, 110.0, 120.0, 4000.0])
        progress = Progress(500, completed=2, clock=lambda: next(times))
        for _ in range(3):
            progress.report({{"ess": 0.123456, "log_z": -175}})
        for seconds in (0, 59.6, 185, 3599.7, 7630):
            print(format_duration(seconds))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    # 497 steps at 100 s; 496 at the median of 100 and 10 s; 495 at 10 s.
    assert result.stdout.splitlines() == [
        "step   3/500  ess 0.1235  log_z -175  100.0 s  13 h 48 min left",
        "step   4/500  ess 0.1235  log_z -175  10.0 s  7 h 34 min left",
        "step   5/500  ess 0.1235  log_z -175  10.0 s  1 h 22 min left",
        "0 s",
        "1 min 00 s",
        "3 min 05 s",
        "1 h 00 min",
        "2 h 07 min",
    ]
