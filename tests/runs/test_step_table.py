"""The CSV files of a run: exact numbers, torn lines, trimming."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from cmtjax.runs.tables import StepTable


def _table_with(path, num_rows):
    table = StepTable(path / "metrics.csv")
    for step in range(1, num_rows + 1):
        table.append({"annealing_step": step, "loss": step / 3})
    return table


def test_header_order_and_types(tmp_path):
    table = StepTable(tmp_path / "metrics.csv")
    table.append({"loss": jnp.float32(0.5), "annealing_step": jnp.int32(1), "count": np.int64(3), "ok": True})
    table.append({"annealing_step": 2, "loss": float("nan"), "ok": False, "count": 4})
    assert table.path.read_bytes() == b"annealing_step,loss,count,ok\n1,0.5,3,1\n2,nan,4,0\n"
    columns = table.read()
    assert columns["annealing_step"].dtype == columns["count"].dtype == np.int64
    np.testing.assert_array_equal(columns["loss"], [0.5, np.nan])


@hypothesis.given(st.lists(st.floats(), min_size=1, max_size=5))
def test_floats_read_back_exactly(tmp_path_factory, values):
    table = StepTable(tmp_path_factory.mktemp("table") / "metrics.csv")
    for step, value in enumerate(values):
        table.append({"annealing_step": step, "value": value})
    np.testing.assert_array_equal(table.read()["value"], values)


def test_every_torn_byte_count_is_trimmed_to_whole_rows(tmp_path):
    table = _table_with(tmp_path, 3)
    whole = table.path.read_bytes()
    line_ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for length in range(len(whole) + 1):
        table.path.write_bytes(whole[:length])
        num_rows = max(sum(end <= length for end in line_ends) - 1, 0)  # the first line is the header
        assert len(table.read().get("loss", ())) == num_rows
        table.trim(3)
        assert (table.path.read_bytes() if table.path.exists() else b"") == (
            whole[: line_ends[num_rows]] if num_rows else b""
        )
        table.append({"annealing_step": 9, "loss": 0.0})
        assert len(table.read()["loss"]) == num_rows + 1
        table.path.unlink()


def test_rows_after_the_step_are_dropped(tmp_path):
    table = _table_with(tmp_path, 5)
    before = table.path.read_bytes()
    table.trim(5)
    assert table.path.read_bytes() == before
    table.trim(2)
    assert table.read()["annealing_step"].tolist() == [1, 2]
    table.trim(None)
    assert not table.path.exists()
    assert table.read() == {}
    table.trim(None)


def test_wrong_rows_are_refused_and_change_nothing(tmp_path):
    table = _table_with(tmp_path, 2)
    before = table.path.read_bytes()
    with pytest.raises(ValueError, match="must have the column 'annealing_step'"):
        table.append({"loss": 1.0})
    with pytest.raises(ValueError, match=r"missing \['loss'\], unknown \['lose'\]"):
        table.append({"annealing_step": 3, "lose": 1.0})
    with pytest.raises(ValueError, match="annealing_step must be above 2"):
        table.append({"annealing_step": 2, "loss": 1.0})
    with pytest.raises(ValueError, match="column 'loss' must be one number"):
        table.append({"annealing_step": 3, "loss": np.zeros(2)})
    assert table.path.read_bytes() == before
    table.path.write_bytes(before + b"3,0.")
    with pytest.raises(ValueError, match="torn line"):
        table.append({"annealing_step": 3, "loss": 1.0})


def test_damaged_row_in_the_middle_is_an_error(tmp_path):
    table = _table_with(tmp_path, 2)
    table.path.write_bytes(table.path.read_bytes() + b"3,1.0,7\n")
    with pytest.raises(ValueError, match="another number of columns"):
        table.read()
