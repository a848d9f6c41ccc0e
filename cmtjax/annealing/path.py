"""The annealing path: exponents α_i, β_i of Theorem 2.4 and the log-weights of one step.

Source: von Klitzing et al., "Learning Boltzmann Generators via Constrained Mass Transport" (CMT), Propositions 2.1-2.3,
Theorem 2.4, with the exponent λ/(1 + λ + η) of q_i in Equation 10, as in the paper's proof.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from cmtjax.annealing.dual import DualSolution
from cmtjax.annealing.dual_objective import center_buffer, normalized_log_weights


class PathState(NamedTuple):
    """Where the path stands: q_i ∝ q_0^(1 − β_i) p̃^(α_i β_i) (CMT Equation 12).

    Attributes:
      beta: () β_i in [0, 1], never decreasing.
      alpha_beta: () α_i β_i in [0, 1], the exponent of the target density.
    """

    beta: Float[Array, ""]
    alpha_beta: Float[Array, ""]

    @property
    def alpha(self) -> Float[Array, ""]:
        """() α_i in [0, 1], the inverse temperature of the target in units of its own; 0 at the start of the path."""
        return jnp.where(self.beta > 0, self.alpha_beta / jnp.where(self.beta > 0, self.beta, 1), 0)


def initial_path() -> PathState:
    """The start of every path, α_0 = β_0 = 0: q_0 itself."""
    return PathState(beta=jnp.zeros(()), alpha_beta=jnp.zeros(()))


def advance_path(
    path: PathState, trust_region_multiplier: Float[Array, ""], entropy_multiplier: Float[Array, ""]
) -> PathState:
    """One annealing step of the exponents.

    With r = λ/(1 + λ + η): β' = β + (1 − β)(1 − r), (αβ)' = (αβ) r + 1/(1 + λ + η) (the recursion in the proof of CMT
    Theorem 2.4). 1 − r is taken as (1 + η)/(1 + λ + η), so that a step of λ = 1e6 still moves β in float32.

    Args:
      path: the exponents of q_i.
      trust_region_multiplier: () λ_i ≥ 0.
      entropy_multiplier: () η_i ≥ 0.

    Returns:
      The exponents of q_{i+1}.
    """
    total = 1 + trust_region_multiplier + entropy_multiplier
    return PathState(
        beta=path.beta + (1 - path.beta) * ((1 + entropy_multiplier) / total),
        alpha_beta=path.alpha_beta * (trust_region_multiplier / total) + 1 / total,
    )


def path_log_density(
    path: PathState, log_q_0: Float[Array, "*batch"], log_p: Float[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """Unnormalized log density of q_i on its path, (1 − β_i) log q_0 + α_i β_i log p̃ (CMT Equation 12).

    Args:
      path: the exponents of q_i.
      log_q_0: (...) log density of the start of the path.
      log_p: (...) unnormalized log density of the target, at the same points.

    Returns:
      (...) log q_i up to a constant.
    """
    return (1 - path.beta) * log_q_0 + path.alpha_beta * log_p


def importance_log_weights(
    log_q: Float[Array, " samples"], log_p: Float[Array, " samples"], solution: DualSolution
) -> Float[Array, " samples"]:
    """Log-weights log (q_{i+1}/q_i) = (log p̃ − (1 + η) log q_i)/(1 + λ + η) − log Z (CMT Equation 16).

    The normalizer is the one of the arrays given, so that the mean weight of a buffer, of its training share or of its
    held-out share is one each time; on the arrays the solution was found on, it is `solution.log_normalizer`.

    Args:
      log_q: (samples,) log q_i at samples of q_i, of physical positions.
      log_p: (samples,) log p̃ at the same samples, NaN where the evaluation failed.
      solution: the multipliers.

    Returns:
      (samples,) log-weights with log-mean-exp 0 over the samples that have not failed; −inf where they have.
    """
    chex.assert_rank([log_q, log_p], 1)
    chex.assert_equal_shape([log_q, log_p])
    log_q, log_p = jax.lax.stop_gradient((log_q, log_p))
    buffer = center_buffer(log_q, log_p)
    log_weights = normalized_log_weights(buffer, solution.trust_region_multiplier, solution.entropy_multiplier)
    return log_weights[: log_q.shape[0]]
