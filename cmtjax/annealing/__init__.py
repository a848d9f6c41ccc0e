"""The mathematics of the annealing path: multipliers, exponents and importance weights. No neural network in it."""

from cmtjax.annealing.dual import DualSolution, describe_status, solve_dual
from cmtjax.annealing.importance import (
    clip_top_fraction,
    effective_sample_size,
    estimate_log_z,
    evidence_lower_bound,
    resample,
)
from cmtjax.annealing.path import (
    PathState,
    advance_path,
    importance_log_weights,
    initial_path,
    path_log_density,
)

__all__ = [
    "DualSolution",
    "PathState",
    "advance_path",
    "clip_top_fraction",
    "describe_status",
    "effective_sample_size",
    "estimate_log_z",
    "evidence_lower_bound",
    "importance_log_weights",
    "initial_path",
    "path_log_density",
    "resample",
    "solve_dual",
]
