"""Training methods: init/update pairs on pure-functional state."""

from cmtjax.methods.averaging import average_parameters, averaged_params
from cmtjax.methods.buffer import Buffer, draw_buffer
from cmtjax.methods.cmt import CMTConfig, CMTInfo, CMTState, Method, cmt
from cmtjax.methods.diagnosis import describe_problems
from cmtjax.methods.optimizers import adam_with_cosine, muon_with_cosine
from cmtjax.methods.weighted_fit import FitInfo, fit_flow, weighted_forward_kl_loss

__all__ = [
    "Buffer",
    "CMTConfig",
    "CMTInfo",
    "CMTState",
    "FitInfo",
    "Method",
    "adam_with_cosine",
    "average_parameters",
    "averaged_params",
    "cmt",
    "describe_problems",
    "draw_buffer",
    "fit_flow",
    "muon_with_cosine",
    "weighted_forward_kl_loss",
]
