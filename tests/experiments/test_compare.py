"""compare.py: which runs form a row, its numbers against numpy, and the program from run directories to files."""

import copy
import csv
import io
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from matplotlib.image import imread

from cmtjax import datasets, molecules
from cmtjax.runs import open_run, open_runs

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = {
    "seed": 0,
    "num_seeds": 1,
    "temperature_kelvin": 300.0,
    "molecule": {"name": "alanine_dipeptide", "sequence": "", "pdb": ""},
    "energy": {"num_workers": 2},
    "method": {"name": "cmt", "trust_region_bound": 0.3, "entropy_bound": 0.8, "buffer_size": 1000},
    "num_annealing_steps": 5,
}


@pytest.fixture
def experiments(monkeypatch):
    """Modules beside the program; the program itself, which defines flags, runs in processes of its own."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "experiments"), *sys.path])
    import baseline
    import run_groups

    return baseline, run_groups


def changed(changes):
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *sections, name = key.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[name] = value
    return config


def fill(run, summary, num_steps=5, plots=None):
    """Rows of an annealing run, and a summary unless it is None."""
    seed = run.config["seed"]
    with run:
        for step in range(1, num_steps + 1):
            evaluations = step * run.config["method"]["buffer_size"]
            run.append_metrics(
                {
                    "annealing_step": step,
                    "target_evaluations": evaluations,
                    "entropy": -100.0 - step - 0.1 * seed,
                    "ess_next": 0.6 + 0.01 * seed,
                    "ess_target": 0.1 * step,
                    "trust_region_multiplier": 10.0 ** (3 - step),
                }
            )
            run.append_timings({"annealing_step": step, "seconds": 360.0 * (seed + 1)})
        if plots is not None:
            np.savez(run.path / "ramachandran.npz", **plots)
        if summary is not None:
            run.write_summary({"target_evaluations": evaluations, **summary})


def make_run(path, summary=None, num_steps=5, plots=None, **changes):
    fill(
        open_run(path, changed({key.replace("__", "."): value for key, value in changes.items()})),
        summary,
        num_steps,
        plots,
    )
    return str(path)


ESS = {0: 0.61, 1: 0.66, 2: 0.58}


def test_seeds_of_one_configuration_are_a_row(tmp_path, experiments):
    _, run_groups = experiments
    paths = [
        make_run(tmp_path / f"run_{seed}", {"ess": ess, "note": "text"}, seed=seed, energy__num_workers=seed)
        for seed, ess in ESS.items()
    ]
    (group,) = run_groups.group_runs(run_groups.open_run_directories(paths))
    row = run_groups.table_row(group)
    assert (row.system, row.method, row.detail, row.num_runs) == ("alanine_dipeptide", "CMT", "", 3)
    assert row.estimates["ess"].mean == pytest.approx(np.mean(list(ESS.values())))
    assert row.estimates["ess"].standard_error == pytest.approx(scipy.stats.sem(list(ESS.values())))
    # Five steps of 360, 720 and 1080 s.
    hours = np.array([0.5, 1.0, 1.5])
    assert row.estimates["wall_clock_hours"].mean == pytest.approx(hours.mean())
    assert row.estimates["wall_clock_hours"].standard_error == pytest.approx(scipy.stats.sem(hours))
    assert row.estimates["target_evaluations"].mean == 5000
    assert "note" not in row.estimates
    assert run_groups.remarks([group])[:-1] == []  # the last says where the wall clock was measured


def start(directory, **changes):
    """What a run that starts from another keeps of it."""
    environment = {"device": {"count": 1, "kind": "a GPU"}, "cpu_count": 16}
    counts = {"annealing_step": 3, "target_evaluations": 3000, "gradient_steps": 30, "seconds": 3600.0}
    return {"directory": directory, **counts, "config": changed(changes), "environment": environment}


def make_started_run(path, initial, seed):
    run = open_run(path, changed({"seed": seed, "initial_run": initial["directory"]}))
    run.update_environment({"initial_run": initial})
    fill(run, {"ess": 0.5})
    return str(path)


def test_a_run_counts_what_its_initial_run_took(tmp_path, experiments):
    _, run_groups = experiments
    paths = [make_started_run(tmp_path / f"second_{seed}", start(f"first_{seed}", seed=seed), seed) for seed in (0, 1)]
    paths.append(make_run(tmp_path / "fresh", {"ess": 0.4}, initial_run=""))
    groups = run_groups.group_runs(run_groups.open_run_directories(paths))
    assert [len(group.runs) for group in groups] == [2, 1]
    assert groups[0].detail.startswith("initial_evaluations=3000, initial_settings=")
    rows = [run_groups.table_row(group) for group in groups]
    # An hour of the first run, and 0.5 and 1 hour of the second.
    assert rows[0].estimates["wall_clock_hours"].mean == pytest.approx(1.75)
    assert rows[1].estimates["wall_clock_hours"].mean == pytest.approx(0.5)
    remarks = run_groups.remarks(groups)
    assert any("started from first_0, first_1, whose costs are included" in remark for remark in remarks)
    assert not any("not independent" in remark for remark in remarks)
    assert "a GPU with 16 CPU cores" in remarks[-1]


def test_starts_of_another_kind_are_another_row_and_a_shared_one_is_told(tmp_path, experiments):
    _, run_groups = experiments
    shared = start("first", temperature_kelvin=300.0)
    hotter = start("hot", temperature_kelvin=400.0)
    nested = start("third")
    nested["environment"]["initial_run"] = hotter
    paths = [
        make_started_run(tmp_path / name, initial, seed)
        for name, initial, seed in (("a", shared, 0), ("b", shared, 1), ("c", hotter, 0), ("d", nested, 0))
    ]
    groups = run_groups.group_runs(run_groups.open_run_directories(paths))
    assert [[run.path.name for run in group.runs] for group in groups] == [["a", "b"], ["c"], ["d"]]
    assert len({group.label for group in groups}) == 3
    told = [remark for remark in run_groups.remarks(groups) if "share the run they started from" in remark]
    assert len(told) == 1
    assert told[0].startswith(groups[0].label)


def test_rows_are_told_apart_by_their_settings(tmp_path, experiments):
    _, run_groups = experiments
    old = changed({"method.buffer_size": 2000})
    del old["energy"]  # a run of an earlier version
    fill(open_run(tmp_path / "old", old), {"ess": 0.5})
    paths = [
        make_run(tmp_path / "a", {"ess": 0.6}),
        make_run(tmp_path / "b", {"ess": 0.7}, method__buffer_size=2000, num_annealing_steps=9),
        str(tmp_path / "old"),
        make_run(tmp_path / "c", {"ess": 0.6}, seed=7),
        make_run(tmp_path / "d", {"ess": 0.3}, method__trust_region_bound=math.inf),
        make_run(tmp_path / "e", {"ess": 0.3}, method__trust_region_bound=math.inf, method__entropy_bound=math.inf),
        make_run(tmp_path / "f", {"ess": 0.3}, molecule__name="", molecule__sequence="ACE-GLY-NME"),
        make_run(tmp_path / "g", {"ess": 0.3}, method__name="ta_bg"),
        make_run(tmp_path / "h", {"ess": 0.3}, temperature_kelvin=310.0),
    ]
    groups = run_groups.group_runs(run_groups.open_run_directories(paths))
    found = [(group.system, group.label, [run.path.name for run in group.runs]) for group in groups]
    system = "alanine_dipeptide"
    assert found == [
        (system, "CMT (buffer_size=1000, num_annealing_steps=5, temperature_kelvin=300.0)", ["a", "c"]),
        (system, "CMT (buffer_size=2000, num_annealing_steps=9, temperature_kelvin=300.0)", ["b"]),
        (system, "CMT (buffer_size=2000, num_annealing_steps=5, temperature_kelvin=300.0)", ["old"]),
        (system, "CMT (buffer_size=1000, num_annealing_steps=5, temperature_kelvin=310.0)", ["h"]),
        (system, "CMT, entropy bound only", ["d"]),
        (system, "CMT, no bounds", ["e"]),
        ("ACE-GLY-NME", "CMT", ["f"]),
        (system, "TA-BG", ["g"]),
    ]


def test_missing_settings_are_shown_as_missing(tmp_path, experiments):
    _, run_groups = experiments
    fill(open_run(tmp_path / "old", changed({}) | {"energy": {}}), {"ess": 0.5})
    new = make_run(tmp_path / "new", {"ess": 0.5}, energy={"backend": "amber"})
    groups = run_groups.group_runs(run_groups.open_run_directories([str(tmp_path / "old"), new]))
    assert [group.detail for group in groups] == ["energy={}, backend=–", "energy=–, backend=amber"]


def test_directories_of_several_seeds_are_expanded(tmp_path, experiments):
    _, run_groups = experiments
    for run in open_runs(tmp_path / "seeds", changed({"num_seeds": 3})):
        fill(run, {"ess": ESS[run.config["seed"]]})
    seeds = tmp_path / "seeds"
    run_list = run_groups.open_run_directories([str(seeds), str(seeds / "seed_1")])
    assert [run.path.name for run in run_list] == ["seed_0", "seed_1", "seed_2"]
    (group,) = run_groups.group_runs(run_list)
    assert run_groups.table_row(group).estimates["ess"].mean == pytest.approx(np.mean(list(ESS.values())))
    assert any("trained in one program" in remark for remark in run_groups.remarks([group]))


def test_unfinished_runs_and_equal_seeds_are_told(tmp_path, experiments):
    _, run_groups = experiments
    paths = [
        make_run(tmp_path / "done", {"ess": 0.6}),
        make_run(tmp_path / "again", {"ess": 0.7, "eubo": math.nan}),
        make_run(tmp_path / "half", None, num_steps=2, seed=1),
        make_run(tmp_path / "new", None, num_steps=0, seed=2),
    ]
    (group,) = run_groups.group_runs(run_groups.open_run_directories(paths))
    row = run_groups.table_row(group)
    assert row.num_runs == 2
    assert "eubo" not in row.estimates
    remarks = " ".join(run_groups.remarks([group]))
    assert f"{tmp_path / 'half'} at step 2 of 5" in remarks
    assert f"{tmp_path / 'new'} at step 0 of 5" in remarks
    assert "not all seeds differ ([0, 0])" in remarks


def test_different_numbers_of_samples_are_told(tmp_path, experiments):
    _, run_groups = experiments
    paths = [make_run(tmp_path / f"{size}", {"ess": 0.6, "num_samples": size}, seed=size) for size in (1000, 20_000)]
    groups = run_groups.group_runs(run_groups.open_run_directories(paths))
    assert "different numbers of samples, 1,000, 20,000" in " ".join(run_groups.remarks(groups))
    assert "different numbers" not in " ".join(run_groups.remarks([groups[0]._replace(runs=groups[0].runs[:1])]))


def test_other_truths_and_those_that_have_not_mixed_are_told(tmp_path, experiments):
    _, run_groups = experiments
    truths = [{"evaluation_data": "x", "evaluation_data_mixed": mixed} for mixed in (True, False)]
    truths[1]["evaluation_data"] = "y"
    paths = [make_run(tmp_path / f"{seed}", {"ess": 0.6, **truths[seed]}, seed=seed) for seed in (0, 1)]
    *sentences, _ = run_groups.remarks(run_groups.group_runs(run_groups.open_run_directories(paths)))
    assert len(sentences) == 2
    assert "compared with different truths, x, y" in sentences[0]
    assert sentences[1].startswith(f"{tmp_path / '1'}: not known to be mixed")


def test_what_became_of_modes_is_the_worst_of_the_runs(tmp_path, experiments):
    _, run_groups = experiments
    found = {"num_basins": 5, "num_basins_lost": 0}
    summaries = {
        "found": [found, found],
        "undecided": [found, {**found, "num_basins_undecided": 1}],
        "unchecked": [found, {"ess": 0.5}, {**found, "num_basins_undecided": 1}],
        "lost": [{"ess": 0.5}, found, {**found, "num_basins_lost_reweighted": 1}],
    }
    for expected, of_runs in summaries.items():
        paths = [make_run(tmp_path / expected / f"{seed}", of_runs[seed], seed=seed) for seed in range(len(of_runs))]
        (group,) = run_groups.group_runs(run_groups.open_run_directories(paths))
        assert run_groups.worst_basin_status(group) == expected
        told = [remark for remark in run_groups.remarks([group]) if "lost a basin" in remark]
        assert told == (
            [f"CMT: 1 of 3 runs lost a basin of the truth ({paths[2]}), so their ESS is not comparable."]
            if expected == "lost"
            else []
        )


def test_what_is_no_run_is_refused(tmp_path, experiments):
    _, run_groups = experiments
    with pytest.raises(ValueError, match="at least one run directory"):
        run_groups.open_run_directories([])
    with pytest.raises(FileNotFoundError, match="does not exist"):
        run_groups.open_run_directories([str(tmp_path / "absent")])
    with pytest.raises(ValueError, match=r"has no config\.json"):
        run_groups.open_run_directories([str(tmp_path)])


def make_data_set(path, molecule, u, evaluations, warm_up, chunk=7):
    metadata = {"temperature_kelvin": 300.0, "engine": "device", "seed": 0, "settings": {}}
    with datasets.create_data_set(path, molecule, metadata) as writer:
        for start in range(0, len(u), chunk):
            part = u[start : start + chunk]
            writer.append(part, np.zeros(part.shape[:2]))
        writer.finish(
            {
                "mixed": False,
                "mixing_problems": ["R̂ is 1.2."],
                "target_evaluations": evaluations,
                "warm_up_evaluations": warm_up,
            }
        )
    return str(path)


@pytest.fixture(scope="module")
def molecule():
    return molecules.published("alanine_dipeptide")


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory, molecule):
    """A simulation of 3 chains of 20 draws at 50 evaluations each after 1000, and the truth."""
    directory, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    u, truth = (rng.random((draws, 3, 60), dtype=np.float32) for draws in (20, 500))
    paths = (
        make_data_set(directory / "simulated", molecule, u, 2000, 1000),
        make_data_set(directory / "truth", molecule, truth, 10**6, 0),
    )
    return *paths, u, truth


def test_simulation_is_cut_off_at_equal_evaluations(experiments, data_sets):
    baseline, _ = experiments
    simulated, truth_path, u, truth = data_sets
    from cmtjax.evaluation.tables import Estimate, TableRow

    def run_row(evaluations, system="alanine_dipeptide"):
        return TableRow(system, "CMT", "", 1, {"target_evaluations": Estimate(evaluations, None, 1)})

    runs = [run_row(1449.0), run_row(1449.0), run_row(900.0), run_row(5000.0), run_row(1200.0, "other")]
    rows, remarks = baseline.rows(simulated, truth_path, runs)
    # 1449 evaluations: 8 draws of 50 after the warm-up; 900 do not reach its end; 5000 are more than there are.
    assert [row.estimates["target_evaluations"].mean for row in rows] == [1000, 1400, 2000]
    assert set(rows[0].estimates) == {"target_evaluations"}
    assert [row.detail for row in rows][1] == "equal budget: 3 chains, 8 draws each after warm-up"
    text = " ".join(remarks)
    assert "above the budget of 900" in text
    assert "below the budget of 5e+03" in text
    assert text.count("Not known to be mixed") == 2
    assert "R̂ is 1.2." in text

    # The dipeptide's two torsions are full turns, −π + 2πu; numpy's histogram is the reference.
    data = datasets.open_data_set(simulated)
    (phi, psi), edges = data.coordinates.ramachandran_pairs[0], np.linspace(-np.pi, np.pi, 101)

    def plot(points):
        angles = data.coordinates.window_center[[phi, psi]] + 2 * np.pi * (points.reshape(-1, 60)[:, [phi, psi]] - 0.5)
        angles = (angles + np.pi) % (2 * np.pi) - np.pi
        return np.histogram2d(*angles.T, bins=(edges, edges))[0] / len(angles)

    p, q, area = plot(truth), plot(u[:8]), (2 * np.pi / 100) ** 2
    # Which bin an angle on an edge is in may differ in rounding: none of these 1560 is that close.
    assert rows[1].estimates["ram_tv"].mean == pytest.approx(0.5 * np.abs(p - q).sum(), abs=1e-12)
    kl = np.sum(p * np.log((p / area + 1e-10) / (q / area + 1e-10)))
    assert rows[1].estimates["ram_kl"].mean == pytest.approx(kl, rel=1e-9)


def test_simulation_must_fit_the_runs(tmp_path, experiments, data_sets, molecule):
    baseline, _ = experiments
    simulated, truth_path, u, _ = data_sets
    with pytest.raises(ValueError, match="of the finished runs, at their temperature, got 'alanine_dipeptide'"):
        baseline.rows(simulated, truth_path, [])
    with pytest.raises(ValueError, match="baseline must be another data set than the truth"):
        baseline.rows(truth_path, truth_path, [])
    uncounted = make_data_set(tmp_path / "uncounted", molecule, u[:2], None, None)
    with pytest.raises(ValueError, match="count its evaluations, it lacks"):
        baseline.affordable_draws(datasets.open_data_set(uncounted), 100.0)


def run_program(*arguments):
    command = [sys.executable, "experiments/compare.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_program_writes_tables_and_figures(tmp_path, data_sets):
    simulated, truth_path, _, _ = data_sets
    rng = np.random.default_rng(1)
    masses = rng.dirichlet(np.ones(100), size=(3, 2)).reshape(3, 2, 10, 10)
    plots = {"truth_masses": masses[0], "model_masses": masses[1], "pair_names": np.array(["ALA 2", "ALA 3"])}
    paths = [
        make_run(tmp_path / "a", {"ess": 0.61, "eubo": -174.9}, plots=plots | {"reweighted_masses": masses[2]}),
        make_run(tmp_path / "b", {"ess": 0.66}, seed=1),
        make_run(tmp_path / "c", {"ess": 0.5}, method__buffer_size=2000, plots=plots),
        make_run(tmp_path / "d", None, num_steps=2, seed=3),
        make_run(tmp_path / "e", {"ess": 0.4}, num_steps=3, plots=plots, temperature_kelvin=350.0),
    ]
    output = tmp_path / "new" / "comparison"
    result = run_program(
        *paths, f"--output={output}", "--metrics=default,my_metric", f"--baseline={simulated}", f"--data={truth_path}"
    )
    assert result.returncode == 0, result.stderr
    markdown = (output / "comparison.md").read_text()
    assert markdown.strip() in result.stdout
    assert f"{tmp_path / 'd'} at step 2 of 5" in markdown
    lines = list(csv.DictReader(io.StringIO((output / "comparison.csv").read_text())))
    assert "are at 300 K, some runs at 350 K: not comparable." in markdown
    # The run at another temperature than the simulation's sets no budget.
    assert [(line["method"], line["detail"]) for line in lines[:5]] == [
        ("CMT", "buffer_size=1000, temperature_kelvin=300.0"),
        ("CMT", "buffer_size=2000, temperature_kelvin=300.0"),
        ("CMT", "buffer_size=1000, temperature_kelvin=350.0"),
        ("simulation", "equal budget: 3 chains, 20 draws each after warm-up"),
        ("simulation", "equal budget: 3 chains, 20 draws each after warm-up"),
    ]
    assert float(lines[0]["ess"]) == pytest.approx(np.mean([0.61, 0.66]))
    assert float(lines[0]["ess_standard_error"]) == pytest.approx(scipy.stats.sem([0.61, 0.66]))
    assert (lines[0]["num_runs"], lines[0]["eubo_num_runs"], lines[0]["my_metric"]) == ("2", "1", "")
    assert {line["detail"] for line in lines[5:]} >= {"published: CMT, Tables 1, 2, 3, 5", "published: TA-BG, Table 1"}
    assert r"\toprule" in (output / "comparison.tex").read_text()
    # Free energies and log-likelihoods of two temperatures have a figure each.
    kinds = ("ramachandran", "variants")
    plots = [f"{kind}_alanine_dipeptide_at_{temperature}_K" for kind in kinds for temperature in (300, 350)]
    for name in ("curves_alanine_dipeptide", "cost_alanine_dipeptide", *plots, "step_ess"):
        assert imread(output / f"{name}.png").std() > 0.01
    assert len(list(output.iterdir())) == 10  # no leftovers


def test_program_refuses_in_one_line(tmp_path):
    result = run_program("run", "--data=truth", f"--output={tmp_path / 'out'}")
    assert result.returncode == 2
    assert result.stderr == "error: --data must be given with --baseline, got 'truth'.\n"
    assert not (tmp_path / "out").exists()
