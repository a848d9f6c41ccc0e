"""Figures of a run, drawn with matplotlib's object interface (Agg): no global state, no display."""

from cmtjax.evaluation.figures.samples import plot_energy_histogram, plot_ramachandran
from cmtjax.evaluation.figures.training import plot_path, plot_training_curves

__all__ = ["plot_energy_histogram", "plot_path", "plot_ramachandran", "plot_training_curves"]
