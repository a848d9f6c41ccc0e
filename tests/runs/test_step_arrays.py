"""The file of arrays, one for each annealing step: order, shapes, trimming."""

import numpy as np
import pytest

from cmtjax.runs.step_arrays import StepArrays


def _counts(step):
    return np.arange(6, dtype=np.int32).reshape(2, 3) * step


def _arrays_of(path, num_steps):
    arrays = StepArrays(path / "counts.npz")
    for step in range(1, num_steps + 1):
        arrays.append(step, _counts(step))
    return arrays


def test_what_was_appended_is_read(tmp_path):
    steps, arrays = StepArrays(tmp_path / "counts.npz").read()
    assert steps.shape == arrays.shape == (0,)
    steps, arrays = _arrays_of(tmp_path, 3).read()
    assert steps.tolist() == [1, 2, 3]
    assert arrays.dtype == np.int32
    np.testing.assert_array_equal(arrays, [_counts(1), _counts(2), _counts(3)])
    assert [entry.name for entry in tmp_path.iterdir()] == ["counts.npz"]


def test_steps_grow_and_shapes_stay(tmp_path):
    arrays = _arrays_of(tmp_path, 2)
    before = arrays.path.read_bytes()
    with pytest.raises(ValueError, match=r"step must be above 2, .* got 2"):
        arrays.append(2, _counts(2))
    with pytest.raises(ValueError, match=r"array must be of shape \(2, 3\) and int32, .* got \(3, 2\) and int32"):
        arrays.append(3, _counts(3).T)
    with pytest.raises(ValueError, match=r"got \(2, 3\) and float64"):
        arrays.append(3, _counts(3).astype(float))
    assert arrays.path.read_bytes() == before


def test_later_steps_are_dropped(tmp_path):
    arrays = _arrays_of(tmp_path, 4)
    before = arrays.path.read_bytes()
    arrays.trim(4)
    assert arrays.path.read_bytes() == before
    arrays.trim(2)
    np.testing.assert_array_equal(arrays.read()[1], [_counts(1), _counts(2)])
    arrays.append(3, _counts(7))
    assert arrays.read()[0].tolist() == [1, 2, 3]
    arrays.trim(0)
    assert not arrays.path.exists()
    arrays.trim(None)  # of nothing
    _arrays_of(tmp_path, 1).trim(None)
    assert not arrays.path.exists()
