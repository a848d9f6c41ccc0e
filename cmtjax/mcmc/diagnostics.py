"""Whether chains have mixed: rank-normalized split R̂, effective sample sizes, weights of rare states, exchanges."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

#: What Vehtari et al. (2021, Bayesian Analysis 16:667) ask of every quantity.
LARGEST_R_HAT = 1.01
SMALLEST_ESS = 400.0
#: Neighboring temperatures that exchange less often than this are hardly coupled (0.2 to 0.3 is usual).
SMALLEST_EXCHANGE_ACCEPTANCE = 0.1
#: What the weight of a state may be uncertain by, relative to itself; smaller weights than the next count as that one.
LARGEST_RELATIVE_ERROR = 0.2
SMALLEST_JUDGED_WEIGHT = 1e-3
#: From fewer chains no error can be told by their scatter.
SMALLEST_NUM_CHAINS = 4
#: Standard errors that two sets of chains may differ by. Those of two sets of four chains have six degrees of freedom
#: together, with which chance exceeds four once in 140 times.
LARGEST_SET_DIFFERENCE = 4.0


class ChainDiagnostics(NamedTuple):
    """Diagnostics of several quantities along chains.

    Attributes:
      r_hat: (quantities,) rank-normalized split R̂; NaN for a quantity that never changes.
      ess: (quantities,) bulk effective sample size of all chains together.
      autocorrelation_draws: (quantities,) integrated autocorrelation time in draws: all draws over ``ess``.
    """

    r_hat: Float[np.ndarray, " quantities"]
    ess: Float[np.ndarray, " quantities"]
    autocorrelation_draws: Float[np.ndarray, " quantities"]


class ChainWeights(NamedTuple):
    """Weights of states (shares of the samples that are in them) and how well the chains agree on them.

    Attributes:
      weight: (states,) mean over all draws and chains, in [0, 1].
      standard_error: (states,) by the scatter of the means of whole chains; NaN with fewer than
        ``SMALLEST_NUM_CHAINS``, zero and meaningless for a state that no chain visits, or none leaves.
      r_hat: (states,) split R̂ of being in the state or not; NaN where that never changes, or of one chain.
      num_visiting_chains: (states,) chains with at least one draw in the state.
    """

    weight: Float[np.ndarray, " states"]
    standard_error: Float[np.ndarray, " states"]
    r_hat: Float[np.ndarray, " states"]
    num_visiting_chains: Int[np.ndarray, " states"]


def chain_diagnostics(values: Float[np.ndarray, "draws chains quantities"]) -> ChainDiagnostics:
    """R̂ and ESS by Vehtari et al. (2021), computed by arviz-stats.

    Args:
      values: draws of independent chains, at least four a chain.

    Raises:
      ValueError: if there are too few draws.
    """
    if values.ndim != 3 or values.shape[0] < 4:
        raise ValueError(
            f"values must have shape (draws, chains, quantities) with 4 draws or more, got {values.shape}."
        )
    from arviz_stats.base import array_stats

    # Constant quantities (all draws equal) have no rank order; arviz gives 1 or NaN with warnings.
    moves = np.ptp(values, axis=(0, 1)) > 0
    r_hat, ess = np.full(values.shape[2], np.nan), np.full(values.shape[2], np.nan)
    for index in np.flatnonzero(moves):
        quantity = np.asarray(values[:, :, index], np.float64)
        r_hat[index] = array_stats.rhat(quantity, chain_axis=1, draw_axis=0)
        ess[index] = array_stats.ess(quantity, chain_axis=1, draw_axis=0)
    return ChainDiagnostics(r_hat, ess, values.shape[0] * values.shape[1] / ess)


def angle_diagnostics(angles_rad: Float[np.ndarray, "draws chains angles"]) -> ChainDiagnostics:
    """Diagnostics of angles: of each, the worse of its cosine's and its sine's.

    Args:
      angles_rad: of any range.
    """
    parts = [chain_diagnostics(function(angles_rad)) for function in (np.cos, np.sin)]
    ess = np.fmin(parts[0].ess, parts[1].ess)
    num_draws = angles_rad.shape[0] * angles_rad.shape[1]
    return ChainDiagnostics(np.fmax(parts[0].r_hat, parts[1].r_hat), ess, num_draws / ess)


def mixing_problems(diagnostics: ChainDiagnostics, names: Sequence[str]) -> list[str]:
    """Sentences that say which quantities have not mixed; empty if all have.

    Args:
      diagnostics: of the quantities.
      names: what to call them.
    """
    problems = []
    for name, r_hat, ess in zip(names, diagnostics.r_hat, diagnostics.ess, strict=True):
        if np.isnan(r_hat):
            problems.append(f"{name} never changed.")
        elif r_hat > LARGEST_R_HAT:
            problems.append(f"R̂ of {name} is {r_hat:.3f}, above {LARGEST_R_HAT}: chains disagree.")
        elif ess < SMALLEST_ESS:
            problems.append(f"{name} has {ess:.0f} effective samples, fewer than {SMALLEST_ESS:.0f}.")
    return problems


def chain_weights(is_inside: Bool[np.ndarray, "draws chains states"]) -> ChainWeights:
    """Weights of states by independent chains of one length, with errors that hold for correlated draws.

    Args:
      is_inside: which draws are in which state, at least four draws a chain.

    Raises:
      ValueError: if there are too few draws.
    """
    r_hat = _indicator_r_hat(is_inside)
    of_chains = np.mean(is_inside, axis=0)
    num_chains = len(of_chains)
    if num_chains < SMALLEST_NUM_CHAINS:
        standard_error = np.full(len(r_hat), np.nan)
    else:
        standard_error = np.std(of_chains, axis=0, ddof=1) / np.sqrt(num_chains)
    return ChainWeights(np.mean(of_chains, axis=0), standard_error, r_hat, np.sum(np.any(is_inside, axis=0), axis=0))


def _indicator_r_hat(is_inside: Bool[np.ndarray, "draws chains states"]) -> Float[np.ndarray, " states"]:
    """R̂ of ``chain_diagnostics`` without its ranks: those of two values are two values, and R̂ has no unit or origin."""
    if is_inside.ndim != 3 or len(is_inside) < 4:
        raise ValueError(
            f"is_inside must have shape (draws, chains, states) with 4 draws or more, got {is_inside.shape}."
        )
    if is_inside.shape[1] < 2:
        return np.full(is_inside.shape[2], np.nan)
    half = len(is_inside) // 2
    shares = np.concatenate([np.mean(part, axis=0) for part in (is_inside[:half], is_inside[-half:])])
    within = np.mean(shares * (1.0 - shares), axis=0) * half / (half - 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # states that are never entered, or never left
        return np.sqrt(np.var(shares, axis=0, ddof=1) / within + (half - 1) / half)


def weight_problems(weights: ChainWeights, names: Sequence[str]) -> list[str]:
    """Sentences that say which states have a weight that is known badly; empty if none has.

    A state that no chain visits is no problem here, nor is one whose weight is small beyond doubt: it may be empty.
    With too few chains for an error nothing is said.

    Args:
      weights: of the states.
      names: what to call them.
    """
    # R̂ cannot judge a rare state. For a weight p from m chains R̂² − 1 is about m SE² / p(1 − p), as the chains'
    # own variance is p(1 − p): R̂ = 1.01 allows 64 chains an error of 40 % in a weight of 0.2 %, and one short visit
    # by one chain of many leaves R̂ at nearly 1. What is asked for is the weight, so its relative error is judged.
    # Weights below ``SMALLEST_JUDGED_WEIGHT`` would need ever longer runs for the same relative error: there the error
    # has to be small against that weight, so that a state that is empty, or nearly so, does not condemn a set for ever.
    problems = []
    for name, weight, error in zip(names, weights.weight, weights.standard_error, strict=True):
        if error > LARGEST_RELATIVE_ERROR * max(weight, SMALLEST_JUDGED_WEIGHT):
            decimals = max(0, -math.floor(math.log10(100 * error)))
            problems.append(
                f"the weight of {name} is known to {100 * error / weight:.0f} % only: "
                f"({100 * weight:.{decimals}f} ± {100 * error:.{decimals}f}) %."
            )
    return problems


def set_problems(sets: Sequence[ChainWeights], names: Sequence[str], set_names: Sequence[str]) -> list[str]:
    """Sentences that say on the weights of which states sets of chains disagree; empty if they agree.

    Neither R̂ nor the error over all chains tells this: many chains of two sets, of which one has twice the weight of
    the other, know their mean very well.

    Two sets disagree if their weights differ by more than ``LARGEST_SET_DIFFERENCE`` standard errors, and by more than
    a weight may be uncertain by (``weight_problems``). With too few chains for an error nothing is said.

    Args:
      sets: weights of the same states in each set.
      names: what to call the states.
      set_names: what to call the sets.
    """
    problems = []
    for (first, first_name), (second, second_name) in itertools.combinations(zip(sets, set_names, strict=True), 2):
        error = np.hypot(first.standard_error, second.standard_error)
        allowed = LARGEST_RELATIVE_ERROR * np.maximum(0.5 * (first.weight + second.weight), SMALLEST_JUDGED_WEIGHT)
        is_other = np.abs(first.weight - second.weight) > np.maximum(LARGEST_SET_DIFFERENCE * error, allowed)
        for index in np.flatnonzero(is_other & np.isfinite(error)).tolist():
            weights = [
                f"{100 * part.weight[index]:.3g} ± {100 * part.standard_error[index]:.2g}" for part in (first, second)
            ]
            problems.append(
                f"the weight of {names[index]} is ({weights[0]}) % in {first_name}, ({weights[1]}) % in {second_name}: "
                "the sets disagree."
            )
    return problems


def exchange_problems(
    exchange_acceptance: Float[np.ndarray, " pairs"], num_round_trips: int | None, num_chains: int
) -> list[str]:
    """Sentences that say where the temperatures of replica exchange are not coupled; empty if they are.

    Args:
      exchange_acceptance: of each pair of neighboring temperatures, mean over its attempts; NaN without attempts.
        Empty with one temperature, of which nothing is said.
      num_round_trips: from the coldest to the hottest temperature and back, of all chains; None if not counted.
      num_chains: chains, each of all temperatures.
    """
    problems = []
    for pair, acceptance in enumerate(exchange_acceptance):
        if np.isnan(acceptance):
            problems.append(f"temperatures {pair} and {pair + 1} never tried to exchange.")
        elif acceptance < SMALLEST_EXCHANGE_ACCEPTANCE:
            problems.append(
                f"temperatures {pair} and {pair + 1} exchange with a probability of {acceptance:.3f}, below "
                f"{SMALLEST_EXCHANGE_ACCEPTANCE}."
            )
    if len(exchange_acceptance) and num_round_trips is not None and num_round_trips < num_chains:
        problems.append(
            f"{num_round_trips} round trips between the coldest and the hottest temperature are fewer than the "
            f"{num_chains} chains."
        )
    return problems
