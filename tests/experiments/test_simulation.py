"""simulate.py beside its device engine: dynamics in OpenMM, what chains tell about themselves, bookkeeping."""

import importlib
import json
import pathlib
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from cmtjax import datasets, molecules
from cmtjax.coordinates import internal_coordinates


@pytest.fixture
def module(monkeypatch):
    """A module beside the programs, by its name."""
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2] / "experiments"))
    return importlib.import_module


def test_dynamics_in_openmm_end_in_the_same_samples_after_a_stop(programs, tmp_path):
    path, stopped = tmp_path / "whole", tmp_path / "stopped"
    command = (
        "experiments/simulate.py",
        "--engine=openmm",
        "--molecule=alanine_dipeptide",
        "--platform=Reference",
        "--num_workers=1",
        "--num_chains=2",
        "--temperatures=300,400",
        "--warm_up_draws=2",
        "--num_draws=6",
        "--draws_per_chunk=2",
        "--steps_per_draw=5",
    )
    result = programs.run(*command, f"--data={path}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 chains of 2 temperatures on Reference, time step 1 fs" in result.stdout
    stored = datasets.open_data_set(path)
    assert (stored.num_draws, stored.num_chains) == (6, 2)
    diagnostics = stored.metadata["diagnostics"]
    assert diagnostics["target_evaluations"] == 2 * 2 * 5 * (2 + 6)
    assert diagnostics["mixed"] is False
    assert len(np.unique(stored.energy_kj_mol())) == 12
    # The first of the two draws of warm-up is not followed by exchanges, as in the papers.
    with np.load(sorted(path.glob("chunk_*.npz"))[0]) as arrays:
        assert (arrays["state_num_blocks"], arrays["state_num_exchanges"]) == (2, 1)
    with np.load(sorted(path.glob("chunk_*.npz"))[-1]) as arrays:
        assert (arrays["state_num_blocks"], arrays["state_num_exchanges"]) == (8, 7)
        # One pair of temperatures, tried after every second draw of the six that are kept.
        assert arrays["state_tally"][1] == 2 * 3
    shutil.copytree(path, stopped)
    for chunk in sorted(stopped.glob("chunk_*.npz"))[2:]:  # all but warm-up and two draws
        chunk.unlink()
    metadata = json.loads((stopped / "metadata.json").read_text())
    del metadata["diagnostics"]
    # As if the first start had chosen the platform: the second keeps to it and does not measure again.
    metadata["settings"]["platform"] = ""
    (stopped / "metadata.json").write_text(json.dumps({**metadata, "finished": False}))
    result = programs.run(*command, "--platform=", f"--data={stopped}")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "after 2 draws" in result.stdout
    assert "2 chains of 2 temperatures on Reference" in result.stdout
    again = datasets.open_data_set(stopped)
    np.testing.assert_array_equal(again.u(), stored.u())
    np.testing.assert_array_equal(again.energy_kj_mol(), stored.energy_kj_mol())
    assert again.metadata["diagnostics"] == diagnostics


def test_round_trips_of_openmm_replicas(module):
    simulate_openmm = module("simulate_openmm")
    # Which walkers are at the three temperatures, one chain: walker 0 goes up, down and up again, 2 comes down first.
    path = [[0, 1, 2], [1, 0, 2], [1, 2, 0], [2, 1, 0], [2, 0, 1], [0, 2, 1], [0, 1, 2], [1, 0, 2], [1, 2, 0]]
    # Trips end where a walker is at the coldest temperature that was at the hottest after the coldest.
    expected = [0, 0, 0, 0, 0, 1, 1, 2, 2]
    rates = np.array([[0.5, np.nan], [np.nan, 0.25]])
    exchanges = simulate_openmm.Exchanges(1, 3)
    for index, (walkers, trips) in enumerate(zip(path, expected, strict=True)):
        dynamics = SimpleNamespace(
            exchange=lambda i=index: SimpleNamespace(acceptance=rates[None, i % 2]),
            state=lambda w=walkers: {"walkers": np.array([w])},
        )
        exchanges.attempt(dynamics, is_kept=index > 0)
        stored, exchanges = exchanges.state(), simulate_openmm.Exchanges(1, 3)
        exchanges.set_state(stored)
        assert exchanges.num_round_trips == trips
    np.testing.assert_array_equal(exchanges.acceptance(), [0.5, 0.25])
    np.testing.assert_array_equal(stored["tally"][1], [4, 4])


def test_rates_are_summed_also_where_there_are_none(module):
    padded = module("simulate_device")._padded
    rates = np.array([[[0.5, np.nan]], [[0.25, 1.0]]])
    np.testing.assert_array_equal(padded(rates, 3), [[0.75, 1.0, 0.0], [2, 1, 0]])
    # One temperature alone has nobody to exchange with.
    np.testing.assert_array_equal(padded(np.zeros((4, 1, 0)), 1), [[0.0], [0.0]])


def test_rare_regions_are_judged_by_the_scatter_of_the_chains(module):
    judge = module("convergence").judge_phi_positive
    phi = np.full((1000, 16, 3), -1.2)
    phi[::50, :, 0] = 1.0 + 2 * np.pi  # all chains, 2 % of the time; angles may have any range
    phi[::50, :4, 1] = 2.4  # four chains only
    phi[::50, 4:, 1] = 2.6  # not of the region
    weights, problems, notes = judge(phi, ["ALA1", "ALA2", "PRO3"])
    assert weights["ALA1"]["weight"] == pytest.approx(0.02)
    assert weights["ALA1"]["num_visiting_chains"] == 16
    # Means of 2 % four times and 0 twelve times: the variance is that of (1, 0) with shares 1/4 and 3/4.
    assert weights["ALA2"]["standard_error"] == pytest.approx(0.02 * np.sqrt(0.25 * 0.75 / 15))
    (problem,) = problems
    assert problem == "the weight of 0 < φ < 2.5 rad of ALA2 is known to 45 % only: (0.5 ± 0.2) %."
    assert weights["PRO3"] == {"weight": 0.0, "standard_error": 0.0, "r_hat": None, "num_visiting_chains": 0}
    (note,) = notes
    assert note.startswith("no chain visits 0 < φ < 2.5 rad of PRO3")
    # Two chains have no scatter to speak of.
    weights, problems, _ = judge(phi[:, 3:5], ["ALA1", "ALA2", "PRO3"])
    assert weights["ALA2"]["standard_error"] is None
    assert problems == []


def test_a_finished_set_is_judged_as_a_whole_and_has_histograms_of_each_pair(module, tmp_path, capsys):
    finish = module("simulation").finish
    molecule = molecules.published("alanine_tetrapeptide")
    coordinates = internal_coordinates(molecule)
    rng = np.random.default_rng(0)
    # Independent points: no torsion has a problem. But φ of the second residue is positive in one chain alone.
    u = rng.uniform(size=(200, 5, coordinates.domain.num_dims))
    first, second, third = coordinates.ramachandran_pairs[:, 0]
    u[..., [first, second, third]] = _box_of(coordinates, [first, second, third], -1.2 + 0.1 * rng.random((200, 5, 3)))
    u[::20, :, third] = _box_of(coordinates, third, 1.0)
    u[::20, 0, second] = _box_of(coordinates, second, 1.0)
    writer = datasets.create_data_set(
        tmp_path / "set", molecule, {"temperature_kelvin": 300.0, "engine": "device", "seed": 0, "settings": {}}
    )
    writer.append(u, rng.normal(size=u.shape[:2]))
    finish(writer, {"exchange_acceptance": [0.5, 0.02], "round_trips": 3})
    diagnostics = datasets.open_data_set(tmp_path / "set").metadata["diagnostics"]
    assert diagnostics["mixed"] is False
    assert diagnostics["mixing_problems"][-3:] == [
        "temperatures 1 and 2 exchange with a probability of 0.020, below 0.1.",
        "3 round trips between the coldest and the hottest temperature are fewer than the 5 chains.",
        "the weight of 0 < φ < 2.5 rad of ALA2 is known to 100 % only: (1 ± 1) %.",
    ]
    assert list(diagnostics["phi_positive"]) == ["ALA1", "ALA2", "ALA3"]
    assert diagnostics["phi_positive"]["ALA3"]["weight"] == pytest.approx(0.05)
    assert "no chain visits 0 < φ < 2.5 rad of ALA1" in capsys.readouterr().out
    with np.load(tmp_path / "set" / "ramachandran.npz") as arrays:
        assert arrays["pair_names"].tolist() == ["ALA1", "ALA2", "ALA3"]
        assert arrays["masses"].shape == (3, 100, 100)
        # Sums of a thousand numbers in single precision.
        np.testing.assert_allclose(arrays["masses"].sum(axis=(1, 2)), 1.0, atol=1e-5)
        # φ lies along the first axis: positive in the upper half of it.
        np.testing.assert_allclose(arrays["masses"][:, 50:].sum(axis=(1, 2)), [0.0, 0.01, 0.05], atol=1e-6)


def _box_of(coordinates, dims, angles_rad):
    """u of torsions with full ranges."""
    return np.mod((angles_rad - coordinates.window_center[dims]) / (2 * np.pi) + 0.5, 1.0)
