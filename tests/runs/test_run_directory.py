"""Creating, reopening, locking and reading a run directory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import cmtjax
from cmtjax.runs import (
    ConfigMismatchError,
    RunDirectoryError,
    RunLockedError,
    atomic_directory,
    load_checkpoint,
    open_existing,
    open_run,
    read_config,
    restore_params,
)

CONFIG = {"seed": 5, "method": {"bound": 0.3, "sizes": (256, 256), "off": None}, "energy": {"num_workers": 2}}


def test_new_run_stores_config_and_environment(tmp_path):
    with open_run(tmp_path / "a" / "run", CONFIG) as run:
        assert not run.is_finished
    stored = json.loads((tmp_path / "a" / "run" / "config.json").read_text())
    assert stored == {
        "seed": 5,
        "method": {"bound": 0.3, "sizes": [256, 256], "off": None},
        "energy": {"num_workers": 2},
    }
    assert read_config(tmp_path / "a" / "run") == stored
    environment = open_existing(tmp_path / "a" / "run").environment
    assert environment["seed"] == 5
    assert environment["versions"]["cmtjax"] == cmtjax.__version__
    assert environment["versions"]["numpy"] == np.__version__
    assert environment["device"]["platform"] == "cpu"


def test_additions_to_the_environment_survive_reopening(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        run.update_environment({"openmm_platform": "Reference"})
    with open_run(tmp_path, CONFIG) as run:
        assert run.environment["openmm_platform"] == "Reference"
        assert run.environment["seed"] == 5


def test_another_config_is_refused_with_every_differing_key(tmp_path):
    open_run(tmp_path, CONFIG).close()
    other = {"seed": 5, "method": {"bound": 0.2, "sizes": [256], "new": True}, "energy": {"num_workers": 3}}
    with pytest.raises(ConfigMismatchError) as error:
        open_run(tmp_path, other, changeable=["energy.num_workers"])
    message = str(error.value)
    for expected in (
        "method.bound: 0.3 in the run, 0.2 asked for",
        "method.sizes: [256, 256] in the run, [256] asked for",
        "method.off: null in the run, absent asked for",
        "method.new: absent in the run, true asked for",
    ):
        assert expected in message
    assert "num_workers" not in message
    assert "seed" not in message
    # The refusal released the lock and changed nothing.
    with open_run(tmp_path, CONFIG) as run:
        assert run.config["method"]["bound"] == 0.3


@pytest.mark.parametrize("pattern", ["energy.num_workers", "energy.*"])
def test_changeable_keys_change_and_are_stored(tmp_path, pattern):
    open_run(tmp_path, CONFIG).close()
    open_run(tmp_path, CONFIG | {"energy": {"num_workers": 7}}, changeable=[pattern]).close()
    assert read_config(tmp_path)["energy"]["num_workers"] == 7


def test_directory_of_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(RunDirectoryError, match=r"thesis\.tex"):
        open_run(tmp_path, CONFIG)
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(RunDirectoryError, match="is a file"):
        open_run(tmp_path / "thesis.tex", CONFIG)


@pytest.mark.parametrize("leftovers", [(), (".lock",), (".lock", "environment.json", ".unfinished-config.json")])
def test_creation_killed_at_any_file_is_done_again(tmp_path, leftovers):
    for name in leftovers:
        (tmp_path / name).write_text('{"torn')
    open_run(tmp_path, CONFIG).close()
    assert read_config(tmp_path)["seed"] == 5
    assert open_existing(tmp_path).environment["seed"] == 5


def test_config_with_an_unstorable_value_is_refused(tmp_path):
    with pytest.raises(ValueError, match="object"):
        open_run(tmp_path / "run", {"method": {"fn": object()}})
    assert not (tmp_path / "run").exists()


def test_second_writer_is_refused_with_the_first_ones_process_id(tmp_path):
    with open_run(tmp_path, CONFIG):
        with pytest.raises(RunLockedError, match=str(os.getpid())):
            open_run(tmp_path, CONFIG)
        # And from another process, through the lock alone (importing the package would take seconds).
        code = (
            "import fcntl, sys\n"
            "try: fcntl.flock(open(sys.argv[1]), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
            "except BlockingIOError: sys.exit(7)"
        )
        assert subprocess.run([sys.executable, "-c", code, str(tmp_path / ".lock")], check=False).returncode == 7
        assert open_existing(tmp_path).config["seed"] == 5  # readers need no lock
    open_run(tmp_path, CONFIG).close()


def test_changed_environment_is_reported_on_resuming(tmp_path, monkeypatch, caplog):
    open_run(tmp_path, CONFIG).close()
    open_run(tmp_path, CONFIG).close()
    assert not caplog.records
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    open_run(tmp_path, CONFIG).close()
    assert "variables.OMP_NUM_THREADS = None and goes on with 17" in caplog.text


def test_summary_marks_the_end(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        with pytest.raises(RunDirectoryError, match="has not ended"):
            run.read_summary()
        run.write_summary({"ess": np.float32(0.25)}, finished=False)
        assert not run.is_finished
        run.write_summary({"ess": np.float32(0.25), "log_z": -175.0, "nan": np.nan})
    reader = open_existing(tmp_path)
    assert reader.is_finished
    summary = reader.read_summary()
    assert (summary["ess"], summary["log_z"]) == (0.25, -175.0)
    assert np.isnan(summary["nan"])
    assert set(summary) == {"ess", "log_z", "nan"}


def test_paths(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        assert run.path == tmp_path
        assert run.figures_directory.is_dir()
        with atomic_directory(run.molecule_directory) as directory:
            (directory / "x").write_text("1")
            assert not run.molecule_directory.exists()
        assert (run.molecule_directory / "x").read_text() == "1"


class _Energy:
    def __init__(self, content):
        self.content = content

    def save(self, path):
        path.write_bytes(b"to")
        if self.content is None:
            raise KeyError
        path.write_bytes(self.content)


def test_energy_is_saved_once_and_as_a_whole(tmp_path):
    with open_run(tmp_path, CONFIG) as run:
        with pytest.raises(KeyError):
            run.save_energy(_Energy(None))
        assert not run.energy_path.exists()
        run.save_energy(_Energy(b"first"))
        run.save_energy(_Energy(b"second"))  # what the run was started with stays
    assert open_existing(tmp_path).energy_path.read_bytes() == b"first"
    assert (tmp_path / "energy.npz").is_file()


def test_atomic_directory_leaves_nothing_after_an_exception(tmp_path):
    def fail():
        with atomic_directory(tmp_path / "molecule") as directory:
            (directory / "x").write_text("1")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reader", [open_existing, read_config, restore_params, lambda path: load_checkpoint(path, 0)])
def test_readers_name_what_is_missing(tmp_path, reader):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        reader(tmp_path / "nowhere")
    with pytest.raises(RunDirectoryError, match=r"has no config\.json"):
        reader(tmp_path)


def test_readers_of_a_run_without_checkpoint(tmp_path):
    open_run(tmp_path, CONFIG).close()
    with pytest.raises(RunDirectoryError, match="no checkpoint yet"):
        restore_params(tmp_path)
