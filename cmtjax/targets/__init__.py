"""Densities to sample."""

from cmtjax.targets.analytic import from_log_prob
from cmtjax.targets.boltzmann import boltzmann
from cmtjax.targets.target import Target, tempered

__all__ = ["Target", "boltzmann", "from_log_prob", "tempered"]
