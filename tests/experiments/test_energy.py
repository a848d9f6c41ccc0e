"""The choice between the energy in JAX and the pool of OpenMM processes."""

import dataclasses
import pathlib
import sys

import numpy as np
import openmm
import pytest

from cmtjax import molecules, runs


@pytest.fixture
def open_energy(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(pathlib.Path(__file__).parents[2] / "experiments"), *sys.path])
    import energy

    return energy.open_energy


def config(backend):
    return {"seed": 0, "energy": {"backend": backend, "num_workers": 1, "platform": "CPU"}}


def unsupported():
    molecule = molecules.published("alanine_dipeptide")
    system = openmm.XmlSerializer.clone(molecule.system)
    force = openmm.CustomBondForce("0.1*r")
    force.addBond(0, 21)
    system.addForce(force)
    return dataclasses.replace(molecule, system=system)


def test_auto_takes_the_device_and_saves_the_energy(tmp_path, open_energy):
    molecule = molecules.published("alanine_dipeptide")
    with runs.open_run(tmp_path / "run", config("auto")) as run:
        with open_energy([run], molecule) as energy:
            assert energy.backend == "amber"
            assert "every force is understood" in energy.description
        assert run.environment["energy_backend"] == "amber"
        assert run.energy_path.exists()


def test_auto_falls_back_to_the_pool_says_why_and_keeps_to_it(tmp_path, open_energy):
    molecule = unsupported()
    with runs.open_run(tmp_path / "run", config("auto")) as run:
        with open_energy([run], molecule) as energy:
            assert energy.backend == "openmm"
            assert "CustomBondForce" in energy.description
            assert np.isfinite(energy.function(molecule.positions_nm.astype(np.float32)))
        assert run.environment["energy_backend"] == "openmm"
        assert not run.energy_path.exists()
        with open_energy([run], molecules.published("alanine_dipeptide")) as energy:
            assert (energy.backend, "first start" in energy.description) == ("openmm", True)


def test_the_platform_is_that_of_the_first_start(tmp_path, open_energy):
    molecule = unsupported()
    with runs.open_run(tmp_path / "run", config("openmm")) as run:
        run.update_environment({"openmm_platform": "Reference"})
        message = "platform must be 'Reference', as at the first start, or empty; got 'CPU'"
        with pytest.raises(ValueError, match=message), open_energy([run], molecule):
            pass


def test_amber_refuses_what_it_does_not_understand(tmp_path, open_energy):
    with (
        runs.open_run(tmp_path / "run", config("amber")) as run,
        pytest.raises(ValueError, match="CustomBondForce"),
        open_energy([run], unsupported()),
    ):
        pass
