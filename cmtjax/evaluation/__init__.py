"""Metrics on arrays, Ramachandran analysis and figures (``cmtjax.evaluation.figures``, which imports matplotlib)."""

from cmtjax.evaluation.basin_report import BasinReport, BasinWeight, basin_report, basin_table, basin_verdict
from cmtjax.evaluation.basins import Basins, count_entries, find_basins
from cmtjax.evaluation.blocks import Blocks, chain_blocks, independent_blocks
from cmtjax.evaluation.comparison import Comparison, ModelSamples, TruthSamples, compare
from cmtjax.evaluation.divergences import (
    expected_total_variation,
    histogram_effective_samples,
    ramachandran_kl,
    ramachandran_total_variation,
)
from cmtjax.evaluation.draw import HostSamples, draw_host_samples, host_sample_batches
from cmtjax.evaluation.forward import forward_metrics
from cmtjax.evaluation.histograms import BlockHistogram, marginal_block_histogram, ramachandran_block_histogram
from cmtjax.evaluation.marginals import (
    coordinate_names,
    marginal_total_variation,
    marginal_wasserstein1,
    summarize_marginals,
)
from cmtjax.evaluation.metrics import sample_metrics
from cmtjax.evaluation.peptide_bonds import cis_weights
from cmtjax.evaluation.ramachandran import (
    PHI_POSITIVE_REGIONS,
    RamachandranHistogram,
    RegionWeight,
    free_energy_kj_mol,
    phi_positive_metrics,
    ramachandran_histogram,
    region_weight,
)
from cmtjax.evaluation.ramachandran_path import (
    BasinPath,
    basin_path,
    describe_basin_path,
    ramachandran_path_arrays,
)
from cmtjax.evaluation.transport import Wasserstein, clash_bound_kj_mol, energy_wasserstein2, torus_wasserstein2

__all__ = [
    "PHI_POSITIVE_REGIONS",
    "BasinPath",
    "BasinReport",
    "BasinWeight",
    "Basins",
    "BlockHistogram",
    "Blocks",
    "Comparison",
    "HostSamples",
    "ModelSamples",
    "RamachandranHistogram",
    "RegionWeight",
    "TruthSamples",
    "Wasserstein",
    "basin_path",
    "basin_report",
    "basin_table",
    "basin_verdict",
    "chain_blocks",
    "cis_weights",
    "clash_bound_kj_mol",
    "compare",
    "coordinate_names",
    "count_entries",
    "describe_basin_path",
    "draw_host_samples",
    "energy_wasserstein2",
    "expected_total_variation",
    "find_basins",
    "forward_metrics",
    "free_energy_kj_mol",
    "histogram_effective_samples",
    "host_sample_batches",
    "independent_blocks",
    "marginal_block_histogram",
    "marginal_total_variation",
    "marginal_wasserstein1",
    "phi_positive_metrics",
    "ramachandran_block_histogram",
    "ramachandran_histogram",
    "ramachandran_kl",
    "ramachandran_path_arrays",
    "ramachandran_total_variation",
    "region_weight",
    "sample_metrics",
    "summarize_marginals",
    "torus_wasserstein2",
]
