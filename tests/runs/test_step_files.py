"""Files of arrays, one for each annealing step: order, trimming, damage."""

import numpy as np
import pytest

from cmtjax.runs.step_files import StepFiles


def _counts(step):
    return np.arange(6, dtype=np.int32).reshape(2, 3) * step


def _files_of(path, num_steps):
    files = StepFiles(path / "counts")
    for step in range(1, num_steps + 1):
        files.append(step, {"counts": _counts(step), "mean": np.float32(step)})
    return files


def test_what_was_appended_is_read(tmp_path):
    steps, arrays = StepFiles(tmp_path / "counts").read()
    assert steps.shape == (0,)
    assert arrays == {}
    steps, arrays = _files_of(tmp_path, 11).read()
    assert steps.tolist() == list(range(1, 12))
    assert arrays["counts"].dtype == np.int32
    np.testing.assert_array_equal(arrays["counts"], [_counts(step) for step in steps])
    np.testing.assert_array_equal(arrays["mean"], steps)
    assert len(list((tmp_path / "counts").iterdir())) == 11  # no temporary file stays


def test_steps_grow(tmp_path):
    files = _files_of(tmp_path, 2)
    with pytest.raises(ValueError, match=r"step must be above 2, .* got 2"):
        files.append(2, {"counts": _counts(5)})
    np.testing.assert_array_equal(files.read()[1]["counts"][-1], _counts(2))


def test_later_steps_are_dropped(tmp_path):
    files = _files_of(tmp_path, 4)
    files.trim(4)
    assert files.read()[0].tolist() == [1, 2, 3, 4]
    files.trim(2)
    files.append(3, {"counts": _counts(7), "mean": np.float32(0)})
    np.testing.assert_array_equal(files.read()[1]["counts"], [_counts(1), _counts(2), _counts(7)])
    files.trim(None)
    assert not files.directory.exists()
    files.trim(None)  # of nothing


@pytest.mark.parametrize("content", [b"", b"PK", "half", "flipped"])
def test_what_is_damaged_or_different_is_left_out(tmp_path, content, caplog):
    files = _files_of(tmp_path, 4)
    path = files.directory / "000002.npz"
    whole = path.read_bytes()
    flipped = whole[:60] + bytes(255 - byte for byte in whole[60:120]) + whole[120:]
    path.write_bytes({"half": whole[:100], "flipped": flipped}.get(content, content))
    files.append(5, {"counts": _counts(5)[:1], "mean": np.float32(5)})
    files.append(6, {"counts": _counts(6)[:1], "mean": np.float32(6)})
    steps, arrays = files.read()
    assert steps.tolist() == [5, 6]  # the shape of the newest
    assert arrays["counts"].shape == (2, 1, 3)
    files.trim(4)
    steps, arrays = files.read()
    assert steps.tolist() == [1, 3, 4]
    np.testing.assert_array_equal(arrays["counts"], [_counts(step) for step in steps])
    assert "000002.npz cannot be read" in caplog.text
    assert "000004.npz has other arrays" in caplog.text
