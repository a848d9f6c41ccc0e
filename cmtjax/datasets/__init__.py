"""Data sets: samples of a molecule's equilibrium distribution on disk, simulated here or imported."""

from cmtjax.datasets.data_set import Chunk, DataSet, open_data_set
from cmtjax.datasets.importing import import_data_set, import_npy, import_trajectory
from cmtjax.datasets.peptide_bonds import PeptideBond, omega_rad, peptide_bonds
from cmtjax.datasets.writer import DataSetWriter, create_data_set, resume_data_set

__all__ = [
    "Chunk",
    "DataSet",
    "DataSetWriter",
    "PeptideBond",
    "create_data_set",
    "import_data_set",
    "import_npy",
    "import_trajectory",
    "omega_rad",
    "open_data_set",
    "peptide_bonds",
    "resume_data_set",
]
