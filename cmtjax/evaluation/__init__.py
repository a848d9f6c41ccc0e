"""Metrics on arrays, Ramachandran analysis and figures (``cmtjax.evaluation.figures``, which imports matplotlib)."""

from cmtjax.evaluation.draw import HostSamples, draw_host_samples
from cmtjax.evaluation.metrics import sample_metrics
from cmtjax.evaluation.ramachandran import (
    PHI_POSITIVE_REGIONS,
    RamachandranHistogram,
    RegionWeight,
    free_energy_kj_mol,
    phi_positive_metrics,
    ramachandran_histogram,
    region_weight,
)

__all__ = [
    "PHI_POSITIVE_REGIONS",
    "HostSamples",
    "RamachandranHistogram",
    "RegionWeight",
    "draw_host_samples",
    "free_energy_kj_mol",
    "phi_positive_metrics",
    "ramachandran_histogram",
    "region_weight",
    "sample_metrics",
]
