"""ELIL (GLU-LEU-ILE-LEU) on a small machine: a smaller flow, smaller buffers, larger steps. How far it gets is open.

64 steps with larger buffers and bounds got to two nats below log Z and an effective sample size below 0.1 %, see
docs/results.md.
"""

from configs import alanine_tetrapeptide_quick, elil_tetrapeptide
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = alanine_tetrapeptide_quick.get_config()
    published = elil_tetrapeptide.get_config()
    config.molecule.name = published.molecule.name
    config.evaluation.reference_log_z = published.evaluation.reference_log_z
    config.num_annealing_steps = 160
    return config
