"""Whether chains have mixed: rank-normalized split R̂, effective sample sizes, autocorrelation times."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

#: What Vehtari et al. (2021, Bayesian Analysis 16:667) ask of every quantity.
LARGEST_R_HAT = 1.01
SMALLEST_ESS = 400.0


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
