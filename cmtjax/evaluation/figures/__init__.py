"""Figures of a run, drawn with matplotlib's object interface (Agg): no global state, no display."""

from cmtjax.evaluation.figures.differences import plot_ramachandran_differences
from cmtjax.evaluation.figures.marginals import plot_marginals, worst_marginals
from cmtjax.evaluation.figures.ramachandran_path import plot_basin_path, plot_ramachandran_path
from cmtjax.evaluation.figures.samples import plot_energy_histogram, plot_ramachandran
from cmtjax.evaluation.figures.training import plot_path, plot_training_curves
from cmtjax.evaluation.figures.weights import plot_energy_comparison, plot_log_weights

__all__ = [
    "plot_basin_path",
    "plot_energy_comparison",
    "plot_energy_histogram",
    "plot_log_weights",
    "plot_marginals",
    "plot_path",
    "plot_ramachandran",
    "plot_ramachandran_differences",
    "plot_ramachandran_path",
    "plot_training_curves",
    "worst_marginals",
]
