"""Alanine hexapeptide as published: Table 7 of Constrained Mass Transport, 4·10⁸ energies, 800,000 gradient steps."""

from configs import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = base.get_config()
    config.molecule.name = "alanine_hexapeptide"
    config.method.buffer_size = 1_000_000
    config.method.batch_size = 2000
    config.method.entropy_bound = 1.4
    config.num_annealing_steps = 400
    config.optimizer.learning_rate = 5e-5
    config.evaluation.reference_log_z = -534.42
    return config
