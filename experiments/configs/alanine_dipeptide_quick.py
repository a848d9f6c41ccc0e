"""Alanine dipeptide on two cores in 27 minutes: a smaller flow, smaller buffers, larger steps."""

from configs import base
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = base.get_config()
    config.energy.regularization.scheme = "multiplicative_log"
    config.energy.regularization.high = 1e3
    config.flow.num_couplings = 8
    config.flow.hidden_sizes = (128, 128)
    config.flow.feature_scale = 10.0
    config.method.buffer_size = 120_000
    config.method.num_gradient_steps = 200
    config.method.trust_region_bound = 0.5
    config.method.entropy_bound = 3.0  # of which the flow moves some 2.2
    config.method.control_variate = 0.9
    config.method.weight_clip_fraction = 1e-5  # the largest weights are those of rare states
    config.num_annealing_steps = 52  # the bounds let go of the flow after 37
    config.optimizer.name = "muon"  # the same samples take it much further than Adam, see the README
    config.optimizer.learning_rate = 5.5e-4
    config.optimizer.matrix_learning_rate = 4e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.weight_decay = 0.0
    config.evaluation.reference_log_z = -175.009
    return config
