"""Data sets on disk: what is written is read, also after a kill, and what does not fit is refused."""

import json
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from cmtjax import datasets
from cmtjax.coordinates import internal_coordinates
from cmtjax.runs import RunLockedError

METADATA = {
    "temperature_kelvin": 300.0,
    "engine": "device",
    "seed": 7,
    "settings": {"num_chains": 3, "step_sizes": (0.1, 0.2), "nested": {"a": np.float32(0.5)}},
}
CHAINS, DIMS = 3, 60


@pytest.fixture(scope="module")
def dipeptide(published):
    return published("alanine_dipeptide")


@pytest.fixture(scope="module")
def empty_set(dipeptide, tmp_path_factory):
    """A data set without chunks, to copy."""
    path = tmp_path_factory.mktemp("sets") / "empty"
    datasets.create_data_set(path, dipeptide, METADATA).close()
    return path


@pytest.fixture
def path(empty_set, tmp_path):
    return shutil.copytree(empty_set, tmp_path / "data")


def draw(num_draws, seed=0):
    generator = np.random.default_rng(seed)
    # Wider than the box, as imported frames may be.
    u = generator.uniform(-0.2, 1.2, (num_draws, CHAINS, DIMS)).astype(np.float32)
    return u, generator.normal(-100.0, 10.0, (num_draws, CHAINS))


def test_what_is_written_is_read(dipeptide, tmp_path):
    parts = [draw(5, seed=0), draw(2, seed=1), draw(4, seed=2)]
    with datasets.create_data_set(tmp_path / "deep" / "data", dipeptide, METADATA) as writer:
        for part in parts:
            writer.append(*part)
        assert (writer.num_chunks, writer.num_draws) == (3, 11)
        writer.finish({"mixed": False, "mixing_problems": ["too short."], "r_hat": np.float64(1.5)})
    data = datasets.open_data_set(tmp_path / "deep" / "data")
    u, energies = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert (data.num_draws, data.num_chains, data.num_samples, data.num_dims) == (11, 3, 33, 60)
    np.testing.assert_array_equal(data.u(), u)
    assert data.u().dtype == np.float32
    np.testing.assert_array_equal(data.energy_kj_mol(), energies)
    assert data.energy_kj_mol().dtype == np.float64
    np.testing.assert_array_equal(data.u([3, -1, 3]), u[..., [3, -1, 3]])
    np.testing.assert_array_equal(data.u(np.array([], int)), u[..., :0])
    for chunk, (part_u, part_energies) in zip(data.chunks(), parts, strict=True):
        np.testing.assert_array_equal(chunk.u, part_u)
        np.testing.assert_array_equal(chunk.energy_kj_mol, part_energies)
    assert data.is_finished
    assert data.metadata["diagnostics"] == {"mixed": False, "mixing_problems": ["too short."], "r_hat": 1.5}
    given = {"temperature_kelvin": 300.0, "engine": "device", "seed": 7}
    derived = {"molecule": "alanine_dipeptide", "force_field": "amber96-obc1", "num_dims": 60}
    assert {name: data.metadata[name] for name in given | derived} == given | derived
    assert data.metadata["settings"] == {"num_chains": 3, "step_sizes": [0.1, 0.2], "nested": {"a": 0.5}}
    assert "jax" in data.metadata["environment"]["versions"]
    expected = internal_coordinates(dipeptide)
    np.testing.assert_array_equal(data.coordinates.window_center, expected.window_center)
    assert data.coordinates.domain.num_dims == 60


def test_a_set_can_be_read_while_it_grows(path):
    data = datasets.open_data_set(path)
    assert (data.num_draws, data.num_chains, data.is_finished) == (0, 0, False)
    assert data.u().shape == (0, 0, 60)
    assert data.energy_kj_mol().shape == (0, 0)
    first, second = draw(4, seed=1), draw(3, seed=2)
    with datasets.resume_data_set(path, METADATA) as writer:
        writer.append(*first)
        before = datasets.open_data_set(path)
        writer.append(*second)
        # A data set is what it was when it was opened.
        assert before.num_draws == 4
        np.testing.assert_array_equal(before.u(), first[0])
        np.testing.assert_array_equal(before.energy_kj_mol(), first[1])
        assert not datasets.open_data_set(path).is_finished
        assert datasets.open_data_set(path).num_draws == 7
        writer.finish({"mixed": None, "mixing_problems": []})
    assert datasets.open_data_set(path).is_finished


def test_the_state_comes_with_its_draws(path):
    with datasets.resume_data_set(path, METADATA) as writer:
        assert writer.last_state() is None
        # The end of a warm-up: a state and no draws.
        writer.append(*draw(0), state={"warm/up": np.arange(3.0)})
        np.testing.assert_array_equal(writer.last_state()["warm/up"], [0, 1, 2])
        writer.append(*draw(2), state={"step": 5, "x": np.eye(2)})
    with datasets.resume_data_set(path, METADATA) as writer:
        state = writer.last_state()
        assert set(state) == {"step", "x"}
        assert state["step"] == 5
        np.testing.assert_array_equal(state["x"], np.eye(2))
        writer.append(*draw(1))
        assert writer.last_state() is None
    assert datasets.open_data_set(path).num_draws == 3


KILLED = """
import os, signal, sys
import numpy as np
from cmtjax import datasets

with datasets.resume_data_set(sys.argv[1], {metadata}) as writer:
    u = np.full((4, 3, 60), 0.25)
    writer.append(u, np.zeros((4, 3)))
    replace = os.replace
    os.replace = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
    writer.append(u, np.zeros((4, 3)))
"""


def test_a_kill_while_appending_leaves_whole_chunks(path):
    metadata = {name: METADATA[name] for name in METADATA} | {
        "settings": {"num_chains": 3, "step_sizes": [0.1, 0.2], "nested": {"a": 0.5}}
    }
    script = KILLED.format(metadata=metadata)
    process = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert process.returncode == -9, process.stderr
    assert [entry.name for entry in path.glob(".unfinished-*")] == [".unfinished-chunk_00001.npz"]
    data = datasets.open_data_set(path)
    assert (data.num_draws, data.is_finished) == (4, False)
    np.testing.assert_array_equal(data.u(), np.full((4, 3, 60), 0.25))
    with datasets.resume_data_set(path, metadata) as writer:
        assert list(path.glob(".unfinished-*")) == []
        writer.append(*draw(2))
    np.testing.assert_array_equal(datasets.open_data_set(path).u()[4:], draw(2)[0])


def test_reading_needs_no_openmm(path):
    with datasets.resume_data_set(path, METADATA) as writer:
        writer.append(*draw(2))
    script = (
        "import sys; from cmtjax import datasets; data = datasets.open_data_set(sys.argv[1]); "
        "datasets.omega_rad(data.coordinates, data.u()); "
        "assert not {'openmm', 'mdtraj'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=60)


def test_memory_is_bounded_by_a_chunk(path):
    with datasets.resume_data_set(path, METADATA) as writer:
        for seed in range(12):
            writer.append(*draw(2000, seed))
    chunk_bytes = 2000 * CHAINS * DIMS * 4
    data = datasets.open_data_set(path)
    tracemalloc.start()
    try:
        column = data.u([5])
        for chunk in data.chunks():
            del chunk
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        datasets.open_data_set(path)
        _, opening = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert column.nbytes < 0.3 * chunk_bytes
    # The result, a chunk (and while the next one is read, still the one before), and the archive's buffers.
    assert peak < 3 * chunk_bytes
    assert opening < column.nbytes + 0.5 * chunk_bytes  # shapes come from the headers


def test_only_one_process_writes(path):
    with datasets.resume_data_set(path, METADATA):
        with pytest.raises(RunLockedError, match="in use by another process"):
            datasets.resume_data_set(path, METADATA)
        assert datasets.open_data_set(path).num_draws == 0  # readers need no lock
    datasets.resume_data_set(path, METADATA).close()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 8}, r"seed is 7 there and 8 here\.$"),
        ({"seed": None}, "seed is 7 there and None here"),
        ({"temperature_kelvin": 310.0}, "temperature_kelvin is 300.0 there and 310.0 here"),
        ({"molecule": "alanine_tetrapeptide"}, "molecule is 'alanine_dipeptide' there and 'alanine_tetrapeptide' here"),
        (
            {"settings": METADATA["settings"] | {"num_chains": 4, "new": 1}},
            r"settings\.new is None there and 1 here; settings\.num_chains is 3 there and 4 here",
        ),
        ({"settings": METADATA["settings"] | {"nested": {"a": 1.0}}}, r"settings\.nested\.a is 0.5 there and 1.0 here"),
    ],
)
def test_resuming_with_other_metadata_is_refused(path, changes, message):
    with pytest.raises(ValueError, match=message):
        datasets.resume_data_set(path, METADATA | changes)
    datasets.resume_data_set(path, METADATA | {"environment": {"other": "machine"}}).close()


def test_resuming_a_finished_set_is_refused(path):
    with datasets.resume_data_set(path, METADATA) as writer:
        writer.finish({"mixed": True, "mixing_problems": []})
        with pytest.raises(ValueError, match="is closed"):
            writer.append(*draw(1))
    with pytest.raises(ValueError, match="is finished"):
        datasets.resume_data_set(path, METADATA)


def test_a_directory_that_will_not_do(dipeptide, path, tmp_path):
    for function in (datasets.open_data_set, lambda where: datasets.resume_data_set(where, METADATA).close()):
        with pytest.raises(FileNotFoundError, match="nowhere"):
            function(tmp_path / "nowhere")
        (tmp_path / "other").mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=r"has no metadata\.json"):
            function(tmp_path / "other")
    with pytest.raises(ValueError, match="has something in it"):
        datasets.create_data_set(path, dipeptide, METADATA)
    (path / "metadata.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        datasets.open_data_set(path)
    (path / "metadata.json").write_text("{}")
    with pytest.raises(ValueError, match="num_dims"):
        datasets.open_data_set(path)


def test_chunks_that_do_not_fit_are_refused(path):
    with datasets.resume_data_set(path, METADATA) as writer:
        for seed in range(3):
            writer.append(*draw(2, seed))
    chunk = path / "chunk_00001.npz"
    u, energies = draw(2)
    np.savez(chunk, u=u[:, :2], energy_kj_mol=energies[:, :2])
    with pytest.raises(ValueError, match=r"chunk_00001\.npz must hold u of shape \(draws, 3, 60\).*got \(2, 2, 60\)"):
        datasets.open_data_set(path)
    np.savez(chunk, u=u, energy_kj_mol=energies[:1])
    with pytest.raises(ValueError, match=r"got \(2, 3, 60\) and \(1, 3\)"):
        datasets.open_data_set(path)
    np.savez(chunk, u=u)
    with pytest.raises(ValueError, match=r"chunk_00001\.npz cannot be read.*energy_kj_mol"):
        datasets.open_data_set(path)
    chunk.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"chunk_00001\.npz cannot be read"):
        datasets.open_data_set(path)
    chunk.unlink()
    with pytest.raises(ValueError, match=r"lacks chunk_00001\.npz, though it has a later one"):
        datasets.open_data_set(path)


def test_draws_that_do_not_fit_are_refused(path):
    u, energies = draw(2)
    with datasets.resume_data_set(path, METADATA) as writer:
        with pytest.raises(ValueError, match=r"u must have shape \(draws, 3, 60\) .* got \(2, 3, 59\)"):
            writer.append(u[..., :-1], energies)
        with pytest.raises(ValueError, match=r"u must have shape .* got \(60,\)"):
            writer.append(u[0, 0], energies)
        with pytest.raises(ValueError, match=r"energy_kj_mol must have shape \(2, 3\), got \(2,\)"):
            writer.append(u, energies[:, 0])
        with pytest.raises(ValueError, match="u must be finite, got 1 values that are not"):
            writer.append(np.where(np.arange(60) + np.zeros_like(u) == 5, np.nan, u)[:1, :1], energies[:1, :1])
        assert writer.num_chunks == 0
        writer.append(u, energies)
        with pytest.raises(ValueError, match=r"u must have shape \(draws, 3, 60\)"):
            writer.append(u[:, :2], energies[:, :2])
        with pytest.raises(ValueError, match="it lacks \\['mixing_problems'\\]"):
            writer.finish({"mixed": True})
    with pytest.raises(ValueError, match="columns must be integers in"):
        datasets.open_data_set(path).u([60])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"molecule": "other"}, "molecule must be the molecule's, 'alanine_dipeptide', got 'other'"),
        ({"num_dims": 3}, "num_dims must be"),
        ({"chains": 3}, r"unknown keys \['chains'\]"),
        ({"diagnostics": {}}, r"unknown keys \['diagnostics'\]"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(dipeptide, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        datasets.create_data_set(tmp_path / "data", dipeptide, METADATA | changes)
    with pytest.raises(ValueError, match=r"it lacks \['seed'\]"):
        datasets.create_data_set(tmp_path / "data", dipeptide, {n: v for n, v in METADATA.items() if n != "seed"})
    assert not (tmp_path / "data").exists()


def test_metadata_is_plain_json(path):
    assert json.loads((path / "metadata.json").read_text())["finished"] is False
