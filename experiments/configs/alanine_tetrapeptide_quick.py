"""Alanine tetrapeptide on two cores in an hour and a half: a smaller flow, smaller buffers, larger steps.

Gets to an effective sample size of 17 % and log Z to 0.01, and loses a part of an island, see docs/results.md.
"""

from configs import alanine_dipeptide_quick, alanine_tetrapeptide
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = alanine_dipeptide_quick.get_config()
    published = alanine_tetrapeptide.get_config()
    config.molecule.name = published.molecule.name
    config.evaluation.reference_log_z = published.evaluation.reference_log_z
    config.method.trust_region_bound = 0.6
    config.method.entropy_bound = 4.5
    config.num_annealing_steps = 110
    return config
