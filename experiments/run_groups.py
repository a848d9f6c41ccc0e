"""Which of several runs belong together: those of one system, method and configuration, whatever their seed."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from cmtjax import runs
from cmtjax.evaluation import tables
from cmtjax.evaluation.summaries import BasinStatus, basin_status
from cmtjax.runs.configs import flatten
from cmtjax.runs.directory import seed_directories

#: The seed, and what no result depends on.
# Runs of one group may start from different runs of one kind, such as seeds; see _relevant.
_IGNORED = ("seed", "num_seeds", "initial_run", "energy.num_workers", "energy.platform", "evaluation.reference_log_z")


class RunGroup(NamedTuple):
    """Runs that differ in their seed alone.

    Attributes:
      system: name of the molecule.
      method: title of the method, with the bounds that are off.
      detail: settings in which the group differs from others of the same system and method, as "key=value, …".
      runs: finished or not.
    """

    system: str
    method: str
    detail: str
    runs: list[runs.RunDirectory]

    @property
    def label(self) -> str:
        """Method and detail."""
        return f"{self.method} ({self.detail})" if self.detail else self.method

    @property
    def finished(self) -> list[runs.RunDirectory]:
        """The runs that have come to their end."""
        return [run for run in self.runs if run.is_finished]

    @property
    def config(self) -> dict[str, Any]:
        """Dotted keys and values of the first run's configuration."""
        return flatten(self.runs[0].config)


def open_run_directories(paths: Sequence[str]) -> list[runs.RunDirectory]:
    """Opens run directories; one that holds the runs of several seeds stands for all of them.

    Raises:
      FileNotFoundError: if one does not exist.
      ValueError: if one is no run directory, or there is none at all.
    """
    if not paths:
        raise ValueError("there must be at least one run directory, got none.")
    expanded: dict[Path, Path] = {}
    for path in map(Path, paths):
        is_run = (path / "config.json").is_file()
        for member in [path] if is_run else [path / name for name in seed_directories(path)] or [path]:
            expanded.setdefault(member.resolve(), member)
    return [runs.open_existing(path) for path in expanded.values()]


def group_runs(run_list: Sequence[runs.RunDirectory]) -> list[RunGroup]:
    """Groups of runs, in the order in which the first of each was given."""
    members: dict[tuple[str, str], dict[str, list[runs.RunDirectory]]] = {}
    for run in run_list:
        key = json.dumps(_relevant(run), sort_keys=True)
        members.setdefault((system_name(run), _method(run)), {}).setdefault(key, []).append(run)
    groups = []
    for (system, method), by_config in members.items():
        details = _differences([_relevant(group[0]) for group in by_config.values()])
        groups += [RunGroup(system, method, *pair) for pair in zip(details, by_config.values(), strict=True)]
    return groups


def system_name(run: runs.RunDirectory) -> str:
    """What the run's molecule is called: in its directory, or before it is there in the configuration."""
    path = run.molecule_directory / "molecule.json"
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))["name"]
    config = flatten(run.config)
    pdb = Path(config.get("molecule.pdb") or "").stem
    return config.get("molecule.name") or config.get("molecule.sequence") or pdb or "unnamed system"


def table_row(group: RunGroup) -> tables.TableRow:
    """Means and standard errors over the finished runs of every number in their summaries, and of the wall clock."""
    values = [run_values(run) for run in group.finished]
    names = dict.fromkeys(name for of_run in values for name in of_run)
    estimates = {name: tables.estimate(of_run[name] for of_run in values if name in of_run) for name in names}
    present = {name: value for name, value in estimates.items() if value is not None}
    return tables.TableRow(group.system, group.method, group.detail, len(values), present)


def run_values(run: runs.RunDirectory) -> dict[str, float]:
    """The numbers of a finished run's summary, and ``wall_clock_hours``, the time of all annealing steps.

    Those of the run that it started from count too.
    """
    values = {
        name: float(value)
        for name, value in run.read_summary().items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    seconds = run.read_timings().get("seconds")
    if seconds is None:
        return values
    before = run.environment.get("initial_run", {}).get("seconds", 0.0)
    return values | {"wall_clock_hours": (before + float(seconds.sum())) / 3600.0}


def worst_basin_status(group: RunGroup) -> BasinStatus:
    """What became of the truth's basins: the worst over the finished runs, one that nobody has checked among them."""
    found = {basin_status(run.read_summary()) for run in group.finished}
    return next((status for status in get_args(BasinStatus) if status in found), "unchecked")


def remarks(groups: Sequence[RunGroup]) -> list[str]:
    """What a reader of the table has to know about its runs, a sentence each."""
    sentences = []
    for group in groups:
        for run in group.runs:
            if not run.is_finished:
                steps = run.read_metrics().get("annealing_step", [0])[-1]
                total = run.config.get("num_annealing_steps", "an unknown number of")
                sentences.append(
                    f"Unfinished, not in the table: {run.path} at step {steps} of {total} ({group.label})."
                )
        seeds = [run.config.get("seed") for run in group.finished]
        if len(set(seeds)) < len(seeds):
            sentences.append(f"{group.label}: not all seeds differ ({seeds}), so the runs may not be independent.")
        truths = {run.read_summary().get("evaluation_data") for run in group.finished} - {None}
        if len(truths) > 1:
            sentences.append(
                f"{group.label}: means over runs that were compared with different truths, {', '.join(sorted(truths))}."
            )
        sizes = {run.read_summary().get("num_samples") for run in group.finished} - {None}
        if len(sizes) > 1:
            numbers = ", ".join(f"{size:,}" for size in sorted(sizes))
            sentences.append(
                f"{group.label}: means over runs with different numbers of samples, {numbers}: those of histograms "
                "(Ram KL, Ram TV) fall with it."
            )
        for run in group.finished:
            summary = run.read_summary()
            if "evaluation_data" in summary and summary.get("evaluation_data_mixed") is not True:
                truth = summary["evaluation_data"]
                sentences.append(f"{run.path}: not known to be mixed, the truth that it was compared with, {truth}.")
        lost = [str(run.path) for run in group.finished if basin_status(run.read_summary()) == "lost"]
        if lost:
            sentences.append(
                f"{group.label}: {len(lost)} of {len(group.finished)} runs lost a basin of the truth "
                f"({', '.join(lost)}), so their ESS is not comparable."
            )
        if any(
            len(seed_directories(run.path.parent)) > 1 for run in group.finished if run.path.name.startswith("seed_")
        ):
            sentences.append(
                f"{group.label}: seeds were trained in one program, whose wall clock is that of all of them."
            )
        starts = [initial["directory"] for run in group.finished if (initial := run.environment.get("initial_run"))]
        if starts:
            sentences.append(
                f"{group.label}: started from {', '.join(dict.fromkeys(starts))}, whose costs are included."
            )
        if len(set(starts)) < len(starts):
            sentences.append(f"{group.label}: runs share the run they started from, so they are not independent.")
    environments = [run.environment for group in groups for run in group.finished]
    machines = sorted({_machine(place) for environment in environments for place in _places(environment)})
    if machines:
        sentences.append(f"Wall clock of these runs: annealing steps alone, on {'; '.join(machines)}.")
    return sentences


def _places(environment: dict[str, Any]) -> list[dict[str, Any]]:
    """Where a run went on, and before that where the run that it started from did."""
    initial = environment.get("initial_run")
    return [environment, *(_places(initial["environment"]) if initial else ())]


def _machine(environment: dict[str, Any]) -> str:
    device = environment.get("device", {})
    cores = environment.get("cpu_count", "an unknown number of")
    return f"{device.get('count', '?')} × {device.get('kind', 'unknown device')} with {cores} CPU cores"


def _relevant(run: runs.RunDirectory) -> dict[str, Any]:
    settings = {key: value for key, value in flatten(run.config).items() if key not in _IGNORED}
    if initial := run.environment.get("initial_run"):
        digest = hashlib.sha256(json.dumps(_initial_settings(initial), sort_keys=True).encode()).hexdigest()[:6]
        settings |= {"initial_evaluations": initial["target_evaluations"], "initial_settings": digest}
    return settings


def _initial_settings(initial: dict[str, Any]) -> list[Any]:
    """What tells the start of one run from that of another, but for the seed; with the start's own start."""
    settings = {key: value for key, value in flatten(initial["config"]).items() if key not in _IGNORED}
    before = initial["environment"].get("initial_run")
    return [initial["annealing_step"], settings, *(_initial_settings(before) if before else ())]


def _method(run: runs.RunDirectory) -> str:
    config = flatten(run.config)
    return tables.method_title(
        config.get("method.name", "unnamed method"),
        has_trust_region=math.isfinite(config.get("method.trust_region_bound", 0.0)),
        has_entropy_bound=math.isfinite(config.get("method.entropy_bound", 0.0)),
    )


def _differences(configs: Sequence[dict[str, Any]]) -> list[str]:
    """For each configuration its values of the keys in which not all agree; keys without their section where clear."""
    keys = dict.fromkeys(key for config in configs for key in config)
    absent = object()
    differing = [
        key for key in keys if any(config.get(key, absent) != configs[0].get(key, absent) for config in configs)
    ]
    endings = [key.rpartition(".")[2] for key in differing]
    shown = [ending if endings.count(ending) == 1 else key for key, ending in zip(differing, endings, strict=True)]
    named = list(zip(differing, shown, strict=True))
    # Without the spaces of a list, at which figures would break lines.
    return [
        ", ".join(f"{name}={config.get(key, tables.MISSING)}".replace(", ", ",") for key, name in named)
        for config in configs
    ]
