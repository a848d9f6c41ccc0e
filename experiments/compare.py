"""Tables and figures over runs: means over seeds, beside what is published and what plain simulation reaches.

    python experiments/compare.py runs/dipeptide runs/other_* --output=comparison

Takes run directories of train.py, also those that hold several seeds. Runs of one system, method and configuration form
a row, whatever their seed: mean ± standard error over them. Results of evaluate.py are shown where a run has them; what
is missing is shown as missing. --metrics=default,phi_positive_weight_reweighted_raw adds any number of a summary.
--baseline=DATA_SET --data=TRUTH adds a simulation of simulate.py, cut off at the evaluations of each row.
"""

from __future__ import annotations

import math
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence

import baseline
import numpy as np
import program
import run_groups
from absl import flags

from cmtjax.datasets import open_data_set
from cmtjax.evaluation import published, tables
from cmtjax.evaluation.divergences import ramachandran_kl
from cmtjax.evaluation.figures import comparison, ramachandran_comparison, variants
from cmtjax.runs import atomic_write_text
from cmtjax.runs.files import atomic_file

_OUTPUT = flags.DEFINE_string("output", "comparison", "Directory for tables and figures; made if absent.")
_METRICS = flags.DEFINE_list("metrics", ["default"], "Names as in summary.json; 'default' for the published ones.")
_PUBLISHED = flags.DEFINE_boolean("published", True, "Show the papers' results of the same systems.")
_BASELINE = flags.DEFINE_string("baseline", None, "Data set of a simulation to cut off at each row's evaluations.")
_DATA = flags.DEFINE_string("data", None, "With --baseline: data set that is taken as the truth.")
_X_AXIS = flags.DEFINE_enum(
    "x_axis", "target_evaluations", ["annealing_step", "target_evaluations"], "Axis of the training curves."
)


def main(argv: list[str]) -> None:
    output = pathlib.Path(_OUTPUT.value)
    with program.user_errors():
        program.require(
            (_BASELINE.value is None) == (_DATA.value is None), "--data", _DATA.value, "given with --baseline"
        )
        groups = run_groups.group_runs(run_groups.open_run_directories(argv))
        finished = [group for group in groups if group.finished]
        run_rows = [run_groups.table_row(group) for group in finished]
        remarks = run_groups.remarks(groups)
        simulated: list[tables.TableRow] = []
        if _BASELINE.value is not None:
            temperature = open_data_set(_DATA.value).metadata["temperature_kelvin"]
            at_same = [row for group, row in zip(finished, run_rows, strict=True) if _temperature(group) == temperature]
            simulated, more = baseline.rows(_BASELINE.value, _DATA.value, at_same)
            remarks += more
        output.mkdir(parents=True, exist_ok=True)
    systems = list(dict.fromkeys(group.system for group in groups))
    known: list[tables.TableRow] = []
    for system in systems if _PUBLISHED.value else ():
        others = {_temperature(group) for group in groups if group.system == system} - {published.TEMPERATURE_KELVIN}
        known += published.published_rows(system)
        if others and published.published_rows(system):
            remarks.append(
                f"Published results of {system} are at {published.TEMPERATURE_KELVIN:g} K, some runs at "
                f"{', '.join(f'{value:g}' for value in sorted(others))} K: not comparable."
            )
    rows = [row for system in systems for row in [*run_rows, *simulated, *known] if row.system == system]
    paths = []
    for system in systems:
        members = [group for group in groups if group.system == system]
        paths += _draw_curves(system, members, output)
        paths += _draw_cost(system, run_rows, known, output)
        temperatures = sorted({_temperature(group) for group in members})
        for temperature in temperatures:
            at_this = [group for group in members if _temperature(group) == temperature]
            title = system if len(temperatures) == 1 else f"{system} at {temperature:g} K"
            paths += _draw_variants(title, at_this, output)
            ramachandran_paths, more = _draw_ramachandran(title, at_this, output)
            paths, remarks = paths + ramachandran_paths, remarks + more
    paths += _draw_step_ess(groups, output)

    remarks.insert(0, "Mean ± standard error over n independent runs; a single run has no error.")
    if known:
        remarks += published.REMARKS
    columns = tables.columns(_METRICS.value)
    text = "\n".join([tables.to_markdown(rows, columns), *(f"- {remark}" for remark in remarks)]).strip() + "\n"
    for suffix, content in (
        (".md", text),
        (".csv", tables.to_csv(rows, columns)),
        (".tex", tables.to_latex(rows, columns)),
    ):
        paths.append(output / f"comparison{suffix}")
        atomic_write_text(paths[-1], content)
    print(text, *(str(path) for path in paths), sep="\n", flush=True)


def _temperature(group: run_groups.RunGroup) -> float:
    return float(group.config["temperature_kelvin"])


def _draw_curves(system: str, groups: Sequence[run_groups.RunGroup], output: pathlib.Path) -> list[pathlib.Path]:
    metrics = {group.label: [run.read_metrics() for run in group.runs] for group in groups}
    return _draw(
        output / f"curves_{_slug(system)}.png",
        lambda path: comparison.plot_curves(metrics, path, x_axis=_X_AXIS.value, title=system),
    )


def _draw_cost(
    system: str, run_rows: Sequence[tables.TableRow], known: Sequence[tables.TableRow], output: pathlib.Path
) -> list[pathlib.Path]:
    own, others = ([row for row in rows if row.system == system] for rows in (run_rows, known))
    if not any("ess" in row.estimates for row in own):
        return []
    return _draw(
        output / f"cost_{_slug(system)}.png", lambda path: comparison.plot_cost(own, others, path, title=system)
    )


def _draw_variants(system: str, groups: Sequence[run_groups.RunGroup], output: pathlib.Path) -> list[pathlib.Path]:
    """Final log-likelihood and ESS of each group with a finished run. The groups are of one temperature."""
    shown = []
    for group in groups:
        row = run_groups.table_row(group)
        nll, ess = row.estimates.get("nll"), row.estimates.get("ess")
        log_likelihood = None if nll is None else nll._replace(mean=-nll.mean)
        label = f"{group.label}, n\u00a0=\u00a0{row.num_runs}"
        if row.num_runs:
            shown.append(variants.Variant(label, log_likelihood, ess, run_groups.worst_basin_status(group)))
    if all(variant.log_likelihood is None and variant.ess is None for variant in shown):
        return []
    return _draw(
        output / f"variants_{_slug(system)}.png", lambda path: variants.plot_variants(shown, path, title=system)
    )


def _draw_step_ess(groups: Sequence[run_groups.RunGroup], output: pathlib.Path) -> list[pathlib.Path]:
    systems: dict[str, list[comparison.StepEss]] = {}
    for group in groups:
        if group.config.get("method.name") == "cmt":
            bound = group.config.get("method.trust_region_bound", math.inf)
            step_ess = comparison.StepEss(bound, [run.read_metrics() for run in group.runs])
            systems.setdefault(group.system, []).append(step_ess)
    return _draw(output / "step_ess.png", lambda path: comparison.plot_step_ess(systems, path)) if systems else []


def _draw_ramachandran(
    system: str, groups: Sequence[run_groups.RunGroup], output: pathlib.Path
) -> tuple[list[pathlib.Path], list[str]]:
    """The pair with the largest deviation, and of each group the run with the lowest Ram KL, as in CMT's Figure 4.

    The groups are of one temperature.
    """
    best = [(group, plots) for group in groups if (plots := _best_plots(group)) is not None]
    if not best:
        return [], []
    truths = [plots["truth_masses"] for _, plots in best if "truth_masses" in plots]
    truth = truths[0] if truths else None
    remarks = []
    if any(other.shape != truths[0].shape or not np.array_equal(other, truths[0]) for other in truths[1:]):
        remarks.append(f"Ramachandran plots of {system}: the runs were compared with different truths, one is shown.")
    deviations = [_kl(plots, "model_masses") for _, plots in best if {"truth_masses", "model_masses"} <= plots.keys()]
    pair = int(np.argmax(np.mean(deviations, axis=0))) if deviations else 0
    entries = [
        ramachandran_comparison.RamachandranPlots(
            group.label,
            plots["model_masses"][pair] if "model_masses" in plots else None,
            plots["reweighted_masses"][pair] if "reweighted_masses" in plots else None,
            *(_kl_remark(plots, name, pair) for name in ("model_masses", "reweighted_masses")),
        )
        for group, plots in best
    ]
    names = next((plots["pair_names"] for _, plots in best if "pair_names" in plots), None)
    title = f"{system}, {names[pair]}" if names is not None else system
    temperature = _temperature(best[0][0])
    paths = _draw(
        output / f"ramachandran_{_slug(system)}.png",
        lambda path: ramachandran_comparison.plot_ramachandran_comparison(
            None if truth is None else truth[pair], entries, path, temperature_kelvin=temperature, title=title
        ),
    )
    return paths, remarks


def _best_plots(group: run_groups.RunGroup) -> dict[str, np.ndarray] | None:
    """The Ramachandran plots of the group's run with the lowest Ram KL; None if no run has any."""
    candidates = []
    for run in group.runs:
        path = run.path / "ramachandran.npz"
        if path.is_file():
            with np.load(path, allow_pickle=False) as arrays:
                candidates.append(dict(arrays))

    def mean_kl(plots: dict[str, np.ndarray]) -> float:
        return float(_kl(plots, "model_masses").mean()) if {"truth_masses", "model_masses"} <= plots.keys() else np.inf

    return min(candidates, key=mean_kl, default=None)


def _kl(plots: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return ramachandran_kl(plots["truth_masses"], plots[name])


def _kl_remark(plots: Mapping[str, np.ndarray], name: str, pair: int) -> str:
    return f"Ram KL {_kl(plots, name)[pair]:.2e}" if {"truth_masses", name} <= plots.keys() else ""


def _draw(path: pathlib.Path, plot: Callable[[pathlib.Path], object]) -> list[pathlib.Path]:
    """Draws a figure that appears as a whole."""
    with atomic_file(path) as temporary:
        plot(temporary)
    return [path]


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)


if __name__ == "__main__":
    program.run_program(main, accept_positional=True, resumable=False)
