"""Alanine hexapeptide on a small machine: a smaller flow, smaller buffers, larger steps. How far it gets is open.

75 steps with larger buffers and bounds got to an effective sample size of 0.1 % only, see docs/results.md.
"""

from configs import alanine_hexapeptide, alanine_tetrapeptide_quick
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = alanine_tetrapeptide_quick.get_config()
    published = alanine_hexapeptide.get_config()
    config.molecule.name = published.molecule.name
    config.evaluation.reference_log_z = published.evaluation.reference_log_z
    config.num_annealing_steps = 160
    return config
