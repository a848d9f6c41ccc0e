"""The flow of another run as a start."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from cmtjax.coordinates import InternalCoordinates, internal_coordinates, is_same_box
from cmtjax.molecules.z_matrix import ZMatrix
from cmtjax.runs.configs import describe_differences, plain_config
from cmtjax.runs.directory import open_existing, restore_params
from cmtjax.runs.errors import RunDirectoryError

# nm and rad: a start may be of coordinates around another machine's minimum, whose windows are a little elsewhere.
_TOLERANCE = 1e-3
_ENVIRONMENT = ("device", "cpu_count", "initial_run")


class InitialFlow(NamedTuple):
    """Where another run has got to, and how.

    Attributes:
      params: the flow's parameters.
      directory: of that run.
      annealing_step: steps that it has completed.
      target_evaluations: what they took, with those of the run's own start.
      gradient_steps: likewise.
      seconds: likewise, of its annealing steps.
      config: its configuration.
      environment: where it ran: ``device``, ``cpu_count``, and ``initial_run`` if it has such a start itself.
    """

    params: Any
    directory: str
    annealing_step: int
    target_evaluations: int
    gradient_steps: int
    seconds: float
    config: dict[str, Any]
    environment: dict[str, Any]

    @property
    def record(self) -> dict[str, Any]:
        """What a run that starts here keeps in its ``environment.json`` as ``initial_run``: all but the parameters."""
        return {name: value for name, value in self._asdict().items() if name != "params"}


def read_initial_flow(
    directory: str | os.PathLike[str],
    flow_config: Mapping[str, Any],
    coordinates: InternalCoordinates,
    template: Any = None,
) -> InitialFlow:
    """The flow of a run's newest checkpoint, as the start of another training.

    Args:
      directory: the run; it may still be going on.
      flow_config: ``config.flow`` of the new run, which must be the same.
      coordinates: of the new run's molecule, which must have the same box.
      template: the flow's parameters, or their ``jax.eval_shape``; with None, nested dicts of numpy arrays are
        returned.

    Raises:
      FileNotFoundError: if there is no such directory.
      RunDirectoryError: if it holds no run, no whole checkpoint or not its tables, or a flow of another kind or on
        another box.
    """
    try:
        run = open_existing(directory)
        other = internal_coordinates(ZMatrix.load(run.molecule_directory / "z_matrix.json"))
        if not is_same_box(other, coordinates, tolerance=_TOLERANCE):
            raise RunDirectoryError(
                "it must be of the same molecule, with the same z-matrix, and bond lengths and windows within "
                f"{_TOLERANCE} nm or rad of this run's, got {run.path}."
            )
        if differences := describe_differences(run.config["flow"], plain_config(flow_config), ()):
            raise RunDirectoryError(
                f"it must have the flow of this run, got {run.path} with other flow settings: {'; '.join(differences)}."
            )
        step, params = restore_params(run.path, template)
        metrics, timings = run.read_metrics(), run.read_timings()
        if step not in metrics.get("annealing_step", ()) or step not in timings.get("annealing_step", ()):
            raise RunDirectoryError(f"{run.path} must have metrics.csv and timings.csv up to its checkpoint {step}.")
    except (FileNotFoundError, RunDirectoryError) as error:
        raise type(error)(f"initial_run: {error}") from error
    row = metrics["annealing_step"].tolist().index(step)
    environment = {name: run.environment[name] for name in _ENVIRONMENT if name in run.environment}
    before = environment.get("initial_run", {}).get("seconds", 0.0)
    return InitialFlow(
        params,
        os.path.abspath(run.path),
        step,
        int(metrics["target_evaluations"][row]),
        int(metrics["gradient_steps"][row]),
        before + float(timings["seconds"][timings["annealing_step"] <= step].sum()),
        run.config,
        environment,
    )
