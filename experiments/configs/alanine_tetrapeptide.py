"""Alanine tetrapeptide as published: Table 7 of Constrained Mass Transport, 10⁸ energies, 400,000 gradient steps."""

from configs import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = base.get_config()
    config.molecule.name = "alanine_tetrapeptide"
    config.method.entropy_bound = 1.8
    config.optimizer.learning_rate = 5e-5
    config.evaluation.reference_log_z = -334.194
    return config
