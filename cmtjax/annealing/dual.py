"""The Lagrange multipliers of one annealing step: a concave problem in two variables on a buffer of samples.

Source: CMT Section 3 and Appendix C.1 (L-BFGS-B on [0, 1e10]²), with the dual of `dual_objective`. The way to the
solution is a cheap start (bisection on a part of the buffer, or earlier multipliers), L-BFGS-B on the whole buffer
until the residuals are small, and Newton steps on the optimality conditions for the last digits, which the value of the
dual does not have in float32.
"""

import math
from numbers import Real
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jaxopt import LBFGSB
from jaxtyping import Array, Bool, Float, Int

from cmtjax.annealing.dual_objective import CenteredBuffer, Moments, center_buffer, dual_moments

MAX_MULTIPLIER = 1e10
RESIDUAL_TOLERANCE = 1e-3

CONVERGED, NOT_CONVERGED, AT_UPPER_BOUND, INFEASIBLE, NO_FINITE_SAMPLES = range(5)

_STATUS_SENTENCES = {
    CONVERGED: (
        "The dual was solved: each constraint holds within 0.1 % of its bound, or is inactive with multiplier 0."
    ),
    NOT_CONVERGED: (
        "The dual solver stopped before the constraints held within 0.1 % of their bounds; the multipliers are the "
        "best found. Try a larger buffer, a larger bound, or start without `initial`."
    ),
    AT_UPPER_BOUND: (
        f"A multiplier reached its upper limit of {MAX_MULTIPLIER:g} with its bound still exceeded: log p̃ − log q "
        "spreads too widely for the bound. Regularize the energies (lower their maximum) or raise the bound."
    ),
    INFEASIBLE: (
        "No multipliers meet the bounds: the share of samples with log p̃ = −inf alone moves the next density further "
        "than they allow. Regularize the energies so that log p̃ is finite, start from a density inside the support of "
        "the target, or raise the bounds."
    ),
    NO_FINITE_SAMPLES: (
        "No sample has finite log q and log p̃, so there is nothing to solve. Check the energy evaluations (NaN is a "
        "failed one) and the parameters of the flow."
    ),
}

# Samples of the buffer that the start is sought on: enough for a few percent in the multipliers.
_START_SAMPLES = 8192
_START_BISECTIONS = 12
_START_ROUNDS = 3
_MAX_LBFGSB_ITERATIONS = 20
_LBFGSB_TOLERANCE = 1e-2
_MAX_NEWTON_ITERATIONS = 30
_NEWTON_TOLERANCE = 1e-5


class DualSolution(NamedTuple):
    """The multipliers of one annealing step and what they give on the buffer they were found on.

    Attributes:
      trust_region_multiplier: () λ in [0, 1e10]; exactly 0 where the bound is inactive or off.
      entropy_multiplier: () η in [0, 1e10]; exactly 0 where the bound is inactive or off.
      log_normalizer: () log Z_{i+1} of CMT Equation 16, mean over the samples that have not failed.
      kl: () KL(q_{i+1} ‖ q_i) in nats, with self-normalized weights.
      entropy_decay: () H(q_i) − H(q_{i+1}) in nats, with self-normalized weights and H(q_i) = −mean log q_i.
      status: () int32, 0 if all is well; `describe_status` says what it means.
    """

    trust_region_multiplier: Float[Array, ""]
    entropy_multiplier: Float[Array, ""]
    log_normalizer: Float[Array, ""]
    kl: Float[Array, ""]
    entropy_decay: Float[Array, ""]
    status: Int[Array, ""]


class _Problem(NamedTuple):
    """Bounds (2,) of λ and η's constraints, and the upper limit (2,) of each multiplier, 0 where the bound is off."""

    bounds: Float[Array, "2"]
    limits: Float[Array, "2"]


class _Iterate(NamedTuple):
    """Multipliers (2,), the moments there, and the largest relative residual of the optimality conditions."""

    multipliers: Float[Array, "2"]
    moments: Moments
    merit: Float[Array, ""]


def describe_status(status: int | Int[Array, ""]) -> str:
    """What a status of `solve_dual` means and what to try.

    Args:
      status: `DualSolution.status` of one problem.

    Returns:
      A sentence for the user.

    Raises:
      ValueError: `status` is none of the codes.
    """
    code = int(status)
    if code not in _STATUS_SENTENCES:
        raise ValueError(f"status must be one of {sorted(_STATUS_SENTENCES)}, got {code}")
    return _STATUS_SENTENCES[code]


def solve_dual(
    log_q: Float[Array, " samples"],
    log_p: Float[Array, " samples"],
    trust_region_bound: float | Float[Array, ""] | None = 0.3,
    entropy_bound: float | Float[Array, ""] | None = 0.8,
    initial: DualSolution | None = None,
) -> DualSolution:
    """Finds λ and η of the next density q_{i+1} ∝ q_i^(λ/(1+λ+η)) p̃^(1/(1+λ+η)) (CMT Proposition 2.3).

    The constraints are KL(q_{i+1} ‖ q_i) ≤ ε_tr and H(q_i) − H(q_{i+1}) ≤ ε_ent. Works under jit, vmap and scan. The
    result has no gradient.

    Args:
      log_q: (samples,) log q_i at samples of q_i, a density of physical positions; non-finite values mask the sample.
      log_p: (samples,) unnormalized log density of the target at the same samples. NaN, a failed evaluation, masks the
        sample: it is left out of every mean. −inf gives weight zero.
      trust_region_bound: ε_tr in nats, above 0; None switches the constraint off. A traced bound is not checked.
      entropy_bound: ε_ent in nats, above 0; None switches the constraint off.
      initial: an earlier solution to start from, if it is the better start.

    Returns:
      The solution, scalars.

    Raises:
      ValueError: a bound that is not a finite number above 0.
    """
    chex.assert_rank([log_q, log_p], 1)
    chex.assert_equal_shape([log_q, log_p])
    _check_bound("trust_region_bound", trust_region_bound)
    _check_bound("entropy_bound", entropy_bound)
    log_q, log_p = jax.lax.stop_gradient((jnp.asarray(log_q), jnp.asarray(log_p)))
    dtype = log_q.dtype
    bounds = (trust_region_bound, entropy_bound)
    problem = _Problem(
        bounds=jnp.stack([jnp.asarray(1.0 if bound is None else bound, dtype) for bound in bounds]),
        limits=jnp.array([0.0 if bound is None else MAX_MULTIPLIER for bound in bounds], dtype),
    )
    buffer = center_buffer(log_q, log_p)

    if trust_region_bound is None and entropy_bound is None:
        best = _iterate(jnp.zeros_like(problem.limits), buffer, problem)  # nothing to solve, nor to compile
    else:
        stride = max(1, log_q.shape[0] // _START_SAMPLES)
        start = _iterate(_bisected_start(center_buffer(log_q[::stride], log_p[::stride]), problem), buffer, problem)
        if initial is not None:
            earlier = jnp.stack([initial.trust_region_multiplier, initial.entropy_multiplier]).astype(dtype)
            earlier = jnp.clip(jnp.nan_to_num(jax.lax.stop_gradient(earlier)), 0, problem.limits)
            start = _better(_iterate(earlier, buffer, problem), start)
        best = _newton(_better(_lbfgsb(start, buffer, problem), start), buffer, problem)

    multipliers, moments = best.multipliers, best.moments
    total = 1 + multipliers[0] + multipliers[1]
    return DualSolution(
        trust_region_multiplier=multipliers[0],
        entropy_multiplier=multipliers[1],
        log_normalizer=moments.log_normalizer + (buffer.log_ratio_shift - multipliers[1] * buffer.log_q_shift) / total,
        kl=moments.kl,
        entropy_decay=moments.entropy_decay,
        status=_status(best, buffer, problem),
    )


def _check_bound(name: str, bound: float | Float[Array, ""] | None) -> None:
    if isinstance(bound, Real) and not (math.isfinite(bound) and bound > 0):
        raise ValueError(f"{name} must be a finite number above 0, or None to switch the constraint off; got {bound}")


def _excess(moments: Moments, problem: _Problem) -> Float[Array, "2"]:
    """By how much each constraint is exceeded, relative to its bound; the gradient of the dual up to a factor."""
    return jnp.stack([moments.kl, moments.entropy_decay]) / problem.bounds - 1


def _iterate(multipliers: Float[Array, "2"], buffer: CenteredBuffer, problem: _Problem) -> _Iterate:
    moments = dual_moments(buffer, multipliers[0], multipliers[1])
    excess = _excess(moments, problem)
    residual = jnp.where((multipliers > 0) | (excess > 0), jnp.abs(excess), 0)
    residual = jnp.where(problem.limits > 0, residual, 0)
    return _Iterate(multipliers, moments, jnp.max(residual))


def _better(candidate: _Iterate, current: _Iterate) -> _Iterate:
    is_better = candidate.merit < current.merit  # False for NaN
    return jax.tree.map(lambda new, old: jnp.where(is_better, new, old), candidate, current)


def _bisected_start(buffer: CenteredBuffer, problem: _Problem) -> Float[Array, "2"]:
    """Bisection in log(1 + multiplier) on one constraint at a time: each falls monotonically in its own multiplier."""

    def solve_one(turn: Int[Array, ""], multipliers: Float[Array, "2"]) -> Float[Array, "2"]:
        index = turn % 2

        def halve(_: Int[Array, ""], bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = (low + high) / 2
            trial = multipliers.at[index].set(jnp.expm1(middle))
            exceeds = _excess(dual_moments(buffer, trial[0], trial[1]), problem)[index] > 0
            return jnp.where(exceeds, middle, low), jnp.where(exceeds, high, middle)

        bracket = (jnp.zeros_like(problem.limits[0]), jnp.log1p(problem.limits[index]))
        low, high = jax.lax.fori_loop(0, _START_BISECTIONS, halve, bracket)
        # Never exceeded: inactive, or as good as.
        return multipliers.at[index].set(jnp.where(low > 0, jnp.expm1((low + high) / 2), 0))

    return jax.lax.fori_loop(0, 2 * _START_ROUNDS, solve_one, jnp.zeros_like(problem.limits))


def _lbfgsb(start: _Iterate, buffer: CenteredBuffer, problem: _Problem) -> _Iterate:
    """L-BFGS-B on minus the dual, in x = log(1 + multiplier) so that 0 stays 0 and the box stays a box."""
    scale = (1 + jnp.sum(start.multipliers)) * jnp.min(jnp.where(problem.limits > 0, problem.bounds, jnp.inf))
    scale = jnp.where(jnp.isfinite(scale), scale, 1)  # both bounds off

    def value_and_gradient(log_multipliers: Float[Array, "2"]) -> tuple[Float[Array, ""], Float[Array, "2"]]:
        multipliers = jnp.expm1(log_multipliers)
        moments = dual_moments(buffer, multipliers[0], multipliers[1])
        value = (1 + jnp.sum(multipliers)) * moments.log_normalizer + jnp.sum(multipliers * problem.bounds)
        gradient = -_excess(moments, problem) * problem.bounds * (1 + multipliers)
        return value / scale, jnp.where(problem.limits > 0, gradient / scale, 0)

    solver = LBFGSB(
        fun=value_and_gradient,
        value_and_grad=True,
        maxiter=_MAX_LBFGSB_ITERATIONS,
        tol=_LBFGSB_TOLERANCE,
        # Newton steps follow, so the search along a line need not be exact; zoom's compiles for longer.
        linesearch="backtracking",
        maxls=10,
        history_size=3,  # two variables; each more makes compilation longer
        stop_if_linesearch_fails=True,
    )
    box = (jnp.zeros_like(problem.limits), jnp.log1p(problem.limits))
    log_multipliers = solver.run(jnp.log1p(start.multipliers), bounds=box).params
    return _iterate(jnp.clip(jnp.expm1(log_multipliers), 0, problem.limits), buffer, problem)


def _newton_step(iterate: _Iterate, problem: _Problem) -> Float[Array, "2"]:
    """Newton step for the multipliers that are free to move, limited in units of 1 + λ + η, the scale of the problem.

    A multiplier may grow by twice that sum and fall by half of it, so that one far below the sum can vanish in a step.
    """
    multipliers, moments = iterate.multipliers, iterate.moments
    excess = _excess(moments, problem)
    free = (problem.limits > 0) & ((multipliers > 0) | (excess > 0))
    target = jnp.where(free, excess * problem.bounds, 0)
    variances = jnp.diagonal(moments.covariance)
    variances = jnp.where(free & (variances > 0), variances, 1)
    covariance = moments.covariance[0, 1]
    determinant = variances[0] * variances[1] - covariance**2
    # Nearly parallel constraints leave no digits in the determinant.
    use_both = jnp.all(free) & (determinant > 1e-5 * variances[0] * variances[1])
    both = (variances[::-1] * target - covariance * target[::-1]) / jnp.where(use_both, determinant, 1)
    step = jnp.where(use_both, both, target / variances)

    # Where the joint step leaves the box in one multiplier, that one stops at 0 and the other is solved for alone.
    to_zero = -multipliers / (1 + jnp.sum(multipliers))
    leaves = use_both & (step < to_zero)
    step = jnp.where(leaves[::-1], (target - covariance * to_zero[::-1]) / variances, step)
    step = jnp.where(step <= to_zero, -multipliers, step * (1 + jnp.sum(multipliers)))  # to 0 exactly
    longest = jnp.max(jnp.maximum(step / 2, -2 * step)) / (1 + jnp.sum(multipliers))
    return step / jnp.maximum(longest, 1)


def _newton(start: _Iterate, buffer: CenteredBuffer, problem: _Problem) -> _Iterate:
    """Newton steps on the optimality conditions, shortened until the largest residual falls or the dual surely rises.

    The dual is concave: it has risen along a step at whose end its slope along the step is not negative. That carries
    the iteration over plateaus, where one sample holds all the weight and the residuals do not move.
    """

    def unfinished(carry: tuple[_Iterate, Float[Array, ""], Int[Array, ""]]) -> Bool[Array, ""]:
        current, damping, iteration = carry
        return (current.merit > _NEWTON_TOLERANCE) & (damping > 1e-4) & (iteration < _MAX_NEWTON_ITERATIONS)

    def improve(
        carry: tuple[_Iterate, Float[Array, ""], Int[Array, ""]],
    ) -> tuple[_Iterate, Float[Array, ""], Int[Array, ""]]:
        current, damping, iteration = carry
        step = damping * _newton_step(current, problem)
        candidate = _iterate(jnp.clip(current.multipliers + step, 0, problem.limits), buffer, problem)
        slope = jnp.sum(_excess(candidate.moments, problem) * problem.bounds * step)
        accepted = (candidate.merit < current.merit) | (slope >= 0)
        current = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), candidate, current)
        return current, jnp.where(accepted, 1.0, damping / 4).astype(damping.dtype), iteration + 1

    last, _, _ = jax.lax.while_loop(unfinished, improve, (start, jnp.ones_like(start.merit), jnp.zeros((), jnp.int32)))
    return last


def _status(best: _Iterate, buffer: CenteredBuffer, problem: _Problem) -> Int[Array, ""]:
    violated = _excess(best.moments, problem) > RESIDUAL_TOLERANCE
    at_limit = jnp.any((best.multipliers >= 0.9 * problem.limits) & violated & (problem.limits > 0))
    status = jnp.where(best.merit <= RESIDUAL_TOLERANCE, CONVERGED, NOT_CONVERGED)
    status = jnp.where(at_limit, AT_UPPER_BOUND, status)
    status = jnp.where(at_limit & (buffer.num_weighted < buffer.num_valid), INFEASIBLE, status)
    return jnp.where(buffer.num_weighted == 0, NO_FINITE_SAMPLES, status).astype(jnp.int32)
