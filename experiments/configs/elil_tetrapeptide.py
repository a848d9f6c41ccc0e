"""ELIL (GLU-LEU-ILE-LEU) as published: Table 7 of Constrained Mass Transport, 8·10⁸ energies."""

from configs import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = base.get_config()
    config.molecule.name = "elil_tetrapeptide"
    config.method.buffer_size = 1_000_000
    config.method.batch_size = 2000
    config.method.entropy_bound = 0.7
    config.num_annealing_steps = 800
    config.optimizer.learning_rate = 5e-5
    config.evaluation.reference_log_z = -278.481
    return config
