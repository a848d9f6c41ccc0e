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


class InitialFlow(NamedTuple):
    """Where another run has got to.

    Attributes:
      params: the flow's parameters.
      annealing_step: steps that the run has completed.
      target_evaluations: what they took, with those of the run's own start.
      gradient_steps: likewise.
      seconds: likewise, of its annealing steps.
    """

    params: Any
    annealing_step: int
    target_evaluations: int
    gradient_steps: int
    seconds: float

    @property
    def spent(self) -> dict[str, float]:
        """What it took, without the parameters."""
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
      RunDirectoryError: if it holds no run or no whole checkpoint, or a flow of another kind or on another box.
    """
    run = open_existing(directory)
    step, params = restore_params(run.path, template)
    other = internal_coordinates(ZMatrix.load(run.molecule_directory / "z_matrix.json"))
    if not is_same_box(other, coordinates, tolerance=_TOLERANCE):
        raise RunDirectoryError(f"initial_run must be of the same molecule and z-matrix, got {run.path}.")
    if differences := describe_differences(run.config["flow"], plain_config(flow_config), ()):
        raise RunDirectoryError(
            f"initial_run must have the flow of this run, got {run.path} with other flow settings: "
            f"{'; '.join(differences)}."
        )
    metrics, timings = run.read_metrics(), run.read_timings()
    row = metrics["annealing_step"].tolist().index(step)
    before = run.environment.get("initial_run", {}).get("seconds", 0.0)
    return InitialFlow(
        params,
        step,
        int(metrics["target_evaluations"][row]),
        int(metrics["gradient_steps"][row]),
        before + float(timings["seconds"][timings["annealing_step"] <= step].sum()),
    )
