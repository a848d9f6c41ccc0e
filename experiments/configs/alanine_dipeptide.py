"""Alanine dipeptide as published: Table 7 of Constrained Mass Transport, 10⁸ energies, 400,000 gradient steps."""

from configs import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = base.get_config()
    config.evaluation.reference_log_z = -175.009
    return config
