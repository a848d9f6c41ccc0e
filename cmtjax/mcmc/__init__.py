"""Markov chain Monte Carlo on the box of a flow: HMC, replica exchange, and whether they have mixed."""

from cmtjax.mcmc.diagnostics import ChainDiagnostics, angle_diagnostics, chain_diagnostics, mixing_problems
from cmtjax.mcmc.hmc import Point, fold, hmc_move
from cmtjax.mcmc.neighbor_exchange import ExchangeInfo
from cmtjax.mcmc.replica_exchange import (
    TEMPERATURES_KELVIN,
    ReplicaExchange,
    ReplicaExchangeConfig,
    ReplicaExchangeState,
    SweepInfo,
    replica_exchange,
)
from cmtjax.mcmc.starts import spread_starts

__all__ = [
    "TEMPERATURES_KELVIN",
    "ChainDiagnostics",
    "ExchangeInfo",
    "Point",
    "ReplicaExchange",
    "ReplicaExchangeConfig",
    "ReplicaExchangeState",
    "SweepInfo",
    "angle_diagnostics",
    "chain_diagnostics",
    "fold",
    "hmc_move",
    "mixing_problems",
    "replica_exchange",
    "spread_starts",
]
