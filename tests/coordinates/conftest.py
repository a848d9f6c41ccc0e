"""The published molecules' coordinates, built and compiled once per test process."""

import functools
import types

import jax
import numpy as np
import pytest

from cmtjax import molecules
from cmtjax.coordinates import internal_coordinates


@functools.cache
def _case(name):
    molecule = molecules.published(name)
    coordinates = internal_coordinates(molecule)
    return types.SimpleNamespace(
        molecule=molecule,
        coordinates=coordinates,
        to_physical=jax.jit(coordinates.to_physical),
        from_physical=jax.jit(coordinates.from_physical),
    )


@pytest.fixture(scope="session")
def case():
    return _case


@pytest.fixture(scope="session")
def likely_points():
    """Points as a new flow draws them: torsions uniform, bonds and angles normal(0.5, 0.1)."""

    def draw(coordinates, num_points, seed):
        generator = np.random.default_rng(seed)
        size = (num_points, coordinates.domain.num_dims)
        narrow = np.clip(generator.normal(0.5, 0.1, size), 0.0, 1.0)
        return np.where(coordinates.domain.is_circular, generator.uniform(size=size), narrow)

    return draw


@pytest.fixture(scope="session")
def make_z_matrix():
    """A made-up molecule of five atoms, every reference angle 1.9 rad."""

    def make(**changes):
        fields = {
            "atom_names": tuple(f"MOL0:C{index}" for index in range(5)),
            "initial_atoms": [0, 1, 2],
            "rows": [[3, 2, 1, 0], [4, 3, 2, 1]],
            "bond_reference_nm": [0.15] * 4,
            "bond_is_constrained": [False] * 4,
            "angle_reference_rad": [1.9] * 3,
            "torsion_start": [0.0, 0.0],
            "torsion_width": [1.0, 1.0],
            "ramachandran_rows": [],
        }
        return molecules.ZMatrix(**(fields | changes))

    return make
