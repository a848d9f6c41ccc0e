import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from cmtjax.molecules.z_matrix import ZMatrix


def chain_of_five(**changes):
    fields = {
        "atom_names": ("X0:A", "X0:B", "X0:C", "X0:D", "X0:E"),
        "initial_atoms": [1, 0, 2],
        "rows": [[3, 2, 0, 1], [4, 3, 2, 0]],
        "bond_reference_nm": [0.1, 1 / 7, 0.15, np.nextafter(0.11, 1)],
        "bond_is_constrained": [True, False, False, True],
        "angle_reference_rad": [2.0, np.pi / 3, 1.9],
        "torsion_start": [0.0, 0.8],
        "torsion_width": [1.0, 0.5],
        "ramachandran_rows": [[0, 1]],
    }
    return ZMatrix(**(fields | changes))


def test_json_round_trip_is_exact(tmp_path):
    z_matrix = chain_of_five()
    z_matrix.save(tmp_path / "z.json")
    loaded = ZMatrix.load(tmp_path / "z.json")
    for field in dataclasses.fields(ZMatrix):
        before, after = getattr(z_matrix, field.name), getattr(loaded, field.name)
        np.testing.assert_array_equal(before, after)
        assert np.asarray(before).dtype == np.asarray(after).dtype
    json.loads((tmp_path / "z.json").read_text())


def test_no_pairs_keep_their_shape(tmp_path):
    z_matrix = chain_of_five(ramachandran_rows=[])
    z_matrix.save(tmp_path / "z.json")
    assert ZMatrix.load(tmp_path / "z.json").ramachandran_rows.shape == (0, 2)


def test_arrays_are_read_only():
    with pytest.raises(ValueError, match="read-only"):
        chain_of_five().torsion_start[0] = 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rows": [[3, 2, 0, 1], [3, 2, 0, 1]]}, "row 1 places atom 3 a second time"),
        ({"rows": [[3, 4, 0, 1], [4, 3, 2, 0]]}, "row 0 needs three different atoms placed before"),
        ({"rows": [[3, 2, 0, 2], [4, 3, 2, 0]]}, "row 0 needs three different atoms"),
        ({"rows": [[3, 2, 0, 1], [7, 3, 2, 0]]}, r"in \[0, 5\), got \[7\]"),
        ({"rows": [[3, 2, 0, 1]]}, r"rows must have shape \(2, 4\) for 5 atoms"),
        ({"initial_atoms": [1, 1, 2]}, "initial_atoms must be three different atoms"),
        ({"bond_reference_nm": [0.1, 0.1, -0.1, 0.1]}, "bond_reference_nm must be positive and finite"),
        ({"bond_reference_nm": [0.1, 0.1, np.nan, 0.1]}, "bond_reference_nm must be positive and finite"),
        ({"angle_reference_rad": [2.0, np.pi, 1.0]}, r"angle_reference_rad must be in \(0, π\)"),
        ({"torsion_start": [1.0, 0.0]}, r"torsion_start must be in \[0, 1\), got 1.0 at index 0"),
        ({"torsion_width": [0.0, 0.5]}, r"torsion_width must be in \(0, 1\]"),
        ({"ramachandran_rows": [[0, 2]]}, r"ramachandran_rows must be rows in \[0, 2\)"),
        ({"ramachandran_rows": [[0, 1, 1]]}, "ramachandran_rows must have shape"),
        ({"atom_names": ("X0:A",) * 3}, "at least 4 atoms"),
    ],
)
def test_impossible_z_matrices_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        chain_of_five(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [("not json", "is not JSON"), ("[]", "must hold the fields"), ('{"rows": []}', "must hold the fields")],
)
def test_damaged_files_are_refused(tmp_path, text, message):
    path = tmp_path / "z.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        ZMatrix.load(path)


def test_loading_needs_no_openmm():
    code = "import sys; import cmtjax.molecules.z_matrix; sys.exit('openmm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
