"""truth_sets.py: which data sets may be taken together as the truth, and the verdict on them together."""

import importlib
import json
import pathlib
import shutil

import numpy as np
import pytest

from cmtjax import datasets, mcmc, molecules, runs
from cmtjax.coordinates import internal_coordinates

NUM_DRAWS = 500


@pytest.fixture
def truth_sets(monkeypatch):
    """The module beside the programs."""
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2] / "experiments"))
    return importlib.import_module("truth_sets")


@pytest.fixture(scope="module")
def molecule():
    return molecules.published("alanine_dipeptide")


@pytest.fixture(scope="module")
def coordinates(molecule):
    return internal_coordinates(molecule)


@pytest.fixture
def run(molecule, tmp_path):
    """As much of a run as data sets are compared with."""
    molecule.save(tmp_path / "run" / "molecule")
    (tmp_path / "run" / "config.json").write_text(json.dumps({"temperature_kelvin": 300.0}))
    return runs.open_existing(tmp_path / "run")


@pytest.fixture
def make_set(molecule, coordinates, tmp_path):
    """Makes a data set of independent draws, with a given number of φ > 0 in each chain, 500 draws long."""

    def make(name, num_positive, *, change=None, is_finished=True, engine="device", **diagnostics):
        # Of the name and not of its hash, which differs from process to process.
        rng = np.random.default_rng(list(name.encode()))
        u = rng.random((NUM_DRAWS, len(num_positive), coordinates.domain.num_dims))
        phi = np.where(
            np.arange(NUM_DRAWS)[:, None] % 100 < np.array(num_positive) / 5, 1.0, rng.uniform(-2.2, -0.2, u.shape[:2])
        )
        ((dim, _),) = coordinates.ramachandran_pairs
        u[..., dim] = np.mod((phi - coordinates.window_center[dim]) / (2 * np.pi) + 0.5, 1.0)
        if change is not None:
            change(u)
        metadata = {"temperature_kelvin": 300.0, "engine": engine, "seed": 0, "settings": {}}
        with datasets.create_data_set(tmp_path / name, molecule, metadata) as writer:
            for part in np.split(u, 5):
                writer.append(part, rng.normal(size=part.shape[:2]))
            if is_finished:
                known = {"mixed": True, "mixing_problems": [], "exchange_acceptance": [0.5], "round_trips": 100}
                writer.finish({**known, **diagnostics})
        return tmp_path / name

    return make


def test_data_sets_that_cannot_stand_side_by_side_are_refused(truth_sets, run, make_set, tmp_path):
    open_data_sets = truth_sets.open_data_sets
    path, same, other = make_set("first", [5, 5, 5, 5]), tmp_path / "same", tmp_path / "other"
    shutil.copytree(path, same)
    shutil.copytree(path, other)
    metadata = json.loads((other / "metadata.json").read_text())
    for chunk in sorted(other.glob("chunk_*.npz")):
        with np.load(chunk) as arrays:
            reversed_arrays = {name: arrays[name][::-1] for name in ("u", "energy_kj_mol")}
        np.savez(chunk, **reversed_arrays)
    sets = open_data_sets([path, other], run)
    assert [data.path for data in sets] == [path, other]
    assert truth_sets.describe_disagreement(sets) == ""
    (other / "metadata.json").write_text(json.dumps({**metadata, "engine": "openmm"}))
    sets = open_data_sets([path, other], run)
    assert "different engines (device, openmm)" in truth_sets.describe_disagreement(sets)
    for sets, text in (
        ([], "must be data sets with commas between them, got ''"),
        ([path, ""], "must be data sets with commas between them"),
        ([path, path], "hold the same samples"),
        ([path, same], "hold the same samples"),
        ([path, tmp_path / "none"], "does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=text):
            open_data_sets(sets, run)
    (other / "metadata.json").write_text(json.dumps({**metadata, "seed": 1, "temperature_kelvin": 310.0}))
    with pytest.raises(ValueError, match=rf"the run's temperature, 300.0 K, got 310.0 K in {other}"):
        open_data_sets([path, other], run)
    text = json.dumps(metadata).replace("amber96-obc1", "amber99sbildn-obc2")
    (other / "metadata.json").write_text(text)
    with pytest.raises(ValueError, match="must have the run's force field, amber96-obc1, got amber99sbildn-obc2"):
        open_data_sets([other], run)
    (other / "metadata.json").write_text(json.dumps(metadata))
    chunks = sorted(other.glob("chunk_*.npz"))
    chunks[-1].unlink()
    with pytest.raises(ValueError, match=r"of one length, got 500 draws in .* and 400 in"):
        open_data_sets([path, other], run)
    chunks[-2].unlink()
    chunks[-3].unlink()
    with pytest.raises(ValueError, match="at least 1000 samples, got 800"):
        open_data_sets([other], run)


@pytest.fixture
def judge(truth_sets, run, coordinates):
    """Opens, reads and judges data sets by their paths: the sets and the verdict."""

    def verdict(*paths):
        sets = truth_sets.open_data_sets(paths, run)
        return sets, truth_sets.judge(sets, truth_sets.read(sets, coordinates), coordinates)

    return verdict


# Chains in which φ > 0 has 1 and 3 % in turns: eight know the weight of 2 % to 19 and four to 29 %.
UNEVEN = [5, 15, 5, 15]


def test_sets_that_know_a_rare_region_together_have_mixed(truth_sets, judge, make_set):
    problem = "the weight of 0 < φ < 2.5 rad of ALA1 is known to 29 % only: (2.0 ± 0.6) %."
    paths = [make_set(name, UNEVEN, mixed=False, mixing_problems=[problem]) for name in ("a", "b")]
    # What the sets say of themselves is what the same judge says of each.
    for path in paths:
        sets, alone = judge(path)
        assert (alone.mixed, alone.problems, alone.numbers) == (False, [problem], {})
        assert truth_sets.describe_together(sets, alone) == ""
        assert truth_sets.doubts(sets, alone) == [truth_sets.describe(sets[0])]
        phi = _phi_rad(truth_sets, sets)
        assert truth_sets.convergence.judge_phi_positive(phi, ["ALA1"])[1] == [problem]
    sets, together = judge(*paths)
    assert (together.mixed, together.problems) == (True, [])
    assert truth_sets.doubts(sets, together) == []
    assert truth_sets.describe_together(sets, together) == "truth: these 2 data sets as one, 8 chains, mixed"
    stored = truth_sets.metadata(sets, together)
    assert (stored["evaluation_data_mixed"], stored["evaluation_data_problems"]) == (True, [])
    json.dumps(stored)
    # The worst of all torsions and the energy, here by the sets' own files.
    u = np.concatenate([data.u() for data in sets], axis=1)
    torsions = np.flatnonzero(sets[0].coordinates.domain.groups == sets[0].coordinates.domain.TORSIONS)
    center, width = sets[0].coordinates.window_center, sets[0].coordinates.window_width
    of_torsions = mcmc.angle_diagnostics(center[torsions] + width[torsions] * (u[..., torsions] - 0.5))
    energy = np.concatenate([data.energy_kj_mol() for data in sets], axis=1)
    of_energy = mcmc.chain_diagnostics(energy[..., None])
    assert stored["evaluation_data_r_hat"] == max(of_torsions.r_hat.max(), of_energy.r_hat[0])
    assert stored["evaluation_data_ess"] == min(of_torsions.ess.min(), of_energy.ess[0])


def _phi_rad(truth_sets, sets):
    coordinates = sets[0].coordinates
    phi = coordinates.ramachandran_pairs[:, 0]
    return truth_sets.convergence.angles_rad(coordinates, np.concatenate([data.u(phi) for data in sets], axis=1), phi)


def test_sets_that_have_mixed_and_disagree_are_told(truth_sets, judge, make_set):
    # 1 % in one set, 2 % in the other: R̂ passes, and so does the scatter of the chains, all of them taken together.
    paths = make_set("a", [5] * 4), make_set("b", [10] * 6)
    sets, verdict = judge(*paths)
    assert verdict.mixed is False
    assert verdict.problems == [
        f"the weight of 0 < φ < 2.5 rad of ALA1 is (1 ± 0) % in {paths[0]}, (2 ± 0) % in {paths[1]}: the sets disagree."
    ]
    together = truth_sets.describe_together(sets, verdict)
    assert together == f"truth: these 2 data sets as one, 10 chains, NOT MIXED: {verdict.problems[0]}"
    assert truth_sets.doubts(sets, verdict) == [together]
    assert judge(make_set("c", [5] * 4), make_set("d", [5] * 6))[1].mixed is True


def test_r_hat_is_over_the_chains_of_all_sets(judge, make_set, coordinates):
    psi = coordinates.ramachandran_pairs[0, 1]

    def narrow(u):
        u[..., psi] = 0.5 + 0.1 * u[..., psi]

    _, verdict = judge(make_set("a", [10] * 4), make_set("b", [10] * 4, change=narrow))
    assert verdict.mixed is False
    assert verdict.numbers["r_hat"] > 1.1
    assert len(verdict.problems) == 1
    assert verdict.problems[0].endswith("above 1.01: chains disagree.")


def test_what_no_number_of_chains_mends_stays_a_problem(truth_sets, judge, make_set):
    good = make_set("a", [10] * 4)
    _, verdict = judge(good, loose := make_set("b", [10] * 4, exchange_acceptance=[0.02], mixed=False))
    assert verdict.problems == [f"{loose}: temperatures 0 and 1 exchange with a probability of 0.020, below 0.1."]
    # Frames of unknown origin, and a set that is not finished, may be what they seem or not.
    for unknown in (
        make_set("c", [10] * 4, mixed=None, exchange_acceptance=[], round_trips=None),
        make_set("d", [10] * 4, is_finished=False),
    ):
        sets, verdict = judge(good, unknown)
        assert (verdict.mixed, verdict.problems) == (None, [])
        assert "nobody knows" in truth_sets.describe_together(sets, verdict)
    assert len(truth_sets.doubts(sets, verdict)) == 1  # of the set that is not finished


def test_large_sets_are_judged_by_some_of_their_draws(truth_sets, judge, make_set, monkeypatch):
    paths = make_set("a", [5] * 4), make_set("b", [20] * 4)
    monkeypatch.setattr(truth_sets, "_JUDGED_SAMPLES", 1500)
    sets, verdict = judge(*paths)
    assert verdict.stride == 3
    # Independent draws, of which 167 of each chain are taken; and not 500.
    assert verdict.numbers["ess"] < 8 * 200
    assert "R̂ and ESS by one draw in 3, " in truth_sets.describe_together(sets, verdict)
    # But at least a hundred draws of each chain.
    monkeypatch.setattr(truth_sets, "_JUDGED_SAMPLES", 10)
    _, verdict = judge(*paths)
    assert verdict.stride == 5
    # Weights take all draws: one in five, each hundred's first among them, would give both sets 5 %.
    assert "is (1 ± 0) % in" in verdict.problems[-1]
    assert ", (4 ± 0) % in" in verdict.problems[-1]
