"""The published molecules, built once per test process, and the reference data."""

import functools
import json
import pathlib

import pytest

from cmtjax import molecules

REFERENCE = pathlib.Path(__file__).parents[1] / "reference"


@functools.cache
def _published(name):
    return molecules.published(name)


@pytest.fixture(scope="session")
def published():
    return _published


@pytest.fixture(scope="session")
def reference_z_matrices():
    return json.loads((REFERENCE / "z_matrices.json").read_text())


@pytest.fixture(scope="session")
def reference_energies():
    return json.loads((REFERENCE / "energies.json").read_text())
